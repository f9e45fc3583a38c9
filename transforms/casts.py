"""Casts: bytes as text, and columns of text as columns of a type, null where the text does not parse."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.feed import TIMESTAMP

NAIVE = pa.timestamp("us")
LIKE_A_DATE = r"^\d{4}-\d{2}-\d{2}"
FINER_THAN_MICROSECONDS = r"(:\d{2}\.\d{6})\d+"
ZONED = r"[ T]\d{2}(:\d{2}(:\d{2}(\.\d*)?)?)?(Z|[+-]\d{2}(:?\d{2})?)$"


def is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def to_timestamps(text: pa.StringArray, timezone: str) -> tuple[pa.Array, dict[str, np.ndarray]]:
    """ISO 8601 text in UTC; and by kind of rule the rows that break it, which are null.

    `timezone` is that of text without an offset, as in `to_utc`. Digits beyond microseconds are cut off.

    >>> to_timestamps(pa.array(["2012-03-01T00:00:00-08:00", "2012-03-01"]), "UTC")[0].to_pylist()[0].hour
    8
    """
    for type in (TIMESTAMP, NAIVE):
        try:
            return to_utc(text.cast(type), timezone)
        except pa.ArrowInvalid:
            continue
    text = pc.replace_substring_regex(text, FINER_THAN_MICROSECONDS, r"\1")
    zoned = pc.fill_null(pc.match_substring_regex(text, ZONED), False)
    nothing = pa.scalar(None, pa.string())
    naive = cast_or_null(pc.if_else(zoned, nothing, text), NAIVE, LIKE_A_DATE)
    local, failed = to_utc(naive, timezone)
    utc = pc.coalesce(local, cast_or_null(pc.if_else(zoned, text, nothing), TIMESTAMP, LIKE_A_DATE))
    unparsable = pc.and_(text.is_valid(), pc.and_(utc.is_null(), naive.is_null()))
    return utc, {"unparsable": rows_where(unparsable), **failed}


def to_utc(times: pa.TimestampArray, timezone: str) -> tuple[pa.Array, dict[str, np.ndarray]]:
    """Times in UTC; and by kind of rule the rows that break it, which are null.

    Times without a zone are of `timezone`: one that occurs twice there is the earlier instant, one that the
    clock change skips is `nonexistent`.
    """
    if times.type == TIMESTAMP or timezone == "UTC":
        return times.view(TIMESTAMP), {}
    before, after = (
        pc.assume_timezone(times, timezone, ambiguous="earliest", nonexistent=side).view(TIMESTAMP)
        for side in ("earliest", "latest")
    )
    skipped = pc.not_equal(before, after)
    if not pc.any(skipped).as_py():
        return before, {}
    return pc.if_else(skipped, pa.scalar(None, TIMESTAMP), before), {"nonexistent": rows_where(skipped)}


def cast_or_null(text: pa.StringArray, type: pa.DataType, likely: str) -> pa.Array:
    """The text cast to the type, null where it does not parse; `likely` matches all that may parse."""
    try:
        return text.cast(type)
    except pa.ArrowInvalid:
        text = pc.if_else(pc.match_substring_regex(text, likely), text, pa.scalar(None, pa.string()))
        return pa.concat_arrays(_cast_in_halves(text, type))


def _cast_in_halves(text: pa.StringArray, type: pa.DataType) -> list[pa.Array]:
    try:
        return [text.cast(type)]
    except pa.ArrowInvalid:
        if len(text) == 1:
            return [pa.nulls(1, type)]
        half = len(text) // 2
        return _cast_in_halves(text[:half], type) + _cast_in_halves(text[half:], type)


def floats(column: pa.Array) -> np.ndarray:
    """A column of numbers as float64, NaN for null."""
    return column.to_numpy(zero_copy_only=False).astype(np.float64, copy=False)


def rows_where(mask: pa.BooleanArray) -> np.ndarray:
    """The places where the mask is true."""
    return np.flatnonzero(pc.fill_null(mask, False).to_numpy(zero_copy_only=False))


def ranks(column: pa.DictionaryArray) -> np.ndarray:
    """For each row the place of its value among the dictionary's, in alphabetical order; -1 for null."""
    places = np.empty(len(column.dictionary) + 1, np.int64)
    places[pc.sort_indices(column.dictionary).to_numpy()] = np.arange(len(column.dictionary))
    places[-1] = -1
    return places[pc.fill_null(column.indices, -1).to_numpy()]
