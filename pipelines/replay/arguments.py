"""The command line of a replay."""

from __future__ import annotations

import argparse
import glob
import os
import re
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import urlsplit

from pipelines.options.timezone import add_timezone
from pipelines.options.values import moment, port, positive, whole_number
from pipelines.parser import OneLineParser
from pipelines.replay import properties
from pipelines.replay.inject import KINDS
from pipelines.replay.topics import TOPICS, default_dead_letter_topic
from schemas.detections import NAME
from schemas.feed import Feed
from schemas.feeds import FEEDS
from transforms.errors import UserError

DESCRIPTION = """\
Reads CSV files, validates every row as the jobs do, and sends it to a Kafka topic, as fast as the broker
takes it or at the pace of a live source. What is refused, by a rule or by the broker, becomes a dead letter.
The accounts at the end say where every row went: read = acked + dead letters.
"""
EPILOGUE = """\
Kafka's configuration: --kafka_config over --kafka_config_file over KAFKA_* variables, such as
KAFKA_BOOTSTRAP_SERVERS, KAFKA_SASL_USERNAME, KAFKA_SASL_PASSWORD, KAFKA_COMPRESSION_TYPE, KAFKA_BATCH_SIZE
(KAFKA_X_Y is librdkafka's x.y), and KAFKA_TOPIC.
Exit status: 0 done; 1 the broker did not take every message, or the accounts do not balance; 2 wrong usage,
unusable input or no way to the topic (one line says what); 130 after Ctrl+C, 143 after SIGTERM, once what was
handed over is settled. A second Ctrl+C gives that up too: the rest become dead letters.
"""
DEFAULT_URL = "http://127.0.0.1:8082"
DEFAULT_VEHICLE = "vehicle-1"
FOLDER = "out/replay"
PACED_BATCH, UNBOUNDED_BATCH = 20, 4_096
WORKERS = 2


@dataclass(frozen=True)
class ReplayArguments:
    """What a replay was asked to do."""

    feed: Feed
    inputs: tuple[str, ...]
    topic: str
    properties: Mapping[str, object] = field(repr=False)  # secrets are among them
    format: str
    schema_registry: str = field(repr=False)  # may hold a password
    timezone: str
    speedup: float
    rate: float | None
    max_messages: int | None
    batch_size: int
    workers: int
    loop: bool
    batch_mode: bool
    shift_to_now: bool
    deterministic: int | None
    dry_run: bool
    create_topics: bool
    partitions: int | None
    replication_factor: int
    dead_letters: str
    dead_letter_topic: str | None
    inject: Mapping[str, float]
    seed: int
    late_seconds: float
    manifest: str
    metrics_host: str
    metrics_port: int | None


def parse_arguments(argv: Sequence[str] | None, environment: Mapping[str, str]) -> ReplayArguments:
    """The arguments of a replay; the process's own when `argv` is None.

    UserError for a file that is missing, a secret on the command line, or a property that librdkafka refuses.
    SystemExit with status 2 for a command line that does not parse, as argparse does.
    """
    given = _parser().parse_args(argv)
    feed = _feed(given)
    topic = given.topic or environment.get("KAFKA_TOPIC") or next(iter(TOPICS[feed.name]))
    if given.loop and given.batch_mode:
        raise UserError("--loop never ends: it cannot be read into memory by --batch_mode")
    paced = given.rate is not None or given.speedup > 0
    dead_letter_topic = given.dead_letter_topic
    started = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    inject = dict(given.inject)
    if sum(inject.values()) > 1:
        raise UserError(f"--inject: the shares add up to {sum(inject.values()):g}, more than 1")
    return ReplayArguments(
        feed=feed,
        inputs=_matching(given.input),
        topic=topic,
        properties={} if given.dry_run else _properties(given, environment),
        format=given.format,
        schema_registry=_registry(given.schema_registry, environment),
        timezone=given.timezone,
        speedup=given.speedup,
        rate=given.rate,
        max_messages=given.max_messages,
        batch_size=given.batch_size or (PACED_BATCH if paced else UNBOUNDED_BATCH),
        workers=given.workers,
        loop=given.loop,
        batch_mode=given.batch_mode,
        shift_to_now=given.shift_to_now,
        deterministic=given.deterministic,
        dry_run=given.dry_run,
        create_topics=given.create_topics,
        partitions=given.partitions,
        replication_factor=given.replication_factor,
        dead_letters=given.dead_letters or f"{FOLDER}/{topic}-{started}.dead_letters.parquet",
        dead_letter_topic=default_dead_letter_topic(topic) if dead_letter_topic == "" else dead_letter_topic,
        inject=inject,
        seed=given.seed,
        late_seconds=given.late_seconds,
        manifest=given.manifest or f"{FOLDER}/{topic}-{started}.injected.jsonl",
        metrics_host=given.metrics_host,
        metrics_port=given.metrics_port,
    )


