from __future__ import annotations

import itertools
import json
import math
import re
import zoneinfo
from datetime import UTC, datetime, timedelta

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipelines.sample.faults import BROKEN_LINES
from pipelines.sample.traffic_faults import BROKEN_RULES, ODDITIES
from pipelines.sample.traffic_faults import COLUMNS as SAMPLE_COLUMNS
from runners.options import IN_PROCESS
from schemas.record import DEAD_LETTER
from schemas.traffic import TRAFFIC
from tests.rows import COLUMNS, SIMPLE_ROW, micros, records
from transforms.csv_files import find_records, to_record_batch
from transforms.decode import DecodeCsv
from transforms.decode_csv import decode_csv
from transforms.rules import validate

MANY_COLUMNS = (
    "note",
    "sensor_id",
    "timestamp",
    "speed_mph",
    "lane_count",
    "note",
    "incident_nearby",
    "event_id",
    "road_name",
)
LOS_ANGELES = "America/Los_Angeles"
NOW = micros("2012-03-02 00:00")

# --- What a field may look like -------------------------------------------------------------------

digits = st.text("0123456789", min_size=1, max_size=4)
numbers = st.one_of(
    st.decimals(-200, 200, places=2).map(str),
    st.floats(allow_nan=False).map(repr),
    st.sampled_from(
        [
            "0",
            "-0",
            "+1",
            "1.",
            ".5",
            ".",
            "-",
            "+",
            "1e3",
            "1E-3",
            "1e400",
            "-1e400",
            "1e-400",
            "nan",
            "NaN",
            "-nan",
            "inf",
            "-INF",
            "Infinity",
            "nan(1)",
            "0x10",
            "0X1p3",
            "1_0",
            "1,5",
            "12%",
            "3O",
            "N/A",
            "null",
            "NULL",
            "None",
            "-",
            "--",
            "1e",
            "99999",
            "-32768",
            "32768",
            "4.0",
            "٣",
        ]
    ),
    st.sampled_from(["", " ", "\t", " 1", "1 ", "\t1\t", "1 2", "\x001", "1\x00", "\u00a01", "1\u200b"]),
    st.text("+-.0123456789eE xX", max_size=6),
)
booleans = st.sampled_from(
    ["", "true", "false", "1", "0", "True", "FALSE", "tRuE", "yes", " true", "t", "2", "\t0 "]
)
dates = st.one_of(
    st.dates().map(str),
    st.sampled_from(
        [
            "2012-02-29",
            "2011-02-29",
            "2012-02-30",
            "2012-13-01",
            "2012-00-10",
            "2012-3-1",
            "12-03-01",
            "20120301",
            "2012/03/01",
            "0000-01-01",
            "0001-01-01",
            "9999-12-31",
            "-001-01-01",
            "+2012-03-01",
            "10000-01-01",
            "2012-W09-4",
            "2012-061",
        ]
    ),
)
times = st.one_of(
    st.times().map(str),
    st.times().map(lambda time: time.isoformat("minutes")),
    st.times().map(lambda time: time.isoformat("milliseconds")),
    st.builds("{:%H:%M:%S}.{}".format, st.times(), st.text("0123456789", min_size=1, max_size=10)),
    st.sampled_from(
        [
            "00",
            "7:00",
            "24:00",
            "24:00:00",
            "23:59:60",
            "25:00:00",
            "00:60",
            "000000",
            "00:00:00.",
            "00:00:00,5",
            "T00:00",
        ]
    ),
)
zones = st.one_of(
    st.just(""),
    st.sampled_from(
        [
            "Z",
            "z",
            "+00:00",
            "-08:00",
            "+0530",
            "+05",
            "+5",
            "+24:00",
            "-00:00",
            "+14:00",
            "+01:60",
            "UTC",
            " Z",
            " +00:00",
        ]
    ),
)
timestamps = st.one_of(
    st.datetimes().map(str),
    st.datetimes().map(lambda when: when.isoformat() + "Z"),
    st.builds("{}{}{}{}".format, dates, st.sampled_from([" ", "T", "t", "  ", ""]), times, zones),
    st.builds("{}{}".format, dates, zones),
    st.builds("{1}{0}{2}".format, st.datetimes().map(str), *[st.sampled_from(["", " ", "\t"])] * 2),
    st.sampled_from(["", "0", "1330560000", "yesterday", "2012-03-11 02:30:00", "2012-11-04 01:30:00"]),
)
words = st.one_of(
    st.sampled_from(
        ["", "s1", "773869", "I-405", " s1", "s1 ", "../x", "s" * 65, "Cañón", "\ufeffs1", "a\x00b"]
    ),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
)


