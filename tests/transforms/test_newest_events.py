"""What an idle partition follows, on a real broker."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pyarrow as pa
import pytest

from pipelines.stream import decode_and_validate
from runners.local import KafkaBroker
from schemas.traffic import TRAFFIC
from tests.stream_jobs import START, reading, send
from transforms import newest_events, partitions
from transforms.decode_json import DecodeJson
from transforms.newest_events import Judge, NewestEvents
from transforms.partitions import Partition
from transforms.watermarks import MICROS, NOTHING

DECODE = partial(decode_and_validate, feed=TRAFFIC, decode=DecodeJson(TRAFFIC, "UTC"))


@pytest.fixture
def topic(kafka: KafkaBroker, new_topic: Callable[[int], str]) -> str:
    """Partition 0 has seconds 0 and 1, partition 1 has 60 and 61; the last of each is not supported yet."""
    name = new_topic(3)
    send(
        kafka,
        name,
        [(0, reading("a", 0)), (0, reading("a", 1)), (1, reading("b", 60)), (1, reading("b", 61))],
    )
    return name


def newest(kafka: KafkaBroker, topic: str, decode: Judge = DECODE) -> NewestEvents:
    return NewestEvents(
        TRAFFIC, (topic,), {"bootstrap.servers": kafka.bootstrap_servers, "group.id": topic}, decode
    )


def second(number: int) -> int:
    return (START + number) * MICROS


def test_a_partition_follows_the_newest_supported_event_of_the_others(kafka, topic):
    followed = newest(kafka, topic)
    three = [Partition(topic, number, 0, 0) for number in range(3)]
    assert [followed.beside(partition, None) for partition in three] == [
        second(60),
        second(0),
        second(60),
    ]
    send(kafka, topic, [(2, reading("c", 90)), (2, reading("c", 91))])
    assert [followed.beside(partition, None) for partition in three] == [
        second(90),
        second(90),
        second(60),
    ]


def test_a_partition_follows_nothing_while_it_has_messages_to_be_read(kafka, topic):
    followed = newest(kafka, topic)
    assert followed.beside(Partition(topic, 0, 0, 0), end=1) == NOTHING
    assert followed.beside(Partition(topic, 0, 0, 0), end=2) == second(60)


def test_a_message_that_comes_while_the_others_are_looked_at_is_read_first(kafka, topic):
    """It was there before what the others have now: to follow them would make it late."""

    def one_comes_meanwhile(records: pa.RecordBatch, now: int) -> tuple[pa.RecordBatch, list[pa.RecordBatch]]:
        send(kafka, topic, [(0, reading("a", 2))])
        return DECODE(records, now)

    assert newest(kafka, topic, one_comes_meanwhile).beside(Partition(topic, 0, 0, 0), end=2) == NOTHING


def test_what_a_slow_broker_did_not_show_in_time_is_looked_at_again(kafka, topic, monkeypatch):
    """A partition may never grow again: to take it as looked at would hold windows open for good."""
    followed = newest(kafka, topic)
    with monkeypatch.context() as in_a_hurry:
        in_a_hurry.setattr(newest_events, "PEEK_SECONDS", 0)
        assert followed.beside(Partition(topic, 0, 0, 0), None) == NOTHING
    assert followed.beside(Partition(topic, 0, 0, 0), None) == second(60)


def test_without_a_broker_nothing_is_known(topic, monkeypatch):
    monkeypatch.setattr(newest_events, "BROKER_SECONDS", 0.5)
    monkeypatch.setattr(partitions, "BROKER_SECONDS", 0.5)
    gone = NewestEvents(TRAFFIC, (topic,), {"bootstrap.servers": "127.0.0.1:1", "group.id": topic}, DECODE)
    assert gone.beside(Partition(topic, 0, 0, 0), None) == NOTHING
