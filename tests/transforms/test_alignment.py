"""Partitions of a job that is catching up, on a real broker."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runners.local import KafkaBroker
from tests.stream_jobs import send, wait_for
from transforms import alignment
from transforms.alignment import Alignment, Marks
from transforms.partition_readers import Reader
from transforms.partitions import Partition


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 9)), min_size=1), st.lists(st.integers(-1, 50)))
def test_ahead_is_what_was_read_since_the_partition_had_come_as_far(steps, slowest):
    marks, watermark, place, passed = Marks(), 0, 0, []
    for later, messages in steps:
        watermark, place = watermark + later, place + messages
        marks.append((watermark, place))
        passed.append((watermark, place))
    for low in sorted(slowest):
        reached = [place for watermark, place in passed if watermark <= low]
        expected = place - (reached[-1] if reached else passed[0][1]) if passed[-1][0] > low else 0
        assert marks.ahead_of(low) == expected


@pytest.fixture
def topic(kafka: KafkaBroker, new_topic: Callable[[int], str], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(alignment, "LOOK_SECONDS", 0)
    name = new_topic(3)
    send(kafka, name, [(number, b"{}") for number in range(3) for _ in range(5)])
    return name


def test_readers_know_the_slowest_of_their_job_wherever_it_is_read(topic, kafka):
    configuration = {"bootstrap.servers": kafka.bootstrap_servers, "group.id": topic}
    ours, others = (Alignment(job, (topic,), configuration) for job in ("ours", "others"))
    partitions = [Partition(topic, number, 0, 5) for number in range(3)]
    readers = [Reader(partition, 0, configuration) for partition in partitions]
    elsewhere = Alignment("ours", (topic,), configuration)
    assert elsewhere.slowest_beside(partitions[0]) is None

    def commit(number: int, of: Alignment, watermark: int, end: int | None = None) -> None:
        reader = readers[number]
        reader.place, reader.end, reader.committed = reader.place + 1, end, None
        reader.committed_at = -1
        reader.commit(of.note(watermark, reader.caught_up))
        reader.consumer.poll(0)

    def seen(of: Partition, slowest: int | None) -> None:
        wait_for(lambda: elsewhere.slowest_beside(of) == slowest, f"{slowest} is the slowest", 20)

    commit(0, ours, 100)
    commit(1, ours, 300)
    seen(partitions[1], 100)
    seen(partitions[0], 300)
    seen(partitions[2], 100)
    commit(0, others, 50)  # another job of the same group
    seen(partitions[2], 300)
    commit(0, ours, 200)
    seen(partitions[2], 200)
    readers[0].stand(ours.note(220, False))  # it waits at the same place, and a second has not passed
    readers[0].committed_at = -1
    readers[0].stand(ours.note(240, False))
    seen(partitions[2], 240)
    commit(0, ours, 250, end=5)  # has caught up: it waits for messages, and nobody for it
    seen(partitions[2], 300)
    for reader in readers:
        reader.consumer.close()
    elsewhere.close()
