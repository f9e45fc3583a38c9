"""Kafka as a sink: every message acknowledged before its bundle ends, upserts for what may be sent again."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from transforms.json_messages import iso_8601, to_json

FLUSH_SECONDS = 120
# Idempotent: a retry inside librdkafka neither doubles nor reorders.
PRODUCER = {
    "enable.idempotence": True,
    "acks": "all",
    "linger.ms": 20,
    "compression.type": "snappy",
    "delivery.report.only.error": True,
}

Headers = list[tuple[str, str | bytes | None]]

silent = logging.getLogger(f"{__name__}.librdkafka")
silent.setLevel(logging.CRITICAL)  # what matters of its log is raised


class _Send(beam.DoFn):
    """Sends what `messages` makes of an element; a bundle ends when all of its messages are acknowledged."""

    def __init__(self, topic: str, configuration: Mapping[str, object]) -> None:
        self.topic, self.configuration = topic, configuration
        self.producer: Producer | None = None

    def start_bundle(self) -> None:
        self.failed: KafkaError | None = None
        if self.producer is None:
            self.producer = Producer({**self.configuration, **PRODUCER}, logger=silent)

    def _note(self, error: KafkaError | None, message: Message) -> None:
        self.failed = error

    def send(self, messages: Sequence[dict]) -> None:
        """Hands messages over, waiting while librdkafka's queue is full."""
        assert self.producer
        rest = list(messages)
        while rest:
            self.producer.produce_batch(self.topic, rest, on_delivery=self._note)
            errors = [(message, message.pop("_error")) for message in rest if "_error" in message]
            if other := [error for _, error in errors if error.code() != KafkaError._QUEUE_FULL]:
                raise KafkaException(other[0])
            rest = [message for message, _ in errors]
            self.producer.poll(0.01 if rest else 0)

    def finish_bundle(self) -> None:
        assert self.producer
        left = self.producer.flush(FLUSH_SECONDS)
        if self.failed or left:
            raise KafkaException(self.failed or KafkaError(KafkaError._TIMED_OUT))


class _SendUpserts(_Send):
    def __init__(self, rows: WriteUpsertsToKafka) -> None:
        super().__init__(rows.topic, rows.configuration)
        self.key, self.time = rows.key, rows.time

    def process(self, group: tuple[int, pa.RecordBatch]) -> None:
        self.send(to_upserts(group[1], self.key, self.time))


def to_upserts(rows: pa.RecordBatch, key: Sequence[str], time: str) -> list[dict]:
    """Rows as JSON messages. A message's key is made of the texts of the fields `key` and of the time, so
    that compaction keeps the latest of the rows that replace each other.
    """
    texts = (rows[name].dictionary_decode() for name in key)
    keys = pc.binary_join_element_wise(*texts, iso_8601(rows[time]), "|")
    values = to_json(rows).to_pylist()
    return [{"key": key, "value": value} for key, value in zip(keys.to_pylist(), values, strict=True)]


class _SendDeadLetters(_Send):
    def process(self, letters: pa.RecordBatch) -> None:
        causes = letters.drop_columns(["value"]).to_pylist()
        for value, cause in zip(letters["value"].to_pylist(), causes, strict=True):
            key = f"{cause['source']}/{cause['partition']}/{cause['position']}"
            headers: Headers = [(name, str(text)) for name, text in cause.items()]
            while not self._produced(value, key, headers):
                pass

    def _produced(self, value: bytes | None, key: str, headers: Headers) -> bool:
        """Whether librdkafka's queue had room for the message."""
        assert self.producer
        try:
            self.producer.produce(self.topic, value, key, headers=headers, on_delivery=self._note)
        except BufferError:
            self.producer.poll(0.1)
            return False
        self.producer.poll(0)
        return True


@dataclass
class WriteUpsertsToKafka(beam.PTransform):
    """(shard, rows) -> messages of the topic, JSON, upserts by the fields `key` and `time`."""

    key: tuple[str, ...]
    time: str
    topic: str
    configuration: Mapping[str, object]

    def expand(self, rows: beam.PCollection[tuple[int, pa.RecordBatch]]) -> beam.PCollection[None]:
        return rows | beam.ParDo(_SendUpserts(self))


@dataclass
class WriteDeadLettersToKafka(beam.PTransform):
    """Dead letters -> messages of the topic: the original bytes, and in the headers where from and why.

    The key is the topic, partition and offset that the letter came from.
    """

    topic: str
    configuration: Mapping[str, object]

    def expand(self, letters: beam.PCollection[pa.RecordBatch]) -> beam.PCollection[None]:
        return letters | beam.ParDo(_SendDeadLetters(self.topic, self.configuration))
