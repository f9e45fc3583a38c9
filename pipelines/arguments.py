"""The command line of a feed's batch job."""

from __future__ import annotations

import argparse
import logging
import zoneinfo
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.filesystems import FileSystems

from pipelines.parser import OneLineParser
from pipelines.sample.traffic import write_sample
from schemas.feed import Feed
from transforms.errors import UserError
from transforms.parquet import digest
from transforms.windows import DAY_SECONDS

SAMPLE = "sample"

log = logging.getLogger(__name__)

DESCRIPTION = """\
{description}

Reads CSV files, validates every row, groups the readings in fixed event-time windows, and writes Parquet:
accepted readings, one row of aggregates per {key} and window, and dead letters. The accounts at the end say
where every row went: read = accepted + duplicates + dead letters.
"""
EPILOGUE = """\
Any further option goes to Beam and its runner as it is, such as --direct_num_workers 1 or --flink_master.
Exit status: 0 done, 1 the accounts do not balance, 2 wrong usage or unusable input (one line says what).
"""


@dataclass(frozen=True)
class BatchArguments:
    """What a batch run was asked to do. `run` names the set of inputs; see `DailyFiles`.

    `manifest` says what was planted in the simulated sample, when that is the input.
    """

    feed: Feed
    inputs: tuple[str, ...]
    output: str
    window_seconds: int
    allowed_lateness_seconds: int
    timezone: str
    zero_speed: str
    runner: str
    beam_flags: tuple[str, ...]
    manifest: str | None

    @property
    def run(self) -> str:
        return digest(self.inputs)

    def describe(self) -> dict[str, object]:
        """What `summary.json` says of the run beside its accounts; Beam's own flags may hold secrets."""
        options = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "beam_flags"}
        return {**options, "feed": self.feed.name}


def parse_arguments(feed: Feed, argv: Sequence[str] | None) -> BatchArguments:
    """The arguments of a run; the process's own when `argv` is None.

    UserError when an input is missing, a file of sensors cannot be read, or the output cannot be written.
    SystemExit with status 2 for a command line that does not parse, as argparse does.
    """
    options, beam_flags = _parser(feed).parse_known_args(argv)
    manifest = None
    if options.input is None:
        options, manifest = _with_sample(options)
    for name, minimum, maximum in options.bounds:
        feed = _with_bounds(feed, name, minimum, maximum)
    feed = feed.with_field(
        feed.event_time,
        max_future_seconds=options.max_future_seconds,
        max_age_seconds=options.max_age_seconds,
    )
    if options.sensors:
        feed = feed.with_field(feed.key, known=_known(options.sensors, feed.key))
    return BatchArguments(
        feed=feed,
        inputs=_matching(options.input),
        output=_absolute(options.output),
        window_seconds=options.window_seconds,
        allowed_lateness_seconds=options.allowed_lateness_seconds,
        timezone=options.timezone,
        zero_speed=options.zero_speed,
        runner=options.runner,
        beam_flags=tuple(beam_flags),
        manifest=manifest,
    )


def _parser(feed: Feed) -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog=f"python -m pipelines.{feed.name}",
        usage="%(prog)s [--runner RUNNER] [--input FILE ...] [--output FOLDER] [options]",
        description=DESCRIPTION.format(description=feed.description, key=feed.key),
        epilog=EPILOGUE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    files = parser.add_argument_group("files")
    files.add_argument(
        "--input",
        nargs="+",
        metavar="FILE",
        help="CSV files or globs, plain, .gz, .bz2 or .zst, local or on any of Beam's file systems "
        "(default: a simulated day, made on first use in sample/)",
    )
    files.add_argument(
        "--output", default="out", metavar="FOLDER", help="where results go, local or not (default: out)"
    )
    files.add_argument(
        "--timezone",
        type=_timezone,
        default="UTC",
        metavar="ZONE",
        help="of timestamps without an offset, such as America/Los_Angeles (default: UTC)",
    )
    windows = parser.add_argument_group("windows")
    windows.add_argument(
        "--window_seconds",
        type=_positive,
        default=feed.window_seconds,
        metavar="N",
        help="length of a window (default: %(default)s)",
    )
    windows.add_argument(
        "--allowed_lateness_seconds",
        type=_not_negative,
        default=3600,
        metavar="N",
        help="how long a window still takes late readings; no file is ever late (default: %(default)s)",
    )
    windows.add_argument(
        "--zero_speed",
        choices=("keep", "missing"),
        default="keep",
        help="whether a speed of 0 counts in the averages, or is left out and counted in missing_count "
        "(default: %(default)s)",
    )
    rules = parser.add_argument_group("rules", "A row that breaks any of them becomes a dead letter.")
    rules.add_argument(
        "--sensors",
        metavar="FILE",
        help=f"known sensors, a CSV file with a column {feed.key}; others are refused",
    )
    rules.add_argument(
        "--max_future_seconds",
        type=_not_negative,
        metavar="N",
        help="refuse later timestamps (default: no limit)",
    )
    rules.add_argument(
        "--max_age_seconds",
        type=_not_negative,
        metavar="N",
        help="refuse older timestamps (default: no limit)",
    )
    ranged = [field for field in feed.fields if field.minimum is not None or field.maximum is not None]
    rules.add_argument(
        "--bounds",
        type=_bounds,
        action="extend",
        nargs="+",
        default=[],
        metavar="FIELD=MIN:MAX",
        help="other limits, either side may be empty (default: "
        + " ".join(f"{field.name}={field.minimum:g}:{field.maximum:g}" for field in ranged)
        + ")",
    )
    runner = parser.add_argument_group("runner")
    runner.add_argument(
        "--runner",
        default="DirectRunner",
        help="DirectRunner (in this process), FlinkRunner, PrismRunner, or any other that Beam knows "
        "(default: %(default)s)",
    )
    return parser


