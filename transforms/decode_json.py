"""Decode: from records of JSON to typed readings, an object each.

msgspec decodes message by message into objects of the feed's types, and these become columns together. What
msgspec refuses is read again by Python's json module, whose word counts: it is no JSON object and fails here,
or some of its values are of a wrong type. Those become null and their rules broken, so that ONE dead letter
names all that is wrong.

Why no parser of whole batches: on one core pyarrow.json makes no more messages into columns (both 820,000/s,
see tests/benchmarks/decode_json.py); and where one is bad, it neither says which nor decodes the others. It
also takes NaN for a number, and a message `null` ends the process.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.feed import TEXT, TIMESTAMP, WHERE_FROM, Feed, Field
from transforms.casts import is_utf8, rows_where, to_timestamps
from transforms.dead_letters import Failure, to_dead_letters
from transforms.decode import Decode

MAXIMUM_DEPTH = 250
FIRST_MILLI, LAST_MILLI = -62_167_219_200_000, 253_402_300_799_999  # of the years 0000 to 9999
MAXIMUM_DIGITS = 300
STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
NO_BRACKETS = re.compile(r"[^][{}]+")

STRUCTURAL = (
    Failure(("empty",), "it has no bytes"),
    Failure(("not_utf8",), "its bytes are not UTF-8"),
    Failure(("too_deep",), f"it is nested over {MAXIMUM_DEPTH} levels deep"),
    Failure(("not_json",), "it is not one JSON document"),
    Failure(("not_an_object",), "it is JSON, but not an object"),
)
EMPTY, NOT_UTF8, TOO_DEEP, NOT_JSON, NOT_AN_OBJECT = range(len(STRUCTURAL))
DECODED = -1


class Form(NamedTuple):
    """The objects that a feed's messages become, with their groups' objects inside, and how."""

    message: type[msgspec.Struct]
    groups: dict[str, type[msgspec.Struct]]
    decode: Callable[[bytes], Any]


def decode_json(
    records: pa.RecordBatch, feed: Feed, timezone: str = "UTC", now: int = 0
) -> tuple[pa.RecordBatch, pa.RecordBatch]:
    """Records of JSON -> (readings of `feed.decoded_schema`, dead letters).

    A message is an object with the members of `feed.message_schema`. A field of a group may also stand beside
    the group, and counts where the group has none. An absent member is null, unknown ones are ignored, and of
    two with one name the last counts.

    Numbers, true and false stand without quotes; 3.0 is a whole number, 1e400 infinite. A timestamp is ISO
    8601, of `timezone` where it has no offset, as in `decode_csv`; or a number, whole milliseconds since the
    epoch. Whether and how a message decodes depends on that message alone, never on its neighbours.
    """
    messages, broken, which = _read(records["value"], feed)
    sound, failed = which == DECODED, np.flatnonzero(which != DECODED)
    readings = _to_readings(
        messages, broken[sound], records.filter(pa.array(sound)) if len(failed) else records, feed, timezone
    )
    letters = records.take(pa.array(failed))
    return readings, to_dead_letters(letters, STRUCTURAL, which[failed], feed, "decode", now)


def _read(values: pa.BinaryArray, feed: Feed) -> tuple[list[msgspec.Struct], np.ndarray, np.ndarray]:
    """The messages that decode; for each value the rules that it breaks; and its place in `STRUCTURAL`."""
    form = _form(feed)
    messages = []
    broken = np.zeros(len(values), np.uint64)
    which = np.full(len(values), DECODED)
    texts = values.fill_null(b"").to_pylist()
    unsafe = frozenset(_unsafe(values, texts))
    for row, text in enumerate(texts):
        try:
            messages.append(form.decode(b"" if row in unsafe else text))
        except (msgspec.DecodeError, RecursionError):
            which[row], members = _members(text)
            if which[row] == DECODED:
                message, broken[row] = _fit(members, feed, form)
                messages.append(message)
    return messages, broken, which


def _unsafe(values: pa.BinaryArray, texts: list[bytes]) -> Iterator[int]:
    """The rows kept from msgspec: it skips what is no UTF-8, and how deep it reads depends on the stack."""
    for row in rows_where(pc.greater(pc.binary_length(values), 2 * MAXIMUM_DEPTH)).tolist():
        if texts[row].count(b"[") + texts[row].count(b"{") > MAXIMUM_DEPTH:
            yield row
    try:
        values.cast(pa.string())
    except pa.ArrowInvalid:
        yield from (row for row, text in enumerate(texts) if not is_utf8(text))


@lru_cache
def _form(feed: Feed) -> Form:
    fields = [(field.name, _type(field)) for field in feed.fields]
    groups = {
        group: _struct(group, [(field.name, _type(field)) for field in feed.fields if field.group == group])
        for group in dict.fromkeys(field.group for field in feed.fields)
        if group
    }
    message = _struct(feed.name, [*fields, *groups.items()])
    return Form(message, groups, msgspec.json.Decoder(message).decode)


def _struct(name: str, members: list[tuple[str, Any]]) -> type[msgspec.Struct]:
    return msgspec.defstruct(name, [(member, kind | None, None) for member, kind in members], gc=False)


def _type(field: Field) -> Any:
    """What msgspec decodes the field into. What a timestamp says, and whether 3.0 is whole, is seen later."""
    if pa.types.is_floating(field.type):
        return float
    if pa.types.is_boolean(field.type):
        return bool
    if field.type in (TEXT, pa.string()):
        return str
    first, last = _limits(field.type)
    whole = Annotated[int, msgspec.Meta(ge=first, le=last)]
    return whole | (str if field.type == TIMESTAMP else float)


def _members(value: bytes) -> tuple[int, dict[str, Any]]:
    """A value's place in `STRUCTURAL`, or `DECODED` and the members of its object."""
    if not value:
        return EMPTY, {}
    try:
        text = value.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError:
        return NOT_UTF8, {}
    if _depth(text) > MAXIMUM_DEPTH:
        return TOO_DEEP, {}
    try:
        document = json.loads(text, parse_int=_whole_number, parse_constant=_refuse)
    except json.JSONDecodeError:
        return NOT_JSON, {}
    return (DECODED, document) if isinstance(document, dict) else (NOT_AN_OBJECT, {})


