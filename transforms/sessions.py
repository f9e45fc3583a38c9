"""Sessions: a key's readings cut where a feed's declared gap passes without one, and a row for each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.transforms.trigger import AccumulationMode, AfterCount, Repeatedly
from apache_beam.transforms.window import GlobalWindows, TimestampedValue
from apache_beam.transforms.window import Sessions as SessionWindows
from apache_beam.utils.timestamp import Timestamp

from schemas.feed import TEXT, WHERE_FROM, Cell, Feed, SessionTable
from transforms.aggregate import figures, find_runs, split_runs
from transforms.batches import concatenate, with_small_dictionaries
from transforms.casts import ranks
from transforms.deduplicate import deduplicate, sort_keys
from transforms.errors import UserError
from transforms.windows import DAY_SECONDS, MICROS, accumulating, split_by_shard, split_by_window

SHARDS = 8
"""Enough for the cores of one machine, which is what batch runs on."""
MORE_SECONDS = 1
"""A runner may cut times to milliseconds: its sessions are a little longer, and then cut exactly."""


def fields_of_sessions(feed: Feed) -> list[str]:
    """The columns that the feed's session tables are made of."""
    of_tables = (name for table in feed.session_tables for name in table.fields)
    return list(dict.fromkeys([feed.key, feed.event_time, *of_tables]))


def sort_by_key_and_time(readings: pa.RecordBatch, feed: Feed) -> pa.RecordBatch:
    """The readings, at least one, by key and event time; those that agree in both keep their order."""
    return readings.take(pa.array(np.argsort(sort_keys(readings, feed), kind="stable")))


def session_starts(readings: pa.RecordBatch, feed: Feed) -> np.ndarray:
    """The first row of each session of readings sorted by key and event time; there must be a row."""
    assert feed.sessions
    micros = readings[feed.event_time].view(pa.int64()).to_numpy()
    gaps = np.diff(micros, prepend=micros[0]) >= feed.sessions.gap_seconds * MICROS
    return find_runs(readings[feed.key].indices.to_numpy(), np.cumsum(gaps))[0]


