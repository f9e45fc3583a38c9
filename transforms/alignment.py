"""How far a job's partitions are, so that none is read far ahead of the slowest.

What is read ahead waits in the runner's state until the slowest partition has come as far: with three
partitions on one worker and two on another, a third of a long topic. Beam aligns no watermarks, and no
process sees another's readers; but all of them commit to the group, and their watermark with the offset.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from confluent_kafka import Consumer, KafkaException, TopicPartition

from transforms.partitions import BROKER_SECONDS, Partition, connect, count_partitions

LOOK_SECONDS = 1
AHEAD = 131_072

log = logging.getLogger(__name__)


class Marks(deque[tuple[int, int]]):
    """(watermark, offset) after each read of a partition."""

    def ahead_of(self, watermark: int) -> int:
        """How many messages were read since the partition had come as far. Forgets the marks before.

        >>> marks = Marks([(100, 10), (200, 20), (300, 40)])
        >>> marks.ahead_of(200), marks.ahead_of(250), marks.ahead_of(900)
        (20, 20, 0)
        """
        while len(self) > 1 and self[1][0] <= watermark:
            self.popleft()
        return self[-1][1] - self[0][1] if self and self[-1][0] > watermark else 0


@dataclass
class Alignment:
    """The watermarks of the partitions that a job still catches up with, as their readers have told.

    `job` tells a job from others that use the same group.
    """

    job: str
    topics: tuple[str, ...]
    configuration: Mapping[str, object]
    consumer: Consumer | None = None
    looked: float = -LOOK_SECONDS
    watermarks: dict[tuple[str, int], int] = field(default_factory=dict)

    def note(self, watermark: int, caught_up: bool) -> str:
        """What a reader commits with its offset."""
        return f"{self.job} {'end' if caught_up else watermark}"

    def slowest_beside(self, partition: Partition) -> int | None:
        """The lowest watermark of the other partitions; None where all have caught up or none is known."""
        if time.monotonic() - self.looked >= LOOK_SECONDS:
            self._look()
            self.looked = time.monotonic()
        others = self.watermarks.keys() - {(partition.topic, partition.number)}
        return min((self.watermarks[place] for place in others), default=None)

    def _look(self) -> None:
        self.watermarks.clear()
        try:
            for place in self._committed():
                job, _, watermark = (place.metadata or "").partition(" ")
                if job == self.job and watermark != "end":
                    self.watermarks[place.topic, place.partition] = int(watermark)
        except KafkaException as error:
            log.info("how far the other partitions are is not known now: %s", error)

    def _committed(self) -> list[TopicPartition]:
        if self.consumer is None:
            self.consumer = connect(self.configuration)
        places = [
            TopicPartition(topic, number)
            for topic in self.topics
            for number in range(count_partitions(self.consumer, topic))
        ]
        return self.consumer.committed(places, BROKER_SECONDS)

    def close(self) -> None:
        if self.consumer is not None:
            self.consumer.close()
