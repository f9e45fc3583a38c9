"""The replay's real `main()`, against a real Kafka broker, checked by reading the topic back."""

from __future__ import annotations

import contextlib
import gzip
import json
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import requests
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from pipelines.replay.__main__ import main
from runners.local import KafkaBroker
from runners.local.ports import LOOPBACK, free_ports
from runners.local.waiting import wait_until

ROOT = Path(__file__).parents[2]
HEADER = "sensor_id,timestamp,speed_mph,latitude,longitude\n"
SECONDS_TO_READ = 60
START = datetime(2012, 3, 1)


class Sent(NamedTuple):
    """A message as the broker has it."""

    partition: int
    key: str
    value: bytes
    headers: dict[str, str]


def readings(path: Path, rows: int, sensors: int = 10, step_seconds: int = 30) -> Path:
    """A file of sound readings: every sensor at every step; the speed tells them apart."""
    with path.open("w") as file:
        file.write(HEADER)
        for row in range(rows):
            step, sensor = divmod(row, sensors)
            at = START + timedelta(seconds=step * step_seconds)
            file.write(f"s{sensor},{at},{row % 1000 / 10},34.1,-118.2\n")
    return path


def topic_end(broker: KafkaBroker, topic: str, properties: dict | None = None) -> dict[int, int]:
    """How many messages each partition has had."""
    consumer = _consumer(broker, properties)
    partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
    ends = {each: consumer.get_watermark_offsets(TopicPartition(topic, each))[1] for each in partitions}
    consumer.close()
    return ends


def read_topic(broker: KafkaBroker, topic: str) -> list[Sent]:
    """All messages, partition by partition, in their order."""
    ends = topic_end(broker, topic)
    consumer = _consumer(broker)
    found: list[Sent] = []
    for partition, end in ends.items():
        consumer.assign([TopicPartition(topic, partition, 0)])
        count, deadline = 0, time.monotonic() + SECONDS_TO_READ
        while count < end:
            assert time.monotonic() < deadline, f"{count} of {end} messages of partition {partition}"
            for message in consumer.consume(min(end - count, 10_000), timeout=1):
                assert message.error() is None
                pairs = cast("list[tuple[str, bytes]]", message.headers() or [])
                headers = {name: text.decode() for name, text in pairs}
                key = (message.key() or b"").decode()
                found.append(Sent(partition, key, message.value() or b"", headers))
                count += 1
    consumer.close()
    return found


def _consumer(broker: KafkaBroker, properties: dict | None = None) -> Consumer:
    return Consumer(
        {"bootstrap.servers": broker.bootstrap_servers, "group.id": "test", "enable.auto.commit": False}
        | (properties or {})
    )


def json_of(messages: Sequence[Sent]) -> list[dict]:
    return [json.loads(message.value) for message in messages]


