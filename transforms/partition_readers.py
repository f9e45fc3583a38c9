"""Consumers of one partition each, which stay where they are between two reads."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from confluent_kafka import Message, TopicPartition

from transforms.alignment import Marks
from transforms.kafka_source import after, consume
from transforms.partitions import Partition, connect

MESSAGES = 131_072
PORTION = 8_192  # the objects made of so many messages stay in a processor's cache
READ_SECONDS, WAIT_SECONDS = 0.4, 0.05
COMMIT_SECONDS, COMMIT_AGAIN_SECONDS = 1, 3600


class Reader:
    """A consumer of one partition, and where it stands."""

    def __init__(self, partition: Partition, start: int, configuration: Mapping[str, object]) -> None:
        self.partition, self.place = partition, start
        self.consumer = connect({**configuration, "on_commit": self._on_commit})
        self.consumer.assign([TopicPartition(partition.topic, partition.number, start)])
        self.heard = self.idled = time.monotonic()
        self.end: int | None = None  # of the partition, once it was reached
        self.broker_time = 0  # of the last message, in milliseconds
        self.committed: tuple[int, bool] | None = None
        self.committed_at = -float(COMMIT_SECONDS)
        self.marks = Marks()

    def read(self) -> Iterator[list[Message]]:
        """What there is, in portions, for as long as more comes at once."""
        left = MESSAGES
        deadline = time.monotonic() + READ_SECONDS
        while left and time.monotonic() < deadline:
            wait = WAIT_SECONDS if self.end is None else 0
            messages, end = consume(self.consumer, wait, min(PORTION, left))
            if messages:
                left -= len(messages)
                self.heard, self.place = time.monotonic(), after(messages)
                self.end = self._end_at_last_fetch() if end is None else end
                _, self.broker_time = messages[-1].timestamp()
                yield messages
            elif end is not None:
                self.end = end
            if self.end is not None:
                break

    def _end_at_last_fetch(self) -> int | None:
        """The place, where the broker's last answer went no further than a transaction's mark, or a message.

        Of a partition that grows all the time librdkafka never says that its end is reached.
        """
        partition = TopicPartition(self.partition.topic, self.partition.number)
        _, high = self.consumer.get_watermark_offsets(partition, cached=True)
        return self.place if self.place + 1 >= high else None

    @property
    def caught_up(self) -> bool:
        return self.end is not None

    def mark(self, watermark: int) -> None:
        """Remembers that the partition has come to its place with that watermark, while it catches up."""
        if self.caught_up:
            self.marks.clear()
        else:
            self.marks.append((watermark, self.place))

    def commit(self, note: str) -> None:
        """Tells the group how far this partition is read: for lag monitors, `--start group`, alignment."""
        place = self.place if self.end is None else max(self.place, self.end)
        age = time.monotonic() - self.committed_at
        if age >= (COMMIT_SECONDS if (place, self.caught_up) != self.committed else COMMIT_AGAIN_SECONDS):
            self.committed, self.committed_at = (place, self.caught_up), time.monotonic()
            partition = self.partition
            self.consumer.commit(
                offsets=[TopicPartition(partition.topic, partition.number, place, note)], asynchronous=True
            )

    def stand(self, note: str) -> None:
        """Says again how far this one is while it waits for others, lest they wait for it."""
        self.committed = None
        self.commit(note)

    def _on_commit(self, error: object, places: list[TopicPartition]) -> None:
        if error:
            self.committed = None  # once more, soon

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
