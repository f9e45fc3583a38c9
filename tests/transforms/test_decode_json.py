from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runners.options import IN_PROCESS
from schemas.feed import TEXT, TIMESTAMP, Feed, Field
from schemas.feeds import FEEDS
from schemas.record import DEAD_LETTER, RECORD
from schemas.traffic import TRAFFIC
from tests.readings import readings
from tests.rows import micros
from transforms.casts import to_timestamps
from transforms.decode_json import MAXIMUM_DEPTH, DecodeJson, decode_json
from transforms.json_messages import to_json
from transforms.messages import to_messages
from transforms.rules import validate

LOS_ANGELES = "America/Los_Angeles"
NOW = micros("2012-03-02 00:00")
SOUND = b'{"sensor_id":"s1","timestamp":"2012-03-01T00:00:00Z","speed_mph":60}'
# The traffic feed, and what it has not: whole numbers that no float holds, short floats, groups of all types.
WIDE = replace(
    TRAFFIC,
    fields=(
        *TRAFFIC.fields,
        Field("odometer", pa.int64(), ""),
        Field("lane", pa.int8(), "", group="place"),
        Field("grade", pa.float32(), "", group="place"),
        Field("surveyed", TIMESTAMP, "", group="place"),
        Field("paved", pa.bool_(), "", group="place"),
        Field("county", TEXT, "", group="place"),
    ),
)


def records(values: Sequence[bytes | None]) -> pa.RecordBatch:
    """Records as the Kafka source yields them, offsets from 0."""
    rows = [
        {"value": value, "source": "traffic-raw", "partition": 3, "position": offset}
        for offset, value in enumerate(values)
    ]
    return pa.RecordBatch.from_pylist(rows, RECORD)


def reading(value: bytes, feed: Feed = TRAFFIC, timezone: str = "UTC") -> dict[str, Any]:
    """The reading of a message, times as microseconds, with the names of the rules that it breaks."""
    decoded, failures = decode_json(records([value]), feed, timezone)
    assert failures.num_rows == 0, failures.to_pylist()
    return rows_of(decoded, feed)[0]


def rows_of(decoded: pa.RecordBatch, feed: Feed) -> list[dict[str, Any]]:
    decoded.validate(full=True)
    assert decoded.schema.equals(feed.decoded_schema)
    columns = {
        name: (
            decoded[name].view(pa.int64()) if decoded[name].type == TIMESTAMP else decoded[name]
        ).to_pylist()
        for name in decoded.schema.names
    }
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    for row in rows:
        row["rules"] = [rule.name for place, rule in enumerate(feed.rules) if row["broken"] >> place & 1]
    return rows


def with_member(name: str, value: str) -> bytes:
    """The sound message with a member set to a value as its JSON has it."""
    message = {key: json.dumps(member) for key, member in json.loads(SOUND).items()} | {name: value}
    return ("{" + ",".join(f"{json.dumps(key)}:{member}" for key, member in message.items()) + "}").encode()


# --- The oracle: Python's json module and the declaration, a message at a time ------------------------------


def slow_decode(value: bytes | None, feed: Feed, timezone: str) -> str | dict[str, Any]:
    """The reason why a message fails, or its fields and `rules`, those that it breaks."""
    if value is None or value == b"":
        return "empty"
    try:
        text = value.decode("utf-8-sig")
    except UnicodeDecodeError:
        return "not_utf8"
    if slow_depth(text) > MAXIMUM_DEPTH:
        return "too_deep"

    def whole(digits: str) -> Decimal:
        return Decimal(0 if digits == "-0" else digits)

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        document = json.loads(text, parse_int=whole, parse_constant=refuse)
    except ValueError:
        return "not_json"
    if not isinstance(document, dict):
        return "not_an_object"
    fields: dict[str, Any] = {}
    broken = set()
    for field in feed.fields:
        values = [slow_value(document.get(field.name), field, timezone)]
        group = document.get(field.group)
        if isinstance(group, dict):
            values.insert(0, slow_value(group.get(field.name), field, timezone))
        elif group is not None:
            values.append((None, "unparsable"))
        fields[field.name] = next((value for value, _ in values if value is not None), None)
        broken |= {(field.name, kind) for _, kind in values if kind}
    return {**fields, "rules": [rule.name for rule in feed.rules if (rule.field.name, rule.kind) in broken]}


def slow_depth(text: str) -> int:
    depth = deepest = 0
    quoted = escaped = False
    for character in text:
        if quoted:
            quoted = escaped or character != '"'
            escaped = character == "\\" and not escaped
        elif character == '"':
            quoted = True
        elif character in "[{":
            depth += 1
            deepest = max(depth, deepest)
        elif character in "]}":
            depth -= 1
    return deepest


