from __future__ import annotations

import pickle

import pytest

from schemas.air_quality import AIR_QUALITY, MEASURED
from schemas.detections import DETECTIONS
from schemas.feed import NULLED, Elapsed, Feed
from schemas.feeds import FEEDS
from schemas.traffic import TRAFFIC

feeds = pytest.mark.parametrize("feed", FEEDS.values(), ids=FEEDS)


@feeds
def test_a_feed_goes_to_other_processes_and_into_dictionaries(feed: Feed) -> None:
    again = pickle.loads(pickle.dumps(feed))
    assert again == feed
    assert hash(again) == hash(feed)


@feeds
def test_every_rule_has_a_bit_of_its_own(feed: Feed) -> None:
    bits = [feed.bit(rule.field.name, rule.kind) for rule in feed.rules]
    assert len({int(bit) for bit in bits}) == len(feed.rules)
    assert all(
        int(bit) & int(feed.tolerated)
        for bit, rule in zip(bits, feed.rules, strict=True)
        if rule.field.tolerated
    )


@feeds
def test_every_field_says_what_it_is(feed: Feed) -> None:
    for field in feed.fields:
        assert field.description.endswith(".")
        metadata = feed.reading_schema.field(field.name).metadata
        assert metadata[b"description"].decode() == field.description
        assert metadata.get(b"unit", b"").decode() == (field.unit or "")


@feeds
def test_every_name_is_written_once(feed: Feed) -> None:
    names = [field.name for field in feed.fields]
    assert len(set(names)) == len(names)
    assert len(set(feed.aggregate_schema.names)) == len(feed.aggregate_schema.names)


def test_what_a_file_has_to_have() -> None:
    assert TRAFFIC.required_columns == ("sensor_id", "timestamp", "speed_mph")
    assert AIR_QUALITY.required_columns == ("Date", "Time")
    assert "u" in DETECTIONS.required_columns
    assert "recording_timestamp" in DETECTIONS.required_columns
    assert "vehicle_id" not in DETECTIONS.with_field("vehicle_id", default="car-1").required_columns


def test_raw_readings_tell_of_no_values_that_were_taken() -> None:
    assert NULLED.name in AIR_QUALITY.reading_schema.names
    assert NULLED.name not in AIR_QUALITY.as_raw.reading_schema.names
    assert NULLED.name not in TRAFFIC.reading_schema.names
    assert AIR_QUALITY.as_raw.message_schema == AIR_QUALITY.message_schema


def test_a_name_that_no_field_has_is_refused() -> None:
    with pytest.raises(ValueError, match="nowhere"):
        DETECTIONS.with_field("timestamp", made_of=Elapsed("nowhere", "timestamp_sec"))


def test_the_ranges_that_were_asked_for() -> None:
    limits = {field.column: (field.minimum, field.maximum, field.unit) for field in MEASURED}
    assert limits["CO(GT)"] == (0, 50, "mg/m³")
    assert limits["NOx(GT)"] == (0, 1000, "ppb")
    assert limits["C6H6(GT)"] == (0, 100, "µg/m³")
    assert limits["T"] == (-20, 50, "°C")
    assert limits["RH"] == (0, 100, "percent")
    assert {field.missing_value for field in MEASURED} == {-200}
