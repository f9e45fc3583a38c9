from __future__ import annotations

from collections import Counter
from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.testing.test_pipeline import TestPipeline
from hypothesis import given, settings
from hypothesis import strategies as st

from runners.options import IN_PROCESS
from schemas.record import DEAD_LETTER
from schemas.traffic import TRAFFIC
from tests.rows import decoded, micros, records
from transforms.accounts import Accounts, WriteSummary
from transforms.batches import concatenate
from transforms.dead_letter_files import WriteDeadLetters, split_by_source
from transforms.dead_letters import Failure, to_dead_letters
from transforms.files import read_json
from transforms.rules import validate

NOW = micros("2012-03-02 00:00")
FAILURES = (
    Failure(("a", "b"), "it breaks a; it breaks b"),
    Failure(("a",), "it breaks a"),
    Failure(("c",), "c"),
)


def letters(lines: list[bytes], which: list[int], source: str = "a.csv") -> pa.RecordBatch:
    return to_dead_letters(records(lines, source=source), FAILURES, np.array(which), TRAFFIC, "decode", NOW)


@settings(deadline=None, max_examples=100)
@given(
    st.lists(
        st.tuples(st.binary(max_size=8), st.sampled_from([b"", b"\n", b"\r\n"]), st.integers(0, 2)),
        max_size=6,
    )
)
def test_a_dead_letter_keeps_the_bytes_without_the_line_ending(rows: list[tuple[bytes, bytes, int]]) -> None:
    rows = [(value.rstrip(b"\r\n"), ending, which) for value, ending, which in rows]
    batch = letters([value + ending for value, ending, _ in rows], [which for *_, which in rows])
    batch.validate(full=True)
    assert batch.schema.equals(DEAD_LETTER, check_metadata=True)
    for place, (letter, (value, _, which)) in enumerate(zip(batch.to_pylist(), rows, strict=True), 1):
        assert (letter["value"], letter["source"], letter["position"]) == (value, "a.csv", place)
        assert (letter["rules"], letter["message"]) == (list(FAILURES[which].rules), FAILURES[which].message)
        assert letter["reason"] == FAILURES[which].rules[0]
        assert (letter["feed"], letter["stage"]) == ("traffic", "decode")
        assert letter["failed_at"].timestamp() * 1_000_000 == NOW


places = st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(1, 40)), unique=True, max_size=12)


@settings(deadline=None, max_examples=100)
@given(places, st.integers(1, 20))
def test_letters_are_split_by_source_and_by_stretch_of_rows(places: list[tuple[str, int]], rows: int) -> None:
    failed = decoded(
        *({"source": source, "position": position, "speed_mph": None} for source, position in places)
    )
    _, batch = validate(failed, TRAFFIC, NOW)
    found = {}
    for key, part in split_by_source(batch, rows):
        assert key not in found
        found[key] = list(zip(part["source"].to_pylist(), part["position"].to_pylist(), strict=True))
    expected: dict[tuple[str, int], list[tuple[str, int]]] = {}
    for source, position in places:
        expected.setdefault((source, position // rows), []).append((source, position))
    assert found == expected


def written(root: Path, batches: list[pa.RecordBatch]) -> Accounts:
    """The accounts of a run of WriteDeadLetters."""
    with TestPipeline(runner=IN_PROCESS) as pipeline:
        created = pipeline | beam.Create(batches).with_output_types(pa.RecordBatch)
        accounts = created | WriteDeadLetters(str(root), "traffic")
        _ = (accounts,) | WriteSummary(str(root), {})
    summary = read_json(str(root / "summary.json"))
    return Accounts(
        dead_letters=Counter(summary["dead_letters"]),
        files=frozenset(summary["output_files"]),
        bytes=summary["bytes"],
    )


def test_letters_are_written_by_source_in_the_order_of_their_rows_and_counted_by_reason(
    tmp_path: Path,
) -> None:
    one = letters([b"1", b"2", b"3", b"4"], [0, 1, 2, 1])
    other = letters([b"x"], [2], source="b.csv")
    accounts = written(tmp_path, [one.slice(2), other, one.slice(0, 2)])
    assert accounts.dead_letters == Counter(a=3, c=2)
    assert len(accounts.files) == 2
    assert accounts.bytes == sum((tmp_path / path).stat().st_size for path in accounts.files)
    assert accounts.files == {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.parquet")}
    tables = [pq.read_table(tmp_path / path) for path in sorted(accounts.files)]
    assert sorted(table["value"].to_pylist() for table in tables) == [[b"1", b"2", b"3", b"4"], [b"x"]]
    for table in tables:
        assert table.schema.names == DEAD_LETTER.names


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_letters_with_the_same_reason_and_other_rules_are_counted_together(tmp_path: Path, rows: int) -> None:
    wrong = (
        {"speed_mph": 121.0},
        {"speed_mph": 121.0, "latitude": 0.0},
        {"latitude": 0.0},
        {"speed_mph": 1e9},
    )
    _, failures = validate(decoded(*wrong), TRAFFIC, NOW)
    accounts = written(tmp_path, [failures.slice(start, rows) for start in range(0, 4, rows)])
    assert accounts.dead_letters == Counter(speed_mph_out_of_range=3, latitude_out_of_range=1)


def test_writing_again_in_another_order_gives_the_same_files(tmp_path: Path) -> None:
    whole = letters([b"1", b"2", b"3"], [0, 1, 2])
    first = written(tmp_path / "first", [whole])
    parts = [whole.slice(place, 1) for place in (2, 0, 1)]
    for _ in range(2):
        assert written(tmp_path / "second", parts) == first
    for path in first.files:
        assert (tmp_path / "first" / path).read_bytes() == (tmp_path / "second" / path).read_bytes()
    assert concatenate(parts).num_rows == 3
