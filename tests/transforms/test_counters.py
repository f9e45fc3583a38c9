from __future__ import annotations

from collections.abc import Iterable

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.testing.test_pipeline import TestPipeline
from hypothesis import given
from hypothesis import strategies as st

from runners.options import IN_PROCESS
from schemas.feed import TIMESTAMP
from schemas.metrics import LATENCY_SECONDS
from transforms import counters
from transforms.counters import STEPS, counted, losses

NOTHING_LOST = {
    "read": 100,
    "decoded": 97,
    "decode_failures": 3,
    "validated": 90,
    "validate_failures": 7,
    "grouped": 90,
    "unique": 85,
    "duplicates": 5,
    "accepted": 85,
    "aggregated": 85,
    "dead_letters": 10,
}


def test_every_counter_that_a_step_looks_at_is_tried_here() -> None:
    assert {name for _, entering, leaving in STEPS for name in (*entering, *leaving)} == set(NOTHING_LOST)


def test_nothing_lost_is_no_line() -> None:
    assert list(losses(NOTHING_LOST)) == []
    assert list(losses({})) == []


@pytest.mark.parametrize(("step", "entering", "leaving"), STEPS, ids=[step for step, *_ in STEPS])
def test_a_step_that_loses_rows_is_named_and_no_step_before_it(
    step: str, entering: tuple[str, ...], leaving: tuple[str, ...]
) -> None:
    before = sum(NOTHING_LOST[name] for name in entering)
    (first, *_) = losses({**NOTHING_LOST, leaving[0]: NOTHING_LOST[leaving[0]] - 2})
    assert first == f"{step}: {before} rows in, {before - 2} out"


def test_rows_that_come_from_nowhere_are_named_too() -> None:
    assert list(losses({**NOTHING_LOST, "accepted": 1_085})) == ["write raw: 85 rows in, 1,085 out"]


def count(numbers: Iterable[int]) -> int:
    counters.add(read=sum(numbers), decoded=1)
    return 0


def test_what_steps_add_can_be_read_when_the_run_is_done() -> None:
    pipeline = TestPipeline(runner=IN_PROCESS)
    _ = pipeline | beam.Create([[1, 2], [3]]) | beam.Map(count)
    result = pipeline.run()
    result.wait_until_finish()
    assert counted(result) == {"read": 6, "decoded": 2}


@given(st.lists(st.text(), min_size=1))
def test_labels_come_back_from_the_one_name_that_flink_leaves_as_it_is(parts: list[str]) -> None:
    encoded = counters.encode("name", *parts)
    assert counters.decode(encoded) == ("name", *parts)
    assert not set(encoded) & set(" .:,\"'<>=;?&/")


def test_sensors_of_the_newest_window_are_counted_once_each() -> None:
    counters.live.reset()
    starts = pa.array([0, 300_000_000, 300_000_000, 300_000_000], TIMESTAMP)
    sensors = pa.array(["a", "b", "b", "c"]).dictionary_encode()
    aggregates = pa.RecordBatch.from_arrays([sensors, starts], ["sensor_id", "window_start"])
    counters.sensors_reporting(aggregates, "sensor_id")
    assert divmod(counters.live.figures()["sensors-0"], 1 << counters.SENSOR_BITS) == (300, 2)


def test_an_observation_on_a_bound_is_in_its_bucket() -> None:
    counters.live.reset()
    for seconds in (0.5, 0.500001, 1e9):
        counters.observe("latency", seconds, "event")
    figures = counters.live.figures()
    assert {name for name in figures if name.startswith("latency-")} == {
        "latency-event-0",
        "latency-event-1",
        f"latency-event-{len(LATENCY_SECONDS)}",
    }
