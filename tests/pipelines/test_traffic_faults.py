"""Faults on a real cluster: after each the tables are what DuckDB makes of all that was produced.

Accounts balance offset by offset: raw holds the first message of every reading, with its offset, the dead
letters every message that is none, so that all others are duplicates.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb
import fastavro
import psutil
import pyarrow as pa
import pyarrow.parquet
import pytest

from pipelines import traffic
from runners.local import FlinkCluster, KafkaBroker, SchemaRegistry
from tests.stream_jobs import (
    START,
    ClusterJob,
    flags,
    job_log,
    job_on_cluster,
    raw_offsets,
    send,
    wait_for,
)
from transforms.schema_registry import SchemaRegistry as SchemaRegistryClient

PARTITIONS, SENSORS, STEP_SECONDS, PORTION_SECONDS = 4, 40, 5, 1200
OUTAGE_SECONDS = 30
RECOVERY_SECONDS = 180
BROKEN = b'{"sensor_id": "s01", "timest'
SOURCE = ["--out_of_orderness_seconds=30", "--idle_seconds=3"]
UNLIKE = "({0} except all {1}) union all ({1} except all {0})"
READINGS = """select distinct on (sensor_id, second) * from message where sensor_id is not null
    order by sensor_id, second, position"""
TABLES = {
    "raw": (
        "sensor_id, epoch(timestamp)::bigint, speed_mph, partition, position",
        "timestamp",
        f"select sensor_id, second, speed, partition, position from ({READINGS}) where second < {{closed}}",
    ),
    "processed/aggregates": (
        "sensor_id, epoch(window_start)::bigint, message_count, round(avg_speed, 6), round(p85_speed, 6)",
        "window_start",
        f"""select sensor_id, second // 300 * 300, count(*), round(avg(speed), 6),
            round(quantile_cont(speed, 0.85), 6) from ({READINGS}) where second < {{closed}} group by all""",
    ),
    "dead_letters": (
        "partition, position, value",
        "to_timestamp(0)",
        "select partition, position, value from message where sensor_id is null",
    ),
}

Encode = Callable[[str, int, float], bytes]


def to_json(sensor: str, second: int, speed: float) -> bytes:
    return json.dumps({"sensor_id": sensor, "timestamp": second * 1000, "speed_mph": speed}).encode()


def held(folder: Path) -> pa.Table:
    """What the folder's files hold, each opened once: it may be replaced before it is opened once more."""
    files = [pa.BufferReader(path.read_bytes()) for path in folder.rglob("*.parquet")]
    return pa.concat_tables([pyarrow.parquet.read_table(file) for file in files])


class Produced:
    """A topic of 4 partitions with what was produced to it, portions of 20 minutes of event time.

    40 sensors, each in one partition, give a reading every 5 s, out of order by up to 20 s. One in a hundred
    is there twice, and one message in 500 is broken.
    """

    def __init__(self, kafka: KafkaBroker, topic: str) -> None:
        self.kafka, self.topic, self.portions = kafka, topic, 0
        self.con = duckdb.connect()
        self.con.execute("set timezone = 'UTC'")
        self.con.execute(
            """create table message
            (partition int, position bigint, sensor_id text, second bigint, speed double, value blob)"""
        )

    def send(self, encode: Encode = to_json) -> None:
        """One portion more."""
        places = [count for (count,) in self._next_positions()]
        messages = []
        size = SENSORS * PORTION_SECONDS // STEP_SECONDS
        for n in range(self.portions * size, (self.portions + 1) * size):
            sensor, second = f"s{n % SENSORS:02}", START + n // SENSORS * STEP_SECONDS + n * 7919 % 20
            speed = 20.0 + n * 31 % 60
            reading = (sensor, second, speed, encode(sensor, second, speed))
            new = [reading] * (2 if n % 100 == 0 else 1) + [(None, None, None, BROKEN)] * (n % 500 == 0)
            for each in new:
                partition = n % PARTITIONS
                messages.append((partition, places[partition], *each))
                places[partition] += 1
        columns = ["partition", "position", "sensor_id", "second", "speed", "value"]
        added = pa.table([pa.array(column) for column in zip(*messages, strict=True)], columns)
        self.con.register("added", added)
        self.con.execute("insert into message select * from added")
        send(self.kafka, self.topic, [(message[0], message[5]) for message in messages])
        self.portions += 1

    def _next_positions(self) -> list[tuple[int]]:
        return self.con.execute(
            f"""select count(position) from range({PARTITIONS}) as number
            left join message on partition = number.range group by number.range order by number.range"""
        ).fetchall()

    def unlike(self, output: Path) -> dict[str, int]:
        """How many rows of each table are not as they should be, in all windows but the last."""
        found = {}
        closed = START + self.portions * PORTION_SECONDS - 300
        for kind, (columns, when, expected) in TABLES.items():
            if not any((output / kind).rglob("*.parquet")):
                return {"files": 0}
            self.con.register("held", held(output / kind))
            ours = f"select {columns} from held where epoch({when}) < {closed}"
            unlike = self.con.execute(
                f"select count(*) from ({UNLIKE.format(f'({ours})', f'({expected.format(closed=closed)})')})"
            )
            if rows := unlike.fetchall()[0][0]:
                found[kind] = rows
        return found

    def wait_until_complete(self, output: Path, what: str, since: float) -> None:
        """Waits for all tables to be right, and prints how long that took."""
        with contextlib.suppress(AssertionError):
            wait_for(lambda: not self.unlike(output), what, RECOVERY_SECONDS)
        assert not self.unlike(output)
        print(f"{what}: all tables right {time.monotonic() - since:.0f} s later")


