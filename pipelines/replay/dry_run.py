"""A dry run: everything is read and validated, nothing is sent, and no Kafka is needed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

import pyarrow as pa

from pipelines.replay.accounts import reasons_of
from pipelines.replay.portions import Source, made_ahead
from pipelines.replay.stopping import Stop

SAMPLES = 3


def dry_run(source: Source, workers: int, stop: Stop) -> Iterator[str]:
    """The lines to print: some messages, some refused rows, and how many of each there are."""
    started = time.monotonic()
    read = samples = 0
    reasons: Counter[str] = Counter()
    with made_ahead(source.pieces(), lambda piece: (piece, *source.readings(piece)), workers) as made:
        for piece, readings, refused in made:
            if samples < SAMPLES:
                messages = source.outgoing(readings.slice(0, SAMPLES - samples), piece.records)
                samples += messages.num_rows
                yield from _messages(messages)
            yield from _refused(refused.slice(0, max(SAMPLES - reasons.total(), 0)))
            read += piece.records.num_rows
            reasons += reasons_of(refused)
            if stop.signal:
                break
    seconds = time.monotonic() - started
    yield f"read             {read:>13,}"
    yield f"  messages       {read - reasons.total():>13,}"
    yield f"  dead letters   {reasons.total():>13,}"
    for reason, rows in reasons.most_common():
        yield f"    {rows:>26,}  {reason}"
    yield f"seconds          {seconds:>13,.1f}  at {round(read / seconds):,} rows/s parsed and validated"


def _messages(messages: pa.RecordBatch) -> Iterator[str]:
    for message in messages.select(["key", "payload"]).to_pylist():
        yield f"message          {message['key']} {message['payload'].decode(errors='backslashreplace')}"


def _refused(letters: pa.RecordBatch) -> Iterator[str]:
    for letter in letters.to_pylist():
        value = letter["value"].decode(errors="backslashreplace")
        yield f"refused          row {letter['position']:,}: {letter['message']}: {value}"
