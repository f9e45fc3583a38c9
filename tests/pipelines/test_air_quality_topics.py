"""The UCI file as a stream on a real Flink, in another order, beside the same file in batch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset
from confluent_kafka import Consumer, Producer, TopicPartition

from pipelines.air_quality import main
from runners.local import KafkaBroker, SchemaRegistry
from schemas.air_quality import AIR_QUALITY
from tests.pipelines.test_air_quality import UCI, uci_file
from tests.stream_jobs import job, job_log, messages, rows, wait_for
from tests.transforms.test_kafka_sink import decode_avro
from transforms.batches import concatenate
from transforms.csv_files import find_blocks, read_block
from transforms.decode_csv import decode_csv
from transforms.json_messages import to_json
from transforms.messages import to_messages
from transforms.rules import validate
from transforms.schema_registry import SchemaRegistry as SchemaRegistryClient

HOUR, LATER = 3_600_000_000, 300
RAW = AIR_QUALITY.as_raw


def uci_messages() -> pa.RecordBatch:
    """What replay sends of the file: its readings as they are, also those that stand for no value."""
    records = [records for block in find_blocks(str(UCI), RAW) for records, _ in read_block(block)]
    return to_messages(concatenate(validate(decode_csv(each, RAW)[0], RAW)[0] for each in records), RAW)


def later(messages: pa.RecordBatch) -> pa.RecordBatch:
    """Another station's readings of the weeks after: they carry the watermark past all windows."""
    last = messages.slice(messages.num_rows - LATER)
    times = last["timestamp"].cast(pa.int64()).to_numpy() + (LATER + 96) * HOUR
    columns = {name: last[name] for name in last.schema.names}
    columns |= {
        "timestamp": pa.array(times, last["timestamp"].type),
        "station": pa.repeat("later", LATER),
    }
    return pa.RecordBatch.from_pydict(columns, schema=messages.schema)


def send(kafka: KafkaBroker, topic: str, messages: pa.RecordBatch) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "enable.idempotence": True})
    for text in to_json(messages).to_pylist():
        producer.produce(topic, text)
        producer.poll(0)
    assert producer.flush(30) == 0


def written(output: Path, kind: str) -> pa.Table:
    """The rows of the file's station, without where they came from."""
    table = pyarrow.dataset.dataset(output / "processed" / kind, format="parquet").to_table()
    table = table.filter(pyarrow.compute.equal(table["station"], "uci"))
    table = table.drop_columns(
        [name for name in ("source", "partition", "position") if name in table.column_names]
    )
    by = ["station", "timestamp"] if kind == "clean" else ["station", "window_start", "field"]
    return table.sort_by([(name, "ascending") for name in by]).combine_chunks()


def upserts(kafka: KafkaBroker, topic: str) -> dict[bytes, dict]:
    """The latest message of each key of a topic with one partition."""
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap_servers, "group.id": "test"})
    _, end = consumer.get_watermark_offsets(TopicPartition(topic, 0), 10)
    consumer.assign([TopicPartition(topic, 0, 0)])
    latest: dict[bytes, dict] = {}
    messages: list = []
    while len(messages) < end:
        messages += consumer.consume(1000, 10)
    for message in messages:
        latest[message.key()] = json.loads(message.value())
    consumer.close()
    return latest


@uci_file
def test_a_stream_of_the_uci_file_in_another_order_gives_what_batch_gives(
    kafka: KafkaBroker, new_topic: Callable[..., str], tmp_path: Path
) -> None:
    """Shuffled within an hour, so that neighbours change places."""
    assert main([f"--input={UCI}", f"--train={UCI}", f"--output={tmp_path}/batch"]) == 0
    topic, clean_topic = new_topic(1), new_topic(1)
    messages = uci_messages()
    times = messages["timestamp"].cast(pa.int64()).to_numpy()
    order = np.argsort(times + np.random.default_rng(1).uniform(0, 1.5 * HOUR, len(times)))
    assert (np.diff(times[order]) < 0).sum() > 500
    send(kafka, topic, messages.take(pa.array(order)))
    send(kafka, topic, later(messages))
    options = [
        f"--topic={topic}",
        f"--clean_topic={clean_topic}",
        "--clean_seconds=21600",
        "--idle_seconds=1",
    ]
    output = tmp_path / "stream"
    with job(kafka, output, *options, program="pipelines.air_quality"):
        expected = written(tmp_path / "batch", "clean")
        for kind, number in (("clean", len(expected)), ("daily", len(written(tmp_path / "batch", "daily")))):
            last = output / "processed" / kind / "year=2005" / "month=04" / "day=04"
            wait_for(last.exists, f"the last day of {kind}", 300)
            wait_for(lambda: len(rows(output, f"processed/{kind}", "1")) >= number, f"all of {kind}")  # noqa: B023
    assert written(output, "clean").equals(expected)
    assert written(output, "daily").equals(written(tmp_path / "batch", "daily"))
    sent = {key: value for key, value in upserts(kafka, clean_topic).items() if key.startswith(b"uci|")}
    assert [sent[key]["benzene_ug_m3"] for key in sorted(sent)] == expected["benzene_ug_m3"].to_pylist()
    assert [sent[key]["qa_missing_fields"] for key in sorted(sent)] == expected[
        "qa_missing_fields"
    ].to_pylist()


