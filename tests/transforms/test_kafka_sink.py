"""What is sent to Kafka, on a real broker: upserts that may be compacted, and dead letters."""

from __future__ import annotations

import io
import json
import os
import signal
import threading
from collections import defaultdict
from datetime import UTC, datetime
from functools import partial
from typing import Any

import apache_beam as beam
import fastavro
import pyarrow as pa
import pytest
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.utils.windowed_value import PaneInfo, PaneInfoTiming
from confluent_kafka import Consumer, Producer, TopicPartition

from runners.local import KafkaBroker
from schemas.air_quality import AIR_QUALITY, MEASURED
from schemas.clean import clean_message_schema
from schemas.feed import Feed
from schemas.traffic import TRAFFIC
from tests.rows import accepted, decoded, micros
from transforms.aggregate import aggregate
from transforms.clean import clean
from transforms.counters import live
from transforms.kafka_sink import (
    WriteDeadLettersToKafka,
    WriteUpsertsToKafka,
    _SendDeadLetters,
    aggregate_avro_schema,
    clean_avro_schema,
    encode_as_avro,
    encode_as_json,
    partition_of,
)
from transforms.medians import declared_medians
from transforms.panes import Pane, with_panes
from transforms.rules import validate
from transforms.schema_registry import SchemaRegistry

PARTITIONS = 3
TIMINGS = {
    "early": PaneInfoTiming.EARLY,
    "on time": PaneInfoTiming.ON_TIME,
    "late": PaneInfoTiming.LATE,
}
SENSORS = [f"sensor-{number}" for number in range(20)]


def pane(revision: int, timing: str, readings: int) -> pa.RecordBatch:
    """Aggregates of two windows of every sensor, from so many readings in each."""
    rows = [
        {"sensor_id": sensor, "timestamp": micros("2012-03-01") + (window * 300 + second) * 1_000_000}
        for sensor in SENSORS
        for window in (0, 1)
        for second in range(readings)
    ]
    start = micros("2012-03-01") // 1_000_000
    info = PaneInfo(revision == 0, False, TIMINGS[timing], revision, -1)
    panes = {start: Pane(info, [], False), start + 300: Pane(info, [], False)}
    return with_panes(aggregate(accepted(*rows), TRAFFIC, 300), panes)


def read(kafka: KafkaBroker, topic: str, partitions: int = PARTITIONS) -> list[Any]:
    """All messages of the topic, partition by partition in their order."""
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap_servers, "group.id": "test"})
    found: list[Any] = []
    for number in range(partitions):
        _, end = consumer.get_watermark_offsets(TopicPartition(topic, number), 10)
        consumer.assign([TopicPartition(topic, number, 0)])
        here: list[Any] = []
        while len(here) < end:
            here += consumer.consume(end - len(here), 10)
        found += here
    consumer.close()
    return found


def compacted(messages: list[Any]) -> dict[tuple[int, bytes], bytes]:
    """What compaction keeps: of each partition, the last message of a key."""
    return {(message.partition(), message.key()): message.value() for message in messages}


@pytest.mark.parametrize("format", ["json", "avro"])
def test_a_compacted_topic_has_the_latest_revision_of_every_window(format, kafka, schema_registry, new_topic):
    topic = new_topic(PARTITIONS)
    encode: Any = encode_as_json
    decode: Any = json.loads
    if format == "avro":
        registry = SchemaRegistry(schema_registry.url)
        schema_id = registry.register(topic, aggregate_avro_schema(TRAFFIC))
        encode = partial(
            encode_as_avro,
            columns=TRAFFIC.aggregate_message_schema,
            schema=aggregate_avro_schema(TRAFFIC),
            schema_id=schema_id,
        )
        decode = partial(decode_avro, registry)
    panes = [pane(0, "early", 2), pane(1, "on time", 5), pane(2, "late", 6)]
    sink = WriteUpsertsToKafka(
        ("sensor_id",),
        "window_start",
        topic,
        PARTITIONS,
        {"bootstrap.servers": kafka.bootstrap_servers},
        encode,
    )
    with TestPipeline(runner="FnApiRunner") as pipeline:
        _ = pipeline | beam.Create([(0, aggregates) for aggregates in panes]) | sink
    messages = read(kafka, topic)
    assert len(messages) == 3 * 2 * len(SENSORS)
    kept = {key: decode(value) for (_, key), value in compacted(messages).items()}
    assert len(compacted(messages)) == len(kept) == 2 * len(SENSORS)
    assert {row["message_count"] for row in kept.values()} == {6}
    assert {row["pane"] for row in kept.values()} == {"late"}
    assert kept[b"sensor-7|2012-03-01T00:05:00Z"]["sensor_id"] == "sensor-7"
    partitions: dict[str, set[int]] = defaultdict(set)
    revisions: dict[bytes, list[int]] = defaultdict(list)
    for message in messages:
        row = decode(message.value())
        partitions[row["sensor_id"]].add(message.partition())
        revisions[message.key()].append(row["revision"])
    assert {len(each) for each in partitions.values()} == {1}
    assert all(each == [0, 1, 2] for each in revisions.values())