@pytest.fixture
def produced(kafka: KafkaBroker, new_topic: Callable[..., str]) -> Produced:
    return Produced(kafka, new_topic(PARTITIONS))


@dataclass
class Stream:
    """A stream that runs while something breaks."""

    produced: Produced
    output: Path
    job: ClusterJob

    @contextlib.contextmanager
    def fault(self, what: str) -> Iterator[None]:
        """What is done inside breaks it while it reads; then everything has to become right again."""
        before = raw_offsets(self.output)
        self.produced.send()
        wait_for(lambda: raw_offsets(self.output) != before, "more is being written", RECOVERY_SECONDS)
        since = time.monotonic()
        yield
        self.produced.send()
        self.produced.wait_until_complete(self.output, what, since)


@contextlib.contextmanager
def restart(job: ClusterJob) -> Iterator[None]:
    """What is done inside makes the job fail and start anew."""
    before = job.last_restart()
    yield
    wait_for(lambda: job.last_restart() > before, "the job fails and starts anew", RECOVERY_SECONDS)


def connected_to(process: psutil.Process) -> set[int]:
    """The ports at the other ends; not every worker of a pool has work."""
    return {each.raddr.port for each in process.net_connections() if each.raddr}


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small disk of its own, where this may be made; else a folder."""
    folder = tmp_path_factory.mktemp("disk")
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    mounted = shutil.which("mount") and subprocess.run(mount, capture_output=True).returncode == 0
    yield folder
    if mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="class")
def stream(kafka: KafkaBroker, flink_cluster: FlinkCluster, disk: Path) -> Iterator[Stream]:
    produced = Produced(kafka, f"{disk.name}-faults")
    kafka.create_topic(produced.topic, PARTITIONS)
    output = disk / "out"
    with job_on_cluster(flink_cluster, kafka, output, "--topic", produced.topic, *SOURCE) as started:
        yield Stream(produced, output, started)


class TestAStreamGoesOn:
    """One job that outlives one fault after another."""

    def test_after_a_task_manager_is_killed(self, stream, flink_cluster):
        with stream.fault("TaskManager killed"), restart(stream.job):
            flink_cluster.busy_task_managers()[0].kill()
            flink_cluster.start()

    def test_after_a_python_worker_is_killed(self, stream, flink_cluster, kafka):
        with stream.fault("Python worker killed"), restart(stream.job):
            workers = psutil.Process(flink_cluster.worker_pool.pid).children()
            reading = [worker for worker in workers if kafka.ports["kafka"] in connected_to(worker)]
            max(reading, key=psutil.Process.create_time).kill()

    def test_after_the_broker_was_stopped(self, stream, kafka):
        with stream.fault("broker stopped"):
            kafka.stop()
            time.sleep(OUTAGE_SECONDS)  # the fault itself, not a wait for something
            kafka.start()

    def test_after_the_disk_was_full(self, stream, disk):
        if not disk.is_mount():
            pytest.skip("no small disk to fill: mounting one needs root")
        with stream.fault("disk full"):
            with restart(stream.job):
                ballast = disk / "ballast"
                with pytest.raises(OSError, match="No space left"):
                    ballast.write_bytes(bytes(shutil.disk_usage(disk).total))
                stream.produced.send()
            ballast.unlink()

    def test_beside_another_stream_of_its_topic(self, stream, flink_cluster, kafka, tmp_path):
        """One begins after the other; they share the group, whose offsets are for lag monitors alone."""
        since, produced, outputs = time.monotonic(), stream.produced, [stream.output, tmp_path / "second"]
        with job_on_cluster(flink_cluster, kafka, outputs[1], "--topic", produced.topic, *SOURCE):
            produced.send()
            for output in outputs:
                produced.wait_until_complete(output, f"two streams, {output.name}", since)


RESUMED_OTHERWISE = {
    "--shards=8": "--shards 2",
    "--file_seconds=60": "--file_seconds 3600",
    "--window_seconds=60": "--window_seconds 300",
    "--allowed_lateness_seconds=0": "--allowed_lateness_seconds 3600",
    "--topic=other": "--topic test_",
}


def test_a_stream_is_resumed_or_refused_and_loses_nothing(flink_cluster, kafka, produced, tmp_path, capfd):
    """Cancelled; upgraded from its last checkpoint; stopped with a savepoint; refused; resumed."""
    output = tmp_path / "out"
    log = job_log(output)
    start = [flink_cluster, kafka, output, "--topic", produced.topic, *SOURCE]

    with job_on_cluster(*start) as first:
        produced.send()
        wait_for(lambda: raw_offsets(output), "the first windows are out", RECOVERY_SECONDS)
        wait_for(first.checkpoints, "a checkpoint is there", RECOVERY_SECONDS)
        first.cancel()
        assert first.launcher.wait(60) == 1
    (defaults,) = [line for line in log.read_text().splitlines() if "on Flink, set by default:" in line]
    assert "--retain_externalized_checkpoints_on_cancellation" in defaults
    (said,) = errors(log.read_text())
    assert said.startswith("error: the job was cancelled; the same command resumes it from its last")
    checkpoint = said.rpartition(" ")[2]
    assert checkpoint.startswith("--savepoint_path=file:") and "/chk-" in checkpoint

    for option, before in RESUMED_OTHERWISE.items():
        resumed = [*flags(kafka, output), "--topic", produced.topic, checkpoint, option]
        assert traffic.main(resumed) == 2
        (error,) = errors(capfd.readouterr().err)
        assert f"this stream was started with {before}" in error

    since = time.monotonic()
    wider = ["--parallelism=4", checkpoint]
    added_step = "tests.pipelines.changed_traffic added_step"
    with job_on_cluster(*start, *wider, program=added_step) as second:
        produced.send()
        produced.wait_until_complete(output, "resumed from a checkpoint, changed and wider", since)
        produced.send()
        second.launcher.terminate()
        assert second.launcher.wait(120) == 128 + signal.SIGTERM
        assert not second.running()
    (said,) = [line for line in log.read_text().splitlines() if line.startswith("stopped")]
    savepoint = said.rpartition(" ")[2]
    assert savepoint.startswith("--savepoint_path=file:")

    renamed = "tests.pipelines.changed_traffic renamed_grouping"
    for program, narrower in ((renamed, []), ("pipelines.traffic", ["--parallelism=1"])):
        told = len(log.read_text())
        with job_on_cluster(*start, savepoint, *narrower, program=program) as refused:
            assert refused.launcher.wait(120) == 2
        (error,) = errors(log.read_text()[told:])
        assert "Flink refuses to resume this graph from it" in error
        assert "Traceback" not in log.read_text()

    since = time.monotonic()
    with job_on_cluster(*start, savepoint) as third:
        produced.send()
        produced.wait_until_complete(output, "resumed from a savepoint, as it was and at 2 again", since)
        assert_state_stays_as_it_is(third)
        third.cancel()
    assert not produced.unlike(output)


def assert_state_stays_as_it_is(idle: ClusterJob) -> None:
    """Each look at a topic and each timer set again leaves nothing behind."""
    sizes: dict[int, int] = {}

    def look() -> bool:
        if latest := idle.latest_checkpoint():
            sizes[latest["id"]] = latest["state_size"]
        return len(sizes) == 4

    wait_for(look, "four checkpoints", RECOVERY_SECONDS)
    assert len(set(sizes.values())) == 1, sizes


def errors(log: str) -> list[str]:
    return [line for line in log.splitlines() if line.startswith("error:") or " ERROR " in line]


AVRO = {
    "type": "record",
    "name": "traffic",
    "fields": [
        {"name": "sensor_id", "type": "string"},
        {"name": "timestamp", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "speed_mph", "type": "double"},
    ],
}
NEWER = {**AVRO, "fields": [*AVRO["fields"], {"name": "note", "type": "string", "default": ""}]}


def to_avro(schema: dict, schema_id: int) -> Encode:
    parsed, header = fastavro.parse_schema(schema), b"\0" + schema_id.to_bytes(4, "big")

    def encode(sensor: str, second: int, speed: float) -> bytes:
        record = {"sensor_id": sensor, "timestamp": second * 1_000_000, "speed_mph": speed, "note": "new"}
        message = io.BytesIO()
        fastavro.schemaless_writer(message, parsed, record)
        return header + message.getvalue()

    return encode


@contextlib.contextmanager
def stopped(registry: SchemaRegistry) -> Iterator[None]:
    registry.stop()
    try:
        yield
    finally:
        registry.start()


def test_a_stream_of_avro_waits_for_its_registry(flink_cluster, kafka, schema_registry, produced, tmp_path):
    """It is down when the stream starts, and again when messages of a new schema come."""
    output = tmp_path / "out"
    client = SchemaRegistryClient(schema_registry.url)
    older, newer = (to_avro(schema, client.register(produced.topic, schema)) for schema in (AVRO, NEWER))
    avro = ["--format", "avro", "--schema_registry", schema_registry.url]
    with contextlib.ExitStack() as stack:
        with stopped(schema_registry):
            produced.send(older)
            arguments = ["--topic", produced.topic, *SOURCE, *avro]
            job = stack.enter_context(job_on_cluster(flink_cluster, kafka, output, *arguments))
            wait_for(lambda: job.running() and job.last_restart(), "no schema, no start", RECOVERY_SECONDS)
            since = time.monotonic()
        produced.wait_until_complete(output, "registry back after the start", since)
        with stopped(schema_registry), restart(job):
            produced.send(newer)
        since = time.monotonic()
        produced.wait_until_complete(output, "registry back for a new schema", since)
