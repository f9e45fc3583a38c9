"""Deduplicate: of the readings that a feed calls the same the first by source order stays."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.feed import Feed
from transforms import counters
from transforms.accounts import Accounts
from transforms.batches import concatenate
from transforms.casts import ranks

MICROS = 1_000_000


def deduplicate(readings: pa.RecordBatch, feed: Feed) -> tuple[pa.RecordBatch, int]:
    """(the readings without duplicates, sorted by key and event time; the number of duplicates).

    The first by source, partition and position stays, whatever order the rows arrive in: the result depends
    on the set of the rows alone.
    """
    if not readings.num_rows:
        return readings, 0
    sortable = sort_keys(readings, feed)
    ascending = bool((np.diff(sortable) >= 0).all())
    order = np.arange(len(sortable)) if ascending else np.argsort(sortable, kind="stable")
    in_order = sortable[order]
    same = in_order[1:] == in_order[:-1]
    tied = np.flatnonzero(np.append(same, False) | np.append(False, same))
    rows = _by_source(readings, order[tied], in_order[tied]) if len(tied) else tied
    moved = not ascending or (rows != order[tied]).any()
    order[tied] = rows
    repeated = tied[_repeated(readings, rows, in_order[tied], feed)]
    if moved or len(repeated):
        readings = readings.take(pa.array(np.delete(order, repeated)))
    return readings, len(repeated)


def sort_keys(readings: pa.RecordBatch, feed: Feed, seconds: int | None = None) -> np.ndarray:
    """One integer per row that orders by key, then by event time, equal where both are; at least one row.

    With `seconds`, it orders by stretches of event time of that length first, aligned to the epoch.
    """
    keys, micros = ranks(readings[feed.key]), readings[feed.event_time].view(pa.int64()).to_numpy()
    if seconds:
        stretches = micros // (seconds * MICROS)
        keys += (stretches - stretches.min()) * (keys.max() + 1)
    return _combine(keys, micros)


def _by_source(readings: pa.RecordBatch, rows: np.ndarray, ties: np.ndarray) -> np.ndarray:
    """The rows, those of each tie by source, partition and position; `ties` is ascending."""
    places = readings.select(["source", "partition", "position"]).take(pa.array(rows))
    sources, positions = ranks(places["source"]), places["position"].to_numpy()
    partitions = pc.fill_null(places["partition"], 0).to_numpy()
    one_source = (sources == sources[0]).all() and (partitions == partitions[0]).all()
    if one_source and ((np.diff(positions) > 0) | (np.diff(ties) != 0)).all():
        return rows
    return rows[np.lexsort((positions, partitions, sources, ties))]


def _repeated(readings: pa.RecordBatch, rows: np.ndarray, ties: np.ndarray, feed: Feed) -> np.ndarray:
    """The places among the rows of those that an earlier one of their tie makes a duplicate."""
    codes = [readings[name].take(pa.array(rows)).dictionary_encode() for name in feed.distinct]
    if any(len(each.dictionary) == len(rows) for each in codes):
        return np.empty(0, np.int64)
    same = [ties, *(each.indices.to_numpy() for each in codes)]
    order = np.lexsort(same)
    repeats = np.logical_and.reduce([each[order[1:]] == each[order[:-1]] for each in same])
    return np.sort(order[1:][repeats])


def _combine(keys: np.ndarray, micros: np.ndarray) -> np.ndarray:
    """One integer per row that orders by key, then by time: sorting one array is quicker than two."""
    span = int(micros.max()) - int(micros.min()) + 1
    if (int(keys.max()) + 1) * span < 1 << 63:
        return keys * span + (micros - micros.min())
    return keys * len(micros) + np.unique(micros, return_inverse=True)[1]


class _Deduplicate(beam.DoFn):
    def __init__(self, feed: Feed) -> None:
        self.feed = feed

    def process(self, group: tuple[int, Iterable[pa.RecordBatch]]) -> Iterable[pa.RecordBatch]:
        grouped = concatenate(group[1])
        with counters.timed("deduplicate"):
            readings, duplicates = deduplicate(grouped, self.feed)
        counters.add(grouped=grouped.num_rows, unique=readings.num_rows, duplicates=duplicates)
        yield group[0], readings
        if duplicates:
            yield beam.pvalue.TaggedOutput("accounts", Accounts(duplicates=duplicates))


@dataclass
class Deduplicate(beam.PTransform):
    """(start, batches of a window) -> `readings`, (start, a sorted batch without duplicates); `accounts`."""

    feed: Feed

    def expand(
        self, groups: beam.PCollection[tuple[int, Iterable[pa.RecordBatch]]]
    ) -> beam.pvalue.DoOutputsTuple:
        return groups | beam.ParDo(_Deduplicate(self.feed)).with_output_types(
            tuple[int, pa.RecordBatch], accounts=Accounts
        ).with_outputs("accounts", main="readings")
