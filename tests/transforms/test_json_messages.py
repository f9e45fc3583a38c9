from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.feed import TEXT, TIMESTAMP, Feed
from schemas.feeds import FEEDS
from tests.readings import readings
from transforms.json_messages import SAMPLE_ROWS, to_json
from transforms.messages import to_messages

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def slow_json(value: Any) -> Any:
    """The oracle: what a reader of the JSON gets for a value of a column."""
    match value:
        case datetime():
            return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        case float() if not math.isfinite(value):
            return None
        case dict():
            return {name: slow_json(member) for name, member in value.items()}
    return value


def decoded(messages: pa.RecordBatch) -> list[Any]:
    return [json.loads(text) for text in to_json(messages).to_pylist()]


def long(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The rows over and over, so that they are more than the sample that shows whether values repeat."""
    return batch.take(pa.array([row % batch.num_rows for row in range(SAMPLE_ROWS + 100)]))


@pytest.mark.parametrize("feed", FEEDS.values(), ids=FEEDS.keys())
@given(data=st.data())
def test_every_message_says_what_its_columns_say(feed: Feed, data: st.DataObject) -> None:
    messages = to_messages(data.draw(readings(feed.as_raw)), feed.as_raw, now=0)
    expected = [slow_json(row) for row in messages.to_pylist()]
    assert decoded(messages) == expected
    if expected:
        assert decoded(long(messages))[: len(expected)] == expected


@given(st.lists(st.none() | ANY_TEXT, min_size=1), st.booleans())
def test_any_text_comes_back(texts: list[str | None], repeat: bool) -> None:
    batch = pa.RecordBatch.from_arrays(
        [pa.array(texts, pa.string()), pa.array(texts, TEXT)], ["plain", "text"]
    )
    batch = long(batch) if repeat else batch
    assert decoded(batch)[: len(texts)] == [{"plain": text, "text": text} for text in texts]


@given(ANY_TEXT)
def test_any_name_comes_back(name: str) -> None:
    assert decoded(pa.RecordBatch.from_arrays([pa.array([1])], [name])) == [{name: 1}]


@given(st.lists(st.none() | st.floats(), min_size=1), st.booleans())
def test_numbers_come_back_exactly_and_what_json_has_not_as_null(
    numbers: list[float | None], repeat: bool
) -> None:
    finite = [number if number is not None and math.isfinite(number) else None for number in numbers]
    batch = pa.RecordBatch.from_pydict({"x": pa.array(numbers, pa.float64())})
    batch = long(batch) if repeat else batch
    assert [row["x"] for row in decoded(batch)][: len(numbers)] == finite


@given(st.lists(st.integers(-1, 10_000_001), min_size=1), st.sampled_from([1, 10, 1000, 10_000]))
def test_short_decimals_are_written_as_all_numbers_are(numbers: list[int], scale: int) -> None:
    column = pa.array([number / scale for number in numbers])
    texts = [f'{{"x":{text}}}' for text in column.cast(pa.string()).to_pylist()]
    assert to_json(pa.RecordBatch.from_arrays([column], ["x"])).to_pylist() == texts


@pytest.mark.parametrize(
    ("micros", "text"),
    [
        (1330560000_000000, "2012-03-01T00:00:00Z"),
        (1330560000_500000, "2012-03-01T00:00:00.500000Z"),
        (1330560000_000001, "2012-03-01T00:00:00.000001Z"),
        (-1, "1969-12-31T23:59:59.999999Z"),
    ],
)
def test_timestamps_are_iso_8601_in_utc(micros: int, text: str) -> None:
    times = pa.array([micros], TIMESTAMP)
    group = pa.StructArray.from_arrays([times], ["at"])
    messages = pa.RecordBatch.from_arrays([times, group], ["at", "group"])
    assert decoded(messages) == [{"at": text, "group": {"at": text}}]


def test_a_null_group_is_null_and_a_group_of_nulls_is_not() -> None:
    groups = pa.array([None, {"x": None}, {"x": 1.5}], pa.struct([("x", pa.float64())]))
    assert decoded(pa.RecordBatch.from_arrays([groups], ["group"])) == [
        {"group": None},
        {"group": {"x": None}},
        {"group": {"x": 1.5}},
    ]


def test_a_slice_is_its_own_rows_alone() -> None:
    batch = pa.RecordBatch.from_pydict({"text": ['"', "b", None, "d"], "x": [1.0, None, float("nan"), 4.5]})
    assert decoded(batch.slice(1, 3)) == [
        {"text": "b", "x": None},
        {"text": None, "x": None},
        {"text": "d", "x": 4.5},
    ]


@given(st.lists(st.none() | st.lists(st.text() | st.none(), max_size=3), max_size=6), st.integers(0, 6))
def test_lists_come_back(lists: list, start: int) -> None:
    batch = pa.RecordBatch.from_arrays([pa.array(lists, pa.list_(pa.string()))], ["names"]).slice(start)
    assert [row["names"] for row in decoded(batch)] == lists[start:]


def test_the_same_value_in_all_rows_is_in_all_rows() -> None:
    batch = pa.RecordBatch.from_pydict({"text": ["a", "a"], "x": [1, 2]}).cast(
        pa.schema([("text", TEXT), ("x", pa.int64())])
    )
    assert decoded(batch) == [{"text": "a", "x": 1}, {"text": "a", "x": 2}]
    assert to_json(batch.select(["text"])).to_pylist() == ['{"text":"a"}'] * 2


def test_no_rows() -> None:
    assert decoded(pa.RecordBatch.from_pydict({"x": pa.array([], pa.string())})) == []
