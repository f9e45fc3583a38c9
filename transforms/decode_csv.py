"""Decode CSV: from records of CSV text to typed readings.

Two ways lead to the same readings. The quick one parses a whole batch into typed columns. When any value of
the batch does not parse, the slower one parses text column by column and marks the values that fail: a
reading whose fields do not parse goes on to validation, so that ONE dead letter names all that is wrong.
What is no row of the right shape fails here.

Blanks around a number, a timestamp or a name of a declared form are no part of it, as people expect who write
`s1, 61.2`. Other text keeps them, as RFC 4180 says.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from schemas.feed import TEXT, TIMESTAMP, WHERE_FROM, CsvDialect, DateAndTime, Elapsed, Feed, Field
from transforms.casts import LIKE_A_DATE, NAIVE, cast_or_null, is_utf8, rows_where, to_timestamps, to_utc
from transforms.csv_files import NEWLINE, QUOTE, RETURN
from transforms.dead_letters import Failure, to_dead_letters

LIKE_A_NUMBER = r"^[+-]?(\d|\.\d|(?i:nan|inf))"
LIKE_A_BOOLEAN = r"^(?i:true|false|[01])$"
LEADING_ZONE = re.compile(rb"\d{4}-\d{2}-\d{2}[ T]\d{2}:[\d:.]+(Z|[+-]\d{2})")

DIGITS = dict.fromkeys(("%d", "%m", "%H", "%M", "%S"), r"(\d{2})") | {"%Y": r"(\d{4})"}
MAXIMUM_SECONDS = 1e9
BLANKS = " \t"

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
    structural = _structural_failures(records["value"], feed.dialect.delimiter)
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


def _structural_failures(values: pa.BinaryArray, delimiter: str) -> np.ndarray | None:
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
        fail(_rows_with_an_open_quote(text, array, offsets, delimiter), UNCLOSED_QUOTE)
    if not text.isascii():
        beyond_ascii = np.unique(np.searchsorted(ends, np.flatnonzero(array >= 0x80), "right"))
        if not is_utf8(text):
            bad = [row for row in beyond_ascii if not is_utf8(text[starts[row] : ends[row]])]
            fail(np.array(bad, np.int64), NOT_UTF8)
    return failed


def _rows_with_an_open_quote(
    text: bytes, array: np.ndarray, offsets: np.ndarray, delimiter: str
) -> np.ndarray:
    """The rows with an odd number of quotes, and those where a quote inside a field leaves another one open.

    Such a quote is an ordinary character: `s"1,"a` opens its second field. The few rows where an opening
    quote does not begin a field, or a closing one does not end it, are looked at one by one.
    """
    places = np.flatnonzero(array == QUOTE)
    before = np.searchsorted(places, offsets)
    quotes = np.diff(before)
    ends_field = np.zeros(256, bool)
    ends_field[[QUOTE, RETURN, NEWLINE, ord(delimiter)]] = True
    if not (quotes % 2).any() and _enclose_fields(places, array, ends_field):
        return np.empty(0, np.int64)
    rows = np.repeat(np.arange(len(quotes)), quotes)
    opens = (np.arange(len(places)) - before[rows]) % 2 == 0
    neighbour = array[np.clip(np.where(opens, places - 1, places + 1), 0, len(array) - 1)]
    regular = ends_field[neighbour] | (places == offsets[:-1][rows])
    suspects = np.unique(rows[~regular])
    closed = _closed(delimiter)
    open_rows = [row for row in suspects if not closed.fullmatch(text[offsets[row] : offsets[row + 1]])]
    return np.union1d(np.flatnonzero(quotes % 2), np.array(open_rows, np.int64))


def _enclose_fields(places: np.ndarray, array: np.ndarray, ends_field: np.ndarray) -> bool:
    """Whether of the quotes at those places each first one begins a field, and each second one ends it.

    As in most files; a row begins behind the newline of the one before.
    """
    opens, closes = places[0::2], places[1::2]
    opens, closes = opens[opens > 0], closes[closes < len(array) - 1]
    return bool(ends_field[array[opens - 1]].all() and ends_field[array[closes + 1]].all())


@lru_cache
def _closed(delimiter: str) -> re.Pattern[bytes]:
    """Matches a row in which each field that begins with a quote ends with one."""
    beyond = rb"[^%b\n]*+" % re.escape(delimiter.encode())
    field = rb'(?:"(?:[^"]|"")*+"%b|(?!")%b)' % (beyond, beyond)
    return re.compile(rb"%b(?:%b%b)*\n?" % (field, re.escape(delimiter.encode()), field))


def _text(values: pa.BinaryArray) -> tuple[bytes, np.ndarray]:
    """The bytes of all values side by side, and the offsets at which each begins and the last ends."""
    offsets = np.frombuffer(values.buffers()[1], np.int32)[values.offset : values.offset + len(values) + 1]
    if not len(values):
        return b"", np.zeros(1, np.int32)
    return values.buffers()[2][offsets[0] : offsets[-1]].to_pybytes(), offsets - offsets[0]


def _parse(values: pa.BinaryArray, columns: Sequence[str], feed: Feed) -> tuple[pa.Table, list[int]]:
    """The feed's columns of the text, typed if all of it parses, else text; and the rows of a wrong width."""
    text, _ = _text(values)
    timestamp = TIMESTAMP if LEADING_ZONE.search(text, 0, 1000) else NAIVE
    types = {
        column: _type_in_file(field, timestamp)
        for field in feed.fields
        for column in feed.columns_of(field)
        if column in columns
    }
    try:
        return _read_csv(text, columns, types, len(values), feed.dialect)
    except pa.ArrowInvalid:
        return _read_csv(text, columns, dict.fromkeys(types, pa.string()), len(values), feed.dialect)


