"""JSON messages: the columns of messages as JSON texts, one an object of all columns."""

from __future__ import annotations

import polars as pl
import pyarrow as pa

ISO_8601 = "%Y-%m-%dT%H:%M:%S%.fZ"


def to_json(messages: pa.RecordBatch) -> pa.LargeStringArray:
    """Messages -> a JSON object each, its names those of the columns, in their order.

    Null stays null, and so do NaN and the infinities, which JSON has not. Timestamps are ISO 8601 in UTC with
    a Z, and a fraction of 3 or 6 digits where they have one. Text beyond ASCII stays as it is, in UTF-8.

    >>> to_json(pa.RecordBatch.from_pylist([{"road": "I-405", "coordinates": {"latitude": None}}]))[0].as_py()
    '{"road":"I-405","coordinates":{"latitude":null}}'
    """
    if not messages.num_columns:
        return pa.array(["{}"] * messages.num_rows, pa.large_string())
    frame = pl.from_arrow(messages)
    columns = [_encodable(pl.col(name), type) for name, type in frame.schema.items()]
    return (
        frame.select(json=pl.struct(columns).struct.json_encode())["json"].to_arrow().cast(pa.large_string())
    )


def _encodable(column: pl.Expr, type: pl.DataType) -> pl.Expr:
    """The column as its JSON has it; polars itself writes times with a numeric offset."""
    match type:
        case pl.Datetime():
            return column.dt.to_string(ISO_8601)
        case pl.Float64() | pl.Float32():
            return pl.when(column.is_finite()).then(column)
        case pl.Struct():
            members = [_encodable(column.struct.field(member.name), member.dtype) for member in type.fields]
            return pl.when(column.is_not_null()).then(pl.struct(members)).alias(column.meta.output_name())
    return column
