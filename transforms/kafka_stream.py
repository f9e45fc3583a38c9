"""Kafka topics without end: accepted readings in time, and dead letters, for a runner of streams.

Our own DoFn over partitions. Beam's ReadFromKafka would need a Java harness beside the Python one, and allows
no out-of-orderness per partition.
"""

from __future__ import annotations

import gc
import resource
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.coders import PickleCoder
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec, TimerSpec, on_timer
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.shared import Shared
from apache_beam.utils.timestamp import MAX_TIMESTAMP, MIN_TIMESTAMP, Timestamp

from schemas.feed import Feed
from transforms import counters
from transforms.alignment import AHEAD, Alignment
from transforms.batches import concatenate
from transforms.dead_letters import Failure, to_dead_letters
from transforms.kafka_source import to_records
from transforms.latency import with_broker_time
from transforms.looping_timers import fire_after
from transforms.newest_events import Judge, NewestEvents
from transforms.partition_readers import Reader, Readers
from transforms.partitions import Partition, Topic
from transforms.watch_partitions import WatchPartitions
from transforms.watermarks import MICROS, NOTHING, Progress, advance, event_times, too_late

REST_SECONDS = 0.2
GARBAGE = 1_000_000
TOO_LATE = (Failure(("too_late",), "its window had closed when it was read"),)


def _event_time(progress: Progress) -> Timestamp:
    if progress.watermark == NOTHING:
        return MIN_TIMESTAMP
    return min(Timestamp(micros=progress.watermark), MAX_TIMESTAMP)


class Portion(NamedTuple):
    """Some messages of a partition, and what became of them."""

    records: pa.RecordBatch
    readings: pa.RecordBatch  # those that are accepted
    failures: list[pa.RecordBatch]


class _ReadForever(beam.DoFn):
    """A partition is a key: its state is where it stands, and a timer goes on from there."""

    PLACE = ReadModifyWriteStateSpec("place", PickleCoder())  # (partition, offset, progress)
    NEXT = TimerSpec("next", TimeDomain.REAL_TIME)

    def __init__(self, source: ReadForever) -> None:
        self.source = source
        self.shared = Shared()

    def setup(self) -> None:
        # A batch of messages is as many objects, without a cycle: to look for one took a tenth of the time.
        gc.freeze()
        gc.set_threshold(GARBAGE)
        self.readers: Readers = self.shared.acquire(Readers)
        source = self.source
        self.newest = NewestEvents(source.feed, source.topics, source.configuration, source.decode)
        self.alignment = Alignment(source.job, source.topics, source.configuration)

    def process(
        self,
        element: tuple[tuple[str, int], Partition],
        place=beam.DoFn.StateParam(PLACE),  # noqa: B008
        next_read=beam.DoFn.TimerParam(NEXT),  # noqa: B008
    ) -> Iterable[pa.RecordBatch]:
        _, partition = element
        progress = self._follow(Progress(), partition, None) if partition.added else Progress()
        place.write((partition, partition.start, progress))
        yield from self.read(place, next_read)

    @on_timer(NEXT)
    def read(
        self,
        place=beam.DoFn.StateParam(PLACE),  # noqa: B008
        next_read=beam.DoFn.TimerParam(NEXT),  # noqa: B008
    ) -> Iterable[pa.RecordBatch]:
        partition, offset, progress = place.read()
        reader = self.readers.take(partition, offset, self.source.configuration)
        if self._is_ahead(reader):
            reader.stand(self.alignment.note(progress.watermark, reader.caught_up))
            self.readers.give_back(reader)
            fire_after(REST_SECONDS, next_read, hold=_event_time(progress))
            return
        portions = list(self._decode(reader, partition))
        if portions:
            if partition.added and offset == partition.start:
                progress = self._follow(progress, partition, None)
            readings, failures, progress = self._judge(portions, progress)
            reader.mark(progress.watermark)
            for letters in failures:
                yield beam.pvalue.TaggedOutput("failures", letters)
            if readings.num_rows:
                readings = with_broker_time(readings, reader.broker_time)
                # Stamped with its earliest row: a later stamp would lose rows at the GroupByKey.
                earliest = int(event_times(readings, self.source.feed).min())
                yield TimestampedValue(readings, Timestamp(micros=earliest))
        elif reader.idles(self.source.idle_seconds):
            progress = self._follow(progress, partition, reader.end)
        if progress.watermark != NOTHING:
            counters.gauge("watermark", progress.watermark, partition.topic, str(partition.number))
        kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes, on macOS
        counters.gauge("worker_memory", kilobytes * 1024)
        reader.commit(self.alignment.note(progress.watermark, reader.caught_up))
        self.readers.give_back(reader)
        place.write((partition, reader.place, progress))
        # Flink lets a step's watermark out between two of its bundles, else only with a checkpoint: a timer
        # that is due at once leaves nothing between.
        rest = 0 if portions and not reader.caught_up else REST_SECONDS
        fire_after(rest, next_read, hold=_event_time(progress))

    def _is_ahead(self, reader: Reader) -> bool:
        """Whether other partitions have to catch up first."""
        if reader.caught_up:
            return False
        slowest = self.alignment.slowest_beside(reader.partition)
        return slowest is not None and reader.marks.ahead_of(slowest) > AHEAD

    def _decode(self, reader: Reader, partition: Partition) -> Iterator[Portion]:
        """What has come, each portion decoded before the next is fetched."""
        now = time.time_ns() // 1000
        for messages in reader.read():
            records = to_records(messages, partition.topic, partition.number)
            yield Portion(records, *self.source.decode(records, now))

    def _judge(
        self, portions: list[Portion], progress: Progress
    ) -> tuple[pa.RecordBatch, list[pa.RecordBatch], Progress]:
        """(accepted readings that are in time, dead letters, the progress after them)."""
        feed, now = self.source.feed, time.time_ns() // 1000
        readings = concatenate(portion.readings for portion in portions)
        failed = [letters for portion in portions for letters in portion.failures]
        failures = [concatenate(failed)] if failed else []
        times = event_times(readings, feed)
        watermarks, progress = advance(progress, times, self.source.out_of_orderness * MICROS)
        counters.newest_event(readings, feed)
        late = too_late(times, watermarks, self.source.window_seconds, self.source.lateness)
        allowed = too_late(times, watermarks, self.source.window_seconds, 0) & ~late
        if late.any():
            records = concatenate(portion.records for portion in portions)
            rows = pc.is_in(records["position"], readings.filter(pa.array(late))["position"])
            closed = records.filter(rows)
            which = np.zeros(closed.num_rows, np.int32)
            failures = [*failures, to_dead_letters(closed, TOO_LATE, which, feed, "window", now)]
            readings = readings.filter(pa.array(~late))
        for letters in failures:
            counters.add_dead_letters(letters)
        counters.add(
            read=sum(portion.records.num_rows for portion in portions),
            bytes=sum(portion.records["value"].total_values_length for portion in portions),
        )
        counters.add_to("late", {("allowed",): int(allowed.sum()), ("too_late",): int(late.sum())})
        return readings, failures, progress

    def _follow(self, progress: Progress, partition: Partition, end: int | None) -> Progress:
        """The progress of a partition without messages: it goes with the others' event time.

        Never with the clock: a replay of old readings must not find its windows closed.
        """
        newest = self.newest.beside(partition, end)
        reached = newest - self.source.out_of_orderness * MICROS
        return progress._replace(watermark=max(progress.watermark, reached if newest > NOTHING else NOTHING))

    def teardown(self) -> None:
        self.readers.close()
        self.newest.close()
        self.alignment.close()


