"""Decode: from records of CSV text to typed readings.

Two ways lead to the same readings. The quick one parses a whole batch into typed columns. When any value of
the batch does not parse, the slower one parses text column by column and marks the values that fail: a
reading whose fields do not parse goes on to validation, so that ONE dead letter names all that is wrong.
What is no row of the right shape fails here.
"""

from __future__ import annotations

import codecs
import json
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from schemas.feed import TEXT, TIMESTAMP, WHERE_FROM, Feed, Field
from transforms import counters
from transforms.csv_files import NEWLINE, QUOTE, RETURN
from transforms.dead_letters import Failure, to_dead_letters

NAIVE = pa.timestamp("us")
LIKE_A_NUMBER = r"^[+-]?(\d|\.\d|(?i:nan|inf))"
LIKE_A_BOOLEAN = r"^(?i:true|false|[01])$"
LIKE_A_DATE = r"^\d{4}-\d{2}-\d{2}"
FINER_THAN_MICROSECONDS = r"(:\d{2}\.\d{6})\d+"
ZONED = r"[ T]\d{2}(:\d{2}(:\d{2}(\.\d*)?)?)?(Z|[+-]\d{2}(:?\d{2})?)$"
LEADING_ZONE = re.compile(rb"\d{4}-\d{2}-\d{2}[ T]\d{2}:[\d:.]+(Z|[+-]\d{2})")

QUOTED_OR_PLAIN = rb'(?:"(?:[^"]|"")*+"[^,\n]*+|[^",\n][^,\n]*+|)'
CLOSED = re.compile(rb"%b(?:,%b)*\n?" % (QUOTED_OR_PLAIN, QUOTED_OR_PLAIN))
REGULAR_NEIGHBOURS = np.frombuffer(b',"\r\n', np.uint8)

STRUCTURAL = (
    Failure(("not_utf8",), "its bytes are not UTF-8"),
    Failure(("unclosed_quote",), "a quote is opened and not closed"),
    Failure(("bare_carriage_return",), "a carriage return stands alone inside the row"),
    Failure(("wrong_field_count",), "its number of fields is not the header's"),
)
NOT_UTF8, UNCLOSED_QUOTE, BARE_RETURN, WRONG_FIELD_COUNT = range(len(STRUCTURAL))


def decode_csv(
    records: pa.RecordBatch, feed: Feed, timezone: str = "UTC", now: int = 0
) -> tuple[pa.RecordBatch, pa.RecordBatch]:
    """Records of CSV text -> (readings of `feed.decoded_schema`, dead letters).

    `timezone` is that of timestamps without an offset: an instant that occurs twice there is the earlier one,
    a local time that the clock change skips breaks the rule `nonexistent`. Whether and how a record decodes
    depends on that record alone, never on its neighbours.
    """
    columns = json.loads(records.schema.metadata[b"columns"])
    structural = _structural_failures(records["value"])
    sound = records
    if structural is not None:
        sound = records.filter(pa.array(structural < 0))
    table, wrong_width = _parse(sound["value"], columns, feed)
    if len(wrong_width):
        structural = np.full(records.num_rows, -1) if structural is None else structural
        structural[np.flatnonzero(structural < 0)[wrong_width]] = WRONG_FIELD_COUNT
        sound = records.filter(pa.array(structural < 0))
    readings = _to_readings(table, sound, feed, timezone)
    failed = np.flatnonzero(structural >= 0) if structural is not None else np.empty(0, np.int64)
    failures = to_dead_letters(
        records.take(pa.array(failed)),
        STRUCTURAL,
        structural[failed] if structural is not None else failed,
        feed,
        "decode",
        now,
    )
    return readings, failures


def _structural_failures(values: pa.BinaryArray) -> np.ndarray | None:
    """For each record its place in `STRUCTURAL`, or -1; None when no record fails before it is parsed."""
    text, offsets = _text(values)
    starts, ends = offsets[:-1], offsets[1:]
    failed = None

    def fail(rows: np.ndarray, failure: int) -> None:
        nonlocal failed
        if len(rows):
            failed = np.full(len(values), -1) if failed is None else failed
            failed[rows] = failure

    array = np.frombuffer(text, np.uint8)
    if RETURN in text:
        returns = np.flatnonzero(array == RETURN)
        following = np.minimum(returns + 1, len(array) - 1)
        bare = returns[(array[following] != NEWLINE) | (returns + 1 >= len(array))]
        rows = np.searchsorted(ends, bare, "right")
        at_end = bare == ends[rows] - 1  # the last line of a file may end without its newline
        fail(rows[~at_end], BARE_RETURN)
    if QUOTE in text:
        fail(_rows_with_an_open_quote(text, array, offsets), UNCLOSED_QUOTE)
    if not text.isascii():
        beyond_ascii = np.unique(np.searchsorted(ends, np.flatnonzero(array >= 0x80), "right"))
        if not _is_utf8(text):
            bad = [row for row in beyond_ascii if not _is_utf8(text[starts[row] : ends[row]])]
            fail(np.array(bad, np.int64), NOT_UTF8)
    return failed


