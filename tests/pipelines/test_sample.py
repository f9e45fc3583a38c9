from __future__ import annotations

import csv
import json
import re
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.sample import faults, traffic
from pipelines.sample.__main__ import main
from pipelines.sample.traffic_faults import TRAFFIC_FAULTS

THURSDAY, SUNDAY = date(2012, 3, 1), date(2012, 3, 4)
SMALL: dict[str, Any] = {"sensors": 20, "step_seconds": 300, "faults_of_each_kind": 2}


@pytest.fixture(scope="module")
def sensors() -> traffic.Sensors:
    return traffic.place_sensors(207, seed=1)


@pytest.fixture(scope="module")
def thursday(sensors: traffic.Sensors) -> traffic.Day:
    return traffic.simulate_day(sensors, THURSDAY, seed=1)


def moving(day: traffic.Day) -> np.ndarray:
    return day.speed > 0


# The files


def test_the_default_is_a_day_of_596_160_rows(tmp_path: Path) -> None:
    manifest = traffic.write_sample(str(tmp_path))
    assert manifest["rows"] == 596_160
    lines = (tmp_path / "traffic.csv").read_bytes().splitlines()
    assert len(lines) == 1 + 596_160
    assert lines[0].decode().split(",") == list(TRAFFIC_FAULTS.columns)
    assert json.loads((tmp_path / "traffic.manifest.json").read_text()) == manifest
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "traffic.csv",
        "traffic.manifest.json",
        "traffic.sensors.csv",
    ]


def test_the_same_arguments_give_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    for folder, seed in (("a", 5), ("b", 5), ("c", 6)):
        traffic.write_sample(str(tmp_path / folder), seed=seed, **SMALL)
    for name in ("traffic.csv", "traffic.sensors.csv", "traffic.manifest.json"):
        same, again, other = ((tmp_path / folder / name).read_bytes() for folder in "abc")
        assert same == again != other


def test_a_date_has_the_same_traffic_whichever_day_the_sample_starts(tmp_path: Path) -> None:
    plain = SMALL | {"faults_of_each_kind": 0}
    traffic.write_sample(str(tmp_path / "both"), start=date(2012, 3, 1), days=2, **plain)
    traffic.write_sample(str(tmp_path / "second"), start=date(2012, 3, 2), **plain)
    both, second = ((tmp_path / name / "traffic.csv").read_text().splitlines() for name in ("both", "second"))
    assert len(both) == 1 + 2 * (len(second) - 1)
    assert both[len(second) :] == second[1:]


