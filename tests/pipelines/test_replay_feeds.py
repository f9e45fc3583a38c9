"""The replay of detections, of air quality, and as Avro, against a real Kafka broker and schema registry."""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Callable
from pathlib import Path

import fastavro
import pytest
from confluent_kafka.admin import AdminClient

from pipelines.replay.__main__ import main
from runners.local import KafkaBroker, SchemaRegistry
from runners.local.ports import LOOPBACK, free_ports
from runners.local.waiting import wait_until
from schemas.air_quality import MEASURED
from schemas.avro import avro_schema
from schemas.feeds import FEEDS
from schemas.traffic import TRAFFIC
from tests.pipelines.test_replay import account, read_topic, readings

AIR_QUALITY_FILE = Path(__file__).parents[3] / "shared" / "data" / "AirQualityUCI.csv"
DETECTIONS = """\
frame_number,timestamp_sec,u,v,confidence,class_name,vehicle_lat,vehicle_lon,heading
1,0.5,640.5,360.25,0.93,stop,52.1,4.3,90
1,0.5,10,20,1.93,stop,52.1,4.3,90
2,1.5,641.5,361.25,0.95,yield,52.2,4.4,
"""

Run = Callable[..., int]


@pytest.fixture
def run(kafka: KafkaBroker, tmp_path: Path) -> Run:
    def run(feed: str, topic: str, file: Path, *options: str) -> int:
        where = ["--bootstrap_servers", kafka.bootstrap_servers, "--topic", topic]
        letters = ["--dead_letters", str(tmp_path / "dead_letters.parquet")]
        return main([feed, "--input", str(file), *where, *letters, *options], {})

    return run


def test_detections_carry_identifiers_vehicle_session_and_times(
    run: Run, kafka: KafkaBroker, new_topic: Callable[..., str], tmp_path: Path
) -> None:
    file = tmp_path / "detections.csv"
    file.write_text(DETECTIONS)
    start = ["--session_start", "2026-03-01T08:00:00Z", "--vehicle", "car-7", "--session", "drive-1"]
    runs = []
    for topic in (new_topic(), new_topic()):
        assert run("detections", topic, file, *start) == 0
        sent = read_topic(kafka, topic)
        assert [message.key for message in sent] == ["car-7", "car-7"]
        runs.append([json.loads(message.value) for message in sent])
    first, second = runs
    assert [message["detection_id"] for message in first] == [message["detection_id"] for message in second]
    assert {uuid.UUID(message["detection_id"]).version for message in first} == {8}
    assert all(message.pop("ingested_at") > "2026" for message in first)
    assert first[1] | {"detection_id": ""} == {
        "vehicle_id": "car-7",
        "session_id": "drive-1",
        "timestamp": "2026-03-01T08:00:01.500000Z",
        "frame_number": 2,
        "timestamp_sec": 1.5,
        "pixel_u": 641.5,
        "pixel_v": 361.25,
        "confidence": 0.95,
        "class_name": "yield",
        "vehicle_lat": 52.2,
        "vehicle_lon": 4.4,
        "heading": None,
        "detection_id": "",
    }


def test_a_session_is_made_up_anew_unless_it_is_given(
    run: Run, kafka: KafkaBroker, new_topic: Callable[..., str], tmp_path: Path
) -> None:
    file = tmp_path / "detections.csv"
    file.write_text(DETECTIONS)

    def sessions(*options: str) -> set[str]:
        topic = new_topic()
        assert run("detections", topic, file, "--batch_mode", *options) == 0
        return {json.loads(message.value)["session_id"] for message in read_topic(kafka, topic)}

    assert len(sessions() | sessions()) == 2
    assert sessions("--deterministic", "1") == sessions("--deterministic", "1")


@pytest.mark.skipif(not AIR_QUALITY_FILE.exists(), reason="missing: shared/data/AirQualityUCI.csv")
def test_air_quality_is_sent_with_its_sentinels_as_they_are(
    run: Run, kafka: KafkaBroker, new_topic: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    topic = new_topic(partitions=3)
    assert run("air_quality", topic, AIR_QUALITY_FILE) == 0
    assert account(capsys.readouterr().out) == {"read": 9357, "acked": 9357, "dead_letters": 0}
    messages = [json.loads(message.value) for message in read_topic(kafka, topic)]
    rows = [line.split(";") for line in AIR_QUALITY_FILE.read_text().splitlines()[1:] if line.strip(";")]
    header = AIR_QUALITY_FILE.read_text().splitlines()[0].split(";")
    assert len(messages) == len(rows) == 9357
    for field in MEASURED:
        place = header.index(field.column or "")
        assert [message[field.name] for message in messages] == [
            float(row[place].replace(",", ".")) for row in rows
        ]
    assert messages[0]["timestamp"] == "2004-03-10T18:00:00Z"
    assert sum(message["carbon_monoxide_mg_m3"] == -200 for message in messages) > 1000


def test_avro_is_framed_and_registered_under_the_topics_name(
    run: Run, kafka: KafkaBroker, schema_registry: SchemaRegistry, topic: str, tmp_path: Path
) -> None:
    file = readings(tmp_path / "a.csv", 100)
    assert run("traffic", topic, file, "--format", "avro", "--schema_registry", schema_registry.url) == 0
    sent = read_topic(kafka, topic)
    assert len(sent) == 100 and len({message.value[:5] for message in sent}) == 1
    parsed = fastavro.parse_schema(avro_schema(TRAFFIC.as_raw))
    records = [fastavro.schemaless_reader(io.BytesIO(message.value[5:]), parsed) for message in sent]
    assert [record["speed_mph"] for record in records] == [row / 10 for row in range(100)]  # type: ignore[index,call-overload]
    assert records[0]["coordinates"] == {"latitude": 34.1, "longitude": -118.2}  # type: ignore[index,call-overload]


def test_a_registry_that_is_away_is_said_in_one_line(
    run: Run, topic: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"http://{LOOPBACK}:{next(free_ports())}"
    file = readings(tmp_path / "a.csv", 1)
    assert run("traffic", topic, file, "--format", "avro", "--schema_registry", url) == 2
    err = capsys.readouterr().err
    assert "schema registry" in err and "cannot be reached" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("feed", "topics"),
    [
        ("traffic", {"traffic-raw": 5, "traffic-raw.dlq": 5}),
        ("detections", {"detections": 3, "detections.dlq": 3}),
        ("air_quality", {"air_quality.raw": 3, "air_quality.clean": 3, "air_quality.dlq": 3}),
    ],
)
def test_topics_are_created_when_asked_with_the_partitions_of_the_feed(
    kafka: KafkaBroker, tmp_path: Path, feed: str, topics: dict[str, int]
) -> None:
    file = tmp_path / "a.csv"
    delimiter = FEEDS[feed].dialect.delimiter
    file.write_text(delimiter.join(FEEDS[feed].required_columns) + "\n")
    command = [feed, "--input", str(file), "--bootstrap_servers", kafka.bootstrap_servers]
    assert not topics.keys() & partitions(kafka).keys()
    for _ in range(2):
        assert main([*command, "--dead_letter_topic", "--create_topics"], {}) == 0
        # the controller knows a topic before the broker shows it
        assert wait_until(lambda: topics.items() <= partitions(kafka).items(), within=20)
    for topic in topics:
        kafka.delete_topic(topic)


def partitions(kafka: KafkaBroker) -> dict[str, int]:
    """The topics that are there, and how many partitions each has."""
    topics = AdminClient({"bootstrap.servers": kafka.bootstrap_servers}).list_topics(timeout=10).topics
    return {name: len(topic.partitions) for name, topic in topics.items()}
