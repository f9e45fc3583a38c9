"""Delivery where no broker is: what is left when nothing more can be delivered."""

from __future__ import annotations

import pyarrow as pa
import pytest

from pipelines.replay.accounts import ReplayAccounts
from pipelines.replay.delivery import Delivery, Undeliverable
from schemas.traffic import TRAFFIC
from tests.pipelines.test_replay_faults import portion

NOBODY = "127.0.0.1:1"
MESSAGES, ROOM = 500, 20


def test_when_hope_is_lost_midway_each_message_left_becomes_a_dead_letter() -> None:
    buried: list[pa.RecordBatch] = []
    accounts = ReplayAccounts(read=MESSAGES)
    properties = {
        "bootstrap.servers": NOBODY,
        "message.timeout.ms": 200,
        "queue.buffering.max.messages": ROOM,
    }
    delivery = Delivery(properties, "traffic-raw", TRAFFIC, accounts, buried.append)
    with pytest.raises(Undeliverable):
        delivery.send(portion([0] * MESSAGES, first_row=0).messages, 0.0)
    delivery.finish()
    assert delivery.failure is not None
    assert accounts.balanced
    assert accounts.undelivered == {"msg_timed_out": MESSAGES}
    positions = [position for letters in buried for position in letters["position"].to_pylist()]
    assert sorted(positions) == list(range(MESSAGES))
