from __future__ import annotations

import io
import json
import pickle
from collections.abc import Sequence
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import fastavro
import pyarrow as pa
import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from runners.local import SchemaRegistry as LocalSchemaRegistry
from schemas.air_quality import AIR_QUALITY
from schemas.avro import Schema, avro_schema
from schemas.feed import NULLED, Feed, Field
from schemas.feeds import FEEDS
from schemas.record import RECORD
from schemas.traffic import TRAFFIC
from tests.readings import plain, readings
from transforms.avro_messages import encode_avro
from transforms.csv_files import find_blocks, read_block
from transforms.decode_avro import decode_avro
from transforms.decode_csv import decode_csv
from transforms.errors import UserError
from transforms.messages import from_messages, to_messages
from transforms.rules import validate
from transforms.schema_registry import SchemaRegistry

UCI = Path(__file__).parents[3] / "shared" / "data" / "AirQualityUCI.csv"
uci_file = pytest.mark.skipif(not UCI.exists(), reason="needs the UCI file: ../shared/data/AirQualityUCI.csv")
patient = settings(deadline=None)
NOW = 1_330_581_600_000_000
SCHEMA_ID = 7
HEADER = b"\0\0\0\0\7"
feeds = pytest.mark.parametrize("feed", FEEDS.values(), ids=FEEDS)


def records(values: Sequence[bytes | None]) -> pa.RecordBatch:
    rows = [
        {"value": value, "source": "t", "partition": 0, "position": row} for row, value in enumerate(values)
    ]
    return pa.RecordBatch.from_pylist(rows, schema=RECORD)


def decode(
    values: Sequence[bytes | None], feed: Feed, schema: Schema | None = None
) -> tuple[list[dict], dict[int, str]]:
    """(the feed's columns of each message that decodes, by place the reason of each that does not)."""
    known = {SCHEMA_ID: schema or avro_schema(feed)}
    decoded, failures = decode_avro(records(values), feed, known.get, NOW)
    decoded.validate(full=True)
    assert decoded.schema.equals(feed.decoded_schema)
    assert sorted(decoded["position"].to_pylist() + failures["position"].to_pylist()) == [*range(len(values))]
    assert decoded["value"].to_pylist() == [values[row] for row in decoded["position"].to_pylist()]
    assert failures["value"].to_pylist() == [values[row] for row in failures["position"].to_pylist()]
    columns = plain(decoded.select([field.name for field in feed.fields]))
    reasons = zip(failures["position"].to_pylist(), failures["reason"].to_pylist(), strict=True)
    return columns, dict(reasons)


def written(record: Any, schema: Schema) -> bytes:
    """A message as fastavro writes it."""
    stream = io.BytesIO(HEADER)
    stream.seek(len(HEADER))
    fastavro.schemaless_writer(stream, fastavro.parse_schema(schema), record)
    return stream.getvalue()


def extended(feed: Feed, *fields: Field) -> Feed:
    return replace(feed, fields=(*feed.fields, *fields))


@feeds
@given(data=st.data())
@patient
def test_messages_are_the_bytes_that_fastavro_writes_and_decode_to_what_they_were(
    feed: Feed, data: st.DataObject
) -> None:
    messages = to_messages(data.draw(readings(feed)), feed, NOW)
    schema = avro_schema(feed)
    values = encode_avro(messages, schema, SCHEMA_ID).to_pylist()
    assert values == [written(message, schema) for message in messages.to_pylist()]
    assert decode(values, feed) == (plain(from_messages(messages, feed)), {})


@feeds
@given(data=st.data())
@settings(patient, max_examples=200)
def test_a_damaged_message_fails_alone(feed: Feed, data: st.DataObject) -> None:
    messages = to_messages(data.draw(readings(feed)), feed, NOW)
    values = encode_avro(messages, avro_schema(feed), SCHEMA_ID).to_pylist()
    damaged = [_damage(value, data) for value in values]
    decoded, failed = decode(damaged, feed)
    alone = [decode([value], feed) for value in damaged]
    assert repr(decoded) == repr([row for rows, _ in alone for row in rows])
    assert failed == {place: one[0] for place, (_, one) in enumerate(alone) if one}
    for place, value in enumerate(damaged):
        if _is_sound(value, feed):
            assert place not in failed


