"""What feeds declare about their files beyond plain CSV: each of it here, for detections and air quality."""

from __future__ import annotations

import math
import re
import uuid
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from schemas.air_quality import AIR_QUALITY, MEASURED
from schemas.detections import DETECTIONS
from schemas.feed import Feed
from tests.readings import plain
from transforms.csv_files import find_blocks, find_records, read_block, to_record_batch
from transforms.decode_csv import BLANKS, decode_csv
from transforms.errors import UserError
from transforms.rules import validate

patient = settings(deadline=None)
UCI = Path(__file__).parents[3] / "shared" / "data" / "AirQualityUCI.csv"
uci_file = pytest.mark.skipif(not UCI.exists(), reason="needs the UCI file: ../shared/data/AirQualityUCI.csv")

AIR_COLUMNS = ("Date", "Time", *(str(field.column) for field in MEASURED), "", "")
VALUES = dict(zip(AIR_COLUMNS, ["10/03/2004", "18.00.00", *["2,6"] * len(MEASURED)], strict=False))
START = datetime(2024, 5, 1, 12, tzinfo=UTC)
DRIVE = DETECTIONS.with_field("vehicle_id", default="car-1").with_field("session_id", default="s-1")
TIMED_DRIVE = DRIVE.with_field("recording_timestamp", default=START)
DRIVE_COLUMNS = (
    "frame_number",
    "timestamp_sec",
    "u",
    "v",
    "confidence",
    "class_name",
    "vehicle_lat",
    "vehicle_lon",
    "heading",
)
DETECTION = dict(
    zip(DRIVE_COLUMNS, ["7", "0.25", "640.5", "360", "0.9", "stop", "48.1", "11.5", "90"], strict=True)
)


def air(**values: str) -> bytes:
    return ";".join((VALUES | values).get(column, "") for column in AIR_COLUMNS).encode() + b"\r\n"


def drive(**values: str) -> bytes:
    return ",".join((DETECTION | values)[column] for column in DRIVE_COLUMNS).encode() + b"\n"


COLUMNS = {"air_quality": AIR_COLUMNS, "detections": DRIVE_COLUMNS}


def decode(text: bytes, feed: Feed, timezone: str = "UTC") -> tuple[pa.RecordBatch, pa.RecordBatch]:
    columns = COLUMNS[feed.name]
    records = find_records(text, len(columns), dialect=feed.dialect)
    readings, failures = decode_csv(to_record_batch(text, records, "a.csv", 1, columns), feed, timezone)
    readings.validate(full=True)
    return readings, failures


def reading(row: bytes, feed: Feed) -> tuple[dict, set[str]]:
    """The one row decoded, and the rules it breaks so far."""
    readings, failures = decode(row, feed)
    assert (readings.num_rows, failures.num_rows) == (1, 0)
    (decoded,) = readings.to_pylist()
    broken = {rule.name for place, rule in enumerate(feed.rules) if decoded["broken"] >> place & 1}
    return decoded, broken


def outcome(row: bytes, feed: Feed) -> tuple[dict | None, list[str]]:
    """(the accepted reading, the rules named by its dead letter)."""
    readings, failures = decode(row, feed)
    accepted, refused = validate(readings, feed)
    accepted.validate(full=True)
    letters = failures.to_pylist() + refused.to_pylist()
    assert accepted.num_rows + len(letters) == 1
    if letters:
        assert letters[0]["value"] == row.rstrip(b"\r\n")
        return None, letters[0]["rules"]
    return accepted.to_pylist()[0], []


# Rows that any file may have


