"""Validate: readings that keep every rule of their feed go on, the others become dead letters."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import apache_beam as beam
import pyarrow as pa

from schemas.feed import Feed
from transforms import counters
from transforms.rules import validate


class _Validate(beam.DoFn):
    def __init__(self, feed: Feed) -> None:
        self.feed = feed

    def process(self, readings: pa.RecordBatch) -> Iterable[pa.RecordBatch]:
        with counters.timed("validate"):
            accepted, failures = validate(readings, self.feed, time.time_ns() // 1000)
        counters.add(validated=accepted.num_rows, validate_failures=failures.num_rows)
        counters.add_dead_letters(failures)
        counters.newest_event(accepted, self.feed)
        if accepted.num_rows:
            yield accepted
        if failures.num_rows:
            yield beam.pvalue.TaggedOutput("failures", failures)


@dataclass
class Validate(beam.PTransform):
    """Decoded readings -> `readings` that keep every rule of the feed, and `failures`, dead letters."""

    feed: Feed

    def expand(self, readings: beam.PCollection[pa.RecordBatch]) -> beam.pvalue.DoOutputsTuple:
        return readings | beam.ParDo(_Validate(self.feed)).with_output_types(
            pa.RecordBatch, failures=pa.RecordBatch
        ).with_outputs("failures", main="readings")
