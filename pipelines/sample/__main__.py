"""`python -m pipelines.sample FEED`: write a simulated feed with known faults in it."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from datetime import date

from pipelines.parser import OneLineParser
from pipelines.printing import fail
from pipelines.sample.samples import SAMPLES


def parser() -> argparse.ArgumentParser:
    program = OneLineParser(
        prog="python -m pipelines.sample",
        description="Write a simulated feed with known faults in it. The data is simulated, not measured.",
    )
    feeds = program.add_subparsers(dest="feed", required=True, metavar="feed")
    for name, sample in SAMPLES.items():
        command = feeds.add_parser(
            name,
            help=sample.of,
            description=(
                f"Write SIMULATED readings of {sample.of}: {name}.csv, and in {name}.manifest.json what was "
                "planted in which row and what a correct job therefore accepts. Nothing of it was measured. "
                "The same options give the same bytes."
            ),
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        command.add_argument("--output", default="sample", help="directory to write to")
        command.add_argument("--seed", type=int, default=1, help="another seed, another sample")
        command.add_argument("--start", type=_date, default=sample.start, help="first day, as 2012-03-01")
        command.add_argument("--days", type=int, default=sample.days, help="days from there on")
        for option, (default, what) in sample.sizes.items():
            command.add_argument(f"--{option}", type=int, default=default, help=what)
        faults = command.add_mutually_exclusive_group()
        faults.add_argument(
            "--faults_of_each_kind", type=int, default=3, help="rows to spoil in each of the ways there are"
        )
        faults.add_argument(
            "--no_faults", dest="faults_of_each_kind", action="store_const", const=0,
            default=argparse.SUPPRESS, help="write only plain good rows",
        )  # fmt: skip
    return program


def _date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a date such as 2012-03-01") from None


def main(arguments: Sequence[str] | None = None) -> None:
    options = vars(parser().parse_args(arguments))
    feed, output = options.pop("feed"), options.pop("output")
    started = time.perf_counter()
    try:
        manifest = SAMPLES[feed].write(output, **options)
    except (ValueError, OSError) as problem:
        raise SystemExit(fail(str(problem))) from None
    seconds = time.perf_counter() - started
    path = os.path.join(output, f"{feed}.csv")
    print(
        f"{path}: {manifest['rows']:,} simulated rows, {manifest['duplicates']} duplicates, "
        f"{sum(manifest['dead_letters'].values())} rows to be refused, "
        f"{os.path.getsize(path):,} bytes in {seconds:.1f} s"
    )


if __name__ == "__main__":
    main()
