"""Dead letters: what failed, with its original bytes, where it came from and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.feed import WHERE_FROM, Feed
from schemas.record import DEAD_LETTER

NONE = pa.RecordBatch.from_pylist([], DEAD_LETTER)


class Failure(NamedTuple):
    """Why a record failed: the rules that it broke, the first of them the reason, and a message."""

    rules: tuple[str, ...]
    message: str


def to_dead_letters(
    records: pa.RecordBatch, failures: Sequence[Failure], which: np.ndarray, feed: Feed, stage: str, now: int
) -> pa.RecordBatch:
    """A batch of `DEAD_LETTER`, one for each record.

    `records` has at least the columns of `RECORD`; `which` says for each of its rows which of `failures` it
    is; `now` is microseconds since the epoch. The line ending of a file's row is no part of it.
    """
    rows = records.num_rows
    if not rows:
        return NONE
    index = pa.array(which, pa.int32())
    reasons = pa.array([failure.rules[0] for failure in failures], pa.string()).dictionary_encode()
    rules = pa.array([list(failure.rules) for failure in failures], pa.list_(pa.string()))
    messages = pa.array([failure.message for failure in failures], pa.string()).dictionary_encode()
    return pa.RecordBatch.from_arrays(
        [
            _without_line_endings(records) if records["partition"].null_count else records["value"],
            *(records[field.name] for field in WHERE_FROM),
            _constant(feed.name, rows),
            _constant(stage, rows),
            reasons.take(index),
            rules.take(index),
            messages.take(index),
            pa.array(np.full(rows, now), DEAD_LETTER.field("failed_at").type),
        ],
        schema=DEAD_LETTER,
    )


def _constant(value: str, rows: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), pa.array([value]))


def _without_line_endings(records: pa.RecordBatch) -> pa.BinaryArray:
    values = records["value"].to_pylist()
    return pa.array([value.removesuffix(b"\n").removesuffix(b"\r") for value in values], pa.binary())


def to_headers(letters: pa.RecordBatch) -> list[list[tuple[str, bytes]]]:
    """What a message with the original bytes says beside them: name and text of the other columns.

    Of a column without values there is no header. Rules are separated by commas, times are ISO 8601 in UTC.
    """
    columns = {name: letters[name] for name in letters.schema.names if name != "value"}
    texts = {name: _as_text(column) for name, column in columns.items() if column.null_count < len(column)}
    return [list(zip(texts, row, strict=True)) for row in zip(*texts.values(), strict=True)]


def _as_text(column: pa.Array) -> list[bytes]:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    elif pa.types.is_list(column.type):
        column = pc.binary_join(column, ",")
    elif pa.types.is_timestamp(column.type):
        column = pc.strftime(column, "%Y-%m-%dT%H:%M:%SZ")
    return column.cast(pa.string()).cast(pa.binary()).to_pylist()
