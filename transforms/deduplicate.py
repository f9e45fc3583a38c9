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


def deduplicate(readings: pa.RecordBatch, feed: Feed) -> tuple[pa.RecordBatch, int]:
    """(the readings without duplicates, sorted by key and event time; the number of duplicates).

    The first by source, partition and position stays, whatever order the rows arrive in: the result depends
    on the set of the rows alone.
    """
    if not readings.num_rows:
        return readings, 0
    keys = _ranks(readings[feed.key])
    micros = readings[feed.event_time].view(pa.int64()).to_numpy()
    sortable = _combine(keys, micros)
    for name in feed.distinct:
        groups = np.unique(sortable, return_inverse=True)[1]
        sortable = _combine(groups, _ranks(readings[name].dictionary_encode()))
    order = np.argsort(sortable)
    in_order = sortable[order]
    repeats = np.flatnonzero(in_order[1:] == in_order[:-1])
    if len(repeats):
        tied = np.union1d(repeats, repeats + 1)
        rows = order[tied]
        tied_rows = readings.select(["source", "partition", "position"]).take(pa.array(rows))
        sources, positions = _ranks(tied_rows["source"]), tied_rows["position"].to_numpy()
        partitions = pc.fill_null(tied_rows["partition"], 0).to_numpy()
        order[tied] = rows[np.lexsort((positions, partitions, sources, in_order[tied]))]
        order = np.delete(order, repeats + 1)
    return readings.take(pa.array(order)), len(repeats)


def _ranks(column: pa.DictionaryArray) -> np.ndarray:
    """For each row the place of its value among the dictionary's values in alphabetical order."""
    places = np.empty(len(column.dictionary), np.int64)
    places[pc.sort_indices(column.dictionary).to_numpy()] = np.arange(len(places))
    return places[column.indices.to_numpy()]


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
