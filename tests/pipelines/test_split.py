from __future__ import annotations

import gzip
import re
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.split import main

UCI = Path(__file__).parents[3] / "shared" / "data" / "AirQualityUCI.csv"
uci_file = pytest.mark.skipif(not UCI.exists(), reason="needs the UCI file: ../shared/data/AirQualityUCI.csv")

HEADER = b"sensor_id,timestamp,speed_mph\n"
TIMES = [datetime(2012, 3, 1, hour) for hour in range(5)]
rows = st.one_of(
    st.builds(
        lambda time, speed, ending: (time, f"s1,{time},{speed}".encode() + ending),
        st.sampled_from(TIMES),
        st.sampled_from(["60", "fast", "", '"6\n0"']),
        st.sampled_from([b"\n", b"\r\n"]),
    ),
    st.sampled_from(
        [(None, b"s1,yesterday,60\n"), (None, b"s1\n"), (None, b"s1,,60\n"), (None, b"s1,\xff,1\n")]
    ),
)


def run(folder: Path, text: bytes, *options: str, feed: str = "traffic") -> int:
    (folder / "input.csv").write_bytes(text)
    files = [f"--{name}={folder / name}.csv" for name in ("input", "train", "stream")]
    return main([feed, *files, *options])


def parts(folder: Path) -> tuple[bytes, bytes]:
    return (folder / "train.csv").read_bytes(), (folder / "stream.csv").read_bytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@given(st.lists(rows, max_size=12), st.sampled_from(TIMES), st.booleans())
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_go_by_their_time_with_their_bytes_and_in_their_order(
    folder: Path, table: list[tuple[datetime | None, bytes]], at: datetime, newline: bool
) -> None:
    text = HEADER + b"".join(row for _, row in table)
    if not newline:
        text = text.removesuffix(b"\n")
    earlier = [row for time, row in table if time is not None and time < at]
    later = [row for time, row in table if time is None or time >= at]
    dated = [time for time, _ in table if time is not None and time >= at]
    for name in ("train.csv", "stream.csv"):
        (folder / name).unlink(missing_ok=True)
    status = run(folder, text, f"--at={at}")
    if not (earlier and dated):
        assert status == 2
        assert [path.name for path in folder.iterdir()] == ["input.csv"]
        return
    expected = [HEADER + b"".join(part) for part in (earlier, later)]
    if not newline:
        which = 0 if table[-1][1] in earlier and table[-1][0] is not None and table[-1][0] < at else 1
        expected[which] = expected[which].removesuffix(b"\n")
    assert status == 0
    assert parts(folder) == tuple(expected)


@given(st.lists(st.sampled_from(TIMES), min_size=1), st.fractions(Fraction(1, 100), Fraction(99, 100)))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_fraction_is_that_of_the_rows_in_time_order_and_parts_no_moment(
    folder: Path, times: list[datetime], fraction: Fraction
) -> None:
    text = HEADER + b"".join(f"s1,{time},60\n".encode() for time in times)
    share = f"--fraction={fraction.numerator}/{fraction.denominator}"
    boundary = sorted(times)[int(fraction * len(times))]
    if run(folder, text, share) == 2:
        assert boundary == min(times)
        return
    train, stream = parts(folder)
    assert train.count(b"\n") - 1 == sum(time < boundary for time in times)
    assert stream.count(b"\n") - 1 == sum(time >= boundary for time in times)
    assert (train.count(b"\n") - 1) <= fraction * len(times)


def test_the_time_is_of_the_zone_and_a_bom_and_blank_lines_are_as_the_header_has_them(folder: Path) -> None:
    first, second = b"s1,2012-03-01 00:00,1\n", b"s1,2012-03-01 09:00,1\n"
    text = b"\xef\xbb\xbf" + HEADER + first + b"\n" + second
    options = ("--at=2012-03-01T08:30:00Z", "--timezone=America/Los_Angeles")
    assert run(folder, text, *options) == 0
    assert parts(folder) == (b"\xef\xbb\xbf" + HEADER + first, b"\xef\xbb\xbf" + HEADER + second)


