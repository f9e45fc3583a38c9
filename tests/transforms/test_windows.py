from __future__ import annotations

import calendar
import time
from collections import defaultdict
from collections.abc import Iterable

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.test_stream import TestStream
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms.window import FixedWindows, TimestampedValue
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runners.options import IN_PROCESS
from schemas.traffic import TRAFFIC
from tests.rows import accepted, micros
from transforms.batches import RecordBatchCoder
from transforms.windows import GroupByWindow, split_by_shard, split_by_window, whole_windows_of_a_day

SUPPORTS_TEST_STREAM = "apache_beam.runners.direct.direct_runner.BundleBasedDirectRunner"
SECOND = 1_000_000
DAY = 86_400


def at(*times: int) -> pa.RecordBatch:
    """Readings at those microseconds."""
    return accepted(*({"timestamp": when} for when in times))


def times_of(batch: pa.RecordBatch) -> list[int]:
    return batch["timestamp"].view(pa.int64()).to_pylist()


def slow_split(times: list[int], seconds: int) -> list[tuple[int, list[int]]]:
    windows = defaultdict(list)
    for when in times:
        windows[when // SECOND // seconds * seconds].append(when)
    return sorted(windows.items())


# The year 1 to the year 9999.
event_times = st.integers(-62_135_596_800, 253_402_300_799).map(lambda second: second * SECOND)
close_times = st.integers(-2_000 * SECOND, 2_000 * SECOND)


@settings(deadline=None, max_examples=150)
@given(
    st.lists(event_times | close_times, max_size=8),
    st.sampled_from([1, 60, 300, 420, 3_600, DAY, 7 * DAY]),
    st.booleans(),
)
@example([-1, 0, -300 * SECOND, -300 * SECOND - 1], 300, False)
def test_windows_hold_the_rows_that_an_oracle_puts_there(
    times: list[int], seconds: int, in_order: bool
) -> None:
    times = sorted(times) if in_order else times
    found = []
    for start, batch in split_by_window(at(*times), seconds):
        batch.validate(full=True)
        found.append((start, times_of(batch)))
    assert found == slow_split(times, seconds)


@settings(deadline=None, max_examples=150)
@given(event_times, st.sampled_from([1, 300, 420, DAY]))
def test_windows_are_those_of_beam(when: int, seconds: int) -> None:
    ((start, _),) = split_by_window(at(when), seconds)
    (window,) = FixedWindows(seconds).assign(FixedWindows.AssignContext(when // SECOND))
    assert window.start == start


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("2012-03-01 23:59:59.999999", "2012-03-02 00:00:00"),
        ("2012-02-28 23:59:59.999999", "2012-02-29 00:00:00"),
        ("2012-02-29 23:59:59.999999", "2012-03-01 00:00:00"),
        ("2011-12-31 23:59:59.999999", "2012-01-01 00:00:00"),
        ("1969-12-31 23:59:59.999999", "1970-01-01 00:00:00"),
        ("2012-03-11 09:59:59.999999", "2012-03-11 10:00:00"),
        ("2012-11-04 08:59:59.999999", "2012-11-04 09:00:00"),
    ],
    ids=["midnight", "leap day begins", "month ends", "year ends", "epoch", "DST begins", "DST ends"],
)
def test_a_window_ends_where_the_next_begins(before: str, after: str) -> None:
    (first, early), (second, late) = split_by_window(at(micros(before), micros(after)), 300)
    assert (second, second - first) == (micros(after) // SECOND, 300)
    assert (times_of(early), times_of(late)) == ([micros(before)], [micros(after)])


@pytest.mark.parametrize(("day", "hours"), [("2012-03-11", 24), ("2012-11-04", 24), ("2012-02-29", 24)])
def test_a_day_has_as_many_windows_whatever_the_clocks_do(day: str, hours: int) -> None:
    midnight = micros(day)
    times = [midnight + minute * 60 * SECOND for minute in range(hours * 60)]
    windows = list(split_by_window(at(*times), 300))
    assert len(windows) == 288
    assert {batch.num_rows for _, batch in windows} == {5}
    assert windows[0][0] == calendar.timegm(time.strptime(day, "%Y-%m-%d"))


def test_windows_of_one_row_each_keep_their_dictionaries_small() -> None:
    rows = (
        {"timestamp": n * 300 * SECOND, "sensor_id": f"s{n}", "road_name": f"road {n}"} for n in range(2_000)
    )
    windows = list(split_by_window(accepted(*rows), 300))
    assert [(start, batch["sensor_id"].to_pylist()) for start, batch in windows] == [
        (n * 300, [f"s{n}"]) for n in range(2_000)
    ]
    assert max(len(RecordBatchCoder().encode(batch)) for _, batch in windows[:20]) < 10_000


def test_rows_of_a_window_keep_their_order() -> None:
    rows = [
        {"timestamp": when * SECOND, "speed_mph": float(place)}
        for place, when in enumerate([600, 0, 650, 1, 0])
    ]
    found = [
        (start, batch["speed_mph"].to_pylist()) for start, batch in split_by_window(accepted(*rows), 300)
    ]
    assert found == [(0, [1.0, 3.0, 4.0]), (600, [0.0, 2.0])]


@pytest.mark.parametrize("seconds", [1, 7, 300, 420, 3_600, DAY, DAY + 1, 7 * DAY])
def test_a_group_is_as_many_whole_windows_as_fit_in_a_day(seconds: int) -> None:
    group = whole_windows_of_a_day(seconds)
    assert group % seconds == 0
    assert group == seconds if seconds > DAY // 2 else DAY - seconds < group <= DAY


sensors = st.lists(st.text(max_size=3), max_size=12)


@settings(deadline=None, max_examples=100)
@given(sensors, sensors, st.integers(1, 5))
def test_a_sensor_is_always_in_the_same_shard(some: list[str], others: list[str], shards: int) -> None:
    shard_of: dict[str, int] = {}
    for batch in (some, others):
        found = []
        for shard, rows in split_by_shard(
            accepted(*({"sensor_id": name} for name in batch)), shards, "sensor_id"
        ):
            assert 0 <= shard < shards
            assert rows["position"].to_pylist() == sorted(rows["position"].to_pylist())
            for name in rows["sensor_id"].to_pylist():
                assert shard_of.setdefault(name, shard) == shard
                found.append(name)
        assert sorted(found) == sorted(batch)


# --- In pipelines ------------------------------------------------------------------------------------


def seconds_in(start: int, batches: Iterable[pa.RecordBatch]) -> tuple[int, list[int]]:
    return start, sorted(when // SECOND for batch in batches for when in times_of(batch))


@pytest.mark.parametrize("group_seconds", [300, 3_600])
def test_readings_of_all_batches_meet_in_their_window(group_seconds: int) -> None:
    first, second = at(0, 299 * SECOND, 300 * SECOND), at(3_700 * SECOND, 298 * SECOND, -1)
    with TestPipeline(runner=IN_PROCESS) as pipeline:
        grouped = (
            pipeline
            | beam.Create([first, second]).with_output_types(pa.RecordBatch)
            | GroupByWindow(TRAFFIC, group_seconds)
            | beam.MapTuple(seconds_in)
        )
        expected = slow_split(times_of(first) + times_of(second), group_seconds)
        assert_that(
            grouped,
            equal_to([(start, sorted(when // SECOND for when in times)) for start, times in expected]),
        )


def told(
    stream: TestStream, expected: list[tuple[int, list[int]]], lateness: int = 600, **options: int
) -> None:
    """Runs GroupByWindow over a story; `expected` are its panes, (start, seconds of all rows in it)."""
    group = GroupByWindow(TRAFFIC, 300, lateness, **options)
    with TestPipeline(runner=SUPPORTS_TEST_STREAM, options=PipelineOptions(streaming=True)) as pipeline:
        panes = pipeline | stream | group | beam.MapTuple(seconds_in)
        assert_that(panes, equal_to(expected))


def story() -> TestStream:
    return TestStream(coder=RecordBatchCoder())


def stamped(*seconds: int) -> TimestampedValue:
    """A batch with readings at those seconds, stamped with the earliest of them as sources stamp it."""
    return TimestampedValue(at(*(second * SECOND for second in seconds)), min(seconds))


def test_on_time_readings_come_out_once_when_the_watermark_passes_their_window() -> None:
    stream = story().add_elements([stamped(10, 20)]).advance_watermark_to(200).add_elements([stamped(250)])
    told(stream.advance_watermark_to(301).advance_watermark_to_infinity(), [(0, [10, 20, 250])])


def test_late_readings_within_the_lateness_give_a_second_pane_with_all_rows() -> None:
    stream = story().add_elements([stamped(10, 20)]).advance_watermark_to(400).add_elements([stamped(30)])
    stream = stream.advance_watermark_to(800).add_elements([stamped(40)]).advance_watermark_to_infinity()
    told(stream, [(0, [10, 20]), (0, [10, 20, 30]), (0, [10, 20, 30, 40])])


def test_readings_later_than_the_lateness_are_dropped_by_the_runner() -> None:
    """Whoever has to account for them must look at the watermark before this step."""
    stream = story().add_elements([stamped(10, 20)]).advance_watermark_to(901).add_elements([stamped(30)])
    told(stream.advance_watermark_to_infinity(), [(0, [10, 20])])


def test_a_batch_that_straddles_windows_is_late_in_one_and_on_time_in_the_other() -> None:
    stream = (
        story().add_elements([stamped(10)]).advance_watermark_to(310).add_elements([stamped(20, 310, 620)])
    )
    stream = stream.advance_watermark_to(650).add_elements([stamped(320)]).advance_watermark_to_infinity()
    told(stream, [(0, [10]), (0, [10, 20]), (300, [310]), (300, [310, 320]), (600, [620])])


def test_of_a_batch_that_straddles_windows_only_what_is_too_late_is_dropped() -> None:
    stream = story().advance_watermark_to(1_000).add_elements([stamped(20, 310, 1_020)])
    told(stream.advance_watermark_to_infinity(), [(300, [310]), (900, [1_020])])


def test_without_lateness_every_late_reading_is_dropped() -> None:
    stream = story().add_elements([stamped(10)]).advance_watermark_to(301).add_elements([stamped(20)])
    told(stream.advance_watermark_to_infinity(), [(0, [10])], lateness=0)


def test_early_panes_come_while_a_window_is_open_each_with_all_its_rows_so_far() -> None:
    stream = story().add_elements([stamped(10)]).advance_processing_time(31)
    stream = stream.add_elements([stamped(20)]).advance_processing_time(31)
    stream = stream.add_elements([stamped(30)]).advance_watermark_to(301).advance_watermark_to_infinity()
    told(stream, [(0, [10]), (0, [10, 20]), (0, [10, 20, 30])], early_seconds=30)
