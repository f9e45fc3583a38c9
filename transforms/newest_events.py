"""The newest event times that the broker holds, told by a look at the last messages of each partition."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from schemas.feed import Feed
from transforms.kafka_source import to_records
from transforms.partitions import BROKER_SECONDS, Partition, connect, count_partitions
from transforms.watermarks import NOTHING, Progress, advance, event_times

PEEKED = 100
PEEK_SECONDS, WAIT_SECONDS = 2, 0.05

# Records, and the time now in microseconds -> accepted readings, and dead letters.
Judge = Callable[[pa.RecordBatch, int], tuple[pa.RecordBatch, list[pa.RecordBatch]]]

log = logging.getLogger(__name__)


@dataclass
class NewestEvents:
    """The newest event times at the broker, looked up again only where a partition has grown."""

    feed: Feed
    topics: tuple[str, ...]
    configuration: Mapping[str, object]
    decode: Judge
    consumer: Consumer | None = None
    ends: dict[tuple[str, int], int] = field(default_factory=dict)
    newest: dict[tuple[str, int], int] = field(default_factory=dict)

    def beside(self, partition: Partition, end: int | None) -> int:
        """The newest event time in the other partitions, `NOTHING` where they have none.

        `NOTHING` as well when the broker has more of this partition than up to `end`, or does not answer.
        """
        try:
            self._look(*self._grown())
            # Asked last: what came here before the others' newest came there is to be read first.
            if end is not None and self._ends(partition.topic, partition.number)[1] > end:
                return NOTHING
        except KafkaException as error:
            log.info("the newest event times are not known now: %s", error)
            return NOTHING
        others = [time for place, time in self.newest.items() if place != (partition.topic, partition.number)]
        return max(others, default=NOTHING)

    def _grown(self) -> tuple[list[TopicPartition], dict[tuple[str, int], int]]:
        """The partitions that have grown: where the last messages of each begin, and where they end."""
        if self.consumer is None:
            self.consumer = connect(self.configuration)
        places, ends = [], {}
        for topic in self.topics:
            for number in range(count_partitions(self.consumer, topic)):
                low, high = self._ends(topic, number)
                if high > max(low, self.ends.get((topic, number), 0)):
                    places.append(TopicPartition(topic, number, max(low, high - PEEKED)))
                    ends[topic, number] = high
        return places, ends

    def _ends(self, topic: str, number: int) -> tuple[int, int]:
        assert self.consumer is not None
        return self.consumer.get_watermark_offsets(TopicPartition(topic, number), BROKER_SECONDS)

    def _look(self, places: list[TopicPartition], ends: Mapping[tuple[str, int], int]) -> None:
        """A partition that is not seen to its end in time has not been looked at: it may never grow again."""
        assert self.consumer is not None
        found: dict[Any, list[Message]] = defaultdict(list)
        seen: set[Any] = set()
        self.consumer.assign(places)
        deadline = time.monotonic() + PEEK_SECONDS
        while len(seen) < len(places) and time.monotonic() < deadline:
            for message in self.consumer.consume(PEEKED, WAIT_SECONDS):
                place = message.topic(), message.partition()
                if message.error():
                    seen.add(place)
                else:
                    found[place].append(message)
        self.consumer.unassign()
        self.ends.update({place: end for place, end in ends.items() if place in seen})
        for (topic, number), messages in found.items():
            readings, _ = self.decode(to_records(messages, topic, number), time.time_ns() // 1000)
            _, progress = advance(Progress(), event_times(readings, self.feed), 0)
            self.newest[topic, number] = max(self.newest.get((topic, number), NOTHING), progress.watermark)

    def close(self) -> None:
        if self.consumer is not None:
            self.consumer.close()
