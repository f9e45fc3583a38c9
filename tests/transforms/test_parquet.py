from __future__ import annotations

import itertools
from pathlib import Path
from random import Random
from typing import Any

import apache_beam as beam
import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runners.options import IN_PROCESS
from schemas.traffic import TRAFFIC
from tests.rows import accepted, micros
from transforms.accounts import Accounts
from transforms.aggregate import aggregate
from transforms.batches import concatenate
from transforms.deduplicate import deduplicate
from transforms.errors import UserError
from transforms.parquet import DAY_MICROS, DailyFiles, WriteDailyParquet, digest, split_by_day, to_parquet

SECOND = 1_000_000
MIDNIGHT = micros("2012-03-01")
LOWEST, HIGHEST = -(2**63), 2**63 - 1


def raw(root: Path, run: str = "run1", feed: str = "traffic") -> DailyFiles:
    return DailyFiles(str(root), "raw", feed, run, "timestamp")


def at(*times: int) -> pa.RecordBatch:
    return accepted(*({"timestamp": when, "speed_mph": float(place)} for place, when in enumerate(times)))


def files_in(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def read(batch: pa.RecordBatch) -> tuple[pa.Table, pq.FileMetaData]:
    file = pq.ParquetFile(pa.BufferReader(to_parquet(batch)))
    return file.read(), file.metadata


# --- One file ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "schema", [TRAFFIC.reading_schema, TRAFFIC.aggregate_schema], ids=["raw", "aggregates"]
)
def test_names_types_units_and_descriptions_come_back(schema: pa.Schema) -> None:
    readings = accepted({"volume_vph": 1200.0})
    batch = readings if schema is TRAFFIC.reading_schema else aggregate(readings, TRAFFIC, 300)
    table, _ = read(batch)
    assert table.schema.names == schema.names
    for field, declared in zip(table.schema, schema, strict=True):
        plain = pa.string() if pa.types.is_dictionary(declared.type) else declared.type
        assert (field.type, field.nullable) == (plain, declared.nullable)
        metadata = {
            key: value for key, value in (field.metadata or {}).items() if not key.startswith(b"PARQUET:")
        }
        assert metadata == declared.metadata
    assert table.to_pylist() == batch.to_pylist()


def test_units_stand_in_the_files() -> None:
    units = {field.name: (field.metadata or {}).get(b"unit") for field in read(accepted({}))[0].schema}
    assert (units["speed_mph"], units["volume_vph"], units["road_name"]) == (b"mph", b"vehicles/h", None)
    schema = read(aggregate(accepted({}), TRAFFIC, 300))[0].schema
    assert schema.field("speed_variance").metadata[b"unit"] == b"mph^2"
    assert schema.field("message_count").metadata[b"unit"] == b"readings"


def test_timestamps_are_utc_for_other_readers_too(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(to_parquet(at(MIDNIGHT)))
    query = f"select typeof(timestamp), epoch_us(timestamp) from '{path}'"
    assert duckdb.connect().execute(query).fetchall() == [("TIMESTAMP WITH TIME ZONE", MIDNIGHT)]


def test_row_groups_of_sorted_readings_hold_sensors_apart_and_say_so() -> None:
    rows = [{"sensor_id": f"s{n % 100:03}", "timestamp": MIDNIGHT + n * SECOND} for n in range(50_000)]
    readings, _ = deduplicate(accepted(*rows), TRAFFIC)
    table, metadata = read(readings)
    assert metadata.num_row_groups == 3
    assert table.num_rows == 50_000
    ranges = []
    for group in range(metadata.num_row_groups):
        columns = {
            metadata.row_group(group).column(place).path_in_schema: metadata.row_group(group).column(place)
            for place in range(metadata.num_columns)
        }
        sensors = columns["sensor_id"]
        ranges.append((sensors.statistics.min, sensors.statistics.max))
        assert columns["timestamp"].statistics.has_min_max
        assert {column.compression for column in columns.values()} == {"ZSTD"}
        assert sensors.has_offset_index and sensors.has_column_index
    assert ranges == sorted(ranges)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(ranges))


def test_values_that_repeat_have_a_dictionary_and_the_others_none() -> None:
    rows: list[dict[str, Any]] = [
        {"sensor_id": f"s{n}", "road_name": "I 5", "speed_mph": n % 7, "volume_vph": n / 7}
        for n in range(3_000)
    ]
    table, metadata = read(accepted(*rows))
    assert table.select(list(rows[0])).to_pylist() == rows
    columns = [metadata.row_group(0).column(place) for place in range(metadata.num_columns)]
    encodings = {column.path_in_schema: set(column.encodings) for column in columns}
    with_dictionary = {name for name, used in encodings.items() if "RLE_DICTIONARY" in used}
    assert with_dictionary >= {"road_name", "speed_mph"}
    assert with_dictionary.isdisjoint({"sensor_id", "volume_vph", "timestamp"})
    assert "BYTE_STREAM_SPLIT" in encodings["volume_vph"]


