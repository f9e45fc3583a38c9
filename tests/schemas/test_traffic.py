from __future__ import annotations

import pyarrow as pa
import pytest

from schemas.feed import MAXIMUM_RULES, TEXT, TIMESTAMP, WHERE_FROM, Aggregate, Field
from schemas.traffic import TRAFFIC
from transforms.aggregate import FUNCTIONS

INPUT_COLUMNS = [
    *("sensor_id", "timestamp", "speed_mph", "volume_vph", "occupancy_percent"),
    *("latitude", "longitude", "road_name", "direction", "lane_count"),
]


def test_the_columns_of_a_traffic_file_come_first_in_their_order() -> None:
    names = [field.name for field in TRAFFIC.fields]
    assert names[:10] == INPUT_COLUMNS
    assert len(set(names)) == len(names)


def test_sensor_time_and_speed_are_required_and_no_other() -> None:
    assert TRAFFIC.required == ("sensor_id", "timestamp", "speed_mph")
    nullable = {field.name for field in TRAFFIC.reading_schema if field.nullable}
    assert nullable.isdisjoint({*TRAFFIC.required, "source", "position"})


@pytest.mark.parametrize(
    ("name", "limits"),
    [
        ("speed_mph", (0, 120)),
        ("volume_vph", (0, 20_000)),
        ("occupancy_percent", (0, 100)),
        ("latitude", (33.7, 34.5)),
        ("longitude", (-119, -117)),
    ],
)
def test_limits_are_those_of_los_angeles_traffic(name: str, limits: tuple[float, float]) -> None:
    field = TRAFFIC.field(name)
    assert (field.minimum, field.maximum) == limits
    assert field.unit


def test_a_number_has_a_unit_and_every_field_a_description() -> None:
    for field in TRAFFIC.fields:
        assert field.description.endswith(".")
        assert not field.is_number or field.unit, field.name


def test_rules_are_named_once_and_their_bits_are_distinct() -> None:
    names = [rule.name for rule in TRAFFIC.rules]
    assert len(set(names)) == len(names) <= MAXIMUM_RULES
    bits = [int(TRAFFIC.bit(rule.field.name, rule.kind)) for rule in TRAFFIC.rules]
    assert bits == [1 << place for place in range(len(names))]
    with pytest.raises(KeyError):
        TRAFFIC.bit("road_name", "out_of_range")


def test_rules_for_ages_and_known_sensors_come_with_their_settings() -> None:
    feed = TRAFFIC.with_field("timestamp", max_future_seconds=60.0).with_field(
        "sensor_id", known=frozenset("a")
    )
    new = {rule.name for rule in feed.rules} - {rule.name for rule in TRAFFIC.rules}
    assert new == {"timestamp_in_future", "sensor_id_unknown"}
    assert {rule.message for rule in feed.rules} > {"sensor_id is none of the 1 known ones"}


def test_the_schemas_hold_the_declared_fields_and_where_they_came_from() -> None:
    names = [field.name for field in TRAFFIC.fields]
    where_from = [field.name for field in WHERE_FROM]
    assert TRAFFIC.reading_schema.names == [*names, *where_from]
    assert TRAFFIC.decoded_schema.names == [*names, *where_from, "value", "broken"]
    assert TRAFFIC.reading_schema.field("timestamp").type == TIMESTAMP
    assert TRAFFIC.reading_schema.field("sensor_id").type == TEXT


def test_the_aggregates_are_a_row_per_sensor_and_window_with_every_figure() -> None:
    names = TRAFFIC.aggregate_schema.names
    assert names[:3] == ["sensor_id", "window_start", "window_end"]
    figures = ["avg_speed", "avg_volume", "avg_occupancy", "speed_variance", "message_count"]
    figures += ["min_speed", "max_speed", "p85_speed", "missing_count"]
    assert [name for name in names if name in {each.name for each in TRAFFIC.aggregates}] == figures
    assert {each.function for each in TRAFFIC.aggregates} <= set(FUNCTIONS)
    counts = {field.name for field in TRAFFIC.aggregate_schema if field.type == pa.int64()}
    assert counts == {"message_count", "missing_count"}


def test_other_bounds_change_that_field_alone() -> None:
    changed = TRAFFIC.with_bounds({"speed_mph": (None, 80)})
    assert (changed.field("speed_mph").minimum, changed.field("speed_mph").maximum) == (None, 80)
    others = [field for field in TRAFFIC.fields if field.name != "speed_mph"]
    assert [field for field in changed.fields if field.name != "speed_mph"] == others
    assert TRAFFIC.field("speed_mph").maximum == 120


def test_bounds_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="speed_mph: the minimum 80 is above the maximum 10"):
        TRAFFIC.with_bounds({"speed_mph": (80, 10)})
    with pytest.raises(ValueError, match="speed_mph"):
        TRAFFIC.with_bounds({"speed_mph": (float("nan"), 10)})
    with pytest.raises(ValueError, match="road_name is no number"):
        TRAFFIC.with_bounds({"road_name": (0, 1)})
    with pytest.raises(KeyError):
        TRAFFIC.with_bounds({"speed": (0, 1)})


def test_a_feed_that_names_a_field_it_does_not_declare_is_refused() -> None:
    kept = tuple(field for field in TRAFFIC.fields if field.name != "volume_vph")
    with pytest.raises(ValueError, match=r"\['volume_vph'\]"):
        type(TRAFFIC)("traffic", "", kept, "sensor_id", "timestamp", TRAFFIC.aggregates)


def test_a_feed_has_no_more_rules_than_bits() -> None:
    many = tuple(Field(f"n{place}", pa.float64(), "", minimum=0) for place in range(MAXIMUM_RULES // 3 + 1))
    with pytest.raises(ValueError, match="more than 63 rules"):
        type(TRAFFIC)("many", "", many, "n0", "n1", (Aggregate("a", "mean", "n2", ""),))
