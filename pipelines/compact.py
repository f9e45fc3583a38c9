"""`python -m pipelines.compact`: the many files of a stream's closed days become few, while the job runs.

Which days are closed, the output says itself: aggregates of a window are only written once the watermark has
passed it. What readers see meanwhile, and why a job loses nothing, says `transforms.compaction`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta

from apache_beam.io.filesystems import FileSystems

from pipelines.options.files import absolute
from pipelines.options.values import whole_number
from pipelines.parser import OneLineParser
from pipelines.printing import fail
from runners.options import UnusableRunner, pipeline_options
from schemas.feed import WHERE_FROM, Feed
from schemas.feeds import FEEDS
from transforms.compaction import Withdrawn, compact, stretch_of, sweep
from transforms.errors import UserError
from transforms.files import files_below

DAYS, AGGREGATES, DEAD_LETTERS = "year=*/month=*/day=*", "processed/aggregates", "dead_letters"
DAY = re.compile(r"year=(\d+)/month=(\d+)/day=(\d+)$")
EPILOGUE = """\
A day has one file per shard afterwards, and dead letters one for every 10 million offsets of a partition.
Days that may still be written to are left alone, and so are the files of batch runs, which are few already.
Run it again at any time, also after it was killed. Any further option goes to Beam, such as --hdfs_host.
"""


def closed_days(folders: Iterable[str], stretches: Iterable[str], lateness: timedelta) -> set[str]:
    """The folders of days that are over, with their lateness, before the latest of those stretches begins.

    >>> folders = ["raw/year=2012/month=03/day=01", "raw/year=2012/month=03/day=02"]
    >>> closed_days(folders, ["20120301T230000", "20120302T010000"], timedelta(hours=1))
    {'raw/year=2012/month=03/day=01'}
    """
    reached = max((datetime.strptime(stretch, "%Y%m%dT%H%M%S") for stretch in stretches), default=None)
    if reached is None:
        return set()
    return {folder for folder in folders if _end_of_day(folder) + lateness <= reached}


def _end_of_day(folder: str) -> datetime:
    found = DAY.search(folder)
    assert found  # the globs that found it are of this form
    year, month, day = map(int, found.groups())
    return datetime(year, month, day) + timedelta(days=1)


def closed_series(folders: Iterable[str]) -> set[str]:
    """The folders of dead letters after which the same partition of a topic has a later one.

    >>> closed_series(["dead_letters/traffic-t-00000-000000", "dead_letters/traffic-t-00000-000001"])
    {'dead_letters/traffic-t-00000-000000'}
    """
    last: dict[str, str] = {}
    for folder in sorted(folders):
        last[folder.rpartition("-")[0]] = folder
    return set(folders) - set(last.values())


def compact_output(output: str, feed: Feed, lateness: timedelta) -> Iterator[str]:
    """Compacts what is closed; yields a line on each folder. UserError when something cannot be written."""
    pattern = f"{feed.name}-*.parquet"
    aggregates = _folders(output, f"{AGGREGATES}/{DAYS}/{pattern}")
    reached = [stretch for files in aggregates.values() for stretch in files if "T" in stretch]
    raw = _folders(output, f"raw/{DAYS}/{pattern}")
    letters = _folders(output, f"{DEAD_LETTERS}/{feed.name}-*/{pattern}")
    place = [field.name for field in WHERE_FROM]  # readings that differ in it alone are two all the same
    for folders, closed, sort_by in (
        (raw, closed_days(raw, reached, lateness), [feed.key, feed.event_time, *place]),
        (aggregates, closed_days(aggregates, reached, lateness), [feed.key, "window_start", *feed.per]),
        (letters, closed_series(letters), ["position"]),
    ):
        for folder in sorted(folders):
            if folder not in closed:
                yield f"{folder}: open, left as it is"
            elif folders[folder]:
                yield f"{folder}: {_compact(output, folder, pattern, sort_by)}"


def _compact(output: str, folder: str, pattern: str, sort_by: Sequence[str]) -> str:
    try:
        before, after = compact(output, folder, pattern, sort_by)
    except Withdrawn:
        return "left as it is, for a job has just written there"
    return f"{before:,} files are now {after:,}"


def _folders(output: str, pattern: str) -> dict[str, list[str]]:
    """folder below the output -> the stretches of the parts in it"""
    folders: dict[str, list[str]] = {}
    for path in files_below(output, pattern):
        folder = FileSystems.split(path)[0].removeprefix(FileSystems.join(output, ""))
        stretch = stretch_of(path)
        folders.setdefault(folder, []).extend([stretch] if stretch else [])
    return folders


def _refuse_unreadable(output: str) -> None:
    try:
        files_below(output, "*")
    except (OSError, ValueError) as error:
        raise UserError(f"--output {output}: cannot be listed: {error}") from error


def parser() -> OneLineParser:
    """The command line."""
    options = OneLineParser(
        prog="python -m pipelines.compact",
        description="Merges the files that a stream has written of a day into few, safely while it runs.",
        epilog=EPILOGUE,
        allow_abbrev=False,
    )
    options.add_argument("feed", choices=FEEDS, help="whose output it is")
    options.add_argument("--output", required=True, metavar="FOLDER", help="the job's --output")
    options.add_argument(
        "--allowed_lateness_seconds",
        type=whole_number,
        default=3600,
        metavar="N",
        help="the job's: a day stays open so much longer (default: %(default)s)",
    )
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Compacts as the command line says; returns the exit status."""
    options, beam_flags = parser().parse_known_args(argv)
    try:
        output = absolute(options.output).rstrip("/")
        FileSystems.set_options(pipeline_options("DirectRunner", beam_flags))
        _refuse_unreadable(output)
        for folders in (f"raw/{DAYS}", f"{AGGREGATES}/{DAYS}", f"{DEAD_LETTERS}/*"):
            sweep(output, folders)
        lateness = timedelta(seconds=options.allowed_lateness_seconds)
        for line in compact_output(output, FEEDS[options.feed], lateness):
            print(line, flush=True)
    except (UserError, UnusableRunner) as error:
        return fail(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
