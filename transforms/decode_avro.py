"""Decode Avro: from records of Avro in Confluent's framing (see `avro_messages`) to typed readings.

Whole batches are decoded by pyruhvro. It does not notice bytes after a record, nor text that is
no UTF-8, and one bad message fails its batch. So what it decodes is checked, encoded again and compared;
where anything is wrong, fastavro reads message by message and says which ones and why. pyruhvro panics at
some types: messages of a schema that has any but plain ones are read by fastavro alone.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, cast

import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyruhvro

from schemas.avro import Schema, avro_schema, unreadable_fields
from schemas.feed import WHERE_FROM, Feed
from transforms.avro_messages import HEADER_BYTES, encode_records
from transforms.dead_letters import Failure, to_dead_letters
from transforms.decode import Decode
from transforms.messages import from_messages
from transforms.schema_registry import SchemaRegistry

MAXIMUM_BYTES = 2**31 - 1
QUICK_TYPES = {"boolean", "int", "long", "float", "double", "string"}
TIMESTAMPS = frozenset({"timestamp-millis", "timestamp-micros"})
PIECE_ROWS = 1000

FAILURES = (
    Failure(("not_framed",), "does not begin with a 0 and the 4 bytes of a schema's id"),
    Failure(("not_avro",), "is no record of the schema whose id it bears, or out of its range"),
    Failure(("not_utf8",), "its text is not UTF-8"),
    Failure(("trailing_bytes",), "has bytes after its record"),
)
NOT_FRAMED, NOT_AVRO, NOT_UTF8, TRAILING_BYTES = range(len(FAILURES))
READ = -1


class Writer(NamedTuple):
    """A schema that messages were written with, ready for both decoders; `quick` when pyruhvro knows it."""

    text: str
    parsed: Schema
    quick: bool


def decode_avro(
    records: pa.RecordBatch, feed: Feed, schema_of: Callable[[int], Schema | None], now: int = 0
) -> tuple[pa.RecordBatch, pa.RecordBatch]:
    """Records of framed Avro -> (readings of `feed.decoded_schema`, dead letters).

    `schema_of` gives the schema of an id, None for an id that is not known. A message is read by the schema
    that it was written with, then brought to the feed's columns by Avro's schema resolution. Whether and how
    it decodes depends on that message alone.
    """
    ids = _schema_ids(records["value"])
    which = np.where(ids < 0, NOT_FRAMED, READ)
    failures = [*FAILURES]
    messages, rows_read = [pa.RecordBatch.from_pylist([], feed.received_schema)], [np.empty(0, np.int64)]
    for schema_id in np.unique(ids[ids >= 0]).tolist():
        rows = np.flatnonzero(ids == schema_id)
        schema = schema_of(schema_id)
        if unfit := _unfit(schema, schema_id, feed):
            which[rows] = len(failures)
            failures.append(unfit)
            continue
        values = records["value"] if len(rows) == len(ids) else records["value"].take(pa.array(rows))
        payloads = pc.binary_slice(values, HEADER_BYTES, MAXIMUM_BYTES)
        read, which[rows] = _read(payloads, _writer(json.dumps(schema)), feed)
        messages.append(read)
        rows_read.append(rows[which[rows] == READ])
    order = np.concatenate(rows_read)
    in_order = pa.concat_batches(messages)
    if (np.diff(order) < 0).any():
        in_order = in_order.take(pa.array(np.argsort(order)))
    failed = np.flatnonzero(which != READ)
    sound = records.filter(pa.array(which == READ)) if len(failed) else records
    readings = _to_readings(from_messages(in_order, feed), sound, feed)
    return readings, to_dead_letters(
        records.take(pa.array(failed)), failures, which[failed], feed, "decode", now
    )


def _schema_ids(values: pa.BinaryArray) -> np.ndarray:
    """The id that each message bears; -1 for one that is not framed."""
    framed = pc.fill_null(pc.binary_length(values), 0).to_numpy() >= HEADER_BYTES
    headers = b"".join(pc.binary_slice(values, 0, HEADER_BYTES).filter(pa.array(framed)).to_pylist())
    header = np.frombuffer(headers, np.dtype([("magic", "u1"), ("id", ">u4")]))
    ids = np.full(len(values), -1)
    ids[framed] = np.where(header["magic"] == 0, header["id"].astype(np.int64), -1)
    return ids


def _unfit(schema: Schema | None, schema_id: int, feed: Feed) -> Failure | None:
    """Why no message of that schema can be read, if so. That a field is missing is for `validate` to say."""
    if schema is None:
        return Failure(
            ("unknown_schema",), f"bears the id {schema_id}, which the schema registry does not know"
        )
    if schema["type"] != "record":
        return Failure(("incompatible_schema",), f"schema {schema_id} is no record")
    unreadable = "; ".join(unreadable_fields(avro_schema(feed, feed.received_schema), schema))
    return Failure(("incompatible_schema",), f"schema {schema_id}: {unreadable}") if unreadable else None


@lru_cache
def _writer(schema: str) -> Writer:
    quick = _is_quick(_with_logical_types(json.loads(schema), TIMESTAMPS))
    text = json.dumps(_with_logical_types(json.loads(schema), TIMESTAMPS))
    parsed = _with_logical_types(json.loads(schema), frozenset() if quick else TIMESTAMPS)
    return Writer(text, cast(Schema, fastavro.parse_schema(parsed)), quick)


def _with_logical_types(schema: Any, kept: frozenset[str]) -> Any:
    """The schema without its other logical types."""
    if isinstance(schema, list):
        return [_with_logical_types(each, kept) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: _with_logical_types(value, kept) if key in ("type", "fields", "items", "values") else value
        for key, value in schema.items()
        if key != "logicalType" or value in kept
    }


def _is_quick(type: Any) -> bool:
    if isinstance(type, list):
        return len(type) == 2 and "null" in type and all(_is_quick(each) for each in type if each != "null")
    if isinstance(type, str):
        return type in QUICK_TYPES
    if type["type"] == "record":
        return all(_is_quick(field["type"]) for field in type["fields"])
    return _is_quick(type["type"])


def _read(payloads: pa.BinaryArray, writer: Writer, feed: Feed) -> tuple[pa.RecordBatch, np.ndarray]:
    """(messages that could be read, for each payload `READ` or its place in `FAILURES`)."""
    if not writer.quick:
        records, which = _read_one_by_one(payloads, writer)
        return pa.RecordBatch.from_pylist(records, schema=feed.received_schema), which
    messages = _read_quickly(payloads, writer, feed)
    if messages is not None:
        return messages, np.full(len(payloads), READ)
    if len(payloads) > PIECE_ROWS:
        return _read_in_pieces(payloads, PIECE_ROWS, writer, feed)
    _, which = _read_one_by_one(payloads, writer)
    if (which == READ).all():
        if len(payloads) > 1:
            return _read_in_pieces(payloads, len(payloads) // 2, writer, feed)
        which[:] = NOT_AVRO
    sound = which == READ
    messages, which[sound] = _read(payloads.filter(pa.array(sound)), writer, feed)
    return messages, which


def _read_in_pieces(
    payloads: pa.BinaryArray, rows: int, writer: Writer, feed: Feed
) -> tuple[pa.RecordBatch, np.ndarray]:
    pieces = [_read(payloads[start : start + rows], writer, feed) for start in range(0, len(payloads), rows)]
    return pa.concat_batches([messages for messages, _ in pieces]), np.concatenate(
        [which for _, which in pieces]
    )


def _read_quickly(payloads: pa.BinaryArray, writer: Writer, feed: Feed) -> pa.RecordBatch | None:
    """The messages of all payloads; None when anything is wrong with any of them."""
    try:
        batch = pyruhvro.deserialize_array(payloads.to_pylist(), writer.text)
        batch.validate(full=True)
        columns = [_resolve(batch, field) for field in feed.received_schema]
    except ValueError:
        return None
    if not encode_records(batch, writer.text).equals(payloads):
        return None
    return pa.RecordBatch.from_arrays(columns, schema=feed.received_schema)


def _resolve(written: pa.RecordBatch | pa.StructArray, field: pa.Field) -> pa.Array:
    """That field of the messages in the reader's type; null where the writer had none."""
    here = written.schema if isinstance(written, pa.RecordBatch) else written.type
    place = here.get_field_index(field.name)
    if place < 0:
        return pa.nulls(len(written), field.type)
    column = written.column(place) if isinstance(written, pa.RecordBatch) else written.field(place)
    if not pa.types.is_struct(field.type):
        return column.cast(field.type)
    members = [_resolve(column, member) for member in field.type]
    return pa.StructArray.from_arrays(members, fields=list(field.type), mask=column.is_null())


