from __future__ import annotations

import math
import re

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given, settings
from hypothesis import strategies as st

from runners.options import IN_PROCESS
from schemas.feed import TEXT, Feed
from schemas.record import DEAD_LETTER
from schemas.traffic import TRAFFIC
from tests.rows import decoded, micros, records
from transforms.decode_csv import decode_csv
from transforms.rules import broken_rules, validate
from transforms.validate import Validate

NOW = micros("2012-03-11 12:00")
HOUR, DAY = 3_600, 86_400
SECOND = 1_000_000
EVERY_RULE = TRAFFIC.with_field("sensor_id", known=frozenset({"s1", "not an id"})).with_field(
    "timestamp", max_future_seconds=HOUR, max_age_seconds=DAY
)
RULES = [
    rule
    for rule in EVERY_RULE.rules
    if rule.kind != "unparsable"
    or rule.field.type not in (TEXT, pa.string())  # in a CSV file all text is text
]
SOUND_ROW = {"sensor_id": "s1", "timestamp": "2012-03-11 04:59:59", "speed_mph": "60"}

# By rule, what breaks it and no other; the time zone is that of Los Angeles.
BREAKING = {
    "sensor_id_missing": "",
    "sensor_id_malformed": "not an id",
    "sensor_id_unknown": "s2",
    "timestamp_missing": "",
    "timestamp_unparsable": "2012-02-30 00:00:00",
    "timestamp_nonexistent": "2012-03-11 02:30:00",
    "timestamp_in_future": "2012-03-11T13:00:00.000001Z",
    "timestamp_too_old": "2012-03-10T11:59:59.999999Z",
    "speed_mph_missing": "",
    "speed_mph_unparsable": "fast",
    "speed_mph_not_finite": "nan",
    "speed_mph_out_of_range": "120.00001",
    "volume_vph_unparsable": "many",
    "volume_vph_not_finite": "inf",
    "volume_vph_out_of_range": "-1",
    "occupancy_percent_unparsable": "7%",
    "occupancy_percent_not_finite": "-inf",
    "occupancy_percent_out_of_range": "100.5",
    "latitude_unparsable": "34N",
    "latitude_not_finite": "NaN",
    "latitude_out_of_range": "33.69",
    "longitude_unparsable": "118W",
    "longitude_not_finite": "Infinity",
    "longitude_out_of_range": "118",
    "lane_count_unparsable": "4.5",
    "incident_nearby_unparsable": "maybe",
}


def validated(row: dict[str, str], feed: Feed = EVERY_RULE) -> tuple[pa.RecordBatch, pa.RecordBatch]:
    line = ",".join(row.values()).encode() + b"\n"
    readings, failures = decode_csv(records([line], list(row)), feed, "America/Los_Angeles", NOW)
    assert failures.num_rows == 0
    return validate(readings, feed, NOW)


def rules_broken(row: dict[str, str], feed: Feed = EVERY_RULE) -> list[str]:
    accepted, failures = validated(row, feed)
    assert accepted.num_rows + failures.num_rows == 1
    return failures.to_pylist()[0]["rules"] if failures.num_rows else []


def field_of(rule: str) -> str:
    return next(each.field.name for each in EVERY_RULE.rules if each.name == rule)


def test_a_sound_row_breaks_no_rule() -> None:
    assert rules_broken(SOUND_ROW) == []


def test_every_rule_has_a_case() -> None:
    assert [rule.name for rule in RULES] == list(BREAKING)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_row_that_breaks_one_rule_is_a_dead_letter_that_names_just_that(rule) -> None:
    row = SOUND_ROW | {rule.field.name: BREAKING[rule.name]}
    accepted, failures = validated(row)
    assert (accepted.num_rows, failures.num_rows) == (0, 1)
    assert failures.schema.equals(DEAD_LETTER)
    (letter,) = failures.to_pylist()
    assert (letter["reason"], letter["rules"]) == (rule.name, [rule.name])
    assert letter["message"] == rule.message
    assert letter["value"] == ",".join(row.values()).encode()
    assert (letter["feed"], letter["stage"]) == ("traffic", "validate")
    assert (letter["source"], letter["position"]) == ("a.csv", 1)
    assert letter["failed_at"].timestamp() * SECOND == NOW


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.sampled_from(sorted(BREAKING)), min_size=2, unique_by=field_of),
    st.permutations([field.name for field in TRAFFIC.fields]),
)
def test_a_row_that_breaks_several_rules_is_one_dead_letter_that_names_all_in_declared_order(
    rules: list[str], order: list[str]
) -> None:
    row = SOUND_ROW | {field_of(rule): BREAKING[rule] for rule in rules}
    row = {name: row[name] for name in order if name in row}
    expected = [rule.name for rule in EVERY_RULE.rules if rule.name in rules]
    _, failures = validated(row)
    (letter,) = failures.to_pylist()
    assert (letter["rules"], letter["reason"]) == (expected, expected[0])
    assert letter["message"] == "; ".join(rule.message for rule in EVERY_RULE.rules if rule.name in rules)


