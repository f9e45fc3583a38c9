"""`python -m tests.benchmarks.replay`: the replay client beside plain loops, to a broker started here.

The plain loop is csv.DictReader, json.dumps and Producer.produce with a delivery callback for each message,
to the same topic with the same settings of the producer; it has it easier: no validation, no identifiers, no
dead letters. The Go loop, for detections where `go` is installed, is tests/benchmarks/replay_in_go: it sends
the same messages and checks the same limits, without dead letters.
Seconds are of whole processes, start-up included, and so are rows/s; "said" are the rows/s that the client
itself prints, without its start-up; memory is the process's peak, also for a file of a twentieth of the rows;
CPU time is of the client alone, without the broker. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv

from pipelines.sample.traffic import write_sample
from runners.local import KafkaBroker

GO_LOOP = Path(__file__).parent / "replay_in_go"

PLAIN_LOOP = """
import csv, json, sys
from confluent_kafka import Producer
path, servers, topic, key, numbers = sys.argv[1:]
numbers = set(numbers.split(","))
acked = 0
def report(error, message):
    global acked
    acked += error is None
producer = Producer({"bootstrap.servers": servers, "enable.idempotence": True, "acks": "all", "linger.ms": 20,
                     "compression.type": "lz4"})
sent = 0
with open(path) as file:
    for row in csv.DictReader(file):
        message = {name: float(value) if name in numbers else value for name, value in row.items()}
        while True:
            try:
                producer.produce(topic, json.dumps(message), message.get(key, key), on_delivery=report)
                break
            except BufferError:
                producer.poll(0.01)
        producer.poll(0)
        sent += 1