def _feed(given: argparse.Namespace) -> Feed:
    """The feed, its values as they are in the files, completed with what those may not say of a drive."""
    feed = FEEDS[given.feed].as_raw
    drive = {"--vehicle": given.vehicle, "--session": given.session, "--session_start": given.session_start}
    if feed.name != "detections":
        if wrong := [option for option, value in drive.items() if value is not None]:
            raise UserError(f"{wrong[0]} is for detections, not for {feed.name}")
        return feed
    made = uuid.uuid4().hex if given.deterministic is None else f"{given.deterministic}"
    start = given.session_start or datetime.now(UTC)
    return (
        feed.with_field("vehicle_id", default=given.vehicle or DEFAULT_VEHICLE)
        .with_field("session_id", default=given.session or f"session-{made}")
        .with_field("recording_timestamp", default=start)
    )


def _registry(given: str | None, environment: Mapping[str, str]) -> str:
    if given and "@" in urlsplit(given).netloc:
        raise UserError(
            "--schema_registry: a command line is no place for a secret: give SCHEMA_REGISTRY_URL"
        )
    return given or environment.get("SCHEMA_REGISTRY_URL") or DEFAULT_URL


def _properties(given: argparse.Namespace, environment: Mapping[str, str]) -> dict[str, object]:
    named = {
        "bootstrap.servers": given.bootstrap_servers,
        "compression.type": given.compression,
        "linger.ms": given.linger_ms,
    }
    merged: dict[str, object] = {
        **properties.DEFAULTS,
        **properties.from_environment(environment),
        **(properties.from_file(given.kafka_config_file) if given.kafka_config_file else {}),
        **properties.from_command_line(given.kafka_config),
        **{name: value for name, value in named.items() if value is not None},
    }
    if "bootstrap.servers" not in merged:
        raise UserError("where is Kafka? Give --bootstrap_servers or KAFKA_BOOTSTRAP_SERVERS, or --dry_run")
    properties.check(merged)
    return merged


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="python -m pipelines.replay",
        usage="%(prog)s FEED --input FILE ... --bootstrap_servers HOST:PORT [--topic TOPIC] [options]",
        description=DESCRIPTION,
        epilog=EPILOGUE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("feed", choices=sorted(FEEDS), help="what the rows are")
    what = parser.add_argument_group("what is sent")
    what.add_argument(
        "--input",
        nargs="+",
        required=True,
        metavar="FILE",
        help="CSV files or globs, plain, .gz, .bz2 or .zst",
    )
    add_timezone(what)
    what.add_argument("--format", choices=("json", "avro"), default="json", help="(default: %(default)s)")
    what.add_argument(
        "--schema_registry", metavar="URL", help=f"for avro (default: SCHEMA_REGISTRY_URL, or {DEFAULT_URL})"
    )
    what.add_argument("--max_messages", type=positive, metavar="N", help="send no more than that")
    what.add_argument("--loop", action="store_true", help="begin again at the end, until stopped")
    what.add_argument(
        "--shift_to_now", action="store_true", help="move event times so that the first event happens now"
    )
    what.add_argument(
        "--deterministic",
        type=whole_number,
        metavar="SEED",
        help="identifiers of the file's name, the row and SEED alone (default: of its path and the row)",
    )
    what.add_argument(
        "--batch_mode", action="store_true", help="read all into memory before sending any of it"
    )
    drive = parser.add_argument_group("detections", "For files that do not say so themselves.")
    drive.add_argument("--vehicle", type=_name, metavar="ID", help=f"(default: {DEFAULT_VEHICLE})")
    drive.add_argument("--session", type=_name, metavar="ID", help="(default: a new one)")
    drive.add_argument(
        "--session_start",
        type=moment,
        metavar="TIME",
        help="when the recording began, such as 2026-03-01T08:00:00Z (default: now)",
    )
    pace = parser.add_argument_group("pace").add_mutually_exclusive_group()
    pace.add_argument(
        "--speedup",
        type=_not_negative,
        default=0.0,
        metavar="N",
        help="N times as fast as it happened: 1 is real time, 0 as fast as possible (default: 0)",
    )
    pace.add_argument("--rate", type=_above_zero, metavar="N", help="N messages per second")
    parser.add_argument(
        "--batch_size",
        type=positive,
        metavar="N",
        help=f"most messages handed over at once (default: {PACED_BATCH} if paced, else {UNBOUNDED_BATCH:,})",
    )
    parser.add_argument(
        "--workers",
        type=positive,
        default=WORKERS,
        metavar="N",
        help="threads that validate and encode rows ahead of their sending (default: %(default)s)",
    )
    kafka = parser.add_argument_group("Kafka")
    kafka.add_argument("--bootstrap_servers", metavar="HOST:PORT")
    kafka.add_argument("--topic", help="(default: traffic-raw, detections, air_quality.raw)")
    kafka.add_argument(
        "--compression", choices=("none", "gzip", "snappy", "lz4", "zstd"), help="(default: snappy)"
    )
    kafka.add_argument("--linger_ms", type=_not_negative, metavar="MS", help="(default: 10)")
    kafka.add_argument(
        "--kafka_config", nargs="+", action="extend", default=[], metavar="NAME=VALUE",
        help="any property of librdkafka but secrets, which all users of the machine would see",
    )  # fmt: skip
    kafka.add_argument("--kafka_config_file", metavar="FILE", help="the same, a NAME=VALUE in each line")
    kafka.add_argument(
        "--create_topics", action="store_true", help="create the feed's topics that do not exist"
    )
    kafka.add_argument(
        "--partitions", type=positive, metavar="N", help="of created topics (default: traffic 5, others 3)"
    )
    kafka.add_argument(
        "--replication_factor",
        type=int,
        default=-1,
        metavar="N",
        help="of created topics (default: the broker's)",
    )
    letters = parser.add_argument_group("dead letters")
    letters.add_argument(
        "--dead_letters",
        metavar="FILE",
        help=f"a Parquet file (default: one in {FOLDER}/, named by topic and time)",
    )
    letters.add_argument(
        "--dead_letter_topic",
        nargs="?",
        const="",
        metavar="TOPIC",
        help="send refused rows there (default: TOPIC.dlq, or air_quality.dlq); "
        "what Kafka does not take goes to the file",
    )
    faults = parser.add_argument_group("faults on purpose")
    faults.add_argument(
        "--inject", type=_shares, default={}, metavar="KIND=SHARE,...", help=f"kinds are {', '.join(KINDS)}"
    )
    faults.add_argument(
        "--seed", type=whole_number, default=1, help="another seed, other faults (default: 1)"
    )
    faults.add_argument(
        "--late_seconds", type=_above_zero, default=900.0, metavar="N",
        help="how late the late ones are, in event time (default: %(default)g)",
    )  # fmt: skip
    faults.add_argument(
        "--manifest",
        metavar="FILE",
        help=f"what was injected, as JSON lines (default: one in {FOLDER}/)",
    )
    watching = parser.add_argument_group("watching")
    watching.add_argument("--dry_run", action="store_true", help="read and validate only; needs no Kafka")
    watching.add_argument(
        "--metrics_port", type=port, metavar="PORT", help="serve metrics for Prometheus there"
    )
    watching.add_argument(
        "--metrics_host", default="127.0.0.1", metavar="HOST", help="(default: %(default)s)"
    )
    return parser


