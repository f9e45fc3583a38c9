"""Dead letters: what failed, with its original bytes, where it came from and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.io.filesystems import FileSystems

from schemas.feed import WHERE_FROM, Feed
from schemas.record import DEAD_LETTER
from transforms.accounts import Accounts
from transforms.batches import concatenate
from transforms.files import publish
from transforms.parquet import digest, to_parquet

ROWS_PER_FILE = 100_000


class Failure(NamedTuple):
    """Why a record failed: the rules that it broke, the first of them the reason, and a message."""

    rules: tuple[str, ...]
    message: str


def to_dead_letters(
    records: pa.RecordBatch, failures: Sequence[Failure], which: np.ndarray, feed: Feed, stage: str, now: int
) -> pa.RecordBatch:
    """A batch of `DEAD_LETTER`, one for each record.

    `records` has at least the columns of `RECORD`; `which` says for each of its rows which of `failures` it
    is; `now` is microseconds since the epoch. The line ending of a file's row is no part of it.
    """
    rows = records.num_rows
    index = pa.array(which, pa.int32())
    reasons = pa.array([failure.rules[0] for failure in failures], pa.string()).dictionary_encode()
    rules = pa.array([list(failure.rules) for failure in failures], pa.list_(pa.string()))
    messages = pa.array([failure.message for failure in failures], pa.string()).dictionary_encode()
    return pa.RecordBatch.from_arrays(
        [
            _without_line_endings(records) if records["partition"].null_count else records["value"],
            *(records[field.name] for field in WHERE_FROM),
            _constant(feed.name, rows),
            _constant(stage, rows),
            reasons.take(index),
            rules.take(index),
            messages.take(index),
            pa.array(np.full(rows, now), DEAD_LETTER.field("failed_at").type),
        ],
        schema=DEAD_LETTER,
    )


def _constant(value: str, rows: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), pa.array([value]))


def _without_line_endings(records: pa.RecordBatch) -> pa.BinaryArray:
    values = records["value"].to_pylist()
    return pa.array([value.removesuffix(b"\n").removesuffix(b"\r") for value in values], pa.binary())


def split_by_source(
    letters: pa.RecordBatch, rows: int = ROWS_PER_FILE
) -> Iterator[tuple[tuple[str, int], pa.RecordBatch]]:
    """((source, n), its dead letters whose position is in the n-th stretch of `rows` rows)."""
    sources = letters["source"].indices.to_numpy()
    stretches = letters["position"].to_numpy() // rows
    for source, stretch in sorted(set(zip(sources.tolist(), stretches.tolist(), strict=True))):
        mask = pa.array((sources == source) & (stretches == stretch))
        yield (letters["source"].dictionary[source].as_py(), stretch), letters.filter(mask)


class _WriteFile(beam.DoFn):
    def __init__(self, root: str, feed: str) -> None:
        self.root, self.feed = root, feed

    def process(
        self, group: tuple[tuple[str, int], Iterable[pa.RecordBatch]], after: bool = True
    ) -> Iterable[Accounts]:
        (source, stretch), batches = group
        letters = concatenate(batches)
        letters = letters.take(pc.sort_indices(letters["position"]))
        path = f"dead_letters/{self.feed}-{digest([source])}-{stretch:05d}.parquet"
        size = publish(FileSystems.join(self.root, *path.split("/")), to_parquet(letters))
        reasons = Counter(
            {each["values"]: each["counts"] for each in letters["reason"].value_counts().to_pylist()}
        )
        yield Accounts(dead_letters=reasons, files=frozenset([path]), bytes=size)


@dataclass
class WriteDeadLetters(beam.PTransform):
    """Batches of dead letters -> accounts of the files written, by source and stretch of rows.

    Nothing is written before `after` has its one element.
    """

    root: str
    feed: str
    after: beam.PCollection[bool] | None = None

    def expand(self, letters: beam.PCollection[pa.RecordBatch]) -> beam.PCollection[Accounts]:
        waits = [] if self.after is None else [beam.pvalue.AsSingleton(self.after)]
        return (
            letters
            | beam.FlatMap(split_by_source).with_output_types(tuple[tuple[str, int], pa.RecordBatch])
            | beam.GroupByKey()
            | beam.ParDo(_WriteFile(self.root, self.feed), *waits).with_output_types(Accounts)
        )