def slow_value(value: Any, field: Field, timezone: str) -> tuple[Any, str | None]:
    """(the value in the field's type or None, the kind of rule that it breaks)."""
    kind, wrong = field.type, (None, "unparsable")
    if value is None:
        return None, None
    if isinstance(value, bool):
        return (value, None) if kind == pa.bool_() else wrong
    if isinstance(value, str):
        if kind not in (TEXT, TIMESTAMP, pa.string()) or any("\ud800" <= each <= "\udfff" for each in value):
            return wrong
        if kind != TIMESTAMP:
            return value, None
        times, failed = to_timestamps(pa.array([value]), timezone)
        kinds = [name for name, rows in failed.items() if len(rows)]
        return times.view(pa.int64())[0].as_py(), kinds[0] if kinds else None
    if not isinstance(value, Decimal | float):
        return wrong
    if pa.types.is_floating(kind):
        return pa.scalar(float(value), kind).as_py(), None
    if not math.isfinite(value) or value != int(value):
        return wrong
    if kind == TIMESTAMP:
        inside = -62_167_219_200_000 <= value < 253_402_300_800_000
        return (int(value) * 1000, None) if inside else wrong
    if not pa.types.is_integer(kind):
        return wrong
    try:
        return pa.scalar(int(value), kind).as_py(), None
    except (pa.ArrowInvalid, OverflowError):
        return wrong


# --- What a message may look like ---------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
strings = st.one_of(
    texts.map(json.dumps),
    texts.map(lambda text: json.dumps(text, ensure_ascii=False)),
    st.sampled_from(["s1", "773869", "", "60", "true", "null", "I-405", "\ufeff", "a\0b", "\U0001f697"]).map(
        json.dumps
    ),
    st.sampled_from(
        [r'"\ud83d\ude97"', r'"\ud800"', r'"\udc00"', r'"\udc00\ud800"', r'"\/\b\f\n\r\t\"\\"', r'"\u0041"']
    ),
    st.sampled_from([r'"\x41"', r'"\u12g4"', '"a\nb"', '"a\x01b"', '"\x7f"', '"', "'a'", r'"\"']),
)
numbers = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.integers(-300, 300).map(str),
    st.integers().map(str),
    st.sampled_from(
        ["0", "-0", "-0.0", "0.0", "0e0", "1e400", "-1e400", "1e-400", "4e38", "2.4703282292062328e-324"]
    ),
    st.sampled_from(["3.0", "3.5", "3e0", "30e-1", "1E+2", "127", "128", "-128", "-129"]),
    st.sampled_from([2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 2**53 + 1, 2**63 - 1, 2**63, 10**30]).map(str),
    st.sampled_from(
        ["1330560000000", "1330560000000.0", "1330560000000.5", "253402300799999", "253402300800000"]
    ),
    st.sampled_from(["-62167219200000", "-62167219200001", "9" * 309, "-" + "9" * 309]),
    st.sampled_from(["1" + "0" * zeros for zeros in (298, 299, 300, 308, 309, 400, 4300, 5000)]),
    st.sampled_from(
        ["NaN", "Infinity", "-Infinity", "nan", "inf", "True", "01", "1.", ".5", "+1", "-", "1e", "0x10"]
    ),
    st.sampled_from(["1_0", "--1", "1,5"]),
)
timestamps = st.one_of(
    st.datetimes().map(lambda when: f'"{when.isoformat()}Z"'),
    st.datetimes().map(lambda when: f'"{when}"'),
    st.integers(-(10**13), 10**13).map(str),
    st.sampled_from(
        ["2012-03-01T00:00:00.123456789Z", "2012-03-01T00:00:00-08:00", "2012-03-01T00:00:00+0530"]
    ).map(json.dumps),
    st.sampled_from(["2012-03-11T02:30:00", "2012-11-04T01:30:00", "2012-03-01", "2012-03-01T00Z"]).map(
        json.dumps
    ),
    st.sampled_from(["2012-02-30", "yesterday", "2012-03-01T00:00:00.Z", "1330560000000"]).map(json.dumps),
)
scalars = st.one_of(strings, numbers, timestamps, st.sampled_from(["null", "true", "false", "nul", ""]))
blanks = st.sampled_from(["", "", " ", "\n", "\r\n", "\t ", "\x0c", "\u00a0"])