def _rows_with_an_open_quote(text: bytes, array: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """The rows with an odd number of quotes, and those where a quote inside a field leaves another one open.

    Such a quote is an ordinary character: `s"1,"a` opens its second field. The few rows where an opening
    quote does not begin a field, or a closing one does not end it, are looked at one by one.
    """
    places = np.flatnonzero(array == QUOTE)
    before = np.searchsorted(places, offsets)
    quotes = np.diff(before)
    rows = np.repeat(np.arange(len(quotes)), quotes)
    opens = (np.arange(len(places)) - before[rows]) % 2 == 0
    neighbour = array[np.clip(np.where(opens, places - 1, places + 1), 0, len(array) - 1)]
    regular = np.isin(neighbour, REGULAR_NEIGHBOURS) | (places == offsets[:-1][rows])
    suspects = np.unique(rows[~regular])
    open_rows = [row for row in suspects if not CLOSED.fullmatch(text[offsets[row] : offsets[row + 1]])]
    return np.union1d(np.flatnonzero(quotes % 2), np.array(open_rows, np.int64))


def _text(values: pa.BinaryArray) -> tuple[bytes, np.ndarray]:
    """The bytes of all values side by side, and the offsets at which each begins and the last ends."""
    offsets = np.frombuffer(values.buffers()[1], np.int32)[values.offset : values.offset + len(values) + 1]
    if not len(values):
        return b"", np.zeros(1, np.int32)
    return values.buffers()[2][offsets[0] : offsets[-1]].to_pybytes(), offsets - offsets[0]


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _parse(values: pa.BinaryArray, columns: Sequence[str], feed: Feed) -> tuple[pa.Table, list[int]]:
    """The feed's columns of the text, typed if all of it parses, else text; and the rows of a wrong width."""
    text, _ = _text(values)
    fields = [field for field in feed.fields if field.name in columns]
    timestamp = TIMESTAMP if LEADING_ZONE.search(text, 0, 1000) else NAIVE
    types = {field.name: timestamp if field.type == TIMESTAMP else field.type for field in fields}
    try:
        return _read_csv(text, columns, types, len(values))
    except pa.ArrowInvalid:
        return _read_csv(text, columns, dict.fromkeys(types, pa.string()), len(values))


def _read_csv(
    text: bytes, columns: Sequence[str], types: dict[str, pa.DataType], rows: int
) -> tuple[pa.Table, list[int]]:
    wrong_width: list[int] = []

    def note(row: pyarrow.csv.InvalidRow) -> str:
        wrong_width.append(row.number - 1)
        return "skip"

    if not rows:
        return pa.table({name: pa.array([], type) for name, type in types.items()}), wrong_width
    if text.startswith(codecs.BOM_UTF8):
        text = codecs.BOM_UTF8 + text  # the parser drops one at the very beginning
    table = pyarrow.csv.read_csv(
        pa.BufferReader(text),
        read_options=pyarrow.csv.ReadOptions(
            use_threads=False, column_names=_unique(columns), block_size=len(text) + 1
        ),
        parse_options=pyarrow.csv.ParseOptions(ignore_empty_lines=False, invalid_row_handler=note),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=types,
            include_columns=list(types),
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=True,
        ),
    )
    if table.num_rows + len(wrong_width) != rows:
        raise AssertionError(f"{rows} records were parsed as {table.num_rows} + {len(wrong_width)}")
    return table.combine_chunks(), wrong_width


def _unique(columns: Sequence[str]) -> list[str]:
    """The header's names, an unknown one that occurs again renamed: its values are not read."""
    return [name if columns.index(name) == place else f"{name}#{place}" for place, name in enumerate(columns)]


def _to_readings(table: pa.Table, records: pa.RecordBatch, feed: Feed, timezone: str) -> pa.RecordBatch:
    broken = np.zeros(records.num_rows, np.uint64)
    columns = []
    for field in feed.fields:
        if field.name in table.column_names and records.num_rows:
            column, failed = _to_type(table[field.name].chunk(0), field, timezone)
            for kind, rows in failed.items():
                broken[rows] |= feed.bit(field.name, kind)
        else:
            column = pa.nulls(records.num_rows, field.type)
        columns.append(column)
    columns += [*(records[field.name] for field in WHERE_FROM), records["value"], pa.array(broken)]
    return pa.RecordBatch.from_arrays(columns, schema=feed.decoded_schema)


