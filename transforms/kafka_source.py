"""Kafka topics as batches: up to their present ends, or without end for a runner of streams.

Our own DoFns over (topic, partition). Beam's ReadFromKafka would need a Java harness beside the Python one,
and allows no out-of-orderness per partition.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.coders import PickleCoder
from apache_beam.io.restriction_trackers import OffsetRange, OffsetRestrictionTracker
from apache_beam.io.watermark_estimators import ManualWatermarkEstimator
from apache_beam.transforms.core import RestrictionProvider
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import MAX_TIMESTAMP, Duration, Timestamp
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from schemas.feed import Feed
from schemas.record import RECORD
from transforms import counters
from transforms.accounts import Accounts
from transforms.dead_letters import Failure, to_dead_letters
from transforms.errors import UserError
from transforms.watermarks import MICROS, advance, newest_supported, too_late

MESSAGES = 16_384
BROKER_SECONDS = 10
SILENCE_SECONDS = 60
SLICE_SECONDS = 0.25
PEEKED = 100
PEEK_SECONDS = 2
COMMIT_SECONDS = 1
FOREVER = 2**63 - 1
LEAP_MICROS = 86_400 * MICROS
# A small queue, refilled quickly, reads as fast as a large one in a quarter of the memory.
CONSUMER = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "enable.partition.eof": True,
    "auto.offset.reset": "error",
    "queued.min.messages": 20_000,
    "fetch.queue.backoff.ms": 5,
    "isolation.level": "read_committed",
}
TOO_LATE = (Failure(("too_late",), "its window had closed when it was read"),)

Decode = Callable[[pa.RecordBatch, int], tuple[pa.RecordBatch, list[pa.RecordBatch]]]

log = logging.getLogger(__name__)
silent = logging.getLogger(f"{__name__}.librdkafka")
silent.setLevel(logging.CRITICAL)  # what matters of its log comes as errors too, and is told in a line


class Partition(NamedTuple):
    """Some offsets of a topic's partition: from `start` up to `end`, which is not one of them."""

    topic: str
    number: int
    start: int
    end: int


def connect(configuration: Mapping[str, object]) -> Consumer:
    """A consumer with the settings that this source relies on. UserError for a setting that is none."""
    try:
        return Consumer({"group.id": "sensor-feeds", **configuration, **CONSUMER}, logger=silent)
    except KafkaException as error:
        raise UserError(f"Kafka: {error.args[0].str()}") from error


def find_partitions(
    topics: Sequence[str], configuration: Mapping[str, object], start: str
) -> list[Partition]:
    """The partitions of the topics with their present ends.

    `start` is `earliest`, `latest`, `group` (the group's committed offsets, else the earliest), or
    milliseconds since the epoch (the first message of that time or later). UserError when no broker answers
    or a topic does not exist.
    """
    consumer = connect(configuration)
    try:
        return [
            _partition(consumer, topic, number, start)
            for topic in topics
            for number in _partition_numbers(consumer, topic, configuration)
        ]
    except KafkaException as error:
        raise UserError(f"{_servers(configuration)}: {error.args[0].str()}") from error
    finally:
        consumer.close()


def _servers(configuration: Mapping[str, object]) -> str:
    return f"Kafka at {configuration.get('bootstrap.servers')}"


def _partition_numbers(consumer: Consumer, topic: str, configuration: Mapping[str, object]) -> list[int]:
    metadata = consumer.list_topics(topic, BROKER_SECONDS).topics[topic]
    if metadata.error is not None:
        raise UserError(f"{_servers(configuration)}: topic {topic} does not exist; create it first")
    return sorted(metadata.partitions)


def _partition(consumer: Consumer, topic: str, number: int, start: str) -> Partition:
    low, high = consumer.get_watermark_offsets(TopicPartition(topic, number), BROKER_SECONDS)
    match start:
        case "earliest":
            first = low
        case "latest":
            first = high
        case "group":
            (committed,) = consumer.committed([TopicPartition(topic, number)], BROKER_SECONDS)
            first = committed.offset if committed.offset >= 0 else low
        case milliseconds:
            wanted = TopicPartition(topic, number, int(milliseconds))
            (found,) = consumer.offsets_for_times([wanted], BROKER_SECONDS)
            first = found.offset if found.offset >= 0 else high
    return Partition(topic, number, max(first, low), high)