def objects(values: st.SearchStrategy[str], names: Sequence[str]) -> st.SearchStrategy[str]:
    """Objects as anybody might write them: names twice, blanks anywhere."""
    quoted = st.sampled_from([*names, "x", ""]).map(json.dumps) | st.just(r'"speed\u005fmph"')
    members = st.lists(
        st.tuples(blanks, quoted, values).map(lambda parts: "{0}{1}:{0}{2}".format(*parts)), max_size=6
    )
    return members.map(lambda each: "{" + ",".join(each) + "}")


GROUPS = ("coordinates", "place")
NAMES = [*(field.name for field in WIDE.fields), *GROUPS]
nested = st.one_of(
    objects(scalars, [field.name for field in WIDE.fields if field.group]),
    st.lists(scalars, max_size=2).map(lambda each: "[" + ",".join(each) + "]"),
    st.integers(MAXIMUM_DEPTH - 3, MAXIMUM_DEPTH + 1).map(lambda depth: "[" * depth + "]" * depth),
)


def fitting(field: Field) -> st.SearchStrategy[str]:
    """Values of the field's type, more often than not."""
    if field.type == TIMESTAMP:
        return timestamps
    if field.type == pa.bool_():
        return st.sampled_from(["true", "false", "null", "1"])
    return strings if field.type in (TEXT, pa.string()) else numbers


typed_members = st.sampled_from([f for f in WIDE.fields if not f.group]).flatmap(
    lambda field: fitting(field).map(lambda value: f'"{field.name}":{value}')
)
typed_groups = st.sampled_from([f for f in WIDE.fields if f.group]).flatmap(
    lambda field: fitting(field).map(lambda value: f'"{field.group}":{{"{field.name}":{value}}}')
)
mostly_sound = st.lists(typed_members | typed_groups, max_size=5).map(
    lambda members: "{" + ",".join(members) + "}"
)
in_both_places = st.sampled_from([f for f in WIDE.fields if f.group]).flatmap(
    lambda field: st.tuples(fitting(field), fitting(field)).map(
        lambda both: f'{{"{field.name}":{both[0]},"{field.group}":{{"{field.name}":{both[1]}}}}}'
    )
)
documents = st.one_of(
    in_both_places, mostly_sound, mostly_sound, objects(scalars | nested, NAMES), scalars, nested
)


@st.composite
def values(draw: st.DrawFn) -> bytes | None:
    """A message's bytes: sound, odd, cut short, doubled, of another encoding, or none."""
    whole = draw(documents).encode()
    match draw(st.integers(0, 15)):
        case 0:
            return draw(
                st.sampled_from(
                    [None, b"", b" ", b"\n", b"\0", b"\xef\xbb\xbf", b"null", b"[]", b"{}{}", b"{", b"}"]
                )
            )
        case 1:
            place = draw(st.integers(0, len(whole)))
            return whole[:place] + draw(st.binary(max_size=3)) + whole[place + draw(st.integers(0, 3)) :]
        case 2:
            return (
                whole
                + draw(st.sampled_from([b"", b"\n", b"\0", b" ", b"\0{}", b" null {}", b"//", b"\x0c"]))
                + whole
            )
        case 3:
            return (
                draw(
                    st.sampled_from([b"\xef\xbb\xbf", b" ", b"\xef\xbb\xbf\xef\xbb\xbf", b"\xff\xfe", b"\n"])
                )
                + whole
            )
        case 4:
            return whole.decode().encode(
                draw(st.sampled_from(["utf-16", "utf-16-le", "utf-32"])), "surrogatepass"
            )
        case 5:
            return whole.replace(
                b":", b":" + draw(st.sampled_from([b"\n", b'"\xff"', b"\xc3", b"\xed\xa0\x80"])), 1
            )
    return whole


# --- What holds for any message -----------------------------------------------------------------------------


@settings(deadline=None, max_examples=1000)
@given(st.lists(values(), max_size=6), st.sampled_from(["UTC", LOS_ANGELES]))
@example([b'{"odometer":9007199254740993}'], "UTC")
@example([b'{"place":{"county":"a"},"place":{"lane":127}}', b'{"place":{"county":"a"},"place":null}'], "UTC")
@example([b"{}{}", b"{", b"}"], "UTC")
def test_a_message_decodes_as_the_json_module_and_the_declaration_say(
    batch: list[bytes | None], timezone: str
) -> None:
    decoded, failures = decode_json(records(batch), WIDE, timezone, NOW)
    expected = [slow_decode(value, WIDE, timezone) for value in batch]
    letters = [(letter["position"], letter["value"], letter["reason"]) for letter in failures.to_pylist()]
    failing = [(n, batch[n], reason) for n, reason in enumerate(expected) if isinstance(reason, str)]
    assert letters == failing
    rows = rows_of(decoded, WIDE)
    assert [row["position"] for row in rows] == [
        n for n, each in enumerate(expected) if isinstance(each, dict)
    ]
    for row in rows:
        fields = expected[row["position"]]
        assert repr({name: row[name] for name in fields}) == repr(fields)  # tells -0.0 from 0.0, unlike ==
        assert (row["value"], row["source"], row["partition"]) == (batch[row["position"]], "traffic-raw", 3)


