"""`python -m pipelines.split`: a feed's file in two by event time, what came before and what comes after.

A model is fitted on the earlier part and then meets the later one as a stream. Never at random: neighbouring
readings resemble each other, so that a random split tells a model what it is to predict.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from fractions import Fraction

import numpy as np
import pyarrow as pa

from pipelines.options.timezone import timezone
from pipelines.parser import OneLineParser
from pipelines.printing import fail
from schemas.feed import TIMESTAMP, Elapsed, Feed
from schemas.feeds import FEEDS
from transforms.casts import to_timestamps
from transforms.csv_files import Block, open_block, read_block, read_start
from transforms.decode_csv import decode_csv
from transforms.errors import UserError
from transforms.local_files import whole_file

UNDATED = np.iinfo(np.int64).max
EPILOGUE = """\
Rows keep their bytes and their order, and both files have the header. Rows of the same time stay together. A
row whose time cannot be read goes into the stream, whose pipeline reports it; blank lines are left out.
"""


@dataclass(frozen=True)
class Split:
    """What was done: rows in each part, those of the stream without a time, and where the parts meet."""

    train: int
    stream: int
    undated: int
    boundary: datetime

    def __str__(self) -> str:
        undated = f", {self.undated:,} of them undated" if self.undated else ""
        time = self.boundary.isoformat()
        return f"{self.train:,} rows before {time}, {self.stream:,} rows from then on{undated}"


def split(block: Block, feed: Feed, boundary: int, train: str, stream: str, timezone: str = "UTC") -> Split:
    """Writes the rows of a file whose event time is before the boundary to one file, the others to another.

    `boundary` is microseconds since the epoch. Both files are published whole, or neither is. UserError when
    one of the parts would be empty or cannot be written.
    """
    header = read_start(block.path, block.start)
    rows = np.zeros(2, np.int64)
    undated, published = 0, []
    try:
        with whole_file(train) as earlier:
            with whole_file(stream) as later:
                earlier.write(header)
                later.write(header)
                for records, times in _batches(block, feed, timezone):
                    early = times < boundary
                    earlier.write(_text(records, early))
                    later.write(_text(records, ~early))
                    rows += early.sum(), (~early).sum()
                    undated += int((times == UNDATED).sum())
                _refuse_empty(rows[0], rows[1] - undated, boundary)
            published.append(stream)
    except OSError as error:
        for path in published:
            os.unlink(path)
        raise UserError(f"{train} and {stream}: cannot be written: {error}") from error
    return Split(int(rows[0]), int(rows[1]), undated, pa.scalar(boundary, TIMESTAMP).as_py())


def boundary_at(block: Block, feed: Feed, fraction: Fraction, timezone: str = "UTC") -> int:
    """The time before which that fraction of the dated rows lies, or a little less where rows share a time.

    Microseconds since the epoch. UserError for a file without a dated row.
    """
    times = np.concatenate([np.empty(0, np.int64), *(times for _, times in _batches(block, feed, timezone))])
    times = times[times != UNDATED]
    if not len(times):
        raise UserError(f"{block.path}: no row has a readable {feed.event_time}")
    place = int(fraction * len(times))
    return int(np.partition(times, place)[place])


def dating(feed: Feed, start: datetime | None = None) -> Feed:
    """The feed cut down to what gives a row its event time; `start` is that of a recording."""
    field = feed.field(feed.event_time)
    fields = [field]
    if isinstance(field.made_of, Elapsed):
        start_field = feed.field(field.made_of.start)
        fields += [replace(start_field, default=start), feed.field(field.made_of.seconds)]
    return Feed(
        name=feed.name,
        description=feed.description,
        fields=tuple(fields),
        key=feed.event_time,
        event_time=feed.event_time,
        aggregates=(),
        dialect=feed.dialect,
    )


def _batches(block: Block, feed: Feed, timezone: str) -> Iterator[tuple[pa.RecordBatch, np.ndarray]]:
    """Records, and the event time of each in microseconds, or `UNDATED`."""
    for records, _ in read_block(block):
        times = np.full(records.num_rows, UNDATED)
        if records.num_rows:
            readings, _ = decode_csv(records, feed, timezone)
            rows = readings["position"].to_numpy() - records["position"][0].as_py()
            times[rows] = readings[feed.event_time].view(pa.int64()).fill_null(UNDATED).to_numpy()
        yield records, times


def _text(records: pa.RecordBatch, rows: np.ndarray) -> bytes:
    return b"".join(records["value"].filter(pa.array(rows)).to_pylist())


def _refuse_empty(earlier: int, later: int, boundary: int) -> None:
    if not (earlier and later):
        where = "before" if not earlier else "at or after"
        raise UserError(f"no row is {where} {pa.scalar(boundary, TIMESTAMP).as_py().isoformat()}")


def parser() -> OneLineParser:
    """The command line."""
    options = OneLineParser(
        prog="python -m pipelines.split",
        description="Splits a feed's CSV file by event time, never at random.",
        epilog=EPILOGUE,
        allow_abbrev=False,
    )
    options.add_argument("feed", choices=FEEDS, help="whose file it is")
    options.add_argument("--input", required=True, metavar="FILE", help="plain or compressed, local or not")
    where = options.add_mutually_exclusive_group(required=True)
    where.add_argument("--at", metavar="TIME", help="the first time of the stream, such as 2004-11-01")
    where.add_argument("--fraction", metavar="SHARE", help="the share of rows to train on, such as 0.7")
    options.add_argument("--train", required=True, metavar="FILE", help="where the earlier rows go")
    options.add_argument("--stream", required=True, metavar="FILE", help="where the later rows go")
    options.add_argument(
        "--timezone",
        type=timezone,
        default="UTC",
        metavar="ZONE",
        help="of times without an offset (default: %(default)s)",
    )
    options.add_argument(
        "--session_start",
        metavar="TIME",
        help="when the recording began, of a file that tells the time within it",
    )
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Splits as the command line says; returns the exit status."""
    try:
        print(_run(argv))
    except UserError as error:
        return fail(str(error))
    return 0


def _run(argv: Sequence[str] | None) -> Split:
    options = parser().parse_args(argv)
    paths = [os.path.realpath(path) for path in (options.input, options.train, options.stream)]
    if len(set(paths)) < len(paths):
        raise UserError("--input, --train and --stream are to be three different files")
    start = None
    if options.session_start:
        start = pa.scalar(_time(options.session_start, options.timezone), TIMESTAMP).as_py()
    elif options.fraction:
        start = datetime.fromtimestamp(0, UTC)  # when it began makes no difference to the order
    feed = dating(FEEDS[options.feed], start)
    block = open_block(options.input, feed)
    if block is None:
        raise UserError(f"{options.input}: is empty")
    if options.at:
        boundary = _time(options.at, options.timezone)
    else:
        boundary = boundary_at(block, feed, _fraction(options.fraction), options.timezone)
    return split(block, feed, boundary, options.train, options.stream, options.timezone)


def _time(text: str, timezone: str) -> int:
    times, _ = to_timestamps(pa.array([text]), timezone)
    if times.null_count:
        raise UserError(f"{text!r} is no time, such as 2004-11-01 or 2004-11-01T12:00:00+01:00")
    return times.view(pa.int64())[0].as_py()


def _fraction(text: str) -> Fraction:
    try:
        fraction = Fraction(text)
    except (ValueError, ZeroDivisionError):
        fraction = Fraction(0)
    if not 0 < fraction < 1:
        raise UserError(f"--fraction {text}: is no number between 0 and 1")
    return fraction


if __name__ == "__main__":
    sys.exit(main())
