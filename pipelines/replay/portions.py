"""Portions of the input: read, validated and encoded ahead of their sending, in threads of their own."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

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
ROWS = 16_384
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


Made = TypeVar("Made")


class Piece(NamedTuple):
    """Some rows of a file: `records` of `RECORD`, as they were read.

    `pass_number` counts the passes over all files from 0, `read_at` is on the monotonic clock.
    """

    records: pa.RecordBatch
    pass_number: int
    read_at: float


class Portion(NamedTuple):
    """What became of a piece: `messages` of `OUTGOING`, and `refused`, dead letters; in order of position."""

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
    _pass_number: int = field(default=-1, init=False)
    _shift: int | None = field(default=None, init=False)
    _newest: int = field(default=0, init=False)

    def pieces(self) -> Iterator[Piece]:
        """All rows in the order of files and rows, without end when `loop`; UserError as `read_block`."""
        for pass_number in itertools.count() if self.loop else range(1):
            for path in self.paths:
                block = open_block(path, self.feed)
                for records, _ in read_block(block, READ_BYTES) if block else ():
                    read_at = time.monotonic()
                    for low in range(0, records.num_rows, ROWS):
                        yield Piece(records.slice(low, ROWS), pass_number, read_at)

    def portion(self, piece: Piece) -> Portion:
        """The piece decoded, validated and encoded; in the order of the pieces if times are shifted."""
        readings, refused = self.readings(piece)
        messages = self.outgoing(readings, piece.records, piece.pass_number)
        return Portion(messages, refused, piece.pass_number, piece.read_at)

    def readings(self, piece: Piece) -> tuple[pa.RecordBatch, pa.RecordBatch]:
        """(its accepted readings, its dead letters)."""
        now = time.time_ns() // 1000
        decoded, undecodable = decode_csv(piece.records, self.feed, self.timezone, now)
        readings, invalid = validate(decoded, self.feed, now)
        if self.shift_to is not None and readings.num_rows:
            readings = self._shifted(readings, piece.pass_number, self.shift_to)
        return readings, _in_order(undecodable, invalid)

    def _shifted(self, readings: pa.RecordBatch, pass_number: int, shift_to: int) -> pa.RecordBatch:
        micros = _micros(readings[self.feed.event_time])
        if pass_number != self._pass_number:
            self._pass_number = pass_number
            self._shift = (self._newest + SECOND if pass_number else shift_to) - int(micros[0])
        shifted = micros + self._shift
        self._newest = max(self._newest, int(shifted.max()))
        return _with_column(readings, self.feed.event_time, pa.array(shifted).view(TIMESTAMP))

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
def made_ahead(
    pieces: Iterator[Piece], make: Callable[[Piece], Made], workers: int
) -> Iterator[Iterator[Made]]:
    """What `make` makes of the pieces, in their order: read in one thread, made in `workers` others.

    Each makes one ahead of what is in use, and no more: they slow down to the sender.
    """
    with ThreadPoolExecutor(1, "read") as reading, ThreadPoolExecutor(workers, "make") as making:

        def make_next() -> Future[Made | None]:
            read = reading.submit(next, pieces, None)
            return making.submit(lambda: None if (piece := read.result()) is None else make(piece))

        waiting = deque(make_next() for _ in range(workers))

        def made() -> Iterator[Made]:
            while (one := waiting.popleft().result()) is not None:
                waiting.append(make_next())
                yield one

        try:
            yield made()
        finally:
            for future in waiting:
                future.cancel()