@settings(deadline=None, max_examples=300)
@given(st.lists(values(), min_size=1, max_size=6), st.sampled_from(["UTC", LOS_ANGELES]))
def test_whether_and_how_a_message_decodes_depends_on_it_alone(
    batch: list[bytes | None], timezone: str
) -> None:
    together = records(batch)
    alone = [decode_json(together.slice(n, 1), WIDE, timezone, NOW) for n in range(len(batch))]
    for whole, parts in zip(
        decode_json(together, WIDE, timezone, NOW), zip(*alone, strict=True), strict=True
    ):
        assert repr(whole.to_pylist()) == repr([row for part in parts for row in part.to_pylist()])


@pytest.mark.parametrize("feed", [*FEEDS.values(), WIDE], ids=[*FEEDS, "wide"])
@given(data=st.data())
@settings(deadline=None)
def test_readings_come_back_from_the_messages_that_this_project_writes(
    feed: Feed, data: st.DataObject
) -> None:
    batch = data.draw(readings(feed))
    texts = to_json(to_messages(batch, feed, NOW)).to_pylist()
    decoded, failures = decode_json(records([text.encode() for text in texts]), feed)
    assert failures.num_rows == 0
    assert not any(decoded["broken"].to_pylist())
    for field in feed.fields:
        expected = [
            None if isinstance(value, float) and math.isinf(value) else value
            for value in batch[field.name].to_pylist()
        ]
        if field.name not in (feed.identifier, feed.ingestion_time):
            assert decoded[field.name].to_pylist() == expected


REAL = [
    text.encode()
    for text in to_json(
        to_messages(
            pa.RecordBatch.from_pylist(
                [
                    dict.fromkeys(TRAFFIC.reading_schema.names)
                    | {
                        "sensor_id": str(773869 + n),
                        "timestamp": micros("2012-03-01 00:00") + n * 300_000_000,
                        "speed_mph": 60.5 + n,
                        "latitude": 34.15,
                        "longitude": -118.3,
                        "road_name": "Cañón “405”",
                        "lane_count": 4,
                        "incident_nearby": False,
                        "source": "a.csv",
                        "position": n + 1,
                    }
                    for n in range(20)
                ],
                TRAFFIC.reading_schema,
            ),
            TRAFFIC,
        )
    ).to_pylist()
]


@pytest.mark.parametrize("seed", range(60))
def test_random_bytes_in_real_messages_raise_nothing_and_lose_nothing(seed: int) -> None:
    chance = random.Random(seed)
    batch = []
    for value in REAL:
        spoilt = bytearray(value)
        for _ in range(chance.choice([0, 0, 1, 1, 2, 9])):
            place = chance.randrange(len(spoilt))
            junk = chance.choice(
                [b"", b'"', b"{", b"}", b"\n", b"\0", b"\\", b",", b":", b"9", b"\xff", b"null", b"\xe2"]
            )
            spoilt[place : place + chance.randrange(4)] = junk
        batch.append(bytes(spoilt))
    decoded, failures = decode_json(records(batch), TRAFFIC, LOS_ANGELES, NOW)
    accepted, refused = validate(decoded, TRAFFIC, NOW)
    kept = {letter["position"]: letter["value"] for out in (failures, refused) for letter in out.to_pylist()}
    kept |= {row["position"]: batch[row["position"]] for row in accepted.to_pylist()}
    assert kept == dict(enumerate(batch))
    assert accepted.num_rows + refused.num_rows + failures.num_rows == len(batch)
    expected = [slow_decode(value, TRAFFIC, LOS_ANGELES) for value in batch]
    assert [row["rules"] for row in rows_of(decoded, TRAFFIC)] == [
        each["rules"] for each in expected if isinstance(each, dict)
    ]


@settings(deadline=None, max_examples=300)
@given(st.lists(timestamps.filter(lambda text: text.startswith('"')).map(json.loads), min_size=1, max_size=5))
def test_a_timestamp_is_the_same_beside_one_that_does_not_parse(texts: list[str]) -> None:
    alone, _ = to_timestamps(pa.array(texts), LOS_ANGELES)
    beside, _ = to_timestamps(pa.array([*texts, "yesterday"]), LOS_ANGELES)
    assert beside.view(pa.int64()).to_pylist() == [*alone.view(pa.int64()).to_pylist(), None]


