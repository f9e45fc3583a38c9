"""Kafka topics without end: accepted readings in time, and dead letters, for a runner of streams.

Our own DoFn over partitions. Beam's ReadFromKafka would need a Java harness beside the Python one, and allows
no out-of-orderness per partition.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.coders import PickleCoder
from apache_beam.io.iobase import WatermarkEstimator
from apache_beam.io.restriction_trackers import OffsetRange, OffsetRestrictionTracker
from apache_beam.transforms.core import RestrictionProvider, WatermarkEstimatorProvider
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.shared import Shared
from apache_beam.utils.timestamp import MAX_TIMESTAMP, Duration, Timestamp
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from schemas.feed import Feed
from transforms import counters
from transforms.dead_letters import Failure, to_dead_letters
from transforms.kafka_source import after, consume, to_records
from transforms.latency import with_broker_time
from transforms.partitions import (
    BROKER_SECONDS,
    FOREVER,
    Partition,
    Topic,
    Unbounded,
    WatchPartitions,
    connect,
    count_partitions,
)
from transforms.watermarks import MICROS, NOTHING, Progress, advance, too_late

MESSAGES = 65_536
READ_SECONDS, WAIT_SECONDS = 0.2, 0.05
REST_SECONDS = 0.2
PEEKED = 100
PEEK_SECONDS = 2
COMMIT_SECONDS, COMMIT_AGAIN_SECONDS = 1, 3600
TOO_LATE = (Failure(("too_late",), "its window had closed when it was read"),)

Decode = Callable[[pa.RecordBatch, int], tuple[pa.RecordBatch, list[pa.RecordBatch]]]

log = logging.getLogger(__name__)


class _OffsetsFromStart(RestrictionProvider):
    def initial_restriction(self, element: Partition) -> OffsetRange:
        return OffsetRange(element.start, FOREVER)

    def create_tracker(self, restriction: OffsetRange) -> OffsetRestrictionTracker:
        return Unbounded(restriction)

    def restriction_size(self, element: Partition, restriction: OffsetRange) -> float:
        return 1.0

    def restriction_coder(self) -> beam.coders.Coder:
        return PickleCoder()


class _EventTime(WatermarkEstimator):
    """A partition's progress, checkpointed with its offset."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def progress(self) -> Progress:
        return self._progress

    def set_progress(self, progress: Progress) -> None:
        self._progress = progress

    def current_watermark(self) -> Timestamp | None:  # type: ignore[override]
        if self._progress.watermark == NOTHING:
            return None
        return min(Timestamp(micros=self._progress.watermark), MAX_TIMESTAMP)

    def get_estimator_state(self) -> Progress:
        return self._progress

    def observe_timestamp(self, timestamp: Timestamp) -> None:
        pass


class _EventTimeFromNothing(WatermarkEstimatorProvider):
    def initial_estimator_state(self, element: Partition, restriction: OffsetRange) -> Progress:
        return Progress()

    def create_watermark_estimator(self, estimator_state: Progress) -> WatermarkEstimator:
        return _EventTime(estimator_state)

    def estimator_state_coder(self) -> beam.coders.Coder:
        return PickleCoder()


class _Reader:
    """A consumer of one partition, and where it stands."""

    def __init__(self, partition: Partition, start: int, configuration: Mapping[str, object]) -> None:
        self.partition, self.place = partition, start
        self.consumer = connect({**configuration, "on_commit": self._on_commit})
        self.consumer.assign([TopicPartition(partition.topic, partition.number, start)])
        self.heard = self.idled = time.monotonic()
        self.committed, self.committed_at = -1, -float(COMMIT_SECONDS)
        self.end: int | None = None  # of the partition, once it was reached

    def read(self) -> list[Message]:
        """What there is, for as long as more comes at once."""
        messages: list[Message] = []
        deadline = time.monotonic() + READ_SECONDS
        while len(messages) < MESSAGES:
            wait = WAIT_SECONDS if self.end is None else 0
            some, end = consume(self.consumer, wait, MESSAGES - len(messages))
            messages += some
            if some or end is not None:
                self.end = end
            if self.end is not None or time.monotonic() > deadline:
                break
        if messages:
            self.heard, self.place = time.monotonic(), after(messages)
        return messages

    def commit(self) -> None:
        """Tells the group how far this partition is read: for lag monitors, and `--start group`."""
        place = self.place if self.end is None else max(self.place, self.end)
        age = time.monotonic() - self.committed_at
        if age >= (COMMIT_SECONDS if place != self.committed else COMMIT_AGAIN_SECONDS):
            self.committed, self.committed_at = place, time.monotonic()
            self.consumer.commit(
                offsets=[TopicPartition(self.partition.topic, self.partition.number, place)],
                asynchronous=True,
            )

    def _on_commit(self, error: object, places: list[TopicPartition]) -> None:
        if error:
            self.committed = -1  # once more, soon

    def idles(self, seconds: float) -> bool:
        """Whether nothing has come for so long, and again for as long since this was so."""
        now = time.monotonic()
        if self.end is None or now - max(self.heard, self.idled) < seconds:
            return False
        self.idled = now
        return True


