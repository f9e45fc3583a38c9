"""Portions of the input: read, validated and encoded ahead of their sending, in a thread of their own."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.feed import TEXT, TIMESTAMP, WHERE_FROM, Feed
from schemas.record import RECORD
from transforms.csv_files import open_block, read_block
from transforms.decode_csv import decode_csv
from transforms.messages import to_messages
from transforms.rules import validate

READ_BYTES = 1 << 20
ROWS = 8_192
AHEAD = 3
SECOND = 1_000_000

OUTGOING = pa.schema(
    [
        *RECORD,
        pa.field("key", TEXT, nullable=False),
        pa.field("payload", pa.binary(), nullable=False),
        pa.field("event_time", TIMESTAMP, nullable=False),
        pa.field("injected", TEXT, metadata={"description": "The fault that this message is, if it is one."}),
    ]
)

Encode = Callable[[pa.RecordBatch, Sequence[str]], pa.Array]
"""(messages, the names of those of their columns that this file can have values for) -> their bytes."""


class Portion(NamedTuple):
    """Some rows of a file: `messages` of `OUTGOING`, and `refused`, dead letters; both in order of position.

    `pass_number` counts the passes over all files from 0, `read_at` is on the monotonic clock.
    """

    messages: pa.RecordBatch
    refused: pa.RecordBatch
    pass_number: int
    read_at: float


@dataclass
class Source:
    """The files of a feed and how to make messages of their rows.

    `shift_to` is the moment, in microseconds since the epoch, at which the first event is to happen; None
    leaves event times alone. `seed` is what the identifiers depend on beside the file and the row.
    """

    paths: tuple[str, ...]
    feed: Feed
    encode: Encode
    timezone: str = "UTC"
    loop: bool = False
    shift_to: int | None = None
    seed: int | None = None
    _newest: int = field(default=0, init=False)

    def portions(self) -> Iterator[Portion]:
        """All portions in the order of files and rows, without end when `loop`; UserError as `read_block`."""
        for pass_number in itertools.count() if self.loop else range(1):
            for read_at, records, readings, refused in self.readings(pass_number):
                yield Portion(self.outgoing(readings, records, pass_number), refused, pass_number, read_at)

    def readings(
        self, pass_number: int = 0
    ) -> Iterator[tuple[float, pa.RecordBatch, pa.RecordBatch, pa.RecordBatch]]:
        """For each portion of one pass when it was read, its records, its readings and its dead letters."""
        shift = None
        for records in self._records():
            read_at, now = time.monotonic(), time.time_ns() // 1000
            decoded, undecodable = decode_csv(records, self.feed, self.timezone, now)
            readings, invalid = validate(decoded, self.feed, now)
            if self.shift_to is not None and readings.num_rows:
                micros = _micros(readings[self.feed.event_time])
                if shift is None:
                    shift = (self._newest + SECOND if pass_number else self.shift_to) - micros[0]
                self._newest = max(self._newest, int(micros.max() + shift))
                readings = _with_column(
                    readings, self.feed.event_time, pa.array(micros + shift).view(TIMESTAMP)
                )
            yield read_at, records, readings, _in_order(undecodable, invalid)

    def _records(self) -> Iterator[pa.RecordBatch]:
        for path in self.paths:
            block = open_block(path, self.feed)
            for records, _ in read_block(block, READ_BYTES) if block else ():
                for low in range(0, records.num_rows, ROWS):
                    yield records.slice(low, ROWS)

    def outgoing(
        self, readings: pa.RecordBatch, records: pa.RecordBatch, pass_number: int = 0
    ) -> pa.RecordBatch:
        """The readings, all of them from those records, as messages of `OUTGOING`."""
        columns = json.loads(records.schema.metadata[b"columns"])
        repeated = pass_number if self.shift_to is not None else 0
        messages = to_messages(_identified(readings, self.seed, repeated), self.feed)
        payloads = self.encode(messages, _known(self.feed, columns))
        originals = records["value"]
        if readings.num_rows < records.num_rows:
            rows = readings["position"].to_numpy() - records["position"][0].as_py()
            originals = originals.take(pa.array(rows))
        return pa.RecordBatch.from_arrays(
            [
                originals,
                *(readings[field.name] for field in WHERE_FROM),
                readings[self.feed.key],
                payloads.cast(pa.binary()),
                readings[self.feed.event_time],
                pa.nulls(readings.num_rows, TEXT),
            ],
            schema=OUTGOING,
        )


def _known(feed: Feed, columns: Iterable[str]) -> list[str]:
    """The names in a message that can have a value, for a file of those columns."""
    made = {feed.identifier, feed.ingestion_time, feed.event_time}
    known = [
        field
        for field in feed.fields
        if field.name in made
        or (field.required and field.default is not None)
        or set(feed.columns_of(field)) & set(columns)
    ]
    return list(dict.fromkeys(field.group or field.name for field in known))


def _identified(readings: pa.RecordBatch, seed: int | None, repeated: int) -> pa.RecordBatch:
    """The readings with a source that stands for the seed and the pass too: identifiers derive from it."""
    if seed is None and not repeated:
        return readings
    source = readings["source"]
    names = [
        value if seed is None else f"{os.path.basename(value)}#{seed}"
        for value in source.dictionary.to_pylist()
    ]
    marked = pa.array([f"{name}#{repeated}" if repeated else name for name in names])
    return _with_column(readings, "source", pa.DictionaryArray.from_arrays(source.indices, marked))


def _with_column(batch: pa.RecordBatch, name: str, column: pa.Array) -> pa.RecordBatch:
    place = batch.schema.get_field_index(name)
    return batch.set_column(place, batch.schema.field(place), column)


def _micros(times: pa.Array) -> np.ndarray:
    return times.view(pa.int64()).to_numpy()


def _in_order(*letters: pa.RecordBatch) -> pa.RecordBatch:
    some = [batch for batch in letters if batch.num_rows]
    if len(some) < 2:
        return some[0] if some else letters[0]
    table = pa.Table.from_batches(some).unify_dictionaries().combine_chunks()
    return table.take(pc.sort_indices(table["position"])).combine_chunks().to_batches()[0]


@contextlib.contextmanager
def read_ahead(portions: Iterator[Portion]) -> Iterator[Iterator[Portion]]:
    """Makes the portions in a thread, at most `AHEAD` of them waiting: it slows down to the sender."""
    with ThreadPoolExecutor(1, "read ahead") as thread:
        waiting = deque(thread.submit(next, portions, None) for _ in range(AHEAD))

        def taken() -> Iterator[Portion]:
            while (portion := waiting.popleft().result()) is not None:
                waiting.append(thread.submit(next, portions, None))
                yield portion

        try:
            yield taken()
        finally:
            for future in waiting:
                future.cancel()
