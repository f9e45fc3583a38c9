from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.feed import TEXT, TIMESTAMP
from schemas.traffic import TRAFFIC
from tests.readings import readings
from transforms.json_messages import to_json
from transforms.messages import to_messages


def slow_json(value: Any) -> Any:
    """The oracle: what a reader of the JSON should get for a value of the column."""
    match value:
        case datetime():
            text = value.astimezone(UTC).isoformat()
            return (
                text.replace("000+00:00", "Z")
                if value.microsecond % 1000 == 0 and value.microsecond
                else (text.replace("+00:00", "Z"))
            )
        case float() if not math.isfinite(value):
            return None
        case dict():
            return {name: slow_json(member) for name, member in value.items()}
    return value


def decoded(messages: pa.RecordBatch) -> list[Any]:
    return [json.loads(text) for text in to_json(messages).to_pylist()]


@given(readings(TRAFFIC))
def test_every_message_says_what_its_columns_say(batch: pa.RecordBatch) -> None:
    messages = to_messages(batch, TRAFFIC)
    assert decoded(messages) == [slow_json(row) for row in messages.to_pylist()]


@given(st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"]))))
def test_any_text_comes_back(texts: list[str | None]) -> None:
    batch = pa.RecordBatch.from_arrays(
        [pa.array(texts, pa.string()), pa.array(texts, TEXT)], ["plain", "text"]
    )
    assert decoded(batch) == [{"plain": text, "text": text} for text in texts]


@given(st.lists(st.none() | st.floats()))
def test_numbers_come_back_exactly_and_what_json_has_not_as_null(numbers: list[float | None]) -> None:
    finite = [number if number is not None and math.isfinite(number) else None for number in numbers]
    assert [
        row["x"] for row in decoded(pa.RecordBatch.from_pydict({"x": pa.array(numbers, pa.float64())}))
    ] == finite


@pytest.mark.parametrize(
    ("micros", "text"),
    [
        (1330560000_000000, "2012-03-01T00:00:00Z"),
        (1330560000_500000, "2012-03-01T00:00:00.500Z"),
        (1330560000_000001, "2012-03-01T00:00:00.000001Z"),
        (-1, "1969-12-31T23:59:59.999999Z"),
    ],
)
def test_timestamps_are_iso_8601_in_utc(micros: int, text: str) -> None:
    times = pa.array([micros], TIMESTAMP)
    group = pa.StructArray.from_arrays([times], ["at"])
    assert decoded(pa.RecordBatch.from_arrays([times, group], ["at", "group"])) == [
        {"at": text, "group": {"at": text}}
    ]


def test_a_null_group_is_null_and_a_group_of_nulls_is_not() -> None:
    groups = pa.array([None, {"x": None}, {"x": 1.5}], pa.struct([("x", pa.float64())]))
    assert decoded(pa.RecordBatch.from_arrays([groups], ["group"])) == [
        {"group": None},
        {"group": {"x": None}},
        {"group": {"x": 1.5}},
    ]


def test_no_rows_and_no_columns() -> None:
    assert decoded(pa.RecordBatch.from_pydict({"x": pa.array([], pa.string())})) == []