def to_records(messages: Sequence[Message], topic: str, number: int) -> pa.RecordBatch:
    """The messages of one partition as a batch of `RECORD`; the value of a tombstone is null."""
    rows = len(messages)
    return pa.RecordBatch.from_arrays(
        [
            pa.array([message.value() for message in messages], pa.binary()),
            pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), pa.array([topic])),
            pa.array(np.full(rows, number, np.int32)),
            pa.array([message.offset() for message in messages], pa.int64()),
        ],
        schema=RECORD,
    )


def consume(consumer: Consumer, seconds: float, most: int = MESSAGES) -> tuple[list[Message], bool]:
    """(messages of the one partition assigned, whether its end was reached), after so many or so long.

    UserError when the broker refuses, or no longer has the offset that comes next: those messages are lost.
    """
    messages = consumer.consume(most, seconds)
    at_end = False
    if any(message.error() for message in messages):
        for message in messages:
            at_end = at_end or _is_end(message)
        messages = [message for message in messages if not message.error()]
    return messages, at_end


def _is_end(message: Message) -> bool:
    error = message.error()
    if error is None:
        return False
    if error.code() == KafkaError._PARTITION_EOF:
        return True
    where = f"{message.topic()}/{message.partition()} at offset {message.offset()}"
    raise UserError(f"{where}: {error.str()}")


def _offset(message: Message) -> int:
    offset = message.offset()
    assert offset is not None  # only messages that were not yet sent have none
    return offset


def _after(messages: Sequence[Message]) -> int:
    return _offset(messages[-1]) + 1


def read_to_end(partition: Partition, configuration: Mapping[str, object]) -> Iterator[pa.RecordBatch]:
    """Batches of records up to the partition's `end`. UserError when the broker falls silent before."""
    consumer = connect(configuration)
    heard, place = time.monotonic(), partition.start
    try:
        consumer.assign([TopicPartition(partition.topic, partition.number, partition.start)])
        while place < partition.end:
            messages, at_end = consume(consumer, 0.5)
            if messages or at_end:
                heard = time.monotonic()
            elif time.monotonic() - heard > SILENCE_SECONDS:
                raise UserError(
                    f"{_servers(configuration)}: silent for {SILENCE_SECONDS} s, at offset {place}"
                )
            if messages:
                place = _after(messages)
                messages = [message for message in messages if _offset(message) < partition.end]
                yield to_records(messages, partition.topic, partition.number)
            if at_end:  # what lies between the last message and the end are marks of transactions
                place = partition.end
    finally:
        consumer.close()


class _ReadToEnd(beam.DoFn):
    def __init__(self, configuration: Mapping[str, object]) -> None:
        self.configuration = configuration

    def process(self, partition: Partition) -> Iterable[pa.RecordBatch]:
        read = 0
        for batch in read_to_end(partition, self.configuration):
            read += batch.num_rows
            counters.add(read=batch.num_rows, bytes=batch["value"].total_values_length)
            yield batch
        yield beam.pvalue.TaggedOutput("accounts", Accounts(read=read))


@dataclass
class ReadToEnd(beam.PTransform):
    """Partitions -> `records`, batches of `RECORD` up to each one's end, and `accounts`, what was read."""

    configuration: Mapping[str, object]

    def expand(self, partitions: beam.PCollection[Partition]) -> beam.pvalue.DoOutputsTuple:
        return (
            partitions
            | beam.Reshuffle()
            | beam.ParDo(_ReadToEnd(self.configuration))
            .with_output_types(pa.RecordBatch, accounts=Accounts)
            .with_outputs("accounts", main="records")
        )


class _UnboundedOffsets(OffsetRestrictionTracker):
    def try_split(self, fraction_of_remainder: float):
        """Splits behind what is claimed: nothing lies in the middle of what has no end."""
        return super().try_split(0)

    def is_bounded(self) -> bool:
        return False


