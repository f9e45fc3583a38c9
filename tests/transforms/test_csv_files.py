from __future__ import annotations

import bz2
import gzip
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pytest
import zstandard
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runners.options import IN_PROCESS
from schemas.record import RECORD
from schemas.traffic import TRAFFIC
from tests.rows import read_file
from transforms import csv_files
from transforms.accounts import Accounts
from transforms.csv_files import (
    MAXIMUM_RECORD_LINES,
    find_blocks,
    find_records,
    read_block,
    to_record_batch,
)
from transforms.errors import UserError
from transforms.read_csv import ReadCsv

HEADER = b"sensor_id,timestamp,speed_mph\n"
ROWS = [b"s1,2012-03-01 00:00:00,60\n", b"s2,2012-03-01 00:00:00,61.5\n", b"s3,2012-03-01 00:05:00,0\n"]
BODY = b"".join(ROWS)
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "zst": zstandard.compress,
}

texts = st.text('a,1"\n\r', max_size=40).map(str.encode) | st.lists(
    st.sampled_from(["a", ",", '"', "\n", "\r\n", '""', 'a,"', '",1\n', '"a\nb",1\n', "a,1\n"]), max_size=12
).map(lambda parts: "".join(parts).encode())


def is_one_record(text: str, width: int) -> bool:
    """Whether the text is one CSV record of that many fields: RFC 4180, read one character at a time.

    A quote inside a field that does not begin with one is an ordinary character.
    """
    text = text.removesuffix("\n").removesuffix("\r")
    fields, state = 1, "field begins"
    for character in text:
        if state == "quoted":
            if character == '"':
                state = "quote closed"
        elif character == '"' and state in ("field begins", "quote closed"):
            state = "quoted"
        elif character == ",":
            fields, state = fields + 1, "field begins"
        elif state == "quote closed" or character in "\r\n":
            return False
        else:
            state = "unquoted"
    return state != "quoted" and fields == width


def slow_records(text: bytes, width: int, at_end: bool) -> tuple[list[bytes], int, int]:
    """(the records, where the last of them or of the blank lines ends, the number of blank lines)."""
    lines = [line for line in text.replace(b"\n", b"\n\0").split(b"\0") if line]
    if lines and not at_end and not lines[-1].endswith(b"\n"):
        lines.pop()
    odd = [place for place, line in enumerate(lines) if line.count(b'"') % 2]
    found: list[bytes] = []
    place = 0
    while place < len(lines):
        last = place
        if place in odd:
            closing = next((other for other in odd if other > place), None)
            if closing is None:
                if not at_end and len(lines) - place < MAXIMUM_RECORD_LINES:
                    break
            elif closing - place < MAXIMUM_RECORD_LINES:
                joined = b"".join(lines[place : closing + 1])
                if is_one_record(joined.decode(), width):
                    last = closing
        found.append(b"".join(lines[place : last + 1]))
        place = last + 1
    kept = [record for record in found if record not in (b"\n", b"\r\n", b"\r")]
    return kept, sum(map(len, found)), len(found) - len(kept)


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@settings(deadline=None, max_examples=600)
@given(texts, st.integers(1, 3), st.booleans())
@example(b'"a\nb",1\n', 2, True)
@example(b'a,"1\n\n\r\n"\n\r', 2, True)
@example(b'"a\n"b\nc",1\n', 2, False)
def test_records_are_those_of_an_oracle_that_reads_line_by_line(
    text: bytes, width: int, at_end: bool
) -> None:
    records = find_records(text, width, at_end)
    found = [text[start:end] for start, end in zip(records.starts, records.ends, strict=True)]
    assert (found, records.end, records.blank_lines) == slow_records(text, width, at_end)


@pytest.mark.parametrize("lines", [MAXIMUM_RECORD_LINES - 1, MAXIMUM_RECORD_LINES, MAXIMUM_RECORD_LINES + 1])
@pytest.mark.parametrize("at_end", [True, False])
def test_a_quoted_field_may_span_as_many_lines_as_a_record_may_have(lines: int, at_end: bool) -> None:
    text = b'a,"' + b"x\n" * (lines - 1) + b'"\nb,1\n'
    records = find_records(text, 2, at_end)
    found = [text[start:end] for start, end in zip(records.starts, records.ends, strict=True)]
    assert found == slow_records(text, 2, at_end)[0]
    assert (len(found) == 2) == (lines <= MAXIMUM_RECORD_LINES)


