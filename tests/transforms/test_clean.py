from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import apache_beam as beam
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.test_stream import TestStream
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms.window import TimestampedValue
from hypothesis import given, settings
from hypothesis import strategies as st

from runners.options import IN_PROCESS
from schemas.air_quality import AIR_QUALITY, MEASURED
from schemas.clean import clean_schema
from transforms.batches import RecordBatchCoder, concatenate
from transforms.clean import (
    ORIGINS,
    Clean,
    CleanPanes,
    DayBefore,
    FindMedians,
    clean,
    clean_between,
    fill,
    rolling_mean,
    stretch_of,
    sums_of_consecutive,
)
from transforms.csv_files import find_blocks, read_block
from transforms.decode_csv import decode_csv
from transforms.deduplicate import deduplicate
from transforms.medians import count_values, declared_medians, file_medians, medians, medians_of
from transforms.parquet import with_plain_text
from transforms.rules import validate
from transforms.windows import GatherStretches, GroupByStretch, Stretch

patient = settings(deadline=None)
UCI = Path(__file__).parents[3] / "shared" / "data" / "AirQualityUCI.csv"
uci_file = pytest.mark.skipif(not UCI.exists(), reason="needs the UCI file: ../shared/data/AirQualityUCI.csv")
SUPPORTS_TEST_STREAM = "apache_beam.runners.direct.direct_runner.BundleBasedDirectRunner"
FIRST = datetime(2004, 12, 1, tzinfo=UTC)

gappy = st.lists(st.none() | st.integers(-9, 9), max_size=30)


def reading(hour: int, station: str = "a", nulled: tuple[str, ...] = (), **values: float | None) -> dict:
    measured = {field.name: 1.0 for field in MEASURED} | values
    where = {"source": "a.csv", "partition": None, "position": hour + 1}
    time = FIRST + timedelta(hours=hour)
    return {"station": station, "timestamp": time, **measured, **where, "nulled": nulled}


def cleaned(*readings: dict, reference: dict[str, float] | None = None) -> list[dict]:
    batch = pa.RecordBatch.from_pylist(readings, AIR_QUALITY.reading_schema)
    result = clean(batch, AIR_QUALITY, reference or medians(batch, AIR_QUALITY))
    result.validate(full=True)
    assert result.schema.equals(clean_schema(AIR_QUALITY), check_metadata=True)
    return result.to_pylist()


def hourly(series: pd.Series) -> pd.Series:
    """The series with a row for every hour, and each gap filled as pandas does."""
    whole = series.resample("h").asfreq()
    return whole.ffill(limit=3).bfill(limit=3)


@patient
@given(st.lists(gappy, min_size=1, max_size=4), st.floats(0, 1) | st.just(np.nan))
def test_gaps_are_filled_as_pandas_fills_them(runs: list[list], median: float) -> None:
    """In hourly series, where None is an hour without a value or, when 0, one without a row."""
    series = []
    for run in runs:
        index = pd.date_range(FIRST, periods=len(run), freq="h")
        rows = [hour for hour, value in enumerate(run) if value != 0]
        series.append(pd.Series(np.array(run, np.float64)[rows], index[rows]))
    series = [each for each in series if len(each)] or [pd.Series([np.nan], [pd.Timestamp(FIRST)])]
    starts = np.cumsum([0, *map(len, series)])[:-1]
    values, times = (
        np.concatenate(each) for each in ([s.to_numpy() for s in series], [hours(s.index) for s in series])
    )
    filled = fill(values, times, starts, median, span=3)
    forward = pd.concat([s.resample("h").asfreq().ffill(limit=3)[s.index] for s in series])
    both = pd.concat([hourly(s)[s.index] for s in series])
    np.testing.assert_array_equal(filled.values, both.fillna(median).to_numpy())
    origins = np.select(
        [~np.isnan(values), forward.notna(), both.notna(), np.full(len(values), not np.isnan(median))],
        ["observed", "forward", "backward", "median"],
        "missing",
    )
    assert [ORIGINS[origin] for origin in filled.origins] == origins.tolist()


def hours(index: pd.Index) -> np.ndarray:
    return ((pd.DatetimeIndex(index) - FIRST) / pd.Timedelta("1h")).to_numpy()