class _OffsetsFromStart(RestrictionProvider):
    def initial_restriction(self, element: Partition) -> OffsetRange:
        return OffsetRange(element.start, FOREVER)

    def create_tracker(self, restriction: OffsetRange) -> OffsetRestrictionTracker:
        return _UnboundedOffsets(restriction)

    def restriction_size(self, element: Partition, restriction: OffsetRange) -> float:
        return 1.0

    def restriction_coder(self) -> beam.coders.Coder:
        return PickleCoder()


class _Reader:
    """A consumer of one partition, and where it stands."""

    def __init__(self, partition: Partition, start: int, configuration: Mapping[str, object]) -> None:
        self.partition, self.place = partition, start
        self.consumer = connect(configuration)
        self.consumer.assign([TopicPartition(partition.topic, partition.number, start)])
        self.heard = self.committed = self.followed = time.monotonic()
        self.at_end = False

    def read(self, seconds: float) -> list[Message]:
        messages, at_end = consume(self.consumer, seconds)
        if messages:
            self.heard, self.place = time.monotonic(), _after(messages)
        self.at_end = at_end or (self.at_end and not messages)
        return messages

    def commit(self) -> None:
        """Tells the group how far this partition is read: for lag monitors, and for partitions that idle."""
        if time.monotonic() - self.committed >= COMMIT_SECONDS:
            self.committed = time.monotonic()
            place = TopicPartition(self.partition.topic, self.partition.number, self.place)
            self.consumer.commit(offsets=[place], asynchronous=True)

    def idles(self, seconds: float) -> bool:
        return self.at_end and time.monotonic() - self.heard >= seconds


class _ReadForever(beam.DoFn):
    def __init__(self, source: ReadForever) -> None:
        self.source = source
        self.readers: dict[tuple[str, int], _Reader] = {}
        self.peeking: Consumer | None = None

    @beam.DoFn.unbounded_per_element()
    def process(
        self,
        partition: Partition,
        tracker=beam.DoFn.RestrictionParam(_OffsetsFromStart()),  # noqa: B008
        estimator=beam.DoFn.WatermarkEstimatorParam(ManualWatermarkEstimator.default_provider()),  # noqa: B008
    ) -> Iterable[pa.RecordBatch]:
        reader = self._reader(partition, tracker.current_restriction().start)
        deadline = time.monotonic() + SLICE_SECONDS
        while True:
            messages = reader.read(0.1)
            if messages:
                if not tracker.try_claim(_after(messages) - 1):
                    self.readers.pop((partition.topic, partition.number)).consumer.close()
                    return
                watermark = _micros(estimator.current_watermark())
                readings, failures = self._decode(messages, partition, watermark)
                for letters in failures:
                    yield beam.pvalue.TaggedOutput("failures", letters)
                if readings.num_rows:
                    times = _times(readings, self.source.feed)
                    # Stamped with its earliest row: a later stamp would lose rows at the GroupByKey.
                    yield TimestampedValue(readings, Timestamp(micros=int(times.min())))
                    _set(
                        estimator,
                        advance(watermark, times, self.source.out_of_orderness * MICROS, LEAP_MICROS),
                    )
            elif reader.idles(self.source.idle_seconds):
                self._follow(reader, estimator)
            reader.commit()
            if not messages or time.monotonic() > deadline:
                tracker.defer_remainder(Duration(seconds=0 if messages else 0.2))
                return

    def _reader(self, partition: Partition, start: int) -> _Reader:
        key = (partition.topic, partition.number)
        reader = self.readers.get(key)
        if reader is None or reader.place != start:  # at first, or taken up again from a checkpoint
            if reader:
                reader.consumer.close()
            reader = self.readers[key] = _Reader(partition, start, self.source.configuration)
        return reader

    def _decode(
        self, messages: list[Message], partition: Partition, watermark: int | None
    ) -> tuple[pa.RecordBatch, list[pa.RecordBatch]]:
        feed, now = self.source.feed, time.time_ns() // 1000
        records = to_records(messages, partition.topic, partition.number)
        readings, failures = self.source.decode(records, now)
        late = too_late(_times(readings, feed), watermark, self.source.window_seconds, self.source.lateness)
        if late.any():
            rows = pc.is_in(records["position"], readings.filter(pa.array(late))["position"])
            closed = records.filter(rows)
            which = np.zeros(closed.num_rows, np.int32)
            failures = [*failures, to_dead_letters(closed, TOO_LATE, which, feed, "window", now)]
            readings = readings.filter(pa.array(~late))
        counters.add(read=records.num_rows, too_late=int(late.sum()))
        return readings, failures

    def _follow(self, reader: _Reader, estimator: ManualWatermarkEstimator) -> None:
        """Lets the watermark of a partition that idles follow what the group has read of the others.

        Their event time, not the clock: a replay of old readings must not find its windows closed.
        """
        if time.monotonic() - reader.followed < self.source.idle_seconds:
            return
        reader.followed = time.monotonic()
        own = _micros(estimator.current_watermark())
        newest = [self._newest_read(other) for other in self._others(reader)]
        reached = [time - self.source.out_of_orderness * MICROS for time in newest if time is not None]
        if reached and (own is None or max(reached) > own):
            _set(estimator, max(reached))

    def _others(self, reader: _Reader) -> list[TopicPartition]:
        """The other partitions, each at the offset up to which the group says it has read."""
        mine = (reader.partition.topic, reader.partition.number)
        topics = {topic: reader.consumer.list_topics(topic, BROKER_SECONDS) for topic in self.source.topics}
        places = [
            TopicPartition(topic, number)
            for topic, metadata in topics.items()
            for number in metadata.topics[topic].partitions
            if (topic, number) != mine
        ]
        committed = reader.consumer.committed(places, BROKER_SECONDS)
        return [
            TopicPartition(place.topic, place.partition, place.offset)
            for place in committed
            if place.offset > 0
        ]

    def _newest_read(self, place: TopicPartition) -> int | None:
        """The newest event time that several of the messages before that place reach; None without any."""
        if self.peeking is None:
            self.peeking = connect(self.source.configuration)
        low, _ = self.peeking.get_watermark_offsets(place, BROKER_SECONDS)
        first = max(low, place.offset - PEEKED)
        if first >= place.offset:  # nothing read yet, or all of it is past its retention
            return None
        self.peeking.assign([TopicPartition(place.topic, place.partition, first)])
        messages, _ = consume(self.peeking, PEEK_SECONDS, place.offset - first)
        self.peeking.unassign()
        readings, _ = self.source.decode(
            to_records(messages, place.topic, place.partition), time.time_ns() // 1000
        )
        return newest_supported(_times(readings, self.source.feed)) if readings.num_rows > 1 else None

    def teardown(self) -> None:
        for reader in self.readers.values():
            reader.consumer.close()
        self.readers.clear()
        if self.peeking is not None:
            self.peeking.close()


