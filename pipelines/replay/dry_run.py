"""A dry run: everything is read and validated, nothing is sent, and no Kafka is needed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

from pipelines.replay.accounts import reasons_of
from pipelines.replay.portions import Source
from pipelines.replay.stopping import Stop

SAMPLES = 3


def dry_run(source: Source, stop: Stop) -> Iterator[str]:
    """The lines to print: some messages, some refused rows, and how many of each there are."""
    started = time.monotonic()
    read = samples = 0
    reasons: Counter[str] = Counter()
    for _, records, readings, refused in source.readings():
        if samples < SAMPLES:
            messages = source.outgoing(readings.slice(0, SAMPLES - samples), records)
            samples += messages.num_rows
            for key, payload in zip(
                messages["key"].to_pylist(), messages["payload"].to_pylist(), strict=True
            ):
                yield f"message          {key} {payload.decode(errors='backslashreplace')}"
        for letter in refused.slice(0, max(SAMPLES - reasons.total(), 0)).to_pylist():
            value = letter["value"].decode(errors="backslashreplace")
            yield f"refused          row {letter['position']:,}: {letter['message']}: {value}"
        read += records.num_rows
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