@pytest.mark.parametrize("lines", [MAXIMUM_RECORD_LINES - 1, MAXIMUM_RECORD_LINES])
def test_lines_wait_for_a_closing_quote_as_long_as_one_may_come(lines: int) -> None:
    text = b'a,1\n"' + b"x\n" * lines
    records = find_records(text, 2, at_end=False)
    assert records.end == slow_records(text, 2, at_end=False)[1]
    assert records.end == (len(b"a,1\n") if lines < MAXIMUM_RECORD_LINES else len(text))


def test_an_unclosed_quote_spoils_its_own_line_only() -> None:
    text = b'a,1\nb,"2\nc,3\n"d",4\n"e\nf",5\ng,6\n'
    records = find_records(text, 2)
    assert [text[start:end] for start, end in zip(records.starts, records.ends, strict=True)] == [
        b"a,1\n",
        b'b,"2\n',
        b"c,3\n",
        b'"d",4\n',
        b'"e\nf",5\n',
        b"g,6\n",
    ]


@given(texts, st.integers(1, 3))
@settings(deadline=None, max_examples=200)
def test_a_batch_holds_the_bytes_and_the_place_of_each_record(text: bytes, width: int) -> None:
    records = find_records(text, width)
    batch = to_record_batch(text, records, "a.csv", 7, ["x", "y"])
    batch.validate(full=True)
    assert batch.schema.equals(RECORD)
    assert json.loads(batch.schema.metadata[b"columns"]) == ["x", "y"]
    expected = slow_records(text, width, at_end=True)[0]
    assert batch["value"].to_pylist() == expected
    assert batch["position"].to_pylist() == list(range(7, 7 + len(expected)))
    assert batch["source"].to_pylist() == ["a.csv"] * len(expected)


@settings(deadline=None, max_examples=300)
@given(texts, st.integers(1, 20), st.integers(1, 60))
@example(b'"a\nb",1,2\n', 1, 1)
@example(b'a,1,"\n\n\n"\n', 3, 3)
@example(b'"\n' + b"\n" * 60 + b'"a",1,2\n', 7, 20)
def test_a_file_reads_the_same_whatever_its_blocks_and_batches(
    tmp_path_factory: pytest.TempPathFactory, text: bytes, batch_bytes: int, block_bytes: int
) -> None:
    path = write(tmp_path_factory.mktemp("csv") / "a.csv", HEADER + text)
    expected, _, blank_lines = slow_records(text, 3, at_end=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_files, "BATCH_BYTES", batch_bytes)
        patch.setattr(csv_files, "BLOCK_BYTES", block_bytes)
        assert read_file(path) == (list(enumerate(expected, 1)), blank_lines)


def test_blocks_cover_the_file_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_files, "BATCH_BYTES", 50)
    monkeypatch.setattr(csv_files, "BLOCK_BYTES", 200)
    path = write(tmp_path / "a.csv", HEADER + BODY * 20)
    blocks = list(find_blocks(str(path), TRAFFIC))
    assert len(blocks) > 3
    assert [block.start for block in blocks[1:]] == [block.end for block in blocks[:-1]]
    assert (blocks[0].start, blocks[-1].end) == (len(HEADER), path.stat().st_size)
    for block, following in itertools.pairwise(blocks):
        rows = sum(batch.num_rows for batch, _ in read_block(block))
        assert following.first_row == block.first_row + rows


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", []),
        (HEADER, []),
        (HEADER.rstrip(), []),
        (HEADER + b"\n\r\n\n", []),
        (HEADER + BODY, ROWS),
        (b"\xef\xbb\xbf" + HEADER + BODY, ROWS),
        (HEADER + BODY.rstrip(b"\n"), [*ROWS[:2], ROWS[2].rstrip(b"\n")]),
        (HEADER + ROWS[0] + b"\n\n" + ROWS[1], ROWS[:2]),
        ((HEADER + BODY).replace(b"\n", b"\r\n"), [row.replace(b"\n", b"\r\n") for row in ROWS]),
        (b'"sensor_id", timestamp ,"speed_mph"\n' + BODY, ROWS),
        (b"\n\r\n" + HEADER + BODY, ROWS),
        (b"\xef\xbb\xbf\n" + HEADER + BODY, ROWS),
        (b"\n\n", []),
    ],
    ids=[
        "empty",
        "header only",
        "header without newline",
        "blank lines only",
        "plain",
        "byte order mark",
        "no final newline",
        "blank lines",
        "CRLF",
        "quoted and padded names",
        "blank lines before the header",
        "a byte order mark on a blank line",
        "nothing but blank lines",
    ],
)
def test_records_count_from_one_after_the_header(
    tmp_path: Path, content: bytes, expected: list[bytes]
) -> None:
    found, _ = read_file(write(tmp_path / "a.csv", content))
    assert found == list(enumerate(expected, 1))