# --- Messages that are none ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "empty"),
        (b"", "empty"),
        (b" ", "not_json"),
        (b"\n", "not_json"),
        (b"\0", "not_json"),
        (b"\xef\xbb\xbf", "not_json"),
        (b"speed=60", "not_json"),
        (SOUND[:-1], "not_json"),
        (SOUND[1:], "not_json"),
        (SOUND + SOUND, "not_json"),
        (SOUND + b"\n" + SOUND, "not_json"),
        (SOUND + b" null " + SOUND, "not_json"),
        (SOUND + b"\0", "not_json"),
        (SOUND + b"x", "not_json"),
        (SOUND + b"}", "not_json"),
        (SOUND.replace(b"60", b"60,"), "not_json"),
        (SOUND.replace(b"60", b"NaN"), "not_json"),
        (SOUND.replace(b"60", b"Infinity"), "not_json"),
        (SOUND.replace(b"60", b"-Infinity"), "not_json"),
        (SOUND.replace(b"60", b"060"), "not_json"),
        (SOUND.replace(b"s1", b"s\n1"), "not_json"),
        (SOUND.replace(b'"', b"'"), "not_json"),
        (b'{"note":NaN}', "not_json"),
        (b"null", "not_an_object"),
        (b"true", "not_an_object"),
        (b"60", "not_an_object"),
        (b'"s1"', "not_an_object"),
        (b"[]", "not_an_object"),
        (b"[" + SOUND + b"]", "not_an_object"),
        (b"\xff", "not_utf8"),
        (SOUND.replace(b"s1", b"s\xff1"), "not_utf8"),
        (SOUND.replace(b"s1", b"s\xed\xa0\x801"), "not_utf8"),
        (SOUND.replace(b"{", b'{"\xc3":1,'), "not_utf8"),
        (SOUND.decode().encode("utf-16"), "not_utf8"),
        (SOUND.decode().encode("utf-16-le"), "not_json"),
        (b"[" * 100_000, "too_deep"),
        (b'{"a":' * 100_000, "too_deep"),
        (b"[" * 100_000 + b"]" * 100_000, "too_deep"),
        (SOUND[:-1] + b',"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "too_deep"),
        (b"]" * 100_000, "not_json"),
        (b'"' + b"[" * 100_000, "not_json"),
        (b"\0" * 1_000_000, "not_json"),
        (b"\xff" * 1_000_000, "not_utf8"),
        (b"1" * 1_000_000, "not_an_object"),
        (b'"\\' * 500_000, "not_json"),
    ],
    ids=lambda value: repr(value)[:40],
)
@pytest.mark.parametrize("beside", [[], [SOUND], [b'{"speed_mph":"fast"}']], ids=["alone", "sound", "broken"])
def test_what_is_no_object_is_a_failure(value: bytes | None, reason: str, beside: list[bytes]) -> None:
    decoded, failures = decode_json(records([*beside, value, *beside]), TRAFFIC, now=NOW)
    assert decoded["value"].to_pylist() == beside * 2
    assert failures.schema.equals(DEAD_LETTER)
    (letter,) = failures.to_pylist()
    assert letter["value"] == value
    assert (letter["source"], letter["partition"], letter["position"]) == ("traffic-raw", 3, len(beside))
    assert (letter["feed"], letter["stage"]) == ("traffic", "decode")
    assert (letter["reason"], letter["rules"]) == (reason, [reason])
    assert letter["failed_at"].timestamp() * 1_000_000 == NOW


def test_original_bytes_keep_the_line_ending_that_they_have() -> None:
    batch = [b"{\r\n", SOUND + b"\r\n", b'{"sensor_id":"s1"}\n']
    decoded, failures = decode_json(records(batch), TRAFFIC)
    _, refused = validate(decoded, TRAFFIC)
    assert (failures["value"].to_pylist(), refused["value"].to_pylist()) == (batch[:1], batch[2:])


def test_a_message_may_be_as_deep_as_is_said_whatever_the_stack() -> None:
    def from_below(frames: int, value: bytes) -> int:
        return from_below(frames - 1, value) if frames else decode_json(records([value]), TRAFFIC)[0].num_rows

    deepest = SOUND[:-1] + b',"x":' + b"[" * (MAXIMUM_DEPTH - 1) + b"]" * (MAXIMUM_DEPTH - 1) + b"}"
    assert from_below(400, deepest) == from_below(0, deepest) == 1
    assert from_below(0, deepest.replace(b"[]", b"[[]]")) == 0
    assert from_below(650, b'{"x":' + b"[" * (2 * MAXIMUM_DEPTH - 5)) == 0