def quoted(value: str) -> str:
    return '"' + value.replace('"', '""') + '"'


def field(values: st.SearchStrategy[str]) -> st.SearchStrategy[bytes]:
    """A field as a well-meaning writer writes it, quoted or not."""
    plain = values.map(lambda value: quoted(value) if set(value) & set(',"\r\n') else value)
    return st.one_of(plain, values.map(quoted)).map(str.encode)


OF_COLUMN = {
    "timestamp": timestamps,
    "speed_mph": numbers,
    "lane_count": numbers,
    "incident_nearby": booleans,
}
endings = st.sampled_from([b"\n", b"\r\n"])
sound_rows = st.builds(
    lambda when, speed, word, ending: b"n,%b,%b,%d,4,,true,,%b" % (word, when.encode(), speed, word) + ending,
    st.datetimes(datetime(1970, 1, 1), datetime(2030, 1, 1)).map(str),
    st.integers(0, 120),
    st.sampled_from([b"s1", b"s2", b'"I-405, North"', b'"a ""b"""']),
    endings,
)
well_formed_rows = st.tuples(*(field(OF_COLUMN.get(name, words)) for name in MANY_COLUMNS)).flatmap(
    lambda fields: endings.map(lambda ending: b",".join(fields) + ending)
)
junk = st.one_of(
    st.binary(max_size=12),
    st.sampled_from(
        [
            b'"',
            b'""',
            b",",
            b",,,,,,,,",
            b"\r",
            b"\r\n",
            b"\n",
            b"\xff",
            b"\xc3",
            b"\0",
            b'x"y"',
            b'"a"b',
            b"\xef\xbb\xbf",
        ]
    ),
)


def spoil(row: bytes, place: int, length: int, inserted: bytes) -> bytes:
    """The row with some bytes deleted and some inserted; it still ends its line."""
    place %= len(row)
    return row[:place] + inserted + row[place + length :].rstrip(b"\n") + b"\n"


rows = st.one_of(
    sound_rows,
    well_formed_rows,
    st.builds(spoil, sound_rows, st.integers(0, 60), st.integers(0, 4), junk),
    junk.map(lambda row: row + b"\n"),
)


def described(readings: pa.RecordBatch, failures: pa.RecordBatch) -> list[tuple[int, str]]:
    """(position, everything else) of all rows, in the order of positions; text whatever its dictionaries."""
    found = []
    for batch in (readings, failures):
        columns = [
            column.view(pa.int64()) if pa.types.is_timestamp(column.type) else column for column in batch
        ]
        plain = pa.table(columns, names=batch.schema.names)
        found += [(row["position"], repr(row)) for row in plain.to_pylist()]
    return sorted(found)


def decode_text(
    text: bytes, columns: tuple[str, ...] = MANY_COLUMNS, timezone: str = "UTC"
) -> tuple[pa.RecordBatch, pa.RecordBatch, pa.RecordBatch]:
    batch = to_record_batch(text, find_records(text, len(columns)), "a.csv", 1, columns)
    return batch, *decode_csv(batch, TRAFFIC, timezone, NOW)


def reading(line: bytes, columns: tuple[str, ...] = COLUMNS, timezone: str = "UTC") -> dict:
    """The one reading of a line that decodes, its timestamp in microseconds, and the rules that it breaks."""
    readings, failures = decode_csv(records([line], columns), TRAFFIC, timezone, NOW)
    assert (readings.num_rows, failures.num_rows) == (1, 0)
    when = readings["timestamp"].view(pa.int64())
    (row,) = readings.set_column(1, "timestamp", when).to_pylist()
    row["rules"] = [rule.name for place, rule in enumerate(TRAFFIC.rules) if row["broken"] >> place & 1]
    return row