def test_rows_are_in_time_order_then_sensor_and_coordinates_in_the_feed_s_box(tmp_path: Path) -> None:
    traffic.write_sample(str(tmp_path), **SMALL | {"faults_of_each_kind": 0})
    with open(tmp_path / "traffic.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    keys = [(row["timestamp"], row["sensor_id"]) for row in rows]
    assert keys == sorted(set(keys))
    with open(tmp_path / "traffic.sensors.csv", newline="") as file:
        known = {row["sensor_id"]: row for row in csv.DictReader(file)}
    assert list(known) == sorted(known) and len(known) == 20
    assert all(known[row["sensor_id"]].items() <= row.items() for row in rows)


def test_no_two_sensors_stand_in_one_place(sensors: traffic.Sensors) -> None:
    places = set(zip(*(sensors.known[name].to_pylist() for name in ("latitude", "longitude")), strict=True))
    assert len(places) == 207


# What was planted: a slow and independent judge reads the file line by line.

LIMITS = {
    "speed_mph": (0, 120),
    "volume_vph": (0, 20_000),
    "occupancy_percent": (0, 100),
    "latitude": (33.7, 34.5),
    "longitude": (-119, -117),
}


def judged_rules(values: dict[str, str], known: set[str]) -> list[str]:
    rules = []
    for name in TRAFFIC_FAULTS.columns:
        value = values[name]
        if not value:
            if name in ("sensor_id", "timestamp", "speed_mph"):
                rules.append(f"{name}_missing")
        elif name == "sensor_id":
            if not re.fullmatch(r"[A-Za-z0-9_.:-]{1,64}", value):
                rules.append("sensor_id_malformed")
            if value not in known:
                rules.append("sensor_id_unknown")
        elif name == "timestamp":
            time = as_time(value)
            if time is None:
                rules.append("timestamp_unparsable")
            elif time.year > 2100:
                rules.append("timestamp_in_future")
        elif name in LIMITS:
            try:
                number = float(value)
            except ValueError:
                rules.append(f"{name}_unparsable")
                continue
            low, high = LIMITS[name]
            if number != number or number in (float("inf"), float("-inf")):
                rules.append(f"{name}_not_finite")
            elif not low <= number <= high:
                rules.append(f"{name}_out_of_range")
        elif name == "direction":
            assert value in "NSEW"
        elif name == "lane_count" and not re.fullmatch(r"[0-9]+", value):
            rules.append("lane_count_unparsable")
    return rules


def as_time(text: str) -> datetime | None:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def judge(folder: Path) -> dict[str, Any]:
    """The parts of the manifest that follow from the other two files."""
    with open(folder / "traffic.sensors.csv", newline="") as file:
        known = {row["sensor_id"] for row in csv.DictReader(file)}
    lines = (folder / "traffic.csv").read_bytes().split(b"\n")
    assert lines.pop() == b""
    found: list[dict[str, Any]] = []
    duplicates: list[dict[str, Any]] = []
    seen: dict[tuple[str, datetime | None], tuple[int, str]] = {}
    for row, line in enumerate(lines[1:], 1):
        rules: list[str] = []
        try:
            values = next(csv.reader([line.decode()]))
        except UnicodeDecodeError:
            rules = ["not_utf8"]
        else:
            if line.count(b'"') % 2:
                rules = ["unclosed_quote"]
                assert not any(b'"' in later for later in lines[row + 1 : row + 51])
            elif len(values) != 10:
                rules = ["wrong_field_count"]
            else:
                fields = dict(zip(TRAFFIC_FAULTS.columns, values, strict=True))
                rules = judged_rules(fields, known)
        if rules:
            found.append({"row": row, "reason": rules[0], "rules": rules})
            continue
        key = fields["sensor_id"], as_time(fields["timestamp"])
        if key in seen:
            first, speed = seen[key]
            kind = "exact copy" if lines[first] == line else "different speed"
            assert (kind == "exact copy") == (speed == fields["speed_mph"])
            duplicates.append({"row": row, "first_row": first, "kind": kind})
        else:
            seen[key] = row, fields["speed_mph"]
    return {
        "rows": len(lines) - 1,
        "accepted": len(seen),
        "duplicates": len(duplicates),
        "dead_letters": dict(sorted(Counter(fault["reason"] for fault in found).items())),
        "faults": found,
        "duplicate_rows": duplicates,
    }


@pytest.mark.parametrize("seed", range(4))
def test_the_manifest_is_true(seed: int, tmp_path: Path) -> None:
    manifest = traffic.write_sample(str(tmp_path), seed=seed, days=2, **SMALL)
    for fault in manifest["faults"]:
        structural = fault["reason"] in {reason for reason, _ in faults.BROKEN_LINES}
        assert fault.pop("stage") == ("decode" if structural else "validate")
    for name, judged in judge(tmp_path).items():
        assert manifest[name] == judged, name
    assert manifest["duplicates"] == 4
    assert len(manifest["faults"]) == 2 * (len(faults.BROKEN_LINES) + len(TRAFFIC_FAULTS.broken_rules))
    assert Counter(oddity["oddity"] for oddity in manifest["oddities"]) == {
        name: 2 for name, _, _ in TRAFFIC_FAULTS.oddities
    }


def test_only_planted_rows_differ_from_the_sample_without_faults(tmp_path: Path) -> None:
    manifest = traffic.write_sample(str(tmp_path / "planted"), days=2, **SMALL)
    plain = traffic.write_sample(str(tmp_path / "plain"), days=2, **SMALL | {"faults_of_each_kind": 0})
    assert plain["accepted"] == plain["rows"] == 2 * 20 * 288 and not plain["faults"]
    pairs = zip(
        *((tmp_path / name / "traffic.csv").read_bytes().split(b"\n") for name in ("planted", "plain")),
        strict=True,
    )
    different = {row for row, (planted, untouched) in enumerate(pairs) if planted != untouched}
    planted = [*manifest["faults"], *manifest["duplicate_rows"], *manifest["oddities"]]
    assert different <= {entry["row"] for entry in planted}
    # A sensor that has dropped out may already have the value that is planted; almost none have.
    assert len(different) > 0.95 * len(planted)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**63), st.integers(0, 3), st.integers(1, 4))
