from __future__ import annotations

import csv
import random
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import metr_la

DATA = Path(__file__).parents[3] / "shared" / "data"
SPEEDS, LOCATIONS = DATA / "los_speed.csv", DATA / "graph_sensor_locations.csv"
real_data = pytest.mark.skipif(
    not (SPEEDS.exists() and LOCATIONS.exists()),
    reason="needs METR-LA: ../shared/data/los_speed.csv and graph_sensor_locations.csv",
)

Wide = tuple[dict[str, list[float | None]], dict[str, tuple[float, float]]]
"""The speeds of each sensor, and where those are that have a place."""

SENSORS = st.lists(st.integers(1, 10**7).map(str), min_size=1, max_size=6, unique=True)
SPEED = st.none() | st.floats(0, 120)
NO_LOCATIONS = pa.table({name: pa.array([], type) for name, type in metr_la.LOCATION_COLUMNS.items()})


@st.composite
def wide_tables(draw: st.DrawFn) -> Wide:
    sensors = draw(SENSORS)
    steps = draw(st.integers(0, 5))
    speeds = {name: draw(st.lists(SPEED, min_size=steps, max_size=steps)) for name in sensors}
    located = draw(st.lists(st.sampled_from([*sensors, "elsewhere"]), unique=True))
    return speeds, {name: (draw(st.floats(33, 35)), draw(st.floats(-119, -117))) for name in located}


@given(wide_tables(), st.datetimes(datetime(2000, 1, 1), datetime(2030, 1, 1)), st.integers(1, 86_400))
def test_readings_are_those_of_a_loop_over_cells(wide: Wide, start: datetime, step_seconds: int) -> None:
    speeds, where = wide
    start = start.replace(microsecond=0)
    times = [start + timedelta(seconds=step_seconds * step) for step in range(5)]
    expected = [
        (name, times[step], speeds[name][step], *where.get(name, (None, None)))
        for step in range(len(next(iter(speeds.values()))))
        for name in sorted(speeds)
    ]
    readings = metr_la.wide_to_readings(
        pa.table({name: pa.array(values, pa.float64()) for name, values in speeds.items()}),
        pa.table(
            {
                "sensor_id": pa.array(where, pa.string()),
                "latitude": pa.array([latitude for latitude, _ in where.values()], pa.float64()),
                "longitude": pa.array([longitude for _, longitude in where.values()], pa.float64()),
            }
        ),
        start,
        step_seconds,
    )
    assert tuple(readings.column_names) == metr_la.COLUMNS
    assert list(zip(*(column.to_pylist() for column in readings.columns), strict=True)) == expected


def test_a_sensor_that_occurs_twice_is_refused() -> None:
    twice = pa.Table.from_arrays([pa.array([1.0]), pa.array([2.0])], names=["7", "7"])
    with pytest.raises(ValueError, match="sensor 7 occurs twice in the speeds"):
        metr_la.wide_to_readings(twice, NO_LOCATIONS, metr_la.START, 300)
    located_twice = pa.table(
        {"sensor_id": ["7", "7"], "latitude": [34.0, 34.1], "longitude": [-118.0, -118.1]}
    )
    with pytest.raises(ValueError, match="sensor 7 occurs twice in the locations"):
        metr_la.wide_to_readings(pa.table({"7": [1.0]}), located_twice, metr_la.START, 300)


def write_small(folder: Path, steps: int = 4) -> tuple[Path, Path]:
    speeds, locations = folder / "wide.csv", folder / "locations.csv"
    draw = random.Random(1)
    rows = [[str(draw.uniform(0, 70)), ""] if step == 1 else ["0", "64.375"] for step in range(steps)]
    speeds.write_text("773869,5\n" + "".join(",".join(row) + "\n" for row in rows))
    locations.write_text("index,sensor_id,latitude,longitude\n0,773869,34.15497,-118.31829\n")
    return speeds, locations


def test_file_and_closing_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    speeds, locations = write_small(tmp_path, steps=1)
    output = tmp_path / "readings" / "metr-la.csv"
    metr_la.main(["--speeds", str(speeds), "--locations", str(locations), "--output", str(output)])
    assert output.read_text() == (
        "sensor_id,timestamp,speed_mph,latitude,longitude\n"
        "5,2012-03-01 00:00:00,64.375,,\n"
        "773869,2012-03-01 00:00:00,0,34.15497,-118.31829\n"
    )
    assert capsys.readouterr().out == (
        f"{output}: 2 rows of 2 sensors, 2012-03-01 00:00:00 to 2012-03-01 00:00:00, "
        f"{output.stat().st_size} bytes; sensors without a location: 1, such as 5\n"
    )


