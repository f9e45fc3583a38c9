"""Topics in, files and topics out: on DirectRunner to the topics' ends, on a real Flink without end."""

from __future__ import annotations

import io
import itertools
import json
import os
import shutil
import signal
import threading
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import fastavro
import psutil
import pyarrow.dataset
import pytest
from confluent_kafka import Producer

from pipelines import traffic
from pipelines.alongside import alongside
from pipelines.replay import __main__ as replay
from pipelines.sample.traffic import write_sample
from runners.local import KafkaBroker
from schemas.traffic import TRAFFIC
from tests.stream_jobs import START, job, job_log, lag, messages, raw_offsets, reading, rows, send, wait_for
from transforms.kafka_sink import aggregate_avro_schema


def table(output: Path, kind: str) -> pyarrow.Table:
    return pyarrow.dataset.dataset(output / kind, format="parquet").to_table()


def test_a_topic_of_avro_gives_what_the_replayed_file_gives(kafka, schema_registry, new_topic, tmp_path):
    write_sample(str(tmp_path), sensors=10, step_seconds=120)
    topic = new_topic(2)
    broker = ["--bootstrap_servers", kafka.bootstrap_servers, "--topic", topic]
    avro = ["--format", "avro", "--schema_registry", schema_registry.url]
    letters = ["--dead_letters", str(tmp_path / "letters")]
    assert replay.main(["traffic", "--input", str(tmp_path / "traffic.csv"), *broker, *avro, *letters]) == 0
    send(kafka, topic, [(0, reading("a", 0))])  # JSON among the Avro
    sensors = ["--sensors", str(tmp_path / "traffic.sensors.csv"), "--max_future_seconds", "3600"]
    files = ["--input", str(tmp_path / "traffic.csv"), "--output", str(tmp_path / "files")]
    assert traffic.main([*files, *sensors]) == 0
    assert traffic.main([*broker, *avro, *sensors, "--output", str(tmp_path / "topic")]) == 0
    letters_by_reason = json.loads((tmp_path / "topic" / "summary.json").read_text())["dead_letters"]
    assert letters_by_reason["not_framed"] == 1
    names = [field.name for field in TRAFFIC.fields if field.name not in ("event_id", TRAFFIC.ingestion_time)]
    read_from_files, read_from_topic = (
        table(tmp_path / name, "raw").select(names) for name in ("files", "topic")
    )
    assert read_from_topic.equals(read_from_files)


def test_poison_in_a_topic_becomes_dead_letters_with_its_bytes_and_offsets(kafka, new_topic, tmp_path):
    topic = new_topic(1)
    good, poison = (
        reading("a", 0),
        [b"{", b"", None, b'{"sensor_id":"a"}{}', b"[1]", b"\xff", b"x" * 999_000],
    )
    values = [good, *poison, reading("a", 86_400 * 36_500), reading("b", 1), b"[" * 100_000]
    send(kafka, topic, [(0, value) for value in values])
    source = ["--topic", topic, "--bootstrap_servers", kafka.bootstrap_servers]
    assert traffic.main([*source, "--output", str(tmp_path / "out")]) == 0
    letters = table(tmp_path / "out", "dead_letters").to_pylist()
    assert {letter["position"]: letter["value"] for letter in letters} == {
        offset: value for offset, value in enumerate(values) if offset not in (0, 9)
    }
    assert {(letter["source"], letter["partition"]) for letter in letters} == {(topic, 0)}
    assert rows(tmp_path / "out", "raw", "sensor_id, partition, position") == [("a", 0, 0), ("b", 0, 9)]


def test_another_start_does_not_delete_what_the_topic_gave_before(kafka, new_topic, tmp_path):
    topic = new_topic(1)
    send(kafka, topic, [(0, reading("a", 0)), (0, reading("a", 86_400))])
    source = ["--topic", topic, "--bootstrap_servers", kafka.bootstrap_servers, f"--output={tmp_path}/out"]
    assert traffic.main(source) == 0
    assert traffic.main([*source, "--start", "latest"]) == 0
    assert [row[0] for row in rows(tmp_path / "out", "raw", "position")] == [0, 1]


def test_a_stream_is_refused_an_output_that_holds_the_results_of_another_run(
    kafka, new_topic, tmp_path, capfd
):
    topic = new_topic(1)
    send(kafka, topic, [(0, reading("a", 0))])
    source = ["--topic", topic, "--bootstrap_servers", kafka.bootstrap_servers, f"--output={tmp_path}/out"]
    assert traffic.main(source) == 0
    assert traffic.main([*source, "--runner", "FlinkRunner"]) == 2
    assert "resume that with --savepoint_path" in capfd.readouterr().err