def failure(line: bytes, columns: tuple[str, ...] = COLUMNS) -> dict:
    readings, failures = decode_csv(records([line], columns), TRAFFIC, now=NOW)
    assert (readings.num_rows, failures.num_rows) == (0, 1)
    return failures.to_pylist()[0]


# --- A record decodes the same whatever stands beside it ------------------------------------------


@settings(deadline=None, max_examples=600)
@given(st.lists(rows, max_size=6).map(b"".join), st.sampled_from(["UTC", LOS_ANGELES, "Asia/Kathmandu"]))
@example(
    b"n,s1,2012-03-01,1,4,,1,,x\n" * 2 + b'n,s"1,2012-03-01,1,4,,1,,"x\n' + b"n,s1,2012-03-01,1,4,,1,,x\n",
    "UTC",
)
@example(b'n,s1",2012-03-01,1,4,,1,,"x\n', "UTC")
@example(b"\xef\xbb\xbfn,s1,2012-03-01,1,4,,1,,x\n\xef\xbb\xbf\xef\xbb\xbfn,s1,2012-03-01,1,4,,1,,x\n", "UTC")
@example(b"\xef\xbb\xbf\n\xef\xbb\xbf\n", "UTC")
def test_whether_and_how_a_record_decodes_depends_on_it_alone(text: bytes, timezone: str) -> None:
    batch, readings, failures = decode_text(text, timezone=timezone)
    readings.validate(full=True)
    failures.validate(full=True)
    alone: list[tuple[int, str]] = []
    for row in range(batch.num_rows):
        alone += described(*decode_csv(batch.slice(row, 1), TRAFFIC, timezone, NOW))
    assert described(readings, failures) == alone


@settings(deadline=None, max_examples=300)
@given(st.lists(rows, max_size=6).map(b"".join))
def test_every_record_is_in_one_collection_with_its_bytes_and_position(text: bytes) -> None:
    batch, readings, failures = decode_text(text)
    accepted, refused = validate(readings, TRAFFIC, NOW)
    assert readings["value"].to_pylist() == [
        value
        for value, position in zip(batch["value"].to_pylist(), batch["position"].to_pylist(), strict=True)
        if position in set(readings["position"].to_pylist())
    ]
    ends = [
        accepted["position"].to_pylist(),
        refused["position"].to_pylist(),
        failures["position"].to_pylist(),
    ]
    assert sorted(itertools.chain(*ends)) == batch["position"].to_pylist()
    original = dict(zip(batch["position"].to_pylist(), batch["value"].to_pylist(), strict=True))
    for letters in (refused, failures):
        for letter in letters.to_pylist():
            assert letter["value"] == original[letter["position"]].removesuffix(b"\n").removesuffix(b"\r")
            assert letter["source"] == "a.csv"


SAMPLE_ROW = b"773869,2012-03-01 00:00:00,64.375,1200,6.5,34.15497,-118.31829,I-405,N,4".split(b",")


def rows_as_in_the_sample() -> list[bytes]:
    """A sound row, and one of each kind that the sample plants."""
    place = SAMPLE_COLUMNS.index
    lines = [SAMPLE_ROW]
    for _, name, change in ODDITIES:
        lines.append([change(value) if at == place(name) else value for at, value in enumerate(SAMPLE_ROW)])
    for written, _ in BROKEN_RULES:
        changed = list(SAMPLE_ROW)
        for name, value in written.items():
            changed[place(name)] = value.encode()
        lines.append(changed)
    lines += [breaking(SAMPLE_ROW, place("road_name")) for _, breaking in BROKEN_LINES]
    return [b",".join(line) + b"\n" for line in lines]


