"""The real `main()`, from files to files, checked against DuckDB reading the same files."""

from __future__ import annotations

import bz2
import gzip
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from apache_beam import Filter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines import launch, progress_bar, traffic
from pipelines.metr_la import main as convert_metr_la
from pipelines.sample.traffic import write_sample
from schemas.traffic import TRAFFIC
from transforms import csv_files
from transforms.windows import GroupByWindow

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"
HEADER = "sensor_id,timestamp,speed_mph\n"
DAY = "year=2012/month=03/day=01"

Run = Callable[..., dict]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the job on CSV text or files below tmp_path; returns its summary."""

    def run(
        *inputs: str | bytes | Path, flags: Sequence[str] = (), output: str = "out", status: int = 0
    ) -> dict:
        paths = []
        for number, each in enumerate(inputs):
            if not isinstance(each, Path):
                path = tmp_path / f"input-{number}.csv"
                path.write_bytes(each if isinstance(each, bytes) else each.encode())
                each = path
            paths.append(str(each))
        arguments = ["--input", *paths, "--output", str(tmp_path / output), *flags]
        assert traffic.main(arguments) == status, capsys.readouterr()
        return json.loads((tmp_path / output / "summary.json").read_text())

    return run


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """A small sample with faults, and its manifest."""
    folder = tmp_path_factory.mktemp("sample")
    manifest = write_sample(str(folder), sensors=20, step_seconds=60, seed=7)
    return folder, manifest


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def table(folder: Path, kind: str) -> pa.Table:
    """All rows of a kind of output, as any reader of the folder sees them."""
    return pyarrow.dataset.dataset(folder / kind, format="parquet").to_table()


def assert_equals_duckdb(readings: str, output: Path, window_seconds: int = 300) -> None:
    """The output's tables equal what DuckDB computes from the CSV files, all of whose rows are good."""
    con = duckdb.connect()
    con.sql("set timezone = 'UTC'")
    con.sql(
        f"""create view numbered as
        select row_number() over () as row, * replace (timestamp::timestamptz as timestamp)
        from read_csv('{readings}', header=true, types={{'sensor_id': 'varchar', 'timestamp': 'timestamp',
        'speed_mph': 'double'}});
        create view readings as select * exclude (row) from numbered
        qualify row_number() over (partition by sensor_id, timestamp order by row) = 1"""
    )
    header = con.sql("select * from readings limit 0").columns
    raw = f"read_parquet('{output}/raw/**/*.parquet', hive_partitioning=false)"
    columns = ", ".join(header)
    for ours, theirs in ((raw, "readings"), ("readings", raw)):
        missing = con.sql(
            f"select {columns} from {ours} except all select {columns} from {theirs}"
        ).fetchall()
        assert not missing, missing[:3]
    volume = "avg(volume_vph)" if "volume_vph" in header else "null"
    occupancy = "avg(occupancy_percent)" if "occupancy_percent" in header else "null"
    figures = [
        "avg_speed",
        "avg_volume",
        "avg_occupancy",
        "speed_variance",
        "min_speed",
        "max_speed",
        "p85_speed",
    ]
    unlike = " or ".join(
        f"(ours.{name} is null) <> (theirs.{name} is null) or abs(ours.{name} - theirs.{name}) > 1e-9"
        for name in figures
    )
    differences = con.sql(
        f"""with theirs as (
            select sensor_id,
                time_bucket(interval {window_seconds} second, timestamp, timestamptz 'epoch') as window_start,
                avg(speed_mph) as avg_speed, {volume} as avg_volume, {occupancy} as avg_occupancy,
                var_pop(speed_mph) as speed_variance, count(*) as message_count, min(speed_mph) as min_speed,
                max(speed_mph) as max_speed, quantile_cont(speed_mph, 0.85) as p85_speed, 0 as missing_count
            from readings group by all)
        select * from theirs full join
            read_parquet('{output}/processed/aggregates/**/*.parquet', hive_partitioning=false) as ours
            using (sensor_id, window_start)
        where ours.message_count is distinct from theirs.message_count
            or ours.missing_count is distinct from theirs.missing_count
            or ours.window_end is distinct from window_start + interval {window_seconds} second
            or {unlike}"""
    ).fetchall()
    assert not differences, differences[:3]