def _depth(text: str) -> int:
    if text.count("[") + text.count("{") <= MAXIMUM_DEPTH:
        return 0  # not deep enough to matter
    brackets = np.frombuffer(NO_BRACKETS.sub("", STRING.sub("", text)).encode(), np.uint8)
    opening = (brackets == ord("[")) | (brackets == ord("{"))
    return int(np.where(opening, 1, -1).cumsum().max(initial=0))


def _whole_number(digits: str) -> int | float:
    return int(digits) if len(digits) < MAXIMUM_DIGITS else float(digits)  # int refuses very long ones


def _refuse(constant: str) -> None:
    raise json.JSONDecodeError("not JSON", constant, 0)  # NaN and Infinity, which Python would accept


def _fit(members: dict[str, Any], feed: Feed, form: Form) -> tuple[msgspec.Struct, np.uint64]:
    """The message with null for each value of a wrong type, and the rules that it breaks."""
    groups = {name: struct() for name, struct in form.groups.items()}
    message, broken = form.message(**groups), np.uint64(0)
    for field in feed.fields:
        fits = _set(message, field, members)
        if field.group:
            group = members.get(field.group)
            if isinstance(group, dict):
                fits &= _set(groups[field.group], field, group)
            else:
                fits &= group is None
        if not fits:
            broken |= feed.bit(field.name, "unparsable")
    return message, broken


def _set(target: msgspec.Struct, field: Field, members: dict[str, Any]) -> bool:
    """Sets the field, and says whether its value is of the right type."""
    try:
        setattr(target, field.name, _typed(members.get(field.name), field))
    except ValueError:
        return False
    return True


def _typed(value: Any, field: Field) -> Any:
    """The value as `_type` has it. ValueError for a wrong type, and for text that is not Unicode."""
    kind = field.type
    match value:
        case None:
            return None
        case bool():
            if pa.types.is_boolean(kind):
                return value
        case str():
            value.encode()  # half of a surrogate pair has no UTF-8
            if kind in (TEXT, TIMESTAMP, pa.string()):
                return value
        case int() | float():
            if pa.types.is_floating(kind):
                return float(value)
            if value % 1 == 0 and (kind == TIMESTAMP or pa.types.is_integer(kind)):
                first, last = _limits(kind)
                if first <= value <= last:
                    return int(value)
    raise ValueError(f"no value of {field.name}")


def _limits(kind: pa.DataType) -> tuple[int, int]:
    """The whole numbers that a field of that type takes."""
    if kind == TIMESTAMP:
        return FIRST_MILLI, LAST_MILLI
    limits = np.iinfo(kind.to_pandas_dtype())
    return int(limits.min), int(limits.max)


def _to_readings(
    messages: list[msgspec.Struct], broken: np.ndarray, records: pa.RecordBatch, feed: Feed, timezone: str
) -> pa.RecordBatch:
    groups = {
        name: [group or empty for group in map(attrgetter(name), messages)]
        for name, empty in ((name, struct()) for name, struct in _form(feed).groups.items())
    }
    columns = []
    for field in feed.fields:
        places = [groups[field.group], messages] if field.group else [messages]
        found = []
        for place in places:
            column, failed = _to_column(list(map(attrgetter(field.name), place)), field, timezone)
            for kind, rows in failed.items():
                broken[rows] |= feed.bit(field.name, kind)
            found.append(column)
        columns.append(pc.coalesce(*found))
    where_from = (records[field.name] for field in WHERE_FROM)
    return pa.RecordBatch.from_arrays(
        [*columns, *where_from, records["value"], pa.array(broken)], schema=feed.decoded_schema
    )


def _to_column(values: list[Any], field: Field, timezone: str) -> tuple[pa.Array, dict[str, np.ndarray]]:
    """The values in the field's type, and by kind of rule the rows that break it, which are null."""
    if field.type == TIMESTAMP:
        return _to_timestamps(values, timezone)
    broken = []
    if pa.types.is_integer(field.type):
        for row in [row for row, value in enumerate(values) if isinstance(value, float)]:
            try:
                values[row] = _typed(values[row], field)
            except ValueError:
                values[row] = None
                broken.append(row)
    return pa.array(values, field.type), {"unparsable": np.array(broken, np.int64)} if broken else {}


def _to_timestamps(values: list[str | int | None], timezone: str) -> tuple[pa.Array, dict[str, np.ndarray]]:
    try:
        return to_timestamps(pa.array(values, pa.string()), timezone)
    except pa.ArrowTypeError:  # milliseconds, at least in part
        text = [value if isinstance(value, str) else None for value in values]
        millis = [value if isinstance(value, int) else None for value in values]
        utc, failed = to_timestamps(pa.array(text, pa.string()), timezone)
        return pc.coalesce(utc, pa.array(millis, pa.timestamp("ms", "UTC")).cast(TIMESTAMP)), failed


@dataclass
class DecodeJson(Decode):
    """Records of JSON; `timezone` is that of timestamps without an offset."""

    feed: Feed
    timezone: str = "UTC"

    def decode(self, records: pa.RecordBatch, now: int) -> tuple[pa.RecordBatch, pa.RecordBatch]:
        return decode_json(records, self.feed, self.timezone, now)