def test_a_stream_is_not_resumed_into_an_output_in_which_none_was_started(kafka, new_topic, tmp_path, capfd):
    where = ["--bootstrap_servers", kafka.bootstrap_servers, "--output", str(tmp_path / "out")]
    resumed = [
        "--topic",
        new_topic(1),
        *where,
        "--runner",
        "FlinkRunner",
        "--savepoint_path=file:///savepoint",
    ]
    assert traffic.main(resumed) == 2
    assert "resume with the --output it was started with" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("start", "offsets"),
    [("earliest", [0, 1, 2]), ("latest", []), ("2012-03-01T00:00:05Z", [1, 2]), ("group", [0, 1, 2])],
)
def test_start(start, offsets, kafka, new_topic, tmp_path):
    topic = new_topic(1)
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "enable.idempotence": True})
    for second in (0, 5, 10):
        producer.produce(topic, reading("a", second), timestamp=(START + second) * 1000)
    assert producer.flush(30) == 0
    source = ["--topic", topic, "--bootstrap_servers", kafka.bootstrap_servers, "--start", start]
    assert traffic.main([*source, "--output", str(tmp_path / "out")]) == 0
    assert [row[0] for row in rows(tmp_path / "out", "raw", "position")] == offsets


@pytest.mark.parametrize(
    "arguments", [["--topic", "no-such-topic"], ["--topic", "t", "--kafka_config", "no.such=1"]]
)
def test_an_unusable_topic_is_one_line_and_status_2(arguments, kafka, tmp_path, capfd):
    where = ["--bootstrap_servers", kafka.bootstrap_servers, "--output", str(tmp_path / "out")]
    assert traffic.main([*arguments, *where]) == 2
    errors = capfd.readouterr().err.splitlines()
    assert len(errors) == 1
    assert arguments[-1].partition("=")[0] in errors[0]


def test_the_story_of_a_window_on_flink(kafka, schema_registry, new_topic, tmp_path):
    """On time, late but allowed, too late, a duplicate, a tombstone, a partition that is empty."""
    topic, events = new_topic(3), new_topic(1)
    dead = new_topic(1)
    output = tmp_path / "out"
    arguments = ["--topic", topic, "--aggregates_topic", events, "--dead_letter_topic", dead]
    arguments += ["--aggregates_format=avro", f"--schema_registry={schema_registry.url}"]
    arguments += ["--allowed_lateness_seconds=600", "--out_of_orderness_seconds=30", "--idle_seconds=1"]
    arguments.append("--shards=4")  # a and b are in two: those of one shard get each pane together
    with job(kafka, output, *arguments):
        on_time = [(0, reading("a", 0, 40)), (0, reading("a", 60, 60)), (0, reading("a", 60, 99)), (0, None)]
        send(
            kafka,
            topic,
            [*on_time, (1, reading("b", 10, 30)), (0, reading("a", 400)), (0, reading("a", 401))],
        )
        send(kafka, topic, [(1, reading("b", 400)), (1, reading("b", 401))])
        figures = "sensor_id, epoch(window_start)::int - 1330560000, message_count, avg_speed, pane"
        wait_for(lambda: len(rows(output, "processed/aggregates")) == 2, "the first window is out on time")
        assert rows(output, "processed/aggregates", figures) == [
            ("a", 0, 2, 50.0, "on time"),
            ("b", 0, 1, 30.0, "on time"),
        ]
        send(kafka, topic, [(0, reading("a", 120, 80))])
        wait_for(
            lambda: ("a", 0, 3, 60.0, "late") in rows(output, "processed/aggregates", figures), "a late pane"
        )
        assert ("b", 0, 1, 30.0, "on time") in rows(output, "processed/aggregates", figures)
        send(kafka, topic, [(p, reading(s, t)) for p, s in ((0, "a"), (1, "b")) for t in (2000, 2001)])
        wait_for(lambda: len(rows(output, "processed/aggregates")) == 4, "the second window is out")
        send(kafka, topic, [(0, reading("a", 130, 90))])
        wait_for(lambda: len(rows(output, "dead_letters")) == 2, "the dead letters are written")
        wait_for(lambda: len(raw_offsets(output)) == 8, "the readings are written")
    assert rows(output, "dead_letters", "reason, partition, position") == [
        ("empty", 0, 3),
        ("too_late", 0, 9),
    ]
    assert ("a", 0, 3, 60.0, "late") in rows(output, "processed/aggregates", figures)
    assert raw_offsets(output) == [(0, 0), (0, 1), (0, 4), (0, 5), (0, 6), (1, 0), (1, 1), (1, 2)]
    latest: dict[bytes, Any] = {}
    schema = fastavro.parse_schema(aggregate_avro_schema(TRAFFIC))
    for key, value in messages(kafka, events):
        latest[key] = fastavro.schemaless_reader(io.BytesIO(value[5:]), schema)
    first = latest[b"a|2012-03-01T00:00:00Z"]
    assert (first["message_count"], first["pane"]) == (3, "late")
    assert sorted(key for key, _ in messages(kafka, dead)) == [
        f"{topic}/0/3".encode(),
        f"{topic}/0/9".encode(),
    ]


