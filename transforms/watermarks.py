"""Event-time progress of one partition, and the rows that come after their window has closed."""

from __future__ import annotations

import numpy as np

MICROS = 1_000_000
SUPPORT = 0.01


def newest_supported(event_times: np.ndarray) -> int:
    """The newest event time that does not stand alone, in the unit of `event_times`.

    Of many rows, the newest that at least one in a hundred of them reaches; of fewer, the older of the newest
    two. A single row stamped far ahead therefore does not carry the watermark away.

    >>> newest_supported(np.array([10, 11, 12, 9_999]))
    12
    """
    rank = min(max(int(len(event_times) * SUPPORT), 2), len(event_times))
    return int(np.partition(event_times, len(event_times) - rank)[len(event_times) - rank])


def advance(watermark: int | None, event_times: np.ndarray, out_of_orderness: int, leap: int) -> int | None:
    """The watermark after rows of those event times: bounded out-of-orderness, and it never goes back.

    All in microseconds since the epoch. A lone row that is the first, or more than `leap` ahead of the
    watermark, moves nothing: it may be wrong, and if it is right the rows after it will say so.

    >>> advance(100, np.array([150, 160, 170]), out_of_orderness=20, leap=1_000)
    140
    >>> advance(None, np.array([9_999]), out_of_orderness=20, leap=1_000)
    """
    if not len(event_times):
        return watermark
    candidate = newest_supported(event_times) - out_of_orderness
    if len(event_times) == 1 and (watermark is None or candidate > watermark + leap):
        return watermark
    if watermark is None:
        return candidate
    return max(watermark, candidate)


def too_late(
    event_times: np.ndarray, watermark: int | None, window_seconds: int, lateness: int
) -> np.ndarray:
    """Which rows' windows are closed for good: their end and the allowed lateness have passed.

    `event_times` and `watermark` in microseconds, the others in seconds. A window is closed by the watermark
    of its own partition: the job's is never ahead of it, so that no row is too late there and not here.
    """
    if watermark is None:
        return np.zeros(len(event_times), bool)
    ends = (event_times // (window_seconds * MICROS) + 1) * window_seconds * MICROS
    return ends + lateness * MICROS <= watermark