def test_the_same_rows_give_the_same_bytes() -> None:
    readings = at(*range(1_000))
    assert to_parquet(readings) == to_parquet(readings)
    assert to_parquet(readings.slice(10, 5)) == to_parquet(at(*range(1_000)).slice(10, 5))


@pytest.mark.parametrize(
    "roads", [[], [None, None], [None, "I 5", "I 5", None], ["I 5", "I 80", "I 5", "I 5"]]
)
def test_text_is_plain_and_of_the_rows_alone_however_the_job_holds_it(roads: list[str | None]) -> None:
    rows: list[dict[str, Any]] = [{"road_name": road, "position": n} for n, road in enumerate(roads, 1)]
    among_others = accepted({"road_name": "I 280"}, *rows, {"road_name": "I 880"}).slice(1, len(rows))
    table, _ = read(among_others)
    assert (table["road_name"].type, table["road_name"].to_pylist()) == (pa.string(), roads)
    if rows:
        assert to_parquet(among_others) == to_parquet(concatenate([accepted(*rows)]))


@pytest.mark.parametrize("seed", range(3))
def test_the_bytes_do_not_depend_on_the_order_in_which_readings_arrive(seed: int) -> None:
    rows: list[dict[str, Any]] = [
        {
            "sensor_id": f"s{n % 9}",
            "timestamp": MIDNIGHT + n % 80,
            "position": n,
            "road_name": f"road {n % 7}",
        }
        for n in range(200)
    ]
    expected = to_parquet(deduplicate(accepted(*rows), TRAFFIC)[0])
    Random(seed).shuffle(rows)
    batches = [accepted(*rows[:50]), accepted(*rows[50:51]), accepted(*rows[51:])]
    assert to_parquet(deduplicate(concatenate(batches), TRAFFIC)[0]) == expected


