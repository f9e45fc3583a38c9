"""A traffic stream as a person would start it, what is sent to it, and what comes out."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import requests
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from runners.local import FlinkCluster, KafkaBroker
from tests.services import require_maven

ROOT = Path(__file__).parents[1]
START = 1_330_560_000  # 2012-03-01 00:00 UTC
READS = 20


def reading(sensor: str, seconds: float, speed: float = 50) -> bytes:
    """A message, at so many seconds after START."""
    return json.dumps(
        {"sensor_id": sensor, "timestamp": round((START + seconds) * 1000), "speed_mph": speed}
    ).encode()


def send(kafka: KafkaBroker, topic: str, messages: Sequence[tuple[int, bytes | None]]) -> None:
    """(partition, value) each, acknowledged on return; in order also while a new topic has no leader."""
    settings = {"linger.ms": 5, "message.max.bytes": 2_000_000, "enable.idempotence": True}
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, **settings})
    for partition, value in messages:
        producer.produce(topic, value, partition=partition)
        producer.poll(0)
    assert producer.flush(30) == 0


def wait_for(condition: Callable[[], object], what: str, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.1)


def rows(output: Path, kind: str, columns: str = "*") -> list[tuple]:
    """Rows of a kind of output, as a reader sees them now; none before the first file.

    DuckDB opens a file twice. When it was replaced in between that is an error, and one reads again.
    """
    if not any((output / kind).rglob("*.parquet")):
        return []
    files = f"read_parquet('{output}/{kind}/**/*.parquet', hive_partitioning=false)"
    for _ in range(READS):
        with contextlib.suppress(duckdb.Error):
            return duckdb.connect().execute(f"select {columns} from {files} order by all").fetchall()
    return duckdb.connect().execute(f"select {columns} from {files} order by all").fetchall()


def flags(kafka: KafkaBroker, output: Path) -> list[str]:
    servers = ["--bootstrap_servers", kafka.bootstrap_servers]
    return ["--runner", "FlinkRunner", *servers, "--output", str(output), "--early_seconds=0"]


@contextlib.contextmanager
def job(
    kafka: KafkaBroker, output: Path, *arguments: str, program: str = "pipelines.traffic"
) -> Iterator[subprocess.Popen]:
    """The job as a person would start it, on the Flink inside Beam's job server unless told otherwise."""
    require_maven()
    process = subprocess.Popen(
        [sys.executable, "-m", *program.split(), *flags(kafka, output), *arguments],
        cwd=ROOT,
        stdout=job_log(output).open("a"),
        stderr=subprocess.STDOUT,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        },
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself
            os.killpg(process.pid, signal.SIGKILL)  # a job server and its Flink are in the launcher's group
        process.wait()


def job_log(output: Path) -> Path:
    return output.parent / f"{output.name}.log"


@dataclass
class ClusterJob:
    """A job of a cluster as Flink's REST interface shows it, and the process that started it."""

    rest_url: str
    name: str
    launcher: subprocess.Popen

    def running(self) -> list[str]:
        """Its id, while it runs."""
        jobs = self._get("jobs/overview")["jobs"]
        return [job["jid"] for job in jobs if job["name"] == self.name and job["state"] in LIVELY]

    def last_restart(self) -> int:
        """When Flink last started it anew after a failure, in milliseconds; 0 for never."""
        return self._get(f"jobs/{self.running()[0]}")["timestamps"]["RESTARTING"]

    def checkpoints(self) -> int:
        """How many it has completed."""
        return self._get(f"jobs/{self.running()[0]}/checkpoints")["counts"]["completed"]

    def latest_checkpoint(self) -> dict[str, Any] | None:
        """What Flink tells of it; None before the first since it was started."""
        return self._get(f"jobs/{self.running()[0]}/checkpoints")["latest"]["completed"]

    def cancel(self) -> None:
        for each in self.running():
            requests.patch(f"{self.rest_url}/jobs/{each}?mode=cancel", timeout=30).raise_for_status()
        wait_for(lambda: not self.running(), "the job is cancelled")

    def _get(self, path: str) -> Any:
        answer = requests.get(f"{self.rest_url}/{path}", timeout=30)
        answer.raise_for_status()
        return answer.json()