values = st.one_of(
    st.decimals(-300, 1500, places=2).map(str),
    st.decimals(-300, 1500, places=2).map(lambda number: str(number).replace(".", ",")),
    st.integers(-300, 1500).map(str),
    st.sampled_from(
        ["", "-200", "-200,0", " 1", "nan", "1e3", "1.000,5", "x", ",", ";", '"2,6"', '"', 'x"y', "é"]
    ),
)
dates = st.dates().map(lambda day: day.strftime("%d/%m/%Y")) | st.sampled_from(
    ["", "31/02/2004", "2004-03-10", "1/3/2004", "10/03/04", "00/00/0000", "10/03/2004 ", "10-03-2004", "a"]
)
times = st.times().map(lambda time: time.strftime("%H.%M.%S")) | st.sampled_from(
    ["", "24.00.00", "18:00:00", "7.00.00", "18.00", "18.60.00", "18.00.00.5", "noon"]
)
air_rows = st.builds(
    lambda date, time, first, second, last: air(
        **{"Date": date, "Time": time, "CO(GT)": first, "T": second, "AH": last}
    ),
    dates,
    times,
    values,
    values,
    values,
)
drive_rows = st.builds(
    lambda **row: drive(**row),
    frame_number=st.integers(-3, 10**6).map(str) | values,
    timestamp_sec=st.floats(-10, 10**6).map(str) | values,
    u=values,
    confidence=st.floats(0, 2).map(str) | values,
    class_name=st.sampled_from(["stop", "", '"give, way"', "é", '"a\nb"']),
    heading=values,
)
junk = st.sampled_from([b"\n", b";;;;;;;;;;;;;;;;\n", b";;\n", b",,,,,,,,\n", b'"\n', b"\xff\n", b"x\ry\n"])
ROWS = {"air_quality": air_rows | junk, "detections": drive_rows | junk}


@pytest.mark.parametrize("feed", [AIR_QUALITY, TIMED_DRIVE], ids=["air_quality", "detections"])
@given(data=st.data())
@settings(patient, max_examples=300)
def test_whether_and_how_a_row_decodes_depends_on_it_alone(feed: Feed, data: st.DataObject) -> None:
    rows = data.draw(st.lists(ROWS[feed.name], max_size=6))
    columns = COLUMNS[feed.name]
    text = b"".join(rows)
    records = find_records(text, len(columns), dialect=feed.dialect)
    batch = to_record_batch(text, records, "a.csv", 1, columns)
    readings, failures = decode_csv(batch, feed, "Europe/Rome")
    assert readings.num_rows + failures.num_rows == batch.num_rows
    together = {row["position"]: repr(row) for each in (readings, failures) for row in plain(each)}
    for row in range(batch.num_rows):
        alone = decode_csv(batch.slice(row, 1), feed, "Europe/Rome")
        (one,) = [row for each in alone for row in plain(each)]
        assert together[one["position"]] == repr(one)


# Numbers


@given(values)
@patient
@example("1.5")
def test_a_number_has_a_decimal_comma(text: str) -> None:
    if set(text) & set(';"'):
        return
    decoded, broken = reading(air(T=text), AIR_QUALITY)
    value = decoded["temperature_celsius"]
    if re.fullmatch(r"[+-]?(\d+,?\d*|,\d+)([eE][+-]?\d+)?|nan", text.strip()):
        assert broken == set()
        expected = float(text.replace(",", "."))
        assert value == expected or (math.isnan(value) and math.isnan(expected))
    else:
        assert value is None
        assert broken == ({"temperature_celsius_unparsable"} if text.strip() or text else set())


# Timestamps


@given(dates, times)
@patient
def test_a_timestamp_is_made_of_a_day_and_a_time(date: str, time: str) -> None:
    decoded, broken = reading(air(Date=date, Time=time), AIR_QUALITY)
    text = f"{date.strip(BLANKS)} {time.strip(BLANKS)}"
    expected = None
    if re.fullmatch(r"\d\d/\d\d/\d{4} \d\d\.\d\d\.\d\d", text):
        try:
            expected = datetime.strptime(text, "%d/%m/%Y %H.%M.%S").replace(tzinfo=UTC)
        except ValueError:
            expected = None
    assert decoded["timestamp"] == expected
    assert broken == ({"undated"} if expected is None and (date or time) else set())


def test_blanks_around_a_day_a_time_and_a_class_are_no_part_of_them() -> None:
    decoded, broken = reading(air(Date=" 10/03/2004", Time="18.00.00\t"), AIR_QUALITY)
    assert (decoded["timestamp"], broken) == (datetime(2004, 3, 10, 18, tzinfo=UTC), set())
    detection, _ = reading(drive(class_name=" stop "), TIMED_DRIVE)
    assert detection["class_name"] == "stop"


@pytest.mark.parametrize(
    ("date", "time"), [("", ""), ("", "18.00.00"), ("32/01/2004", "18.00.00"), ("10/03/2004", "")]
)
def test_an_undated_row_is_a_dead_letter_with_its_bytes(date: str, time: str) -> None:
    assert outcome(air(Date=date, Time=time), AIR_QUALITY) == (None, ["undated"])


