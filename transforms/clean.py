"""Clean: fill the gaps of measured values, say which were filled and how, and how good each reading is."""

from __future__ import annotations

import itertools
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
from transforms.aggregate import find_runs
from transforms.batches import concatenate
from transforms.casts import NAIVE, floats
from transforms.deduplicate import deduplicate, sort_keys
from transforms.medians import count_values, declared_medians, medians_of
from transforms.windows import DAY_SECONDS, Stretch, gathered

FILL_LIMIT = 3
NOWHERE = -1
OBSERVED, FORWARD, BACKWARD, MEDIAN, MISSING = range(len(ORIGINS))
MICROS = 1_000_000
DAY_MICROS = DAY_SECONDS * MICROS
BLOCK_ROWS = 16_384
"""A few columns of so many rows fit in the cache of a processor."""


@dataclass(frozen=True)
class Filled:
    """A series without gaps, as far as they could be filled; NaN is left where not. `origins` are places in
    `ORIGINS`; `gaps` are the rows where something was missing."""

    values: np.ndarray
    origins: np.ndarray
    gaps: np.ndarray


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
    origins, missing = np.full(len(values), OBSERVED, np.int8), np.isnan(values)
    if not missing.any():
        return Filled(values, origins, np.empty(0, np.int64))
    filled = values.copy()
    gaps, present = np.flatnonzero(missing), np.append(np.flatnonzero(~missing), NOWHERE)
    following = gaps - np.arange(len(gaps))  # as many values are before each gap
    for origin, sources in ((FORWARD, present[following - 1]), (BACKWARD, present[following])):
        near = (np.abs(gaps - sources) <= limit) & (np.abs(times[gaps] - times[sources]) <= span)
        of_run = np.searchsorted(starts, sources, "right") == np.searchsorted(starts, gaps, "right")
        fillable = (sources != NOWHERE) & near & of_run & (origins[gaps] == OBSERVED)
        rows = gaps[fillable]
        filled[rows], origins[rows] = values[sources[fillable]], origin
    rest = gaps[origins[gaps] == OBSERVED]
    filled[rest], origins[rest] = median, MISSING if np.isnan(median) else MEDIAN
    return Filled(filled, origins, gaps)


@dataclass(frozen=True)
class Series:
    """A measured field of readings: its values, where they are from (places in `ORIGINS`), its 24-hour means.

    Of gaps those are filled that could be; NaN is left where not.
    """

    values: np.ndarray
    origins: np.ndarray
    means: np.ndarray

    @classmethod
    def observed(cls, column: pa.Array) -> Series:
        """Nothing filled yet, and no means."""
        values = floats(column)
        if np.isnan(values).any():  # else nothing will be filled in
            values = np.require(values, requirements="W")
        return cls(values, np.full(len(values), OBSERVED, np.int8), np.empty(len(values)))

    def of(self, rows: slice | np.ndarray) -> Series:
        return Series(self.values[rows], self.origins[rows], self.means[rows])


def series_of(readings: pa.RecordBatch, feed: Feed, reference: Mapping[str, float]) -> dict[str, Series]:
    """Each measured field of at least one reading, in any order and without duplicates; see `clean`.

    They are worked on by key and time, some keys after others, and come out in the order of the readings: so
    nothing but the fields is moved, and of what was filled in little.
    """
    keys, times = readings[feed.key].indices.to_numpy(), readings[feed.event_time].view(pa.int64()).to_numpy()
    series = {name: Series.observed(readings[name]) for name in feed.any_of}
    order = np.argsort(sort_keys(readings, feed), kind="stable")
    for rows in _blocks(order, find_runs(keys[order])[0]):
        starts, _ = find_runs(keys[rows])
        day = DayBefore.of(times[rows], starts)
        for name, each in series.items():
            filled = fill(each.values[rows], times[rows], starts, reference[name], feed.fill_seconds * MICROS)
            each.means[rows] = rolling_mean(filled.values, day)
            if len(filled.gaps):
                gaps = rows[filled.gaps]
                each.values[gaps] = filled.values[filled.gaps]
                each.origins[gaps] = filled.origins[filled.gaps]
    return series


def _blocks(order: np.ndarray, starts: np.ndarray) -> list[np.ndarray]:
    """The order cut where runs begin, into blocks of about `BLOCK_ROWS`, or of one run."""
    blocks = starts // BLOCK_ROWS
    return np.split(order, starts[1:][blocks[1:] != blocks[:-1]])


def clean(readings: pa.RecordBatch, feed: Feed, reference: Mapping[str, float]) -> pa.RecordBatch:
    """Readings of `feed.reading_schema`, at least one, without duplicates -> as many of `clean_schema(feed)`.

    `reference` are the medians for the gaps that nothing near can fill.
    """
    return _clean_rows(readings, feed, series_of(readings, feed, reference))


