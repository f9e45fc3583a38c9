"""JSON messages: the columns of messages as JSON texts, each an object of all columns.

Arrow alone does it: a third quicker than polars' `struct.json_encode`, and without its 30 MB.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.feed import TIMESTAMP

SAMPLE_ROWS = 512
NEEDS_ESCAPE = r'["\\\x00-\x1f]'
QUOTE, BACKSLASH, SPACE = b'"\\ '
NULL, NOTHING = pa.scalar("null"), pa.scalar("")
HIGHEST = 10_000
KEPT_TEXTS = 50  # of these numbers with what stands around them: a third of a megabyte each, or less


def to_json(messages: pa.RecordBatch) -> pa.StringArray:
    """Messages -> a JSON object each, its names those of the columns, in their order.

    Null stays null, and so do NaN and the infinities, which JSON has not. Timestamps are ISO 8601 in UTC with
    a Z, and a fraction of 6 digits where they have one. Text beyond ASCII stays as it is, in UTF-8.

    >>> to_json(pa.RecordBatch.from_pylist([{"road": "I-405", "coordinates": {"latitude": None}}]))[0].as_py()
    '{"road":"I-405","coordinates":{"latitude":null}}'
    """
    return _joined(_object(messages.schema.names, messages.columns), messages.num_rows)


@dataclass(frozen=True, eq=False)
class _Texts:
    """Texts that are looked up; `lasting` when those of the next batch are the same."""

    values: pa.StringArray
    lasting: bool = False

    def between(self, before: str, after: str) -> pa.StringArray:
        return pc.binary_join_element_wise(before, self.values, after, NOTHING)


WHOLES = _Texts(pa.array([str(number) for number in range(HIGHEST)]), True)
FRACTIONS = _Texts(pa.array([f"{n / 1000:g}"[1:] for n in range(1000)]), True)  # none, .001 and so on to .999


@lru_cache(KEPT_TEXTS)
def _kept(texts: _Texts, before: str, after: str) -> pa.StringArray:
    return texts.between(before, after)


@dataclass
class _LookedUp:
    """A text for each row: those of `texts` at `places`, between the same two."""

    texts: _Texts
    places: pa.Array
    before: str = ""
    after: str = ""

    def of_rows(self) -> pa.StringArray:
        texts = self.texts.values
        if self.before or self.after:
            between = _kept if self.texts.lasting else _Texts.between
            texts = between(self.texts, self.before, self.after)
        return texts.take(self.places)


Part: TypeAlias = "str | pa.StringArray | _LookedUp"
"""What all rows have in common, or a text for each row."""


def _joined(parts: Iterable[Part], rows: int) -> pa.StringArray:
    """The parts side by side. What all rows have in common is joined to the few texts that are looked up."""
    joined: list[Part] = []
    for part in parts:
        last = joined[-1] if joined else None
        if isinstance(part, str) and isinstance(last, str):
            joined[-1] = last + part
        elif isinstance(part, str) and isinstance(last, _LookedUp) and _few(last, rows):
            last.after += part
        elif isinstance(last, str) and isinstance(part, _LookedUp) and _few(part, rows):
            part.before = last
            joined[-1] = part
        else:
            joined.append(part)
    if joined and all(isinstance(part, str) for part in joined):
        return pa.repeat(pa.scalar(joined[0]), rows)
    texts = (part.of_rows() if isinstance(part, _LookedUp) else part for part in joined)
    return pc.binary_join_element_wise(*texts, NOTHING)


def _few(part: _LookedUp, rows: int) -> bool:
    return part.texts.lasting or len(part.texts.values) <= rows // 2


def _object(names: Sequence[str], columns: Sequence[pa.Array]) -> Iterator[Part]:
    yield "{"
    for place, (name, column) in enumerate(zip(names, columns, strict=True)):
        yield f"{',' if place else ''}{json.dumps(name)}:"
        yield from _values(column)
    yield "}"


def _values(column: pa.Array) -> Iterable[Part]:
    """Each value as JSON, made only once for those that are equal."""
    if pa.types.is_dictionary(column.type):
        return [_looked_up(_texts(column.dictionary), column.indices)]
    if _repeats(column):
        return _values(column.dictionary_encode())
    if not column.null_count:
        if pa.types.is_struct(column.type):
            return _object([field.name for field in column.type], _members(column))
        if pa.types.is_string(column.type):
            return ['"', _escaped(column), '"']
    return _thousandths(column) or [_texts(column)]


def _looked_up(texts: pa.StringArray, places: pa.Array) -> Part:
    if places.null_count:
        places = pc.fill_null(places.cast(pa.int32()), len(texts))
        texts = pa.concat_arrays([texts, pa.array(["null"])])
    return texts[0].as_py() if len(texts) == 1 else _LookedUp(_Texts(texts), places)


def _repeats(column: pa.Array) -> bool:
    if len(column) <= SAMPLE_ROWS or pa.types.is_nested(column.type) or pa.types.is_boolean(column.type):
        return False
    return len(column[:SAMPLE_ROWS].unique()) < SAMPLE_ROWS // 2


def _thousandths(column: pa.Array) -> list[Part] | None:
    """What stands before the point and from it on, looked up in half the time that working it out takes.

    None unless each number is one of thousandths from 0 to below 10,000, as most measured ones are.
    """
    if not pa.types.is_floating(column.type) or column.null_count or not len(column):
        return None
    numbers = column.to_numpy()
    highest = numbers.max()
    if not (numbers.min() >= 0 and highest < HIGHEST):
        return None
    thousandths = np.rint(numbers * 1000)
    if (thousandths / 1000 != numbers).any():
        return None
    wholes, rest = np.divmod(thousandths.astype(np.int32), 1000)
    return [_LookedUp(WHOLES, pa.array(wholes)), _LookedUp(FRACTIONS, pa.array(rest))]


def _members(group: pa.StructArray) -> list[pa.Array]:
    return [group.field(place) for place in range(group.type.num_fields)]


def _texts(column: pa.Array) -> pa.StringArray:
    """Each value as JSON."""
    type = column.type
    if pa.types.is_struct(type):
        texts = _joined(_object([field.name for field in type], _members(column)), len(column))
        return pc.if_else(column.is_valid(), texts, NULL) if column.null_count else texts
    if pa.types.is_list(type):
        members = pa.ListArray.from_arrays(column.offsets, _texts(column.values))
        texts = pc.binary_join_element_wise("[", pc.binary_join(members, ","), "]", NOTHING)
        return pc.if_else(column.is_valid(), texts, NULL) if column.null_count else texts
    if pa.types.is_timestamp(type):
        texts = _quoted(iso_8601(column))
    elif pa.types.is_string(type):
        texts = _quoted(_escaped(column))
    else:
        texts = column.cast(pa.string())
        if pa.types.is_floating(type):
            finite = pc.is_finite(column)
            if not pc.all(finite, min_count=0).as_py():
                texts = pc.if_else(finite, texts, NULL)
    return pc.fill_null(texts, NULL) if texts.null_count else texts


def _quoted(texts: pa.StringArray) -> pa.StringArray:
    quote = pa.scalar('"')
    return pc.binary_join_element_wise(quote, texts, quote, NOTHING)


def iso_8601(times: pa.TimestampArray) -> pa.StringArray:
    """The times as text in UTC, such as 2012-03-01T00:00:00Z; a fraction of 6 digits where there is one."""
    micros = times.cast(TIMESTAMP).view(pa.timestamp("us"))
    seconds = pc.floor_temporal(micros, unit="second")
    whole = pc.equal(seconds, micros)
    texts = seconds.cast(pa.timestamp("s")).cast(pa.string())
    if not pc.all(whole, min_count=0).as_py():
        texts = pc.if_else(whole, texts, micros.cast(pa.string()))
    return pc.binary_join_element_wise(pc.replace_substring(texts, " ", "T"), pa.scalar("Z"), NOTHING)


def _escaped(texts: pa.StringArray) -> pa.StringArray:
    flat = np.frombuffer(texts.buffers()[2] or b"", np.uint8)
    if not len(flat) or not (flat.min() < SPACE or (flat == QUOTE).any() or (flat == BACKSLASH).any()):
        return texts
    needs = pc.fill_null(pc.match_substring_regex(texts, NEEDS_ESCAPE), False)
    escaped = [json.dumps(text, ensure_ascii=False)[1:-1] for text in texts.filter(needs).to_pylist()]
    return pc.replace_with_mask(texts, needs, pa.array(escaped, pa.string()))
