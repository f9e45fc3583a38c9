"""Where librdkafka's properties come from, and that no secret goes anywhere else."""

from __future__ import annotations

import logging
import re
import shlex
from pathlib import Path

import pytest

from pipelines.arguments import parse_arguments as job_arguments
from pipelines.kafka_properties import from_command_line, from_environment, from_file
from pipelines.replay.arguments import parse_arguments
from pipelines.replay.topics import TOPICS
from schemas.traffic import TRAFFIC
from transforms.errors import UserError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.csv"
    path.write_text("sensor_id,timestamp,speed_mph\n")
    return path


def test_variables_are_properties_with_dots_and_others_are_passed_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    environment = {
        "KAFKA_BOOTSTRAP_SERVERS": "a:1",
        "KAFKA_SASL_MECHANISM": "PLAIN",
        "KAFKA_SASL_USERNAME": "",
        "KAFKA_BATCH_SIZE": "1000",
        "KAFKA_TOPIC": "t",
        "KAFKA_HEAP_OPTS": "-Xmx1g",
        "KAFKA_HOME": "/opt/kafka",
        "HOME": "/root",
    }
    with caplog.at_level(logging.INFO, "pipelines"):
        found = from_environment(environment)
    assert found == {"bootstrap.servers": "a:1", "sasl.mechanisms": "PLAIN", "batch.size": "1000"}
    assert "KAFKA_HEAP_OPTS" in caplog.text and "KAFKA_HOME" in caplog.text and "-Xmx1g" not in caplog.text


def test_the_command_line_wins_over_the_file_and_that_over_the_environment(
    file: Path, tmp_path: Path
) -> None:
    config = tmp_path / "client.properties"
    config.write_text(
        "# ours\n\nlinger.ms = 7\nbatch.size=2000\ncompression.type=gzip\n"
        "sasl.password=a=b\ndelivery.timeout.ms=9000\n"
    )
    arguments = parse_arguments(
        [
            "traffic",
            "--input",
            str(file),
            "--kafka_config_file",
            str(config),
            "--kafka_config",
            "batch.size=3000",
            "--compression",
            "zstd",
        ],
        {
            "KAFKA_LINGER_MS": "1",
            "KAFKA_BATCH_SIZE": "1",
            "KAFKA_BOOTSTRAP_SERVERS": "a:1",
            "KAFKA_TOPIC": "t",
        },
    )
    wanted = {
        "linger.ms": "7",
        "batch.size": "3000",
        "compression.type": "zstd",
        "sasl.password": "a=b",
        "message.timeout.ms": "9000",
        "bootstrap.servers": "a:1",
        "enable.idempotence": True,
        "acks": "all",
    }
    assert {name: arguments.properties[name] for name in wanted} == wanted
    assert arguments.topic == "t"


@pytest.mark.parametrize(
    "name", ["sasl.password", "ssl.key.password", "ssl.key.pem", "sasl.oauthbearer.client.secret"]
)
def test_secrets_are_refused_on_the_command_line_without_being_repeated(name: str) -> None:
    with pytest.raises(UserError, match="no place for a secret") as refusal:
        from_command_line([f"{name}=hunter2"])
    assert "hunter2" not in str(refusal.value)


def test_a_line_that_is_no_property_is_not_repeated_either(tmp_path: Path) -> None:
    config = tmp_path / "client.properties"
    config.write_text("hunter2\n")
    with pytest.raises(UserError, match="not of the form") as refusal:
        from_file(str(config))
    assert "hunter2" not in str(refusal.value)


def test_a_value_that_librdkafka_does_not_take_is_said(file: Path) -> None:
    with pytest.raises(UserError, match=r"batch\.size"):
        parse_arguments(
            [
                "traffic",
                "--input",
                str(file),
                "--bootstrap_servers",
                "a:1",
                "--kafka_config",
                "batch.size=-5",
            ],
            {},
        )


def test_arguments_do_not_show_secrets_when_printed(file: Path) -> None:
    arguments = parse_arguments(
        ["traffic", "--input", str(file)],
        {"KAFKA_BOOTSTRAP_SERVERS": "a:1", "KAFKA_SASL_PASSWORD": "hunter2"},
    )
    assert arguments.properties["sasl.password"] == "hunter2"
    assert "hunter2" not in repr(arguments)


def test_a_job_takes_them_from_the_same_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "client.properties"
    config.write_text("sasl.username=me\nsasl.mechanism=SCRAM-SHA-512\n")
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "a:1")
    monkeypatch.setenv("KAFKA_SASL_PASSWORD", "hunter2")
    run = ["--topic", "t", "--kafka_config_file", str(config), "--kafka_config", "sasl.mechanism=PLAIN"]
    arguments = job_arguments(TRAFFIC, run)
    assert arguments.kafka == {
        "bootstrap.servers": "a:1",
        "group.id": "stream-processor-group-v2",
        "sasl.username": "me",
        "sasl.password": "hunter2",
        "sasl.mechanisms": "PLAIN",
    }
    assert "hunter2" not in repr(arguments) + repr(arguments.describe())
    elsewhere = job_arguments(TRAFFIC, [*run, "--bootstrap_servers", "b:1"])
    assert elsewhere.kafka["bootstrap.servers"] == "b:1"
    with pytest.raises(UserError, match="no place for a secret"):
        job_arguments(TRAFFIC, [*run, "--kafka_config", "sasl.password=hunter2"])


def test_a_registrys_password_comes_from_the_environment_alone(file: Path) -> None:
    run = ["traffic", "--input", str(file), "--bootstrap_servers", "a:1"]
    with pytest.raises(UserError, match="SCHEMA_REGISTRY_URL") as refusal:
        parse_arguments([*run, "--schema_registry", "http://me:hunter2@r:8081"], {})
    assert "hunter2" not in str(refusal.value)
    arguments = parse_arguments(run, {"SCHEMA_REGISTRY_URL": "http://me:hunter2@r:8081"})
    assert arguments.schema_registry == "http://me:hunter2@r:8081" and "hunter2" not in repr(arguments)


PAGE = (Path(__file__).parents[2] / "pipelines" / "replay" / "README.md").read_text()
COMMAND = re.compile(r"^python -m pipelines\.replay (.+)$", re.MULTILINE)


@pytest.mark.parametrize("command", COMMAND.findall(PAGE))
def test_the_pages_commands_are_understood(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("sample.csv", "drive.csv", "AirQualityUCI.csv"):
        Path(name).touch()
    Path("client.properties").write_text("bootstrap.servers=HOST:PORT\n")
    exported = dict(re.findall(r"\b(KAFKA_(?:BOOTSTRAP_SERVERS|TOPIC))=(\S+)", PAGE))
    arguments = parse_arguments(shlex.split(command), {} if "--bootstrap_servers" in command else exported)
    assert arguments.dry_run or arguments.properties["bootstrap.servers"] == "HOST:PORT"
    assert arguments.topic in TOPICS[arguments.feed.name]


def test_the_page_names_the_topics_and_their_partitions() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \|", PAGE, re.MULTILINE)
    for feed, cell in rows:
        topics = re.findall(r"`([^`]+)`", cell)
        partitions = {int(number) for number in re.findall(r", (\d)", cell)}
        assert topics == [*TOPICS[feed]] and partitions == {*TOPICS[feed].values()}
    assert {feed for feed, _ in rows} == TOPICS.keys()
