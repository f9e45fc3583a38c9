"""Metrics at an address of this process, for Prometheus to scrape."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.registry import Collector

from transforms.errors import UserError


@contextlib.contextmanager
def served(metrics: Collector, host: str, port: int) -> Iterator[None]:
    """Serves them, and this process's memory, at http://host:port/metrics until the block ends.

    UserError for a port that cannot be had.
    """
    registry = CollectorRegistry()
    registry.register(metrics)
    ProcessCollector(registry=registry)
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"--metrics_port {port}: {reason}; give another, or 0 to serve none") from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