def test_blank_lines_are_counted(tmp_path: Path) -> None:
    assert read_file(write(tmp_path / "a.csv", HEADER + b"\n" + ROWS[0] + b"\r\n\r"))[1] == 3


@pytest.mark.parametrize("suffix", COMPRESSIONS)
@pytest.mark.parametrize("batch_bytes", [1, 40, 4 << 20])
def test_a_compressed_file_of_one_member_or_several_reads_as_a_plain_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, batch_bytes: int
) -> None:
    monkeypatch.setattr(csv_files, "BATCH_BYTES", batch_bytes)
    compress = COMPRESSIONS[suffix]
    one = write(tmp_path / f"one.csv.{suffix}", compress(HEADER + BODY))
    several = [HEADER[:9], HEADER[9:] + ROWS[0][:5], ROWS[0][5:] + ROWS[1] + ROWS[2]]
    many = write(tmp_path / f"many.csv.{suffix}", b"".join(map(compress, several)))
    empty = write(tmp_path / f"empty.csv.{suffix}", compress(b""))
    assert read_file(one) == read_file(many) == (list(enumerate(ROWS, 1)), 0)
    assert read_file(empty) == ([], 0)


def whole_file(suffix: str) -> bytes:
    return COMPRESSIONS[suffix](HEADER + b"".join(b"s%d,2012-03-01,%d\n" % (n, n * n) for n in range(5_000)))


@pytest.mark.parametrize("suffix", COMPRESSIONS)
@pytest.mark.parametrize("missing", [1, 4, 8, 1_000])
def test_a_truncated_file_is_an_error_that_names_it(tmp_path: Path, suffix: str, missing: int) -> None:
    path = write(tmp_path / f"cut.csv.{suffix}", whole_file(suffix)[:-missing])
    with pytest.raises(UserError, match=rf"{path}: truncated or damaged"):
        read_file(path)


@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_a_file_cut_inside_its_header_is_an_error_that_names_it(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"cut.csv.{suffix}", whole_file(suffix)[:6])
    with pytest.raises(UserError, match=rf"{path}: truncated or damaged"):
        read_file(path)


@pytest.mark.parametrize("suffix", COMPRESSIONS)
@pytest.mark.parametrize(
    "damage",
    [lambda whole: whole + b"no compressed data", lambda whole: HEADER + BODY, lambda whole: whole[:-9] * 2],
    ids=["something after the end", "not compressed", "one whole, one cut"],
)
def test_a_damaged_file_is_an_error_that_names_it(
    tmp_path: Path, suffix: str, damage: Callable[[bytes], bytes]
) -> None:
    path = write(tmp_path / f"bad.csv.{suffix}", damage(whole_file(suffix)))
    with pytest.raises(UserError, match=rf"{path}: truncated or damaged"):
        read_file(path)


def test_an_empty_member_among_others_is_read_over_or_an_error_that_names_the_file(tmp_path: Path) -> None:
    for suffix, compress in COMPRESSIONS.items():
        members = b"".join(map(compress, [b"", HEADER, ROWS[0], b"", b"", ROWS[1]]))
        path = write(tmp_path / f"a.csv.{suffix}", members)
        if suffix == "bz2":
            with pytest.raises(UserError, match=rf"{path}: truncated or damaged"):
                read_file(path)
        else:
            assert read_file(path)[0] == list(enumerate(ROWS[:2], 1))


