"""The rules of a feed that a run may set otherwise: limits of values and of event time, known names."""

from __future__ import annotations

import argparse
import math
from functools import partial

import pyarrow as pa
import pyarrow.csv
from apache_beam.io.filesystems import FileSystems

from pipelines.options.files import absolute
from pipelines.options.values import whole_number
from schemas.feed import Feed, Field
from transforms.decode_csv import BLANKS
from transforms.errors import UserError, file_errors

LIVE_FUTURE_SECONDS = 3600


def add_rules(parser: argparse.ArgumentParser, feed: Feed) -> None:
    group = parser.add_argument_group("rules", "A row that breaks any of them becomes a dead letter.")
    for field in feed.fields:
        if field.known_option:
            without = (
                "others are refused" if field.known is None else f"instead of the {len(field.known)} declared"
            )
            group.add_argument(
                f"--{field.known_option}",
                metavar="FILE",
                help=f"known {field.known_option}, a CSV file with a column {field.name}; {without}",
            )
    group.add_argument(
        "--max_future_seconds",
        type=whole_number,
        metavar="N",
        help="refuse later timestamps (default: no limit for files, 3600 for topics)",
    )
    group.add_argument(
        "--max_age_seconds",
        type=whole_number,
        metavar="N",
        help="refuse older timestamps (default: no limit)",
    )
    ranged = [field for field in feed.fields if field.minimum is not None or field.maximum is not None]
    group.add_argument(
        "--bounds",
        type=partial(_bounds, example=next(map(_range, ranged), "FIELD=MIN:MAX")),
        action="extend",
        nargs="+",
        default=[],
        metavar="FIELD=MIN:MAX",
        help="other limits, either side may be empty (default: " + " ".join(map(_range, ranged)) + ")",
    )


def with_rules(feed: Feed, options: argparse.Namespace) -> Feed:
    """The feed with the rules of this run. UserError for bounds that cannot be, or an unusable file."""
    for name, minimum, maximum in options.bounds:
        feed = _with_bounds(feed, name, minimum, maximum)
    feed = feed.with_field(
        feed.event_time,
        max_future_seconds=_max_future(options),
        max_age_seconds=options.max_age_seconds,
    )
    for field in feed.fields:
        if field.known_option and (path := getattr(options, field.known_option)) is not None:
            feed = feed.with_field(field.name, known=_known(path, field))
    return feed


def _bounds(text: str, example: str) -> tuple[str, float | None, float | None]:
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
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form {example}") from None


def _range(field: Field) -> str:
    low, high = ("" if limit is None else f"{limit:g}" for limit in (field.minimum, field.maximum))
    return f"{field.name}={low}:{high}"


def _with_bounds(feed: Feed, name: str, minimum: float | None, maximum: float | None) -> Feed:
    try:
        return feed.with_bounds({name: (minimum, maximum)})
    except KeyError:
        numbers = ", ".join(field.name for field in feed.fields if field.is_number)
        raise UserError(f"--bounds {name}: no such field; fields with bounds are {numbers}") from None
    except ValueError as error:
        raise UserError(f"--bounds {error}") from error


def _max_future(options: argparse.Namespace) -> int | None:
    """Off for files, which are history; on for topics, where a wrong clock would carry the watermark away."""
    if options.max_future_seconds is None and options.topic:
        return LIVE_FUTURE_SECONDS
    return options.max_future_seconds


def _known(path: str, field: Field) -> frozenset[str]:
    option, column = f"--{field.known_option} {path}", field.name
    path = absolute(path)
    try:
        with FileSystems.open(path) as file:
            table = pyarrow.csv.read_csv(
                pa.PythonFile(file, "r"),
                convert_options=pyarrow.csv.ConvertOptions(
                    include_columns=[column], column_types={column: pa.string()}
                ),
            )
    except (pa.ArrowInvalid, KeyError) as error:
        raise UserError(f"{option}: is no CSV file with a column {column}: {error}") from error
    except ValueError as error:  # no such file system
        raise UserError(f"{option}: {error}") from error
    except file_errors(path) as error:
        raise UserError(f"{option}: cannot be read: {error}") from error
    return frozenset(name.strip(BLANKS) for name in table[column].to_pylist())  # as those of readings are