@pytest.mark.parametrize(
    "value",
    [
        SOUND + b"\n",
        b" \r\n\t" + SOUND,
        b"\xef\xbb\xbf" + SOUND,
        SOUND.replace(b",", b",\n\t").replace(b":", b" : ", 1),
        SOUND.replace(b"sensor_id", rb"sensor\u005fid"),
        SOUND[:-1] + b',"x":{"speed_mph":[1,{"a":null}]},"speed":"fast","":0}',
        SOUND[:-1] + b',"x":1,"x":2}',
        SOUND[:-1] + b',"x":1e400,"y":1' + b"0" * 5000 + b"}",
        SOUND[:-1] + b',"x":"' + b"[" * 1000 + b'"}',
        SOUND[:-1] + b',"x":"' + b"x" * 1_000_000 + b'"}',
        SOUND[:-1] + rb',"\ud800":"\udc00"}',
        SOUND.replace(b"60", b'"fast","speed_mph":60'),
        SOUND[:-1] + b',"coordinates":null,"road_name":null,"lane_count":null}',
        SOUND[:-1] + b',"coordinates":{}}',
    ],
    ids=lambda value: repr(value)[:60],
)
def test_what_is_odd_but_json_says_the_same(value: bytes) -> None:
    row, sound = reading(value), reading(SOUND)
    assert {**row, "value": SOUND} == sound
    assert (sound["sensor_id"], sound["timestamp"], sound["speed_mph"]) == ("s1", micros("2012-03-01"), 60.0)
    assert all(sound[field.name] is None for field in TRAFFIC.fields if not field.required)


# --- Values -------------------------------------------------------------------------------------------------

OF_KIND = {
    "text": '"s1"',
    "number": "40",
    "quoted number": '"40"',
    "true": "true",
    "quoted true": '"true"',
    "object": "{}",
    "array": "[]",
    "time": '"2012-03-01T00:00:00Z"',
    "half a pair": r'"\ud800"',
}


def fits(kind: str, type: pa.DataType) -> bool:
    if type == TIMESTAMP:
        return kind in ("time", "number")
    if type in (TEXT, pa.string()):
        return OF_KIND[kind].startswith('"') and kind != "half a pair"
    return kind == ("true" if type == pa.bool_() else "number")


@pytest.mark.parametrize("kind", OF_KIND)
@pytest.mark.parametrize("field", WIDE.fields, ids=lambda field: field.name)
def test_a_value_of_a_wrong_type_breaks_the_rule_of_its_field(field: Field, kind: str) -> None:
    flat = reading(with_member(field.name, OF_KIND[kind]), WIDE)
    rows = [flat]
    if field.group:
        rows.append(reading(with_member(field.group, f'{{"{field.name}":{OF_KIND[kind]}}}'), WIDE))
    for row in rows:
        assert row["rules"] == ([] if fits(kind, field.type) else [f"{field.name}_unparsable"])
        assert (row[field.name] is not None) == fits(kind, field.type)


@settings(deadline=None, max_examples=500)
@given(st.sampled_from(TRAFFIC.fields).flatmap(lambda field: st.tuples(st.just(field), fitting(field))))
@example((TRAFFIC.field("timestamp"), "-62167219200000"))
@example((TRAFFIC.field("lane_count"), "-2147483648"))
@example((TRAFFIC.field("speed_mph"), "9" * 309))
def test_a_wrong_value_changes_nothing_in_the_others(member: tuple[Field, str]) -> None:
    field, text = member
    sound = with_member(field.name, text)
    batch = records([sound, sound[:-1] + b',"coordinates":1}'])
    decoded, failures = decode_json(batch, TRAFFIC)
    assert failures.num_rows in (0, 2)
    if decoded.num_rows:
        alone, beside = rows_of(decoded, TRAFFIC)
        wrong = ["latitude_unparsable", "longitude_unparsable"]
        assert set(beside["rules"]) == {*alone["rules"], *wrong}
        assert repr([beside[f.name] for f in TRAFFIC.fields]) == repr([alone[f.name] for f in TRAFFIC.fields])


