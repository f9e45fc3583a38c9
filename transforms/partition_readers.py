"""Consumers of one partition each, which stay where they are between two reads."""

from __future__ import annotations

import time
from collections.abc import Mapping

from confluent_kafka import Message, TopicPartition

from transforms.kafka_source import after, consume
from transforms.partitions import Partition, connect

MESSAGES = 65_536
READ_SECONDS, WAIT_SECONDS = 0.2, 0.05
COMMIT_SECONDS, COMMIT_AGAIN_SECONDS = 1, 3600


class Reader:
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


class Readers(dict[tuple[str, int], Reader]):
    """The readers of a process that are not at work: Beam gives a partition now to one of a process's
    instances of a DoFn, now to another."""

    def take(self, partition: Partition, start: int, configuration: Mapping[str, object]) -> Reader:
        reader = self.pop((partition.topic, partition.number), None)
        if reader is None or reader.place != start:  # at first, or taken up again from a checkpoint
            if reader:
                reader.consumer.close()
            reader = Reader(partition, start, configuration)
        return reader

    def give_back(self, reader: Reader) -> None:
        self[reader.partition.topic, reader.partition.number] = reader

    def close(self) -> None:
        while self:
            self.popitem()[1].consumer.close()