def summarize_sessions(readings: pa.RecordBatch, feed: Feed, table: SessionTable) -> pa.RecordBatch:
    """Whole sessions, sorted by key and event time -> rows of `feed.session_schema(table)`, in that order."""
    schema = feed.session_schema(table)
    if not readings.num_rows:
        return pa.RecordBatch.from_pylist([], schema)
    starts = first_rows = session_starts(readings, feed)
    times = readings[feed.event_time]
    firsts = times.take(pa.array(starts))
    lasts = times.take(pa.array(np.append(starts[1:], readings.num_rows) - 1))
    readings = readings.select(dict.fromkeys([feed.key, *table.fields]))
    if table.cell:
        readings = readings.append_column(table.cell.name, cells(readings, table.cell))
    parts = [*table.per, *([table.cell.name] if table.cell else [])]
    if parts:
        readings, starts = split_runs(readings, starts, [ranks(readings[name]) for name in parts])
    rows = pa.array(starts)
    sessions = pa.array(np.searchsorted(first_rows, starts, "right") - 1)
    columns = [
        readings[feed.key].take(rows),
        firsts.take(sessions),
        lasts.take(sessions),
        *(readings[name].take(rows) for name in parts),
        *figures(readings, starts, table.aggregates),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def refuse_cells_without_h3(table: SessionTable) -> None:
    """UserError when the table has cells and what finds them is not installed."""
    if not table.cell:
        return
    try:
        import polars_h3  # noqa: F401
    except ImportError:
        raise UserError(f"the table {table.name} of this feed needs H3: pip install '.[signs]'") from None


def cells(readings: pa.RecordBatch, cell: Cell) -> pa.DictionaryArray:
    """The H3 cell of each reading's position, in H3's hexadecimal digits."""
    import polars  # an extra, like the next
    import polars_h3

    positions = polars.DataFrame(readings.select([cell.latitude, cell.longitude]))
    numbers = positions.select(polars_h3.latlng_to_cell(*positions.columns, cell.resolution)).to_series()
    distinct = numbers.to_arrow().dictionary_encode()
    texts = [f"{number:x}" for number in distinct.dictionary.to_pylist()]
    return pa.DictionaryArray.from_arrays(distinct.indices.cast(pa.int32()), pa.array(texts, TEXT.value_type))


@dataclass
class GroupSessions(beam.PTransform):
    """(start, sorted readings without duplicates) -> whole sessions, sorted by key and event time.

    For files, whose readings are all there at the end: a session may span any of the groups. The readings
    have the columns that the feed's session tables are made of.
    """

    feed: Feed

    def expand(
        self, groups: beam.PCollection[tuple[int, pa.RecordBatch]]
    ) -> beam.PCollection[pa.RecordBatch]:
        pair = tuple[int, pa.RecordBatch]
        return (
            groups
            | beam.WindowInto(GlobalWindows())
            | beam.FlatMapTuple(lambda _, readings: self._split(readings)).with_output_types(pair)
            | beam.GroupByKey()
            | beam.MapTuple(lambda _, batches: self._sort(concatenate(batches))).with_output_types(
                pa.RecordBatch
            )
        )

    def _split(self, readings: pa.RecordBatch) -> Iterator[tuple[int, pa.RecordBatch]]:
        return split_by_shard(readings.select(fields_of_sessions(self.feed)), SHARDS, self.feed.key)

    def _sort(self, readings: pa.RecordBatch) -> pa.RecordBatch:
        return sort_by_key_and_time(readings, self.feed)


@dataclass
class SummarizeSessions(beam.PTransform):
    """Whole sessions -> (start of a UTC day, the rows of those that begin in it, by key and start)."""

    feed: Feed
    table: SessionTable

    def __post_init__(self) -> None:
        refuse_cells_without_h3(self.table)

    def expand(
        self, sessions: beam.PCollection[pa.RecordBatch]
    ) -> beam.PCollection[tuple[int, pa.RecordBatch]]:
        pair = tuple[int, pa.RecordBatch]
        return (
            sessions
            | beam.FlatMap(self._summarize).with_output_types(pair)
            | beam.GroupByKey()
            | beam.MapTuple(lambda day, parts: (day, self._sort(concatenate(parts)))).with_output_types(pair)
        )

    def _summarize(self, readings: pa.RecordBatch) -> Iterator[tuple[int, pa.RecordBatch]]:
        return split_by_window(
            summarize_sessions(readings, self.feed, self.table), DAY_SECONDS, "session_start"
        )

    def _sort(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        return rows.take(pa.array(np.argsort(ranks(rows[self.feed.key]), kind="stable")))


def session_slices(readings: pa.RecordBatch, feed: Feed) -> Iterator[tuple[str, pa.RecordBatch]]:
    """(key, its readings of less than one gap of time), by key and time."""
    assert feed.sessions
    if not readings.num_rows:
        return
    readings = sort_by_key_and_time(readings, feed)
    keys, micros = readings[feed.key], readings[feed.event_time].view(pa.int64()).to_numpy()
    starts, counts = find_runs(keys.indices.to_numpy(), micros // (feed.sessions.gap_seconds * MICROS))
    for start, count in zip(starts.tolist(), counts.tolist(), strict=True):
        yield keys[start].as_py(), with_small_dictionaries(readings.slice(start, count))


@dataclass
class GroupBySession(beam.PTransform):
    """Readings of a stream -> the sessions so far, whole, sorted, without duplicates, pane by pane.

    A batch is stamped with its first reading only, so a slice of a session is followed by an empty one at its
    last: the two, and any neighbour nearer than the gap, fall into one of Beam's session windows. A late
    reading between two sessions makes them one, and gives a pane of all of it.
    """

    feed: Feed
    allowed_lateness_seconds: int

    def expand(self, readings: beam.PCollection[pa.RecordBatch]) -> beam.PCollection[pa.RecordBatch]:
        assert self.feed.sessions
        windows = SessionWindows(self.feed.sessions.gap_seconds + MORE_SECONDS)
        return (
            readings
            | "SplitBySession" >> beam.FlatMap(self._split).with_output_types(tuple[str, pa.RecordBatch])
            | beam.WindowInto(windows, **accumulating(self.allowed_lateness_seconds))
            | beam.GroupByKey()
            | beam.FlatMapTuple(lambda _, batches: self._whole(list(batches))).with_output_types(
                pa.RecordBatch
            )
        )

    def _split(self, readings: pa.RecordBatch) -> Iterator[TimestampedValue]:
        identity = [*(field.name for field in WHERE_FROM), *self.feed.distinct]
        columns = dict.fromkeys([*fields_of_sessions(self.feed), *identity])
        for key, part in session_slices(readings.select(columns), self.feed):
            micros = part[self.feed.event_time].view(pa.int64())
            yield TimestampedValue((key, part), Timestamp(micros=micros[0].as_py()))
            yield TimestampedValue((key, part.slice(0, 0)), Timestamp(micros=micros[-1].as_py()))

    def _whole(self, batches: list[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        if any(batch.num_rows for batch in batches):  # every window ends with an empty pane
            yield deduplicate(concatenate(batches), self.feed)[0]


@dataclass
class SummarizeSessionPanes(beam.PTransform):
    """Sessions so far -> (shard, their rows of the table); a shard is worked on in one place at a time."""

    feed: Feed
    table: SessionTable
    shards: int

    def __post_init__(self) -> None:
        refuse_cells_without_h3(self.table)

    def expand(
        self, sessions: beam.PCollection[pa.RecordBatch]
    ) -> beam.PCollection[tuple[int, pa.RecordBatch]]:
        pair = tuple[int, pa.RecordBatch]
        return (
            sessions
            | beam.FlatMap(self._summarize).with_output_types(pair)
            | beam.WindowInto(
                GlobalWindows(),
                trigger=Repeatedly(AfterCount(1)),
                accumulation_mode=AccumulationMode.DISCARDING,
            )
            | beam.GroupByKey()
            | beam.FlatMapTuple(lambda shard, parts: [(shard, part) for part in parts]).with_output_types(
                pair
            )
        )

    def _summarize(self, readings: pa.RecordBatch) -> Iterable[tuple[int, pa.RecordBatch]]:
        rows = summarize_sessions(readings, self.feed, self.table)
        return split_by_shard(rows, self.shards, self.feed.key)