def _clean_rows(readings: pa.RecordBatch, feed: Feed, series: Mapping[str, Series]) -> pa.RecordBatch:
    columns = {
        name: readings[name] for name in readings.schema.names if name not in series and name != NULLED.name
    }
    for name, each in series.items():
        columns[name] = _nullable(each.values)
        origins = pa.array(each.origins.astype(np.int32))
        columns[origin_of(name)] = pa.DictionaryArray.from_arrays(origins, pa.array(ORIGINS))
        columns[rolling_of(name)] = _nullable(each.means)
    missing = np.stack([each.origins != OBSERVED for each in series.values()])
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
    times = readings[feed.event_time].view(pa.int64()).to_numpy()
    rows = np.flatnonzero((times >= start) & (times < end))
    series = series_of(readings, feed, reference)
    others = readings.drop_columns(list(series)).take(pa.array(rows))
    return _clean_rows(others, feed, {name: each.of(rows) for name, each in series.items()})


def clean_days(
    readings: pa.RecordBatch, feed: Feed, reference: Mapping[str, float], start: int, end: int
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """(start of a UTC day in seconds, its clean readings) of all days; see `clean_between`.

    Both limits are midnights, and the readings are sorted by day.
    """
    days = readings[feed.event_time].view(pa.int64()).to_numpy() // DAY_MICROS
    series = series_of(readings, feed, reference)
    bounds = np.searchsorted(days, np.arange(start // DAY_MICROS, end // DAY_MICROS + 1)).tolist()
    for low, high in itertools.pairwise(bounds):
        if low < high:
            of_day = {name: each.of(slice(low, high)) for name, each in series.items()}
            yield int(days[low]) * DAY_SECONDS, _clean_rows(readings[low:high], feed, of_day)


def stretch_of(feed: Feed, seconds: int) -> Stretch:
    """What the clean readings of so many seconds follow from: a value of 24 hours ago that counts in the
    rolling mean may have been filled from before, and the last one from after.
    """
    return Stretch(seconds, before=ROLLING_SECONDS + feed.fill_seconds, after=feed.fill_seconds)


def _nullable(values: np.ndarray) -> pa.Array:
    missing = np.isnan(values)
    return pa.array(values, mask=missing if missing.any() else None)


@dataclass(frozen=True)
class DayBefore:
    """For each row those of its run that are less than 24 hours before it, up to itself: the first of them,
    and how many they are. `usual` is how many they are most often."""

    first: np.ndarray
    counts: np.ndarray
    usual: int

    @classmethod
    def of(cls, times: np.ndarray, starts: np.ndarray) -> DayBefore:
        """`times` are microseconds, ascending in each run; the runs begin at `starts`."""
        first = np.empty(len(times), np.int64)
        for start, end in zip(starts, [*starts[1:], len(times)], strict=True):
            run = times[start:end]
            first[start:end] = start + np.searchsorted(run, run - ROLLING_SECONDS * MICROS, "right")
        counts = np.arange(1, len(times) + 1) - first
        return cls(first, counts, int(np.bincount(counts).argmax()))


def rolling_mean(values: np.ndarray, day: DayBefore) -> np.ndarray:
    """The mean of the values of the day before each row, this one included; NaN where none is.

    Each row's values are added up by themselves: a sum that runs on would make the last digits depend on
    where it began.
    """
    missing = np.isnan(values)
    present = np.where(missing, 0, values) if missing.any() else values
    sums = np.empty(len(values))
    sums[day.usual - 1 :] = sums_of_consecutive(present, day.usual)
    others = np.flatnonzero(day.counts != day.usual)
    bounds = np.stack([day.first[others], others + 1], axis=1).ravel()
    sums[others] = np.add.reduceat(np.append(present, 0), bounds)[::2]
    counts = day.counts
    if missing.any():
        absent = np.concatenate([[0], np.cumsum(missing)])
        counts = counts - (absent[1:] - absent[day.first])
    with np.errstate(invalid="ignore"):
        return sums / counts


def sums_of_consecutive(values: np.ndarray, length: int) -> np.ndarray:
    """The sums of so many consecutive values, from each place on: to the last digit those of np.add.reduceat.

    It adds to the first value eight sums that it keeps side by side, and then the rest; here each addition is
    one of whole columns, ten times as quick. Fewer values, or more, it adds in another order, and is asked.

    >>> sums_of_consecutive(np.arange(12.0), 10).tolist()
    [45.0, 55.0, 65.0]
    """
    places = len(values) - length + 1
    if not 9 <= length <= 129:
        rows = np.arange(places)
        return np.add.reduceat(np.append(values, 0), np.stack([rows, rows + length], axis=1).ravel())[::2]
    eights = 1 + (length - 1) // 8 * 8
    sums = values[1 : places + 8].copy()
    for place in range(9, eights, 8):
        sums += values[place : place + places + 7]
    for step in (1, 2, 4):
        sums = sums[:-step] + sums[step:]
    for place in range(eights, length):
        sums += values[place : place + places]
    return values[:places] + sums


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
        readings, _ = deduplicate(gathered(batches, self.feed), self.feed)
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
