"""How far the run is, for the progress bar of a runner that works in the launcher's own process."""

from __future__ import annotations

import threading
from collections import Counter


class Progress:
    """Counts by name. A retried bundle counts again: the accounts are what is exact."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, **counts: int) -> None:
        with self._lock:
            self._counts.update(counts)

    def count(self, name: str) -> int:
        return self._counts[name]

    def reset(self) -> None:
        with self._lock:
            self._counts.clear()


progress = Progress()