def _matching(patterns: Sequence[str]) -> tuple[str, ...]:
    """The files that the globs match, each once, in the order of the arguments and then of the names."""
    found: dict[str, None] = {}
    for pattern in patterns:
        paths = [os.path.abspath(path) for path in sorted(glob.glob(pattern)) or [pattern]]
        if missing := [path for path in paths if not os.path.isfile(path)]:
            raise UserError(f"--input {missing[0]}: no such file")
        found |= dict.fromkeys(paths)
    return tuple(found)


def _shares(text: str) -> dict[str, float]:
    shares = {}
    for part in text.split(","):
        kind, _, share = part.partition("=")
        if kind not in KINDS:
            raise argparse.ArgumentTypeError(f"{kind!r} is none of {', '.join(KINDS)}")
        shares[kind] = _number(share, lambda number: 0 <= number <= 1, f"a share from 0 to 1 for {kind}")
    return shares


def _number(text: str, fits: Callable[[float], bool], wanted: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not fits(number) or number == float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
    return number


def _not_negative(text: str) -> float:
    return _number(text, lambda number: number >= 0, "a number of 0 or more")


def _above_zero(text: str) -> float:
    return _number(text, lambda number: number > 0, "a number above 0")


def _name(text: str) -> str:
    if not re.fullmatch(NAME, text):
        raise argparse.ArgumentTypeError(f"{text!r} is not of 1 to 64 of the characters A-Z a-z 0-9 _ . : -")
    return text