@pytest.mark.parametrize("seed", range(60))
def test_random_bytes_in_real_rows_raise_nothing_and_lose_nothing(seed: int) -> None:
    random = np.random.default_rng(seed)
    text = bytearray(b"".join(random.choice(rows_as_in_the_sample(), 40).tolist()))
    for _ in range(int(random.integers(1, 30))):
        at = int(random.integers(len(text)))
        new = random.choice([0, 9, 10, 13, 32, 34, 44, 45, 58, 0xEF, 0xFF, int(random.integers(256))])
        match random.integers(3):
            case 0:
                text[at] = new
            case 1:
                text.insert(at, new)
            case _:
                del text[at : at + int(random.integers(1, 5))]
    batch, readings, failures = decode_text(bytes(text), SAMPLE_COLUMNS)
    accepted, refused = validate(readings, TRAFFIC, NOW)
    ends = [
        accepted["position"].to_pylist(),
        refused["position"].to_pylist(),
        failures["position"].to_pylist(),
    ]
    assert sorted(itertools.chain(*ends)) == batch["position"].to_pylist()
    for row in range(0, batch.num_rows, 7):
        one = described(*decode_csv(batch.slice(row, 1), TRAFFIC, "UTC", NOW))
        assert one[0] in described(readings, failures)


# --- Numbers --------------------------------------------------------------------------------------

PLAIN_NUMBER = re.compile(
    r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?|[+-]?(nan|inf|infinity)", re.ASCII | re.IGNORECASE
)


@settings(deadline=None, max_examples=400)
@given(numbers.filter(lambda text: '"' not in text))
def test_a_number_is_what_python_reads_where_both_read_one(text: str) -> None:
    row = reading(f's1,2012-03-01,"{text}"\n'.encode())
    stripped = text.strip(" \t")
    if PLAIN_NUMBER.fullmatch(stripped):
        assert repr(row["speed_mph"]).removeprefix("-") == repr(float(stripped)).removeprefix("-")
        assert math.isnan(row["speed_mph"]) or row["speed_mph"] == float(stripped)
        assert row["rules"] == []
    elif text == "":
        assert (row["speed_mph"], row["rules"]) == (None, [])
    elif row["speed_mph"] is None:
        assert row["rules"] == ["speed_mph_unparsable"]
    else:
        assert stripped.lower().lstrip("+-").startswith("nan(")


@settings(deadline=None, max_examples=200)
@given(
    st.integers(-(2**34), 2**34).map(str)
    | numbers.filter(lambda text: '"' not in text and "x" not in text.lower())
)
def test_a_whole_number_is_one_that_python_reads_and_the_type_holds(text: str) -> None:
    row = reading(f's1,2012-03-01,1,"{text}"\n'.encode(), (*COLUMNS, "lane_count"))
    bits = TRAFFIC.field("lane_count").type.bit_width
    stripped = text.strip(" \t")
    if re.fullmatch(r"-?\d+", stripped, re.ASCII) and -(2 ** (bits - 1)) <= int(stripped) < 2 ** (bits - 1):
        assert (row["lane_count"], row["rules"]) == (int(stripped), [])
    elif not re.fullmatch(r"\+\d+", stripped, re.ASCII):
        assert (row["lane_count"], row["rules"]) == (None, ["lane_count_unparsable"] if text else [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("true", True),
        ("false", False),
        ("TRUE", True),
        ("tRuE", True),
        ("1", True),
        (" 0", False),
        ("", None),
    ],
)
def test_booleans(text: str, expected: bool | None) -> None:
    row = reading(f"s1,2012-03-01,1,{text}\n".encode(), (*COLUMNS, "incident_nearby"))
    assert (row["incident_nearby"], row["rules"]) == (expected, [])


def test_what_is_no_boolean_breaks_a_rule() -> None:
    row = reading(b"s1,2012-03-01,1,maybe\n", (*COLUMNS, "incident_nearby"))
    assert (row["incident_nearby"], row["rules"]) == (None, ["incident_nearby_unparsable"])


# --- Timestamps -----------------------------------------------------------------------------------

OFFSETS = {"": 0, "Z": 0, "+00:00": 0, "-08:00": -480, "+0530": 330, "+05": 300, "-0345": -225, "+14:00": 840}
EPOCH = datetime(1970, 1, 1)