def test_a_stream_says_that_it_is_unhealthy_and_fills_a_clean_topic_of_avro(
    kafka: KafkaBroker, schema_registry: SchemaRegistry, new_topic: Callable[..., str], tmp_path: Path
) -> None:
    """A fifth of what comes is broken, then nothing is. Each tenth reading has a gap, which is filled."""
    topic, clean_topic, output = new_topic(1), new_topic(1), tmp_path / "out"
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "enable.idempotence": True})

    def send_hours(first: int, end: int, broken: int) -> None:
        for hour in range(first, end):
            message = {
                "station": "a",
                "timestamp": (1_078_876_800 + 3600 * hour) * 1000,
                "benzene_ug_m3": 9.0,
            }
            message |= (
                {"temperature_celsius": 20.0 + hour % 5} if hour % 10 else {"temperature_celsius": -200}
            )
            producer.produce(topic, json.dumps(message))
        for _ in range(broken):
            producer.produce(topic, b"{")
        assert producer.flush(30) == 0

    options = [
        f"--topic={topic}",
        f"--clean_topic={clean_topic}",
        "--clean_seconds=21600",
        "--idle_seconds=1",
    ]
    options += ["--aggregates_format=avro", f"--schema_registry={schema_registry.url}"]
    with job(kafka, output, *options, program="pipelines.air_quality"):
        send_hours(0, 200, broken=50)
        log = job_log(output)
        wait_for(lambda: "ALERT air_quality: " in log.read_text(), "it says that too much is refused")
        send_hours(200, 500, broken=0)
        wait_for(lambda: rows(output, "processed/clean", "1"), "clean readings are out")
        wait_for(lambda: len(messages(kafka, clean_topic)) >= 100, "and in their topic")
    registry = SchemaRegistryClient(schema_registry.url)
    clean = [decode_avro(registry, value) for _, value in messages(kafka, clean_topic)]
    assert {row["benzene_ug_m3"] for row in clean} == {9.0}
    assert {row["temperature_celsius_origin"] for row in clean} == {"observed", "forward", "backward"}
    assert None not in {row["temperature_celsius"] for row in clean}


def test_messages_of_an_aborted_transaction_are_not_read(
    kafka: KafkaBroker, new_topic: Callable[..., str], tmp_path: Path
) -> None:
    topic = new_topic(1)
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "transactional.id": topic})
    producer.init_transactions(30)
    for hour, commits in ((10, True), (11, False), (12, True)):
        producer.begin_transaction()
        message = {"station": "a", "timestamp": f"2004-03-10T{hour}:00:00Z", "benzene_ug_m3": 9.0}
        producer.produce(topic, json.dumps(message))
        producer.flush(30)
        if commits:
            producer.commit_transaction(30)
        else:
            producer.abort_transaction(30)
    arguments = [f"--topic={topic}", f"--bootstrap_servers={kafka.bootstrap_servers}"]
    assert main([*arguments, f"--output={tmp_path}"]) == 0
    assert rows(tmp_path, "raw", "hour(timestamp at time zone 'UTC')") == [(10,), (12,)]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["read"], summary["accepted"], summary["balanced"]) == (2, 2, True)


def test_what_is_not_a_reading_in_a_topic_is_a_dead_letter_with_its_bytes(
    kafka: KafkaBroker, new_topic: Callable[..., str], tmp_path: Path
) -> None:
    topic = new_topic(1)
    values = {
        b'{"station":"a","timestamp":"2004-03-10T10:00:00Z","benzene_ug_m3":9.0}': None,
        b'{"station":"a","timestamp":"10/03/2004 later","benzene_ug_m3":9.0}': "undated",
        b'{"station":"a","benzene_ug_m3":9.0}': "undated",
        b'{"station":"a","timestamp":"2004-03-10T11:00:00Z","benzene_ug_m3":-200}': "nothing_usable",
        b"{": "not_json",
    }
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "enable.idempotence": True})
    for value in values:
        producer.produce(topic, value)
    assert producer.flush(30) == 0
    arguments = [f"--topic={topic}", f"--bootstrap_servers={kafka.bootstrap_servers}"]
    assert main([*arguments, f"--output={tmp_path}"]) == 0
    letters = rows(tmp_path, "dead_letters", "reason, value")
    assert {value: reason for reason, value in letters} == {
        value: reason for value, reason in values.items() if reason
    }