def _times(readings: pa.RecordBatch, feed: Feed) -> np.ndarray:
    return readings[feed.event_time].view(pa.int64()).to_numpy()


def _micros(timestamp: Timestamp | None) -> int | None:
    return None if timestamp is None else timestamp.micros


def _set(estimator: ManualWatermarkEstimator, micros: int | None) -> None:
    current = estimator.current_watermark()
    if micros is not None and (current is None or micros > current.micros):
        estimator.set_watermark(min(Timestamp(micros=micros), MAX_TIMESTAMP))


@dataclass
class ReadForever(beam.PTransform):
    """Partitions -> `readings`, accepted and in time, and `failures`, dead letters; without end.

    `decode` makes accepted readings and dead letters of a batch of records. The watermark of a partition is
    its newest supported event time less `out_of_orderness` seconds (`transforms.watermarks`), and it is
    checkpointed with the offset. How the broker cuts messages into polls may differ in a replay, and with it
    which rows at the edge are too late.
    """

    feed: Feed
    topics: tuple[str, ...]
    configuration: Mapping[str, object]
    decode: Decode
    window_seconds: int
    lateness: int
    out_of_orderness: int
    idle_seconds: float

    def expand(self, partitions: beam.PCollection[Partition]) -> beam.pvalue.DoOutputsTuple:
        return (
            partitions
            | beam.Reshuffle()
            | beam.ParDo(_ReadForever(self))
            .with_output_types(pa.RecordBatch, failures=pa.RecordBatch)
            .with_outputs("failures", main="readings")
        )