@settings(deadline=None, max_examples=300)
@given(
    st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 31)),
    st.sampled_from([" ", "T"]),
    st.sampled_from(["seconds", "minutes", "fraction"]),
    st.text("0123456789", min_size=1, max_size=9),
    st.sampled_from(sorted(OFFSETS)),
)
def test_a_timestamp_is_what_a_calendar_says(
    when: datetime, between: str, precision: str, fraction: str, offset: str
) -> None:
    text = f"{when.year:04}-{when:%m-%d}{between}{when:%H:%M}"
    expected = when.replace(second=0, microsecond=0)
    if precision != "minutes":
        text, expected = f"{text}:{when:%S}", when.replace(microsecond=0)
    if precision == "fraction":
        text = f"{text}.{fraction}"
        expected = when.replace(microsecond=int(fraction.ljust(6, "0")[:6]))
    expected -= timedelta(minutes=OFFSETS[offset])
    row = reading(f"s1,{text}{offset},1\n".encode())
    assert (row["timestamp"], row["rules"]) == ((expected - EPOCH) // timedelta(microseconds=1), [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2012-03-01", "2012-03-01 00:00"),
        ("2012-02-29 23:59:59.999999999", "2012-02-29 23:59:59.999999"),
        ("1969-12-31 23:59:59.9999999", "1969-12-31 23:59:59.999999"),
        ("2012-03-01T00:00:00.1234567+01:00", "2012-02-29 23:00:00.123456"),
        ("0999-01-01 00:00:00", "0999-01-01 00:00"),
        ("9999-12-31 23:59:59", "9999-12-31 23:59:59"),
    ],
)
def test_timestamps_at_the_edges(text: str, expected: str) -> None:
    assert reading(f"s1,{text},1\n".encode())["timestamp"] == micros(expected)


@pytest.mark.parametrize(
    "text",
    [
        "2011-02-29",
        "2012-02-30 00:00:00",
        "2012-04-31",
        "2012-13-01",
        "2012-00-01",
        "2012-03-00",
        "2012-03-01 24:00:00",
        "2012-03-01 00:60:00",
        "2012-03-01 00:00:60",
        "1900-02-29",
        " ",
        "2012-03-01  00:00:00",
        "2012-3-1",
        "2012/03/01",
        "03/01/2012",
        "1330560000",
        "2012-03-01T00:00:00 PST",
        "2012-03-01T00:00:00+25:00",
        "yesterday",
        "-2012-03-01",
        "10000-01-01",
    ],
)
@pytest.mark.parametrize("timezone", ["UTC", LOS_ANGELES])
def test_what_no_calendar_has_breaks_a_rule(text: str, timezone: str) -> None:
    row = reading(f"s1,{text},1\n".encode(), timezone=timezone)
    assert (row["timestamp"], row["rules"]) == (None, ["timestamp_unparsable"])


@pytest.mark.parametrize("zone", ["", "Z"])
@pytest.mark.parametrize(
    "line",
    ["\ts1 ,2012-03-01 00:05{zone},61.2, I 5 \n", "\ts1 , 2012-03-01 00:05{zone}\t,\t61.2 , I 5 \n"],
    ids=["typed", "as text"],
)
def test_blanks_are_no_part_of_keys_times_and_numbers_but_of_other_text(line: str, zone: str) -> None:
    row = reading(line.format(zone=zone).encode(), (*COLUMNS, "road_name"))
    assert (row["sensor_id"], row["timestamp"], row["speed_mph"], row["road_name"], row["rules"]) == (
        *("s1", micros("2012-03-01 00:05"), 61.2, " I 5 "),
        [],
    )


def test_keys_that_differ_in_their_blanks_alone_are_one() -> None:
    lines = [b"s2,2012-03-01,1\n", b" s1,2012-03-01,1\n", b",2012-03-01,1\n", b"s1,2012-03-01,2\n"]
    readings, _ = decode_csv(records(lines, COLUMNS), TRAFFIC)
    assert readings["sensor_id"].to_pylist() == ["s2", "s1", None, "s1"]
    assert sorted(readings["sensor_id"].dictionary.to_pylist()) == ["s1", "s2"]


