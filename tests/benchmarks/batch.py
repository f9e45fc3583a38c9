"""`python -m tests.benchmarks.batch`: the traffic job beside the same job in DuckDB and in Polars.

Both peers read the same files with typed columns, apply the rules that these files have columns for, keep the
first of every duplicate, and write readings and 5-minute aggregates as zstd Parquet in day folders. They have
it easier than the job: no dead letters, no row positions, no tolerance of a value that does not parse.

Times are of whole processes, by the clock and of the processors, which other work on the machine disturbs
less; memory is the peak of the process. The last line is one JSON object; a ratio is of this job's time to
the other's in the same round.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple, TypeVar

from pipelines.metr_la import read_locations, read_wide_csv, write_readings
from pipelines.sample.traffic import write_sample

SHARED = Path(__file__).parents[3] / "shared" / "data"
SENSORS, WEEK_SECONDS = 207, 7 * 86_400
T = TypeVar("T")
SHAPES = {300: "5-minute steps", 30: "30-second steps"}


def make_files(folder: Path, weeks: float, step_seconds: int) -> tuple[str, int, str]:
    """(glob, rows, where the speeds are from): CSV files as many rows as `weeks` of 5-minute steps have."""
    rows = round(weeks * WEEK_SECONDS / 300) * SENSORS
    folder.mkdir(parents=True)
    speeds, locations = SHARED / "los_speed.csv", SHARED / "graph_sensor_locations.csv"
    if step_seconds == 300 and speeds.exists() and weeks == int(weeks):
        wide, places = read_wide_csv(str(speeds), datetime(2012, 3, 1), 300), read_locations(str(locations))
        for week in range(int(weeks)):
            shifted = replace(wide, start=wide.start + timedelta(weeks=week))
            write_readings(shifted, places, str(folder / f"week-{week:02}.csv"))
        return str(folder / "*.csv"), rows, "a real METR-LA week, repeated"
    days = -(-rows * step_seconds // (SENSORS * 86_400))
    write_sample(str(folder), days=days, step_seconds=step_seconds, faults_of_each_kind=0)
    whole, cut = folder / "traffic.csv", folder / "readings.csv"
    with whole.open("rb") as source, cut.open("wb") as target:
        target.writelines(itertools.islice(source, rows + 1))
    whole.unlink()
    return str(cut), rows, "simulated"


class Run(NamedTuple):
    """Seconds by the clock, seconds of the processors, and the peak memory in MB of a process."""

    seconds: float
    cpu_seconds: float
    megabytes: float


def medians(runs: list[Run]) -> Run:
    """Of each figure."""
    return Run(*(statistics.median(column) for column in zip(*runs, strict=True)))


def ratios(runs: list[Run], others: list[Run]) -> Run:
    """The medians of the runs' figures over those of the others in the same round."""
    return medians(
        [Run(*(a / b for a, b in zip(*pair, strict=True))) for pair in zip(runs, others, strict=True)]
    )


def apart(function: Callable[..., T], *arguments: object) -> T:
    """The function's result, from a process of its own: a child's peak memory is at least its parent's."""
    with ProcessPoolExecutor(1) as pool:
        return pool.submit(function, *arguments).result()


def measure(command: list[str]) -> Run:
    """The command, run to its end; CalledProcessError when it fails."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def commands(files: str, output: str) -> Iterator[tuple[str, list[str]]]:
    job = [sys.executable, "-m", "pipelines.traffic", "--input", files, "--output", output]
    yield "this job", job
    yield "DuckDB", [sys.executable, "-m", "tests.benchmarks.batch_in_duckdb", files, output]
    yield "Polars", [sys.executable, "-m", "tests.benchmarks.batch_in_polars", files, output]


def compare(folder: Path, weeks: float, step_seconds: int, runs: int) -> dict[str, object]:
    """Runs the three in turn, `runs` times; the figures are medians."""
    files, rows, origin = apart(make_files, folder / f"input-{step_seconds}", weeks, step_seconds)
    print(f"\n{rows:,} rows in {SHAPES[step_seconds]}, {origin}; median of {runs}")
    output = folder / "output"
    measured: dict[str, list[Run]] = {}
    for _ in range(runs):
        for name, command in commands(files, str(output)):
            shutil.rmtree(output, ignore_errors=True)
            output.mkdir()
            measured.setdefault(name, []).append(measure(command))
    figures: dict[str, object] = {"rows": rows, "speeds": origin}
    for name, each in measured.items():
        own, ratio = medians(each), ratios(measured["this job"], each)
        print(
            f"  {name:9} {own.seconds:7.2f} s {rows / own.seconds:12,.0f} rows/s {own.cpu_seconds:7.2f} CPU s"
            f" {own.megabytes:7,.0f} MB  job/it {ratio.seconds:5.2f}, CPU {ratio.cpu_seconds:5.2f}"
        )
        figures[name] = {
            "seconds": round(own.seconds, 2),
            "cpu_seconds": round(own.cpu_seconds, 2),
            "megabytes": round(own.megabytes),
            "ratio": round(ratio.seconds, 2),
            "cpu_ratio": round(ratio.cpu_seconds, 2),
        }
    shutil.rmtree(folder / f"input-{step_seconds}")
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weeks", type=float, default=17, help="of 207 sensors in 5-minute steps")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--step_seconds", type=int, nargs="+", choices=SHAPES, default=list(SHAPES))
    options = parser.parse_args()
    machine = f"{os.cpu_count()} cores, {platform.machine()}, CPython {platform.python_version()}"
    print(machine)
    figures: dict[str, object] = {"machine": machine, "weeks": options.weeks}
    with tempfile.TemporaryDirectory() as folder:
        for step_seconds in options.step_seconds:
            figures[SHAPES[step_seconds]] = compare(Path(folder), options.weeks, step_seconds, options.runs)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
