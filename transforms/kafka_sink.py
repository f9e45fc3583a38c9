"""Kafka as a sink: every message acknowledged before its bundle ends, upserts for what may be sent again."""

from __future__ import annotations

import logging
import zlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from schemas.avro import Schema, avro_schema
from schemas.clean import clean_message_schema
from schemas.feed import Feed
from transforms import counters
from transforms.avro_messages import encode_avro
from transforms.dead_letters import to_headers
from transforms.json_messages import iso_8601, to_json
from transforms.kafka_statistics import RepeatedRequests

FLUSH_SECONDS = 120
# Idempotent: a retry inside librdkafka neither doubles nor reorders.
PRODUCER = {
    "enable.idempotence": True,
    "acks": "all",
    "linger.ms": 20,
    "compression.type": "lz4",
    "delivery.report.only.error": True,
    "statistics.interval.ms": 1000,
}

PLACE = ("partition", "position")

silent = logging.getLogger(f"{__name__}.librdkafka")
silent.setLevel(logging.CRITICAL)  # what matters of its log is raised


Encode = Callable[[pa.RecordBatch], Sequence[bytes] | Sequence[str]]


class _Send(beam.DoFn):
    """Sends what `messages` makes of an element; a bundle ends when all of its messages are acknowledged."""

    def __init__(self, topic: str, configuration: Mapping[str, object]) -> None:
        self.topic, self.configuration = topic, configuration
        self.producer: Producer | None = None
        self.repeated = RepeatedRequests()

    def start_bundle(self) -> None:
        self.failed: KafkaError | None = None
        if self.producer is None:
            callback = {"stats_cb": self._count_retries}
            self.producer = Producer({**self.configuration, **PRODUCER, **callback}, logger=silent)

    def _note(self, error: KafkaError | None, message: Message) -> None:
        self.failed = error

    def _count_retries(self, statistics: str) -> None:
        """Of what librdkafka tells while it is polled, which is within a bundle."""
        counters.add_to("retries", {("kafka_request",): self.repeated.note(statistics)})

    def send(self, messages: Sequence[dict], partition: int) -> None:
        """Hands messages of one partition over, waiting while librdkafka's queue is full."""
        assert self.producer
        rest = list(messages)
        while rest:
            self.producer.produce_batch(self.topic, rest, partition, on_delivery=self._note)
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
    def __init__(self, sink: WriteUpsertsToKafka) -> None:
        super().__init__(sink.topic, sink.configuration)
        self.sink = sink

    def process(self, group: tuple[int, pa.RecordBatch]) -> None:
        sink, rows = self.sink, group[1]
        upserts = to_upserts(rows, sink.encode(rows), sink.key, sink.time, sink.partitions)
        for partition, messages in upserts.items():
            self.send(messages, partition)


def to_upserts(
    rows: pa.RecordBatch,
    values: Sequence[bytes] | Sequence[str],
    key: Sequence[str],
    time: str,
    partitions: int,
) -> dict[int, list[dict]]:
    """Rows and their values as messages -> the messages of each partition, with their keys.

    A message's key is made of the texts of the fields `key` and of the time, so that compaction keeps the
    latest of the rows that replace each other; by the sensor alone it would keep one window of each. The
    partition is that of the first field alone: all windows of a sensor are in one, their revisions in order.
    """
    texts = [rows[name].dictionary_decode() for name in key]
    keys = pc.binary_join_element_wise(*texts, iso_8601(rows[time]), "|")
    messages = defaultdict(list)
    for first, whole, value in zip(texts[0].to_pylist(), keys.to_pylist(), values, strict=True):
        messages[partition_of(first, partitions)].append({"key": whole, "value": value})
    return messages


@lru_cache(maxsize=65_536)
def partition_of(key: str, partitions: int) -> int:
    """Where librdkafka's partitioner `consistent` puts that key."""
    return zlib.crc32(key.encode()) % partitions


def encode_as_json(rows: pa.RecordBatch) -> list[str]:
    """A JSON object for each row."""
    return to_json(rows).to_pylist()


def aggregate_avro_schema(feed: Feed) -> Schema:
    """The Avro schema of a row of the feed's aggregates."""
    description = f"{feed.description} Aggregates by {feed.key} and window."
    return avro_schema(feed, feed.aggregate_message_schema) | {
        "name": f"{feed.name}_aggregate",
        "doc": description,
    }


def clean_avro_schema(feed: Feed) -> Schema:
    """The Avro schema of the feed's clean readings."""
    description = f"{feed.description} Gaps are filled."
    return avro_schema(feed, clean_message_schema(feed)) | {"name": f"{feed.name}_clean", "doc": description}


def encode_as_avro(rows: pa.RecordBatch, columns: pa.Schema, schema: Schema, schema_id: int) -> list[bytes]:
    """Avro in Confluent's framing for each row; `columns` are those of the messages, in plain text."""
    return encode_avro(rows.cast(columns), schema, schema_id).to_pylist()


class _SendDeadLetters(_Send):
    def process(self, letters: pa.RecordBatch) -> None:
        """One after another: librdkafka takes headers with single messages only."""
        assert self.producer
        places = (letters["source"].dictionary_decode(), *(letters[name].cast(pa.string()) for name in PLACE))
        keys = pc.binary_join_element_wise(*places, "/").to_pylist()
        for value, key, headers in zip(letters["value"].to_pylist(), keys, to_headers(letters), strict=True):
            while not self._produced(value, key, headers):
                pass
        self.producer.poll(0)

    def _produced(self, value: bytes | None, key: str, headers: list) -> bool:
        """Whether librdkafka's queue had room for the message."""
        assert self.producer
        try:
            self.producer.produce(self.topic, value, key, headers=headers, on_delivery=self._note)
        except BufferError:
            self.producer.poll(0.1)
            return False
        return True


@dataclass
class WriteUpsertsToKafka(beam.PTransform):
    """(shard, rows) -> messages of a topic with so many partitions, upserts by the fields `key` and `time`.

    `encode` makes a message's value of each row.
    """

    key: tuple[str, ...]
    time: str
    topic: str
    partitions: int
    configuration: Mapping[str, object]
    encode: Encode = encode_as_json

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
