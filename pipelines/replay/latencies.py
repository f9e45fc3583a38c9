"""How long messages take, from the reading of their rows to the broker's acknowledgement."""

from __future__ import annotations

import numpy as np

LATENCY_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Latencies:
    """A histogram of seconds from a row's reading to the broker's acknowledgement.

    Messages that were handed over together count as one with the last of them.
    """

    def __init__(self) -> None:
        self.counts = np.zeros(len(LATENCY_BOUNDS) + 1, np.int64)
        self.sum = 0.0

    def observe(self, messages: int, seconds: float) -> None:
        self.counts[np.searchsorted(LATENCY_BOUNDS, seconds)] += messages
        self.sum += messages * seconds

    def cumulative(self) -> list[tuple[str, float]]:
        """The buckets as Prometheus has them: (upper bound, how many up to it)."""
        bounds = [*map(str, LATENCY_BOUNDS), "+Inf"]
        return list(zip(bounds, np.cumsum(self.counts).astype(float).tolist(), strict=True))