def test_a_message_with_several_wrong_values_is_one_dead_letter_that_names_them_all() -> None:
    value = b'{"sensor_id":773869,"timestamp":true,"speed_mph":"60","coordinates":[34,-118],"lane_count":3.5}'
    decoded, _ = decode_json(records([value]), TRAFFIC)
    _, refused = validate(decoded, TRAFFIC)
    (letter,) = refused.to_pylist()
    assert letter["value"] == value
    assert letter["rules"] == [
        "sensor_id_unparsable",
        "timestamp_unparsable",
        "speed_mph_unparsable",
        "latitude_unparsable",
        "longitude_unparsable",
        "lane_count_unparsable",
    ]


@pytest.mark.parametrize("name", TRAFFIC.required)
@pytest.mark.parametrize("how", ["absent", "null"])
def test_a_required_field_without_a_value_is_missing(name: str, how: str) -> None:
    message = json.loads(SOUND)
    if how == "absent":
        del message[name]
    else:
        message[name] = None
    decoded, _ = decode_json(records([json.dumps(message).encode()]), TRAFFIC)
    _, refused = validate(decoded, TRAFFIC)
    assert refused.to_pylist()[0]["rules"] == [f"{name}_missing"]


@pytest.mark.parametrize(
    ("members", "expected", "rules"),
    [
        ('"coordinates":{"latitude":34}', 34.0, []),
        ('"latitude":35', 35.0, []),
        ('"latitude":35,"coordinates":{"latitude":34}', 34.0, []),
        ('"latitude":35,"coordinates":{"latitude":null}', 35.0, []),
        ('"latitude":35,"coordinates":{"longitude":-118}', 35.0, []),
        ('"latitude":35,"coordinates":null', 35.0, []),
        ('"latitude":"35","coordinates":{"latitude":34}', 34.0, ["latitude_unparsable"]),
        ('"latitude":35,"coordinates":{"latitude":"34"}', 35.0, ["latitude_unparsable"]),
        ('"latitude":35,"coordinates":"34"', 35.0, ["latitude_unparsable", "longitude_unparsable"]),
        ('"coordinates":{"latitude":34},"coordinates":{}', None, []),
    ],
)
def test_a_field_of_a_group_may_stand_beside_it(
    members: str, expected: float | None, rules: list[str]
) -> None:
    row = reading(SOUND[:-1] + f",{members}}}".encode())
    assert (row["latitude"], row["rules"]) == (expected, rules)


@pytest.mark.parametrize(
    ("name", "inside", "beside"),
    [
        ("lane", "3.5", "4"),
        ("lane", "128", "4"),
        ("lane", "1e400", "4"),
        ("lane", '"3"', "4"),
        ("grade", '"3"', "4"),
        ("surveyed", '"yesterday"', "0"),
        ("surveyed", "0.5", '"1970-01-01"'),
        ("surveyed", '"1970"', '"1970-01-01"'),
        ("paved", "1", "false"),
        ("county", "7", '""'),
    ],
)
@pytest.mark.parametrize("swapped", [False, True])
def test_a_wrong_value_breaks_its_rule_also_where_the_other_place_has_a_right_one(
    name: str, inside: str, beside: str, swapped: bool
) -> None:
    right = reading(with_member(name, beside), WIDE)
    if swapped:
        inside, beside = beside, inside
    row = reading(SOUND[:-1] + f',"place":{{"{name}":{inside}}},"{name}":{beside}}}'.encode(), WIDE)
    assert (row["rules"], right["rules"]) == ([f"{name}_unparsable"], [])
    assert row[name] == right[name] is not None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-0.0", "-0.0"),
        ("-0", "0.0"),
        ("1e400", "inf"),
        ("-1e400", "-inf"),
        ("1" + "0" * 400, "inf"),
        ("-1" + "0" * 5000, "-inf"),
        ("9" * 309, "inf"),
        ("1e-400", "0.0"),
        ("9007199254740993", "9007199254740992.0"),
    ],
)
def test_numbers_at_the_edges(text: str, expected: str) -> None:
    row = reading(with_member("speed_mph", text))
    assert (repr(row["speed_mph"]), row["rules"]) == (expected, [])


