"""Daily: figures of the observed values of each UTC day, and whether they are enough to stand for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
import pyarrow as pa

from schemas.daily import LEAST_COMPLETENESS, daily_schema
from schemas.feed import TIMESTAMP, Feed
from transforms.aggregate import MICROS, Runs, find_runs, maximum, mean, minimum
from transforms.casts import floats
from transforms.deduplicate import deduplicate
from transforms.windows import DAY_SECONDS, Stretch, gathered, split_by_window


def aggregate_days(readings: pa.RecordBatch, feed: Feed) -> pa.RecordBatch:
    """Readings sorted by key and event time, or so for each day -> rows of `daily_schema(feed)`, by field.

    A step counts once, however many of its values were observed; the mean is that of all values.
    """
    micros = readings[feed.event_time].view(pa.int64()).to_numpy()
    keys, days = readings[feed.key], micros // (DAY_SECONDS * MICROS)
    starts, counts = find_runs(keys.indices.to_numpy(), days)
    fields = len(feed.daily)
    each = [Runs(floats(readings[name]), starts, counts) for name in feed.daily]
    step_starts, _ = find_runs(keys.indices.to_numpy(), days, micros // (feed.step_seconds * MICROS))
    steps = np.stack([_steps_with_value(runs, step_starts) for runs in each], 1)
    expected = DAY_SECONDS // feed.step_seconds
    window_starts = np.repeat(days[starts] * DAY_SECONDS * MICROS, fields)
    units = pa.array([feed.field(name).unit for name in feed.daily], pa.string())

    def figures(function: Callable[[Runs], np.ndarray]) -> pa.Array:
        values = np.stack([function(runs) for runs in each], 1).ravel()
        return pa.array(values, mask=np.isnan(values))

    def for_each_run(values: pa.Array) -> pa.DictionaryArray:
        return values.dictionary_encode().take(pa.array(np.tile(np.arange(fields), len(starts))))

    return pa.RecordBatch.from_arrays(
        [
            keys.take(pa.array(np.repeat(starts, fields))),
            pa.array(window_starts, TIMESTAMP),
            pa.array(window_starts + DAY_SECONDS * MICROS, TIMESTAMP),
            for_each_run(pa.array(feed.daily, pa.string())),
            for_each_run(units),
            *map(figures, (mean, minimum, maximum)),
            pa.array(steps.ravel()),
            pa.array(np.full(steps.size, expected)),
            pa.array(steps.ravel() / expected),
            pa.array(steps.ravel() >= LEAST_COMPLETENESS * expected),
        ],
        schema=daily_schema(feed),
    )


def _steps_with_value(runs: Runs, steps: np.ndarray) -> np.ndarray:
    """For each run how many steps have a value; they begin at `steps`."""
    if len(steps) == len(runs.values):
        return runs.present
    present = np.logical_or.reduceat(~np.isnan(runs.values), steps)
    return np.add.reduceat(present, np.searchsorted(steps, runs.starts), dtype=np.int64)


@dataclass
class AggregateDays(beam.PTransform):
    """(start, readings of a stretch of days and its surroundings) -> (start of a day, its figures).

    They are sorted by day.
    """

    feed: Feed
    stretch: Stretch

    def expand(
        self, groups: beam.PCollection[tuple[int, pa.RecordBatch]]
    ) -> beam.PCollection[tuple[int, pa.RecordBatch]]:
        return groups | beam.FlatMapTuple(self._days).with_output_types(tuple[int, pa.RecordBatch])

    def _days(self, start: int, readings: pa.RecordBatch) -> Iterator[tuple[int, pa.RecordBatch]]:
        days = readings[self.feed.event_time].view(pa.int64()).to_numpy() // (DAY_SECONDS * MICROS)
        limits = start // DAY_SECONDS, (start + self.stretch.seconds) // DAY_SECONDS
        low, high = np.searchsorted(days, limits).tolist()
        yield from split_by_window(aggregate_days(readings[low:high], self.feed), DAY_SECONDS, "window_start")


@dataclass
class AggregateDayPanes(beam.PTransform):
    """(shard, batches of a UTC day so far) -> (shard, the day's figures)."""

    feed: Feed

    def expand(
        self, groups: beam.PCollection[tuple[int, Iterable[pa.RecordBatch]]]
    ) -> beam.PCollection[tuple[int, pa.RecordBatch]]:
        return groups | beam.FlatMapTuple(self._aggregate).with_output_types(tuple[int, pa.RecordBatch])

    def _aggregate(
        self, shard: int, batches: Iterable[pa.RecordBatch]
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        if batches := list(batches):  # every window ends with an empty pane
            readings, _ = deduplicate(gathered(batches, self.feed), self.feed)
            yield shard, aggregate_days(readings, self.feed)