# --- Days --------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=200)
@given(
    st.lists(
        st.integers(LOWEST, HIGHEST)
        | st.integers(micros("0001-01-01"), micros("9999-12-31"))
        | st.integers(-2 * DAY_MICROS, 2 * DAY_MICROS),
        min_size=1,
        max_size=6,
    )
)
@example([-1, 0, DAY_MICROS - 1, DAY_MICROS])
def test_a_day_holds_its_rows_in_their_order(times: list[int]) -> None:
    expected: dict[int, list[int]] = {}
    for when in sorted(times, key=lambda when: when // DAY_MICROS):
        expected.setdefault(when // DAY_MICROS, []).append(when)
    found = [
        (folder, rows["timestamp"].view(pa.int64()).to_pylist())
        for folder, rows in split_by_day(at(*times), "timestamp")
    ]
    assert [rows for _, rows in found] == list(expected.values())
    assert len({folder for folder, _ in found}) == len(expected)
    for (folder, _), day in zip(found, expected, strict=True):
        parts = dict(part.split("=") for part in folder.split("/"))
        assert list(parts) == ["year", "month", "day"]
        assert np.datetime64(f"{parts['year']}-{parts['month']}-{parts['day']}", "D").astype(int) == day


@pytest.mark.parametrize(
    ("time", "folder"),
    [
        ("2012-03-01 23:59:59.999999", "year=2012/month=03/day=01"),
        ("2012-02-29 12:00", "year=2012/month=02/day=29"),
        ("0999-12-31", "year=0999/month=12/day=31"),
        ("0001-01-01", "year=0001/month=01/day=01"),
        ("9999-12-31 23:59:59.999999", "year=9999/month=12/day=31"),
    ],
)
def test_folders_are_named_after_the_utc_day(time: str, folder: str) -> None:
    assert [name for name, _ in split_by_day(at(micros(time)), "timestamp")] == [folder]


@pytest.mark.parametrize(
    ("days_before_the_year_1", "folder"),
    [
        (1, "year=0000/month=12/day=31"),
        (366, "year=0000/month=01/day=01"),
        (367, "year=-001/month=12/day=31"),
    ],
)
def test_years_before_the_first_have_folders_too(
    days_before_the_year_1: int, folder: str, tmp_path: Path
) -> None:
    readings = at(micros("0001-01-01") - days_before_the_year_1 * DAY_MICROS)
    ((path, _),) = raw(tmp_path).write(0, readings)
    assert path.startswith(f"raw/{folder}/")


# --- Names, and what is there already ----------------------------------------------------------------


def test_a_group_is_written_as_one_file_a_day_whose_names_depend_on_the_inputs_alone(tmp_path: Path) -> None:
    times = [MIDNIGHT - 1, MIDNIGHT, MIDNIGHT + 1]
    written = list(raw(tmp_path).write(MIDNIGHT // SECOND - 300, at(*times)))
    assert [path for path, _ in written] == files_in(tmp_path)
    assert [path for path, _ in written] == [
        "raw/year=2012/month=02/day=29/traffic-20120229T235500-run1.parquet",
        "raw/year=2012/month=03/day=01/traffic-20120229T235500-run1.parquet",
    ]
    assert [size for _, size in written] == [(tmp_path / path).stat().st_size for path, _ in written]
    assert list(raw(tmp_path / "again").write(MIDNIGHT // SECOND - 300, at(*times))) == written


def test_two_groups_of_a_day_stand_side_by_side(tmp_path: Path) -> None:
    for start in (MIDNIGHT, MIDNIGHT + 300 * SECOND):
        list(raw(tmp_path).write(start // SECOND, at(start)))
    assert pyarrow.dataset.dataset(tmp_path / "raw", partitioning="hive").count_rows() == 2


def test_writing_again_replaces_what_was_written(tmp_path: Path) -> None:
    for times in ([MIDNIGHT, MIDNIGHT + 1], [MIDNIGHT + 2]):
        list(raw(tmp_path).write(MIDNIGHT // SECOND, at(*times)))
    assert len(files_in(tmp_path)) == 1
    assert pq.read_table(tmp_path / "raw")["timestamp"].to_pylist()[0].microsecond == 2


@pytest.mark.parametrize("folder", ["out", "out [1]", "a*b", "a?b"])
def test_a_day_that_holds_the_results_of_other_inputs_is_refused(tmp_path: Path, folder: str) -> None:
    root = tmp_path / folder
    list(raw(root).write(MIDNIGHT // SECOND, at(MIDNIGHT)))
    before = files_in(root)
    with pytest.raises(UserError, match="this day already holds the results of other inputs") as error:
        list(raw(root, run="run2").write(MIDNIGHT // SECOND + 300, at(MIDNIGHT + 300 * SECOND)))
    assert before[0] in str(error.value)
    assert files_in(root) == before
    list(raw(root, run="run2").write(MIDNIGHT // SECOND, at(MIDNIGHT - 1)))
    list(raw(root, run="run2", feed="weather").write(MIDNIGHT // SECOND, at(MIDNIGHT)))
    list(raw(root).write(MIDNIGHT // SECOND, at(MIDNIGHT)))
    assert len(files_in(root)) == 3


def test_the_digest_depends_on_the_set_of_paths_alone() -> None:
    assert digest(["a", "b"]) == digest(["b", "a"]) != digest(["a"])
    assert digest(["a", "b"]) != digest(["ab"])
    assert digest(["/data/a.csv"]) == "41998143faa4"
    assert len(digest([])) == 12


def test_what_cannot_be_written_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "raw").write_text("in the way")
    with pytest.raises(UserError, match=f"{tmp_path}/raw/.*: cannot be written"):
        list(raw(tmp_path).write(MIDNIGHT // SECOND, at(MIDNIGHT)))
    assert files_in(tmp_path) == ["raw"]


def test_no_reader_takes_an_unfinished_file_for_one_of_the_results(tmp_path: Path) -> None:
    ((path, _),) = raw(tmp_path).write(MIDNIGHT // SECOND, at(MIDNIGHT))
    whole = tmp_path / path
    whole.with_name(f".{whole.name}.0123abcd.tmp").write_bytes(whole.read_bytes()[:100])
    assert pyarrow.dataset.dataset(tmp_path / "raw", partitioning="hive").count_rows() == 1
    query = f"select count(*), any_value(year) from read_parquet('{tmp_path}/raw/**/*.parquet')"
    assert duckdb.connect().execute(query).fetchall() == [(1, 2012)]
    assert pq.read_table(tmp_path / "raw").num_rows == 1
    list(raw(tmp_path, run="run1").write(MIDNIGHT // SECOND, at(MIDNIGHT)))


# --- In a pipeline -----------------------------------------------------------------------------------


def test_write_daily_parquet_accounts_for_files_bytes_and_rows(tmp_path: Path) -> None:
    def check(found: list[Accounts]) -> None:
        total = sum(found, Accounts())
        assert (total.accepted, len(total.files)) == (3, 2)
        assert total.bytes == sum((tmp_path / path).stat().st_size for path in total.files)

    with TestPipeline(runner=IN_PROCESS) as pipeline:
        groups = [
            (MIDNIGHT // SECOND, at(MIDNIGHT, MIDNIGHT + 1)),
            (MIDNIGHT // SECOND - 300, at(MIDNIGHT - 1)),
        ]
        written = pipeline | beam.Create(groups).with_output_types(tuple[int, pa.RecordBatch])
        written |= WriteDailyParquet(raw(tmp_path), lambda batch: Accounts(accepted=batch.num_rows))
        assert_that(written, check)
    assert pyarrow.dataset.dataset(tmp_path / "raw", partitioning="hive").count_rows() == 3
