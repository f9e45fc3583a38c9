"""Windows: readings grouped by fixed event-time windows."""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.transforms.trigger import (
    AccumulationMode,
    AfterCount,
    AfterProcessingTime,
    AfterWatermark,
    Repeatedly,
)
from apache_beam.transforms.window import FixedWindows, GlobalWindows, SlidingWindows, TimestampedValue
from apache_beam.utils.timestamp import Duration, Timestamp

from schemas.feed import Feed
from transforms.batches import (
    concatenate,
    has_dictionaries,
    with_small_dictionaries,
    without_dictionaries,
)
from transforms.deduplicate import sort_keys

DAY_SECONDS = 86_400
MICROS = 1_000_000


def whole_windows_of_a_day(window_seconds: int) -> int:
    """The length in seconds of the longest run of whole windows that fits in a day; at least one window.

    >>> whole_windows_of_a_day(300), whole_windows_of_a_day(420), whole_windows_of_a_day(604_800)
    (86400, 86100, 604800)
    """
    return max(DAY_SECONDS // window_seconds, 1) * window_seconds


def split_by_window(
    readings: pa.RecordBatch, seconds: int, event_time: str = "timestamp"
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """(window start in seconds since the epoch, the readings of that window), in order of the windows.

    Windows are aligned to the epoch, as Beam's FixedWindows are. Rows keep their order.
    """
    starts = readings[event_time].view(pa.int64()).to_numpy() // (seconds * MICROS)
    if not len(starts):
        return
    if starts.min() == starts.max():
        yield int(starts[0]) * seconds, readings
        return
    if (np.diff(starts) < 0).any():
        order = np.argsort(starts, kind="stable")
        starts, readings = starts[order], readings.take(pa.array(order))
    cuts = [0, *(np.flatnonzero(np.diff(starts)) + 1).tolist(), len(starts)]
    dictionaries = has_dictionaries(readings.schema)
    for low, high in itertools.pairwise(cuts):
        window = readings.slice(low, high - low)
        yield int(starts[low]) * seconds, with_small_dictionaries(window) if dictionaries else window


def split_by_shard(readings: pa.RecordBatch, shards: int, key: str) -> Iterator[tuple[int, pa.RecordBatch]]:
    """(shard, its readings): those of one key are in one shard, in every process and every run."""
    keys = readings[key]
    of_value = np.array([zlib.crc32(value.encode()) % shards for value in keys.dictionary.to_pylist()])
    of_row = of_value[keys.indices.to_numpy()]
    for shard in np.unique(of_row).tolist():
        yield shard, with_small_dictionaries(readings.filter(pa.array(of_row == shard)))


def split_sharded(
    readings: pa.RecordBatch, feed: Feed, shards: int, seconds: int
) -> Iterator[TimestampedValue]:
    """(shard, its readings of a window of so many seconds), stamped with the window's start.

    Without dictionaries, for there are many small ones: see `gathered`.
    """
    for shard, rows in split_by_shard(readings, shards, feed.key):
        for start, window in split_by_window(without_dictionaries(rows), seconds, feed.event_time):
            yield TimestampedValue((shard, window), Timestamp(start))


def gathered(batches: Iterable[pa.RecordBatch], feed: Feed) -> pa.RecordBatch:
    """All rows of a group's batches, of `feed.reading_schema`. ValueError for no batch at all."""
    return concatenate(batches).cast(feed.reading_schema)


def accumulating(allowed_lateness_seconds: int, early_seconds: int = 0) -> dict[str, Any]:
    """The arguments of WindowInto that give a window panes, each with all of its elements so far."""
    early = Repeatedly(AfterProcessingTime(early_seconds)) if early_seconds else None
    return {
        "trigger": AfterWatermark(early=early, late=AfterCount(1)),
        "allowed_lateness": Duration(seconds=allowed_lateness_seconds),
        "accumulation_mode": AccumulationMode.ACCUMULATING,
    }


@dataclass
class GroupByWindow(beam.PTransform):
    """Readings -> (key, all batches of a window), windows of `group_seconds`; the key is the window's start.

    In batch a group may span many windows: `group_seconds` is then a multiple of the feed's windows, and the
    steps that follow find the windows inside. Grouping fewer, larger groups is several times quicker.

    In a stream, with `allowed_lateness_seconds`, a window has several panes, each with all of its batches so
    far: early ones every `early_seconds` (0 for none), one on time, and one for every late batch. With
    `shards` the key is a shard instead, and readings of one sensor are always in the same: see
    `split_sharded`.
    """

    feed: Feed
    group_seconds: int
    allowed_lateness_seconds: int = 0
    early_seconds: int = 0
    shards: int = 0

    def expand(
        self, readings: beam.PCollection[pa.RecordBatch]
    ) -> beam.PCollection[tuple[int, Iterable[pa.RecordBatch]]]:
        return (
            readings
            | "SplitByWindow" >> beam.FlatMap(self._split).with_output_types(tuple[int, pa.RecordBatch])
            | beam.WindowInto(FixedWindows(self.group_seconds), **self._triggering())
            | beam.GroupByKey()
        )

    def _triggering(self) -> dict[str, Any]:
        if not (self.allowed_lateness_seconds or self.early_seconds):
            return {}
        return accumulating(self.allowed_lateness_seconds, self.early_seconds)

    def _split(self, readings: pa.RecordBatch) -> Iterator[TimestampedValue]:
        if self.shards:
            yield from split_sharded(readings, self.feed, self.shards, self.group_seconds)
            return
        for start, window in split_by_window(readings, self.group_seconds, self.feed.event_time):
            yield TimestampedValue((start, window), Timestamp(start))


@dataclass(frozen=True)
class Stretch:
    """A stretch of event time, aligned to the epoch, with what must be known of before and after it.

    All in seconds. As windows, stretches overlap by that, and end as late.
    """

    seconds: int
    before: int
    after: int

    @property
    def windows(self) -> SlidingWindows:
        return SlidingWindows(
            self.seconds + self.before + self.after, self.seconds, -self.before % self.seconds
        )

    @property
    def piece_seconds(self) -> int:
        """Readings of so long, aligned to the epoch, are all in the same windows."""
        return math.gcd(self.seconds, self.before, self.after)

    def inside(self, window_end: Timestamp) -> tuple[int, int]:
        """(start, end) of the stretch itself in a window that ends then, microseconds since the epoch."""
        end = window_end.micros - self.after * MICROS
        return end - self.seconds * MICROS, end


def spread(
    readings: pa.RecordBatch, stretch: Stretch, event_time: str
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """(start in seconds since the epoch, those of the readings that the stretch needs) of every stretch."""
    times = readings[event_time].view(pa.int64()).to_numpy()
    first = (int(times.min()) - stretch.after * MICROS) // (stretch.seconds * MICROS)
    last = (int(times.max()) + stretch.before * MICROS) // (stretch.seconds * MICROS)
    for start in range(first * stretch.seconds, (last + 1) * stretch.seconds, stretch.seconds):
        end = start + stretch.seconds + stretch.after
        inside = (times >= (start - stretch.before) * MICROS) & (times < end * MICROS)
        if inside.all():
            yield start, readings
        elif inside.any():
            yield start, with_small_dictionaries(readings.filter(pa.array(inside)))


@dataclass
class GatherStretches(beam.PTransform):
    """(start, readings without duplicates) -> (start, all of a stretch and its surroundings).

    For files, whose readings are all there at the end. They are sorted by UTC day, key and event time. A
    stretch without any reading of its own has none.
    """

    feed: Feed
    stretch: Stretch

    def expand(
        self, groups: beam.PCollection[tuple[int, pa.RecordBatch]]
    ) -> beam.PCollection[tuple[int, pa.RecordBatch]]:
        pair = tuple[int, pa.RecordBatch]
        return (
            groups
            | beam.WindowInto(GlobalWindows())
            | beam.FlatMapTuple(
                lambda _, readings: spread(readings, self.stretch, self.feed.event_time)
            ).with_output_types(pair)
            | beam.GroupByKey()
            | beam.FlatMapTuple(self._sorted).with_output_types(pair)
        )

    def _sorted(self, start: int, batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[int, pa.RecordBatch]]:
        readings = concatenate(sorted(batches, key=self._earliest))
        times = readings[self.feed.event_time].view(pa.int64()).to_numpy()
        if not ((times >= start * MICROS) & (times < (start + self.stretch.seconds) * MICROS)).any():
            return
        keys = sort_keys(readings, self.feed, DAY_SECONDS)
        if (np.diff(keys) < 0).any():  # groups of whole days follow one another
            readings = readings.take(pa.array(np.argsort(keys, kind="stable")))
        yield start, readings

    def _earliest(self, readings: pa.RecordBatch) -> int:
        return pc.min(readings[self.feed.event_time]).value


@dataclass
class GroupByStretch(beam.PTransform):
    """Readings -> (shard, all batches so far of a stretch and of before and after it), in its window.

    A stretch has a pane when what comes after it has passed, and one for every late batch. The batches are
    those of `split_sharded`.
    """

    feed: Feed
    stretch: Stretch
    allowed_lateness_seconds: int
    shards: int

    def expand(
        self, readings: beam.PCollection[pa.RecordBatch]
    ) -> beam.PCollection[tuple[int, Iterable[pa.RecordBatch]]]:
        return (
            readings
            | "SplitByStretch" >> beam.FlatMap(self._split).with_output_types(tuple[int, pa.RecordBatch])
            | beam.WindowInto(self.stretch.windows, **accumulating(self.allowed_lateness_seconds))
            | beam.GroupByKey()
        )

    def _split(self, readings: pa.RecordBatch) -> Iterator[TimestampedValue]:
        return split_sharded(readings, self.feed, self.shards, self.stretch.piece_seconds)
