"""Batches of records and readings for tests, from as little as a test needs to say."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from schemas.feed import Feed
from schemas.record import RECORD
from schemas.traffic import TRAFFIC
from transforms.csv_files import find_blocks, read_block

COLUMNS = TRAFFIC.required
SIMPLE_ROW = b"s1,2012-03-01 00:00:00,60\n"


def micros(text: str) -> int:
    """Microseconds since the epoch of an ISO 8601 time in UTC."""
    since = datetime.fromisoformat(text).replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def records(
    values: Iterable[bytes], columns: Sequence[str] = COLUMNS, source: str = "a.csv"
) -> pa.RecordBatch:
    """Records as `ReadCsv` yields them, positions from 1."""
    schema = RECORD.with_metadata({"columns": json.dumps(list(columns))})
    rows = [
        {"value": value, "source": source, "position": position} for position, value in enumerate(values, 1)
    ]
    return pa.RecordBatch.from_pylist(rows, schema)


def decoded(*rows: dict[str, Any], feed: Feed = TRAFFIC) -> pa.RecordBatch:
    """Readings between decode and validate: a sound reading with each row's own values in it."""
    sound = dict.fromkeys(feed.decoded_schema.names) | {
        "sensor_id": "s1",
        "timestamp": micros("2012-03-01 00:00"),
        "speed_mph": 60.0,
        "source": "a.csv",
        "value": b"the line\n",
        "broken": 0,
    }
    return pa.RecordBatch.from_pylist(
        [{**sound, "position": place, **row} for place, row in enumerate(rows, 1)], feed.decoded_schema
    )


def accepted(*rows: dict[str, Any], feed: Feed = TRAFFIC) -> pa.RecordBatch:
    """Accepted readings: a sound reading with each row's own values in it."""
    batch = decoded(*rows, feed=feed)
    return pa.RecordBatch.from_arrays(
        [batch[name] for name in feed.reading_schema.names], schema=feed.reading_schema
    )


def read_file(path: object) -> tuple[list[tuple[int, bytes]], int]:
    """(position, value) of every record of a file, and how many blank lines it has."""
    found: list[tuple[int, bytes]] = []
    blank = 0
    for block in find_blocks(str(path), TRAFFIC):
        for batch, blank_lines in read_block(block):
            found += zip(batch["position"].to_pylist(), batch["value"].to_pylist(), strict=True)
            blank += blank_lines
    return found, blank
