"""Avro schemas of messages: derived from a feed's declaration, and whether one reads what another wrote.

`python -m schemas.avro` writes the file of every feed beside this one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from schemas.feed import TIMESTAMP, Feed

FOLDER = Path(__file__).parent
NAMESPACE = "sensor_feeds"
TYPES: dict[pa.DataType, str | dict[str, str]] = {
    pa.string(): "string",
    pa.bool_(): "boolean",
    pa.int32(): "int",
    pa.int64(): "long",
    pa.float32(): "float",
    pa.float64(): "double",
    TIMESTAMP: {"type": "long", "logicalType": "timestamp-micros"},
    pa.list_(pa.string()): {"type": "array", "items": "string"},
}
READABLE_AS = {
    "int": {"int", "long", "float", "double"},
    "long": {"long", "float", "double"},
    "float": {"float", "double"},
}
POINTS_IN_TIME = {None, "timestamp-millis", "timestamp-micros"}

Schema = dict
"""An Avro record schema as JSON has it, names of types written out where they are used."""


def avro_schema(feed: Feed, columns: pa.Schema | None = None) -> Schema:
    """The feed's messages in Avro: its `message_schema`, unless other columns are given.

    A field that may be missing defaults to null, so that messages of before it was declared stay readable.
    KeyError for a field of an Arrow type that Avro has no equal of.

    >>> from schemas.traffic import TRAFFIC
    >>> [field["type"] for field in avro_schema(TRAFFIC)["fields"] if field["name"] == "speed_mph"]
    ['double']
    """
    return {
        "type": "record",
        "name": feed.name,
        "namespace": NAMESPACE,
        "doc": feed.description,
        "fields": [_field(field) for field in columns or feed.message_schema],
    }


def _field(field: pa.Field) -> dict:
    nested = pa.types.is_struct(field.type)
    members = [_field(member) for member in field.type] if nested else []
    type = {"type": "record", "name": field.name, "fields": members} if nested else TYPES[field.type]
    texts = {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
    described = {"doc": texts["description"]} if "description" in texts else {}
    described |= {"unit": texts["unit"]} if "unit" in texts else {}
    optional = {"type": ["null", type], "default": None} if field.nullable else {"type": type}
    return {"name": field.name, **optional, **described}


def unreadable_fields(reader: Schema, writer: Schema) -> Iterator[str]:
    """For each of the reader's fields that it cannot read from what the writer wrote: its name and why.

    By the Avro specification's schema resolution, without aliases and without bytes read as text.

    >>> number = {"type": "record", "name": "a", "fields": [{"name": "speed", "type": "double"}]}
    >>> text = {"type": "record", "name": "a", "fields": [{"name": "speed", "type": "string"}]}
    >>> list(unreadable_fields(number, text))
    ['speed: is string in the messages and double here']
    """
    written = {field["name"]: field["type"] for field in writer["fields"]}
    for field in reader["fields"]:
        name = field["name"]
        if name in written:
            yield from _unreadable(name, field["type"], written[name])
        elif "default" not in field:
            yield f"{name}: is not in the messages and has no default"


def _unreadable(name: str, reader: object, writer: object) -> Iterator[str]:
    choices = _branches(reader)
    for wrote in _branches(writer):
        same = [
            choice for choice in choices if _kind(choice) in READABLE_AS.get(_kind(wrote), {_kind(wrote)})
        ]
        if not same and _kind(wrote) == "null":
            yield f"{name}: may be null in the messages and must not be here"
        elif not same or not _same_meaning(same[0], wrote):
            yield f"{name}: is {_describe(wrote)} in the messages and {_describe(*choices)} here"
        elif _kind(wrote) == "record":
            yield from (f"{name}.{each}" for each in unreadable_fields(same[0], wrote))


def _branches(type: object) -> list:
    return type if isinstance(type, list) else [type]


def _kind(type: object) -> str:
    return type["type"] if isinstance(type, dict) else str(type)


def _logical(type: object) -> str | None:
    return type.get("logicalType") if isinstance(type, dict) else None


def _same_meaning(reader: object, writer: object) -> bool:
    return _logical(reader) not in POINTS_IN_TIME - {None} or _logical(writer) in POINTS_IN_TIME


def _describe(*types: object) -> str:
    kinds = [_logical(type) or _kind(type) for type in types]
    return " or ".join(kind for kind in kinds if kind != "null" or len(kinds) == 1)
