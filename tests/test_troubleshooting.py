"""What users meet: each message is brought about here, and is the one that runners/README.md quotes."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from pipelines import traffic
from runners.local import KafkaBroker
from runners.local.ports import free_ports
from tests.monitoring import ALERTS
from tests.services import require_maven
from tests.stream_jobs import reading, rows, send
from tests.unprivileged import unprivileged

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "runners" / "README.md").read_text().partition("## Troubleshooting")[2]
QUOTED = [" ".join(block.split()) for block in re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)]


def assert_quoted(said: str, **places: object) -> None:
    """The message stands on the page, with the page's example in each of these places."""
    for example, place in places.items():
        said = said.replace(str(place), EXAMPLES[example])
    assert " ".join(said.split()) in QUOTED


EXAMPLES = {
    "servers": "kafka.example:9092",
    "topic": "traffic-raw",
    "registry": "http://registry.example:8082",
    "output": "/srv/readings",
    "advertised": "10.0.0.7:9092",
}


def failure(capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The line that the job ends with."""
    assert traffic.main([*arguments]) == 2
    return capfd.readouterr().err.splitlines()[-1]


def test_no_broker(tmp_path, capfd):
    nobody = f"127.0.0.1:{next(free_ports())}"
    said = failure(capfd, "--topic", "t", "--bootstrap_servers", nobody, "--output", str(tmp_path))
    assert_quoted(said, servers=nobody)


class Misadvertised(KafkaBroker):
    """A broker that, once it is wrong, sends its clients to a port where nobody listens."""

    wrong: str | None = None

    def prepare(self) -> None:
        super().prepare()
        if self.wrong:
            file = self.folder / "server.properties"
            advertised = f"advertised.listeners=PLAINTEXT://{self.wrong}"
            file.write_text(re.sub(r"advertised\.listeners=.*", advertised, file.read_text()))


def test_a_broker_that_advertises_a_wrong_address(tmp_path, capfd):
    require_maven()
    nobody = f"127.0.0.1:{next(free_ports())}"
    with Misadvertised(tmp_path / "kafka") as broker:
        broker.create_topic("t")
        broker.stop()
        broker.wrong = nobody
        broker.start()
        servers = broker.bootstrap_servers
        said = failure(
            capfd, "--topic", "t", "--bootstrap_servers", servers, "--output", str(tmp_path / "out")
        )
    assert_quoted(said, servers=servers, advertised=nobody)


def test_a_topic_that_is_not_there(kafka, tmp_path, capfd):
    servers = kafka.bootstrap_servers
    said = failure(capfd, "--topic", "no-such", "--bootstrap_servers", servers, "--output", str(tmp_path))
    assert_quoted(said, servers=servers, topic="no-such")


def test_a_registry_that_is_down(kafka, topic, tmp_path, capfd):
    send(kafka, topic, [(0, b"\0\0\0\0\1 a message of schema 1")])
    registry = f"http://127.0.0.1:{next(free_ports())}"
    source = ["--topic", topic, "--bootstrap_servers", kafka.bootstrap_servers, "--format", "avro"]
    said = failure(capfd, *source, "--schema_registry", registry, "--output", str(tmp_path / "out"))
    assert_quoted(said, registry=registry)


def test_records_without_a_date(kafka, topic, tmp_path, capfd):
    undated = {name: value for name, value in json.loads(reading("a", 0)).items() if name != "timestamp"}
    send(kafka, topic, [(0, json.dumps(undated).encode())] * 3)
    source = ["--topic", topic, "--bootstrap_servers", kafka.bootstrap_servers]
    assert traffic.main([*source, "--output", str(tmp_path / "out")]) == 0
    (line,) = [line for line in capfd.readouterr().out.splitlines() if "timestamp_missing" in line]
    assert_quoted(line)
    ((message,),) = set(rows(tmp_path / "out", "dead_letters", "message"))
    assert_quoted(message)


def test_an_output_that_may_not_be_written(tmp_path):
    file, output = tmp_path / "a.csv", tmp_path / "closed"
    file.write_text("sensor_id,timestamp,speed_mph\na,2012-03-01 00:00:00,60\n")
    output.mkdir(mode=0o555)
    command = [sys.executable, "-m", "pipelines.traffic", "--input", str(file), "--output", str(output)]
    done = unprivileged(*command)
    assert done.returncode == 2
    assert_quoted(done.stderr, output=output)


def test_an_idle_partition_has_the_alert_that_the_page_quotes():
    """`test_alerts_fire_and_clear` sees it fire."""
    summary = re.search(r'summary: "(.* gets nothing while others do)"', ALERTS.read_text())
    assert summary
    said = summary[1].replace("{{ $labels.topic }}", "traffic-raw").replace("{{ $labels.partition }}", "3")
    assert_quoted(said)
