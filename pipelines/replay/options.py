"""The options of a replay."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable

from pipelines.options.timezone import add_timezone
from pipelines.options.values import moment, port, positive, whole_number
from pipelines.parser import OneLineParser
from pipelines.replay.inject import KINDS
from schemas.detections import NAME
from schemas.feeds import FEEDS

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


def parser() -> OneLineParser:
    """The parser of `python -m pipelines.replay`."""
    program = OneLineParser(
        prog="python -m pipelines.replay",
        usage="%(prog)s FEED --input FILE ... --bootstrap_servers HOST:PORT [--topic TOPIC] [options]",
        description=DESCRIPTION,
        epilog=EPILOGUE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    program.add_argument("feed", choices=sorted(FEEDS), help="what the rows are")
    for add in (_add_what, _add_drive, _add_pace, _add_kafka, _add_dead_letters, _add_faults, _add_watching):
        add(program)
    return program


def _add_what(parser: OneLineParser) -> None:
    group = parser.add_argument_group("what is sent")
    group.add_argument(
        "--input",
        nargs="+",
        required=True,
        metavar="FILE",
        help="CSV files or globs, plain, .gz, .bz2 or .zst",
    )
    add_timezone(group)
    group.add_argument("--format", choices=("json", "avro"), default="json", help="(default: %(default)s)")
    group.add_argument(
        "--schema_registry", metavar="URL", help=f"for avro (default: SCHEMA_REGISTRY_URL, or {DEFAULT_URL})"
    )
    group.add_argument("--max_messages", type=positive, metavar="N", help="send no more than that")
    group.add_argument("--loop", action="store_true", help="begin again at the end, until stopped")
    group.add_argument(
        "--shift_to_now", action="store_true", help="move event times so that the first event happens now"
    )
    group.add_argument(
        "--deterministic",
        type=whole_number,
        metavar="SEED",
        help="identifiers of the file's name, the row and SEED alone (default: of its path and the row)",
    )
    group.add_argument(
        "--batch_mode", action="store_true", help="read all into memory before sending any of it"
    )


def _add_drive(parser: OneLineParser) -> None:
    group = parser.add_argument_group("detections", "For files that do not say so themselves.")
    group.add_argument("--vehicle", type=_name, metavar="ID", help=f"(default: {DEFAULT_VEHICLE})")
    group.add_argument("--session", type=_name, metavar="ID", help="(default: a new one)")
    group.add_argument(
        "--session_start",
        type=moment,
        metavar="TIME",
        help="when the recording began, such as 2026-03-01T08:00:00Z (default: now)",
    )


def _add_pace(parser: OneLineParser) -> None:
    group = parser.add_argument_group("pace").add_mutually_exclusive_group()
    group.add_argument(
        "--speedup",
        type=_not_negative,
        default=0.0,
        metavar="N",
        help="N times as fast as it happened: 1 is real time, 0 as fast as possible (default: 0)",
    )
    group.add_argument("--rate", type=_above_zero, metavar="N", help="N messages per second")
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


def _add_kafka(parser: OneLineParser) -> None:
    group = parser.add_argument_group("Kafka")
    group.add_argument("--bootstrap_servers", metavar="HOST:PORT")
    group.add_argument("--topic", help="(default: traffic-raw, detections, air_quality.raw)")
    group.add_argument(
        "--compression", choices=("none", "gzip", "snappy", "lz4", "zstd"), help="(default: lz4)"
    )
    group.add_argument("--linger_ms", type=_not_negative, metavar="MS", help="(default: 10)")
    group.add_argument(
        "--kafka_config", nargs="+", action="extend", default=[], metavar="NAME=VALUE",
        help="any property of librdkafka but secrets, which all users of the machine would see",
    )  # fmt: skip
    group.add_argument("--kafka_config_file", metavar="FILE", help="the same, a NAME=VALUE in each line")
    group.add_argument(
        "--create_topics", action="store_true", help="create the feed's topics that do not exist"
    )
    group.add_argument(
        "--partitions", type=positive, metavar="N", help="of created topics (default: traffic 5, others 3)"
    )
    group.add_argument(
        "--replication_factor",
        type=int,
        default=-1,
        metavar="N",
        help="of created topics (default: the broker's)",
    )


def _add_dead_letters(parser: OneLineParser) -> None:
    group = parser.add_argument_group("dead letters")
    group.add_argument(
        "--dead_letters",
        metavar="FILE",
        help=f"a Parquet file (default: one in {FOLDER}/, named by topic and time)",
    )
    group.add_argument(
        "--dead_letter_topic",
        nargs="?",
        const="",
        metavar="TOPIC",
        help="send refused rows there (default: TOPIC.dlq, or air_quality.dlq); "
        "what Kafka does not take goes to the file",
    )


def _add_faults(parser: OneLineParser) -> None:
    group = parser.add_argument_group("faults on purpose")
    group.add_argument(
        "--inject", type=_shares, default={}, metavar="KIND=SHARE,...", help=f"kinds are {', '.join(KINDS)}"
    )
    group.add_argument("--seed", type=whole_number, default=1, help="another seed, other faults (default: 1)")
    group.add_argument(
        "--late_seconds", type=_above_zero, default=900.0, metavar="N",
        help="how late the late ones are, in event time (default: %(default)g)",
    )  # fmt: skip
    group.add_argument(
        "--manifest",
        metavar="FILE",
        help=f"what was injected, as JSON lines (default: one in {FOLDER}/)",
    )


def _add_watching(parser: OneLineParser) -> None:
    group = parser.add_argument_group("watching")
    group.add_argument("--dry_run", action="store_true", help="read and validate only; needs no Kafka")
    group.add_argument("--metrics_port", type=port, metavar="PORT", help="serve metrics for Prometheus there")
    group.add_argument("--metrics_host", default="127.0.0.1", metavar="HOST", help="(default: %(default)s)")


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
