"""`python -m tests.benchmarks.feeds`: the batch job of each feed, in turn, on as many simulated rows of each.

Rows are read from CSV, validated, deduplicated, aggregated and written. Those of air quality, with 13
measured fields where traffic has 3, are also cleaned and written again with three columns for each of the 13;
those of detections are also summed up by session and by sign.

Times are of whole processes, by the clock and of the processors, which other work on the machine disturbs
less; memory is the peak of the process. Start-up is what a file of 1,000 rows takes. The last line is one
JSON object; a ratio is of a feed's rows per second, or per second of the processors, to traffic's in the same
round.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path

from pipelines.sample.samples import SAMPLES
from tests.benchmarks.batch import Run, apart, measure, medians, ratios

# A file of one station would be of centuries, and a day's files of 24 rows.
SIZES = {"air_quality": {"stations": 2000}}
START_ROWS = 1_000


def make_files(folder: Path, feed: str, rows: int) -> tuple[Path, Path]:
    """(a file of the first rows, one of so many): of whole days of the feed's sample, without faults."""
    sample, sizes = SAMPLES[feed], {"faults_of_each_kind": 0, **SIZES.get(feed, {})}
    a_day = sample.write(str(folder), start=sample.start, days=1, **sizes)["rows"]
    sample.write(str(folder), start=sample.start, days=-(-rows // a_day), **sizes)
    first, cut = folder / f"{feed}-first.csv", folder / f"{feed}-cut.csv"
    for path, wanted in ((first, START_ROWS), (cut, rows)):
        with (folder / f"{feed}.csv").open("rb") as source, path.open("wb") as target:
            target.writelines(itertools.islice(source, wanted + 1))
    (folder / f"{feed}.csv").unlink()
    return first, cut


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=5_000_000, help="of each feed")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    machine = f"{os.cpu_count()} cores, {platform.machine()}, CPython {platform.python_version()}"
    print(f"{machine}; {options.rows:,} simulated rows of each feed; median of {options.runs}")
    started: dict[str, list[Run]] = {feed: [] for feed in SAMPLES}
    measured: dict[str, list[Run]] = {feed: [] for feed in SAMPLES}
    with tempfile.TemporaryDirectory() as folder:
        files = {feed: apart(make_files, Path(folder), feed, options.rows) for feed in SAMPLES}
        output = Path(folder) / "output"
        for _ in range(options.runs):
            for feed, pair in files.items():
                for file, runs in zip(pair, (started[feed], measured[feed]), strict=True):
                    shutil.rmtree(output, ignore_errors=True)
                    job = [sys.executable, "-m", f"pipelines.{feed}", "--input", str(file)]
                    runs.append(measure([*job, "--output", str(output)]))
    figures: dict[str, object] = {"machine": machine, "rows": options.rows}
    for feed, runs in measured.items():
        own, ratio, start = medians(runs), ratios(measured["traffic"], runs), medians(started[feed])
        after = (options.rows - START_ROWS) / (own.cpu_seconds - start.cpu_seconds)
        print(
            f"  {feed:12} {own.seconds:6.2f} s {options.rows / own.seconds:12,.0f} rows/s "
            f"{own.cpu_seconds:6.2f} CPU s, {start.cpu_seconds:.2f} to start {own.megabytes:6,.0f} MB  "
            f"of traffic {ratio.seconds:5.2f}, CPU {ratio.cpu_seconds:5.2f}"
        )
        figures[feed] = {
            "rows_per_second": round(options.rows / own.seconds),
            "rows_per_cpu_second": round(options.rows / own.cpu_seconds),
            "rows_per_cpu_second_after_start": round(after),
            "megabytes": round(own.megabytes),
            "ratio": round(ratio.seconds, 2),
            "cpu_ratio": round(ratio.cpu_seconds, 2),
        }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
