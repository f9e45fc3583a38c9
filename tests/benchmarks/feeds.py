"""`python -m tests.benchmarks.feeds`: the batch job of each feed, in turn, on as many simulated rows of each.

Times are of whole processes, memory is the peak of the process. The last line is one JSON object; a ratio is
of a feed's rows per second to traffic's in the same round.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from pipelines.sample.samples import SAMPLES
from tests.benchmarks.batch import measure

# A file of one station would be of centuries, and a day's files of 24 rows.
SIZES = {"air_quality": {"stations": 2000}}


def make_file(folder: Path, feed: str, rows: int) -> Path:
    """A file of at least so many rows: whole days of the feed's sample, without faults."""
    sample, sizes = SAMPLES[feed], {"faults_of_each_kind": 0, **SIZES.get(feed, {})}
    a_day = sample.write(str(folder), start=sample.start, days=1, **sizes)["rows"]
    sample.write(str(folder), start=sample.start, days=-(-rows // a_day), **sizes)
    with (folder / f"{feed}.csv").open("rb") as source, (folder / f"{feed}-cut.csv").open("wb") as cut:
        for _, line in zip(range(rows + 1), source, strict=False):
            cut.write(line)
    (folder / f"{feed}.csv").unlink()
    return folder / f"{feed}-cut.csv"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2_000_000, help="of each feed")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    machine = f"{os.cpu_count()} cores, {platform.machine()}, CPython {platform.python_version()}"
    print(f"{machine}; {options.rows:,} simulated rows of each feed; median of {options.runs}")
    measured: dict[str, list[tuple[float, float]]] = {feed: [] for feed in SAMPLES}
    with tempfile.TemporaryDirectory() as folder:
        files = {feed: make_file(Path(folder), feed, options.rows) for feed in SAMPLES}
        output = Path(folder) / "output"
        for _ in range(options.runs):
            for feed, file in files.items():
                job = [sys.executable, "-m", f"pipelines.{feed}", "--input", str(file)]
                shutil.rmtree(output, ignore_errors=True)
                measured[feed].append(measure([*job, "--output", str(output)]))
    figures: dict[str, object] = {"machine": machine, "rows": options.rows}
    for feed, pairs in measured.items():
        seconds, memory = (statistics.median(column) for column in zip(*pairs, strict=True))
        rounds = zip(measured["traffic"], pairs, strict=True)
        ratio = statistics.median(traffic / own for (traffic, _), (own, _) in rounds)
        rate = options.rows / seconds
        print(f"  {feed:12} {seconds:6.2f} s {rate:12,.0f} rows/s {memory:6,.0f} MB  of traffic {ratio:5.2f}")
        figures[feed] = {"rows_per_second": round(rate), "megabytes": round(memory), "ratio": round(ratio, 2)}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