def _read_one_by_one(payloads: pa.BinaryArray, writer: Writer) -> tuple[list[dict], np.ndarray]:
    """(the records that fastavro reads, for each payload `READ` or its place in `FAILURES`)."""
    which = np.full(len(payloads), READ)
    records = []
    for place, payload in enumerate(payloads.to_pylist()):
        stream = io.BytesIO(payload)
        try:
            record = fastavro.schemaless_reader(stream, writer.parsed)
        except UnicodeDecodeError:
            which[place] = NOT_UTF8
        except (EOFError, IndexError, ValueError, OverflowError):
            which[place] = NOT_AVRO
        else:
            if stream.tell() < len(payload):
                which[place] = TRAILING_BYTES
            else:
                records.append(cast(dict, record))
    return records, which


def _to_readings(columns: pa.RecordBatch, records: pa.RecordBatch, feed: Feed) -> pa.RecordBatch:
    broken = pa.array(np.zeros(records.num_rows, np.uint64))
    where = [records[field.name] for field in WHERE_FROM]
    return pa.RecordBatch.from_arrays(
        [*columns.columns, *where, records["value"], broken], schema=feed.decoded_schema
    )


@dataclass
class DecodeAvro(Decode):
    """Records of framed Avro, by the schemas of a registry."""

    feed: Feed
    registry: SchemaRegistry

    def decode(self, records: pa.RecordBatch, now: int) -> tuple[pa.RecordBatch, pa.RecordBatch]:
        return decode_avro(records, self.feed, self.registry.schema, now)
