"""Panes: what a window has come to so far, each replacing the one before."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.transforms.window import IntervalWindow
from apache_beam.utils.windowed_value import PaneInfo, PaneInfoTiming, WindowedValue

from schemas.feed import Feed
from transforms import counters
from transforms.aggregate import aggregate
from transforms.deduplicate import deduplicate
from transforms.latency import observe_latency
from transforms.pane_counts import PaneCounts
from transforms.windows import MICROS, gathered

TIMINGS = {
    PaneInfoTiming.EARLY: "early",
    PaneInfoTiming.ON_TIME: "on time",
    PaneInfoTiming.LATE: "late",
    PaneInfoTiming.UNKNOWN: "on time",
}


pane_counts = PaneCounts()


class Pane(NamedTuple):
    """A window so far: which of its results this is, all its batches, and whether it is the first pane."""

    info: PaneInfo
    batches: list[pa.RecordBatch]
    first: bool

    @property
    def timing(self) -> str:
        return TIMINGS[self.info.timing]

    @property
    def rows(self) -> int:
        return sum(batch.num_rows for batch in self.batches)


def with_panes(aggregates: pa.RecordBatch, panes: Mapping[int, Pane]) -> pa.RecordBatch:
    """The aggregates with the revision and the pane of each one's window, by its start in seconds."""
    starts, codes = np.unique(_starts(aggregates), return_inverse=True)
    of_window = [panes[start] for start in starts.tolist()]
    revisions = pa.array([pane.info.index for pane in of_window], pa.int32()).take(pa.array(codes))
    timings = pa.array([pane.timing for pane in of_window], pa.string()).take(pa.array(codes))
    labels = {"revision": revisions, "pane": timings.dictionary_encode()}
    columns = [labels.get(name, aggregates[name]) for name in aggregates.schema.names]
    return pa.RecordBatch.from_arrays(columns, schema=aggregates.schema)


def _starts(aggregates: pa.RecordBatch) -> np.ndarray:
    return aggregates["window_start"].view(pa.int64()).to_numpy() // MICROS


class _SummarizePanes(beam.DoFn):
    """All panes of a bundle together: when history is replayed, they are many and small."""

    def __init__(self, feed: Feed, window_seconds: int, zero_is_missing: bool) -> None:
        self.feed, self.window_seconds, self.zero_is_missing = feed, window_seconds, zero_is_missing
        self.run = uuid.uuid4().hex

    def start_bundle(self) -> None:
        # (shard, whether it is early) -> window's start -> its latest pane
        self.pending: dict[tuple[int, bool], dict[int, Pane]] = defaultdict(dict)
        self.window: IntervalWindow | None = None

    def process(
        self,
        group: tuple[int, Iterable[pa.RecordBatch]],
        window=beam.DoFn.WindowParam,
        pane=beam.DoFn.PaneInfoParam,
    ) -> None:
        shard, batches = group[0], list(group[1])
        if not batches:  # every window ends with an empty pane, which must not replace the last full one
            return
        start = window.start.micros // MICROS
        before = self.pending[shard, True].pop(start, None) or self.pending[shard, False].get(start)
        latest = Pane(pane, batches, pane.is_first or (before is not None and before.first))
        self.pending[shard, latest.timing == "early"][start] = latest
        self.window = window

    def finish_bundle(self) -> Iterator[WindowedValue | beam.pvalue.TaggedOutput]:
        for (shard, early), panes in self.pending.items():
            if not panes:
                continue
            with counters.timed("deduplicate"):
                batches = [batch for pane in panes.values() for batch in pane.batches]
                readings, _ = deduplicate(gathered(batches, self.feed), self.feed)
            with counters.timed("aggregate"):
                figures = aggregate(readings, self.feed, self.window_seconds, self.zero_is_missing)
                figures = with_panes(figures, panes)
            self._count(shard, readings, figures, panes)
            yield beam.pvalue.TaggedOutput("aggregates", self._output(shard, figures))
            if not early:
                yield self._output(shard, readings)
                yield beam.pvalue.TaggedOutput("final_aggregates", self._output(shard, figures))
        self.pending.clear()

    def _output(self, shard: int, batch: pa.RecordBatch) -> WindowedValue:
        assert self.window is not None  # a bundle with panes has had one
        return WindowedValue((shard, batch), self.window.max_timestamp(), (self.window,))

    def _count(
        self, shard: int, readings: pa.RecordBatch, figures: pa.RecordBatch, panes: Mapping[int, Pane]
    ) -> None:
        times = readings[self.feed.event_time].view(pa.int64()).to_numpy()
        starts, codes = np.unique(times // (self.window_seconds * MICROS), return_inverse=True)
        rows, newest = np.bincount(codes), np.full(len(starts), times.min())
        np.maximum.at(newest, codes, times)
        for start, unique, last in zip(starts.tolist(), rows.tolist(), newest.tolist(), strict=True):
            pane = panes[start * self.window_seconds]
            window = (self.run, shard, start)
            accepted, repeated = pane_counts.added(window, pane.first, unique, pane.rows - unique)
            counters.add(accepted=accepted, duplicates=repeated)
            counters.add_to("panes", {(pane.timing.replace(" ", "_"),): 1})
            observe_latency(pane.batches, last)
        on_time = [start for start, pane in panes.items() if pane.timing == "on time"]
        if on_time:
            counters.add(windows=len(on_time))
            counters.sensors_reporting(
                figures.filter(pa.array(np.isin(_starts(figures), on_time))), self.feed.key, shard
            )


@dataclass
class SummarizePanes(beam.PTransform):
    """(shard, batches of a window so far) -> `readings` without duplicates, and `aggregates`, by shard.

    An element has the panes of many windows, those of a bundle, and of a window's panes the last. Early panes
    give aggregates only; `final_aggregates` are those of the other panes.
    """

    feed: Feed
    window_seconds: int
    zero_is_missing: bool = False

    def expand(
        self, groups: beam.PCollection[tuple[int, Iterable[pa.RecordBatch]]]
    ) -> beam.pvalue.DoOutputsTuple:
        panes = _SummarizePanes(self.feed, self.window_seconds, self.zero_is_missing)
        pair = tuple[int, pa.RecordBatch]
        return groups | beam.ParDo(panes).with_output_types(
            pair, aggregates=pair, final_aggregates=pair
        ).with_outputs("aggregates", "final_aggregates", main="readings")