producer.flush()
assert acked == sent, (acked, sent)
"""


# A process's peak memory counts that of its parent when it began: so the parent is a small one.
LAUNCHER = """
import json, resource, subprocess, sys, time
started = time.perf_counter()
run = subprocess.run(sys.argv[1:], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
seconds, megabytes = time.perf_counter() - started, used.ru_maxrss / 1024
print(json.dumps([seconds, used.ru_utime + used.ru_stime, megabytes, run.stdout]))
"""
SAID = re.compile(r"^seconds .* at ([\d,]+) ", re.MULTILINE)


class Run(NamedTuple):
    seconds: float
    cpu_seconds: float
    megabytes: float
    rows: int
    rows_per_second_said: float


def measure(command: list[str], rows: int) -> Run:
    """What the command took, run to its end; CalledProcessError when it fails."""
    launched = [sys.executable, "-c", LAUNCHER, *command]
    answer = subprocess.run(launched, check=True, capture_output=True).stdout
    seconds, cpu_seconds, megabytes, printed = json.loads(answer)
    said = SAID.search(printed)
    rate = float(said[1].replace(",", "")) if said else rows / seconds
    return Run(seconds, cpu_seconds, megabytes, rows, rate)


def start_of(path: Path, rows: int) -> Path:
    """A file of the first rows of that one."""
    start = path.with_name(f"start-of-{path.name}")
    with path.open("rb") as source, start.open("wb") as target:
        target.writelines(itertools.islice(source, rows + 1))
    return start


def traffic(folder: Path, rows: int) -> Path:
    """A file of so many simulated readings of traffic, of all columns."""
    write_sample(str(folder), days=-(-rows // (207 * 2880)), faults_of_each_kind=0)
    whole = folder / "traffic.csv"
    path = start_of(whole, rows)
    whole.unlink()
    return path


def detections(folder: Path, rows: int) -> Path:
    """A file of so many simulated detections, of the columns that every such file has."""
    random = np.random.default_rng(1)
    table = pa.table(
        {
            "frame_number": np.arange(rows) // 3,
            "timestamp_sec": np.round(np.arange(rows) // 3 / 30, 3),
            "u": np.round(random.uniform(0, 1920, rows), 2),
            "v": np.round(random.uniform(0, 1080, rows), 2),
            "confidence": np.round(random.uniform(0.3, 1, rows), 3),
            "class_name": np.array(["stop", "yield", "speed_limit_50"])[random.integers(0, 3, rows)],
            "vehicle_lat": np.round(np.linspace(52, 52.5, rows), 6),
            "vehicle_lon": np.round(np.linspace(4.3, 4.9, rows), 6),
            "heading": np.round(random.uniform(0, 360, rows), 1),
        }
    )
    path = folder / "detections.csv"
    pyarrow.csv.write_csv(table, path, pyarrow.csv.WriteOptions(quoting_style="needed"))
    return path


def build_go_loop(folder: Path) -> Path | None:
    """The loop in Go; None where there is no Go, which is said. CalledProcessError when it fails."""
    if shutil.which("go") is None:
        print("no loop in Go: go is not installed")
        return None
    subprocess.run(["go", "build", "-o", str(folder / "go-loop"), "."], cwd=GO_LOOP, check=True)
    return folder / "go-loop"


def compare(
    broker: KafkaBroker, feed: str, path: Path, rows: int, runs: int, go_loop: Path | None
) -> dict[str, object]:
    """Runs the client, also on a small file, its dry run and the loops in turn; figures are medians."""
    print(f"\n{feed}: {rows:,} simulated rows, {path.stat().st_size / 1e6:,.0f} MB; median of {runs}")
    numbers = {
        "traffic": "speed_mph,volume_vph,occupancy_percent,latitude,longitude,lane_count",
        "detections": "frame_number,timestamp_sec,u,v,confidence,vehicle_lat,vehicle_lon,heading",
    }
    replay = [sys.executable, "-m", "pipelines.replay", feed, "--input"]
    small_rows = max(rows // 20, 1)
    small = start_of(path, small_rows)
    key = {"traffic": "sensor_id", "detections": "vehicle"}[feed]
    measured: dict[str, list[Run]] = {}
    for run in range(runs):
        topic = f"{feed}-{run}"
        broker.create_topic(topic, 5)
        to = [broker.bootstrap_servers, topic]
        commands = {
            "replay": ([*replay, str(path), "--bootstrap_servers", to[0], "--topic", to[1]], rows),
            "small file": ([*replay, str(small), "--bootstrap_servers", to[0], "--topic", to[1]], small_rows),
            "dry run": ([*replay, str(path), "--dry_run"], rows),
            "plain loop": (
                [sys.executable, "-c", PLAIN_LOOP, str(path), *to, key, numbers[feed]],
                rows,
            ),
        }
        if go_loop:
            commands["Go loop"] = ([str(go_loop), str(path), *to], rows)
        for name, (command, these_rows) in commands.items():
            measured.setdefault(name, []).append(measure(command, these_rows))
        broker.delete_topic(topic)
    small.unlink()
    figures = table(measured)
    ratios = {}
    for peer in figures.keys() & {"plain loop", "Go loop"}:
        ratio = figures["replay"]["rows_per_second"] / figures[peer]["rows_per_second"]
        print(f"  the client is {ratio:.2f} times the {peer}")
        ratios[f"times the {peer}"] = round(ratio, 2)
    return {**figures, **ratios}


def table(measured: Mapping[str, list[Run]]) -> dict[str, dict[str, float]]:
    figures: dict[str, dict[str, float]] = {}
    for name, runs in measured.items():
        median = Run(*(statistics.median(column) for column in zip(*runs, strict=True)))
        print(
            f"  {name:10} {median.seconds:7.2f} s {median.rows / median.seconds:12,.0f} rows/s"
            f" {median.rows_per_second_said:12,.0f} said"
            f" {median.cpu_seconds / median.rows * 1e6:6.2f} us CPU/row {median.megabytes:6,.0f} MB"
        )
        figures[name] = {
            "seconds": round(median.seconds, 2),
            "rows": median.rows,
            "rows_per_second": round(median.rows / median.seconds),
            "rows_per_second_said": round(median.rows_per_second_said),
            "cpu_microseconds_per_row": round(median.cpu_seconds / median.rows * 1e6, 2),
            "megabytes": round(median.megabytes),
        }
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=4_000_000)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    machine = f"{os.cpu_count()} cores, {platform.machine()}, CPython {platform.python_version()}"
    print(machine)
    figures: dict[str, object] = {"machine": machine}
    with tempfile.TemporaryDirectory() as name, KafkaBroker(Path(name) / "kafka") as broker:
        folder = Path(name)
        for feed, make in (("traffic", traffic), ("detections", detections)):
            path = make(folder, options.rows)
            go_loop = build_go_loop(folder) if feed == "detections" else None
            figures[feed] = compare(broker, feed, path, options.rows, options.runs, go_loop)
            path.unlink()
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