def test_one_field_can_break_several_rules() -> None:
    assert rules_broken(SOUND_ROW | {"sensor_id": "../x"}) == ["sensor_id_malformed", "sensor_id_unknown"]


RANGED = [field for field in TRAFFIC.fields if field.minimum is not None or field.maximum is not None]


@pytest.mark.parametrize("field", RANGED, ids=lambda field: field.name)
def test_limits_are_inclusive(field) -> None:
    values = [
        math.nextafter(field.minimum, -math.inf),
        field.minimum,
        field.maximum,
        math.nextafter(field.maximum, math.inf),
    ]
    accepted, failures = validate(decoded(*({field.name: value} for value in values)), TRAFFIC)
    assert accepted[field.name].to_pylist() == [field.minimum, field.maximum]
    assert failures["reason"].to_pylist() == [f"{field.name}_out_of_range"] * 2


@pytest.mark.parametrize(
    ("bounds", "kept"),
    [((10, 20), [10, 20]), ((None, 20), [-1e300, 0, 10, 20]), ((10, None), [10, 20, 500]), ((0, 0), [0])],
)
def test_bounds_replace_the_declared_limits(bounds: tuple[float | None, float | None], kept: list) -> None:
    speeds = [-1e300, 0, 10, 20, 500]
    feed = TRAFFIC.with_bounds({"speed_mph": bounds})
    accepted, _ = validate(decoded(*({"speed_mph": float(speed)} for speed in speeds)), feed)
    assert accepted["speed_mph"].to_pylist() == kept


def test_a_whole_number_can_have_bounds() -> None:
    feed = TRAFFIC.with_bounds({"lane_count": (1, 8)})
    rows = ({"lane_count": count} for count in (0, 1, None, 8, 9))
    accepted, failures = validate(decoded(*rows), feed)
    assert accepted["lane_count"].to_pylist() == [1, None, 8]
    assert set(failures["reason"].to_pylist()) == {"lane_count_out_of_range"}


@pytest.mark.parametrize("offset", ["", "+01:00", "Z"])
@pytest.mark.parametrize(
    ("seconds", "kept"), [(-DAY - 1, False), (-DAY, True), (HOUR, True), (HOUR + 1, False)]
)
def test_the_age_limits_are_inclusive(seconds: int, kept: bool, offset: str) -> None:
    feed = TRAFFIC.with_field("timestamp", max_future_seconds=HOUR, max_age_seconds=DAY)
    accepted, _ = validate(decoded({"timestamp": NOW + seconds * SECOND}), feed, NOW)
    assert accepted.num_rows == kept


def test_without_age_limits_every_time_is_accepted() -> None:
    times = [micros(text) for text in ("0001-01-01", "1970-01-01", "9999-12-31")]
    assert validate(decoded(*({"timestamp": time} for time in times)), TRAFFIC, NOW)[0].num_rows == 3


@pytest.mark.parametrize(
    "when", [-(2**63), micros("0001-01-01") - 1, micros("9999-12-31") + DAY * SECOND, 2**63 - 1]
)
def test_a_time_that_no_four_digit_year_has_is_refused(when: int) -> None:
    accepted, failures = validate(decoded({"timestamp": when}, {}), TRAFFIC, NOW)
    assert (accepted.num_rows, failures["rules"].to_pylist()) == (1, [["timestamp_unparsable"]])


@pytest.mark.parametrize(
    "sensor", ["", " ", "s1 ", "s\n", "s1\n", "s/1", "..\\x", "é", "s" * 65, "s\0", "s1,s2", "'", "\ufeffs1"]
)
def test_sensors_with_names_that_no_path_or_shell_should_see_are_refused(sensor: str) -> None:
    assert validate(decoded({"sensor_id": sensor}), TRAFFIC)[1]["reason"].to_pylist() == [
        "sensor_id_malformed"
    ]


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=4) | st.from_regex(r"[A-Za-z0-9_.:-]{1,66}", fullmatch=True))
def test_a_pattern_matches_the_whole_value(sensor: str) -> None:
    matches = re.fullmatch(r"[A-Za-z0-9_.:-]{1,64}", sensor) is not None
    assert validate(decoded({"sensor_id": sensor}), TRAFFIC)[0].num_rows == matches


# --- Against an oracle that looks at one row after the other --------------------------------------


def is_within(value: float, minimum: float | None, maximum: float | None) -> bool:
    return (minimum is None or value >= minimum) and (maximum is None or value <= maximum)


