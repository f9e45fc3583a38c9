"""Panes: what a window has come to so far, each replacing the one before."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass

import apache_beam as beam
import pyarrow as pa
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import PaneInfo, PaneInfoTiming

from schemas.feed import Feed
from transforms import counters
from transforms.aggregate import aggregate
from transforms.batches import concatenate
from transforms.deduplicate import deduplicate
from transforms.latency import observe_latency
from transforms.pane_counts import PaneCounts

TIMINGS = {
    PaneInfoTiming.EARLY: "early",
    PaneInfoTiming.ON_TIME: "on time",
    PaneInfoTiming.LATE: "late",
    PaneInfoTiming.UNKNOWN: "on time",
}


pane_counts = PaneCounts()


class _SummarizePane(beam.DoFn):
    def __init__(self, feed: Feed, window_seconds: int, zero_is_missing: bool) -> None:
        self.feed, self.window_seconds, self.zero_is_missing = feed, window_seconds, zero_is_missing
        self.run = uuid.uuid4().hex

    def process(
        self,
        group: tuple[int, Iterable[pa.RecordBatch]],
        window=beam.DoFn.WindowParam,
        pane=beam.DoFn.PaneInfoParam,
    ) -> Iterable[tuple[int, pa.RecordBatch] | beam.pvalue.TaggedOutput]:
        shard, batches = group[0], list(group[1])
        if not batches:  # every window ends with an empty pane, which must not replace the last full one
            return
        with counters.timed("deduplicate"):
            readings, duplicates = deduplicate(concatenate(batches), self.feed)
        timing = TIMINGS[pane.timing]
        with counters.timed("aggregate"):
            figures = aggregate(
                readings, self.feed, self.window_seconds, self.zero_is_missing, pane.index, timing
            )
        self._count((self.run, shard, window.start), pane, readings.num_rows, duplicates)
        if timing == "on time":
            counters.add(windows=1)
            counters.sensors_reporting(figures, self.feed.key, shard)
        observe_latency(batches, readings[self.feed.event_time])
        yield beam.pvalue.TaggedOutput("aggregates", (shard, figures))
        if timing != "early":
            yield shard, readings
            yield beam.pvalue.TaggedOutput("final_aggregates", (shard, figures))

    def _count(
        self, window: tuple[str, int, Timestamp], pane: PaneInfo, readings: int, duplicates: int
    ) -> None:
        accepted, repeated = pane_counts.added(window, pane.is_first, readings, duplicates)
        counters.add(accepted=accepted, duplicates=repeated)
        counters.add_to("panes", {(TIMINGS[pane.timing].replace(" ", "_"),): 1})


@dataclass
class SummarizePanes(beam.PTransform):
    """(shard, batches of a window so far) -> `readings` without duplicates, and `aggregates`, by shard.

    Early panes give aggregates only; `final_aggregates` are those of the other panes.
    """

    feed: Feed
    window_seconds: int
    zero_is_missing: bool = False

    def expand(
        self, groups: beam.PCollection[tuple[int, Iterable[pa.RecordBatch]]]
    ) -> beam.pvalue.DoOutputsTuple:
        summarize = _SummarizePane(self.feed, self.window_seconds, self.zero_is_missing)
        pair = tuple[int, pa.RecordBatch]
        return groups | beam.ParDo(summarize).with_output_types(
            pair, aggregates=pair, final_aggregates=pair
        ).with_outputs("aggregates", "final_aggregates", main="readings")