def trickle(kafka: KafkaBroker, topic: str, partitions: int) -> AbstractContextManager[None]:
    """A reading to each partition a hundred times a second, each a second after the one before."""

    def send_on(ended: threading.Event) -> None:
        producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "enable.idempotence": True})
        for second in itertools.count():
            for partition in range(partitions):
                producer.produce(topic, reading(f"s{partition}", second), partition=partition)
            if ended.wait(0.01):
                break
        producer.flush(30)

    return alongside(send_on)


def test_windows_close_between_checkpoints_while_readings_keep_coming(kafka, new_topic, tmp_path):
    topic, events = new_topic(4), new_topic(1)
    arguments = ["--topic", topic, "--aggregates_topic", events, "--checkpointing_interval=3600000"]
    with trickle(kafka, topic, 4), job(kafka, tmp_path / "out", *arguments):
        wait_for(lambda: len(messages(kafka, events)) >= 8, "two windows of four sensors are out")


def test_an_idle_partition_does_not_hold_windows_back_when_history_is_replayed(kafka, new_topic, tmp_path):
    """Partition 2 has one old message and then nothing, partition 3 has nothing at all."""
    topic = new_topic(4)
    output = tmp_path / "out"
    history = [(n % 2, reading(f"s{n % 2}", 10 * n)) for n in range(2000)]
    send(kafka, topic, [(2, reading("idle", 5)), *history])
    with job(kafka, output, "--topic", topic, "--idle_seconds=1", "--out_of_orderness_seconds=30"):
        closed = (10 * 1999 - 30) // 300 - 1
        wait_for(
            lambda: len(rows(output, "processed/aggregates")) >= 2 * closed, "the windows of history close"
        )
        assert not rows(output, "dead_letters")


def test_a_lone_event_time_far_ahead_does_not_make_the_others_late(kafka, new_topic, tmp_path):
    """It is not in the future, only years after all others: no rule refuses it."""
    topic = new_topic(2)
    output = tmp_path / "out"
    with job(kafka, output, "--topic", topic, "--out_of_orderness_seconds=30"):
        send(kafka, topic, [(p, reading(f"s{p}", t)) for p in (0, 1) for t in range(0, 100, 10)])
        wait_for(lambda: lag(kafka, topic, 2) == 0, "the first readings are read")
        send(kafka, topic, [(0, reading("s0", 86_400 * 3650))])
        wait_for(lambda: lag(kafka, topic, 2) == 0, "the one far ahead is read")
        send(kafka, topic, [(p, reading(f"s{p}", t)) for p in (0, 1) for t in range(100, 1000, 10)])
        wait_for(
            lambda: len(rows(output, "processed/aggregates")) == 6, "three windows of two sensors are out"
        )
        assert not rows(output, "dead_letters")


def test_a_stream_ends_with_its_launcher_and_is_resumed(kafka, new_topic, tmp_path):
    """By Ctrl+C, to all processes of the terminal; by SIGTERM, to the launcher alone; by a kill."""
    topic, output, checkpoints = new_topic(2), tmp_path / "out", tmp_path / "checkpoints"
    arguments = ["--topic", topic, "--idle_seconds=1", "--out_of_orderness_seconds=30"]
    arguments.append(f"--state_backend_storage_path={checkpoints.as_uri()}")

    def read(first: int, end: int, closed: int) -> None:
        """Sends a second's reading after the other, and waits for those of all windows but the last."""
        send(kafka, topic, [(n % 2, reading(f"s{n % 2}", n)) for n in range(first, end)])
        wait_for(lambda: len(raw_offsets(output)) == closed, "all windows but the last are out")
        assert raw_offsets(output) == sorted((n % 2, n // 2) for n in range(closed))

    def stopped() -> str:
        """The option that resumes it, as it said last."""
        log = job_log(output).read_text()
        assert "Traceback" not in log, "no worker complains that its runner has gone"
        said = [line for line in log.splitlines() if line.startswith("stopped with")]
        assert said[-1].startswith("stopped with a savepoint;")
        return said[-1].split()[-1]

    with job(kafka, output, *arguments) as launcher:
        read(0, 1000, closed=900)
        os.killpg(launcher.pid, signal.SIGINT)
        assert launcher.wait(120) == 128 + signal.SIGINT
    by_ctrl_c = stopped()
    with job(kafka, output, *arguments, by_ctrl_c) as launcher:
        read(1000, 2000, closed=1800)
        launcher.terminate()
        assert launcher.wait(120) == 128 + signal.SIGTERM
    by_sigterm = stopped()
    assert by_sigterm != by_ctrl_c
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv, of util-linux, is needed")
    with job(kafka, output, *arguments, by_sigterm) as launcher:
        read(2000, 3000, closed=2700)
        wait_for(lambda: list(checkpoints.glob("*/chk-*/_metadata")), "a checkpoint is there")
        started = psutil.Process(launcher.pid).children(recursive=True)
        launcher.kill()
        gone, alive = psutil.wait_procs(started, 30)
        assert gone and not alive
    last = max(checkpoints.glob("*/chk-*/_metadata"), key=lambda path: path.stat().st_mtime).parent
    with job(kafka, output, *arguments, f"--savepoint_path={last.as_uri()}"):
        read(3000, 4000, closed=3900)