def test_raw_and_aggregates_equal_duckdb_on_the_good_rows(sample, run, tmp_path):
    folder, manifest = sample
    bad = {fault["row"] for fault in manifest["faults"]}
    lines = (folder / "traffic.csv").read_bytes().splitlines(keepends=True)
    good = tmp_path / "good.csv"
    good.write_bytes(b"".join(line for row, line in enumerate(lines) if row not in bad))
    flags = ["--sensors", str(folder / "traffic.sensors.csv"), "--max_future_seconds", "86400"]
    run(folder / "traffic.csv", flags=flags, output="dirty")
    run(good, output="clean")
    run(good, output="other-windows", flags=["--window_seconds", "420"])
    assert_equals_duckdb(str(good), tmp_path / "clean")
    assert_equals_duckdb(str(good), tmp_path / "other-windows", 420)
    columns = [field.name for field in TRAFFIC.fields]
    clean, dirty = (table(tmp_path / name, "raw").select(columns) for name in ("clean", "dirty"))
    assert dirty.equals(clean)
    clean, dirty = (table(tmp_path / name, "processed/aggregates") for name in ("clean", "dirty"))
    assert dirty.equals(clean)


@pytest.mark.skipif(not SHARED.exists(), reason="the real METR-LA week is not there: ../shared/data")
def test_the_real_week_equals_duckdb(run, tmp_path):
    week = tmp_path / "metr-la.csv"
    convert_metr_la(
        [
            *("--speeds", str(SHARED / "los_speed.csv")),
            *("--locations", str(SHARED / "graph_sensor_locations.csv")),
            *("--output", str(week)),
        ]
    )
    summary = run(week)
    assert (summary["read"], summary["accepted"], summary["windows"]) == (417_312, 417_312, 2_016)
    assert_equals_duckdb(str(week), tmp_path / "out")


def test_a_run_on_a_mended_file_leaves_nothing_of_its_first_version(run, tmp_path):
    run(HEADER + "a,2012-03-01,50\na,2012-03-09,51\na,never,52\n")
    run(HEADER + "a,2012-03-01,50\na,2012-03-10,51\na,2012-03-10 01:00,52\n")
    days = sorted(table(tmp_path / "out", "raw")["timestamp"].to_pylist())
    assert [day.day for day in days] == [1, 10, 10]
    assert not list((tmp_path / "out" / "dead_letters").glob("*.parquet"))


def test_other_windows_after_a_kill_leave_nothing_of_the_killed_run(run, tmp_path):
    text = HEADER + "".join(f"a,2012-03-0{day} {hour:02}:00,50\n" for day in (1, 2) for hour in range(24))
    run(text, flags=["--window_seconds", "420"])
    (tmp_path / "out" / "summary.json").unlink()  # as a killed run would leave it
    run(text)
    assert table(tmp_path / "out", "raw").num_rows == 48
    assert pc.sum(table(tmp_path / "out", "processed/aggregates")["message_count"]).as_py() == 48