def test_a_compressed_file_is_split_into_plain_ones(folder: Path) -> None:
    text = HEADER + b"s1,2012-03-01,1\ns1,2012-03-02,1\n"
    (folder / "a.csv.gz").write_bytes(gzip.compress(text))
    files = [
        f"--input={folder / 'a.csv.gz'}",
        f"--train={folder / 'train.csv'}",
        f"--stream={folder / 'stream.csv'}",
    ]
    assert main(["traffic", *files, "--fraction=0.5"]) == 0
    assert parts(folder) == (HEADER + b"s1,2012-03-01,1\n", HEADER + b"s1,2012-03-02,1\n")


def test_detections_are_split_by_the_time_in_their_video(folder: Path) -> None:
    header = b"frame_number,timestamp_sec,u,v,confidence,class_name,vehicle_lat,vehicle_lon,heading\n"
    first, second = b"1,0.5,1,1,0.9,stop,48,11,0\n", b"9,4.5,1,1,0.9,stop,48,11,0\n"
    text = header + second + first
    assert run(folder, text, "--fraction=0.5", feed="detections") == 0
    assert parts(folder) == (header + first, header + second)
    begun = ("--session_start=2024-05-01T12:00:00Z", "--at=2024-05-01T12:00:01Z")
    assert run(folder, text, *begun, feed="detections") == 0
    assert parts(folder) == (header + first, header + second)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--at=noon",), "'noon' is no time"),
        (("--fraction=1",), "--fraction 1: is no number between 0 and 1"),
        (("--fraction=a half",), "--fraction a half: is no number"),
        (("--at=2011-01-01",), "no row is before 2011-01-01"),
        (("--at=2013-01-01",), "no row is at or after 2013-01-01"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_and_nothing_written(
    folder: Path, options: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, HEADER + b"s1,2012-03-01,1\n", *options) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"error: .*\n", error)
    assert message in error
    assert [path.name for path in folder.iterdir()] == ["input.csv"]


@pytest.mark.parametrize("text", [b"", HEADER, HEADER + b"s1,,1\n"], ids=["empty", "header", "undated"])
def test_a_file_without_dated_rows_is_refused(folder: Path, text: bytes) -> None:
    assert run(folder, text, "--fraction=0.5") == 2
    assert [path.name for path in folder.iterdir()] == ["input.csv"]


def test_neither_file_is_left_when_one_cannot_be_written(folder: Path) -> None:
    text = HEADER + b"s1,2012-03-01,1\ns1,2012-03-02,1\n"
    (folder / "train.csv").mkdir()
    assert run(folder, text, "--fraction=0.5") == 2
    assert sorted(path.name for path in folder.iterdir()) == ["input.csv", "train.csv"]


def test_an_earlier_stream_is_kept_when_nothing_can_be_written(folder: Path) -> None:
    (folder / "input.csv").write_bytes(HEADER + b"s1,2012-03-01,1\ns1,2012-03-02,1\n")
    (folder / "stream.csv").write_text("earlier")
    files = [
        f"--input={folder}/input.csv",
        f"--train={folder}/nowhere/train.csv",
        f"--stream={folder}/stream.csv",
    ]
    assert main(["traffic", *files, "--fraction=0.5"]) == 2
    assert (folder / "stream.csv").read_text() == "earlier"


def test_a_zone_that_there_is_not_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(folder, HEADER + b"s1,2012-03-01,1\n", "--at=2012-03-01", "--timezone=Nowhere")
    assert "'Nowhere' is no time zone" in capsys.readouterr().err


def test_a_file_is_not_split_into_itself(folder: Path) -> None:
    assert run(folder, HEADER, "--at=2012-03-01", f"--train={folder / 'input.csv'}") == 2
    assert (folder / "input.csv").read_bytes() == HEADER


@uci_file
def test_the_uci_file_in_two(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [f"--input={UCI}", f"--train={folder / 'train.csv'}", f"--stream={folder / 'stream.csv'}"]
    assert main(["air_quality", *files, "--fraction=0.7"]) == 0
    boundary = datetime(2004, 12, 8, 15, tzinfo=UTC).isoformat()
    assert capsys.readouterr().out == f"6,549 rows before {boundary}, 2,808 rows from then on\n"
    train, stream = (part.splitlines(keepends=True) for part in parts(folder))
    original = UCI.read_bytes().splitlines(keepends=True)
    assert train[0] == stream[0] == original[0]
    assert train[1:] + stream[1:] == [line for line in original[1:] if line.strip(b";\r\n")]