def _with_sample(options: argparse.Namespace) -> tuple[argparse.Namespace, str]:
    """The options completed for a run on the simulated day, and the path of its manifest.

    Sensors and future timestamps are among its faults, so it comes with those two rules.
    """
    manifest = Path(SAMPLE, "traffic.manifest.json")
    if not manifest.exists():
        log.info("no --input: simulating a day of traffic into %s/", SAMPLE)
        write_sample(SAMPLE)
    completed = {
        "input": [str(Path(SAMPLE, "traffic.csv"))],
        "sensors": options.sensors or str(Path(SAMPLE, "traffic.sensors.csv")),
        "max_future_seconds": DAY_SECONDS
        if options.max_future_seconds is None
        else options.max_future_seconds,
    }
    return argparse.Namespace(**vars(options) | completed), str(manifest)


def _matching(patterns: Sequence[str]) -> tuple[str, ...]:
    """The files that the globs match, each once, sorted."""
    paths = set()
    for pattern in map(_absolute, patterns):
        try:
            (match,) = FileSystems.match([pattern])
        except (BeamIOError, ValueError) as error:
            raise UserError(f"--input {pattern}: cannot be listed: {error}") from error
        if not match.metadata_list:
            raise UserError(f"--input {pattern}: no such file")
        paths |= {file.path for file in match.metadata_list}
    return tuple(sorted(paths))


def _absolute(path: str) -> str:
    return path if "://" in path else str(Path(path).absolute())


def _known(path: str, key: str) -> frozenset[str]:
    try:
        with FileSystems.open(_absolute(path)) as file:
            table = pyarrow.csv.read_csv(
                pa.PythonFile(file, "r"),
                convert_options=pyarrow.csv.ConvertOptions(
                    include_columns=[key], column_types={key: pa.string()}
                ),
            )
    except (OSError, BeamIOError) as error:
        raise UserError(f"--sensors {path}: cannot be read: {error}") from error
    except (pa.ArrowInvalid, KeyError) as error:
        raise UserError(f"--sensors {path}: is no CSV file with a column {key}: {error}") from error
    return frozenset(table[key].to_pylist())


def _with_bounds(feed: Feed, name: str, minimum: float | None, maximum: float | None) -> Feed:
    try:
        return feed.with_bounds({name: (minimum, maximum)})
    except KeyError:
        numbers = ", ".join(field.name for field in feed.fields if field.is_number)
        raise UserError(f"--bounds {name}: no such field; fields with bounds are {numbers}") from None
    except ValueError as error:
        raise UserError(f"--bounds {error}") from error


def _bounds(text: str) -> tuple[str, float | None, float | None]:
    name, equals, limits = text.partition("=")
    low, colon, high = limits.partition(":")
    try:
        if not (equals and colon):
            raise ValueError
        return name, float(low) if low else None, float(high) if high else None
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form speed_mph=0:120") from None


def _timezone(name: str) -> str:
    if name not in zoneinfo.available_timezones():
        raise argparse.ArgumentTypeError(f"{name!r} is no time zone; one is America/Los_Angeles")
    return name


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _not_negative(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)
