"""Aggregate: one row per key and window."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
import pyarrow as pa

from schemas.feed import TIMESTAMP, Feed
from transforms import counters
from transforms.casts import floats

MICROS = 1_000_000


@dataclass(frozen=True)
class Runs:
    """Values cut into runs of consecutive rows, one per key and window; NaN is a missing value."""

    values: np.ndarray
    starts: np.ndarray
    counts: np.ndarray

    @property
    def present(self) -> np.ndarray:
        return np.add.reduceat(~np.isnan(self.values), self.starts, dtype=np.int64)

    def each(self, per_run: np.ndarray) -> np.ndarray:
        """A figure per run, repeated for each row of the run."""
        return np.repeat(per_run, self.counts)


def count(runs: Runs) -> np.ndarray:
    """Rows, missing or not."""
    return runs.counts


def missing_count(runs: Runs) -> np.ndarray:
    """Rows whose value is missing."""
    return runs.counts - runs.present


def mean(runs: Runs) -> np.ndarray:
    """Arithmetic mean of the values that are not missing; NaN where all are."""
    with np.errstate(invalid="ignore"):
        return np.add.reduceat(np.nan_to_num(runs.values), runs.starts) / runs.present


def variance(runs: Runs) -> np.ndarray:
    """Population variance, in two passes: differences from the mean keep it stable where squares cancel."""
    with np.errstate(invalid="ignore"):
        differences = np.nan_to_num(runs.values - runs.each(mean(runs)))
        return np.add.reduceat(differences * differences, runs.starts) / runs.present


def minimum(runs: Runs) -> np.ndarray:
    """Lowest value."""
    return np.fmin.reduceat(runs.values, runs.starts)


def maximum(runs: Runs) -> np.ndarray:
    """Highest value."""
    return np.fmax.reduceat(runs.values, runs.starts)


def percentile_85(runs: Runs) -> np.ndarray:
    """85th percentile, linear between the two closest ranks (SQL's percentile_cont, NumPy's default)."""
    in_order = runs.values
    if runs.counts.max() > 1:
        run_of_row = runs.each(np.arange(len(runs.starts)))
        in_order = runs.values[np.lexsort((runs.values, run_of_row))]
    present = runs.present
    rank = 0.85 * np.maximum(present - 1, 0)
    lower = np.floor(rank).astype(np.int64)
    upper = np.minimum(lower + 1, np.maximum(present - 1, 0))
    low, high = in_order[runs.starts + lower], in_order[runs.starts + upper]
    return low + (high - low) * (rank - lower)


FUNCTIONS: dict[str, Callable[[Runs], np.ndarray]] = {
    function.__name__: function
    for function in (count, missing_count, mean, variance, minimum, maximum, percentile_85)
}


def aggregate(
    readings: pa.RecordBatch,
    feed: Feed,
    window_seconds: int,
    zero_is_missing: bool = False,
    revision: int = 0,
    pane: str = "on time",
) -> pa.RecordBatch:
    """Readings sorted by key and event time -> one row of `feed.aggregate_schema` per key and window.

    With `zero_is_missing`, a 0 in a field that says `zero_can_mean_missing` is left out of that field's
    figures and counted as missing. A figure without any value is null. `revision` and `pane` say which of a
    window's results this is.
    """
    if not readings.num_rows:
        return pa.RecordBatch.from_pylist([], schema=feed.aggregate_schema)
    windows = readings[feed.event_time].view(pa.int64()).to_numpy() // (window_seconds * MICROS)
    keys = readings[feed.key]
    starts, counts = find_runs(keys.indices.to_numpy(), windows)
    values: dict[str, np.ndarray] = {}
    for name in {aggregate.of for aggregate in feed.aggregates}:
        values[name] = _values(readings[name], zero_is_missing and feed.field(name).zero_can_mean_missing)
    window_starts = windows[starts] * window_seconds * MICROS
    columns = [
        keys.take(pa.array(starts)),
        pa.array(window_starts, TIMESTAMP),
        pa.array(window_starts + window_seconds * MICROS, TIMESTAMP),
    ]
    for wanted in feed.aggregates:
        figures = FUNCTIONS[wanted.function](Runs(values[wanted.of], starts, counts))
        columns.append(pa.array(figures, mask=np.isnan(figures)))
    columns += [
        pa.array(np.full(len(starts), revision, np.int32)),
        pa.repeat(pane, len(starts)).dictionary_encode(),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=feed.aggregate_schema)


def find_runs(codes: np.ndarray, windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(where each run of rows of one code and window begins, how many rows it has)."""
    new_run = (codes[1:] != codes[:-1]) | (windows[1:] != windows[:-1])
    starts = np.concatenate([[0], np.flatnonzero(new_run) + 1])
    return starts, np.diff(starts, append=len(codes))


def _values(column: pa.Array, zero_is_missing: bool) -> np.ndarray:
    if column.null_count == len(column):
        return np.full(len(column), np.nan)
    values = floats(column)
    return np.where(values == 0, np.nan, values) if zero_is_missing else values


@dataclass
class AggregateWindows(beam.PTransform):
    """(start, sorted readings) -> (start, aggregates), one row per key and window."""

    feed: Feed
    window_seconds: int
    zero_is_missing: bool = False

    def expand(
        self, readings: beam.PCollection[tuple[int, pa.RecordBatch]]
    ) -> beam.PCollection[tuple[int, pa.RecordBatch]]:
        return readings | beam.MapTuple(self._aggregate).with_output_types(tuple[int, pa.RecordBatch])

    def _aggregate(self, start: int, readings: pa.RecordBatch) -> tuple[int, pa.RecordBatch]:
        with counters.timed("aggregate"):
            aggregates = aggregate(readings, self.feed, self.window_seconds, self.zero_is_missing)
        counters.sensors_reporting(aggregates)
        return start, aggregates
