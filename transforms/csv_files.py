"""CSV files as batches of records: original bytes, with the file and the row that they came from."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa

from schemas.feed import RFC_4180, CsvDialect, Feed
from schemas.record import RECORD
from transforms.errors import UserError, file_errors

CODECS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
BATCH_BYTES = 4 << 20
BLOCK_BYTES = 32 << 20
MAXIMUM_RECORD_BYTES = 64 << 20
MAXIMUM_RECORD_LINES = 50
MAXIMUM_HEADER_BYTES = 100_000

NEWLINE, QUOTE, RETURN = b'\n"\r'


class Block(NamedTuple):
    """A run of whole records of one file. `end` is None for "to the end of the file"."""

    path: str
    columns: tuple[str, ...]
    start: int
    end: int | None
    first_row: int
    dialect: CsvDialect = RFC_4180


class Records(NamedTuple):
    """Where the records of a text lie: `starts` and `ends` are byte offsets, `end` the last of them.

    Blank lines are no records; `blank_lines` counts them.
    """

    starts: np.ndarray
    ends: np.ndarray
    end: int
    blank_lines: int


def find_records(text: bytes, width: int, at_end: bool = True, dialect: CsvDialect = RFC_4180) -> Records:
    r"""The records of a CSV text of `width` fields a row, each with its line ending.

    A line is a record, unless it leaves a quote open and one of the next lines closes it into a record of the
    right width (RFC 4180 allows line breaks in quoted fields). So an unclosed quote spoils its own line only.
    Unless `at_end`, a last line without its line ending, and lines that may go on past it, are left out.

    >>> find_records(b'a,1\n"b\nc",2\n"d,3\n\ne,4', width=2).starts.tolist()
    [0, 4, 12, 18]
    """
    array = np.frombuffer(text, np.uint8)
    ends = np.flatnonzero(array == NEWLINE) + 1
    if at_end and len(text) and (not len(ends) or ends[-1] != len(text)):
        ends = np.append(ends, len(text))
    starts = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
    end = int(ends[-1]) if len(ends) else 0
    if QUOTE in text:
        starts, ends, end = _join_quoted_lines(text, array, starts, ends, width, at_end, dialect)
    blank = _is_blank(array, starts, ends)
    if dialect.skips_empty_rows:
        blank |= _is_empty(text, array, starts, ends, dialect.delimiter)
    if blank.any():
        starts, ends = starts[~blank], ends[~blank]
    return Records(starts, ends, end, int(blank.sum()))


def _is_blank(array: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    length, first = ends - starts, array[starts]
    blank = (length == 1) & ((first == NEWLINE) | (first == RETURN))
    pairs = np.flatnonzero((length == 2) & (first == RETURN))
    blank[pairs] = array[starts[pairs] + 1] == NEWLINE
    return blank


def _is_empty(
    text: bytes, array: np.ndarray, starts: np.ndarray, ends: np.ndarray, delimiter: str
) -> np.ndarray:
    """Which lines are of delimiters alone."""
    empty = np.zeros(len(starts), bool)
    for row in np.flatnonzero(array[starts] == ord(delimiter)):
        empty[row] = not text[starts[row] : ends[row]].strip(delimiter.encode() + b"\r\n")
    return empty


def _join_quoted_lines(
    text: bytes,
    array: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    width: int,
    at_end: bool,
    dialect: CsvDialect,
) -> tuple[np.ndarray, np.ndarray, int]:
    quotes = np.searchsorted(np.flatnonzero(array == QUOTE), ends)
    odd = np.flatnonzero(np.diff(quotes, prepend=0) % 2)
    joined = np.ones(len(ends), bool)  # whether a record ends with this line
    lines = len(ends)
    place = 0
    while place < len(odd):
        first = odd[place]
        following = odd[place + 1] if place + 1 < len(odd) else None
        if following is None or following - first >= MAXIMUM_RECORD_LINES:
            if following is None and not at_end and lines - first < MAXIMUM_RECORD_LINES:
                lines = first  # the closing quote may be in what follows this text
                break
            place += 1
        elif _is_one_record(text[starts[first] : ends[following]], width, dialect):
            joined[first:following] = False
            place += 2
        else:
            place += 1
    joined = joined[:lines]
    ends = ends[:lines][joined]
    starts = starts[:lines][np.concatenate([[True], joined[:-1]])] if lines else starts[:0]
    return starts, ends, int(ends[-1]) if len(ends) else 0


def _is_one_record(text: bytes, width: int, dialect: CsvDialect) -> bool:
    try:
        lines = io.StringIO(text.decode("latin-1"), newline="")
        rows = list(csv.reader(lines, delimiter=dialect.delimiter, strict=True))
    except csv.Error:
        return False
    return len(rows) == 1 and len(rows[0]) == width


def to_record_batch(
    text: bytes, records: Records, source: str, first_row: int, columns: Sequence[str]
) -> pa.RecordBatch:
    """The records as a batch of `RECORD`, without a copy where they lie side by side.

    The header's columns travel in the schema's metadata under `columns`, as JSON.
    """
    rows = len(records.starts)
    buffer = pa.py_buffer(text)
    if rows and (records.starts[1:] == records.ends[:-1]).all():
        offsets = np.append(records.starts, records.ends[-1]).astype(np.int32)
        value = pa.BinaryArray.from_buffers(pa.binary(), rows, [None, pa.py_buffer(offsets), buffer])
    else:
        value = pa.array([text[a:b] for a, b in zip(records.starts, records.ends, strict=True)], pa.binary())
    where = pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), pa.array([source]))
    partition = pa.nulls(rows, pa.int32())
    position = pa.array(np.arange(first_row, first_row + rows))
    schema = RECORD.with_metadata({"columns": json.dumps(list(columns))})
    return pa.RecordBatch.from_arrays([value, where, partition, position], schema=schema)


def find_blocks(path: str, feed: Feed) -> Iterator[Block]:
    """The blocks of a file, which can be read side by side; none for an empty file.

    Finding them reads the file once, to know each block's first row. A compressed file is one block.
    UserError when the file cannot be read, or its header lacks a column that the feed requires.
    """
    with _open(path) as file:
        columns, start = _read_header(path, file, feed)
        if not columns:
            return
        if _codec(path):
            yield Block(path, columns, start, None, 1, feed.dialect)
            return
        first_row, row, end = 1, 1, start
        for text, records in _texts(path, file, len(columns), None, feed.dialect):
            row, end = row + len(records.starts), end + len(text)
            if end - start >= BLOCK_BYTES:
                yield Block(path, columns, start, end, first_row, feed.dialect)
                start, first_row = end, row
        if end > start:
            yield Block(path, columns, start, end, first_row, feed.dialect)


def open_block(path: str, feed: Feed) -> Block | None:
    """The whole file as one block, unread; None for an empty file. UserError as for `find_blocks`."""
    with _open(path) as file:
        columns, start = _read_header(path, file, feed)
    return Block(path, columns, start, None, 1, feed.dialect) if columns else None


def read_start(path: str, length: int) -> bytes:
    """The first bytes of a file, decompressed. UserError when it cannot be read."""
    with _open(path) as file:
        return _read(path, file, length)


def read_block(block: Block, batch_bytes: int | None = None) -> Iterator[tuple[pa.RecordBatch, int]]:
    """Batches of records of about so many bytes each, and how many blank lines each passed over.

    UserError when the file is truncated or damaged.
    """
    row = block.first_row
    with _open(block.path) as file:
        if _codec(block.path):
            _read(block.path, file, block.start)
        else:
            file.seek(block.start)
        length = None if block.end is None else block.end - block.start
        for text, records in _texts(block.path, file, len(block.columns), length, block.dialect, batch_bytes):
            yield to_record_batch(text, records, block.path, row, block.columns), records.blank_lines
            row += len(records.starts)


def _codec(path: str) -> str | None:
    return next((codec for suffix, codec in CODECS.items() if path.endswith(suffix)), None)


def _open(path: str) -> BinaryIO:
    try:
        file = _open_remote(path) if "://" in path else open(path, "rb")  # noqa: SIM115 - whoever opens it closes it
    except file_errors(path) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    codec = _codec(path)
    return pa.CompressedInputStream(pa.PythonFile(file, "r"), codec) if codec else file


def _open_remote(path: str) -> BinaryIO:
    from apache_beam.io.filesystem import CompressionTypes  # only here: who reads local files needs no Beam
    from apache_beam.io.filesystems import FileSystems

    return FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)


def _read(path: str, file: BinaryIO, size: int) -> bytes:
    try:
        return file.read(size)
    except (*file_errors(path), pa.ArrowException) as error:
        raise UserError(f"{path}: truncated or damaged: {error}") from error


def _texts(
    path: str,
    file: BinaryIO,
    width: int,
    length: int | None,
    dialect: CsvDialect,
    batch_bytes: int | None = None,
) -> Iterator[tuple[bytes, Records]]:
    """Texts of whole records of about `batch_bytes`, up to `length` bytes or the end of the file."""
    batch_bytes = batch_bytes or BATCH_BYTES
    rest = b""
    while True:
        wanted = batch_bytes if length is None else min(batch_bytes, length)
        chunk = _read(path, file, wanted) if wanted else b""
        length = None if length is None else length - len(chunk)
        text = rest + chunk
        records = find_records(text, width, not chunk, dialect)
        end = records.end
        if end:
            yield text[:end], records
        rest = text[end:]
        if len(rest) > MAXIMUM_RECORD_BYTES:
            raise UserError(f"{path}: has no line break in {MAXIMUM_RECORD_BYTES:,} bytes: is it a CSV file?")
        if not chunk:
            return


def _read_header(path: str, file: BinaryIO, feed: Feed) -> tuple[tuple[str, ...], int]:
    """The header's columns and the byte after it; the file is left standing there. No column: no header."""
    line = _read_line(path, file)
    start = len(line)
    line = line.removeprefix(codecs.BOM_UTF8)
    while line in (b"\n", b"\r\n"):
        line = _read_line(path, file)
        start += len(line)
    try:
        header = line.decode().strip("\r\n")
        if not header:
            return (), start
        columns = tuple(name.strip() for name in next(csv.reader([header], delimiter=feed.dialect.delimiter)))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: its header row is not UTF-8") from error
    except csv.Error as error:
        raise UserError(f"{path}: its header row is no row of CSV: {error}") from error
    if missing := [name for name in feed.required_columns if name not in columns]:
        raise UserError(f"{path}: has no column {', '.join(missing)}; its header row is {header[:200]!r}")
    if repeated := [name for name in sorted(feed.columns) if columns.count(name) > 1]:
        raise UserError(f"{path}: has more than one column {', '.join(repeated)}")
    return columns, start


def _read_line(path: str, file: BinaryIO) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        byte = _read(path, file, 1)
        if not byte:
            break
        line += byte
        if len(line) > MAXIMUM_HEADER_BYTES:
            raise UserError(f"{path}: its header row is over {MAXIMUM_HEADER_BYTES:,} bytes long")
    return line