@dataclass
class ReadForever(beam.PTransform):
    """Topics -> `readings`, accepted and in time, and `failures`, dead letters; without end.

    `decode` makes accepted readings and dead letters of a batch of records, in the order of their offsets.
    The watermark of a partition is its newest supported event time less `out_of_orderness` seconds
    (`transforms.watermarks`). It is checkpointed with the offset, and which rows are too late depends on the
    rows before them in their partition alone: a replay after a failure decides the same.

    A partition that was read to its end and then had no message for `idle_seconds` follows the newest event
    time that the broker holds in the other partitions, and one that is added to a topic begins with it. The
    partitions that are still being read hold the job's windows open by themselves. What the job itself has
    read of the others would be nearer to it, but no process knows that of partitions on other workers; and
    committed offsets are those of a group, which several jobs may share. The price: a partition that idles
    while the job catches up, and then has readings older than the others' newest at the broker by more than
    the lateness, finds them too late.

    A partition that catches up is not read further than some 260,000 messages ahead of the slowest one
    (`transforms.alignment`), so that the state of a long catch-up is bounded too.
    """

    feed: Feed
    topics: tuple[str, ...]
    configuration: Mapping[str, object] = field(repr=False)  # secrets are among it
    decode: Judge
    window_seconds: int
    lateness: int
    out_of_orderness: int
    idle_seconds: float
    job: str = field(default_factory=lambda: uuid.uuid4().hex)

    def expand(self, topics: beam.PCollection[Topic]) -> beam.pvalue.DoOutputsTuple:
        return (
            topics
            | WatchPartitions(self.topics, self.configuration)
            | beam.ParDo(_ReadForever(self))
            .with_output_types(pa.RecordBatch, failures=pa.RecordBatch)
            .with_outputs("failures", main="readings")
        )
