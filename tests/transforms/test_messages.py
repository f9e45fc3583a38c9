from __future__ import annotations

import uuid

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.feed import TIMESTAMP, WHERE_FROM, Feed
from schemas.feeds import FEEDS
from schemas.traffic import TRAFFIC
from tests.readings import readings
from transforms.messages import from_messages, identify, to_messages

patient = settings(deadline=None)
NOW = 1_330_581_600_000_000


def message_of(reading: dict, feed: Feed) -> dict:
    """The message of one reading, written down as plainly as possible."""
    message: dict = {}
    for field in feed.fields:
        if field.group:
            message.setdefault(field.group, {})[field.name] = reading[field.name]
        else:
            message[field.name] = reading[field.name]
    for name, value in message.items():
        if isinstance(value, dict) and not any(member is not None for member in value.values()):
            message[name] = None
    return message


@pytest.mark.parametrize("feed", FEEDS.values(), ids=FEEDS)
@given(data=st.data())
@patient
def test_messages_nest_what_the_feed_groups_and_fill_in_what_it_says(feed: Feed, data: st.DataObject) -> None:
    batch = data.draw(readings(feed))
    messages = to_messages(batch, feed, NOW)
    messages.validate(full=True)
    assert messages.schema.equals(feed.message_schema, check_metadata=True)
    now = pa.scalar(NOW, TIMESTAMP).as_py()
    for reading, message in zip(batch.to_pylist(), messages.to_pylist(), strict=True):
        if feed.identifier and reading[feed.identifier] is None:
            reading[feed.identifier] = message[feed.identifier]
            assert uuid.UUID(message[feed.identifier]).version == 8
        if feed.ingestion_time and reading[feed.ingestion_time] is None:
            reading[feed.ingestion_time] = now
        assert message == message_of(reading, feed)


@pytest.mark.parametrize("feed", FEEDS.values(), ids=FEEDS)
@given(data=st.data())
@patient
def test_readings_come_back_from_their_messages(feed: Feed, data: st.DataObject) -> None:
    batch = data.draw(readings(feed))
    messages = to_messages(batch, feed, NOW)
    again = from_messages(messages, feed)
    again.validate(full=True)
    filled = {feed.identifier, feed.ingestion_time}
    for field in feed.fields:
        assert again.schema.field(field.name).type == field.type
        expected, got = batch[field.name].to_pylist(), again[field.name].to_pylist()
        if field.name in filled:
            assert [b if a is None else a for a, b in zip(expected, got, strict=True)] == got
            assert None not in got
        else:
            assert got == expected
    others = batch.columns[len(feed.fields) :]
    second = pa.RecordBatch.from_arrays([*again.columns, *others], names=feed.reading_schema.names)
    assert to_messages(second, feed, NOW + 1).equals(messages)


def test_a_message_of_traffic_carries_the_extra_columns_of_its_file() -> None:
    reading = dict.fromkeys(TRAFFIC.reading_schema.names) | {
        "sensor_id": "773869",
        "timestamp": 0,
        "speed_mph": 64.4,
        "latitude": 34.15,
        "weather_condition": "rain",
        "incident_nearby": True,
        "event_id": "e-1",
        "source": "a.csv",
        "position": 1,
    }
    batch = pa.RecordBatch.from_pylist([reading], TRAFFIC.reading_schema)
    (message,) = to_messages(batch, TRAFFIC).to_pylist()
    assert message["coordinates"] == {"latitude": 34.15, "longitude": None}
    assert (message["event_id"], message["segment_id"]) == ("e-1", None)
    assert (message["weather_condition"], message["incident_nearby"]) == ("rain", True)


PLACES = st.tuples(st.text(max_size=3), st.none() | st.integers(1, 9), st.integers(1, 10**15))
SOURCE, PARTITION, POSITION = (field.type for field in WHERE_FROM)


def identifiers_of(places: list[tuple[str, int | None, int]]) -> list[str]:
    source, partition, position = zip(*places, strict=True)
    columns = pa.array(source, SOURCE), pa.array(partition, PARTITION), pa.array(position, POSITION)
    return identify(*columns).to_pylist()


@given(st.lists(PLACES, unique=True, min_size=1, max_size=20))
@patient
def test_identifiers_are_valid_distinct_and_depend_on_the_place_alone(
    places: list[tuple[str, int | None, int]],
) -> None:
    identifiers = identifiers_of(places)
    assert len(set(identifiers)) == len(places)
    for place, identifier in zip(places, identifiers, strict=True):
        parsed = uuid.UUID(identifier)
        assert (str(parsed), parsed.version, parsed.variant) == (identifier, 8, uuid.RFC_4122)
        assert identifiers_of([place]) == [identifier]


def test_a_million_identifiers_are_distinct() -> None:
    rows = 250_000
    places = [(source, partition) for source in ("a", "b") for partition in (None, 1)]
    identifiers = [
        identify(
            pa.array([source], SOURCE).take(pa.array([0] * rows)),
            pa.array([partition] * rows, PARTITION),
            pa.array(range(1, rows + 1), POSITION),
        )
        for source, partition in places
    ]
    assert len(pa.chunked_array(identifiers).unique()) == 1_000_000
