"""Windows of event time, and what an average over one counts."""

from __future__ import annotations

import argparse

from pipelines.options.values import positive, whole_number
from schemas.feed import Feed


def add_windows(parser: argparse.ArgumentParser, feed: Feed) -> None:
    parser.set_defaults(zero_speed="keep")  # a feed in which 0 is always a value has no such option
    group = parser.add_argument_group("windows")
    group.add_argument(
        "--window_seconds",
        type=positive,
        default=feed.window_seconds,
        metavar="N",
        help="length of a window (default: %(default)s)",
    )
    group.add_argument(
        "--allowed_lateness_seconds",
        type=whole_number,
        default=3600,
        metavar="N",
        help="how long a window still takes late readings; no file is ever late (default: %(default)s)",
    )
    if any(field.zero_can_mean_missing for field in feed.fields):
        group.add_argument(
            "--zero_speed",
            choices=("keep", "missing"),
            default="keep",
            help="whether a speed of 0 counts in the averages, or is left out and counted in missing_count "
            "(default: %(default)s)",
        )
