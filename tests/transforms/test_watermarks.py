from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.watermarks import LEAP, MAJORITY, MICROS, NOTHING, RECENT, Progress, advance, too_late

SECOND, HOUR = MICROS, 3600 * MICROS
BOUND = 60 * SECOND

near = st.integers(0, 4 * HOUR)
anywhere = near | st.integers(-62_135_596_800 * SECOND, 253_402_300_799 * SECOND)


def slowly(times: list[int]) -> tuple[list[int], int]:
    """Row by row, as `advance` says it in words."""
    met, watermark, agreed = [], NOTHING, NOTHING
    for row in range(len(times)):
        met.append(watermark)
        newest_first = sorted(times[max(row - RECENT + 1, 0) : row + 1], reverse=True)
        if len(newest_first) >= MAJORITY:
            agreed = max(agreed, newest_first[MAJORITY - 1])
        if len(newest_first) < 2:
            continue
        reached = newest_first[1]
        if agreed > NOTHING and reached > agreed + LEAP:
            reached = agreed
        watermark = max(watermark, reached - BOUND)
    return met, watermark


@settings(deadline=None)
@given(st.lists(anywhere, max_size=60))
def test_every_row_meets_the_watermark_that_an_oracle_gives_it(times: list[int]) -> None:
    met, progress = advance(Progress(), np.array(times, np.int64), BOUND)
    assert (met.tolist(), progress.watermark) == slowly(times)


@settings(deadline=None)
@given(st.lists(anywhere, max_size=60), st.lists(st.integers(0, 60), max_size=6), st.booleans())
def test_how_rows_are_cut_into_polls_makes_no_difference(
    times: list[int], cuts: list[int], one_by_one: bool
) -> None:
    whole, after_all = advance(Progress(), np.array(times, np.int64), BOUND)
    places = range(len(times)) if one_by_one else sorted(min(cut, len(times)) for cut in cuts)
    progress, met = Progress(), []
    for low, high in itertools.pairwise([0, *places, len(times)]):
        some, progress = advance(progress, np.array(times[low:high], np.int64), BOUND)
        met += some.tolist()
    assert (met, progress) == (whole.tolist(), after_all)


@pytest.mark.parametrize("ahead", [2 * HOUR, 3650 * 24 * HOUR])
@pytest.mark.parametrize("before", [0, 1, 5, 40])
def test_a_lone_event_time_ahead_moves_nothing(before: int, ahead: int) -> None:
    times = np.arange(60) * 10 * SECOND
    times[before] += ahead
    met, progress = advance(Progress(), times, BOUND)
    assert met.max() <= times[-1] - BOUND
    assert progress.watermark == times[-2] - BOUND


def test_a_few_event_times_far_ahead_move_nothing_and_a_majority_does() -> None:
    times = np.arange(100) * 10 * SECOND
    times[50:70:3] += 30 * 24 * HOUR
    _, progress = advance(Progress(), times, BOUND)
    assert progress.watermark <= times[-1] - BOUND
    times[70:] += 30 * 24 * HOUR
    _, progress = advance(Progress(), times, BOUND)
    assert progress.watermark >= times[-2] - BOUND


def test_a_sensor_whose_clock_stands_still_holds_nothing_back() -> None:
    times = np.arange(100) * 10 * SECOND
    times[::2] = 0
    _, progress = advance(Progress(), times, BOUND)
    assert progress.watermark == times[97] - BOUND


def test_a_row_is_too_late_once_its_window_and_the_lateness_have_passed() -> None:
    event_times = np.array([0, 299, 300]) * SECOND
    closes = 300 + 3600
    watermarks = np.full(3, closes * SECOND)
    assert too_late(event_times, watermarks, 300, 3600).tolist() == [True, True, False]
    assert not too_late(event_times, watermarks - 1, 300, 3600).any()
    assert not too_late(event_times, np.full(3, NOTHING), 300, 3600).any()