def _damage(value: bytes, data: st.DataObject) -> bytes:
    match data.draw(st.sampled_from(["none", "cut", "append", "change", "replace"])):
        case "cut":
            return value[: data.draw(st.integers(0, len(value) - 1))]
        case "append":
            return value + data.draw(st.binary(min_size=1, max_size=3))
        case "change":
            place = data.draw(st.integers(0, len(value) - 1))
            return value[:place] + data.draw(st.binary(min_size=1, max_size=1)) + value[place + 1 :]
        case "replace":
            return HEADER + data.draw(st.binary(max_size=30))
    return value


def _is_sound(value: bytes, feed: Feed) -> bool:
    """Whether fastavro reads all of the value, and writes the same again."""
    if not value.startswith(HEADER):
        return False
    stream = io.BytesIO(value[len(HEADER) :])
    schema = fastavro.parse_schema(avro_schema(feed))
    try:
        record = fastavro.schemaless_reader(stream, schema)
        return written(record, avro_schema(feed)) == value
    except (EOFError, IndexError, ValueError, OverflowError):
        return False


def test_each_kind_of_damage_has_its_reason() -> None:
    sound = written({"sensor_id": "x", "timestamp": 0, "speed_mph": 1.0}, avro_schema(TRAFFIC))
    values: dict[bytes | None, str] = {
        None: "not_framed",
        b"": "not_framed",
        b"{}": "not_framed",
        b"\1" + sound[1:]: "not_framed",
        b"\0\0\0\0\x09" + sound[5:]: "unknown_schema",
        sound[:-1]: "not_avro",
        sound + b"\n": "trailing_bytes",
        sound.replace(b"x", b"\xff"): "not_utf8",
    }
    decoded, failed = decode([*values, sound], TRAFFIC)
    assert len(decoded) == 1
    assert list(failed.values()) == list(values.values())


def test_one_bad_message_among_thousands_fails_alone() -> None:
    schema = avro_schema(TRAFFIC)
    values = [
        written({"sensor_id": str(row), "timestamp": row, "speed_mph": 1.0}, schema) for row in range(3000)
    ]
    values[1500] += b"?"
    decoded, failed = decode(values, TRAFFIC)
    assert failed == {1500: "trailing_bytes"}
    assert [row["sensor_id"] for row in decoded] == [str(row) for row in range(3000) if row != 1500]


def test_a_null_is_not_written_where_the_schema_has_none() -> None:
    nothing = dict.fromkeys(TRAFFIC.message_schema.names)
    messages = pa.RecordBatch.from_pylist([nothing], TRAFFIC.message_schema)
    with pytest.raises(ValueError, match="sensor_id is null in 1 of 1 messages"):
        encode_avro(messages, avro_schema(TRAFFIC), SCHEMA_ID)


def test_messages_of_several_schemas_come_back_in_their_order() -> None:
    older, newer = avro_schema(TRAFFIC), avro_schema(extended(TRAFFIC, Field("zone", pa.string(), "A zone.")))
    reading = {"timestamp": 0, "speed_mph": 1.0}
    values = []
    for row in range(6):
        message = written(reading | {"sensor_id": str(row)}, newer if row % 2 else older)
        values.append(b"\0\0\0\0" + bytes([row % 2]) + message[5:])
    decoded, failures = decode_avro(records(values), TRAFFIC, {0: older, 1: newer}.get)
    assert decoded["sensor_id"].to_pylist() == list("012345")
    assert failures.num_rows == 0