def decode_avro(registry: SchemaRegistry, value: bytes) -> Any:
    schema = registry.schema(int.from_bytes(value[1:5]))
    assert value[0] == 0
    assert schema
    return fastavro.schemaless_reader(io.BytesIO(value[5:]), fastavro.parse_schema(schema))


def test_json_and_avro_say_the_same():
    aggregates = pane(1, "on time", 4)
    schema = fastavro.parse_schema(aggregate_avro_schema(TRAFFIC))
    for text, record in zip(
        encode_as_json(aggregates),
        encode_as_avro(aggregates, TRAFFIC.aggregate_message_schema, aggregate_avro_schema(TRAFFIC), 7),
        strict=True,
    ):
        row: Any = fastavro.schemaless_reader(io.BytesIO(record[5:]), schema)
        times = {name: row[name].strftime("%Y-%m-%dT%H:%M:%SZ") for name in ("window_start", "window_end")}
        assert json.loads(text) == row | times


def test_a_sensor_is_in_the_partition_where_its_name_as_the_key_would_be(kafka, new_topic):
    topic = new_topic(PARTITIONS)
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "partitioner": "consistent"})
    for sensor in SENSORS:
        producer.produce(topic, b"", sensor)
    assert producer.flush(30) == 0
    placed = {message.key().decode(): message.partition() for message in read(kafka, topic)}
    assert placed == {sensor: partition_of(sensor, PARTITIONS) for sensor in SENSORS}


def test_dead_letters_are_sent_with_their_bytes_and_what_is_known_of_them(kafka, topic):
    feed: Feed = TRAFFIC
    rows = [
        {"source": "t", "partition": 4, "position": place, "speed_mph": 300.0, "value": value}
        for place, value in enumerate([b"{}", b"\xff\x00", b""])
    ]
    _, letters = validate(decoded(*rows), feed, micros("2012-03-01T00:00:00.5"))
    with TestPipeline(runner="FnApiRunner") as pipeline:
        sink = WriteDeadLettersToKafka(topic, {"bootstrap.servers": kafka.bootstrap_servers})
        _ = pipeline | beam.Create([letters]) | sink
    messages = read(kafka, topic, 1)
    assert [message.key() for message in messages] == [b"t/4/0", b"t/4/1", b"t/4/2"]
    assert [message.value() for message in messages] == [b"{}", b"\xff\x00", b""]
    assert dict(messages[1].headers()) == {
        "source": b"t",
        "partition": b"4",
        "position": b"1",
        "feed": b"traffic",
        "stage": b"validate",
        "reason": b"speed_mph_out_of_range",
        "rules": b"speed_mph_out_of_range",
        "message": b"speed_mph is outside 0 to 120 mph",
        "failed_at": b"2012-03-01T00:00:00.500000Z",
    }


def test_clean_readings_come_back_from_avro() -> None:
    measured = {field.name: None if place % 2 else 1.5 for place, field in enumerate(MEASURED)}
    row = {"station": "a", "timestamp": datetime(2004, 3, 10, tzinfo=UTC), "source": "t", "position": 1}
    nulled = ["temperature_celsius_out_of_range"]
    readings = pa.RecordBatch.from_pylist([row | measured | {"nulled": nulled}], AIR_QUALITY.reading_schema)
    cleaned = clean(readings, AIR_QUALITY, declared_medians(AIR_QUALITY))
    schema = clean_avro_schema(AIR_QUALITY)
    (message,) = encode_as_avro(cleaned, clean_message_schema(AIR_QUALITY), schema, 7)
    assert (
        fastavro.schemaless_reader(io.BytesIO(message[5:]), fastavro.parse_schema(schema))
        == cleaned.to_pylist()[0]
    )


def test_requests_that_are_sent_again_are_counted(kafka, new_topic):
    """The broker falls silent for longer than a request may take, once the producer knows it."""
    topic = new_topic(1)
    patience = {"request.timeout.ms": 1000, "socket.timeout.ms": 1000}
    sender = _SendDeadLetters(topic, {"bootstrap.servers": kafka.bootstrap_servers, **patience})
    letters = validate(decoded({"sensor_id": None}), TRAFFIC, 0)[1]

    def send() -> None:
        sender.start_bundle()
        sender.process(letters)
        sender.finish_bundle()

    live.reset()
    send()
    assert live.count("retries-kafka_request") == 0
    awake = threading.Timer(5, os.kill, (kafka.processes[0].pid, signal.SIGCONT))
    os.kill(kafka.processes[0].pid, signal.SIGSTOP)
    awake.start()
    send()
    awake.join()
    assert len(read(kafka, topic, 1)) == 2
    assert live.count("retries-kafka_request") >= 1
