"""The pace: when each message is due, in seconds of the monotonic clock."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from pipelines.replay.portions import Portion

MICROS = 1_000_000


class Pace(Protocol):
    def due(self, portion: Portion) -> np.ndarray:
        """When each message of the portion is due, never falling."""


class Unbounded:
    """As fast as the broker takes them."""

    def due(self, portion: Portion) -> np.ndarray:
        return np.zeros(portion.messages.num_rows)


@dataclass
class EventTimePace:
    """As the events happened, `speedup` times as fast: the first at once, each pass over the files anew.

    An event older than one before it is due with that one.
    """

    speedup: float
    _pass_number: int = field(default=-1, init=False)
    _started: float = field(default=0, init=False)
    _first: int = field(default=0, init=False)
    _newest: int = field(default=0, init=False)

    def due(self, portion: Portion) -> np.ndarray:
        micros = portion.messages["event_time"].view("int64").to_numpy()
        if not len(micros):
            return np.empty(0)
        if portion.pass_number != self._pass_number:
            self._pass_number, self._started = portion.pass_number, time.monotonic()
            self._first = self._newest = int(micros[0])
        running = np.maximum(np.maximum.accumulate(micros), self._newest)
        self._newest = int(running[-1])
        return self._started + (running - self._first) / (MICROS * self.speedup)


@dataclass
class RatePace:
    """So many messages per second, evenly; what a stall has held up is caught up with."""

    rate: float
    _next: float | None = field(default=None, init=False)

    def due(self, portion: Portion) -> np.ndarray:
        start = time.monotonic() if self._next is None else self._next
        self._next = start + portion.messages.num_rows / self.rate
        return start + np.arange(portion.messages.num_rows) / self.rate