def test_types_that_pyruhvro_does_not_know_are_read_all_the_same() -> None:
    foreign: dict[str, Any] = {
        "type": "record",
        "name": "foreign",
        "fields": [
            {"name": "speed_mph", "type": "int"},
            {"name": "tags", "type": {"type": "map", "values": "string"}},
            {"name": "timestamp", "type": {"type": "long", "logicalType": "timestamp-millis"}},
            {"name": "sensor_id", "type": {"type": "string", "logicalType": "uuid"}},
            {
                "name": "price",
                "type": {"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2},
            },
        ],
    }
    plain = [field for field in foreign["fields"] if field["name"] != "tags"]
    name = "6f1f9b6e-7b1c-4c0c-9d7e-0f6c1d2e3f40"
    reading = {"sensor_id": name, "timestamp": 5000, "speed_mph": 64.0}
    for schema in (foreign, {**foreign, "fields": plain}):
        value = written(
            {**reading, "timestamp": 5, "speed_mph": 64, "tags": {"a": "b"}, "price": b"\1"}, schema
        )
        decoded, failed = decode([value, value[:-1]], TRAFFIC, schema)
        assert [{name: row[name] for name in reading} for row in decoded] == [reading]
        assert failed == {1: "not_avro"}


def test_a_timestamp_out_of_range_fails_its_own_message_only() -> None:
    schema = avro_schema(TRAFFIC)
    schema["fields"][1]["type"] = {"type": "long", "logicalType": "timestamp-millis"}
    sound = written({"sensor_id": "x", "timestamp": 1, "speed_mph": 1.0}, schema)
    far = sound[:7] + b"\xfe" + b"\xff" * 8 + b"\x01" + sound[8:]
    decoded, failed = decode([sound, far, sound], TRAFFIC, schema)
    assert (len(decoded), failed) == (2, {1: "not_avro"})


def test_a_type_that_changed_is_named_in_the_dead_letter() -> None:
    other = avro_schema(TRAFFIC)
    other["fields"][2]["type"] = "string"
    value = written({"sensor_id": "x", "timestamp": 0, "speed_mph": "fast"}, other)
    _, failures = decode_avro(records([value]), TRAFFIC, {SCHEMA_ID: other}.get)
    assert failures["reason"].to_pylist() == ["incompatible_schema"]
    assert failures["message"].to_pylist() == [
        "schema 7: speed_mph: is string in the messages and double here"
    ]


@uci_file
def test_the_raw_topic_holds_the_uci_file_as_it_is() -> None:
    for block in find_blocks(str(UCI), AIR_QUALITY):
        for batch, _ in read_block(block):
            readings, _ = decode_csv(batch, AIR_QUALITY)
            raw, refused = validate(readings, AIR_QUALITY.as_raw)
            assert refused.num_rows == 0
            values = encode_avro(to_messages(raw, AIR_QUALITY.as_raw), avro_schema(AIR_QUALITY), SCHEMA_ID)
            received, failures = decode_avro(
                records(values.to_pylist()), AIR_QUALITY, {SCHEMA_ID: avro_schema(AIR_QUALITY)}.get
            )
            assert failures.num_rows == 0
            names = [field.name for field in AIR_QUALITY.fields] + [NULLED.name]
            direct, through = (validate(each, AIR_QUALITY)[0] for each in (readings, received))
            assert direct.select(names).equals(through.select(names))


# With a real schema registry


@pytest.fixture
def registry(schema_registry: LocalSchemaRegistry) -> SchemaRegistry:
    return SchemaRegistry(schema_registry.url)


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    return request.node.name


READING = {"sensor_id": "773869", "timestamp": 0, "speed_mph": 64.4, "source": "a.csv", "position": 1}
ZONE = Field("zone", pa.string(), "A zone.")


def sent(reading: dict, feed: Feed, registry: SchemaRegistry, topic: str) -> bytes:
    """The reading's message, as a producer of that version of the feed sends it."""
    schema = avro_schema(feed)
    complete = dict.fromkeys(feed.reading_schema.names) | reading
    messages = to_messages(pa.RecordBatch.from_pylist([complete], feed.reading_schema), feed, NOW)
    return encode_avro(messages, schema, registry.register(topic, schema))[0].as_py()


def test_a_new_reader_reads_old_messages(registry: SchemaRegistry, topic: str) -> None:
    newer = extended(TRAFFIC, ZONE)
    values = [
        sent(READING, TRAFFIC, registry, topic),
        sent(READING | {"zone": "north"}, newer, registry, topic),
    ]
    fresh = SchemaRegistry(registry.url)
    decoded, failures = decode_avro(records(values), newer, fresh.schema)
    assert decoded["zone"].to_pylist() == [None, "north"]
    assert decoded["speed_mph"].to_pylist() == [64.4, 64.4]
    assert failures.num_rows == 0


def test_an_old_reader_reads_new_messages(registry: SchemaRegistry, topic: str) -> None:
    sent(READING, TRAFFIC, registry, topic)
    value = sent(READING | {"zone": "north"}, extended(TRAFFIC, ZONE), registry, topic)
    decoded, failures = decode_avro(records([value]), TRAFFIC, SchemaRegistry(registry.url).schema)
    assert (decoded["sensor_id"].to_pylist(), failures.num_rows) == (["773869"], 0)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (extended(TRAFFIC, replace(ZONE, required=True)), "zone: is not in the messages and has no default"),
        (TRAFFIC.with_field("speed_mph", type=pa.string()), "speed_mph: is double in the messages"),
        (TRAFFIC.with_field("volume_vph", required=True), "volume_vph: may be null in the messages"),
        (TRAFFIC.with_field("latitude", type=pa.int32()), "coordinates.latitude: is double in the messages"),
    ],
    ids=["added", "type", "required", "nested"],
)
def test_an_incompatible_change_is_refused_and_the_field_named(
    registry: SchemaRegistry, topic: str, changed: Feed, named: str
) -> None:
    registry.register(topic, avro_schema(TRAFFIC))
    with pytest.raises(UserError) as refused:
        registry.register(topic, avro_schema(changed))
    assert named in str(refused.value)
    assert f"{topic}-value" in str(refused.value)
    level = requests.get(f"{registry.url}/config/{topic}-value", timeout=10).json()
    assert level == {"compatibilityLevel": "BACKWARD"}
    by_itself = requests.post(
        f"{registry.url}/subjects/{topic}-value/versions",
        json={"schema": json.dumps(avro_schema(changed))},
        timeout=10,
    )
    assert by_itself.status_code == 409


