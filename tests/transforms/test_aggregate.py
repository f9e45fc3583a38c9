from __future__ import annotations

import math
import statistics
from collections import defaultdict
from fractions import Fraction

import apache_beam as beam
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given, settings
from hypothesis import strategies as st

from runners.options import IN_PROCESS
from schemas.traffic import TRAFFIC
from tests.rows import accepted, micros
from transforms.aggregate import AggregateWindows, Runs, aggregate, distinct_count
from transforms.deduplicate import deduplicate

SECOND = 1_000_000
MIDNIGHT = micros("2012-03-01")
NUMBERS = ("speed_mph", "volume_vph", "occupancy_percent")

rows = st.fixed_dictionaries(
    {
        "sensor_id": st.sampled_from(["s1", "s2", "s10"]),
        "timestamp": st.integers(-3, 3).map(lambda minutes: MIDNIGHT + minutes * 150 * SECOND),
        "speed_mph": st.floats(0, 120) | st.sampled_from([0.0, -0.0, 60.0]),
        "volume_vph": st.none() | st.floats(0, 20_000),
        "occupancy_percent": st.none(),
    }
)


@settings(deadline=None)
@given(
    st.lists(st.lists(st.tuples(*[st.none() | st.integers(0, 2)] * 2), min_size=1), min_size=1, max_size=3)
)
def test_distinct_combinations_are_those_of_a_set_in_whatever_order_they_come(
    runs: list[list[tuple]],
) -> None:
    starts = np.cumsum([0, *map(len, runs)])[:-1]
    columns = np.array([row for run in runs for row in run], np.float64).T
    counted = distinct_count(*(Runs(column, starts, np.array(list(map(len, runs)))) for column in columns))
    assert counted.tolist() == [len(set(run)) for run in runs]


def sorted_readings(rows: list[dict]) -> pa.RecordBatch:
    return deduplicate(accepted(*rows), TRAFFIC)[0]


def figures(batch: pa.RecordBatch) -> list[dict]:
    """The rows, with the windows' ends as seconds since the epoch."""
    found = pa.Table.from_batches([batch]).to_pylist()
    for row in found:
        for name in ("window_start", "window_end"):
            row[name] = round(row[name].timestamp())
    return found


def slow_aggregate(readings: list[dict], seconds: int, zero_is_missing: bool) -> list[dict]:
    groups = defaultdict(list)
    for row in readings:
        groups[row["sensor_id"], row["timestamp"] // SECOND // seconds * seconds].append(row)
    expected = []
    for (sensor, start), members in sorted(groups.items()):
        present = {name: [row[name] for row in members if row[name] is not None] for name in NUMBERS}
        if zero_is_missing:
            present["speed_mph"] = [speed for speed in present["speed_mph"] if speed != 0]
        speeds, volumes = present["speed_mph"], present["volume_vph"]
        expected.append(
            {
                "sensor_id": sensor,
                "window_start": start,
                "window_end": start + seconds,
                "avg_speed": np.mean(speeds) if speeds else None,
                "avg_volume": np.mean(volumes) if volumes else None,
                "avg_occupancy": None,
                "speed_variance": np.var(speeds) if speeds else None,
                "message_count": len(members),
                "min_speed": min(speeds, default=None),
                "max_speed": max(speeds, default=None),
                "p85_speed": np.percentile(speeds, 85) if speeds else None,
                "missing_count": len(members) - len(speeds),
            }
        )
    return expected


def assert_same(found: list[dict], expected: list[dict]) -> None:
    for row, wanted in zip(found, expected, strict=True):
        assert wanted.keys() <= row.keys()
        for name, value in wanted.items():
            if isinstance(value, float):
                assert math.isclose(row[name], value, rel_tol=1e-9, abs_tol=1e-9), name
            else:
                assert row[name] == value, name


@settings(deadline=None, max_examples=200)
@given(
    st.lists(rows, min_size=1, max_size=12, unique_by=lambda row: (row["sensor_id"], row["timestamp"])),
    st.sampled_from([1, 150, 300, 420, 86_400, 100_000]),
    st.booleans(),
)
def test_figures_are_those_of_an_oracle(rows: list[dict], seconds: int, zero_is_missing: bool) -> None:
    batch = aggregate(sorted_readings(rows), TRAFFIC, seconds, zero_is_missing)
    batch.validate(full=True)
    assert batch.schema.equals(TRAFFIC.aggregate_schema, check_metadata=True)
    assert_same(figures(batch), slow_aggregate(rows, seconds, zero_is_missing))


def test_a_day_of_readings_agrees_with_pandas() -> None:
    random = np.random.default_rng(7)
    frame = pd.DataFrame(
        {
            "sensor_id": [f"s{n % 20}" for n in range(20_000)],
            "timestamp": MIDNIGHT + np.arange(20_000) // 20 * 86 * SECOND,
            "speed_mph": random.uniform(0, 120, 20_000),
        }
    )
    batch = aggregate(sorted_readings(frame.to_dict("records")), TRAFFIC, 420)
    frame["window_start"] = frame["timestamp"] // SECOND // 420 * 420
    groups = frame.groupby(["sensor_id", "window_start"])["speed_mph"]
    expected = pd.DataFrame(
        {
            "avg_speed": groups.mean(),
            "speed_variance": groups.var(ddof=0),
            "message_count": groups.count(),
            "min_speed": groups.min(),
            "max_speed": groups.max(),
            "p85_speed": groups.quantile(0.85),
        }
    )
    found = pd.DataFrame(figures(batch)).set_index(["sensor_id", "window_start"])[list(expected.columns)]
    pd.testing.assert_frame_equal(found, expected, rtol=1e-9)


def speeds_in_one_window(*speeds: float | None) -> pa.RecordBatch:
    rows = [{"timestamp": MIDNIGHT + n, "speed_mph": speed} for n, speed in enumerate(speeds)]
    return sorted_readings(rows)


@pytest.mark.parametrize(("count", "rank"), [(1, 0), (2, 0.85), (3, 1.7), (10, 7.65), (21, 17)])
def test_the_85th_percentile_lies_between_the_two_closest_ranks(count: int, rank: float) -> None:
    speeds = [float(speed) for speed in range(count)]
    (row,) = figures(aggregate(speeds_in_one_window(*reversed(speeds)), TRAFFIC, 300))
    assert row["p85_speed"] == pytest.approx(rank)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(-1_000, 1_000).map(lambda n: 1e9 + n / 1_024), min_size=1, max_size=100))
