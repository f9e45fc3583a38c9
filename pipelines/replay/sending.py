"""Sending: portion after portion, each message when it is due and there is room for it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipelines.replay.accounts import ReplayAccounts, reasons_of
from pipelines.replay.delivery import Delivery
from pipelines.replay.inject import Manifest
from pipelines.replay.pace import Pace
from pipelines.replay.portions import Portion
from pipelines.replay.stopping import Stop

LONGEST_WAIT_SECONDS, SHORTEST_WAIT_SECONDS = 0.1, 0.002


@dataclass
class Sender:
    """Sends portions until they end, `max_messages` are sent or `stop` says so, and keeps the accounts.

    At most `batch_size` messages are handed over at once. `bury` gets the rows that were refused.
    """

    delivery: Delivery
    pace: Pace
    accounts: ReplayAccounts
    stop: Stop
    bury: Callable[[pa.RecordBatch], None]
    batch_size: int
    max_messages: int | None = None
    manifest: Manifest | None = None
    sent: int = 0

    def run(self, portions: Iterator[Portion]) -> None:
        """Undeliverable when the broker takes nothing more; UserError when a file cannot be read."""
        for portion in portions:
            if not self._send(portion):
                return

    def _send(self, portion: Portion) -> bool:
        """Whether all of it was sent. A refused row is read once a message of a later row was sent."""
        messages, refused = portion.messages, portion.refused
        due, rows = self.pace.due(portion), messages.num_rows
        payload_bytes = messages["payload"].nbytes / max(rows, 1)
        low = 0
        while low < rows:
            if self.stop.signal or self.sent == self.max_messages:
                self._bury(refused.slice(0, _places_before(refused, messages.slice(0, low))))
                return False
            ready = int(np.searchsorted(due, time.monotonic(), "right"))
            room = self.delivery.room(payload_bytes)
            high = min(ready, low + room, low + self.batch_size, low + self._left(rows))
            if high > low:
                self._hand_over(messages.slice(low, high - low), portion.read_at)
                low = high
            elif ready > low:
                self.delivery.wait_for_room()
            else:
                wait = due[low] - time.monotonic()
                self.delivery.poll(min(max(wait, SHORTEST_WAIT_SECONDS), LONGEST_WAIT_SECONDS))
        self._bury(refused)
        return True

    def _left(self, most: int) -> int:
        return most if self.max_messages is None else self.max_messages - self.sent

    def _hand_over(self, messages: pa.RecordBatch, read_at: float) -> None:
        self.sent += messages.num_rows
        injected = messages["injected"]
        if injected.null_count < len(injected):
            kinds = Counter(
                {each["values"]: each["counts"] for each in injected.drop_null().value_counts().to_pylist()}
            )
            self.accounts.injected += kinds
            self.accounts.read -= kinds["duplicate"]
            if self.manifest:
                self.manifest.write(messages)
        self.accounts.read += messages.num_rows
        self.delivery.send(messages, read_at)

    def _bury(self, refused: pa.RecordBatch) -> None:
        if refused.num_rows:
            self.accounts.read += refused.num_rows
            self.accounts.refused += reasons_of(refused)
            self.bury(refused)


def _places_before(refused: pa.RecordBatch, sent: pa.RecordBatch) -> int:
    """How many of the refused rows stand before the last row that was sent."""
    if not sent.num_rows:
        return 0
    return int(np.searchsorted(refused["position"].to_numpy(), sent["position"].to_numpy().max()))
