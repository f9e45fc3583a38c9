"""The partitions of topics, those too that are added while a job runs."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import apache_beam as beam
from apache_beam.coders import PickleCoder
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec, TimerSpec, on_timer
from confluent_kafka import Consumer, KafkaException

from transforms.key_groups import added_place, key_at
from transforms.looping_timers import FOREVER, NO_HOLD, StayOpen, fire_after
from transforms.partitions import NoSuchTopic, Partition, Topic, connect, count_partitions

NEW_PARTITION_SECONDS = 5
KeyedPartition = tuple[tuple[str, int], Partition]

log = logging.getLogger(__name__)


class _WatchPartitions(beam.DoFn):
    """A topic is a key: its state is how many of its partitions were given out."""

    GIVEN = ReadModifyWriteStateSpec("given", PickleCoder())  # (topic, how many)
    NEXT = TimerSpec("next", TimeDomain.REAL_TIME)

    def __init__(self, watch: WatchPartitions) -> None:
        self.topics, self.configuration = watch.topics, watch.configuration
        self.consumer: Consumer | None = None

    def process(
        self,
        element: tuple[str, Topic],
        given=beam.DoFn.StateParam(GIVEN),  # noqa: B008
        next_look=beam.DoFn.TimerParam(NEXT),  # noqa: B008
    ) -> Iterable[KeyedPartition]:
        _, topic = element
        beside = (self.topics.index(topic.name) + 0.5) / len(self.topics)
        for partition in topic.partitions:
            place = (partition.number + beside) / len(topic.partitions)
            yield key_at(topic.name, partition.number, place), partition
        given.write((topic.name, len(topic.partitions)))
        fire_after(0, next_look, hold=NO_HOLD)

    @on_timer(NEXT)
    def look(
        self,
        given=beam.DoFn.StateParam(GIVEN),  # noqa: B008
        next_look=beam.DoFn.TimerParam(NEXT),  # noqa: B008
    ) -> Iterable[KeyedPartition]:
        topic, count = given.read()
        present = self._count(topic, count)
        for number in range(count, present):
            place = (added_place(number) + self.topics.index(topic) / len(self.topics)) % 1
            yield key_at(topic, number, place), Partition(topic, number, 0, FOREVER, added=True)
        given.write((topic, max(count, present)))
        fire_after(NEW_PARTITION_SECONDS, next_look, hold=NO_HOLD)

    def _count(self, topic: str, at_least: int) -> int:
        if self.consumer is None:
            self.consumer = connect(self.configuration)
        try:
            return count_partitions(self.consumer, topic)
        except (KafkaException, NoSuchTopic) as error:
            log.info("%s: its partitions are not known now: %s", topic, error)
            return at_least

    def teardown(self) -> None:
        if self.consumer is not None:
            self.consumer.close()


@dataclass
class WatchPartitions(beam.PTransform):
    """Topics -> their partitions, keyed, and without end those that are added to them.

    The keys are such that all subtasks of a Flink cluster read about as many partitions.
    """

    topics: tuple[str, ...]
    configuration: Mapping[str, object] = field(repr=False)  # secrets are among it

    def expand(self, topics: beam.PCollection[Topic]) -> beam.PCollection[KeyedPartition]:
        return (
            topics
            | StayOpen()
            | "KeyByTopic" >> beam.Map(lambda topic: (topic.name, topic)).with_output_types(tuple[str, Topic])
            | beam.ParDo(_WatchPartitions(self)).with_output_types(KeyedPartition)
        )