def test_a_number_beyond_all_floats_is_not_finite() -> None:
    decoded, _ = decode_json(records([with_member("speed_mph", "1e400")]), TRAFFIC)
    assert validate(decoded, TRAFFIC)[1].to_pylist()[0]["rules"] == ["speed_mph_not_finite"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3", 3),
        ("3.0", 3),
        ("30e-1", 3),
        ("-0", 0),
        ("-0.0", 0),
        ("2147483647", 2147483647),
        ("-2147483648", -2147483648),
        ("3.5", None),
        ("2147483648", None),
        ("-2147483649", None),
        ("1e400", None),
        ("9" * 30, None),
        ("9" * 5000, None),
    ],
)
def test_a_whole_number_is_one_by_its_value(text: str, expected: int | None) -> None:
    row = reading(with_member("lane_count", text))
    assert (row["lane_count"], row["rules"]) == (
        expected,
        [] if expected is not None else ["lane_count_unparsable"],
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1330560000000", micros("2012-03-01 00:00")),
        ("1330560000000.0", micros("2012-03-01 00:00")),
        ("0", 0),
        ("-1", -1000),
        ("253402300799999", micros("9999-12-31 23:59:59.999")),
        ('"2012-03-01T00:00:00Z"', micros("2012-03-01 00:00")),
        ('"2012-03-01T00:00:00.123456789-08:00"', micros("2012-03-01 08:00:00.123456")),
        ('"2012-03-01 00:00:00"', micros("2012-03-01 08:00")),
        ('"2012-03-01"', micros("2012-03-01 08:00")),
        ("253402300800000", None),
        ("-62167219200001", None),
        ("1330560000000.5", None),
        ("9" * 30, None),
        ('"1330560000000"', None),
        ('""', None),
        ('"2012-02-30"', None),
    ],
)
@pytest.mark.parametrize(
    "beside", [[], [b'{"timestamp":1}'], [b'{"timestamp":"2012"}']], ids=["alone", "number", "bad"]
)
def test_timestamps_are_iso_8601_or_milliseconds(
    text: str, expected: int | None, beside: list[bytes]
) -> None:
    decoded, _ = decode_json(records([with_member("timestamp", text), *beside]), TRAFFIC, LOS_ANGELES)
    row = rows_of(decoded, TRAFFIC)[0]
    assert (row["timestamp"], row["rules"]) == (
        expected,
        [] if expected is not None else ["timestamp_unparsable"],
    )


def test_a_local_time_that_the_clock_change_skips_breaks_a_rule() -> None:
    row = reading(with_member("timestamp", '"2012-03-11T02:30:00"'), timezone=LOS_ANGELES)
    assert (row["timestamp"], row["rules"]) == (None, ["timestamp_nonexistent"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r'"\ud83d\ude97"', "\U0001f697"),
        ('"\U0001f697"', "\U0001f697"),
        (r'"\u0000"', "\0"),
        (r'"\"\\\/\b\f\n\r\t"', '"\\/\b\f\n\r\t'),
        ('""', ""),
        ('" "', " "),
        ('"\u2028"', "\u2028"),
        ('"null"', "null"),
    ],
)
def test_text_is_what_the_escapes_say(text: str, expected: str) -> None:
    row = reading(with_member("road_name", text))
    assert (row["road_name"], row["rules"]) == (expected, [])


# --- Batches ------------------------------------------------------------------------------------------------


def test_no_record_at_all_is_no_reading_and_no_failure() -> None:
    decoded, failures = decode_json(records([]), TRAFFIC)
    assert (decoded.num_rows, failures.num_rows) == (0, 0)
    assert decoded.schema.equals(TRAFFIC.decoded_schema)
    assert failures.schema.equals(DEAD_LETTER)


def test_readings_of_a_slice_are_those_of_its_messages() -> None:
    batch = [with_member("sensor_id", f'"s{n}"') for n in range(9)]
    batch[4] = b"{"
    decoded, failures = decode_json(records(batch).slice(3, 4), TRAFFIC)
    assert decoded["sensor_id"].to_pylist() == ["s3", "s5", "s6"]
    assert (decoded["position"].to_pylist(), failures["position"].to_pylist()) == ([3, 5, 6], [4])


def test_decode_json_in_a_pipeline_names_its_two_outputs() -> None:
    def times(batch: pa.RecordBatch) -> list[int]:
        return batch["timestamp"].view(pa.int64()).to_pylist()

    def failed(batch: pa.RecordBatch) -> list[tuple[str, bytes | None]]:
        return list(zip(batch["reason"].to_pylist(), batch["value"].to_pylist(), strict=True))

    local = with_member("timestamp", '"2012-03-01T00:00:00"')
    with TestPipeline(runner=IN_PROCESS) as pipeline:
        decoded = pipeline | beam.Create([records([local, None, b"{}{}"])]) | DecodeJson(TRAFFIC, LOS_ANGELES)
        assert_that(
            decoded.readings | beam.FlatMap(times), equal_to([micros("2012-03-01 08:00")]), label="readings"
        )
        assert_that(
            decoded.failures | beam.FlatMap(failed),
            equal_to([("empty", None), ("not_json", b"{}{}")]),
            label="failures",
        )