def test_no_row_is_planted_twice(seed: int, copies: int, days: int) -> None:
    plantings = faults.Plantings.draw(
        TRAFFIC_FAULTS, rows=5_760 * days, rows_a_day=5_760, copies=copies, seed=seed
    )
    rows = [
        *plantings.broken_lines,
        *plantings.broken_rules,
        *plantings.oddities,
        *plantings.duplicates,
        *(first for _, first in plantings.duplicates.values()),
    ]
    assert len(rows) == len(set(rows))
    assert all(1 <= row <= 5_760 * days for row in rows)
    for row, (_, first) in plantings.duplicates.items():
        assert first < row and (first - 1) // 5_760 == (row - 1) // 5_760


# The traffic


def test_published_volume_is_density_times_speed(sensors: traffic.Sensors, thursday: traffic.Day) -> None:
    """Density is taken back from the occupancy, as a reader of the file would."""
    clear = moving(thursday) & (thursday.occupancy >= 5) & (thursday.occupancy < 100)
    density = thursday.occupancy / 100 * traffic.FEET_PER_MILE / sensors.effective_length
    volume = density * thursday.speed * sensors.lanes
    # Both are rounded to 0.1: at most 1 % of an occupancy of 5, and 0.05 mph of the speed.
    tolerance = 0.05 / thursday.occupancy[clear] + 0.05 / thursday.speed[clear]
    error = np.abs(volume[clear] / thursday.volume[clear] - 1)
    assert np.all(error <= 1.01 * tolerance)


def test_occupancy_rises_with_density(sensors: traffic.Sensors, thursday: traffic.Day) -> None:
    for sensor in range(len(sensors)):
        order = np.argsort(thursday.density[:, sensor], kind="stable")
        assert np.all(np.diff(thursday.occupancy[order, sensor]) >= 0)


def test_flow_and_density_lie_on_the_triangle(sensors: traffic.Sensors, thursday: traffic.Day) -> None:
    """Averages over 5 minutes that lie wholly in a queue, or wholly outside one."""
    per_lane = thursday.volume / sensors.lanes
    flow, density, slowest, fastest = (
        reduced(values.reshape(288, 10, -1), 1)
        for values, reduced in (
            (per_lane, np.mean),
            (thursday.density, np.mean),
            (thursday.speed, np.min),
            (thursday.speed, np.max),
        )
    )
    queued = (slowest > 0) & (fastest < 45)
    assert queued.sum() > 1_000
    expected = traffic.WAVE_SPEED * (traffic.JAM_DENSITY - density[queued])
    assert abs(np.mean(flow[queued] / expected) - 1) < 0.03
    free = slowest > 52
    np.testing.assert_allclose(flow[free] / density[free] / traffic.FREE_SPEED, 1, atol=0.2)


def test_counts_are_whole_vehicles_and_silence_is_zero_throughout(thursday: traffic.Day) -> None:
    assert np.all(thursday.volume % 120 == 0)
    silent = ~moving(thursday)
    assert 0.001 < silent.mean() < 0.05
    assert np.all(thursday.volume[silent] == 0) and np.all(thursday.occupancy[silent] == 0)
    assert np.all(thursday.volume[~silent] > 0)
    assert thursday.volume.max() <= 20_000 and thursday.occupancy.max() <= 100 and thursday.speed.max() <= 120


def test_vehicles_are_neither_made_nor_lost_along_a_road(
    sensors: traffic.Sensors, thursday: traffic.Day
) -> None:
    silence = [len(longest_run(silent)) for silent in ~moving(thursday).T]
    reporting = np.array(silence) < 20  # at 30 seconds: only a drop-out is longer
    for number in range(len(sensors.carriageways)):
        here = np.flatnonzero((sensors.carriageway == number) & reporting)
        daily = thursday.volume[:, here].sum(axis=0) / 120
        if len(daily) > 1:
            assert np.ptp(daily) < 0.02 * daily.mean()


