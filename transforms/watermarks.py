"""Event-time progress of one partition, and the rows that come after their window has closed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from schemas.feed import Feed

MICROS = 1_000_000
NOTHING = -(1 << 62)  # before any event time, and far from the ends of 64 bits
RECENT, SUPPORT, MAJORITY = 16, 2, 8
LEAP = 86_400 * MICROS


class Progress(NamedTuple):
    """How far the event time of a partition has come; all in microseconds since the epoch.

    `watermark` is what the next row meets. `agreed` and `recent`, the event times of the rows before it, are
    what the watermark moves on from.
    """

    watermark: int = NOTHING
    agreed: int = NOTHING
    recent: tuple[int, ...] = (NOTHING,) * (RECENT - 1)


def advance(
    progress: Progress, event_times: np.ndarray, out_of_orderness: int
) -> tuple[np.ndarray, Progress]:
    """(the watermark that each row meets, the progress after all of them).

    After a row the watermark is the newest event time that does not stand alone, less the out-of-orderness,
    and it never goes back: of the 16 rows up to it, the second newest. More than a day past what the majority
    of 16 rows has reached it needs a majority too, once there are so many: a few rows from a clock that is
    wrong do not carry it away. How the rows are cut into calls makes no difference.

    >>> rows, progress = advance(Progress(), np.array([100, 160, 170, 9_999, 180]), out_of_orderness=20)
    >>> rows[1:].tolist() == [NOTHING, 80, 140, 150], progress.watermark
    (True, 160)
    """
    if not len(event_times):
        return np.empty(0, np.int64), progress
    times = np.concatenate([progress.recent, event_times])
    in_order = np.sort(np.lib.stride_tricks.sliding_window_view(times, RECENT), axis=1)
    agreed = np.maximum.accumulate(np.append(progress.agreed, in_order[:, -MAJORITY]))
    supported = in_order[:, -SUPPORT]
    leaps = (agreed[1:] > NOTHING) & (supported > agreed[1:] + LEAP)
    reached = np.where(leaps, agreed[1:], supported) - out_of_orderness
    watermarks = np.maximum.accumulate(np.append(progress.watermark, reached))
    recent = tuple(times[-(RECENT - 1) :].tolist())
    return watermarks[:-1], Progress(int(watermarks[-1]), int(agreed[-1]), recent)


def event_times(readings: pa.RecordBatch, feed: Feed) -> np.ndarray:
    """Of each reading, in microseconds since the epoch."""
    return readings[feed.event_time].view(pa.int64()).to_numpy()


def too_late(
    event_times: np.ndarray, watermarks: np.ndarray, window_seconds: int, lateness: int
) -> np.ndarray:
    """Which rows' windows are closed for good: their end and the allowed lateness have passed.

    `event_times` and `watermarks`, that each row meets, in microseconds, the others in seconds. A window is
    closed by the watermark of its own partition: the job's is never ahead of it, so that no row is too late
    there and not here.
    """
    ends = (event_times // (window_seconds * MICROS) + 1) * window_seconds * MICROS
    return ends + lateness * MICROS <= watermarks