def slow_rules(row: dict, feed: Feed, decoding: list[str]) -> list[str]:
    """The names of the rules that a decoded row breaks, given those that its text broke."""
    broken = set(decoding)
    for field in feed.fields:
        value = row.get(field.name)
        if value is None:
            if field.required and not any(name.startswith(f"{field.name}_") for name in decoding):
                broken.add(f"{field.name}_missing")
            continue
        if isinstance(value, float) and not math.isfinite(value):
            broken.add(f"{field.name}_not_finite")
        elif not is_within(value, field.minimum, field.maximum):
            broken.add(f"{field.name}_out_of_range")
        if field.pattern and not re.fullmatch(field.pattern, str(value)):
            broken.add(f"{field.name}_malformed")
        if field.known is not None and value not in field.known:
            broken.add(f"{field.name}_unknown")
        if field.max_future_seconds is not None and value > NOW + field.max_future_seconds * SECOND:
            broken.add(f"{field.name}_in_future")
        if field.max_age_seconds is not None and value < NOW - field.max_age_seconds * SECOND:
            broken.add(f"{field.name}_too_old")
    return [rule.name for rule in feed.rules if rule.name in broken]


def numbers(low: float, high: float) -> st.SearchStrategy:
    return st.none() | st.floats() | st.floats(low - 1, high + 1) | st.sampled_from([low, high])


decoded_rows = st.fixed_dictionaries(
    {
        "sensor_id": st.sampled_from([None, "s1", "s2", "not an id", ""]),
        "timestamp": st.none() | st.integers(NOW - 2 * DAY * SECOND, NOW + 2 * HOUR * SECOND),
        "speed_mph": numbers(0, 120),
        "volume_vph": numbers(0, 20_000),
        "occupancy_percent": numbers(0, 100),
        "latitude": numbers(33.7, 34.5),
        "longitude": numbers(-119, -117),
        "lane_count": st.none() | st.integers(-1, 10),
        "incident_nearby": st.none() | st.booleans(),
        "road_name": st.none() | st.text(max_size=2),
    }
)
FEEDS = {
    "as declared": TRAFFIC,
    "every rule": EVERY_RULE,
    "other bounds": EVERY_RULE.with_bounds({"lane_count": (1, 8), "speed_mph": (None, 80)}),
}


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.tuples(decoded_rows, st.booleans()), max_size=5),
    st.sampled_from(sorted(FEEDS)),
    st.integers(0, 2),
)
def test_rules_broken_are_those_of_an_oracle_that_reads_row_by_row(
    rows: list, which: str, skipped: int
) -> None:
    feed = FEEDS[which]
    decoding, values = [], []
    for row, text_was_broken in rows:
        broken = [
            f"{name}_unparsable"
            for name, value in row.items()
            if text_was_broken and value is None and f"{name}_unparsable" in BREAKING
        ]
        decoding.append(broken)
        mask = sum(int(feed.bit(name.removesuffix("_unparsable"), "unparsable")) for name in broken)
        values.append({**row, "broken": mask})
    expected = [slow_rules(row, feed, broken) for row, broken in zip(values, decoding, strict=True)][skipped:]
    batch = decoded(*values).slice(min(skipped, len(values)))
    masks = broken_rules(batch, feed, NOW).tolist()
    assert masks == [
        sum(1 << [r.name for r in feed.rules].index(name) for name in names) for names in expected
    ]
    accepted, failures = validate(batch, feed, NOW)
    accepted.validate(full=True)
    failures.validate(full=True)
    assert accepted.schema.equals(TRAFFIC.reading_schema, check_metadata=False)
    assert failures["rules"].to_pylist() == [names for names in expected if names]
    assert failures["reason"].to_pylist() == [names[0] for names in expected if names]
    positions = [position for position, names in enumerate(expected, 1 + skipped) if not names]
    assert accepted["position"].to_pylist() == positions


def test_no_reading_at_all_is_fine() -> None:
    accepted, failures = validate(decoded(), EVERY_RULE, NOW)
    assert (accepted.num_rows, failures.num_rows) == (0, 0)


def test_an_absent_optional_column_breaks_nothing_and_an_absent_required_one_is_missing() -> None:
    _, failures = validate(decoded({"speed_mph": None}, {"speed_mph": None}), TRAFFIC)
    assert failures["reason"].to_pylist() == ["speed_mph_missing"] * 2


def test_validate_in_a_pipeline_names_its_two_outputs() -> None:
    with TestPipeline(runner=IN_PROCESS) as pipeline:
        readings = decoded({"speed_mph": 1.0}, {"speed_mph": 121.0}, {"speed_mph": 2.0})
        out = pipeline | beam.Create([readings, decoded({"speed_mph": None})]) | Validate(TRAFFIC)
        speeds = out.readings | beam.FlatMap(lambda batch: batch["speed_mph"].to_pylist())
        reasons = out.failures | beam.FlatMap(lambda batch: batch["reason"].to_pylist())
        assert_that(speeds, equal_to([1.0, 2.0]), label="readings")
        assert_that(reasons, equal_to(["speed_mph_out_of_range", "speed_mph_missing"]), label="failures")