def local_time(when: datetime, zone: str) -> int | None:
    """The earlier instant at which the clock shows that time, or None, by zoneinfo."""
    local = when.replace(tzinfo=zoneinfo.ZoneInfo(zone), fold=0)
    utc = local.astimezone(UTC)
    if utc.astimezone(local.tzinfo).replace(tzinfo=None) != when:
        return None
    return (utc.replace(tzinfo=None) - EPOCH) // timedelta(microseconds=1)


@settings(deadline=None, max_examples=300)
@given(
    st.one_of(
        st.datetimes(datetime(1975, 1, 1), datetime(2037, 1, 1)),
        st.datetimes(datetime(2012, 3, 11, 1), datetime(2012, 3, 11, 4)),
        st.datetimes(datetime(2012, 11, 4, 0), datetime(2012, 11, 4, 3)),
    ),
    st.sampled_from([LOS_ANGELES, "Europe/Berlin", "Australia/Lord_Howe", "Asia/Kathmandu", "UTC"]),
    st.booleans(),
)
@example(datetime(2012, 3, 11, 2), LOS_ANGELES, False)
@example(datetime(2012, 3, 11, 2, 59, 59, 999999), LOS_ANGELES, False)
@example(datetime(2012, 3, 11, 3), LOS_ANGELES, False)
@example(datetime(2012, 11, 4, 1), LOS_ANGELES, True)
@example(datetime(2012, 11, 4, 1, 59, 59), LOS_ANGELES, True)
@example(datetime(2012, 11, 4, 2), LOS_ANGELES, True)
def test_a_local_time_is_the_earlier_instant_or_breaks_a_rule(
    when: datetime, zone: str, beside_a_bad_row: bool
) -> None:
    lines = [f"s1,{when},1\n".encode(), *([b"s1,yesterday,1\n"] if beside_a_bad_row else [])]
    readings, _ = decode_csv(records(lines), TRAFFIC, zone)
    expected = local_time(when, zone)
    assert readings["timestamp"].view(pa.int64())[0].as_py() == expected
    assert readings["broken"][0].as_py() == (
        0 if expected is not None else TRAFFIC.bit("timestamp", "nonexistent")
    )


@pytest.mark.parametrize("offset", ["Z", "+00:00", "-08:00"])
def test_an_offset_wins_over_the_time_zone(offset: str) -> None:
    line = f"s1,2012-03-11T02:30:00{offset},1\n".encode()
    assert reading(line, timezone=LOS_ANGELES)["timestamp"] == reading(line)["timestamp"] is not None


# --- Rows that are no rows ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"s1,2012-03-01\n", "wrong_field_count"),
        (b"s1,2012-03-01,1,2\n", "wrong_field_count"),
        (b"s1\n", "wrong_field_count"),
        (b" \n", "wrong_field_count"),
        (b'""\n', "wrong_field_count"),
        (b'"s1,2012-03-01,1\n', "unclosed_quote"),
        (b's1,2012-03-01,"1\n', "unclosed_quote"),
        (b's1",2012-03-01,"1\n', "unclosed_quote"),
        (b's"1,"2012-03-01,1\n', "unclosed_quote"),
        (b's1,2012-03-01,"1', "unclosed_quote"),
        (b's"1,2012-03-01,"1""\n', "unclosed_quote"),
        (b"s1\r,2012-03-01,1\n", "bare_carriage_return"),
        (b"s1,2012-03-01,1\r\r\n", "bare_carriage_return"),
        (b"s1\xff,2012-03-01,1\n", "not_utf8"),
        (b"s1\xc3,2012-03-01,1\n", "not_utf8"),
        (b"\xed\xa0\x80,2012-03-01,1\n", "not_utf8"),
        (b'"\xff\r,2012-03-01\n', "not_utf8"),
        (b'"\r,2012-03-01\n', "unclosed_quote"),
    ],
)
@pytest.mark.parametrize(
    "beside", [[], [SIMPLE_ROW], [b"s1,yesterday,fast\n"]], ids=["alone", "sound", "broken"]
)
def test_a_row_of_no_shape_is_a_failure(line: bytes, reason: str, beside: list[bytes]) -> None:
    lines = [*beside, line, *beside] if line.endswith(b"\n") else [*beside, line]
    readings, failures = decode_csv(records(lines), TRAFFIC, now=NOW)
    assert readings["value"].to_pylist() == [other for other in lines if other is not line]
    assert failures.schema.equals(DEAD_LETTER)
    (letter,) = failures.to_pylist()
    assert letter["value"] == line.removesuffix(b"\n").removesuffix(b"\r")
    assert (letter["source"], letter["position"]) == ("a.csv", len(beside) + 1)
    assert (letter["feed"], letter["stage"]) == ("traffic", "decode")
    assert (letter["reason"], letter["rules"]) == (reason, [reason])
    assert letter["failed_at"].timestamp() * 1_000_000 == NOW