def test_by_day_holds_the_same_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    speeds, locations = write_small(tmp_path, steps=100)
    common = ["--speeds", str(speeds), "--locations", str(locations), "--start", "2012-03-01T05:00"]
    common += ["--step_seconds", "1000"]
    metr_la.main([*common, "--output", str(tmp_path / "one" / "metr-la.csv")])
    metr_la.main([*common, "--output", str(tmp_path / "many" / "metr-la.csv"), "--by_day"])
    whole = (tmp_path / "one" / "metr-la.csv").read_text().splitlines()
    days = {path.name: path.read_text().splitlines() for path in sorted((tmp_path / "many").iterdir())}
    assert list(days) == ["metr-la-2012-03-01.csv", "metr-la-2012-03-02.csv"]
    assert [line for day in days.values() for line in day[1:]] == whole[1:]
    for name, lines in days.items():
        assert lines[0] == whole[0]
        assert {f"metr-la-{line.split(',')[1][:10]}.csv" for line in lines[1:]} == {name}
    assert "2 files such as" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("773869,5\n1,2\n3\n", "Expected 2 columns, got 1"),
        ("time,5\n1,2\n", "the header has 'time' where a sensor such as 773869 should be"),
        ("5,5\n1,2\n", "the header has sensor 5 twice"),
        ("5\nfast\n", "invalid value 'fast'"),
        ("5\n", "has no speeds"),
        ("", "the header has ''"),
        (None, "there is no such file"),
    ],
)
def test_a_bad_wide_file_is_one_line_and_writes_nothing(
    content: str | None, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, locations = write_small(tmp_path)
    speeds, output = tmp_path / "bad.csv", tmp_path / "readings" / "metr-la.csv"
    if content is not None:
        speeds.write_text(content)
    with pytest.raises(SystemExit) as left:
        metr_la.main(["--speeds", str(speeds), "--locations", str(locations), "--output", str(output)])
    assert left.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: {speeds}: ") and complaint in message
    assert message.count("\n") == 1
    assert not output.parent.exists() or not list(output.parent.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--speeds", "a.csv", "--locations", "b.csv", "--start", "yesterday"],
        ["--speeds", "a.csv", "--locations", "b.csv", "--start", "2012-03-01T00:00Z"],
        ["--speeds", "a.csv", "--locations", "b.csv", "--step_seconds", "0"],
        ["--speeds", "a.h5", "--locations", "b.csv", "--weeks", "3"],
    ],
)
def test_bad_usage_is_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        metr_la.main(arguments)
    assert left.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_failed_run_leaves_the_old_file(tmp_path: Path) -> None:
    speeds, locations = write_small(tmp_path)
    locations.write_text("sensor_id,latitude,longitude\n5,34,-118\n5,34,-118\n")
    output = tmp_path / "metr-la.csv"
    output.write_text("as before\n")
    with pytest.raises(SystemExit):
        metr_la.main(["--speeds", str(speeds), "--locations", str(locations), "--output", str(output)])
    assert output.read_text() == "as before\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["locations.csv", "metr-la.csv", "wide.csv"]


def test_hdf5_equals_the_csv_of_the_same_frame(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("tables", reason="needs PyTables: pip install '.[hdf5]'")
    speeds, locations = write_small(tmp_path, steps=300)
    frame = pandas.read_csv(speeds)
    frame.index = pandas.date_range("2012-03-01", periods=len(frame), freq="5min")
    frame.to_hdf(tmp_path / "metr-la.h5", key="df")
    for name, output in (("wide.csv", "a.csv"), ("metr-la.h5", "b.csv")):
        arguments = ["--speeds", str(tmp_path / name), "--output", str(tmp_path / output)]
        metr_la.main([*arguments, "--locations", str(locations)])
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    assert "readings without a speed: 1" in capsys.readouterr().out

    frame.drop(frame.index[7]).to_hdf(tmp_path / "gap.h5", key="df")
    for arguments, complaint in (
        (["--speeds", str(tmp_path / "gap.h5")], "gap.h5: its times are not equally far apart"),
        (["--speeds", str(tmp_path / "metr-la.h5"), "--start", "2012-03-02"], "metr-la.h5 has its own times"),
        (["--speeds", str(tmp_path / "none.h5")], "none.h5: there is no such file"),
    ):
        with pytest.raises(SystemExit) as left:
            metr_la.main([*arguments, "--locations", str(locations), "--output", str(tmp_path / "c.csv")])
        assert left.value.code == 2
        assert complaint in capsys.readouterr().err


@real_data
def test_the_real_week_equals_unpivot_in_duckdb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    duckdb = pytest.importorskip("duckdb")
    output = tmp_path / "metr-la.csv"
    metr_la.main(["--speeds", str(SPEEDS), "--locations", str(LOCATIONS), "--output", str(output)])
    closing_line = capsys.readouterr().out
    assert "417,312 rows of 207 sensors, 2012-03-01 00:00:00 to 2012-03-07 23:55:00" in closing_line
    with duckdb.connect() as connection:
        expected = connection.sql(
            f"""
            with wide as (
                select row_number() over () - 1 as step, * from read_csv('{SPEEDS}', header = true)
            ), long as (
                unpivot wide on columns(* exclude step) into name sensor_id value speed_mph
            )
            select long.sensor_id, timestamp '2012-03-01' + to_seconds(300 * step) as timestamp,
                speed_mph, latitude, longitude
            from long left join read_csv('{LOCATIONS}', types = {{'sensor_id': 'varchar'}}) as locations
                on long.sensor_id = locations.sensor_id
            order by step, long.sensor_id
            """
        ).to_arrow_table()
    types = {"sensor_id": pa.string(), "timestamp": pa.timestamp("us")}
    readings = pyarrow.csv.read_csv(output, convert_options=pyarrow.csv.ConvertOptions(column_types=types))
    assert readings.num_rows == 417_312
    for name in metr_la.COLUMNS:
        assert readings[name].to_pylist() == expected[name].to_pylist(), name


@real_data
def test_the_real_speeds_survive_to_the_last_digit(tmp_path: Path) -> None:
    output = tmp_path / "metr-la.csv"
    metr_la.main(["--speeds", str(SPEEDS), "--locations", str(LOCATIONS), "--output", str(output)])
    with open(SPEEDS, newline="") as wide, open(output, newline="") as long:
        readings = csv.DictReader(long)
        for row in csv.DictReader(wide):
            for name in sorted(row):
                reading = next(readings)
                assert (reading["sensor_id"], float(reading["speed_mph"])) == (name, float(row[name]))
