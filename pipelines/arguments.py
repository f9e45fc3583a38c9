"""The command line of a feed's job."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import math
import os
import zoneinfo
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines.parser import OneLineParser
from pipelines.sample.samples import SAMPLES
from runners.options import UnusableRunner, pipeline_options
from schemas.feed import TIMESTAMP, Feed, Field
from transforms.errors import UserError
from transforms.medians import file_medians
from transforms.parquet import digest

METRICS_PORT = 8000
SAMPLE = "sample"
LIVE_FUTURE_SECONDS = 3600
GROUP = "stream-processor-group-v2"
SECRET = ("beam_flags", "kafka", "schema_registry")

log = logging.getLogger(__name__)

DESCRIPTION = """\
{description}

Reads CSV files or Kafka topics, validates every row, groups the readings in fixed event-time windows, and
writes Parquet: accepted readings, one row of aggregates per {key} and window, and dead letters. The
accounts at the end say where every row went: read = accepted + duplicates + dead letters.
"""
EPILOGUE = """\
Any further option goes to Beam and its runner as it is, such as --direct_num_workers 1 or --flink_master.
Exit status: 0 done, 1 the accounts do not balance or a stream was cancelled or failed, 2 wrong usage,
unusable input or a refused resume (one line says what), 3 unhealthy, where asked for.
"""


@dataclass(frozen=True)
class Arguments:
    """What a run was asked to do. `run` names the set of inputs; see `DailyFiles`.

    `inputs` are files, or `topics` the topics to read instead, with `kafka` the settings of their clients.
    `manifest` says what was planted in the simulated sample, when that is the input.
    """

    feed: Feed
    inputs: tuple[str, ...]
    topics: tuple[str, ...]
    kafka: Mapping[str, str] = dataclasses.field(repr=False)
    format: str
    schema_registry: str = dataclasses.field(repr=False)
    start: str
    out_of_orderness_seconds: int
    idle_seconds: int
    early_seconds: int
    file_seconds: int
    shards: int
    aggregates_topic: str | None
    aggregates_format: str
    dead_letter_topic: str | None
    output: str
    window_seconds: int
    allowed_lateness_seconds: int
    timezone: str
    zero_speed: str
    train: str | None
    clean_seconds: int
    clean_topic: str | None
    fail_unhealthy: bool
    metrics_port: int | None
    metrics_host: str
    runner: str
    beam_flags: tuple[str, ...]
    manifest: str | None

    @property
    def run(self) -> str:
        reader = [self.start, self.kafka["bootstrap.servers"]] if self.topics else []
        return digest([*self.sources, *reader])

    @property
    def sources(self) -> tuple[str, ...]:
        """What the column `source` of a reading may name."""
        return self.inputs or self.topics

    @property
    def streaming(self) -> bool:
        """Whether the run has no end: topics, on any runner but DirectRunner, which reads to their ends."""
        return bool(self.topics) and self.runner != "DirectRunner"

    def describe(self) -> dict[str, object]:
        """What `summary.json` says of the run beside its accounts, without what may hold secrets."""
        options = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in SECRET}
        return {**options, "feed": self.feed.name}


def parse_arguments(feed: Feed, argv: Sequence[str] | None) -> Arguments:
    """The arguments of a run; the process's own when `argv` is None.

    UserError when an input is missing, a file of sensors cannot be read, or the output cannot be written.
    SystemExit with status 2 for a command line that does not parse, as argparse does.
    """
    parser = _parser(feed)
    options, beam_flags = parser.parse_known_args(argv)
    FileSystems.set_options(PipelineOptions(beam_flags))  # inputs and output are looked at before Beam runs
    if options.runner == "DirectRunner":
        try:
            pipeline_options(options.runner, beam_flags)  # refuses what nobody knows, before any work
        except UnusableRunner:
            names = (flag.partition("=")[0] for flag in beam_flags if flag.startswith("--"))
            if mistyped := next(filter(parser.meant, names), None):
                parser.error(f"unrecognized arguments: {mistyped}")
            raise
    manifest = None
    if options.input and options.topic:
        raise UserError("give --input or --topic, not both")
    if options.input is None and not options.topic:
        if feed.name not in SAMPLES:
            raise UserError(f"give files with --input or topics with --topic: {feed.name} has no sample")
        options, manifest = _with_sample(options, feed.name)
    for name, minimum, maximum in options.bounds:
        feed = _with_bounds(feed, name, minimum, maximum)
    feed = feed.with_field(
        feed.event_time,
        max_future_seconds=_max_future(options),
        max_age_seconds=options.max_age_seconds,
    )
    for field in feed.fields:
        if field.option and (value := getattr(options, field.option)) is not None:
            feed = feed.with_field(field.name, default=value)
        if field.known_option and (path := getattr(options, field.known_option)) is not None:
            feed = feed.with_field(field.name, known=_known(path, field))
    if feed.any_of:
        feed = replace(feed, fill_seconds=options.fill_seconds)
        feed = _trained(feed, options.train, options.timezone) if options.train else feed
    return Arguments(
        feed=feed,
        inputs=_matching(options.input or ()),
        topics=tuple(dict.fromkeys(options.topic)),
        kafka={
            "bootstrap.servers": options.bootstrap_servers,
            "group.id": GROUP,
            **dict(options.kafka_config),
        },
        format=options.format,
        schema_registry=options.schema_registry,
        start=options.start,
        out_of_orderness_seconds=options.out_of_orderness_seconds,
        idle_seconds=options.idle_seconds,
        early_seconds=options.early_seconds,
        file_seconds=options.file_seconds,
        shards=options.shards,
        aggregates_topic=options.aggregates_topic,
        aggregates_format=options.aggregates_format,
        dead_letter_topic=options.dead_letter_topic,
        output=_absolute(options.output),
        window_seconds=options.window_seconds,
        allowed_lateness_seconds=options.allowed_lateness_seconds,
        timezone=options.timezone,
        zero_speed=getattr(options, "zero_speed", "keep"),
        train=options.train,
        clean_seconds=options.clean_seconds,
        clean_topic=options.clean_topic,
        fail_unhealthy=options.fail_unhealthy,
        metrics_port=options.metrics_port,
        metrics_host=options.metrics_host,
        runner=options.runner,
        beam_flags=tuple(beam_flags),
        manifest=manifest,
    )


def _parser(feed: Feed) -> OneLineParser:
    parser = OneLineParser(
        prog=f"python -m pipelines.{feed.name}",
        usage="%(prog)s [--runner RUNNER] [--input FILE ... | --topic TOPIC ...] [options]",
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
        + (f"(default: simulated ones, made on first use in {SAMPLE}/)" if feed.name in SAMPLES else ""),
    )
    files.add_argument(
        "--output",
        default=f"out/{feed.name}",
        metavar="FOLDER",
        help="where results go, local or not (default: %(default)s)",
    )
    files.add_argument(
        "--timezone",
        type=_timezone,
        default="UTC",
        metavar="ZONE",
        help="of timestamps without an offset, such as America/Los_Angeles (default: UTC)",
    )
    for field in feed.fields:
        if field.option:
            files.add_argument(
                f"--{field.option}",
                type=_time if field.type == TIMESTAMP else str,
                metavar="TIME" if field.type == TIMESTAMP else "NAME",
                help=f"{field.name} of files that have no such column",
            )
    _add_kafka(parser)
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
    if any(field.zero_can_mean_missing for field in feed.fields):
        windows.add_argument(
            "--zero_speed",
            choices=("keep", "missing"),
            default="keep",
            help="whether a speed of 0 counts in the averages, or is left out and counted in missing_count "
            "(default: %(default)s)",
        )
    rules = parser.add_argument_group("rules", "A row that breaks any of them becomes a dead letter.")
    for field in feed.fields:
        if field.known_option:
            without = (
                "others are refused" if field.known is None else f"instead of the {len(field.known)} declared"
            )
            rules.add_argument(
                f"--{field.known_option}",
                metavar="FILE",
                help=f"known {field.known_option}, a CSV file with a column {field.name}; {without}",
            )
    rules.add_argument(
        "--max_future_seconds",
        type=_not_negative,
        metavar="N",
        help="refuse later timestamps (default: no limit for files, 3600 for topics)",
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
        help="other limits, either side may be empty (default: " + " ".join(map(_range, ranged)) + ")",
    )
    _add_clean(parser, feed)
    _add_metrics(parser)
    runner = parser.add_argument_group("runner")
    runner.add_argument(
        "--runner",
        default="DirectRunner",
        help="DirectRunner (in this process), FlinkRunner, PrismRunner, or any other that Beam knows "
        "(default: %(default)s)",
    )
    return parser


def _add_clean(parser: argparse.ArgumentParser, feed: Feed) -> None:
    """The options of clean readings; a feed without measured fields has none."""
    parser.set_defaults(train=None, clean_seconds=0, clean_topic=None, fail_unhealthy=False)
    if not feed.any_of:
        return
    group = parser.add_argument_group("clean readings")
    group.add_argument(
        "--train",
        metavar="FILE",
        help="a file of this feed whose medians fill what nothing near can (default: those of the input, "
        "for a stream those that the feed declares)",
    )
    group.add_argument(
        "--fill_seconds",
        type=_not_negative,
        default=feed.fill_seconds,
        metavar="N",
        help="how far from a gap a value may be that fills it, besides 3 readings; a stream holds readings "
        "so long (default: %(default)s)",
    )
    group.add_argument(
        "--clean_seconds",
        type=_positive,
        default=feed.step_seconds,
        metavar="N",
        help="event time whose clean readings a stream gives together; more is quicker where history is read "
        "again (default: %(default)s)",
    )
    group.add_argument(
        "--clean_topic", metavar="TOPIC", help=f"where a stream sends them too, such as {feed.name}.clean"
    )
    if feed.health:
        group.add_argument(
            "--fail_unhealthy",
            action="store_true",
            help=f"end with status 3 when over {feed.health.most_refused:.0%}% of the records are refused or "
            f"the mean quality is under {feed.health.least_quality:.0%}%; there is an alert in any case",
        )


def _trained(feed: Feed, path: str, timezone: str) -> Feed:
    """The feed with the medians of that file."""
    (path,) = _matching([path])
    for name, median in file_medians(path, feed, timezone).items():
        feed = feed.with_field(name, median=median)
    return feed


def _range(field: Field) -> str:
    low, high = ("" if limit is None else f"{limit:g}" for limit in (field.minimum, field.maximum))
    return f"{field.name}={low}:{high}"


def _max_future(options: argparse.Namespace) -> int | None:
    """Off for files, which are history; on for topics, where a wrong clock would carry the watermark away."""
    if options.max_future_seconds is None and options.topic:
        return LIVE_FUTURE_SECONDS
    return options.max_future_seconds


def _add_kafka(parser: argparse.ArgumentParser) -> None:
    kafka = parser.add_argument_group(
        "Kafka",
        "With --topic, DirectRunner reads the topics up to their present ends and stops;\nFlinkRunner goes "
        "on without end, and writes files that grow.",
    )
    kafka.add_argument(
        "--topic", nargs="+", default=[], metavar="TOPIC", help="topics to read, instead of files"
    )
    kafka.add_argument(
        "--bootstrap_servers", default="127.0.0.1:9092", metavar="HOST:PORT", help="(default: %(default)s)"
    )
    kafka.add_argument(
        "--kafka_config",
        type=_setting,
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="further settings of librdkafka, such as security.protocol=SASL_SSL",
    )
    kafka.add_argument(
        "--format", choices=("json", "avro"), default="json", help="of the messages (default: %(default)s)"
    )
    kafka.add_argument(
        "--schema_registry",
        default=os.environ.get("SCHEMA_REGISTRY_URL", "http://127.0.0.1:8082"),
        metavar="URL",
        help="of Avro's schemas (default: SCHEMA_REGISTRY_URL, or http://127.0.0.1:8082)",
    )
    kafka.add_argument(
        "--start",
        type=_start,
        default="earliest",
        metavar="PLACE",
        help="earliest, latest, a time such as 2012-03-01T00:00:00Z, or group (its committed offsets: "
        "a stream so started lacks the readings of windows open then) (default: %(default)s)",
    )
    stream = parser.add_argument_group("streams", "Of a run without end.")
    for name, default, text in (
        (
            "out_of_orderness_seconds",
            60,
            "how far behind the newest reading of its partition another may come",
        ),
        ("idle_seconds", 10, "after so long without a message a partition no longer holds windows back"),
        ("file_seconds", 3600, "event time that one file holds"),
        ("shards", 4, "files side by side, and the most that can work at the same time"),
    ):
        stream.add_argument(
            f"--{name}", type=_positive, default=default, metavar="N", help=f"{text} (default: {default})"
        )
    stream.add_argument(
        "--early_seconds",
        type=_not_negative,
        default=30,
        metavar="N",
        help="how often an open window gives its results so far, 0 for never (default: 30)",
    )
    stream.add_argument("--aggregates_topic", metavar="TOPIC", help="where aggregates go, as upserts")
    stream.add_argument(
        "--aggregates_format",
        choices=("json", "avro"),
        default="json",
        help="of the messages there, and of clean readings (default: %(default)s)",
    )
    stream.add_argument(
        "--dead_letter_topic", metavar="TOPIC", help="where dead letters go beside their files"
    )


def _add_metrics(parser: argparse.ArgumentParser) -> None:
    metrics = parser.add_argument_group("metrics", "For Prometheus to scrape while the job runs.")
    metrics.add_argument(
        "--metrics_port",
        type=_port,
        metavar="PORT",
        help=f"serve them there, 0 for not at all (default: {METRICS_PORT} for a run without end, else none)",
    )
    metrics.add_argument(
        "--metrics_host",
        default="127.0.0.1",
        metavar="HOST",
        help="the address to serve them at, 0.0.0.0 for all (default: %(default)s)",
    )


def _with_sample(options: argparse.Namespace, feed: str) -> tuple[argparse.Namespace, str]:
    """The options completed for a run on the feed's simulated files, and the path of their manifest.

    What only an option makes a fault, such as an unknown sensor, is planted in them too: they come with
    those options, which a person may set otherwise.
    """
    sample = SAMPLES[feed]
    manifest = Path(SAMPLE, f"{feed}.manifest.json")
    if not manifest.exists():
        log.info("no --input: simulating readings of %s into %s/", sample.of, SAMPLE)
        sample.write(SAMPLE)
    own = {
        name: str(Path(SAMPLE, value)) if isinstance(value, str) else value
        for name, value in sample.run.items()
        if getattr(options, name) is None
    }
    log.info("no --input: running on the simulated sample%s", "".join(f", --{o}={v}" for o, v in own.items()))
    completed = {**own, "input": [str(Path(SAMPLE, f"{feed}.csv"))]}
    return argparse.Namespace(**vars(options) | completed), str(manifest)


def _matching(patterns: Sequence[str]) -> tuple[str, ...]:
    """The files that the globs match, each once, sorted."""
    paths = set()
    for pattern in map(_absolute, patterns):
        try:
            if "://" not in pattern and Path(pattern).is_file():  # whatever brackets its name has
                paths.add(pattern)
                continue
            if "://" not in pattern and Path(pattern).is_dir():
                raise UserError(f"--input {pattern}: is a folder; give {pattern}/*.csv")
            (match,) = FileSystems.match([pattern])
        except (BeamIOError, ValueError) as error:
            raise UserError(f"--input {pattern}: cannot be listed: {error}") from error
        if not match.metadata_list:
            raise UserError(f"--input {pattern}: no such file")
        paths |= {file.path for file in match.metadata_list}
    return tuple(sorted(paths))


def _absolute(path: str) -> str:
    return path if "://" in path else str(Path(path).absolute())


def _known(path: str, field: Field) -> frozenset[str]:
    option, column = f"--{field.known_option} {path}", field.name
    try:
        with FileSystems.open(_absolute(path)) as file:
            table = pyarrow.csv.read_csv(
                pa.PythonFile(file, "r"),
                convert_options=pyarrow.csv.ConvertOptions(
                    include_columns=[column], column_types={column: pa.string()}
                ),
            )
    except (OSError, BeamIOError) as error:
        raise UserError(f"{option}: cannot be read: {error}") from error
    except (pa.ArrowInvalid, KeyError) as error:
        raise UserError(f"{option}: is no CSV file with a column {column}: {error}") from error
    return frozenset(table[column].to_pylist())


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
        minimum, maximum = (float(side) if side else None for side in (low, high))
        if any(side is not None and math.isnan(side) for side in (minimum, maximum)):
            raise ValueError
        return name, minimum, maximum
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form speed_mph=0:120") from None


def _timezone(name: str) -> str:
    if name not in zoneinfo.available_timezones():
        raise argparse.ArgumentTypeError(f"{name!r} is no time zone; one is America/Los_Angeles")
    return name


def _setting(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise argparse.ArgumentTypeError(f"{key!r} is not of the form key=value")
    return key, value


def _start(text: str) -> str:
    """A named place as it is, a time as milliseconds since the epoch."""
    if text in ("earliest", "latest", "group"):
        return text
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither earliest, latest, group nor a time") from None
    return str(round((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000))


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no time, such as 2024-05-01T12:00:00Z") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port")
    return int(text)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _not_negative(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)
