"""Where a job's metrics are served."""

from __future__ import annotations

import argparse

from pipelines.options.values import port

METRICS_PORT = 8000


def add_metrics(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("metrics", "For Prometheus to scrape while the job runs.")
    group.add_argument(
        "--metrics_port",
        type=port,
        metavar="PORT",
        help=f"serve them there, 0 for not at all (default: {METRICS_PORT} for a run without end, else none)",
    )
    group.add_argument(
        "--metrics_host",
        default="127.0.0.1",
        metavar="HOST",
        help="the address to serve them at, 0.0.0.0 for all (default: %(default)s)",
    )
