"""Parquet files that grow with a stream: few, whole at every moment, and free of duplicates.

A pane of a window holds all rows of that window so far. A file holds the windows of one stretch of time and
one shard, and a pane is written by replacing its window's rows in that file. However often a pane comes, late
or again after a failure, the file ends up the same. This needs one writer per file: the runner keeps a shard,
and a partition of a topic, on one worker at a time. What was compacted is brought up to date in the same way.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from schemas.feed import Feed
from transforms import counters
from transforms.compaction import compacted_path, withdraw
from transforms.files import FileDoFn, discard, publish
from transforms.parquet import (
    DAY_MICROS,
    day_folder,
    read_parquet,
    sorted_parquet,
    split_by_day,
    with_plain_text,
)
from transforms.windows import MICROS, split_by_window

OFFSETS_PER_FILE, FILES_PER_FOLDER = 100_000, 100

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


def rewrite(
    path: str, parts: Iterable[pa.RecordBatch], units: pa.Array, unit: Unit, sort_by: list[str]
) -> None:
    """Brings the file up to date, see `replace_rows`, and sorts it. UserError when it cannot be written."""
    table = replace_rows(read_parquet(path), parts, units, unit)
    if table.num_rows:
        _replace(path, table, sort_by)


def _replace(path: str, table: pa.Table, sort_by: list[str]) -> None:
    size = publish(path, sorted_parquet(table, sort_by))
    counters.add(files_written=1, bytes_written=size)


def bring_up_to_date(root: str, folder: str, name: str, update: Callable[[str], None]) -> None:
    """Has `update(path)` rewrite that file below the root, or the one that compaction has made of it.

    A compaction may come between any two of these steps: see `transforms.compaction`.
    """
    path = FileSystems.join(root, *folder.split("/"), name)
    compacted = compacted_path(path)
    if not FileSystems.exists(compacted):
        update(path)
        withdraw(root, folder)
    if FileSystems.exists(compacted):
        update(compacted)
        discard([path])


class _WritePanes(FileDoFn):
    def __init__(self, files: MergePanes, options: PipelineOptions) -> None:
        super().__init__(options)
        self.files = files

    def start_bundle(self) -> None:
        self.pending: dict[tuple[str, str], list[pa.RecordBatch]] = defaultdict(list)

    def process(self, panes: tuple[int, pa.RecordBatch]) -> None:
        shard, batch = panes
        files = self.files
        for stretch, rows in split_by_window(batch, files.whole_windows, files.time):
            name = np.datetime_as_string(np.datetime64(stretch, "s")).replace("-", "").replace(":", "")
            file = f"{files.feed}-{name}-{shard:03d}.parquet"
            for day, day_rows in split_by_day(rows, files.time):
                self.pending[f"{files.folder}/{day}", file].append(day_rows)

    def finish_bundle(self) -> None:
        for (folder, file), parts in self.pending.items():
            latest: pa.Table | None = None
            for part in parts:
                latest = replace_rows(latest, [part], self._window_of(part), self._window_of)
            assert latest is not None  # a file is named once it has a part
            update = partial(
                rewrite,
                parts=latest.to_batches(),
                units=self._window_of(latest),
                unit=self._window_of,
                sort_by=self.files.sort_by,
            )
            with counters.timed("write"):
                bring_up_to_date(self.files.root, folder, file, update)
        self.pending.clear()

    def _window_of(self, table: pa.Table | pa.RecordBatch) -> pa.Array:
        seconds = self.files.window_seconds
        micros = table[self.files.time].cast(pa.int64()).to_numpy()
        return pa.array(micros // (seconds * MICROS) * seconds)


@dataclass
class MergePanes(beam.PTransform):
    """(shard, rows of windows' panes) -> `root/folder/year=…/month=…/day=…/feed-start-shard.parquet`.

    One file per shard and as many whole windows as fit in `file_seconds` of event time, by the column `time`.
    Of two panes of a window the later one stays.
    """

    root: str
    folder: str
    feed: str
    time: str
    window_seconds: int
    file_seconds: int
    sort_by: list[str]

    @property
    def whole_windows(self) -> int:
        return max(self.file_seconds // self.window_seconds, 1) * self.window_seconds

    def expand(self, panes: beam.PCollection[tuple[int, pa.RecordBatch]]) -> beam.PCollection[None]:
        return panes | beam.ParDo(_WritePanes(self, panes.pipeline.options))


def replace_sessions(present: pa.Table | None, newer: pa.Table, key: str) -> pa.Table:
    """`present` without the sessions that a newer one overlaps, and then the newer ones.

    The sessions of a key never overlap, so what does is an earlier state: a late reading has made a session
    longer, or one of several.
    """
    if present is None:
        return newer
    stale = np.zeros(present.num_rows, bool)
    keys, start, end = (present[name] for name in (key, "session_start", "session_end"))
    names = [key, "session_start", "session_end"]
    for session in newer.group_by(names).aggregate([]).to_pylist():
        touches = pc.and_(
            pc.less_equal(start, session["session_end"]), pc.greater_equal(end, session["session_start"])
        )
        stale |= pc.and_(pc.equal(keys, session[key]), touches).to_numpy()
    return pa.concat_tables([present.filter(pa.array(~stale)).cast(newer.schema), newer])


class _WriteSessions(FileDoFn):
    def __init__(self, files: MergeSessions, options: PipelineOptions) -> None:
        super().__init__(options)
        self.files = files

    def start_bundle(self) -> None:
        # (day, file) -> what sessions have come to that touch the day, in order
        self.pending: dict[tuple[int, str], list[pa.Table]] = defaultdict(list)

    def process(self, pane: tuple[int, pa.RecordBatch]) -> None:
        shard, batch = pane
        days = [
            batch[name].view(pa.int64()).to_numpy() // DAY_MICROS for name in ("session_start", "session_end")
        ]
        for day in range(int(days[0].min()), int(days[1].max()) + 1):
            start = str(np.datetime64(day, "D")).replace("-", "")
            file = f"{self.files.feed.name}-{start}T000000-{shard:03d}.parquet"
            self.pending[day, file].append(with_plain_text(batch))

    def finish_bundle(self) -> None:
        for (day, file), newer in self.pending.items():
            update = partial(self._update, newer=newer, day=day)
            bring_up_to_date(self.files.root, f"{self.files.folder}/{day_folder(day)}", file, update)
        self.pending.clear()

    def _update(self, path: str, newer: list[pa.Table], day: int) -> None:
        table = read_parquet(path)
        for each in newer:
            table = replace_sessions(table, each, self.files.feed.key)
        assert table is not None
        starts = table["session_start"].cast(pa.int64()).to_numpy()
        table = table.filter(pa.array(starts // DAY_MICROS == day))
        if table.num_rows:
            _replace(path, table, [self.files.feed.key, "session_start"])
        else:
            discard([path])


@dataclass
class MergeSessions(beam.PTransform):
    """(shard, rows of sessions so far) -> `root/folder/year=…/month=…/day=…/feed-start-shard.parquet`.

    One file per shard and UTC day, that in which a session begins.
    """

    root: str
    folder: str
    feed: Feed

    def expand(self, panes: beam.PCollection[tuple[int, pa.RecordBatch]]) -> beam.PCollection[None]:
        return panes | beam.ParDo(_WriteSessions(self, panes.pipeline.options))


class _WriteLetters(FileDoFn):
    def __init__(self, root: str, feed: str, options: PipelineOptions) -> None:
        super().__init__(options)
        self.root, self.feed = root, feed

    def start_bundle(self) -> None:
        self.pending: dict[tuple[str, str], list[pa.RecordBatch]] = defaultdict(list)

    def process(self, letters: pa.RecordBatch) -> None:
        partition, topic = letters["partition"][0].as_py(), letters["source"][0].as_py()
        stretches = letters["position"].to_numpy() // OFFSETS_PER_FILE
        for stretch in np.unique(stretches).tolist():
            series = f"{self.feed}-{topic}-{partition:05d}"
            folder = f"dead_letters/{series}-{stretch // FILES_PER_FOLDER:06d}"
            rows = letters.filter(pa.array(stretches == stretch))
            self.pending[folder, f"{series}-{stretch:08d}.parquet"].append(rows)

    def finish_bundle(self) -> None:
        for (folder, file), parts in self.pending.items():
            update = partial(
                rewrite,
                parts=parts,
                units=pa.concat_arrays([part["position"] for part in parts]),
                unit=lambda table: table["position"],
                sort_by=["position"],
            )
            bring_up_to_date(self.root, folder, file, update)
        self.pending.clear()


@dataclass
class MergeDeadLetters(beam.PTransform):
    """Dead letters of a topic -> `root/dead_letters/feed-topic-partition-m/feed-topic-partition-n.parquet`.

    Each letter once; a file holds those of 100,000 offsets, and a folder 100 files.
    """

    root: str
    feed: str

    def expand(self, letters: beam.PCollection[pa.RecordBatch]) -> beam.PCollection[None]:
        return letters | beam.ParDo(_WriteLetters(self.root, self.feed, letters.pipeline.options))