@pytest.mark.parametrize("suffix", ["gz", "bz2"])
def test_one_changed_byte_of_a_compressed_file_with_checksums_is_an_error(
    tmp_path: Path, suffix: str
) -> None:
    whole = bytearray(whole_file(suffix))
    whole[len(whole) // 2] ^= 0x10
    path = write(tmp_path / f"bad.csv.{suffix}", bytes(whole))
    with pytest.raises(UserError, match=rf"{path}: truncated or damaged"):
        read_file(path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"sensor_id,timestamp\n", "has no column speed_mph"),
        (b"speed_mph,road_name\n", "has no column sensor_id, timestamp"),
        (b"SENSOR_ID,timestamp,speed_mph\n", "has no column sensor_id"),
        (b"sensor_id;timestamp;speed_mph\n", "has no column sensor_id, timestamp, speed_mph"),
        (b"sensor_id,timestamp,speed_mph,speed_mph\n", "has more than one column speed_mph"),
        (b"sensor_id,timestamp,speed_mph,direcci\xf3n\n", "its header row is not UTF-8"),
        ("sensor_id,timestamp,speed_mph\n".encode("utf-16"), "its header row is not UTF-8"),
        (b"sensor_id,timestamp,speed_mph\rs1,2012-03-01,1\r", "its header row"),
        (b"sensor_id,timestamp,speed_mph," + b"x" * 200_000 + b"\n", "its header row"),
        (b"\x1f\x8b\x08", "its header row is not UTF-8"),
    ],
    ids=[
        "one missing",
        "two missing",
        "other case",
        "semicolons",
        "repeated",
        "not UTF-8",
        "UTF-16",
        "carriage returns only",
        "no header at all",
        "compressed without the suffix",
    ],
)
def test_an_unusable_header_is_an_error_that_names_the_file_and_what_is_wrong(
    tmp_path: Path, header: bytes, message: str
) -> None:
    path = write(tmp_path / "a.csv", header + BODY)
    with pytest.raises(UserError) as error:
        read_file(path)
    assert str(error.value).startswith(f"{path}: {message}")
    assert len(str(error.value).splitlines()) == 1


def test_an_unknown_column_may_occur_twice_and_columns_in_any_order(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", b"note,speed_mph,note,sensor_id,timestamp,\na,1,b,s1,2012-03-01,c\n")
    (block,) = find_blocks(str(path), TRAFFIC)
    assert block.columns == ("note", "speed_mph", "note", "sensor_id", "timestamp", "")


@pytest.mark.parametrize("name", ["none.csv", "none.csv.gz", "."])
def test_what_is_no_readable_file_is_an_error_that_names_it(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(UserError, match=rf"{path}: cannot be read"):
        read_file(path)


def test_read_csv_reads_every_file_and_says_what_it_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_files, "BATCH_BYTES", 60)
    monkeypatch.setattr(csv_files, "BLOCK_BYTES", 100)
    plain = write(tmp_path / "a.csv", HEADER + BODY * 4 + b"\n\n")
    packed = write(
        tmp_path / "b.csv.gz", gzip.compress(b"x,sensor_id,timestamp,speed_mph,x\n1,s1,2012-03-01,1,2\n")
    )
    empty = write(tmp_path / "c.csv", b"")

    def places(batch: pa.RecordBatch) -> Iterator[tuple[str, int, bytes]]:
        return zip(*(batch[name].to_pylist() for name in ("source", "position", "value")), strict=True)

    def check_accounts(accounts: list[Accounts]) -> None:
        total = sum(accounts, Accounts())
        assert (total.read, total.blank_lines, total.unknown_columns) == (13, 2, {"x"})

    with TestPipeline(runner=IN_PROCESS) as pipeline:
        read = pipeline | beam.Create([str(plain), str(packed), str(empty)]) | ReadCsv(TRAFFIC)
        expected = [(str(plain), place, row) for place, row in enumerate(ROWS * 4, 1)]
        assert_that(
            read.records | beam.FlatMap(places),
            equal_to([*expected, (str(packed), 1, b"1,s1,2012-03-01,1,2\n")]),
            label="records",
        )
        assert_that(read.accounts, check_accounts, label="accounts")


def test_read_csv_fails_with_the_name_of_a_truncated_file(tmp_path: Path) -> None:
    path = write(tmp_path / "cut.csv.gz", whole_file("gz")[:-9])
    with (
        pytest.raises(UserError, match=f"{path}: truncated or damaged"),
        TestPipeline(runner=IN_PROCESS) as pipeline,
    ):
        _ = pipeline | beam.Create([str(path)]) | ReadCsv(TRAFFIC)
