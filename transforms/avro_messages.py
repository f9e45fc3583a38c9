"""Avro messages: in Confluent's framing, which is a 0, the schema's id in 4 bytes, and the record."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.compute as pc
import pyruhvro

from schemas.avro import Schema

HEADER_BYTES = 5


def encode_avro(messages: pa.RecordBatch, schema: Schema, schema_id: int) -> pa.BinaryArray:
    """Each message of a batch in Confluent's framing.

    ValueError for a null where the schema has none, and for columns that are not the schema's.
    """
    for column, field in zip(messages.columns, messages.schema, strict=True):
        if column.null_count and not field.nullable:
            raise ValueError(f"{field.name} is null in {column.null_count} of {len(column)} messages")
    header = pa.scalar(b"\0" + schema_id.to_bytes(4, "big"))
    return pc.binary_join_element_wise(header, encode_records(messages, json.dumps(schema)), pa.scalar(b""))


def encode_records(messages: pa.RecordBatch, schema: str) -> pa.BinaryArray:
    """The records alone, without framing."""
    (encoded,) = pyruhvro.serialize_record_batch(messages, schema, 1)
    return encoded
