from __future__ import annotations

import json

import fastavro
import pytest

from schemas.avro import FOLDER, avro_schema, unreadable_fields
from schemas.feed import Feed
from schemas.feeds import FEEDS

OPTIONAL_NUMBER = ["null", "double"]


def record(**types: object) -> dict:
    return {"type": "record", "name": "r", "fields": [{"name": name, "type": t} for name, t in types.items()]}


@pytest.mark.parametrize("feed", FEEDS.values(), ids=FEEDS)
def test_the_file_kept_is_the_declaration_of_today(feed: Feed) -> None:
    kept = json.loads((FOLDER / f"{feed.name}.avsc").read_text(encoding="utf-8"))
    assert kept == avro_schema(feed), "python -m schemas.avro writes it anew"
    fastavro.parse_schema(kept)


def test_no_file_is_left_of_a_feed_that_is_gone() -> None:
    assert {path.stem for path in FOLDER.glob("*.avsc")} == set(FEEDS)


@pytest.mark.parametrize("feed", FEEDS.values(), ids=FEEDS)
def test_a_feed_reads_its_own_messages(feed: Feed) -> None:
    schema = avro_schema(feed)
    assert list(unreadable_fields(schema, schema)) == []
    assert list(unreadable_fields(avro_schema(feed, feed.received_schema), schema)) == []


@pytest.mark.parametrize(
    ("reader", "writer", "unreadable"),
    [
        (record(a="double"), record(a="int"), []),
        (record(a="int"), record(a="double"), ["a: is double in the messages and int here"]),
        (record(a=OPTIONAL_NUMBER), record(a="float"), []),
        (
            record(a="double"),
            record(a=OPTIONAL_NUMBER),
            ["a: may be null in the messages and must not be here"],
        ),
        (record(a="double"), record(b="double"), ["a: is not in the messages and has no default"]),
        (
            record(a=["null", record(b="int")]),
            record(a=record(b="string")),
            ["a.b: is string in the messages and int here"],
        ),
        (
            record(t={"type": "long", "logicalType": "timestamp-micros"}),
            record(t={"type": "long", "logicalType": "timestamp-nanos"}),
            ["t: is timestamp-nanos in the messages and timestamp-micros here"],
        ),
        (
            record(t={"type": "long", "logicalType": "timestamp-micros"}),
            record(t={"type": "long", "logicalType": "timestamp-millis"}),
            [],
        ),
    ],
)
def test_what_cannot_be_read_is_named(reader: dict, writer: dict, unreadable: list[str]) -> None:
    assert list(unreadable_fields(reader, writer)) == unreadable