class Replay:
    """Runs the command for one broker, everything it writes below one folder."""

    def __init__(self, broker: KafkaBroker, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.servers, self.folder, self.capsys = broker.bootstrap_servers, folder, capsys
        self.out = self.err = ""

    def arguments(self, topic: str, *inputs: Path, **options: object) -> list[str]:
        given: dict[str, object] = {
            "bootstrap_servers": self.servers,
            "topic": topic,
            "dead_letters": self.folder / "dead_letters.parquet",
            "manifest": self.folder / "manifest.jsonl",
            **options,
        }
        flags = [["--" + name] + ([] if value is True else [str(value)]) for name, value in given.items()]
        return ["traffic", "--input", *map(str, inputs), *(part for flag in flags for part in flag)]

    def __call__(self, topic: str, *inputs: Path, environment: dict | None = None, **options: object) -> int:
        status = main(self.arguments(topic, *inputs, **options), environment or {})
        self.out, self.err = self.capsys.readouterr()
        return status

    def start(self, topic: str, *inputs: Path, **options: object) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", "pipelines.replay", *self.arguments(topic, *inputs, **options)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def dead_letters(self) -> list[dict]:
        return pq.read_table(self.folder / "dead_letters.parquet").to_pylist()


def account(out: str) -> dict[str, int]:
    """The numbers of the closing lines, and `balanced`."""
    words = [line.split() for line in out.splitlines()]
    names = {"read": "read", "acked": "acked"}
    found = {names[each[0]]: int(each[1].replace(",", "")) for each in words if each and each[0] in names}
    letters = next(each for each in words if each[:2] == ["dead", "letters"])
    found["dead_letters"] = int(letters[2].replace(",", ""))
    assert ["balanced", "yes"] in words, out
    assert found["read"] == found["acked"] + found["dead_letters"], out
    return found


@pytest.fixture
def replay(kafka: KafkaBroker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Replay:
    return Replay(kafka, tmp_path, capsys)


# --- What arrives


def test_of_100_rows_99_arrive_and_one_is_refused_for_its_speed(
    replay: Replay, kafka: KafkaBroker, new_topic: Callable[..., str], tmp_path: Path
) -> None:
    topic = new_topic(partitions=5)
    file = readings(tmp_path / "sample.csv", 100)
    lines = file.read_text().splitlines(keepends=True)
    lines[42] = "s1,2012-03-01T00:02:00,-1.85,34.1,-118.2\n"
    file.write_text("".join(lines))
    assert replay(topic, file) == 0
    assert account(replay.out) == {"read": 100, "acked": 99, "dead_letters": 1}
    messages = read_topic(kafka, topic)
    assert len(messages) == 99
    assert sorted(message["event_id"] for message in json_of(messages)) == sorted(
        {message["event_id"] for message in json_of(messages)}
    )
    (letter,) = replay.dead_letters()
    assert letter["value"] == lines[42].rstrip().encode()
    assert (letter["position"], letter["stage"], letter["reason"]) == (
        42,
        "validate",
        "speed_mph_out_of_range",
    )


def test_a_message_has_the_names_of_the_feed_and_nests_its_coordinates(
    replay: Replay, kafka: KafkaBroker, topic: str, tmp_path: Path
) -> None:
    file = tmp_path / "a.csv"
    file.write_text(
        "sensor_id,timestamp,speed_mph,latitude,longitude,road_name,event_id,weather_condition,incident_nearby\n"
        's1,2012-03-01 00:00:00,61.5,34.1,-118.2,"I ""405"" – é",e-1,rain,true\n'
        "s2,2012-03-01 00:00:00.25,0,,,,e-2,,\n"
    )
    assert replay(topic, file) == 0
    assert json_of(read_topic(kafka, topic)) == [
        {
            "sensor_id": "s1",
            "timestamp": "2012-03-01T00:00:00Z",
            "speed_mph": 61.5,
            "coordinates": {"latitude": 34.1, "longitude": -118.2},
            "road_name": 'I "405" – é',
            "event_id": "e-1",
            "weather_condition": "rain",
            "incident_nearby": True,
        },
        {
            "sensor_id": "s2",
            "timestamp": "2012-03-01T00:00:00.250000Z",
            "speed_mph": 0,
            "coordinates": None,
            "road_name": None,
            "event_id": "e-2",
            "weather_condition": None,
            "incident_nearby": None,
        },
    ]


def test_a_sensor_stays_in_one_partition_and_in_order(
    replay: Replay, kafka: KafkaBroker, new_topic: Callable[..., str], tmp_path: Path
) -> None:
    topic = new_topic(partitions=5)
    assert replay(topic, readings(tmp_path / "a.csv", 60_000, sensors=50)) == 0
    messages = read_topic(kafka, topic)
    assert len(messages) == 60_000
    partitions, times = defaultdict(set), defaultdict(list)
    for message, value in zip(messages, json_of(messages), strict=True):
        assert message.key == value["sensor_id"]
        partitions[message.key].add(message.partition)
        times[message.key].append(value["timestamp"])
    assert all(len(of_key) == 1 for of_key in partitions.values())
    assert {len(of_key) for of_key in times.values()} == {1200}
    assert all(of_key == sorted(of_key) for of_key in times.values())
    assert len(set().union(*partitions.values())) == 5


def test_identifiers_are_the_same_in_a_second_run_and_others_with_another_seed(
    replay: Replay, kafka: KafkaBroker, new_topic: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    here, there = readings(tmp_path / "a.csv", 20), readings(tmp_path / "elsewhere" / "a.csv", 20)

    def identifiers(file: Path, **options: Any) -> set[str]:
        topic = new_topic()
        assert replay(topic, file, **options) == 0
        return {message["event_id"] for message in json_of(read_topic(kafka, topic))}

    assert identifiers(here) == identifiers(here) != identifiers(there)
    seven = identifiers(here, deterministic=7)
    assert seven == identifiers(there, deterministic=7)
    assert len(seven) == 20 and not seven & identifiers(here, deterministic=8)


def test_several_files_are_sent_one_after_another(
    replay: Replay, kafka: KafkaBroker, topic: str, tmp_path: Path
) -> None:
    readings(tmp_path / "b.csv", 10)
    readings(tmp_path / "a.csv", 20)
    (tmp_path / "empty.csv").write_text("")
    assert replay(topic, tmp_path / "[ab].csv", tmp_path / "empty.csv") == 0
    assert account(replay.out)["acked"] == 30
    speeds = [message["speed_mph"] for message in json_of(read_topic(kafka, topic))]
    assert speeds == [row / 10 for row in [*range(20), *range(10)]]


def test_dead_letters_go_to_their_topic_when_asked(
    replay: Replay, kafka: KafkaBroker, topic: str, tmp_path: Path
) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(HEADER.encode() + b"s1,2012-03-01,500,34.1,-118.2\r\n\xff,2012-03-01,1,34.1,-118.2\n")
    assert replay(topic, file, dead_letter_topic=True, create_topics=True, partitions=1) == 0
    assert account(replay.out) == {"read": 2, "acked": 0, "dead_letters": 2}
    letters = read_topic(kafka, f"{topic}.dlq")
    assert [letter.value for letter in letters] == [
        b"s1,2012-03-01,500,34.1,-118.2",
        b"\xff,2012-03-01,1,34.1,-118.2",
    ]
    assert [letter.headers["reason"] for letter in letters] == ["speed_mph_out_of_range", "not_utf8"]
    assert [letter.headers["position"] for letter in letters] == ["1", "2"]
    assert not (tmp_path / "dead_letters.parquet").exists()


# --- How much and how fast


def test_no_more_than_max_messages_and_only_what_was_sent_counts_as_read(
    replay: Replay, kafka: KafkaBroker, topic: str, tmp_path: Path
) -> None:
    file = readings(tmp_path / "a.csv", 200)
    lines = file.read_text().splitlines(keepends=True)
    lines[10] = lines[150] = "s1,2012-03-01T00:02:00,-1,34.1,-118.2\n"
    file.write_text("".join(lines))
    assert replay(topic, file, max_messages=50) == 0
    assert account(replay.out) == {"read": 51, "acked": 50, "dead_letters": 1}
    assert sum(topic_end(kafka, topic).values()) == 50


@pytest.mark.parametrize("rate", [40, 400, 4000, 40_000])
def test_the_rate_is_kept_within_5_percent(
    replay: Replay, kafka: KafkaBroker, topic: str, tmp_path: Path, rate: int
) -> None:
    """Another rate by 5 % is late by 0.1 s in the median of 4 s, and so are messages in bursts of 0.2 s."""
    assert replay(topic, readings(tmp_path / "a.csv", 4 * rate), rate=rate) == 0
    stamps = handed_over_at(kafka, topic, 4 * rate)
    assert usual_lateness(stamps, np.arange(4 * rate) / rate) < 0.1


def usual_lateness(stamps: Sequence[float], due: np.ndarray) -> float:
    """The median, beside the earliest: a machine that is busy holds some up, a wrong pace all but a few."""
    late = np.asarray(stamps) - due
    return float(np.median(late - late.min()))


def handed_over_at(broker: KafkaBroker, topic: str, messages: int) -> list[float]:
    """When each message of a topic of one partition was handed to librdkafka, in seconds."""
    consumer = _consumer(broker)
    consumer.assign([TopicPartition(topic, 0, 0)])
    stamps: list[float] = []
    deadline = time.monotonic() + SECONDS_TO_READ
    while len(stamps) < messages:
        assert time.monotonic() < deadline, f"{len(stamps)} of {messages} messages"
        found = consumer.consume(min(messages - len(stamps), 10_000), timeout=1)
        stamps += [message.timestamp()[1] / 1000 for message in found]
    consumer.close()
    return stamps


def test_the_speedup_follows_the_event_times(
    replay: Replay, kafka: KafkaBroker, topic: str, tmp_path: Path
) -> None:
    """Ten steps of 30 s, 120 times as fast: a step each quarter of a second by the broker's own clock."""
    file = readings(tmp_path / "a.csv", 110, sensors=10)
    assert replay(topic, file, speedup=120, linger_ms=0) == 0
    stamps = handed_over_at(kafka, topic, 110)
    assert usual_lateness(stamps, np.arange(110) // 10 * 0.25) < 0.05


def test_shifted_to_now_the_first_event_happens_now_and_loops_follow_on(
    replay: Replay, kafka: KafkaBroker, topic: str, tmp_path: Path
) -> None:
    file = readings(tmp_path / "a.csv", 20, sensors=10)
    before = time.time()
    assert replay(topic, file, shift_to_now=True, loop=True, max_messages=45) == 0
    messages = json_of(read_topic(kafka, topic))
    times = [_seconds(message["timestamp"]) for message in messages]
    assert before <= times[0] <= time.time()
    assert [round(at - times[0]) for at in times] == [0] * 10 + [30] * 10 + [31] * 10 + [61] * 10 + [62] * 5
    assert len({message["event_id"] for message in messages}) == 45


def test_a_loop_without_a_shift_repeats_the_same_messages(
    replay: Replay, kafka: KafkaBroker, topic: str, tmp_path: Path
) -> None:
    assert replay(topic, readings(tmp_path / "a.csv", 20), loop=True, max_messages=60) == 0
    values = [message.value for message in read_topic(kafka, topic)]
    assert values[:20] == values[20:40] == values[40:]


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


# --- Without Kafka


def test_a_dry_run_needs_no_broker(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = readings(tmp_path / "a.csv", 50_000)
    with file.open("a") as more:
        more.write("s1,2012-03-01,-1.85,34.1,-118.2\nshort\n")
    assert main(["traffic", "--input", str(file), "--dry_run"], {}) == 0
    out = capsys.readouterr().out
    assert out.count("message   ") == 3 and '"speed_mph":0.1' in out
    assert "refused          row 50,001: speed_mph is outside 0 to 120 mph: s1,2012-03-01,-1.85" in out
    assert "1  speed_mph_out_of_range" in out and "1  wrong_field_count" in out
    assert "50,002" in out and "rows/s parsed and validated" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["weather", "--input", "a.csv"], "invalid choice: 'weather'"),
        (["traffic", "--input", "none.csv"], "none.csv: no such file"),
        (["traffic", "--input", "a.csv"], "Give --bootstrap_servers or KAFKA_BOOTSTRAP_SERVERS"),
        (["traffic", "--input", "a.csv", "--rate", "0"], "'0' is not a number above 0"),
        (["traffic", "--input", "a.csv", "--rate", "5", "--speedup", "1"], "not allowed with"),
        (["traffic", "--input", "a.csv", "--speedup", "nan"], "'nan' is not a number of 0 or more"),
        (["traffic", "--input", "a.csv", "--inject", "early=0.1"], "'early' is none of late"),
        (["traffic", "--input", "a.csv", "--inject", "late=0.9,corrupt=0.9"], "add up to 1.8"),
        (["traffic", "--input", "a.csv", "--dry_run", "--timezone", "Mars"], "'Mars' is no time zone"),
        (["traffic", "--input", "a.csv", "--dry_run", "--max_messages", "-1"], "'-1' is not a whole number"),
        (
            ["traffic", "--input", "a.csv", "--bootstrap_servers", "x:1", "--kafka_config", "linger=5"],
            'No such configuration property: "linger"',
        ),
        (
            ["traffic", "--input", "a.csv", "--bootstrap_servers", "x:1", "--kafka_config", "linger"],
            "not of the form linger.ms=20",
        ),
        (
            [
                "traffic",
                "--input",
                "a.csv",
                "--bootstrap_servers",
                "x:1",
                "--kafka_config_file",
                "no.properties",
            ],
            "no.properties: cannot be read",
        ),
    ],
)
def test_bad_usage_is_one_clear_line(
    arguments: list[str],
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    readings(tmp_path / "a.csv", 5)
    try:
        status = main(arguments, {})
    except SystemExit as ended:
        status = ended.code  # type: ignore[assignment]
    err = capsys.readouterr().err
    assert status == 2 and complaint in err and err.count("\n") == 1


# --- Configuration and secrets


def test_kafka_is_found_by_environment_variables_alone(
    kafka: KafkaBroker,
    topic: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    environment = {
        "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        "KAFKA_TOPIC": topic,
        "KAFKA_COMPRESSION_TYPE": "zstd",
        "KAFKA_BATCH_SIZE": "20000",
        "KAFKA_HEAP_OPTS": "-Xmx1g",
    }
    file = readings(tmp_path / "a.csv", 10)
    assert main(["traffic", "--input", str(file)], environment) == 0
    assert account(capsys.readouterr().out)["acked"] == 10
    assert sum(topic_end(kafka, topic).values()) == 10


# --- When Kafka does not take it


def test_an_unknown_topic_is_said_at_once_and_not_created(
    replay: Replay, kafka: KafkaBroker, tmp_path: Path
) -> None:
    started = time.monotonic()
    assert replay("no-such-topic", readings(tmp_path / "a.csv", 10)) == 2
    assert time.monotonic() - started < 5
    assert "topic no-such-topic does not exist" in replay.err and "--create_topics" in replay.err
    assert (
        "no-such-topic"
        not in AdminClient({"bootstrap.servers": kafka.bootstrap_servers}).list_topics().topics
    )


def test_nobody_at_the_address_is_said_in_one_line(tmp_path: Path) -> None:
    server = f"{LOOPBACK}:{next(free_ports())}"
    command = ["traffic", "--input", str(readings(tmp_path / "a.csv", 1)), "--bootstrap_servers", server]
    run = subprocess.run(
        [sys.executable, "-m", "pipelines.replay", *command], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 2
    assert f"{server}: no broker answers" in run.stderr and run.stderr.count("\n") == 1


def test_a_message_of_1_2_mb_becomes_a_dead_letter_and_the_others_arrive(
    replay: Replay, kafka: KafkaBroker, topic: str, tmp_path: Path
) -> None:
    file = tmp_path / "a.csv"
    road = "x" * 1_200_000
    rows = [f"s1,2012-03-01T00:00:0{row},60,{road if row == 2 else 'I-5'}" for row in range(5)]
    file.write_text("sensor_id,timestamp,speed_mph,road_name\n" + "\n".join(rows) + "\n")
    assert replay(topic, file) == 1
    assert account(replay.out) == {"read": 5, "acked": 4, "dead_letters": 1}
    (letter,) = replay.dead_letters()
    assert (letter["position"], letter["stage"], letter["reason"]) == (3, "deliver", "msg_size_too_large")
    assert letter["value"] == rows[2].encode() and "message.max.bytes" in letter["message"]
    assert [message["timestamp"][-2] for message in json_of(read_topic(kafka, topic))] == ["0", "1", "3", "4"]


def test_a_full_queue_loses_no_message_and_keeps_their_order(
    replay: Replay, kafka: KafkaBroker, topic: str, tmp_path: Path
) -> None:
    file = readings(tmp_path / "a.csv", 200, sensors=1)
    assert replay(topic, file, kafka_config="queue.buffering.max.kbytes=2") == 0
    assert account(replay.out) == {"read": 200, "acked": 200, "dead_letters": 0}
    speeds = [message["speed_mph"] for message in json_of(read_topic(kafka, topic))]
    assert speeds == [row / 10 for row in range(200)]


def test_of_a_damaged_file_what_could_be_read_is_sent_and_accounted_for(
    replay: Replay, kafka: KafkaBroker, topic: str, tmp_path: Path
) -> None:
    whole = readings(tmp_path / "a.csv", 200_000)
    damaged = tmp_path / "b.csv.gz"
    damaged.write_bytes(gzip.compress(whole.read_bytes(), mtime=0)[:-1000])
    assert replay(topic, damaged) == 2
    counted = account(replay.out)
    assert 0 < counted["acked"] < 200_000
    assert acked_in(kafka, topic) == counted["acked"]
    assert "b.csv.gz: truncated or damaged" in replay.err and replay.err.count("error:") == 1


def test_dead_letters_that_cannot_be_written_are_said_before_anything_is_sent(
    replay: Replay, kafka: KafkaBroker, topic: str, tmp_path: Path
) -> None:
    assert replay(topic, readings(tmp_path / "a.csv", 1), dead_letters=tmp_path) == 2
    assert "--dead_letters" in replay.err and acked_in(kafka, topic) == 0


@pytest.fixture
def own_broker(kafka: KafkaBroker, tmp_path: Path) -> Iterator[KafkaBroker]:
    """A broker for this test alone, which may be killed."""
    with KafkaBroker(tmp_path / "own" / "kafka") as broker:
        broker.create_topic("t", 5)
        yield broker


def acked_in(broker: KafkaBroker, topic: str = "t") -> int:
    with contextlib.suppress(KafkaException):  # a partition may have no leader yet
        return sum(topic_end(broker, topic).values())
    return 0


def test_a_broker_killed_and_brought_back_midway_has_each_message_once_and_in_order(
    own_broker: KafkaBroker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = 400_000
    file = readings(tmp_path / "a.csv", rows, sensors=50)
    replay = Replay(own_broker, tmp_path, capsys)
    process = replay.start("t", file, rate=40_000)
    assert wait_until(lambda: acked_in(own_broker) > 50_000, within=60)
    own_broker.kill()
    assert process.poll() is None
    own_broker.start()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert account(out) == {"read": rows, "acked": rows, "dead_letters": 0}
    messages = read_topic(own_broker, "t")
    assert len(messages) == rows
    assert len({message["event_id"] for message in json_of(messages)}) == rows
    times = defaultdict(list)
    for message, value in zip(messages, json_of(messages), strict=True):
        times[message.key].append(value["timestamp"])
    assert all(of_key == sorted(of_key) for of_key in times.values())


def test_when_the_broker_dies_for_good_every_row_is_accounted_for(
    own_broker: KafkaBroker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = readings(tmp_path / "a.csv", 400_000, sensors=50)
    replay = Replay(own_broker, tmp_path, capsys)
    process = replay.start("t", file, rate=20_000, kafka_config="message.timeout.ms=3000")
    assert wait_until(lambda: acked_in(own_broker) > 20_000, within=60)
    own_broker.kill()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1
    counted = account(out)
    assert counted["dead_letters"] > 0
    assert counted["read"] < 200_000, "it ends once nothing has been acknowledged for message.timeout.ms"
    assert "no broker" in err
    letters = replay.dead_letters()
    assert len(letters) == counted["dead_letters"]
    positions = {letter["position"] for letter in letters}
    assert len(positions) == len(letters)
    own_broker.start()
    # A message whose acknowledgement was lost is a dead letter, and may be in the log all the same.
    in_log = {json.loads(message.value)["event_id"] for message in read_topic(own_broker, "t")}
    assert counted["acked"] <= len(in_log) <= counted["read"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_it_with_the_accounts(
    replay: Replay, kafka: KafkaBroker, topic: str, tmp_path: Path, number: int, status: int
) -> None:
    process = replay.start(topic, readings(tmp_path / "a.csv", 300_000), rate=20_000)
    assert wait_until(lambda: acked_in(kafka, topic) > 5_000, within=60)
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert process.returncode == status, err
    counted = account(out)
    assert 5_000 < counted["acked"] < 300_000
    assert acked_in(kafka, topic) == counted["acked"]


def test_a_second_signal_gives_up_what_waits_for_a_dead_broker(
    own_broker: KafkaBroker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    replay = Replay(own_broker, tmp_path, capsys)
    process = replay.start("t", readings(tmp_path / "a.csv", 300_000), rate=20_000)
    assert wait_until(lambda: acked_in(own_broker) > 5_000, within=60)
    own_broker.kill()
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=1)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=10)
    assert process.returncode == 143, err
    account(out)


# --- Faults on purpose


def test_the_manifest_tells_exactly_what_was_injected(
    replay: Replay, kafka: KafkaBroker, topic: str, tmp_path: Path
) -> None:
    rows = 20_000
    file = readings(tmp_path / "a.csv", rows, sensors=10)
    shares = "late=0.01,duplicate=0.01,corrupt=0.005,out_of_order=0.02"
    assert replay(topic, file, inject=shares, seed=3) == 0
    faults = [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    by_kind = defaultdict(set)
    for fault in faults:
        by_kind[fault["injected"]].add(fault["position"])
    assert {kind: pytest.approx(len(positions), rel=0.35) for kind, positions in by_kind.items()} == {
        "late": 200,
        "duplicate": 200,
        "corrupt": 100,
        "out_of_order": 400,
    }
    values = [message.value for message in read_topic(kafka, topic)]
    assert len(values) == rows + len(by_kind["duplicate"])
    corrupt = [value for value in values if not value.endswith(b"}")]
    assert len(corrupt) == len(by_kind["corrupt"])
    sound = [json.loads(value) for value in values if value.endswith(b"}")]
    assert len(sound) - len({message["event_id"] for message in sound}) == len(by_kind["duplicate"])
    newest, behind = "", []
    for message in sound:
        behind.append(message["timestamp"] < newest)
        newest = max(newest, message["timestamp"])
    assert sum(behind) == pytest.approx(len(by_kind["late"]) + len(by_kind["out_of_order"]), abs=12)


def test_the_same_seed_injects_the_same_faults(
    replay: Replay, new_topic: Callable[..., str], tmp_path: Path
) -> None:
    file = readings(tmp_path / "a.csv", 2_000)

    def manifest(seed: int) -> str:
        assert replay(new_topic(), file, inject="late=0.05,corrupt=0.05", seed=seed) == 0
        return (tmp_path / "manifest.jsonl").read_text()

    assert manifest(1) == manifest(1) != manifest(2)


# --- Watching it


def test_metrics_can_be_scraped_while_it_runs(replay: Replay, topic: str, tmp_path: Path) -> None:
    port = next(free_ports())
    file = readings(tmp_path / "a.csv", 100_000)
    with file.open("a") as more:
        more.write("s1,2012-03-01,-1.85,34.1,-118.2\n")
    process = replay.start(topic, file, rate=10_000, metrics_port=port)
    try:
        assert wait_until(lambda: _scrape(port).get("replay_messages_acked_total", 0) > 20_000, within=60)
        metrics = _scrape(port)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert metrics["replay_messages_sent_total"] >= metrics["replay_messages_acked_total"]
    assert metrics["replay_send_latency_seconds_count"] > 10_000
    assert metrics["replay_send_latency_seconds_sum"] > 0
    assert (
        metrics['replay_send_latency_seconds_bucket{le="+Inf"}']
        == metrics["replay_send_latency_seconds_count"]
    )
    assert {
        "replay_queue_depth",
        "replay_retries_total",
        "replay_backpressure_seconds_total",
    } <= metrics.keys()
    assert metrics["replay_throughput_messages_per_second"] >= 0


def _scrape(port: int) -> dict[str, float]:
    with contextlib.suppress(requests.ConnectionError), requests.Session() as web:
        web.trust_env = False
        text = web.get(f"http://{LOOPBACK}:{port}/metrics", timeout=5).text
        samples = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in samples}
    return {}


def test_the_replay_needs_no_beam() -> None:
    program = (
        "import sys, pipelines.replay.__main__, transforms.avro_messages, transforms.schema_registry;"
        "print([name for name in sys.modules if name.startswith('apache_beam')])"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout == "[]\n"


def test_the_replay_loads_no_pandas(tmp_path: Path) -> None:
    command = [
        "-m",
        "pipelines.replay",
        "traffic",
        "--dry_run",
        "--input",
        str(readings(tmp_path / "a.csv", 9)),
    ]
    run = subprocess.run(
        [sys.executable, "-X", "importtime", *command], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = {line.rpartition("|")[2].strip() for line in run.stderr.splitlines()}
    assert "pyarrow.compute" in loaded
    assert not any(name.startswith("pandas.") for name in loaded)


def test_memory_does_not_grow_with_the_file(replay: Replay, topic: str, tmp_path: Path) -> None:
    def peak(rows: int) -> float:
        process = replay.start(topic, readings(tmp_path / f"{rows}.csv", rows, sensors=200))
        ended, highest = threading.Event(), 0

        def watch() -> None:
            nonlocal highest
            with contextlib.suppress(psutil.NoSuchProcess):
                while not ended.wait(0.01):
                    highest = max(highest, psutil.Process(process.pid).memory_info().rss)

        watcher = threading.Thread(target=watch)
        watcher.start()
        out, err = process.communicate(timeout=120)
        ended.set()
        watcher.join()
        assert process.returncode == 0, err
        account(out)
        return highest / 2**20

    small, large = peak(300_000), peak(1_500_000)
    assert large < small * 1.15