def _type_in_file(field: Field, timestamp: pa.DataType) -> pa.DataType:
    if isinstance(field.made_of, DateAndTime):
        return TEXT
    return timestamp if field.type == TIMESTAMP else field.type


def _read_csv(
    text: bytes, columns: Sequence[str], types: dict[str, pa.DataType], rows: int, dialect: CsvDialect
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
        parse_options=pyarrow.csv.ParseOptions(
            delimiter=dialect.delimiter, ignore_empty_lines=False, invalid_row_handler=note
        ),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=types,
            include_columns=list(types),
            decimal_point=dialect.decimal_point,
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
    columns: dict[str, pa.Array] = {}
    # what others are made of comes first
    for field in sorted(feed.fields, key=lambda field: isinstance(field.made_of, Elapsed)):
        column, failed = _column(table, columns, field, feed, records.num_rows, timezone)
        for kind, rows in failed.items():
            broken[rows] |= feed.bit(field.name, kind)
        columns[field.name] = column
    where_from = (records[field.name] for field in WHERE_FROM)
    return pa.RecordBatch.from_arrays(
        [*(columns[field.name] for field in feed.fields), *where_from, records["value"], pa.array(broken)],
        schema=feed.decoded_schema,
    )


def _column(
    table: pa.Table, columns: dict[str, pa.Array], field: Field, feed: Feed, rows: int, timezone: str
) -> tuple[pa.Array, dict[str, np.ndarray]]:
    """The field from the file's columns, or from those already decoded, as `_to_type`."""
    if isinstance(field.made_of, Elapsed):
        return _add_seconds(columns[field.made_of.start], columns[field.made_of.seconds])
    in_file = feed.columns_of(field)
    if not rows or not set(in_file) <= set(table.column_names):
        return pa.nulls(rows, field.type) if field.default is None else _constant(field, rows), {}
    parts = [table[column].chunk(0) for column in in_file]
    if isinstance(field.made_of, DateAndTime):
        return _join(parts[0], parts[1], field.made_of, timezone)
    return _to_type(parts[0], field, timezone, feed.dialect.decimal_point)


def _constant(field: Field, rows: int) -> pa.Array:
    if field.type == TEXT:
        return pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), pa.array([field.default]))
    return pa.repeat(pa.scalar(field.default, field.type), rows)


