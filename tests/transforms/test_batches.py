from __future__ import annotations

import pickle

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given, settings
from hypothesis import strategies as st

from runners.options import IN_PROCESS
from schemas.feed import TEXT
from schemas.traffic import TRAFFIC
from tests.readings import readings
from tests.rows import SIMPLE_ROW, accepted, decoded, records
from transforms.batches import (
    RecordBatchCoder,
    concatenate,
    has_dictionaries,
    with_small_dictionaries,
    without_dictionaries,
)

CODER = RecordBatchCoder()
MANY = accepted(*({"sensor_id": f"s{row % 20_000}", "road_name": f"road {row}"} for row in range(20_000)))


@settings(deadline=None, max_examples=100)
@given(readings(TRAFFIC))
def test_a_batch_comes_back_from_its_bytes(batch: pa.RecordBatch) -> None:
    again = CODER.decode(CODER.encode(batch))
    again.validate(full=True)
    assert again.equals(batch, check_metadata=True)


@settings(deadline=None, max_examples=100)
@given(readings(TRAFFIC), st.integers(0, 12), st.integers(0, 12))
def test_a_slice_without_dictionaries_comes_back_from_its_bytes_as_it_was(
    batch: pa.RecordBatch, start: int, length: int
) -> None:
    plain = without_dictionaries(batch)
    assert not has_dictionaries(plain.schema)
    part = plain.slice(start, length)
    again = CODER.decode(CODER.encode(part))
    again.validate(full=True)
    assert again.equals(part, check_metadata=True)
    assert again.cast(TRAFFIC.reading_schema).to_pylist() == batch.slice(start, length).to_pylist()


def test_small_batches_of_several_schemas_are_told_apart() -> None:
    plain = without_dictionaries(accepted({}))
    told = plain.replace_schema_metadata({"told": "1"})
    batches = [plain, told, plain.select(["speed_mph"]), records([SIMPLE_ROW]), plain, accepted({})]
    for batch in batches:
        assert CODER.decode(CODER.encode(batch)).equals(batch, check_metadata=True)


def test_a_coder_that_was_used_is_still_the_same_to_beam() -> None:
    coder = RecordBatchCoder()
    coder.encode(without_dictionaries(accepted({})))
    assert coder == RecordBatchCoder()
    assert pickle.dumps(coder) == pickle.dumps(RecordBatchCoder())


def test_a_slice_without_dictionaries_has_a_third_fewer_bytes() -> None:
    batch = accepted(*({"sensor_id": f"s{row}"} for row in range(20)))
    assert len(CODER.encode(without_dictionaries(batch))) < len(CODER.encode(batch)) * 2 / 3


@pytest.mark.parametrize(
    "batch", [records([]), records([SIMPLE_ROW] * 3), records([SIMPLE_ROW] * 3).slice(1, 1), decoded({})]
)
def test_metadata_and_empty_batches_come_back_too(batch: pa.RecordBatch) -> None:
    assert CODER.decode(CODER.encode(batch)).equals(batch, check_metadata=True)


def test_beam_takes_the_coder_wherever_a_step_says_that_it_holds_batches() -> None:
    assert isinstance(beam.coders.registry.get_coder(pa.RecordBatch), RecordBatchCoder)
    pair = beam.coders.registry.get_coder(tuple[int, pa.RecordBatch])
    assert pair.decode(pair.encode((7, records([SIMPLE_ROW])))) == (7, records([SIMPLE_ROW]))


def test_the_size_of_a_batch_is_told_without_encoding_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = beam.coders.registry.get_coder(tuple[int, pa.RecordBatch])
    encoded = len(pair.encode((7, MANY)))
    monkeypatch.delattr(RecordBatchCoder, "encode")
    assert encoded / 10 < pair.get_impl().estimate_size((7, MANY)) < encoded * 10


def test_a_slice_encodes_its_own_rows_only() -> None:
    ten = with_small_dictionaries(MANY.slice(5_000, 10))
    assert ten.to_pylist() == MANY.slice(5_000, 10).to_pylist()
    assert len(CODER.encode(ten)) < 10_000 < 100_000 < len(CODER.encode(MANY.slice(5_000, 10)))
    assert len(pickle.dumps(MANY.slice(5_000, 10))) > 500_000


@settings(deadline=None, max_examples=150)
@given(st.lists(st.none() | st.text(max_size=3), max_size=12), st.integers(0, 12), st.integers(0, 12))
def test_small_dictionaries_hold_the_values_in_use_and_no_others_where_they_were_too_large(
    values: list[str | None], start: int, length: int
) -> None:
    column = pa.array(values, pa.string()).dictionary_encode()
    schema = pa.schema([pa.field("x", TEXT, metadata={"unit": "x"})], metadata={"a": "b"})
    batch = pa.RecordBatch.from_arrays([column], schema=schema).slice(start, length)
    smaller = with_small_dictionaries(batch)
    smaller.validate(full=True)
    assert smaller.schema.equals(schema, check_metadata=True)
    assert smaller["x"].to_pylist() == values[start : start + length]
    if smaller is not batch:
        assert set(smaller["x"].dictionary.to_pylist()) == set(values[start : start + length]) - {None}
    assert len(smaller["x"].dictionary) <= max(batch.num_rows, 0)


@settings(deadline=None, max_examples=100)
@given(st.lists(readings(TRAFFIC), min_size=1, max_size=4))
def test_batches_concatenate_to_all_their_rows_with_each_text_once(batches: list[pa.RecordBatch]) -> None:
    whole = concatenate(iter(batches))
    whole.validate(full=True)
    assert whole.to_pylist() == [row for batch in batches for row in batch.to_pylist()]
    for column in whole.columns:
        if column.type == TEXT:
            assert len(set(column.dictionary.to_pylist())) == len(column.dictionary)


def test_no_batch_at_all_cannot_be_concatenated() -> None:
    with pytest.raises(ValueError):
        concatenate([])


def test_batches_pass_through_a_group_by_key() -> None:
    with TestPipeline(runner=IN_PROCESS) as pipeline:
        pairs = [(1, records([SIMPLE_ROW])), (2, records([b"b\n"])), (1, records([b"a\n"]))]
        grouped = (
            pipeline
            | beam.Create(pairs).with_output_types(tuple[int, pa.RecordBatch])
            | beam.GroupByKey()
            | beam.MapTuple(lambda key, batches: (key, sum(batch.num_rows for batch in batches)))
        )
        assert_that(grouped, equal_to([(1, 2), (2, 1)]))