def test_a_file_without_line_breaks_is_an_error_that_names_it(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(csv_files, "MAXIMUM_RECORD_BYTES", 1000)
    path = tmp_path / "binary.csv"
    path.write_text(HEADER + "x" * 10_000)
    assert traffic.main(["--input", str(path), "--output", str(tmp_path / "out")]) == 2
    assert "binary.csv: has no line break in 1,000 bytes" in capfd.readouterr().err


def test_a_day_of_other_inputs_is_refused_and_left_as_it_was(run, tmp_path, capsys):
    run(HEADER + "a,2012-03-01 00:00:00,50\n")
    before = files(tmp_path / "out")
    other = tmp_path / "afternoon.csv"
    other.write_text(HEADER + "a,2012-03-01 12:00:00,50\n")
    assert traffic.main(["--input", str(other), "--output", str(tmp_path / "out")]) == 2
    assert "already holds the results of other inputs" in capsys.readouterr().err
    assert files(tmp_path / "out") == before
    other.write_text(HEADER + "a,2012-03-02 12:00:00,50\n")
    run(other)
    assert table(tmp_path / "out", "raw").num_rows == 2


def test_a_refused_run_takes_what_it_has_written_with_it(run, tmp_path):
    run(HEADER + "a,2012-03-05 00:00:00,50\n")
    before = {path: (tmp_path / "out" / path).read_bytes() for path in files(tmp_path / "out")}
    other = tmp_path / "other.csv"
    other.write_text(HEADER + "".join(f"a,2012-03-0{day} 12:00:00,50\n" for day in range(1, 10)))
    assert traffic.main(["--input", str(other), "--output", str(tmp_path / "out")]) == 2
    assert {path: (tmp_path / "out" / path).read_bytes() for path in files(tmp_path / "out")} == before


def test_of_duplicates_over_files_the_first_by_source_order_stays(run, tmp_path):
    row = "a,2012-03-01 00:00:00,{}\n"
    summary = run(HEADER + row.format(1), HEADER + row.format(2) + row.format(3))
    assert (summary["accepted"], summary["duplicates"]) == (1, 2)
    assert table(tmp_path / "out", "raw")["speed_mph"].to_pylist() == [1]


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".zst"])
def test_compressed_files_give_the_same_readings(suffix, run, tmp_path):
    text = (
        HEADER + "".join(f"s{n % 7},2012-03-01 00:{n // 60:02}:{n % 60:02},{n / 100}\n" for n in range(3000))
    ).encode()
    compress = {
        ".gz": lambda: gzip.compress(text[:5000]) + gzip.compress(text[5000:]),
        ".bz2": lambda: bz2.compress(text),
        ".zst": lambda: pa.compress(text, "zstd", asbytes=True),
    }
    path = tmp_path / f"readings.csv{suffix}"
    path.write_bytes(compress[suffix]())
    run(text, output="plain")
    run(path, output="compressed")
    columns = ["sensor_id", "timestamp", "speed_mph", "position"]
    plain, compressed = (table(tmp_path / name, "raw").select(columns) for name in ("plain", "compressed"))
    assert plain.equals(compressed)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--runner", "NoSuchRunner"], "NoSuchRunner"),
        (["--runner", "no.such.Runner"], "no.such.Runner"),
        (["--input", "nowhere/*.csv"], "nowhere/*.csv: no such file"),
        (["--output", "good.csv/out"], "good.csv/out"),
        (["--bounds", "speed_mph=120:0"], "speed_mph"),
        (["--bounds", "road_name=0:1"], "road_name"),
        (["--bounds", "speed=0:1"], "no such field"),
        (["--bounds", "speed_mph"], "speed_mph=0:120"),
        (["--bounds", "speed_mph=nan:"], "speed_mph=nan:"),
        (["--timezone", "Mars/Olympus"], "Mars/Olympus"),
        (["--window_seconds", "0"], "--window_seconds"),
        (["--zero_speed", "drop"], "--zero_speed"),
        (["--sensors", "nowhere.csv"], "nowhere.csv"),
        (["--sensors", "other.csv"], "other.csv"),
        (["--sensors", "no-such-scheme://s.csv"], "--sensors no-such-scheme://s.csv: Unable to get"),
        (["--windw_seconds", "60"], "--windw_seconds"),
        (["--input", "other.csv"], "other.csv: has no column sensor_id, timestamp, speed_mph"),
        (["--input", "truncated.csv.gz"], "truncated.csv.gz: truncated"),
        (["--input", "truncated.csv.bz2"], "truncated.csv.bz2: truncated"),
        (["--input", "truncated.csv.zst"], "truncated.csv.zst: truncated"),
        (["--input", "."], "is a folder; give"),
        (["--output", "no-such-scheme://out"], "no-such-scheme://out"),
        (["--topic", "t"], "--input or --topic, not both"),
        (["--input", "latin.csv"], "latin.csv: its header row is not UTF-8"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(arguments, says, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    Path("good.csv").write_text(HEADER + "a,2012-03-01,50\n")
    Path("other.csv").write_text("a,b\n1,2\n")
    Path("latin.csv").write_bytes("sensor_id,timestamp,speed_mph,größe\n".encode("latin-1"))
    text = (HEADER + "".join(f"a,2012-03-01 00:00:00.{n:06},{n % 97}\n" for n in range(50_000))).encode()
    Path("truncated.csv.gz").write_bytes(gzip.compress(text)[:-5000])
    Path("truncated.csv.bz2").write_bytes(bz2.compress(text)[:-5000])
    Path("truncated.csv.zst").write_bytes(pa.compress(text, "zstd", asbytes=True)[:-5000])
    before = files(tmp_path)
    status: object
    try:
        status = traffic.main(["--input", "good.csv", "--output", "out", *arguments])
    except SystemExit as exit:
        status = exit.code
    error = capfd.readouterr().err
    assert status == 2
    assert says in error
    assert error.count("\n") == 1, error
    assert "Traceback" not in error
    assert files(tmp_path) == before


@pytest.mark.parametrize(("scheme", "package"), [("hdfs", "hdfs"), ("s3", "boto3")])
@pytest.mark.parametrize("option", ["--input", "--output", "--sensors"])
def test_a_file_system_that_is_not_installed_is_one_line_and_status_2(
    option, scheme, package, tmp_path, monkeypatch, capfd
):
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    readings = tmp_path / "good.csv"
    readings.write_text(HEADER + "a,2012-03-01,50\n")
    arguments = ["--input", str(readings), "--output", str(tmp_path / "out"), option, f"{scheme}://a/b"]
    assert traffic.main(arguments) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line == f"error: {scheme}://a/b: needs pip install '.[{scheme}]'"


def test_jobs_that_start_together_may_share_an_output(tmp_path):
    """Each writes a file to see whether it can, and takes it away."""
    with ThreadPoolExecutor(2) as jobs:
        looks = [jobs.submit(launch._refuse_unwritable, str(tmp_path)) for _ in range(200)]
    assert [look.result() for look in looks] == [None] * 200
    assert files(tmp_path) == []


def test_an_unwritable_output_is_one_line_and_status_2(tmp_path, capfd):
    readings = tmp_path / "good.csv"
    readings.write_text(HEADER + "a,2012-03-01,50\n")
    assert traffic.main(["--input", str(readings), "--output", "/proc/out"]) == 2
    error = capfd.readouterr().err
    assert "/proc/out" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("text", ["", HEADER, "\ufeff" + HEADER, HEADER + "\n\r\n"])
def test_a_file_without_rows_is_fine(text, run):
    summary = run(text)
    assert (summary["read"], summary["balanced"], summary["files"]) == (0, True, 0)


def test_line_endings_order_unknown_columns_and_byte_order_mark(run, tmp_path):
    text = (
        "\ufeffnote,speed_mph,timestamp,colour,sensor_id\r\n"
        'x,50.5,2012-03-01T00:00:00Z,red,a\r\n\r\n"y,z",51,2012-03-01 01:00:00+01:00,"a ""b""",b'
    )
    summary = run(text)
    assert summary["accepted"] == 2
    assert summary["unknown_columns"] == ["colour", "note"]
    assert summary["blank_lines"] == 1
    rows = table(tmp_path / "out", "raw").to_pylist()
    assert [(row["sensor_id"], row["speed_mph"], row["timestamp"].isoformat()) for row in rows] == [
        ("a", 50.5, "2012-03-01T00:00:00+00:00"),
        ("b", 51, "2012-03-01T00:00:00+00:00"),
    ]
    assert {row["volume_vph"] for row in rows} == {None}


def test_an_input_may_have_brackets_in_its_name(run, tmp_path):
    path = tmp_path / "readings [1].csv"
    path.write_text(HEADER + "a,2012-03-01,50\n")
    assert run(path)["accepted"] == 1


def test_ctrl_c_is_one_line_and_status_130_and_leaves_no_summary(tmp_path):
    readings, output = tmp_path / "readings.csv", tmp_path / "out"
    readings.write_text(
        HEADER + "".join(f"s{n % 50},2012-03-{1 + n % 28:02},{n % 120}\n" for n in range(2_000_000))
    )
    job = start(
        "--input",
        str(readings),
        "--output",
        str(output),
        stderr=subprocess.PIPE,
        text=True,
        # What a shell starts in the background ignores Ctrl+C, and so does what that starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_for(lambda: output.exists() or job.poll() is not None)
    job.send_signal(signal.SIGINT)
    error = job.communicate()[1]
    assert job.returncode == 130, error
    assert error.splitlines()[-1] == "interrupted: run it again to complete it"
    assert not (output / "summary.json").exists()


def test_a_hostile_sensor_id_is_data(run, tmp_path):
    summary = run(HEADER + "../../x,2012-03-01,50\n..,2012-03-01,51\n'; drop table x,2012-03-01,52\n")
    assert summary["dead_letters"] == {"sensor_id_malformed": 2}
    assert summary["accepted"] == 1  # two dots are letters of an id, and no path is made of them
    assert {path.split("/")[0] for path in files(tmp_path)} == {"input-0.csv", "out"}


def test_zero_speed_missing_leaves_zeros_out_of_the_averages(run, tmp_path):
    text = (
        HEADER + "a,2012-03-01 00:00,0\na,2012-03-01 00:01,30\na,2012-03-01 00:02,50\nb,2012-03-01 00:00,0\n"
    )
    run(text, output="keep")
    run(text, output="missing", flags=["--zero_speed", "missing"])
    columns = ["sensor_id", "avg_speed", "min_speed", "message_count", "missing_count"]
    kept, missing = (
        [
            tuple(row[name] for name in columns)
            for row in table(tmp_path / name, "processed/aggregates").to_pylist()
        ]
        for name in ("keep", "missing")
    )
    assert kept == [("a", 80 / 3, 0, 3, 0), ("b", 0, 0, 1, 0)]
    assert missing == [("a", 40, 30, 3, 1), ("b", None, None, 1, 1)]
    assert table(tmp_path / "missing", "raw").num_rows == 4


def test_rules_can_be_overridden(run, tmp_path):
    sensors = tmp_path / "sensors.csv"
    sensors.write_text("index,sensor_id\n0,a\n1, b\n")
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    text = HEADER + f"a,{now},130\nb,{now},-5\nc,{now},50\na,2012-03-01,50\na,2100-01-01,50\n"
    flags = ["--bounds", "speed_mph=:130", "--sensors", str(sensors)]
    flags += ["--max_future_seconds", "60", "--max_age_seconds", "86400"]
    assert run(text, flags=flags)["dead_letters"] == {
        "sensor_id_unknown": 1,
        "timestamp_too_old": 1,
        "timestamp_in_future": 1,
    }


def test_a_time_zone_applies_to_timestamps_without_an_offset(run, tmp_path):
    text = (
        HEADER
        + "a,2012-03-01 00:00,50\na,2012-03-01 00:01Z,51\na,2012-03-11 02:30,52\na,2012-11-04 01:30,53\n"
    )
    summary = run(text, flags=["--timezone", "America/Los_Angeles"])
    assert summary["dead_letters"] == {"timestamp_nonexistent": 1}
    times = [
        time.isoformat()
        for time in table(tmp_path / "out", "raw").sort_by("speed_mph")["timestamp"].to_pylist()
    ]
    assert times == ["2012-03-01T08:00:00+00:00", "2012-03-01T00:01:00+00:00", "2012-11-04T08:30:00+00:00"]


def test_a_step_that_loses_rows_is_named_and_the_status_is_1(tmp_path, capsys, monkeypatch):
    readings = tmp_path / "readings.csv"
    readings.write_text(HEADER + "a,2012-03-01,50\na,2012-03-02,50\n")
    whole = GroupByWindow.expand
    monkeypatch.setattr(
        GroupByWindow,
        "expand",
        lambda self, rows: whole(self, rows) | Filter(lambda group: group[0] % 172_800),
    )
    assert traffic.main(["--input", str(readings), "--output", str(tmp_path / "out")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split() == ["balanced", "NO"] for line in lines)
    assert [line for line in lines if line.startswith("rows lost")] == [
        "rows lost        group by window: 2 rows in, 1 out"
    ]
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["balanced"] is False


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    edits=st.lists(
        st.tuples(st.floats(0, 1), st.sampled_from(["set", "insert", "delete"]), st.integers(0, 255)),
        max_size=30,
    )
)
def test_mutated_bytes_never_raise_and_the_accounts_balance(edits, tmp_path_factory, sample):
    lines = (sample[0] / "traffic.csv").read_bytes().splitlines(keepends=True)
    header, body = lines[0], bytearray(b"".join(lines[1:300]))
    for place, edit, byte in edits:
        at = int(place * (len(body) - 1))
        body[at : at + (edit != "insert")] = b"" if edit == "delete" else bytes([byte])
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "readings.csv").write_bytes(header + bytes(body))
    assert traffic.main(["--input", str(folder / "readings.csv"), "--output", str(folder / "out")]) == 0
    summary = json.loads((folder / "out" / "summary.json").read_text())
    assert summary["balanced"]
    letters = sum(summary["dead_letters"].values())
    assert summary["read"] == summary["accepted"] + summary["duplicates"] + letters
    assert letters == (table(folder / "out", "dead_letters").num_rows if letters else 0)


def start(*arguments: str, **options: Any) -> subprocess.Popen:
    command = [sys.executable, "-m", "pipelines.traffic", *arguments]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, **options)


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.002)