class _Readers(dict[tuple[str, int], _Reader]):
    """The readers of a process that are not at work: Beam gives a partition now to one of a process's
    instances of a DoFn, now to another."""

    def take(self, partition: Partition, start: int, configuration: Mapping[str, object]) -> _Reader:
        reader = self.pop((partition.topic, partition.number), None)
        if reader is None or reader.place != start:  # at first, or taken up again from a checkpoint
            if reader:
                reader.consumer.close()
            reader = _Reader(partition, start, configuration)
        return reader

    def give_back(self, reader: _Reader) -> None:
        self[reader.partition.topic, reader.partition.number] = reader

    def close(self) -> None:
        while self:
            self.popitem()[1].consumer.close()


class _Peeks:
    """The newest event times at the broker, looked up again only where a partition has grown."""

    def __init__(self, source: ReadForever) -> None:
        self.source = source
        self.consumer: Consumer | None = None
        self.ends: dict[tuple[str, int], int] = {}
        self.newest: dict[tuple[str, int], int] = {}

    def newest_beside(self, partition: Partition, end: int | None) -> int:
        """The newest event time in the other partitions, `NOTHING` where they have none.

        `NOTHING` as well when the broker has more of this partition than up to `end`, or does not answer.
        """
        try:
            places = self._grown()
            if end is not None and self.ends[partition.topic, partition.number] > end:
                return NOTHING
            self._look(places)
        except KafkaException as error:
            log.info("the newest event times are not known now: %s", error)
            return NOTHING
        others = [time for place, time in self.newest.items() if place != (partition.topic, partition.number)]
        return max(others, default=NOTHING)

    def _grown(self) -> list[TopicPartition]:
        """The last messages of all partitions that have new ones, each as the place where these begin."""
        if self.consumer is None:
            self.consumer = connect(self.source.configuration)
        grown = []
        for topic in self.source.topics:
            for number in range(count_partitions(self.consumer, topic)):
                low, high = self.consumer.get_watermark_offsets(TopicPartition(topic, number), BROKER_SECONDS)
                if high > max(low, self.ends.get((topic, number), 0)):
                    grown.append(TopicPartition(topic, number, max(low, high - PEEKED)))
                self.ends[topic, number] = high
        return grown

    def _look(self, places: list[TopicPartition]) -> None:
        assert self.consumer is not None
        found: dict[Any, list[Message]] = defaultdict(list)
        self.consumer.assign(places)
        waited_for = len(places)
        deadline = time.monotonic() + PEEK_SECONDS
        while waited_for and time.monotonic() < deadline:
            for message in self.consumer.consume(PEEKED, WAIT_SECONDS):
                if message.error():
                    waited_for -= 1
                else:
                    found[message.topic(), message.partition()].append(message)
        self.consumer.unassign()
        for (topic, number), messages in found.items():
            readings, _ = self.source.decode(to_records(messages, topic, number), time.time_ns() // 1000)
            _, progress = advance(Progress(), _times(readings, self.source.feed), 0)
            self.newest[topic, number] = max(self.newest.get((topic, number), NOTHING), progress.watermark)

    def close(self) -> None:
        if self.consumer is not None:
            self.consumer.close()


class _ReadForever(beam.DoFn):
    def __init__(self, source: ReadForever) -> None:
        self.source = source
        self.shared = Shared()

    def setup(self) -> None:
        self.readers: _Readers = self.shared.acquire(_Readers)
        self.peeks = _Peeks(self.source)

    @beam.DoFn.unbounded_per_element()
    def process(
        self,
        partition: Partition,
        tracker=beam.DoFn.RestrictionParam(_OffsetsFromStart()),  # noqa: B008
        estimator=beam.DoFn.WatermarkEstimatorParam(_EventTimeFromNothing()),  # noqa: B008
    ) -> Iterable[pa.RecordBatch]:
        start, progress = tracker.current_restriction().start, estimator.progress()
        unread = partition.added and start == partition.start
        if unread and progress == Progress():
            # From here on it holds the job's watermark, so that this is still the others' when it is read.
            progress = self._follow(progress, partition, None)
            if progress != Progress():
                estimator.set_progress(progress)
                tracker.defer_remainder(Duration(seconds=0))
                return
        reader = self.readers.take(partition, start, self.source.configuration)
        messages = reader.read()
        if messages:
            if not tracker.try_claim(after(messages) - 1):
                reader.consumer.close()
                return
            if unread:
                progress = self._follow(progress, partition, None)
            readings, failures, progress = self._judge(messages, partition, progress)
            for letters in failures:
                yield beam.pvalue.TaggedOutput("failures", letters)
            if readings.num_rows:
                _, broker_time = messages[-1].timestamp()
                readings = with_broker_time(readings, broker_time)
                # Stamped with its earliest row: a later stamp would lose rows at the GroupByKey.
                earliest = int(_times(readings, self.source.feed).min())
                yield TimestampedValue(readings, Timestamp(micros=earliest))
        elif reader.idles(self.source.idle_seconds):
            progress = self._follow(progress, partition, reader.end)
        estimator.set_progress(progress)
        if progress.watermark != NOTHING:
            counters.gauge("watermark", progress.watermark, partition.topic, str(partition.number))
        reader.commit()
        self.readers.give_back(reader)
        tracker.defer_remainder(Duration(seconds=0 if messages else REST_SECONDS))

    def _judge(
        self, messages: list[Message], partition: Partition, progress: Progress
    ) -> tuple[pa.RecordBatch, list[pa.RecordBatch], Progress]:
        """(accepted readings that are in time, dead letters, the progress after them)."""
        feed, now = self.source.feed, time.time_ns() // 1000
        records = to_records(messages, partition.topic, partition.number)
        readings, failures = self.source.decode(records, now)
        times = _times(readings, feed)
        watermarks, progress = advance(progress, times, self.source.out_of_orderness * MICROS)
        counters.newest_event(readings, feed)
        late = too_late(times, watermarks, self.source.window_seconds, self.source.lateness)
        allowed = too_late(times, watermarks, self.source.window_seconds, 0) & ~late
        if late.any():
            rows = pc.is_in(records["position"], readings.filter(pa.array(late))["position"])
            closed = records.filter(rows)
            which = np.zeros(closed.num_rows, np.int32)
            failures = [*failures, to_dead_letters(closed, TOO_LATE, which, feed, "window", now)]
            readings = readings.filter(pa.array(~late))
        for letters in failures:
            counters.add_dead_letters(letters)
        counters.add(read=records.num_rows, bytes=records["value"].total_values_length)
        counters.add_to("late", {("allowed",): int(allowed.sum()), ("too_late",): int(late.sum())})
        return readings, failures, progress

    def _follow(self, progress: Progress, partition: Partition, end: int | None) -> Progress:
        """The progress of a partition without messages: it goes with the others' event time.

        Never with the clock: a replay of old readings must not find its windows closed.
        """
        newest = self.peeks.newest_beside(partition, end)
        reached = newest - self.source.out_of_orderness * MICROS
        return progress._replace(watermark=max(progress.watermark, reached if newest > NOTHING else NOTHING))

    def teardown(self) -> None:
        self.readers.close()
        self.peeks.close()


def _times(readings: pa.RecordBatch, feed: Feed) -> np.ndarray:
    return readings[feed.event_time].view(pa.int64()).to_numpy()


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
    """

    feed: Feed
    topics: tuple[str, ...]
    configuration: Mapping[str, object]
    decode: Decode
    window_seconds: int
    lateness: int
    out_of_orderness: int
    idle_seconds: float

    def expand(self, topics: beam.PCollection[Topic]) -> beam.pvalue.DoOutputsTuple:
        return (
            topics
            | WatchPartitions(self.configuration)
            | beam.Reshuffle()
            | beam.ParDo(_ReadForever(self))
            .with_output_types(pa.RecordBatch, failures=pa.RecordBatch)
            .with_outputs("failures", main="readings")
        )