def test_ids_and_schemas_are_asked_for_once(registry: SchemaRegistry, topic: str) -> None:
    schema = avro_schema(TRAFFIC)
    schema_id = registry.register(topic, schema)
    assert SchemaRegistry(registry.url).register(topic, schema) == schema_id
    assert registry.schema(schema_id) is not None
    away = pickle.loads(pickle.dumps(registry))
    away.url = "http://127.0.0.1:1"
    assert away.register(topic, schema) == schema_id
    assert away.schema(schema_id) == registry.schema(schema_id)


def test_an_id_that_is_not_there_is_no_schema(registry: SchemaRegistry) -> None:
    assert registry.schema(2_000_000_000) is None


# Without one


def test_a_registry_that_is_down_is_an_error_in_one_line_without_the_password() -> None:
    registry = SchemaRegistry("http://user:secret@127.0.0.1:1/", attempts=2)
    with pytest.raises(UserError) as error:
        registry.schema(1)
    assert str(error.value) == (
        "schema registry http://127.0.0.1:1: cannot be reached in 2 attempts (ConnectionError)"
    )
    assert "secret" not in repr(registry)


def test_a_registry_that_is_busy_is_asked_again() -> None:
    statuses = [503, 500, 200]

    class Busy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b'{"schema": "\\"string\\""}'
            self.send_response(statuses.pop(0))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Busy) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            assert SchemaRegistry(f"http://127.0.0.1:{server.server_port}").schema(1) == "string"
        finally:
            server.shutdown()
            thread.join()
    assert statuses == []