def test_a_killed_run_leaves_only_whole_files_and_the_next_run_completes_them(tmp_path):
    readings, output = tmp_path / "readings.csv", tmp_path / "out"
    with readings.open("w") as file:
        file.write(HEADER)
        for day in range(60):
            date = f"2012-{3 + day // 30:02}-{1 + day % 30:02}"
            file.writelines(
                f"s{n % 50},{date} {n // 3600:02}:{n // 60 % 60:02}:{n % 60:02},{n % 120}\n"
                for n in range(5000)
            )
    job = start("--input", str(readings), "--output", str(output))
    wait_for(lambda: any(output.rglob("raw/**/*.parquet")) or job.poll() is not None)
    job.send_signal(signal.SIGKILL)
    assert job.wait() == -signal.SIGKILL
    left = list(output.rglob("*.parquet"))
    assert left
    assert len(left) < 120
    assert not (output / "summary.json").exists()
    for path in left:
        assert pq.read_table(path, partitioning=None).num_rows > 0
    assert start("--input", str(readings), "--output", str(output), stdout=subprocess.DEVNULL).wait() == 0
    assert table(output, "raw").num_rows == 300_000
    assert pc.sum(table(output, "processed/aggregates")["message_count"]).as_py() == 300_000


def test_on_a_terminal_a_bar_shows_rows_and_rows_per_second(sample, tmp_path):
    terminal, theirs = pty.openpty()
    job = start(
        "--input",
        str(sample[0] / "traffic.csv"),
        "--output",
        str(tmp_path / "out"),
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            shown += os.read(terminal, 65_536)
        except OSError:  # the job has ended and nobody else holds the terminal
            break
    os.close(terminal)
    assert job.wait() == 0
    assert b"reading" in shown
    assert b"rows/s" in shown
    assert b"balanced" in shown


def test_without_a_terminal_a_log_line_tells_of_the_rows(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(progress_bar, "LOG_EVERY_SECONDS", 0.01)
    readings = tmp_path / "readings.csv"
    readings.write_text(HEADER + "".join(f"s{n},2012-03-01,50\n" for n in range(100_000)))
    assert traffic.main(["--input", str(readings), "--output", str(tmp_path / "out")]) == 0
    assert re.search(r"read [1-9][\d,]* rows \([\d,]+ rows/s\), wrote", capfd.readouterr().err)


def test_files_say_their_units_and_serve_a_query_by_sensor(sample, run, tmp_path):
    run(sample[0] / "traffic.csv")
    (path,) = (tmp_path / "out" / "raw" / DAY).glob("*.parquet")
    schema = pq.read_schema(path)
    assert schema.field("speed_mph").metadata[b"unit"] == b"mph"
    assert schema.field("timestamp").type == pa.timestamp("us", "UTC")
    assert schema.field("sensor_id").type == pa.string()
    (path,) = (tmp_path / "out" / "processed" / "aggregates" / DAY).glob("*.parquet")
    metadata = pq.ParquetFile(path).metadata
    groups = [metadata.row_group(number).column(0) for number in range(metadata.num_row_groups)]
    assert {column.compression for column in groups} == {"ZSTD"}
    ranges = [(column.statistics.min, column.statistics.max) for column in groups]
    assert ranges == sorted(ranges)
    assert pq.read_schema(path).field("speed_variance").metadata[b"unit"] == b"mph^2"


def test_help_names_every_group_and_every_default(capsys):
    with pytest.raises(SystemExit) as exit:
        traffic.main(["--help"])
    text = capsys.readouterr().out
    assert exit.value.code == 0
    for heading in ("files:", "windows:", "rules:", "runner:"):
        assert heading in text
    assert "speed_mph=0:120" in text
    assert max(map(len, text.splitlines())) <= 110
