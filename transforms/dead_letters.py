"""Dead letters: what failed, with its original bytes, where it came from and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from schemas.feed import WHERE_FROM, Feed
from schemas.record import DEAD_LETTER


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