def test_the_variance_is_right_where_the_squares_of_the_values_cancel(values: list[float]) -> None:
    (row,) = figures(aggregate(speeds_in_one_window(*values), TRAFFIC, 300))
    exact = float(statistics.pvariance(map(Fraction, values)))
    assert row["speed_variance"] == pytest.approx(exact, rel=1e-6, abs=1e-12)


def test_of_one_reading_every_figure_is_that_reading_and_the_variance_is_zero() -> None:
    (row,) = figures(aggregate(speeds_in_one_window(0.1), TRAFFIC, 300))
    assert row["avg_speed"] == row["min_speed"] == row["max_speed"] == row["p85_speed"] == 0.1
    assert (row["speed_variance"], row["message_count"], row["missing_count"]) == (0.0, 1, 0)


def test_a_zero_counts_unless_it_is_said_to_be_missing() -> None:
    readings = speeds_in_one_window(0.0, 60.0, 0.0)
    (kept,) = figures(aggregate(readings, TRAFFIC, 300))
    (left_out,) = figures(aggregate(readings, TRAFFIC, 300, zero_is_missing=True))
    assert (kept["avg_speed"], kept["min_speed"], kept["message_count"], kept["missing_count"]) == (
        20,
        0,
        3,
        0,
    )
    assert (left_out["avg_speed"], left_out["min_speed"], left_out["message_count"]) == (60, 60, 3)
    assert left_out["missing_count"] == 2


def test_zero_means_missing_only_where_the_declaration_says_so() -> None:
    readings = accepted({"speed_mph": 0.0, "volume_vph": 0.0, "occupancy_percent": 0.0})
    (row,) = figures(aggregate(readings, TRAFFIC, 300, zero_is_missing=True))
    assert (row["avg_speed"], row["avg_volume"], row["avg_occupancy"]) == (None, 0.0, 0.0)


def test_a_window_whose_readings_are_all_missing_has_null_figures_and_its_counts() -> None:
    (row,) = figures(aggregate(speeds_in_one_window(0.0, 0.0), TRAFFIC, 300, zero_is_missing=True))
    names = ("avg_speed", "speed_variance", "min_speed", "max_speed", "p85_speed", "avg_volume")
    assert [row[name] for name in names] == [None] * 6
    assert (row["message_count"], row["missing_count"]) == (2, 2)


def test_a_window_may_be_missing_beside_one_that_is_not() -> None:
    rows = [
        {"sensor_id": sensor, "timestamp": MIDNIGHT + n * SECOND, "volume_vph": volume}
        for sensor, volume in (("s1", None), ("s2", 100.0), ("s3", None))
        for n in range(2)
    ]
    batch = aggregate(sorted_readings(rows), TRAFFIC, 300)
    assert batch["avg_volume"].to_pylist() == [None, 100.0, None]


def test_windows_that_do_not_divide_a_day_run_on_across_midnight() -> None:
    times = [MIDNIGHT - 1, MIDNIGHT, MIDNIGHT + 419 * SECOND]
    batch = aggregate(sorted_readings([{"timestamp": when} for when in times]), TRAFFIC, 420)
    starts = [row["window_start"] for row in figures(batch)]
    assert starts == sorted({when // SECOND // 420 * 420 for when in times})
    assert all(start % 420 == 0 for start in starts)


def test_windows_before_the_epoch_hold_their_readings() -> None:
    (first, second) = figures(aggregate(sorted_readings([{"timestamp": -1}, {"timestamp": 0}]), TRAFFIC, 300))
    assert (first["window_start"], first["window_end"], second["window_start"]) == (-300, 0, 0)


def test_no_reading_has_no_window() -> None:
    batch = aggregate(accepted(), TRAFFIC, 300)
    assert batch.num_rows == 0 and batch.schema.equals(TRAFFIC.aggregate_schema)


def test_aggregate_windows_in_a_pipeline_keeps_the_start_of_the_group() -> None:
    readings = sorted_readings([{"timestamp": MIDNIGHT + n * 200 * SECOND} for n in range(3)])
    start = MIDNIGHT // SECOND
    with TestPipeline(runner=IN_PROCESS) as pipeline:
        aggregated = pipeline | beam.Create([(start, readings)]) | AggregateWindows(TRAFFIC, 300)
        counts = aggregated | beam.MapTuple(lambda start, batch: (start, batch["message_count"].to_pylist()))
        assert_that(counts, equal_to([(start, [2, 1])]))
