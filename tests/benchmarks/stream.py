"""`python -m tests.benchmarks.stream`: the traffic job as a stream, beside PyFlink SQL and Spark.

A topic of 5 partitions is filled with JSON readings of 207 sensors, and then drained by this job on the Flink
inside Beam's job server, parallelism 2, checkpoints every 5 s, raw and aggregate Parquet written; and by each
peer whose packages install. Rows/s are from the start of the process to the last file, and for this job
also from the first message read. Memory is the peak sum over all its processes, shared pages counted once.

The peers have it easier: no dead letters, no duplicates, no late rows, no offsets, no early results.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import psutil
import pyarrow.parquet as pq
from confluent_kafka import Consumer, KafkaException, TopicPartition

from runners.local import KafkaBroker
from tests.benchmarks.stream_topic import PARTITIONS, SENSORS, WINDOW_SECONDS, end_of_history, fill

GROUP = "stream-processor-group-v2"
ROOT = Path(__file__).parents[2]

silent = logging.getLogger(f"{__name__}.librdkafka")
silent.setLevel(logging.CRITICAL)


class Memory(threading.Thread):
    """The peak of the memory of a process and all that it started, in MB."""

    def __init__(self, process: int) -> None:
        super().__init__(daemon=True)
        self.process, self.peak, self.ended = psutil.Process(process), 0.0, threading.Event()
        self.start()

    def run(self) -> None:
        while not self.ended.wait(1):
            self.peak = max(self.peak, self.now())

    def now(self) -> float:
        total = 0
        for process in [self.process, *self.process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_full_info().pss
        return total / 1e6


@contextlib.contextmanager
def running(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen]:
    """The command and all that it starts, killed at the end."""
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=log.open("w"), stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def job(broker: KafkaBroker, topic: str, output: Path, *arguments: str) -> list[str]:
    where = ["--bootstrap_servers", broker.bootstrap_servers, "--output", str(output)]
    return [
        *(sys.executable, "-m", "pipelines.traffic", "--runner", "FlinkRunner", "--topic", topic),
        *where,
        *arguments,
    ]


def rows_before(output: Path, kind: str, time: str, seconds: int) -> int:
    """Rows of that kind whose time is before so many seconds since the epoch."""
    files = f"{output}/{kind}/**/*.parquet"
    if not any((output / kind).rglob("*.parquet")):
        return 0
    query = f"select count(*) from read_parquet('{files}') where epoch({time}) < {seconds}"
    return duckdb.connect().execute(query).fetchall()[0][0]


def footer_rows(output: Path, kind: str) -> int:
    return sum(pq.read_metadata(path).num_rows for path in (output / kind).rglob("*.parquet"))


def committed(broker: KafkaBroker, topic: str) -> int:
    """How many messages the job's group has read."""
    consumer = Consumer({"bootstrap.servers": broker.bootstrap_servers, "group.id": GROUP}, logger=silent)
    places = []
    with contextlib.suppress(KafkaException):  # a new broker has no coordinator of groups for a moment
        places = consumer.committed([TopicPartition(topic, number) for number in range(PARTITIONS)], 10)
    consumer.close()
    return sum(max(place.offset, 0) for place in places)


def wait_until_read(broker: KafkaBroker, topic: str, process: subprocess.Popen, log: Path) -> None:
    while not committed(broker, topic):
        if process.poll() is not None:
            raise SystemExit(f"the job has ended:\n{log.read_text()[-3000:]}")
        time.sleep(0.1)


def drain(broker: KafkaBroker, folder: Path, rows: int, step_seconds: int, corrupt: float) -> dict[str, Any]:
    """The job over a topic of so many rows; what it took."""
    topic, output = f"traffic-{uuid.uuid4().hex[:8]}", folder / "job"
    broker.create_topic(topic, PARTITIONS)
    wrong = fill(broker.bootstrap_servers, topic, rows, step_seconds, corrupt)
    end = end_of_history(rows, step_seconds)
    complete = (rows // SENSORS * step_seconds // WINDOW_SECONDS) * SENSORS
    log = folder / "job.log"
    started = time.time()
    with running(job(broker, topic, output), log) as process:
        memory = Memory(process.pid)
        wait_until_read(broker, topic, process, log)
        first = time.time()
        while footer_rows(output, "raw") < rows - len(wrong) or (
            footer_rows(output, "processed/aggregates") < complete
        ):
            assert process.poll() is None, log.read_text()[-3000:]
            time.sleep(0.5)
        memory.ended.set()
        last = max(path.stat().st_mtime for path in output.rglob("*.parquet"))
        while footer_rows(output, "dead_letters") < len(wrong):
            time.sleep(0.5)
    letters = (
        duckdb.connect()
        .execute(f"select partition, position, value from read_parquet('{output}/dead_letters/*.parquet')")
        .fetchall()
        if wrong
        else []
    )
    assert {(partition, offset): value for partition, offset, value in letters} == wrong
    assert len(letters) == len(wrong)
    assert rows_before(output, "raw", "timestamp", end) or corrupt
    broker.delete_topic(topic)
    return {
        "seconds": round(last - started, 1),
        "rows_per_second": round(rows / (last - started)),
        "rows_per_second_from_first_to_last": round(rows / (last - first)),
        "megabytes": round(memory.peak),
        "dead_letters": len(letters),
        "files": sum(1 for _ in output.rglob("*.parquet")),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=3_000_000)
    parser.add_argument("--step_seconds", type=int, default=30)
    parser.add_argument("--corrupt", type=float, default=0)
    options = parser.parse_args()
    machine = f"{os.cpu_count()} cores, {platform.machine()}, CPython {platform.python_version()}"
    print(machine)
    figures: dict[str, Any] = {"machine": machine, "rows": options.rows, "step_seconds": options.step_seconds}
    with tempfile.TemporaryDirectory() as name, KafkaBroker(Path(name) / "kafka") as broker:
        folder = Path(name)
        figures["job"] = drain(broker, folder, options.rows, options.step_seconds, options.corrupt)
        print(figures["job"])
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
