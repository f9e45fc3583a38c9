"""`python -m tests.benchmarks.stream`: the traffic job as a stream, beside PyFlink SQL and Spark.

A topic of 5 partitions is filled with JSON readings of 207 sensors, and then drained by this job on the
Flink inside Beam's job server, parallelism 2, checkpoints every 5 s, raw and aggregate Parquet written; and
by PyFlink SQL and Spark Structured Streaming, where their packages install. Rows/s are from the start of the
process to the last file (of a peer to its end), and for this job also from the first message read. Memory is
the peak sum over all its processes, shared pages once.
Of this job memory and the size of the last checkpoint are also told for each quarter of that time: 3,000,000
readings at 30-second steps are five days of event time, and both have to stay as they are.

The peers do the same as far as they can: parse, keep the same rules and no duplicates, write readings with
their offsets and all the aggregates, and Spark dead letters with their bytes. What a tool cannot do its
program says. Their readings and aggregates are held against this job's, and have to be the same. They have no
early results.

With `--corrupt 0.01` that share of the messages is bad JSON, of wrong types, two documents or has line
breaks; each dead letter is compared with what was sent at its offset. With `--delay` readings come at a
steady rate, stamped with the clock, and what counts is how long after the closing of its window (its end and
the out-of-orderness) the broker has an aggregate. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import psutil
import pyarrow.parquet as pq
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from runners.local import KafkaBroker
from runners.local.waiting import wait_until
from schemas.traffic import TRAFFIC
from tests.benchmarks.stream_peers import (
    NotInstalled,
    declaration,
    environment,
    flink_python,
    spark_python,
)
from tests.benchmarks.stream_topic import (
    PARTITIONS,
    SENSORS,
    WINDOW_SECONDS,
    closing_time,
    fill,
    readings,
    send,
    values_of,
)

GROUP = "stream-processor-group-v2"
ROOT = Path(__file__).parents[2]
BATCH_SECONDS = 0.1
PEERS = {"flink_sql": flink_python, "spark": spark_python}
DELAY_WINDOW, DELAY_ORDER = 10, 2
AT_REST_PERCENT = 10

silent = logging.getLogger(f"{__name__}.librdkafka")
silent.setLevel(logging.CRITICAL)


class Growth(threading.Thread):
    """The memory of a process and all that it started, and the size of its last checkpoint, each second."""

    def __init__(self, process: int, checkpoints: Path | None = None) -> None:
        super().__init__(daemon=True)
        self.process, self.checkpoints, self.ended = psutil.Process(process), checkpoints, threading.Event()
        self.seconds: list[tuple[float, float, float]] = []  # when, and both in MB
        self.start()

    def run(self) -> None:
        while not self.ended.wait(1):
            self.seconds.append((time.time(), self.memory(), self.state()))

    def memory(self) -> float:
        total = 0
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in [self.process, *self.process.children(recursive=True)]:
                total += process.memory_full_info().pss
        return total / 1e6

    def state(self) -> float:
        if self.checkpoints is None:
            return 0
        with contextlib.suppress(FileNotFoundError, ValueError):  # none yet, or replaced by the next
            newest = max(self.checkpoints.rglob("chk-*/_metadata"), key=lambda each: each.stat().st_mtime)
            return sum(file.stat().st_size for file in newest.parent.iterdir()) / 1e6
        return 0

    @property
    def peak(self) -> int:
        return round(max(memory for _, memory, _ in self.seconds))

    def quarters(self, first: float, last: float) -> dict[str, list[float]]:
        """The greatest of both in each quarter of a time."""
        when, memory, state = np.array(self.seconds).T
        quarter = ((when - first) / (last - first) * 4).astype(int)
        return {
            name: [round(float(figures[quarter == n].max(initial=0)), 1) for n in range(4)]
            for name, figures in (("megabytes_by_quarter", memory), ("checkpoint_by_quarter", state))
        }


@contextlib.contextmanager
def running(
    command: Sequence[str], log: Path, environ: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen]:
    """The command and all that it starts, killed at the end."""
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=log.open("w"), stderr=subprocess.STDOUT, env=environ, start_new_session=True
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def job(broker: KafkaBroker, topic: str, output: Path, *arguments: str) -> list[str]:
    return [
        *(sys.executable, "-m", "pipelines.traffic", "--runner", "FlinkRunner", "--topic", topic),
        *("--bootstrap_servers", broker.bootstrap_servers, "--output", str(output)),
        *arguments,
    ]


def footer_rows(output: Path, kind: str) -> int:
    return sum(pq.read_metadata(path).num_rows for path in (output / kind).rglob("*.parquet"))


def closed_aggregates(rows: int, step_seconds: int) -> int:
    """How many aggregates the windows have that so many readings fill to their end."""
    return rows // SENSORS * step_seconds // WINDOW_SECONDS * SENSORS


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


def settle(broker: KafkaBroker) -> None:
    """Waits until the topic is on disk and its broker at rest: who drains it first would share the cores."""
    os.sync()
    brokers = [psutil.Process(process.pid) for process in broker.processes]
    at_rest = wait_until(lambda: all(each.cpu_percent(1) < AT_REST_PERCENT for each in brokers), within=60)
    assert at_rest, "the broker is still at work a minute after the topic was filled"


def drain(
    broker: KafkaBroker, folder: Path, topic: str, rows: int, step_seconds: int, wrong: dict
) -> dict[str, Any]:
    """The job over a topic of so many rows, of which the wrong ones become dead letters; what it took."""
    output, log, checkpoints = folder / "job", folder / "job.log", folder / "checkpoints"
    shutil.rmtree(output, ignore_errors=True)
    state = ["--state_backend=filesystem", f"--state_backend_storage_path={checkpoints.as_uri()}"]
    aggregates = closed_aggregates(rows, step_seconds)
    started = time.time()
    with running(job(broker, topic, output, *state), log) as process:
        growth = Growth(process.pid, checkpoints)
        wait_until_read(broker, topic, process, log)
        first = time.time()
        while (
            footer_rows(output, "raw") < rows - len(wrong)
            or footer_rows(output, "processed/aggregates") < aggregates
            or footer_rows(output, "dead_letters") < len(wrong)
        ):
            assert process.poll() is None, log.read_text()[-3000:]
            time.sleep(0.5)
        growth.ended.set()
        last = max(path.stat().st_mtime for path in output.rglob("*.parquet"))
    if wrong:
        query = f"select partition, position, value from read_parquet('{output}/dead_letters/**/*.parquet')"
        letters = duckdb.connect().execute(query).fetchall()
        assert len(letters) == len(wrong)
        assert {(partition, offset): value for partition, offset, value in letters} == wrong
    return {
        "seconds": round(last - started, 1),
        "rows_per_second": round(rows / (last - started)),
        "rows_per_second_from_first_to_last": round(rows / (last - first)),
        "megabytes": growth.peak,
        **growth.quarters(first, last),
        "dead_letters": len(wrong),
        "files": sum(1 for _ in output.rglob("*.parquet")),
    }


def drain_by(
    peer: str, broker: KafkaBroker, folder: Path, topic: str, rows: int, step_seconds: int
) -> dict[str, Any]:
    """A peer over the same topic. NotInstalled where its packages do not install."""
    python = PEERS[peer]()
    script = str(Path(__file__).with_name(f"stream_in_{peer}.py"))
    output, log = folder / peer, folder / f"{peer}.log"
    command = [str(python), script, broker.bootstrap_servers, topic, str(output), declaration(TRAFFIC)]
    started = time.time()
    with running(command, log, environment()) as process:
        growth = Growth(process.pid)
        assert process.wait() == 0, log.read_text()[-3000:]
        growth.ended.set()
    seconds = time.time() - started
    compare_tables(folder / "job", output, closing_time(rows, step_seconds))
    return {
        "seconds": round(seconds, 1),
        "rows_per_second": round(rows / seconds),
        "megabytes": growth.peak,
    }


def compare_tables(job: Path, peer: Path, closing: int) -> None:
    """Holds a peer's tables against this job's: the same rows, offsets too, and the same figures.

    Left out is what comes after `closing`, seconds since the epoch: those windows this job keeps open.
    """
    con = duckdb.connect()
    con.sql("set timezone = 'UTC'")
    names = TRAFFIC.reading_schema.names
    columns = ", ".join('"timestamp"::timestamp' if name == TRAFFIC.event_time else name for name in names)
    for name, files in (("job", f"{job}/raw/**/*.parquet"), ("peer", f"{peer}/raw/day=*/part-*")):
        con.sql(
            f"""create temp table {name} as select count(*), sum(hash({columns})::hugeint)
            from read_parquet('{files}', hive_partitioning=false)
            where epoch("timestamp") < {closing}"""
        )
    same = con.sql("select * from job intersect select * from peer").fetchall()
    assert same, (
        f"{peer} has other readings: {con.sql('from peer').fetchall()}, {con.sql('from job').fetchall()}"
    )
    figures = [each.name for each in TRAFFIC.aggregates]
    near = " and ".join(f"abs(peer.{name} - job.{name}) < 1e-6" for name in figures)
    due, right = con.sql(
        f"""select count(*), count(peer.sensor_id) filter ({near})
        from read_parquet('{job}/processed/aggregates/**/*.parquet', hive_partitioning=false) job
        left join read_parquet('{peer}/aggregates/day=*/part-*', hive_partitioning=false) peer
        on peer.sensor_id = job.sensor_id and peer.window_start::timestamp = job.window_start::timestamp
        where epoch(job.window_end) <= {closing}"""
    ).fetchall()[0]
    assert due == right, f"{peer} has {right:,} of {due:,} aggregates"


def send_steadily(servers: str, topic: str, rate: int, seconds: float) -> None:
    """So many readings a second, each stamped with the time when it is sent."""
    settings = {"linger.ms": 5, "compression.type": "snappy", "enable.idempotence": True}
    producer = Producer({"bootstrap.servers": servers, **settings})
    sent, started = 0, time.time()
    while (elapsed := time.time() - started) < seconds:
        due = round(elapsed * rate) - sent
        if due:
            micros = np.full(due, time.time_ns() // 1000)
            partitions = np.arange(sent, sent + due) % SENSORS % PARTITIONS
            send(producer, topic, partitions, values_of(readings(sent, micros)))
            sent += due
        time.sleep(BATCH_SECONDS)
    assert producer.flush(60) == 0


def measure_delay(broker: KafkaBroker, folder: Path, rate: int, seconds: float) -> dict[str, Any]:
    """How long after its window's closing an on-time aggregate is at the broker, at a steady rate."""
    topic, events = (f"{name}-{uuid.uuid4().hex[:8]}" for name in ("traffic", "events"))
    broker.create_topic(topic, PARTITIONS)
    broker.create_topic(events, 1)
    arguments = ["--aggregates_topic", events, "--early_seconds=0", f"--window_seconds={DELAY_WINDOW}"]
    arguments += [f"--out_of_orderness_seconds={DELAY_ORDER}", "--allowed_lateness_seconds=60"]
    log = folder / "delay.log"
    with running(job(broker, topic, folder / "delay", *arguments), log) as process:
        send_steadily(broker.bootstrap_servers, topic, 1000, 5)
        wait_until_read(broker, topic, process, log)
        started = time.time()
        send_steadily(broker.bootstrap_servers, topic, rate, seconds)
        time.sleep(3 * DELAY_WINDOW)  # what is still on its way counts too
    consumer = Consumer({"bootstrap.servers": broker.bootstrap_servers, "group.id": "delay"}, logger=silent)
    _, end = consumer.get_watermark_offsets(TopicPartition(events, 0), 10)
    consumer.assign([TopicPartition(events, 0, 0)])
    delays = []
    for message in consumer.consume(end, 60):
        aggregate = json.loads(message.value() or b"{}")
        closed = datetime.fromisoformat(aggregate["window_end"]).timestamp() + DELAY_ORDER
        if aggregate["pane"] == "on time" and started + 2 * DELAY_WINDOW < closed < started + seconds:
            delays.append(message.timestamp()[1] / 1000 - closed)
    consumer.close()
    half, most = np.percentile(delays, [50, 99])
    return {
        "rate": rate,
        "aggregates": len(delays),
        "p50_seconds": round(float(half), 2),
        "p99_seconds": round(float(most), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=3_000_000)
    parser.add_argument("--step_seconds", type=int, default=30)
    parser.add_argument("--corrupt", type=float, default=0, help="share of the messages in a second run")
    parser.add_argument("--delay", action="store_true", help="only the delay, at a steady rate")
    parser.add_argument("--rate", type=int, default=10_000, help="readings a second for --delay")
    parser.add_argument("--seconds", type=float, default=120, help="how long for --delay")
    options = parser.parse_args()
    machine = f"{os.cpu_count()} cores, {platform.machine()}, CPython {platform.python_version()}"
    load = round(os.getloadavg()[0], 1)
    print(f"{machine}, load of others {load}")
    figures: dict[str, Any] = {"machine": machine, "load": load}
    with tempfile.TemporaryDirectory() as name, KafkaBroker(Path(name) / "kafka") as broker:
        folder = Path(name)
        if options.delay:
            figures["delay"] = measure_delay(broker, folder, options.rate, options.seconds)
        else:
            figures |= compare(broker, folder, options.rows, options.step_seconds, options.corrupt)
    for key, value in figures.items():
        print(f"{key:12} {value}")
    print(json.dumps(figures))


def compare(
    broker: KafkaBroker, folder: Path, rows: int, step_seconds: int, corrupt: float
) -> dict[str, Any]:
    """This job, over corrupt messages too where wanted, and its peers."""
    topic = f"traffic-{uuid.uuid4().hex[:8]}"
    broker.create_topic(topic, PARTITIONS)
    fill(broker.bootstrap_servers, topic, rows, step_seconds)
    settle(broker)
    figures: dict[str, Any] = {"rows": rows, "step_seconds": step_seconds}
    figures["job"] = own = drain(broker, folder, topic, rows, step_seconds, {})
    print(f"job          {own}", flush=True)
    for peer in PEERS:
        try:
            figures[peer] = took = drain_by(peer, broker, folder, topic, rows, step_seconds)
            figures[f"times_{peer}"] = round(own["rows_per_second"] / took["rows_per_second"], 2)
        except NotInstalled as error:
            figures[peer] = f"not run: {error}"
    broker.delete_topic(topic)
    if corrupt:
        topic = f"corrupt-{uuid.uuid4().hex[:8]}"
        broker.create_topic(topic, PARTITIONS)
        wrong = fill(broker.bootstrap_servers, topic, rows, step_seconds, corrupt)
        settle(broker)
        figures["corrupt"] = bad = drain(broker, folder, topic, rows, step_seconds, wrong)
        rate = "rows_per_second_from_first_to_last"
        figures["corrupt_to_clean"] = round(bad[rate] / own[rate], 2)
    return figures


if __name__ == "__main__":
    main()
