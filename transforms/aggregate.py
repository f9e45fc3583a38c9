"""Aggregate: one row per key and window, and per value of the fields that a feed aggregates by."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
import pyarrow as pa

from schemas.feed import PICKED, TIMESTAMP, Aggregate, Feed
from transforms import counters
from transforms.casts import floats, ranks

MICROS = 1_000_000
EARTH_RADIUS_METERS = 6_371_008.8
"""The mean radius of the International Union of Geodesy and Geophysics."""


@dataclass(frozen=True)
class Runs:
    """Values cut into runs of consecutive rows, one per group; NaN is a missing value."""

    values: np.ndarray
    starts: np.ndarray
    counts: np.ndarray

    @property
    def present(self) -> np.ndarray:
        return np.add.reduceat(~np.isnan(self.values), self.starts, dtype=np.int64)

    @property
    def of_row(self) -> np.ndarray:
        """For each row the number of its run."""
        return self.each(np.arange(len(self.starts)))

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
        in_order = runs.values[np.lexsort((runs.values, runs.of_row))]
    present = runs.present
    rank = 0.85 * np.maximum(present - 1, 0)
    lower = np.floor(rank).astype(np.int64)
    upper = np.minimum(lower + 1, np.maximum(present - 1, 0))
    low, high = in_order[runs.starts + lower], in_order[runs.starts + upper]
    return low + (high - low) * (rank - lower)


def distinct_count(*columns: Runs) -> np.ndarray:
    """Distinct values; of several columns, distinct combinations. Missing is a value like any other."""
    keys = [np.nan_to_num(each.values, nan=-np.inf) for each in columns]
    runs = columns[0]
    if not _ascend(runs.of_row, *keys):
        order = np.lexsort((*reversed(keys), runs.of_row))
        keys = [key[order] for key in keys]
    new = np.ones(len(runs.values), bool)
    new[1:] = np.logical_or.reduce([key[1:] != key[:-1] for key in keys])
    new[runs.starts] = True
    return np.add.reduceat(new, runs.starts, dtype=np.int64)


def _ascend(*keys: np.ndarray) -> bool:
    """Whether the rows are in the order of the keys, the first one first: frames of a drive are, by time."""
    tied = np.ones(len(keys[0]) - 1, bool)
    for key in keys:
        if (tied & (key[1:] < key[:-1])).any():
            return False
        tied &= key[1:] == key[:-1]
    return True


def track_length(latitudes: Runs, longitudes: Runs) -> np.ndarray:
    """Metres from each position, in degrees, to the next one of the run: great circles on a sphere.

    Rows without a position are passed over.
    """
    present = ~(np.isnan(latitudes.values) | np.isnan(longitudes.values))
    run = latitudes.of_row[present]
    north, east = np.radians(latitudes.values[present]), np.radians(longitudes.values[present])
    across = np.cos(north)
    haversine = np.sin(np.diff(north) / 2) ** 2 + across[1:] * across[:-1] * np.sin(np.diff(east) / 2) ** 2
    meters = 2 * EARTH_RADIUS_METERS * np.arcsin(np.sqrt(np.minimum(haversine, 1)))
    inside = run[1:] == run[:-1]
    return np.bincount(run[1:][inside], meters[inside], len(latitudes.starts))


def mean_longitude(runs: Runs) -> np.ndarray:
    """Mean of longitudes, in degrees, that may lie on both sides of the 180th; NaN where none is."""
    first = runs.each(np.fmin.reduceat(runs.values, runs.starts))
    from_first = (runs.values - first + 180) % 360 - 180
    means = first[runs.starts] + mean(Runs(from_first, runs.starts, runs.counts))
    return (means + 180) % 360 - 180


def first(runs: Runs) -> np.ndarray:
    """The first row of each run."""
    return runs.starts


def last(runs: Runs) -> np.ndarray:
    """The last row of each run."""
    return runs.starts + runs.counts - 1


def at_highest(runs: Runs, by: Runs) -> np.ndarray:
    """The first row of each run that has the highest value of `by`."""
    highest = np.flatnonzero(by.values == by.each(maximum(by)))
    return highest[np.searchsorted(highest, runs.starts)]


FUNCTIONS: dict[str, Callable[..., np.ndarray]] = {
    function.__name__: function
    for function in (
        *(count, missing_count, mean, variance, minimum, maximum, percentile_85),
        *(distinct_count, track_length, mean_longitude, first, last, at_highest),
    )
}


def find_runs(*codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(where each run of rows that agree in all codes begins, how many rows it has); there must be a row."""
    changed = np.logical_or.reduce([code[1:] != code[:-1] for code in codes])
    starts = np.concatenate([[0], np.flatnonzero(changed) + 1])
    return starts, np.diff(starts, append=len(codes[0]))


