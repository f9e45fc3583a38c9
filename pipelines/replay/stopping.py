"""Stopping: what Ctrl+C and SIGTERM ask for, once and again."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from dataclasses import dataclass

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass
class Stop:
    """The signal that has come, if any, and whether it came again: then nothing more is waited for."""

    signal: int | None = None
    at_once: bool = False

    def note(self, number: int, _: object = None) -> None:
        self.at_once = self.signal is not None
        self.signal = number


@contextlib.contextmanager
def stoppable() -> Iterator[Stop]:
    """Until the block ends, signals only leave a note: who works looks at it now and then."""
    stop = Stop()
    before = {number: signal.signal(number, stop.note) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
