"""Clean: fill the gaps of measured values, say which were filled and how, and how good each reading is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.windowed_value import PaneInfoTiming

from schemas.clean import ORIGINS, ROLLING_SECONDS, SEASONS, clean_schema, origin_of, rolling_of
from schemas.feed import NULLED, Feed
from transforms import counters
from transforms.accounts import Accounts, count_names
from transforms.batches import concatenate
from transforms.casts import NAIVE, floats
from transforms.deduplicate import deduplicate
from transforms.medians import count_values, declared_medians, medians_of
from transforms.windows import DAY_SECONDS, Stretch

FILL_LIMIT = 3
NOWHERE = -1
OBSERVED, FORWARD, BACKWARD, MEDIAN, MISSING = range(len(ORIGINS))
MICROS = 1_000_000
DAY_MICROS = DAY_SECONDS * MICROS


@dataclass(frozen=True)
class Filled:
    """A series without gaps, as far as they could be filled; NaN is left where not. `origins` are places in
    `ORIGINS`."""

    values: np.ndarray
    origins: np.ndarray


def fill(
    values: np.ndarray,
    times: np.ndarray,
    starts: np.ndarray,
    median: float,
    span: int,
    limit: int = FILL_LIMIT,
) -> Filled:
    """Fills each NaN with the value before, then with the one after, and then with the median.

    A value before or after must be at most `limit` rows and at most `span` away, in the unit of `times`,
    which ascend in each run. No value crosses from one run, beginning at `starts`, to another. So what a gap
    is filled with follows from the rows around it alone.

    >>> nan = np.nan
    >>> values, times = np.array([1, nan, nan, nan, 5]), np.arange(5)
    >>> fill(values, times, np.array([0]), median=9, span=1).values.tolist()
    [1.0, 1.0, 9.0, 5.0, 5.0]
    """
    filled, origins = values.copy(), np.full(len(values), OBSERVED, np.int32)
    missing = np.isnan(values)
    gaps, present = np.flatnonzero(missing), np.append(np.flatnonzero(~missing), NOWHERE)
    following = np.searchsorted(present[:-1], gaps)
    for origin, sources in ((FORWARD, present[following - 1]), (BACKWARD, present[following])):
        near = (np.abs(gaps - sources) <= limit) & (np.abs(times[gaps] - times[sources]) <= span)
        of_run = np.searchsorted(starts, sources, "right") == np.searchsorted(starts, gaps, "right")
        fillable = (sources != NOWHERE) & near & of_run & (origins[gaps] == OBSERVED)
        rows = gaps[fillable]
        filled[rows], origins[rows] = values[sources[fillable]], origin
    rest = gaps[origins[gaps] == OBSERVED]
    filled[rest], origins[rest] = median, MISSING if np.isnan(median) else MEDIAN
    return Filled(filled, origins)


@dataclass(frozen=True)
class Series:
    """A measured field of sorted readings, its gaps filled as far as they could be, and its 24-hour means."""

    filled: Filled
    means: np.ndarray


def series_of(readings: pa.RecordBatch, feed: Feed, reference: Mapping[str, float]) -> dict[str, Series]:
    """Each measured field of readings sorted by key and event time; see `clean`."""
    keys = readings[feed.key].indices.to_numpy()
    starts = np.concatenate([[0], np.flatnonzero(keys[1:] != keys[:-1]) + 1])
    times = readings[feed.event_time].view(pa.int64()).to_numpy()
    first = day_before(times, starts)
    series = {}
    for name in feed.any_of:
        filled = fill(floats(readings[name]), times, starts, reference[name], feed.fill_seconds * MICROS)
        series[name] = Series(filled, rolling_mean(filled.values, first))
    return series


def clean(readings: pa.RecordBatch, feed: Feed, reference: Mapping[str, float]) -> pa.RecordBatch:
    """Readings of `feed.reading_schema`, sorted by key and event time -> as many of `clean_schema(feed)`.

    `reference` are the medians for the gaps that nothing near can fill.
    """
    return _clean_rows(readings, feed, series_of(readings, feed, reference), np.arange(readings.num_rows))


def _clean_rows(
    readings: pa.RecordBatch, feed: Feed, series: Mapping[str, Series], rows: np.ndarray
) -> pa.RecordBatch:
    """Those of the readings, in that order: to build some costs less than to take them out of all."""
    others = [name for name in readings.schema.names if name not in series]
    readings = readings.select(others).take(pa.array(rows))
    columns = {name: readings[name] for name in others if name != NULLED.name}
    missing = np.empty((len(series), len(rows)), bool)
    for place, (name, each) in enumerate(series.items()):
        origins = each.filled.origins.take(rows)
        missing[place] = origins != OBSERVED
        columns[name] = _nullable(each.filled.values.take(rows))
        columns[origin_of(name)] = pa.DictionaryArray.from_arrays(pa.array(origins), pa.array(ORIGINS))
        columns[rolling_of(name)] = _nullable(each.means.take(rows))
    broken = _broken_fields(readings[NULLED.name], feed)
    columns |= _assess(missing, broken, feed) | _calendar(readings[feed.event_time])
    schema = clean_schema(feed)
    return pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)


def clean_between(
    readings: pa.RecordBatch, feed: Feed, reference: Mapping[str, float], start: int, end: int
) -> pa.RecordBatch:
    """The clean readings from `start` to before `end`, microseconds since the epoch.

    They follow from the readings of the stretch and its surroundings, see `stretch_of`, so that it does not
    matter which others are there: part for part this gives what `clean` gives of the whole.
    """
    series = series_of(readings, feed, reference)
    return _clean_rows(readings, feed, series, _rows_between(readings, feed, start, end))


def clean_days(
    readings: pa.RecordBatch, feed: Feed, reference: Mapping[str, float], start: int, end: int
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """(start of a UTC day in seconds, its clean readings) of all days; see `clean_between`."""
    series = series_of(readings, feed, reference)
    for day in range(start // DAY_MICROS * DAY_MICROS, end, DAY_MICROS):
        rows = _rows_between(readings, feed, max(start, day), min(end, day + DAY_MICROS))
        if len(rows):
            yield day // MICROS, _clean_rows(readings, feed, series, rows)


def _rows_between(readings: pa.RecordBatch, feed: Feed, start: int, end: int) -> np.ndarray:
    times = readings[feed.event_time].view(pa.int64()).to_numpy()
    return np.flatnonzero((times >= start) & (times < end))


def stretch_of(feed: Feed, seconds: int) -> Stretch:
    """What the clean readings of so many seconds follow from: a value of 24 hours ago that counts in the
    rolling mean may have been filled from before, and the last one from after.
    """
    return Stretch(seconds, before=ROLLING_SECONDS + feed.fill_seconds, after=feed.fill_seconds)


def _nullable(values: np.ndarray) -> pa.Array:
    missing = np.isnan(values)
    return pa.array(values, mask=missing if missing.any() else None)


def day_before(times: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """For each row the first one of its run that is less than 24 hours before it, or itself.

    `times` are microseconds, ascending in each run; the runs begin at `starts`.
    """
    first = np.empty(len(times), np.int64)
    for start, end in zip(starts, [*starts[1:], len(times)], strict=True):
        run = times[start:end]
        first[start:end] = start + np.searchsorted(run, run - ROLLING_SECONDS * MICROS, "right")
    return first


def rolling_mean(values: np.ndarray, first: np.ndarray) -> np.ndarray:
    """The mean of the values from `first` up to each row, this one included; NaN where none is.

    Each row's values are added up by themselves: a sum that runs on would make the last digits depend on
    where it began.
    """
    rows = np.arange(len(values))
    bounds = np.stack([first, rows + 1], axis=1).ravel()
    missing = np.isnan(values)
    sums = np.add.reduceat(np.append(np.where(missing, 0, values), 0), bounds)[::2]
    counts = rows + 1 - first
    if missing.any():
        absent = np.concatenate([[0], np.cumsum(missing)])
        counts -= absent[rows + 1] - absent[first]
    with np.errstate(invalid="ignore"):
        return sums / counts


def _assess(missing: np.ndarray, broken: np.ndarray, feed: Feed) -> dict[str, pa.Array]:
    """The columns that say what was missing or broke a rule, and the scores that follow from it.

    Both masks have a row for each measured field; what broke a rule is missing too.
    """
    share = missing.mean(axis=0)
    return {
        "qa_missing_fields": _names(missing & ~broken, feed),
        "qa_out_of_range_fields": _names(broken, feed),
        "missing_ratio": pa.array(share),
        "quality_score": pa.array(1 - share),
    }


def _broken_fields(nulled: pa.ListArray, feed: Feed) -> np.ndarray:
    """For each measured field and reading whether its value broke a rule."""
    broken = np.zeros((len(feed.any_of), len(nulled)), bool)
    field_of = {rule.name: feed.any_of.index(rule.field.name) for rule in feed.rules if rule.field.tolerated}
    rows = pc.list_parent_indices(nulled).to_numpy()
    fields = [field_of[name] for name in pc.list_flatten(nulled).to_pylist()]
    broken[np.array(fields, np.int64), rows] = True
    return broken


def _names(mask: np.ndarray, feed: Feed) -> pa.ListArray:
    """For each reading the names of the fields where the mask, a row for each field, is set."""
    offsets = np.concatenate([[0], np.cumsum(mask.sum(axis=0))]).astype(np.int32)
    fields = np.flatnonzero(np.ascontiguousarray(mask.T)) % len(mask)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(feed.any_of).take(pa.array(fields)))


def _calendar(time: pa.TimestampArray) -> dict[str, pa.Array]:
    time = time.view(NAIVE)  # to ask the calendar of a zone, be it UTC, takes seven times as long
    month = pc.month(time)
    season = month.to_numpy() % 12 // 3
    return {
        "hour": pc.hour(time).cast(pa.int32()),
        "weekday": pc.day_of_week(time).cast(pa.int32()),
        "month": month.cast(pa.int32()),
        "season": pa.DictionaryArray.from_arrays(season.astype(np.int32), pa.array(SEASONS)),
    }


def count_clean(cleaned: pa.RecordBatch) -> Accounts:
    """What clean readings add to the accounts."""
    fields = sum(name.endswith(origin_of("")) for name in cleaned.schema.names)
    missing, broken = (count_names(cleaned[name]) for name in ("qa_missing_fields", "qa_out_of_range_fields"))
    measured = cleaned.num_rows * fields
    return Accounts(
        measured=measured,
        usable=measured - missing.total() - broken.total(),
        missing_fields=missing,
        out_of_range_fields=broken,
    )


@dataclass
class FindMedians(beam.PTransform):
    """(start, readings without duplicates) -> the medians of all of them; one element, or none of none."""

    feed: Feed

    def expand(
        self, groups: beam.PCollection[tuple[int, pa.RecordBatch]]
    ) -> beam.PCollection[dict[str, float]]:
        return (
            groups
            | beam.WindowInto(GlobalWindows())
            | beam.MapTuple(lambda _, readings: (0, count_values(readings, self.feed))).with_output_types(
                tuple[int, pa.RecordBatch]
            )
            | beam.GroupByKey()
            | beam.MapTuple(lambda _, counts: medians_of(concatenate(counts), self.feed)).with_output_types(
                dict[str, float]
            )
        )


@dataclass
class Clean(beam.PTransform):
    """(start, readings of a stretch and its surroundings, sorted) -> (start of a UTC day, clean readings).

    `reference` has the medians for what nothing near can fill, as its one element.
    """

    feed: Feed
    stretch: Stretch
    reference: beam.PCollection[dict[str, float]]

    def expand(
        self, groups: beam.PCollection[tuple[int, pa.RecordBatch]]
    ) -> beam.PCollection[tuple[int, pa.RecordBatch]]:
        reference = beam.pvalue.AsSingleton(self.reference, default_value={})
        feed, stretch = self.feed, self.stretch

        def days(
            group: tuple[int, pa.RecordBatch], reference: Mapping[str, float]
        ) -> Iterator[tuple[int, pa.RecordBatch]]:
            start, readings = group
            limits = start * MICROS, (start + stretch.seconds) * MICROS
            return clean_days(readings, feed, reference, *limits)

        return groups | beam.FlatMap(days, reference).with_output_types(tuple[int, pa.RecordBatch])


class _CleanPane(beam.DoFn):
    def __init__(self, feed: Feed, stretch: Stretch) -> None:
        self.feed, self.stretch = feed, stretch
        self.reference = declared_medians(feed)

    def process(
        self,
        group: tuple[int, Iterable[pa.RecordBatch]],
        window=beam.DoFn.WindowParam,
        pane=beam.DoFn.PaneInfoParam,
    ) -> Iterable[tuple[int, pa.RecordBatch]]:
        shard, batches = group[0], list(group[1])
        if not batches:  # every window ends with an empty pane
            return
        readings, _ = deduplicate(concatenate(batches), self.feed)
        cleaned = clean_between(readings, self.feed, self.reference, *self.stretch.inside(window.end))
        if cleaned.num_rows:
            if pane.timing != PaneInfoTiming.LATE:  # which has the readings of the one before once more
                counters.add_accounts(count_clean(cleaned))
            yield shard, cleaned


@dataclass
class CleanPanes(beam.PTransform):
    """(shard, batches so far of a stretch and its surroundings) -> (shard, clean readings of the stretch).

    What nothing near can fill gets the median that the feed declares.
    """

    feed: Feed
    stretch: Stretch

    def expand(
        self, groups: beam.PCollection[tuple[int, Iterable[pa.RecordBatch]]]
    ) -> beam.PCollection[tuple[int, pa.RecordBatch]]:
        return groups | beam.ParDo(_CleanPane(self.feed, self.stretch)).with_output_types(
            tuple[int, pa.RecordBatch]
        )
