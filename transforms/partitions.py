"""The partitions of topics: those there are, where in them a run starts, and those that are added later."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import apache_beam as beam
from apache_beam.coders import PickleCoder
from apache_beam.io.iobase import WatermarkEstimator
from apache_beam.io.restriction_trackers import OffsetRange, OffsetRestrictionTracker
from apache_beam.transforms.core import RestrictionProvider, WatermarkEstimatorProvider
from apache_beam.utils.timestamp import MAX_TIMESTAMP, Duration, Timestamp
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from transforms.errors import UserError

BROKER_SECONDS = 10
UNREACHABLE = (
    KafkaError._TRANSPORT,
    KafkaError._TIMED_OUT,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._DESTROY_BROKER,
)
NEW_PARTITION_SECONDS = 5
FOREVER = 2**63 - 1
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

log = logging.getLogger(__name__)
silent = logging.getLogger(f"{__name__}.librdkafka")
silent.setLevel(logging.CRITICAL)  # what matters of its log comes as errors too, and is told in a line


class Partition(NamedTuple):
    """Some offsets of a topic's partition: from `start` up to `end`, which is not one of them.

    One that was `added` while the job ran has no end, and must catch up with the others' event time.
    """

    topic: str
    number: int
    start: int
    end: int
    added: bool = False


class Topic(NamedTuple):
    """A topic, and its partitions when the job was started."""

    name: str
    partitions: tuple[Partition, ...]


def connect(configuration: Mapping[str, object]) -> Consumer:
    """A consumer with the settings that this source relies on. UserError for a setting that is none."""
    try:
        return Consumer({**configuration, **CONSUMER}, logger=silent)
    except KafkaException as error:
        raise UserError(f"Kafka: {error.args[0].str()}") from error


def find_topics(topics: Sequence[str], configuration: Mapping[str, object], start: str) -> list[Topic]:
    """The topics with their partitions, and these with their present ends.

    `start` is `earliest`, `latest`, `group` (the group's committed offsets, else the earliest), or
    milliseconds since the epoch (the first message of that time or later). UserError when no broker answers
    or a topic does not exist.
    """
    consumer = connect(configuration)
    try:
        return [
            Topic(
                topic,
                tuple(
                    _partition(consumer, topic, number, start)
                    for number in range(count_partitions(consumer, topic))
                ),
            )
            for topic in topics
        ]
    except KafkaException as error:
        raise UserError(f"{servers(configuration)}: {_cause(error.args[0], configuration)}") from error
    except _NoSuchTopic as error:
        raise UserError(f"{servers(configuration)}: topic {error} does not exist; create it first") from error
    finally:
        consumer.close()


def _cause(error: KafkaError, configuration: Mapping[str, object]) -> str:
    """What is wrong: a broker that does not answer may also have answered, and named another address."""
    if error.code() not in UNREACHABLE:
        return error.str()
    consumer = connect(configuration)
    try:
        brokers = consumer.list_topics(timeout=BROKER_SECONDS).brokers.values()
    except KafkaException:
        return "no broker answers; see that it runs, and that --bootstrap_servers is its address"
    finally:
        consumer.close()
    places = ", ".join(f"{broker.host}:{broker.port}" for broker in brokers)
    return (
        f"the broker there says that it is to be found at {places}, where none answers; its "
        "advertised.listeners must be addresses that this machine can reach"
    )


def servers(configuration: Mapping[str, object]) -> str:
    return f"Kafka at {configuration.get('bootstrap.servers')}"


class _NoSuchTopic(LookupError):
    pass


def count_partitions(consumer: Consumer, topic: str) -> int:
    """How many partitions the topic has; they are numbered from 0. KafkaException when no broker answers."""
    metadata = consumer.list_topics(topic, BROKER_SECONDS).topics[topic]
    if metadata.error is not None:
        raise _NoSuchTopic(topic)
    return len(metadata.partitions)


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


class Unbounded(OffsetRestrictionTracker):
    """Numbers without end."""

    def try_split(self, fraction_of_remainder: float):
        """Splits behind what is claimed: nothing lies in the middle of what has no end."""
        return super().try_split(0)

    def is_bounded(self) -> bool:
        return False


class _NumbersFromZero(RestrictionProvider):
    def initial_restriction(self, element: Topic) -> OffsetRange:
        return OffsetRange(0, FOREVER)

    def create_tracker(self, restriction: OffsetRange) -> OffsetRestrictionTracker:
        return Unbounded(restriction)

    def restriction_size(self, element: Topic, restriction: OffsetRange) -> float:
        return 1.0

    def restriction_coder(self) -> beam.coders.Coder:
        return PickleCoder()


class _HoldsNothing(WatermarkEstimator):
    """A list of partitions has no event time: theirs is up to each of them."""

    def current_watermark(self) -> Timestamp:
        return MAX_TIMESTAMP - Duration(seconds=86_400)  # the end of time itself would say that no more come

    def get_estimator_state(self) -> None:
        return None

    def observe_timestamp(self, timestamp: Timestamp) -> None:
        pass


class _NoEventTime(WatermarkEstimatorProvider):
    def initial_estimator_state(self, element: Topic, restriction: OffsetRange) -> None:
        return None

    def create_watermark_estimator(self, estimator_state: None) -> WatermarkEstimator:
        return _HoldsNothing()


class _WatchPartitions(beam.DoFn):
    """The position in the restriction is the number of partitions that were given out."""

    def __init__(self, configuration: Mapping[str, object]) -> None:
        self.configuration = configuration
        self.consumer: Consumer | None = None

    @beam.DoFn.unbounded_per_element()
    def process(
        self,
        topic: Topic,
        tracker=beam.DoFn.RestrictionParam(_NumbersFromZero()),  # noqa: B008
        _estimator=beam.DoFn.WatermarkEstimatorParam(_NoEventTime()),  # noqa: B008
    ) -> Iterable[Partition]:
        given = tracker.current_restriction().start
        partitions = topic.partitions
        if given >= len(partitions):
            present = self._count(topic.name, given)
            partitions += tuple(
                Partition(topic.name, number, 0, FOREVER, added=True)
                for number in range(len(partitions), present)
            )
        for partition in partitions[given:]:
            if not tracker.try_claim(partition.number):
                return
            yield partition
        tracker.defer_remainder(Duration(seconds=NEW_PARTITION_SECONDS))

    def _count(self, topic: str, at_least: int) -> int:
        if self.consumer is None:
            self.consumer = connect(self.configuration)
        try:
            return count_partitions(self.consumer, topic)
        except (KafkaException, _NoSuchTopic) as error:
            log.info("%s: its partitions are not known now: %s", topic, error)
            return at_least

    def teardown(self) -> None:
        if self.consumer is not None:
            self.consumer.close()


@dataclass
class WatchPartitions(beam.PTransform):
    """Topics -> their partitions, and without end those that are added to them."""

    configuration: Mapping[str, object]

    def expand(self, topics: beam.PCollection[Topic]) -> beam.PCollection[Partition]:
        return topics | beam.ParDo(_WatchPartitions(self.configuration)).with_output_types(Partition)
