"""The command line of a feed's job."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines.options.clean import add_clean, with_fill
from pipelines.options.files import absolute, add_files, matching_files, with_defaults
from pipelines.options.kafka import add_kafka, client_settings
from pipelines.options.metrics import add_metrics
from pipelines.options.rules import add_rules, with_rules
from pipelines.options.sample import with_sample
from pipelines.options.streams import add_streams
from pipelines.options.windows import add_windows
from pipelines.parser import OneLineParser
from pipelines.sample.samples import SAMPLES
from runners.options import UnusableRunner, pipeline_options
from schemas.feed import Feed
from transforms.errors import UserError
from transforms.parquet import digest

SECRET = ("beam_flags", "kafka", "schema_registry")

DESCRIPTION = """\
{description}

Reads CSV files or Kafka topics, validates every row, groups the readings in fixed event-time windows, and
writes Parquet: accepted readings, one row of aggregates per {key} and window, and dead letters. The
accounts at the end say where every row went: read = accepted + duplicates + dead letters.
"""
EPILOGUE = """\
Any further option goes to Beam and its runner as it is, such as --direct_num_workers 1 or --flink_master.
Exit status: 0 done, 1 the accounts do not balance or a stream was cancelled or failed, 2 wrong usage,
unusable input or a refused resume (one line says what), {unhealthy}130 after Ctrl+C, 143 after SIGTERM.
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

    UserError when an input is missing, a file of known names cannot be read, or limits cannot be.
    SystemExit with status 2 for a command line that does not parse, as argparse does.
    """
    parser = _parser(feed)
    options, beam_flags = parser.parse_known_args(argv)
    FileSystems.set_options(PipelineOptions(beam_flags))  # inputs and output are looked at before Beam runs
    if options.runner == "DirectRunner":
        _refuse_unknown(parser, beam_flags)
    manifest: str | None = None
    if options.input and options.topic:
        raise UserError("give --input or --topic, not both")
    if options.input is None and not options.topic:
        if feed.name not in SAMPLES:
            raise UserError(f"give files with --input or topics with --topic: {feed.name} has no sample")
        options, manifest = with_sample(options, feed)
    for complete in (with_rules, with_defaults, with_fill):
        feed = complete(feed, options)
    return Arguments(
        feed=feed,
        inputs=matching_files(options.input or ()),
        topics=tuple(dict.fromkeys(options.topic)),
        kafka=client_settings(options),
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
        output=absolute(options.output),
        window_seconds=options.window_seconds,
        allowed_lateness_seconds=options.allowed_lateness_seconds,
        timezone=options.timezone,
        zero_speed=options.zero_speed,
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


def _refuse_unknown(parser: OneLineParser, beam_flags: Sequence[str]) -> None:
    """Before any work: what neither this parser nor Beam knows. UnusableRunner, or SystemExit for a slip."""
    try:
        pipeline_options("DirectRunner", beam_flags)
    except UnusableRunner:
        names = (flag.partition("=")[0] for flag in beam_flags if flag.startswith("--"))
        if mistyped := next(filter(parser.meant, names), None):
            parser.error(f"unrecognized arguments: {mistyped}")
        raise


def _parser(feed: Feed) -> OneLineParser:
    parser = OneLineParser(
        prog=f"python -m pipelines.{feed.name}",
        usage="%(prog)s [--runner RUNNER] [--input FILE ... | --topic TOPIC ...] [options]",
        description=DESCRIPTION.format(description=feed.description, key=feed.key),
        epilog=EPILOGUE.format(unhealthy="3 with --fail_unhealthy,\n" if feed.health else ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_files(parser, feed)
    add_kafka(parser)
    add_streams(parser)
    add_windows(parser, feed)
    add_rules(parser, feed)
    add_clean(parser, feed)
    add_metrics(parser)
    runner = parser.add_argument_group("runner")
    runner.add_argument(
        "--runner",
        default="DirectRunner",
        help="DirectRunner (in this process), FlinkRunner, PrismRunner, or any other that Beam knows "
        "(default: %(default)s)",
    )
    return parser