LIVELY = ("CREATED", "RUNNING", "RESTARTING", "FAILING")


@contextlib.contextmanager
def job_on_cluster(
    cluster: FlinkCluster,
    kafka: KafkaBroker,
    output: Path,
    *arguments: str,
    program: str = "pipelines.traffic",
) -> Iterator[ClusterJob]:
    """The job on a cluster with its Python workers in the cluster's pool; cancelled at the end."""
    name = f"{output.name}-{uuid.uuid4().hex[:8]}"
    where = [*cluster.flags, f"--flink_master={cluster.rest_url}", f"--job_name={name}"]
    with job(kafka, output, *where, *arguments, program=program) as launcher:
        started = ClusterJob(cluster.rest_url, name, launcher)
        try:
            yield started
        finally:
            started.cancel()


def raw_offsets(output: Path) -> list[tuple[int, int]]:
    return rows(output, "raw", "partition, position")


def messages(kafka: KafkaBroker, topic: str) -> list[tuple]:
    """(key, value) of all messages of a topic with one partition."""
    consumer = Consumer(
        {"bootstrap.servers": kafka.bootstrap_servers, "group.id": "test", "enable.auto.commit": False}
    )
    _, end = consumer.get_watermark_offsets(TopicPartition(topic, 0), 10)
    consumer.assign([TopicPartition(topic, 0, 0)])
    found: list[tuple] = []
    while len(found) < end:
        found += [(message.key(), message.value()) for message in consumer.consume(1000, 10)]
    consumer.close()
    return found


def lag(kafka: KafkaBroker, topic: str, partitions: int) -> int:
    """What a lag monitor shows of the job's group."""
    group = "stream-processor-group-v2"
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap_servers, "group.id": group})
    try:
        places = consumer.committed([TopicPartition(topic, number) for number in range(partitions)], 10)
    except KafkaException:  # a new broker has no coordinator of groups for a moment
        return sys.maxsize
    ends = [consumer.get_watermark_offsets(TopicPartition(topic, n), 10)[1] for n in range(partitions)]
    consumer.close()
    return sum(end - max(place.offset, 0) for place, end in zip(places, ends, strict=True))


UNLIKE = "({0} except all {1}) union all ({1} except all {0})"


def assert_final_tables(output: Path, sent: list[tuple[int, bytes]], closed_seconds: int) -> None:
    """Raw and aggregates equal what DuckDB makes of all that was sent, of the windows that have closed."""
    con = duckdb.connect()
    con.sql("set timezone = 'UTC'")
    lines = "\n".join(value.decode() for _, value in sent)
    path = output.parent / "sent.json"
    path.write_text(lines)
    con.sql(
        f"""create table readings as select distinct on (sensor_id, timestamp) sensor_id,
            (timestamp // 1000)::bigint as second, speed_mph
        from read_json('{path}', columns={{sensor_id: 'varchar', timestamp: 'bigint', speed_mph: 'double'}})
        where timestamp < {(START + closed_seconds) * 1000}"""
    )
    raw = f"read_parquet('{output}/raw/**/*.parquet', hive_partitioning=false)"
    closed = START + closed_seconds
    ours = (
        f"select sensor_id, epoch(timestamp)::bigint, speed_mph from {raw} where epoch(timestamp) < {closed}"
    )
    theirs = "select sensor_id, second, speed_mph from readings"
    assert con.sql(UNLIKE.format(ours, theirs)).fetchall() == []
    aggregates = f"read_parquet('{output}/processed/aggregates/**/*.parquet', hive_partitioning=false)"
    ours = f"""select sensor_id, epoch(window_start)::bigint, message_count, round(avg_speed, 6),
        round(p85_speed, 6) from {aggregates} where epoch(window_start) < {closed}"""
    theirs = """select sensor_id, second // 300 * 300, count(*), round(avg(speed_mph), 6),
        round(quantile_cont(speed_mph, 0.85), 6) from readings group by all"""
    assert con.sql(UNLIKE.format(ours, theirs)).fetchall() == []
