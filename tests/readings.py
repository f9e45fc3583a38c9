"""Batches of readings for property-based tests, from a feed's declaration alone."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import strategies as st

from schemas.feed import TIMESTAMP, Feed

FIRST, LAST = -(10**15), 4 * 10**15  # 1938 to 2096, in microseconds
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)


def _values(type: pa.DataType) -> st.SearchStrategy:
    if type == TIMESTAMP:
        return st.integers(FIRST, LAST)
    if pa.types.is_floating(type):
        return st.floats(allow_nan=False, width=type.bit_width)
    if pa.types.is_integer(type):
        return st.integers(-(2 ** (type.bit_width - 1)), 2 ** (type.bit_width - 1) - 1)
    return st.booleans() if pa.types.is_boolean(type) else TEXTS


@st.composite
def readings(draw: st.DrawFn, feed: Feed) -> pa.RecordBatch:
    """Up to five accepted readings, now and then a slice of a larger batch."""
    rows = draw(st.integers(0, 5))
    columns = []
    for field in feed.reading_schema:
        values = st.none() | _values(field.type) if field.nullable else _values(field.type)
        if field.name == "position":
            values = st.integers(1, 10**12)
        columns.append(pa.array(draw(st.lists(values, min_size=rows, max_size=rows)), field.type))
    batch = pa.RecordBatch.from_arrays(columns, schema=feed.reading_schema)
    return batch.slice(draw(st.integers(0, rows)))


def plain(batch: pa.RecordBatch) -> list[dict]:
    """Its rows, timestamps as microseconds: some are beyond what Python's datetime holds."""
    columns = [column.view(pa.int64()) if pa.types.is_timestamp(column.type) else column for column in batch]
    return pa.table(columns, names=batch.schema.names).to_pylist()
