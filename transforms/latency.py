"""How long readings are on their way: from their event, and from the broker, to the pane that holds them."""

from __future__ import annotations

import time
from collections.abc import Iterable

import pyarrow as pa

from transforms import counters

BROKER_TIME = b"broker_time"
MICROS = 1_000_000


def with_broker_time(readings: pa.RecordBatch, milliseconds: int) -> pa.RecordBatch:
    """The batch, which then tells when the broker had the newest of its messages.

    In the schema's metadata, since it is of the batch: a column of it would be in every file.
    """
    return readings.replace_schema_metadata({BROKER_TIME: str(milliseconds)})


def newest_broker_time(batches: Iterable[pa.RecordBatch]) -> int | None:
    """The newest that the batches tell, in milliseconds since the epoch."""
    told = [(batch.schema.metadata or {}).get(BROKER_TIME) for batch in batches]
    return max((int(milliseconds) for milliseconds in told if milliseconds), default=None)


def observe_latency(batches: Iterable[pa.RecordBatch], newest_event: int) -> None:
    """Observes the latencies of a pane that is emitted now, of its newest reading and its newest message.

    The event time is in microseconds since the epoch.
    """
    now = time.time()
    counters.observe("latency", now - newest_event / MICROS, "event")
    if (milliseconds := newest_broker_time(batches)) is not None:
        counters.observe("latency", now - milliseconds / 1000, "broker")