def _to_type(column: pa.Array, field: Field, timezone: str) -> tuple[pa.Array, dict[str, np.ndarray]]:
    """The column in the field's type, and by kind of rule the rows that break it, which are null."""
    if field.type == TIMESTAMP:
        return _to_timestamps(column, timezone)
    if column.type == field.type:
        return column, {}
    if field.type == TEXT:
        return column.dictionary_encode(), {}
    likely = LIKE_A_BOOLEAN if pa.types.is_boolean(field.type) else LIKE_A_NUMBER
    values = _cast_or_null(pc.utf8_trim(column, " \t"), field.type, likely)
    return values, {"unparsable": _rows(pc.and_(column.is_valid(), values.is_null()))}


def _to_timestamps(column: pa.Array, timezone: str) -> tuple[pa.Array, dict[str, np.ndarray]]:
    if column.type == TIMESTAMP:
        return column, {}
    if column.type == NAIVE:
        return _to_utc(column, timezone)
    text = pc.replace_substring_regex(column, FINER_THAN_MICROSECONDS, r"\1")
    zoned = pc.fill_null(pc.match_substring_regex(text, ZONED), False)
    nothing = pa.scalar(None, pa.string())
    naive = _cast_or_null(pc.if_else(zoned, nothing, text), NAIVE, LIKE_A_DATE)
    local, failed = _to_utc(naive, timezone)
    utc = pc.coalesce(local, _cast_or_null(pc.if_else(zoned, text, nothing), TIMESTAMP, LIKE_A_DATE))
    unparsable = pc.and_(column.is_valid(), pc.and_(utc.is_null(), naive.is_null()))
    return utc, {"unparsable": _rows(unparsable), **failed}


def _to_utc(naive: pa.Array, timezone: str) -> tuple[pa.Array, dict[str, np.ndarray]]:
    if timezone == "UTC":
        return naive.view(TIMESTAMP), {}
    before, after = (
        pc.assume_timezone(naive, timezone, ambiguous="earliest", nonexistent=side).view(TIMESTAMP)
        for side in ("earliest", "latest")
    )
    skipped = pc.not_equal(before, after)
    if not pc.any(skipped).as_py():
        return before, {}
    return pc.if_else(skipped, pa.scalar(None, TIMESTAMP), before), {"nonexistent": _rows(skipped)}


def _cast_or_null(text: pa.Array, type: pa.DataType, likely: str) -> pa.Array:
    """The text cast to the type, null where it does not parse; `likely` matches all that may parse."""
    try:
        return text.cast(type)
    except pa.ArrowInvalid:
        text = pc.if_else(pc.match_substring_regex(text, likely), text, pa.scalar(None, pa.string()))
        return pa.concat_arrays(_cast_in_halves(text, type))


def _cast_in_halves(text: pa.Array, type: pa.DataType) -> list[pa.Array]:
    try:
        return [text.cast(type)]
    except pa.ArrowInvalid:
        if len(text) == 1:
            return [pa.nulls(1, type)]
        half = len(text) // 2
        return _cast_in_halves(text[:half], type) + _cast_in_halves(text[half:], type)


def _rows(mask: pa.BooleanArray) -> np.ndarray:
    return np.flatnonzero(pc.fill_null(mask, False).to_numpy(zero_copy_only=False))


class _Decode(beam.DoFn):
    def __init__(self, feed: Feed, timezone: str) -> None:
        self.feed, self.timezone = feed, timezone

    def process(self, records: pa.RecordBatch) -> Iterable[pa.RecordBatch]:
        readings, failures = decode_csv(records, self.feed, self.timezone, time.time_ns() // 1000)
        counters.add(decoded=readings.num_rows, decode_failures=failures.num_rows)
        yield readings
        if failures.num_rows:
            yield beam.pvalue.TaggedOutput("failures", failures)


@dataclass
class DecodeCsv(beam.PTransform):
    """Records of CSV text -> `readings`, not yet validated, and `failures`, dead letters."""

    feed: Feed
    timezone: str = "UTC"

    def expand(self, records: beam.PCollection[pa.RecordBatch]) -> beam.pvalue.DoOutputsTuple:
        return records | beam.ParDo(_Decode(self.feed, self.timezone)).with_output_types(
            pa.RecordBatch, failures=pa.RecordBatch
        ).with_outputs("failures", main="readings")
