"""What readers find of a file that a stream replaces while they read it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.dataset
import pytest

from transforms.files import publish
from transforms.parquet import to_parquet

VERSIONS = (10, 300, 4000, 30)


def version(rows: int) -> pa.Buffer:
    """A file whose rows all say how many they are."""
    columns = {"key": [f"s{place % 7}" for place in range(rows)], "place": range(rows), "rows": [rows] * rows}
    return to_parquet(pa.RecordBatch.from_pydict({name: list(values) for name, values in columns.items()}))


def with_arrow(folder: Path) -> set[tuple]:
    table = pyarrow.dataset.dataset(folder, format="parquet").to_table()
    return {(table.num_rows, len(table["place"].unique()), *table["rows"].unique().to_pylist())}


def with_duckdb(folder: Path) -> set[tuple]:
    """It opens a file twice: when that was replaced in between, the second does not fit the first."""
    query = f"select count(*), count(distinct place), rows from '{folder}/**/*.parquet' group by rows"
    with contextlib.suppress(duckdb.Error):
        return set(duckdb.connect().execute(query).fetchall())
    return set()


@pytest.mark.parametrize("read", [with_arrow, with_duckdb])
def test_a_reader_finds_one_version_of_a_file_and_never_a_mixture(
    read: Callable[[Path], set[tuple]], tmp_path: Path
) -> None:
    contents = [version(rows) for rows in VERSIONS]
    publish(str(tmp_path / "x.parquet"), contents[0])
    done = threading.Event()

    def replace() -> None:
        while not done.is_set():
            for content in contents:
                publish(str(tmp_path / "x.parquet"), content)

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        found = [read(tmp_path) for _ in range(50)]
    finally:
        done.set()
        writer.join()
    assert set().union(*found) <= {(rows, rows, rows) for rows in VERSIONS}
    assert len(set().union(*found)) > 1
    assert read is with_duckdb or all(found)
