"""Parquet files that grow with a stream: few, whole at every moment, and free of duplicates.

A pane of a window holds all rows of that window so far. A file holds the windows of one stretch of time and
one shard, and a pane is written by replacing its window's rows in that file. However often a pane comes, late
or again after a failure, the file ends up the same. This needs one writer per file: the runner keeps a shard,
and a partition of a topic, on one worker at a time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from transforms import counters
from transforms.files import publish
from transforms.parquet import split_by_day, to_parquet, with_plain_text
from transforms.windows import MICROS, split_by_window

OFFSETS_PER_FILE = 100_000

Unit = Callable[[pa.Table], pa.Array]


def replace_rows(
    present: pa.Table | None, parts: Iterable[pa.RecordBatch], units: pa.Array, unit: Unit
) -> pa.Table:
    """`present` without the rows that belong to one of `units`, and then the rows of the parts.

    `unit(table)` says for each row what it belongs to.
    """
    tables = [with_plain_text(part) for part in parts]
    if present is not None:
        kept = present.filter(pc.invert(pc.is_in(unit(present), units)))
        tables.insert(0, kept.cast(tables[0].schema))
    return pa.concat_tables(tables).combine_chunks()


def read_parquet(path: str) -> pa.Table | None:
    """The file's table; None when there is no such file."""
    if not FileSystems.exists(path):
        return None
    with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
        return pq.read_table(pa.BufferReader(file.read()))


def rewrite(
    path: str, parts: Iterable[pa.RecordBatch], units: pa.Array, unit: Unit, sort_by: list[str]
) -> None:
    """Brings the file up to date, see `replace_rows`, and sorts it. UserError when it cannot be written."""
    table = replace_rows(read_parquet(path), parts, units, unit)
    if table.num_rows:
        order = pc.sort_indices(table, [(name, "ascending") for name in sort_by])
        publish(path, to_parquet(table.take(order).combine_chunks().to_batches()[0]))


class _WritePanes(beam.DoFn):
    def __init__(self, files: MergePanes) -> None:
        self.files = files

    def start_bundle(self) -> None:
        # path -> window's start -> the window's rows in that file, of the latest pane
        self.pending: dict[str, dict[int, pa.RecordBatch]] = defaultdict(dict)

    def process(self, pane: tuple[int, pa.RecordBatch]) -> None:
        shard, batch = pane
        files = self.files
        for window, rows in split_by_window(batch, files.window_seconds, files.time):
            stretch = window // files.file_seconds * files.file_seconds
            name = np.datetime_as_string(np.datetime64(stretch, "s")).replace("-", "").replace(":", "")
            for day, day_rows in split_by_day(rows, files.time):
                file = f"{files.feed}-{name}-{shard:03d}.parquet"
                self.pending[FileSystems.join(files.root, files.folder, *day.split("/"), file)][window] = (
                    day_rows
                )

    def finish_bundle(self) -> None:
        for path, windows in self.pending.items():
            rewrite(
                path, windows.values(), pa.array(windows, pa.int64()), self._window_of, self.files.sort_by
            )
            counters.add(files_written=1)
        self.pending.clear()

    def _window_of(self, table: pa.Table) -> pa.Array:
        seconds = self.files.window_seconds
        micros = table[self.files.time].cast(pa.int64()).to_numpy()
        return pa.array(micros // (seconds * MICROS) * seconds)


@dataclass
class MergePanes(beam.PTransform):
    """(shard, rows of one window's pane) -> `root/folder/year=…/month=…/day=…/feed-start-shard.parquet`.

    One file per shard and `file_seconds` of event time, by the column `time`.
    """

    root: str
    folder: str
    feed: str
    time: str
    window_seconds: int
    file_seconds: int
    sort_by: list[str]

    def expand(self, panes: beam.PCollection[tuple[int, pa.RecordBatch]]) -> beam.PCollection[None]:
        return panes | beam.ParDo(_WritePanes(self))


class _WriteLetters(beam.DoFn):
    def __init__(self, root: str, feed: str) -> None:
        self.root, self.feed = root, feed

    def start_bundle(self) -> None:
        self.pending: dict[str, list[pa.RecordBatch]] = defaultdict(list)

    def process(self, letters: pa.RecordBatch) -> None:
        partition, topic = letters["partition"][0].as_py(), letters["source"][0].as_py()
        stretches = letters["position"].to_numpy() // OFFSETS_PER_FILE
        for stretch in np.unique(stretches).tolist():
            file = f"{self.feed}-{topic}-{partition:05d}-{stretch:08d}.parquet"
            rows = letters.filter(pa.array(stretches == stretch))
            self.pending[FileSystems.join(self.root, "dead_letters", file)].append(rows)

    def finish_bundle(self) -> None:
        for path, parts in self.pending.items():
            offsets = pa.concat_arrays([part["position"] for part in parts])
            rewrite(path, parts, offsets, lambda table: table["position"], ["position"])
        self.pending.clear()


@dataclass
class MergeDeadLetters(beam.PTransform):
    """Dead letters of a topic -> `root/dead_letters/feed-topic-partition-n.parquet`, each letter once."""

    root: str
    feed: str

    def expand(self, letters: beam.PCollection[pa.RecordBatch]) -> beam.PCollection[None]:
        return letters | beam.ParDo(_WriteLetters(self.root, self.feed))