def test_at_most_three_in_a_row_are_filled_however_close_they_are() -> None:
    values = np.array([1, *[np.nan] * 7, 9])
    filled = fill(values, np.arange(9), np.array([0]), median=0, span=1_000)
    assert filled.values.tolist() == [1, 1, 1, 1, 0, 9, 9, 9, 9]


@patient
@given(
    st.lists(
        st.lists(st.tuples(st.integers(1, 60), st.none() | st.integers(-99, 99)), min_size=1),
        min_size=1,
        max_size=3,
    )
)
def test_rolling_means_are_those_of_pandas(runs: list[list[tuple[int, int | None]]]) -> None:
    starts = np.cumsum([0, *map(len, runs)])[:-1]
    times = np.concatenate([np.cumsum([hours for hours, _ in run]) for run in runs]) * 3_600_000_000
    values = np.array([value for run in runs for _, value in run], np.float64)
    expected = pd.concat(
        [
            pd.Series(values[a : a + len(r)], pd.to_datetime(times[a : a + len(r)], unit="us"))
            .rolling("24h")
            .mean()
            for a, r in zip(starts, runs, strict=True)
        ]
    )
    np.testing.assert_allclose(
        rolling_mean(values, DayBefore.of(times, starts)), expected.to_numpy(), atol=1e-9
    )


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300), st.data())
def test_sums_of_consecutive_values_are_numpys_to_the_last_digit(
    values: list[float], data: st.DataObject
) -> None:
    length = data.draw(st.integers(1, len(values)))
    whole = np.array([*values, 0.0])
    expected = [
        np.add.reduceat(whole, [start, start + length])[0] for start in range(len(values) - length + 1)
    ]
    np.testing.assert_array_equal(sums_of_consecutive(whole[:-1], length), expected)


def test_a_filled_value_says_how_it_came_about() -> None:
    values = [None, 2.0, None, None, None, None, None, None, None, 4.0]
    rows = cleaned(*(reading(hour, benzene_ug_m3=value) for hour, value in enumerate(values)))
    assert [row["benzene_ug_m3"] for row in rows] == [2, 2, 2, 2, 2, 3, 4, 4, 4, 4]
    assert [row["benzene_ug_m3_origin"] for row in rows] == [
        *("backward", "observed", "forward", "forward", "forward"),
        *("median", "backward", "backward", "backward", "observed"),
    ]


def test_nothing_is_filled_from_another_station() -> None:
    rows = cleaned(
        reading(0, "a"), reading(0, "b", benzene_ug_m3=None), reference=dict.fromkeys(AIR_QUALITY.any_of, 7.0)
    )
    assert (rows[1]["benzene_ug_m3"], rows[1]["benzene_ug_m3_origin"]) == (7.0, "median")


@patient
@given(
    st.lists(st.lists(st.none() | st.sampled_from([1.5, 2.0, 7.25, -1e300, 1e300])), min_size=1, max_size=4)
)
def test_medians_of_counted_parts_are_those_that_numpy_gives_of_the_whole(parts: list[list]) -> None:
    schema = AIR_QUALITY.reading_schema
    batches = [
        pa.RecordBatch.from_pylist(
            [reading(hour, benzene_ug_m3=value) for hour, value in enumerate(part)], schema
        )
        for part in parts
    ]
    found = medians_of(concatenate(count_values(batch, AIR_QUALITY) for batch in batches), AIR_QUALITY)
    values = [value for part in parts for value in part if value is not None]
    expected = np.median(values) if values else np.nan
    np.testing.assert_equal(found["benzene_ug_m3"], expected)


def test_a_series_without_any_value_stays_without() -> None:
    (row,) = cleaned(reading(0, benzene_ug_m3=None))
    assert (row["benzene_ug_m3"], row["benzene_ug_m3_origin"], row["benzene_ug_m3_mean_24h"]) == (
        None,
        "missing",
        None,
    )