def _add_seconds(start: pa.Array, seconds: pa.Array) -> tuple[pa.Array, dict[str, np.ndarray]]:
    present = _mask(pc.and_(start.is_valid(), seconds.is_valid()))
    elapsed = pc.fill_null(seconds, 0).to_numpy()
    possible = np.abs(elapsed) <= MAXIMUM_SECONDS  # not so for NaN
    micros = pc.fill_null(start.view(pa.int64()), 0).to_numpy()
    sum = micros + np.rint(np.where(possible, elapsed, 0) * 1e6).astype(np.int64)
    column = pa.array(sum, mask=~(present & possible)).view(TIMESTAMP)
    return column, {"unparsable": np.flatnonzero(present & ~possible)}


def _join(
    date: pa.Array, time: pa.Array, form: DateAndTime, timezone: str
) -> tuple[pa.Array, dict[str, np.ndarray]]:
    days = _parse_distinct(date, form.date_format, "%Y-%m-%d", "")
    times = _parse_distinct(time, form.time_format, "%H:%M:%S", "1970-01-01 ")
    utc, failed = to_utc(pc.add(days, times).view(NAIVE), timezone)
    given = pc.or_(date.is_valid(), time.is_valid())
    unparsable = pc.and_(given, pc.or_(days.is_null(), times.is_null()))
    return utc, {"unparsable": rows_where(unparsable), **failed}


def _parse_distinct(text: pa.Array, form: str, iso: str, prefix: str) -> pa.Array:
    """Text of that form as microseconds since the epoch, each distinct value parsed once; else null."""
    text = text if text.type == TEXT else text.dictionary_encode()
    names = re.findall("%.", form)
    pattern = re.sub("%.", lambda name: DIGITS[name[0]], re.sub(r"[^\w%]", r"\\\g<0>", form))
    rewritten = re.sub("%.", lambda name: f"\\{names.index(name[0]) + 1}", iso)
    values = pc.utf8_trim(text.dictionary, BLANKS)
    values = pc.if_else(
        pc.match_substring_regex(values, f"^{pattern}$"), values, pa.scalar(None, pa.string())
    )
    values = pc.replace_substring_regex(values, f"^{pattern}$", prefix + rewritten)
    return cast_or_null(values, NAIVE, LIKE_A_DATE).view(pa.int64()).take(text.indices)


def _to_type(
    column: pa.Array, field: Field, timezone: str, decimal_point: str = "."
) -> tuple[pa.Array, dict[str, np.ndarray]]:
    """The column in the field's type, and by kind of rule the rows that break it, which are null."""
    if pa.types.is_timestamp(column.type):
        return to_utc(column, timezone)
    if field.type == TIMESTAMP:
        return to_timestamps(pc.utf8_trim(column, BLANKS), timezone)
    if field.type == TEXT:
        texts = column if column.type == TEXT else column.dictionary_encode()
        return _without_blanks(texts) if field.pattern or field.known else texts, {}
    if column.type == field.type:
        return column, {}
    likely = LIKE_A_BOOLEAN if pa.types.is_boolean(field.type) else LIKE_A_NUMBER
    text = pc.utf8_trim(column, BLANKS)
    if decimal_point != ".":
        text = pc.replace_substring(pc.replace_substring(text, ".", "?"), decimal_point, ".")
    values = cast_or_null(text, field.type, likely)
    return values, {"unparsable": rows_where(pc.and_(column.is_valid(), values.is_null()))}


def _without_blanks(names: pa.DictionaryArray) -> pa.DictionaryArray:
    """The names without blanks around them."""
    trimmed = pc.utf8_trim(names.dictionary, BLANKS)
    if trimmed.equals(names.dictionary):
        return names
    distinct = trimmed.dictionary_encode()  # names that differed in their blanks alone are one
    return pa.DictionaryArray.from_arrays(distinct.indices.take(names.indices), distinct.dictionary)


def _mask(mask: pa.BooleanArray) -> np.ndarray:
    return pc.fill_null(mask, False).to_numpy(zero_copy_only=False)
