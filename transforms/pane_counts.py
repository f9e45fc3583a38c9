"""Counting the rows of panes, each of which holds all rows of its window so far, once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable

REMEMBERED = 10_000


class PaneCounts:
    """What the last pane of each window came to, of the windows of late, in this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counted: OrderedDict[Hashable, tuple[int, int]] = OrderedDict()

    def added(self, window: Hashable, first: bool, readings: int, duplicates: int) -> tuple[int, int]:
        """How many readings and duplicates the pane has beyond the last one of its window.

        None where a worker that is gone has counted an earlier pane; `first` says that there was no earlier
        one. An empty pane changes nothing.

        >>> counts = PaneCounts()
        >>> counts.added("09:00", True, 97, 1), counts.added("09:00", False, 150, 1)
        ((97, 1), (53, 0))
        >>> counts.added("10:00", False, 80, 2)
        (0, 0)
        """
        with self._lock:
            before = self._counted.pop(window, (0, 0) if first else (readings, duplicates))
            self._counted[window] = max(readings, before[0]), max(duplicates, before[1])
            if len(self._counted) > REMEMBERED:
                self._counted.popitem(last=False)
        return max(readings - before[0], 0), max(duplicates - before[1], 0)