def test_quality_is_the_share_of_fields_that_came_with_a_usable_value() -> None:
    nulled = ("temperature_celsius_out_of_range",)
    perfect, poor = cleaned(
        reading(0),
        reading(1, nulled=nulled, temperature_celsius=None, benzene_ug_m3=None, absolute_humidity=None),
    )
    assert (perfect["quality_score"], perfect["missing_ratio"], perfect["qa_missing_fields"]) == (
        1.0,
        0.0,
        [],
    )
    assert poor["quality_score"] == pytest.approx(10 / 13)
    assert poor["missing_ratio"] == pytest.approx(3 / 13)
    assert poor["qa_missing_fields"] == ["benzene_ug_m3", "absolute_humidity"]
    assert poor["qa_out_of_range_fields"] == ["temperature_celsius"]


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        (datetime(2004, 3, 10, 18, tzinfo=UTC), (18, 2, 3, "spring")),
        (datetime(2004, 12, 31, tzinfo=UTC), (0, 4, 12, "winter")),
        (datetime(2005, 2, 28, 23, tzinfo=UTC), (23, 0, 2, "winter")),
        (datetime(2005, 8, 7, 5, tzinfo=UTC), (5, 6, 8, "summer")),
        (datetime(2005, 9, 1, tzinfo=UTC), (0, 3, 9, "autumn")),
    ],
)
def test_the_calendar(time: datetime, expected: tuple[int, int, int, str]) -> None:
    (row,) = cleaned(reading(0) | {"timestamp": time})
    assert (row["hour"], row["weekday"], row["month"], row["season"]) == expected


@patient
@given(st.permutations(range(60)), st.sampled_from([1, 7, 16, 1_000]))
def test_readings_may_come_in_any_order_and_are_worked_on_in_blocks_of_any_length(
    order: list[int], rows: int
) -> None:
    readings = [
        reading(hour, station, benzene_ug_m3=None if hour % 7 < 3 else float(hour))
        for station in "abc"
        for hour in range(20)
    ]
    whole = cleaned(*readings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transforms.clean.BLOCK_ROWS", rows)
        assert cleaned(*(readings[place] for place in order)) == [whole[place] for place in order]


@pytest.mark.parametrize("gap", [None, float("nan")])
def test_what_is_filled_leaves_the_readings_as_they_came(gap: float | None) -> None:
    rows = [reading(hour, benzene_ug_m3=gap if hour == 1 else 5.0) for hour in range(3)]
    batch = pa.RecordBatch.from_pylist(rows, AIR_QUALITY.reading_schema)
    result = clean(batch, AIR_QUALITY, medians(batch, AIR_QUALITY))
    assert result["benzene_ug_m3"].to_pylist() == [5.0, 5.0, 5.0]
    np.testing.assert_array_equal(batch["benzene_ug_m3"].to_pylist(), [5.0, gap, 5.0])


@pytest.mark.parametrize("days", [1, 2, 8])
@pytest.mark.parametrize("shift", [0, 24])
def test_gaps_are_filled_across_days_and_groups(shift: int, days: int) -> None:
    rows = [
        reading(hour + shift, benzene_ug_m3=None if hour % 24 == 0 else float(hour)) for hour in range(72)
    ]
    schema = AIR_QUALITY.reading_schema
    groups = [(start, pa.RecordBatch.from_pylist(rows[start::5], schema)) for start in range(5)]
    whole = cleaned(*rows)
    expected = [
        (int(FIRST.timestamp()) + (shift + day) * 3600, repr(whole[day : day + 24])) for day in (0, 24, 48)
    ]
    stretch = stretch_of(AIR_QUALITY, days * 86_400)
    with TestPipeline(runner=IN_PROCESS) as pipeline:
        readings = pipeline | beam.Create(groups).with_output_types(tuple[int, pa.RecordBatch])
        clean_days = (
            readings
            | GatherStretches(AIR_QUALITY, stretch)
            | Clean(AIR_QUALITY, stretch, readings | FindMedians(AIR_QUALITY))
            | beam.MapTuple(lambda start, batch: (start, repr(batch.to_pylist())))
        )
        assert_that(clean_days, equal_to(expected))


# --- In parts, as a stream does it -------------------------------------------------------------------


def in_parts(readings: pa.RecordBatch, stretch: Stretch) -> pa.Table:
    """The clean readings, each stretch from no more than the readings of its window."""
    times = readings["timestamp"].view(pa.int64()).to_numpy() // 1_000_000
    parts = []
    for start in np.unique(times // stretch.seconds * stretch.seconds):
        end = start + stretch.seconds
        near = (times >= start - stretch.before) & (times < end + stretch.after)
        reference, limits = declared_medians(AIR_QUALITY), (start * 1_000_000, end * 1_000_000)
        parts.append(clean_between(readings.filter(pa.array(near)), AIR_QUALITY, reference, *limits))
    together = with_plain_text(concatenate(parts))
    return together.sort_by([("station", "ascending"), ("timestamp", "ascending")]).combine_chunks()


def assert_same(ours: pa.Table, theirs: pa.RecordBatch) -> None:
    """To the last digit."""
    assert ours.equals(with_plain_text(theirs))


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 200),
            st.sampled_from("ab"),
            st.none() | st.floats(0, 100),
            st.none() | st.just(1.0),
        ),
        min_size=1,
        unique_by=lambda row: row[:2],
    ),
    st.sampled_from([1, 3, 5, 24]),
)
def test_part_for_part_gives_what_the_whole_gives(rows: list[tuple], hours: int) -> None:
    batches = [
        pa.RecordBatch.from_pylist(
            [reading(hour, station, benzene_ug_m3=benzene, carbon_monoxide_mg_m3=monoxide)],
            AIR_QUALITY.reading_schema,
        )
        for hour, station, benzene, monoxide in rows
    ]
    readings, _ = deduplicate(concatenate(batches), AIR_QUALITY)
    whole = clean(readings, AIR_QUALITY, declared_medians(AIR_QUALITY))
    assert_same(in_parts(readings, stretch_of(AIR_QUALITY, hours * 3600)), whole)


