"""Sessions: a key's readings cut where a feed's declared gap passes without one, and a row for each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.transforms.window import GlobalWindows

from schemas.feed import TEXT, Cell, Feed, SessionTable
from transforms.aggregate import figures, find_runs, split_runs
from transforms.batches import concatenate
from transforms.casts import ranks
from transforms.deduplicate import sort_keys
from transforms.windows import DAY_SECONDS, MICROS, split_by_shard, split_by_window

SHARDS = 8
"""Enough for the cores of one machine, which is what batch runs on."""


def fields_of_sessions(feed: Feed) -> list[str]:
    """The columns that the feed's session tables are made of."""
    of_tables = (name for table in feed.session_tables for name in table.fields)
    return list(dict.fromkeys([feed.key, feed.event_time, *of_tables]))


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


def cells(readings: pa.RecordBatch, cell: Cell) -> pa.DictionaryArray:
    """The H3 cell of each reading's position, in H3's hexadecimal digits."""
    import polars
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
        return readings.take(pa.array(np.argsort(sort_keys(readings, self.feed), kind="stable")))


@dataclass
class SummarizeSessions(beam.PTransform):
    """Whole sessions -> (start of a UTC day, the rows of those that begin in it, by key and start)."""

    feed: Feed
    table: SessionTable

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