def test_congestion_travels_upstream_at_the_wave_speed(
    sensors: traffic.Sensors, thursday: traffic.Day
) -> None:
    """What a sensor in a queue sees, the next one upstream sees later, by 5 minutes a mile."""
    speeds = []
    step_hours = 30 / 3600
    for number, carriageway in enumerate(sensors.carriageways):
        here = np.flatnonzero((sensors.carriageway == number) & (sensors.milepost < carriageway.bottleneck))
        for upstream, downstream in pairwise(here):
            queue = longest_run(
                (thursday.speed[:, upstream] < 50) & (thursday.speed[:, downstream] < 50)
                & moving(thursday)[:, upstream] & moving(thursday)[:, downstream]
            )  # fmt: skip
            if len(queue) < 120:
                continue
            before, after = thursday.speed[queue, downstream], thursday.speed[queue, upstream]
            lags = range(-40, 41)
            likeness = [correlation(before, after, lag) for lag in lags]
            lag_hours = lags[int(np.argmax(likeness))] * step_hours
            assert lag_hours > 0
            speeds.append((sensors.milepost[downstream] - sensors.milepost[upstream]) / lag_hours)
    assert len(speeds) >= 10
    assert abs(np.median(speeds) - traffic.WAVE_SPEED) < 0.5


def longest_run(flags: np.ndarray) -> np.ndarray:
    runs = np.split(np.arange(len(flags)), np.flatnonzero(np.diff(flags)) + 1)
    return max((run for run in runs if flags[run[0]]), key=len, default=np.arange(0))


def correlation(before: np.ndarray, after: np.ndarray, lag: int) -> float:
    if lag >= 0:
        before, after = before[: len(before) - lag], after[lag:]
    else:
        before, after = before[-lag:], after[:lag]
    return float(np.corrcoef(before, after)[0, 1])


def test_rush_hours_are_slower_than_night_and_sunday(sensors: traffic.Sensors, thursday: traffic.Day) -> None:
    sunday = traffic.simulate_day(sensors, SUNDAY, seed=1)

    def mean_speed(day: traffic.Day, first_hour: int, last_hour: int) -> float:
        hours = slice(first_hour * 120, last_hour * 120)
        return float(day.speed[hours][moving(day)[hours]].mean())

    night = mean_speed(thursday, 2, 4)
    assert mean_speed(thursday, 8, 9) < night - 3
    assert mean_speed(thursday, 17, 18) < night - 3
    assert mean_speed(sunday, 17, 18) > night - 1


def test_the_morning_belongs_to_one_direction_and_the_evening_to_the_other(sensors: traffic.Sensors) -> None:
    slow: Counter[tuple[bool, str]] = Counter()
    for offset in range(4, 9):  # Monday to Friday
        day = traffic.simulate_day(sensors, THURSDAY + timedelta(days=offset), seed=1)
        for number, carriageway in enumerate(sensors.carriageways):
            queued = (day.speed > 0) & (day.speed < 45) & (sensors.carriageway == number)
            inbound = carriageway.direction == carriageway.road.morning
            slow[inbound, "morning"] += int(queued[:1440].sum())
            slow[inbound, "evening"] += int(queued[1440:].sum())
    assert slow[True, "morning"] > 3 * slow[False, "morning"]
    assert slow[False, "evening"] > 3 * slow[True, "evening"]


# The command


def test_the_command_says_that_it_is_simulated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["traffic", "--output", str(tmp_path), "--sensors", "2", "--step_seconds", "3600", "--no_faults"])
    out = capsys.readouterr().out
    assert out.startswith(f"{tmp_path / 'traffic.csv'}: 48 simulated rows, 0 duplicates")
    assert "Simulated" in json.loads((tmp_path / "traffic.manifest.json").read_text())["simulated"]
    with pytest.raises(SystemExit):
        main(["traffic", "--help"])
    assert "SIMULATED" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "required: feed"),
        (["weather"], "invalid choice: 'weather'"),
        (["traffic", "--start", "2012-02-30"], "'2012-02-30' is not a date"),
        (["traffic", "--days", "0"], "days must be at least 1, not 0"),
        (["traffic", "--sensors", "0"], "sensors must be at least 1, not 0"),
        (["traffic", "--seed", "-1"], "seed must not be negative"),
        (["traffic", "--step_seconds", "7"], "step_seconds must divide a day"),
        (["traffic", "--sensors", "1", "--step_seconds", "3600"], "24 rows are too few"),
        (["traffic", "--faults_of_each_kind", "-1"], "must not be negative"),
        (["traffic", "--start", "9999-12-31", "--days", "2"], "go beyond the calendar"),
    ],
)
def test_bad_usage_is_one_line_and_writes_nothing(
    arguments: list[str], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    message = capsys.readouterr().err
    assert complaint in message and message.count("\n") == 1
    assert not list(tmp_path.iterdir())