def pane_of(group: tuple[int, pa.RecordBatch], pane=beam.DoFn.PaneInfoParam) -> tuple[int, list[dict]]:
    return pane.index, group[1].to_pylist()


def told(stream: TestStream, seconds: int, check: Callable[[list[tuple[int, list[dict]]]], None]) -> None:
    """Runs the steps over a story of a stream; `check` gets (index, rows) of the panes."""
    stretch = stretch_of(AIR_QUALITY, seconds)
    with TestPipeline(runner=SUPPORTS_TEST_STREAM, options=PipelineOptions(streaming=True)) as pipeline:
        panes = (
            pipeline
            | stream.advance_watermark_to_infinity()
            | GroupByStretch(AIR_QUALITY, stretch, allowed_lateness_seconds=6 * 3600, shards=2)
            | CleanPanes(AIR_QUALITY, stretch)
            | beam.Map(pane_of)
        )
        assert_that(panes, check)


def arrival(*rows: dict) -> TimestampedValue:
    batch = pa.RecordBatch.from_pylist(rows, AIR_QUALITY.reading_schema)
    return TimestampedValue(batch, min(row["timestamp"].timestamp() for row in rows))


def hour_of(hour: float) -> float:
    return FIRST.timestamp() + hour * 3600


def test_a_reading_waits_three_steps_for_what_may_fill_it_and_is_told_again_when_that_is_late() -> None:
    gap, late = reading(1, benzene_ug_m3=None), reading(2, benzene_ug_m3=2)
    stream = TestStream(coder=RecordBatchCoder()).add_elements([arrival(gap)])
    stream = stream.advance_watermark_to(hour_of(4.9)).add_elements([arrival(reading(4, benzene_ug_m3=4))])
    stream = stream.advance_watermark_to(hour_of(5.5)).add_elements([arrival(late)])

    def check(panes: list[tuple[int, list[dict]]]) -> None:
        rows = [(row["timestamp"].hour, index, row) for index, (row,) in panes]
        values = [
            (hour, index, row["benzene_ug_m3"], row["benzene_ug_m3_origin"])
            for hour, index, row in sorted(rows, key=lambda each: each[:2])
        ]
        assert values[:3] == [(1, 0, 4, "backward"), (1, 1, 2, "backward"), (2, 0, 2, "observed")]
        assert {value[2:] for value in values[3:]} == {(4, "observed")}

    told(stream, 3600, check)


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_arrival_within_the_lateness_does_not_matter(seed: int) -> None:
    random = np.random.default_rng(seed)
    rows = [
        reading(hour, station, benzene_ug_m3=None if random.random() < 0.6 else random.random())
        for hour in range(60)
        for station in "ab"
        if random.random() < 0.9
    ]
    readings = concatenate([pa.RecordBatch.from_pylist(rows, AIR_QUALITY.reading_schema)])
    whole = clean(deduplicate(readings, AIR_QUALITY)[0], AIR_QUALITY, declared_medians(AIR_QUALITY))
    stream = TestStream(coder=RecordBatchCoder())
    arrivals = sorted(rows, key=lambda row: row["timestamp"].timestamp() + random.uniform(0, 3 * 3600))
    newest = 0.0
    for place in range(0, len(arrivals), 7):
        stream = stream.add_elements([arrival(*arrivals[place : place + 7])])
        newest = max(newest, *(row["timestamp"].timestamp() for row in arrivals[place : place + 7]))
        stream = stream.advance_watermark_to(newest)
    expected = whole.to_pylist()

    def check(panes: list[tuple[int, list[dict]]]) -> None:
        latest: dict[tuple, dict] = {}
        for _, pane in sorted(panes, key=lambda each: each[0]):
            latest |= {(row["station"], row["timestamp"]): row for row in pane}
        assert [latest[key] for key in sorted(latest)] == expected

    told(stream, 2 * 3600, check)