def test_a_local_time_is_of_the_zone_that_is_given() -> None:
    readings, _ = decode(air(), AIR_QUALITY, "Europe/Rome")
    assert readings["timestamp"].to_pylist() == [datetime(2004, 3, 10, 17, tzinfo=UTC)]


@given(st.floats(0, 10**8))
@patient
def test_a_detection_is_as_late_as_its_frame_after_the_start(seconds: float) -> None:
    decoded, broken = reading(drive(timestamp_sec=repr(seconds)), TIMED_DRIVE)
    assert broken == set()
    assert abs(decoded["timestamp"] - START - timedelta(seconds=seconds)) <= timedelta(microseconds=1)
    assert (decoded["vehicle_id"], decoded["session_id"], decoded["pixel_u"]) == ("car-1", "s-1", 640.5)


@pytest.mark.parametrize("seconds", ["nan", "inf", "-1e300", "1e18"])
def test_a_frame_at_no_possible_time_is_a_dead_letter(seconds: str) -> None:
    _, rules = outcome(drive(timestamp_sec=seconds), TIMED_DRIVE)
    assert "timestamp_unparsable" in rules


def test_the_start_of_a_recording_may_stand_in_its_file(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    row = drive().rstrip() + b",2024-05-01T14:00:00+02:00,car-9\n"
    path.write_bytes(",".join((*DRIVE_COLUMNS, "recording_timestamp", "vehicle_id")).encode() + b"\n" + row)
    (block,) = find_blocks(str(path), DRIVE)
    ((batch, _),) = read_block(block)
    accepted, refused = validate(decode_csv(batch, DRIVE)[0], DRIVE)
    assert refused.num_rows == 0
    assert accepted["timestamp"].to_pylist() == [START + timedelta(seconds=0.25)]
    assert accepted["vehicle_id"].to_pylist() == ["car-9"]


def test_a_file_without_a_required_column_says_which(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(",".join(DRIVE_COLUMNS).encode() + b"\n" + drive())
    with pytest.raises(UserError, match="has no column recording_timestamp"):
        list(find_blocks(str(path), DRIVE))
    assert len(list(find_blocks(str(path), TIMED_DRIVE))) == 1


# Rows


@given(st.lists(st.sampled_from([air(), b";" * 16 + b"\r\n", b";" * 16 + b"\n", b";;\n", b"\r\n", b"; ;\n"])))
@patient
def test_rows_of_delimiters_alone_are_blank_lines(lines: list[bytes]) -> None:
    records = find_records(b"".join(lines), 17, dialect=AIR_QUALITY.dialect)
    sound = [line for line in lines if line.strip(b";\r\n")]
    assert (len(records.starts), records.blank_lines) == (len(sound), len(lines) - len(sound))


def test_a_row_of_delimiters_alone_is_a_row_where_the_feed_does_not_say_otherwise() -> None:
    assert len(find_records(b",,,,\n", 5).starts) == 1


@pytest.mark.parametrize(
    ("row", "reason"), [(b"10/03/2004;18.00.00;1\n", "wrong_field_count"), (b'";' + air(), "unclosed_quote")]
)
def test_a_row_of_no_shape_is_a_dead_letter(row: bytes, reason: str) -> None:
    assert outcome(row, AIR_QUALITY) == (None, [reason])


def test_a_delimiter_in_quotes_is_text() -> None:
    decoded, broken = reading(air(T='"2;6"'), AIR_QUALITY)
    assert (decoded["temperature_celsius"], broken) == (None, {"temperature_celsius_unparsable"})


# Values


@pytest.mark.parametrize(
    ("text", "value", "nulled"),
    [
        ("50", 50.0, []),
        ("50,1", None, ["temperature_celsius_out_of_range"]),
        ("-200", None, []),
        ("", None, []),
        ("hot", None, ["temperature_celsius_unparsable"]),
        ("inf", None, ["temperature_celsius_not_finite"]),
    ],
)
def test_a_value_that_breaks_a_rule_is_null_and_its_row_goes_on(
    text: str, value: float | None, nulled: list[str]
) -> None:
    accepted, _ = outcome(air(T=text), AIR_QUALITY)
    assert accepted is not None
    assert (accepted["temperature_celsius"], accepted["nulled"]) == (value, nulled)
    assert accepted["carbon_monoxide_mg_m3"] == 2.6


@pytest.mark.parametrize(("text", "value"), [("51", 51.0), ("-200", -200.0), ("", None), ("hot", None)])
def test_raw_readings_keep_such_values(text: str, value: float | None) -> None:
    accepted, _ = outcome(air(T=text), AIR_QUALITY.as_raw)
    assert accepted is not None
    assert accepted["temperature_celsius"] == value
    assert "nulled" not in accepted


def test_a_row_with_nothing_usable_is_a_dead_letter_except_raw() -> None:
    nothing = air(**{str(field.column): "-200" for field in MEASURED} | {"T": "1000"})
    accepted, rules = outcome(nothing, AIR_QUALITY)
    assert (accepted, rules) == (None, ["nothing_usable", "temperature_celsius_out_of_range"])
    assert outcome(nothing, AIR_QUALITY.as_raw)[0] is not None


def test_the_reason_of_a_dead_letter_is_a_rule_that_refuses() -> None:
    _, rules = outcome(air(**{"Date": "yesterday", "CO(GT)": "99"}), AIR_QUALITY)
    assert rules == ["undated", "carbon_monoxide_mg_m3_out_of_range"]


@given(data=st.data())
@patient
def test_tolerance_changes_nothing_but_what_it_says(data: st.DataObject) -> None:
    row = data.draw(air_rows)
    readings, _ = decode(row, AIR_QUALITY)
    strict = replace(
        AIR_QUALITY, fields=tuple(replace(field, tolerated=False) for field in AIR_QUALITY.fields)
    )
    for reading in readings.to_pylist():
        batch = pa.RecordBatch.from_pylist([reading], AIR_QUALITY.decoded_schema)
        accepted, refused = validate(batch, AIR_QUALITY)
        kept, struck = validate(batch, strict)
        if kept.num_rows:
            names = [field.name for field in AIR_QUALITY.fields]
            assert accepted.select(names).equals(kept.select(names))
        elif accepted.num_rows:
            assert accepted["nulled"].to_pylist() == struck["rules"].to_pylist()
        else:
            assert Counter(refused["rules"].to_pylist()[0]) == Counter(struck["rules"].to_pylist()[0])


def test_a_detection_has_an_identifier_before_duplicates_are_looked_for_but_not_raw() -> None:
    readings, _ = decode(drive() + drive(), TIMED_DRIVE)
    first, second = validate(readings, TIMED_DRIVE)[0]["detection_id"].to_pylist()
    assert uuid.UUID(first) != uuid.UUID(second)
    assert validate(readings, TIMED_DRIVE.as_raw)[0]["detection_id"].to_pylist() == [None, None]


# The real file


@uci_file
def test_the_uci_file() -> None:
    blank = rows = 0
    accepted, raw, refused = [], [], []
    for block in find_blocks(str(UCI), AIR_QUALITY):
        for batch, blank_lines in read_block(block):
            blank, rows = blank + blank_lines, rows + batch.num_rows
            readings, failures = decode_csv(batch, AIR_QUALITY)
            assert failures.num_rows == 0
            good, bad = validate(readings, AIR_QUALITY)
            accepted += good.to_pylist()
            refused += bad["reason"].to_pylist()
            raw += validate(readings, AIR_QUALITY.as_raw)[0].to_pylist()
    assert (rows, blank, rows + blank) == (9357, 114, 9471)
    assert Counter(rule for row in accepted for rule in row["nulled"]) == {
        "nitrogen_oxides_ppb_out_of_range": 78
    }
    assert Counter(refused) == {"nothing_usable": 31}
    assert len(raw) == 9357
    assert max(row["nitrogen_oxides_ppb"] for row in raw) == 1479
    assert max(row["nitrogen_oxides_ppb"] or 0 for row in accepted) <= 1000
    assert sum(row["carbon_monoxide_mg_m3"] == -200 for row in raw) == 1683
    assert raw[0]["timestamp"] == datetime(2004, 3, 10, 18, tzinfo=UTC)
    assert raw[-1]["timestamp"] == datetime(2005, 4, 4, 14, tzinfo=UTC)
