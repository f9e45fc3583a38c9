"""Faults on purpose and the pace, against slow and obvious versions of themselves."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.replay import inject
from pipelines.replay.inject import KINDS, MICROS, Injector
from pipelines.replay.pace import EventTimePace, RatePace
from pipelines.replay.portions import OUTGOING, Portion
from schemas.record import DEAD_LETTER

NO_LETTERS = pa.RecordBatch.from_pylist([], DEAD_LETTER)
SECONDS = st.lists(st.integers(0, 30), min_size=1, max_size=40)


def portion(seconds: list[int], first_row: int = 1, pass_number: int = 0) -> Portion:
    """Messages of events at those seconds."""
    rows = [
        {
            "value": f"row {row}".encode(),
            "source": "a.csv",
            "position": row,
            "key": "s1",
            "payload": f'{{"row":{row}}}'.encode(),
            "event_time": second * MICROS,
        }
        for row, second in enumerate(seconds, first_row)
    ]
    return Portion(pa.RecordBatch.from_pylist(rows, OUTGOING), NO_LETTERS, pass_number, 0.0)


def portions(seconds: list[int], size: int) -> list[Portion]:
    return [portion(seconds[low : low + size], low + 1) for low in range(0, len(seconds), size)]


def injected(seconds: list[int], size: int, shares: dict[str, float], seed: int = 1) -> list[dict]:
    injector = Injector(shares, seed, late_seconds=5)
    return [
        row for each in injector.inject(iter(portions(seconds, size))) for row in each.messages.to_pylist()
    ]


def kinds_of(messages: list[dict]) -> dict[int, str]:
    return {row["position"]: row["injected"] for row in messages if row["injected"]}


@given(SECONDS, st.integers(1, 40), st.integers(0, 100))
def test_no_message_is_lost_and_only_duplicates_come_twice(seconds: list[int], size: int, seed: int) -> None:
    messages = injected(seconds, size, dict.fromkeys(KINDS, 0.2), seed)
    once = [row for row in messages if row["injected"] != "duplicate"]
    assert sorted(row["position"] for row in once) == list(range(1, len(seconds) + 1))
    for row in once:
        assert row["value"] == f"row {row['position']}".encode()
        assert row["event_time"].timestamp() == seconds[row["position"] - 1]


@given(SECONDS, st.integers(1, 40), st.integers(0, 100))
def test_the_size_of_portions_changes_nothing(seconds: list[int], size: int, seed: int) -> None:
    shares = dict.fromkeys(KINDS, 0.2)
    assert injected(seconds, size, shares, seed) == injected(seconds, len(seconds), shares, seed)


@given(SECONDS, st.integers(1, 40), st.integers(0, 100))
def test_delayed_messages_are_where_a_slow_replay_sends_them(
    seconds: list[int], size: int, seed: int
) -> None:
    """The oracle goes message by message, with a list of those held back and when to send them."""
    messages = injected(seconds, size, {"late": 0.3, "out_of_order": 0.3}, seed)
    kinds, expected = kinds_of(messages), []
    held: list[tuple[int, int, int]] = []  # (row, second to pass, may be sent after that row)
    newest = -1
    for row, second in enumerate(seconds, 1):
        newest = max(newest, second)
        if row in kinds:
            held.append((row, second + (5 if kinds[row] == "late" else 0), row + 1))
        else:
            expected.append(row)
        expected += [each for each, until, after in held if newest > until and row >= after]
        held = [(each, until, after) for each, until, after in held if newest <= until or row < after]
    assert [row["position"] for row in messages] == expected + [row for row, _, _ in held]


def test_a_duplicate_follows_its_message_and_a_corrupt_one_is_cut_off() -> None:
    messages = injected(list(range(100)), 30, {"duplicate": 0.2, "corrupt": 0.2})
    assert {"duplicate", "corrupt"} == set(kinds_of(messages).values())
    for before, row in itertools.pairwise(messages):
        if row["injected"] == "duplicate":
            assert (before["position"], before["payload"]) == (row["position"], row["payload"])
        whole = f'{{"row":{row["position"]}}}'.encode()
        if row["injected"] == "corrupt":
            assert 0 < len(row["payload"]) < len(whole) and whole.startswith(row["payload"])
        else:
            assert row["payload"] == whole


def test_no_more_are_held_back_than_fit_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inject, "MOST_HELD", 10)
    injector = Injector({"late": 1.0}, 1, late_seconds=1e6)
    sizes = [each.messages.num_rows for each in injector.inject(iter(portions(list(range(100)), 20)))]
    assert sizes == [10, 20, 20, 20, 20, 10]


@given(SECONDS, SECONDS, st.sampled_from([0.5, 1, 120]))
def test_an_event_is_due_with_the_newest_before_it(
    first: list[int], second: list[int], speedup: float
) -> None:
    pace = EventTimePace(speedup)
    due = np.concatenate([pace.due(portion(first)), pace.due(portion(second))])
    newest, expected = first[0], []
    for at in first + second:
        newest = max(newest, at)
        expected.append((newest - first[0]) / speedup)
    assert due - due[0] == pytest.approx(expected, abs=1e-5)


def test_each_pass_over_the_files_is_paced_anew() -> None:
    pace = EventTimePace(1)
    before = pace.due(portion([100, 110]))
    again = pace.due(portion([100, 110], pass_number=1))
    assert before[0] <= again[0] < before[0] + 5
    assert again[1] - again[0] == pytest.approx(10)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=5), st.floats(0.1, 1e6))
def test_a_rate_goes_on_evenly_over_portions(sizes: list[int], rate: float) -> None:
    pace = RatePace(rate)
    due = np.concatenate([pace.due(portion([0] * size)) for size in sizes])
    assert np.diff(due) == pytest.approx(np.full(max(len(due) - 1, 0), 1 / rate), rel=1e-3, abs=1e-5)