@pytest.mark.parametrize(
    ("line", "road"),
    [
        (b's1,2012-03-01,1,"I-405, North"\n', "I-405, North"),
        (b's1,2012-03-01,1,"the ""405"""\n', 'the "405"'),
        (b's1,2012-03-01,1,"two\nlines"\n', "two\nlines"),
        (b's1,2012-03-01,1,"two\r\nlines"\r\n', "two\r\nlines"),
        (b's1,2012-03-01,1,the "405" road\n', 'the "405" road'),
        (b's1,2012-03-01,1,""\n', None),
        (b"s1,2012-03-01,1,\n", None),
        (b"s1,2012-03-01,1,null\n", "null"),
        (b"s1,2012-03-01,1, \n", " "),
        (b"s1,2012-03-01,1,Ca\xc3\xb1\xc3\xb3n", "Cañón"),
        (b"s1,2012-03-01,1,x\r", "x"),
        (b"s1,2012-03-01,1,a\0b\n", "a\0b"),
    ],
)
def test_text_is_what_stands_between_the_quotes(line: bytes, road: str | None) -> None:
    row = reading(line, (*COLUMNS, "road_name"))
    assert (row["road_name"], row["rules"]) == (road, [])


def test_columns_may_stand_in_any_order_unknown_ones_are_not_read_and_absent_ones_are_null() -> None:
    row = reading(b"?,1,x,s1,y,2012-03-01,z\n", ("a", "speed_mph", "b", "sensor_id", "b", "timestamp", "b#4"))
    assert (row["sensor_id"], row["speed_mph"], row["timestamp"]) == ("s1", 1.0, micros("2012-03-01"))
    assert row["volume_vph"] is row["road_name"] is row["lane_count"] is None


def test_no_record_at_all_is_no_reading_and_no_failure() -> None:
    readings, failures = decode_csv(records([]), TRAFFIC)
    assert (readings.num_rows, failures.num_rows) == (0, 0)
    assert readings.schema.equals(TRAFFIC.decoded_schema)


def test_readings_of_a_slice_are_those_of_its_rows() -> None:
    lines = [f"s{n},2012-03-01,{n}\n".encode() for n in range(9)]
    readings, _ = decode_csv(records(lines).slice(3, 4), TRAFFIC)
    assert readings["sensor_id"].to_pylist() == ["s3", "s4", "s5", "s6"]
    assert readings["position"].to_pylist() == [4, 5, 6, 7]


def test_decode_csv_in_a_pipeline_names_its_two_outputs() -> None:
    def rules(batch: pa.RecordBatch) -> list[str]:
        return batch["reason"].to_pylist()

    with TestPipeline(runner=IN_PROCESS) as pipeline:
        lines = records([SIMPLE_ROW, b"s1\n", SIMPLE_ROW])
        decoded = pipeline | beam.Create([lines]) | DecodeCsv(TRAFFIC, LOS_ANGELES)
        times = decoded.readings | beam.FlatMap(lambda batch: batch["timestamp"].view(pa.int64()).to_pylist())
        assert_that(times, equal_to([micros("2012-03-01 08:00")] * 2), label="readings")
        assert_that(decoded.failures | beam.FlatMap(rules), equal_to(["wrong_field_count"]), label="failures")


def test_the_header_travels_in_the_metadata() -> None:
    assert json.loads(records([], ["x"]).schema.metadata[b"columns"]) == ["x"]