def uci_readings() -> pa.RecordBatch:
    batches = []
    for block in find_blocks(str(UCI), AIR_QUALITY):
        for batch, _ in read_block(block):
            batches.append(validate(decode_csv(batch, AIR_QUALITY)[0], AIR_QUALITY)[0])
    return concatenate(batches)


def uci_frame() -> pd.DataFrame:
    """The file as pandas reads it, hour by hour, null where a value is none or out of its range."""
    frame = pd.read_csv(UCI, sep=";", decimal=",").dropna(how="all", axis=0).dropna(how="all", axis=1)
    time = pd.to_datetime(frame["Date"] + " " + frame["Time"], format="%d/%m/%Y %H.%M.%S", utc=True)
    frame = frame.iloc[:, 2:].replace(-200, np.nan).set_axis(list(AIR_QUALITY.any_of), axis=1).set_index(time)
    frame["nitrogen_oxides_ppb"] = frame["nitrogen_oxides_ppb"].where(frame["nitrogen_oxides_ppb"] <= 1000)
    return frame.astype(float)


@uci_file
def test_the_uci_file_is_cleaned_as_pandas_cleans_it() -> None:
    readings, whole = uci_readings(), uci_frame()
    result = clean(readings, AIR_QUALITY, medians(readings, AIR_QUALITY))
    frame = whole.dropna(how="all")
    assert medians(readings, AIR_QUALITY) == frame.median().to_dict()
    forward, both = whole.ffill(limit=3), whole.ffill(limit=3).bfill(limit=3)
    filled = both.fillna(whole.median()).loc[frame.index]
    rolling = filled.rolling("24h").mean()
    for name in AIR_QUALITY.any_of:
        np.testing.assert_array_equal(result[name].to_numpy(), filled[name].to_numpy())
        origins = [each[name].loc[frame.index].notna() for each in (whole, forward, both)]
        expected = np.select(origins, ["observed", "forward", "backward"], "median")
        assert result[f"{name}_origin"].to_pylist() == expected.tolist()
        np.testing.assert_allclose(result[f"{name}_mean_24h"].to_numpy(), rolling[name].to_numpy())
    np.testing.assert_allclose(result["missing_ratio"].to_numpy(), frame.isna().mean(axis=1).to_numpy())
    assert sum(map(len, result["qa_out_of_range_fields"].to_pylist())) == 78


@uci_file
def test_the_medians_that_the_feed_declares_are_those_of_the_uci_file() -> None:
    assert declared_medians(AIR_QUALITY) == file_medians(str(UCI), AIR_QUALITY)
    assert declared_medians(AIR_QUALITY) == medians(uci_readings(), AIR_QUALITY)


@uci_file
@pytest.mark.parametrize("hours", [6, 24])
def test_the_uci_file_is_cleaned_part_for_part_as_it_is_whole(hours: int) -> None:
    readings = uci_readings()
    whole = clean(readings, AIR_QUALITY, declared_medians(AIR_QUALITY))
    assert_same(in_parts(readings, stretch_of(AIR_QUALITY, hours * 3600)), whole)
