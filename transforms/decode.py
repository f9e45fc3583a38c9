"""Decode: from records of a format to typed readings, and dead letters."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import apache_beam as beam
import pyarrow as pa

from schemas.feed import Feed
from transforms import counters
from transforms.decode_csv import decode_csv


class _Decode(beam.DoFn):
    def __init__(self, step: Decode) -> None:
        self.step = step

    def process(self, records: pa.RecordBatch) -> Iterable[pa.RecordBatch]:
        with counters.timed("decode"):
            readings, failures = self.step.decode(records, time.time_ns() // 1000)
        counters.add(decoded=readings.num_rows, decode_failures=failures.num_rows)
        counters.add_dead_letters(failures)
        yield readings
        if failures.num_rows:
            yield beam.pvalue.TaggedOutput("failures", failures)


class Decode(beam.PTransform):
    """Records -> `readings`, not yet validated, and `failures`, dead letters; each format is a subclass."""

    def decode(self, records: pa.RecordBatch, now: int) -> tuple[pa.RecordBatch, pa.RecordBatch]:
        """(readings, dead letters) of a batch; `now` is microseconds since the epoch."""
        raise NotImplementedError

    def expand(self, records: beam.PCollection[pa.RecordBatch]) -> beam.pvalue.DoOutputsTuple:
        return records | beam.ParDo(_Decode(self)).with_output_types(
            pa.RecordBatch, failures=pa.RecordBatch
        ).with_outputs("failures", main="readings")


@dataclass
class DecodeCsv(Decode):
    """Records of CSV text; `timezone` is that of timestamps without an offset."""

    feed: Feed
    timezone: str = "UTC"

    def decode(self, records: pa.RecordBatch, now: int) -> tuple[pa.RecordBatch, pa.RecordBatch]:
        return decode_csv(records, self.feed, self.timezone, now)
