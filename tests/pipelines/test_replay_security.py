"""The replay and brokers that do not let everyone in; and that no secret is ever shown."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import psutil
import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from pipelines import traffic
from runners.local import KafkaBroker
from runners.local.ports import LOOPBACK
from runners.local.waiting import wait_until
from tests.pipelines.test_replay import Replay, account, readings, topic_end


@pytest.fixture
def replay(kafka: KafkaBroker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Replay:
    return Replay(kafka, tmp_path, capsys)


def test_a_secret_on_the_command_line_is_refused_and_not_repeated(replay: Replay, tmp_path: Path) -> None:
    file = readings(tmp_path / "a.csv", 1)
    assert replay("t", file, kafka_config="sasl.password=hunter2") == 2
    assert "KAFKA_SASL_PASSWORD" in replay.err and "hunter2" not in replay.err + replay.out


class SaslBroker(KafkaBroker):
    """A broker that knows two users: admin may do everything, reader may not write."""

    LOGIN = (
        "org.apache.kafka.common.security.plain.PlainLoginModule required "
        'username="admin" password="right" user_admin="right" user_reader="right";'
    )
    ADMIN: ClassVar = {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanisms": "PLAIN",
        "sasl.username": "admin",
        "sasl.password": "right",
    }

    def prepare(self) -> None:
        super().prepare()
        usual = self._properties.read_text()
        self._properties.write_text(
            usual.replace("map=PLAINTEXT:PLAINTEXT", "map=PLAINTEXT:SASL_PLAINTEXT")
            + "sasl.enabled.mechanisms=PLAIN\nsasl.mechanism.inter.broker.protocol=PLAIN\n"
            + f"listener.name.plaintext.plain.sasl.jaas.config={self.LOGIN}\n"
            + "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n"
            + "super.users=User:admin;User:ANONYMOUS\n"
        )

    def _admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 0, **self.ADMIN})


@pytest.fixture(scope="module")
def sasl_broker(kafka: KafkaBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SaslBroker]:
    with SaslBroker(tmp_path_factory.mktemp("sasl") / "kafka") as broker:
        broker.create_topic("guarded")
        allowed = {"guarded": AclOperation.DESCRIBE, "another": AclOperation.WRITE}
        bindings = [
            AclBinding(
                ResourceType.TOPIC,
                topic,
                ResourcePatternType.LITERAL,
                "User:reader",
                "*",
                operation,
                AclPermissionType.ALLOW,
            )
            for topic, operation in allowed.items()
        ]
        admin = broker._admin()
        for created in admin.create_acls(bindings).values():
            created.result()
        yield broker


def sasl(user: str, password: str) -> dict[str, str]:
    return {
        "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "KAFKA_SASL_MECHANISM": "PLAIN",
        "KAFKA_SASL_USERNAME": user,
        "KAFKA_SASL_PASSWORD": password,
    }


def test_the_right_password_is_let_in_and_a_job_by_the_same_variables(
    sasl_broker: SaslBroker,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replay = Replay(sasl_broker, tmp_path, capsys)
    assert replay("guarded", readings(tmp_path / "a.csv", 10), environment=sasl("admin", "right")) == 0
    assert account(replay.out)["acked"] == 10
    assert topic_end(sasl_broker, "guarded", SaslBroker.ADMIN) == {0: 10}
    job = ["--topic", "guarded", "--output", str(tmp_path / "out")]
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", sasl_broker.bootstrap_servers)
    for password, status in (("right", 0), ("wr0ng", 2)):
        for name, value in sasl("admin", password).items():
            monkeypatch.setenv(name, value)
        assert traffic.main(job) == status
    said = capsys.readouterr()
    assert re.search(r"^ +accepted +10$", said.out, re.MULTILINE) and "KAFKA_SASL_PASSWORD" in said.err
    assert "wr0ng" not in said.out + said.err


def test_a_wrong_password_ends_at_once_with_what_to_do(
    sasl_broker: SaslBroker,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    replay, started = Replay(sasl_broker, tmp_path, capsys), time.monotonic()
    assert replay("guarded", readings(tmp_path / "a.csv", 10), environment=sasl("admin", "wr0ng")) == 2
    assert time.monotonic() - started < 10
    assert "KAFKA_SASL_PASSWORD" in replay.err and replay.err.count("\n") == 1
    assert "wr0ng" not in replay.err + replay.out + caplog.text


def test_a_user_who_may_not_write_ends_at_once_with_every_row_accounted_for(
    sasl_broker: SaslBroker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    replay, started = Replay(sasl_broker, tmp_path, capsys), time.monotonic()
    file = readings(tmp_path / "a.csv", 100)
    assert replay("guarded", file, environment=sasl("reader", "right")) == 1
    assert time.monotonic() - started < 20
    assert account(replay.out)["acked"] == 0
    assert "topic guarded: Broker: Topic authorization failed: have this user allowed" in replay.err


def test_no_process_listing_and_no_output_shows_the_password(
    sasl_broker: SaslBroker,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in sasl("admin", "right").items():
        monkeypatch.setenv(name, value)
    replay = Replay(sasl_broker, tmp_path, capsys)
    process = replay.start("guarded", readings(tmp_path / "a.csv", 10_000), rate=100)
    before = sum(topic_end(sasl_broker, "guarded", SaslBroker.ADMIN).values())
    try:
        assert wait_until(
            lambda: sum(topic_end(sasl_broker, "guarded", SaslBroker.ADMIN).values()) > before, within=60
        )
        listed = [" ".join(each.cmdline()) for each in [psutil.Process(process.pid), *_children(process.pid)]]
    finally:
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
    assert account(out)["acked"] > 0
    assert "pipelines.replay" in listed[0]
    assert not [text for text in [*listed, out, err] if "right" in text]


def _children(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


class TlsBroker(KafkaBroker):
    """A broker that speaks TLS alone, with a certificate of its own."""

    @property
    def client(self) -> dict[str, str]:
        return {"security.protocol": "SSL", "ssl.ca.location": str(self.folder / "certificate.pem")}

    def prepare(self) -> None:
        super().prepare()
        key, certificate, both = (self.folder / name for name in ("key.pem", "certificate.pem", "both.pem"))
        options = f"-newkey rsa:2048 -nodes -days 1 -subj /CN=broker -addext subjectAltName=IP:{LOOPBACK}"
        command = ["openssl", "req", "-x509", *options.split(), "-keyout", str(key), "-out", str(certificate)]
        subprocess.run(command, check=True, capture_output=True)
        both.write_text(key.read_text() + certificate.read_text())
        usual = self._properties.read_text()
        self._properties.write_text(
            usual.replace("map=PLAINTEXT:PLAINTEXT", "map=PLAINTEXT:SSL")
            + f"ssl.keystore.type=PEM\nssl.keystore.location={both}\n"
            + f"ssl.truststore.type=PEM\nssl.truststore.location={certificate}\n"
        )

    def _admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 0, **self.client})


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is needed to make a certificate")
def test_over_tls_messages_arrive_and_an_unknown_authority_is_refused(
    kafka: KafkaBroker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = readings(tmp_path / "a.csv", 10)
    with TlsBroker(tmp_path / "kafka") as broker:
        broker.create_topic("sealed")
        replay = Replay(broker, tmp_path, capsys)
        trusted = {
            "KAFKA_SECURITY_PROTOCOL": "SSL",
            "KAFKA_SSL_CA_LOCATION": broker.client["ssl.ca.location"],
        }
        assert replay("sealed", file, environment=trusted) == 0
        assert account(replay.out)["acked"] == 10
        assert topic_end(broker, "sealed", broker.client) == {0: 10}
        started = time.monotonic()
        assert replay("sealed", file, environment={"KAFKA_SECURITY_PROTOCOL": "SSL"}) == 2
        assert time.monotonic() - started < 15
        assert "certificate" in replay.err and "KAFKA_SSL_CA_LOCATION" in replay.err
        assert replay.err.count("\n") == 1