def split_runs(
    readings: pa.RecordBatch, starts: np.ndarray, codes: Sequence[np.ndarray]
) -> tuple[pa.RecordBatch, np.ndarray]:
    """Runs of rows cut by codes of the rows: (each run's rows ordered by code, the starts of the new runs).

    Rows that agree keep their order.
    """
    run = np.repeat(np.arange(len(starts)), np.diff(starts, append=readings.num_rows))
    order = np.lexsort((*reversed(codes), run))
    starts, _ = find_runs(run[order], *(code[order] for code in codes))
    return readings.take(pa.array(order)), starts


def figures(
    readings: pa.RecordBatch,
    starts: np.ndarray,
    aggregates: Sequence[Aggregate],
    zeros_missing: Collection[str] = (),
) -> list[pa.Array]:
    """The aggregates' columns, a value for each run of rows; null where no value of the run is there.

    In the fields `zeros_missing` a 0 is left out, and counted as missing.
    """
    counts = np.diff(starts, append=readings.num_rows)
    names = {name for aggregate in aggregates for name in aggregate.fields}
    runs = {name: Runs(_values(readings[name], name in zeros_missing), starts, counts) for name in names}
    columns = []
    for wanted in aggregates:
        result = FUNCTIONS[wanted.function](*(runs[name] for name in wanted.fields))
        if wanted.function in PICKED:
            columns.append(readings[wanted.fields[0]].take(pa.array(result)))
        else:
            columns.append(pa.array(result, mask=np.isnan(result)))
    return columns


def aggregate(
    readings: pa.RecordBatch,
    feed: Feed,
    window_seconds: int,
    zero_is_missing: bool = False,
) -> pa.RecordBatch:
    """Readings sorted by key and event time -> `feed.aggregate_schema`, a row per key, window and `feed.per`.

    With `zero_is_missing`, a 0 in a field that says `zero_can_mean_missing` is left out of that field's
    figures and counted as missing. A figure without any value is null. `revision` and `pane` are those of a
    window's only result.
    """
    if not readings.num_rows:
        return pa.RecordBatch.from_pylist([], schema=feed.aggregate_schema)
    starts, _ = find_runs(readings[feed.key].indices.to_numpy(), _windows(readings, feed, window_seconds))
    if feed.per:
        used = {name for each in feed.aggregates for name in each.fields}
        readings = readings.select(sorted({feed.key, feed.event_time, *feed.per, *used}))
        readings, starts = split_runs(readings, starts, [ranks(readings[name]) for name in feed.per])
    firsts = readings.select([feed.key, *feed.per, feed.event_time]).take(pa.array(starts))
    window_starts = _windows(firsts, feed, window_seconds) * window_seconds * MICROS
    zeros_missing = [field.name for field in feed.fields if zero_is_missing and field.zero_can_mean_missing]
    columns = [
        *firsts.columns[:-1],
        pa.array(window_starts, TIMESTAMP),
        pa.array(window_starts + window_seconds * MICROS, TIMESTAMP),
        *figures(readings, starts, feed.aggregates, zeros_missing),
        pa.array(np.zeros(len(starts), np.int32)),
        pa.repeat("on time", len(starts)).dictionary_encode(),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=feed.aggregate_schema)


def _windows(readings: pa.RecordBatch, feed: Feed, seconds: int) -> np.ndarray:
    return readings[feed.event_time].view(pa.int64()).to_numpy() // (seconds * MICROS)


def _values(column: pa.Array, zero_is_missing: bool = False) -> np.ndarray:
    """The column as floats, NaN for null; text as numbers that are equal where the text is."""
    if column.null_count == len(column):
        return np.full(len(column), np.nan)
    if pa.types.is_string(column.type):
        column = column.dictionary_encode()
    if pa.types.is_dictionary(column.type):
        column = column.indices
    if pa.types.is_timestamp(column.type):
        column = column.view(pa.int64())
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
        counters.sensors_reporting(aggregates, self.feed.key)
        return start, aggregates
