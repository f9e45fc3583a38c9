"""Compaction beside a job that writes: no row is lost, whoever is killed, however their steps interleave."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.record import RECORD
from schemas.traffic import TRAFFIC
from tests.rows import accepted, micros
from transforms import compaction, merged_files
from transforms.compaction import Withdrawn, compact, exchange, sweep, withdraw
from transforms.dead_letters import Failure, to_dead_letters
from transforms.merged_files import MergePanes, _WriteLetters, _WritePanes

FOLDER = "raw/year=2012/month=03/day=01"
PATTERN, SORT_BY = "traffic-*.parquet", ["sensor_id", "timestamp"]
SENSORS = ("a", "b")  # one a shard
HOURS = (0, 1, 2)

Pane = tuple[int, int, int]
"""shard, hour of its window, how many readings"""


def write(root: Path, *panes: Pane) -> None:
    """A bundle with a pane of a window of each of those hours."""
    files = MergePanes(
        root=str(root),
        folder="raw",
        feed="traffic",
        time="timestamp",
        window_seconds=300,
        file_seconds=3600,
        sort_by=SORT_BY,
    )
    writer = _WritePanes(files, PipelineOptions([]))
    writer.start_bundle()
    for shard, hour, readings in panes:
        writer.process((shard, window(shard, hour, readings)))
    writer.finish_bundle()


def window(shard: int, hour: int, readings: int) -> pa.RecordBatch:
    start = micros("2012-03-01") + hour * 3_600_000_000
    rows = [
        {
            "sensor_id": SENSORS[shard],
            "timestamp": start + second * 1_000_000,
            "position": hour * 100 + second,
        }
        for second in range(readings)
    ]
    return accepted(*rows)


def write_day(root: Path) -> dict[tuple[int, int], int]:
    """Some files of a day; returns how many readings each window has."""
    panes = {(shard, hour): 3 for shard in (0, 1) for hour in HOURS}
    write(root, *((*window, readings) for window, readings in panes.items()))
    return panes


def seen(root: Path) -> dict[tuple[int, int], list[int]]:
    """What a reader finds: (shard, hour) -> the seconds of its readings, as often as they are there."""
    query = f"""select sensor_id, hour(timestamp at time zone 'UTC'), list(second(timestamp))
        from read_parquet('{root}/raw/**/*.parquet', hive_partitioning=false) group by 1, 2"""
    found = duckdb.connect().execute(query).fetchall()
    return {(SENSORS.index(sensor), hour): sorted(seconds) for sensor, hour, seconds in found}


def as_seen(panes: dict[tuple[int, int], int]) -> dict[tuple[int, int], list[int]]:
    return {window: list(range(readings)) for window, readings in panes.items()}


def files(root: Path) -> list[str]:
    return sorted(path.name for path in (root / FOLDER).iterdir())


COMPACTED = ["traffic-compacted-000.parquet", "traffic-compacted-001.parquet"]
STEPS = [
    *((compaction, name) for name in ("publish", "read_parquet", "rename", "discard", "exchange", "_holds")),
    *((merged_files, name) for name in ("publish", "read_parquet", "discard", "withdraw")),
]


@pytest.fixture(params=["folders exchanged", "no exchange", "no folders"])
def in_one_step(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the file system can exchange folders; one without folders is an object store."""
    if request.param == "no exchange":
        monkeypatch.setattr(compaction, "exchange", lambda one, other: False)
    elif request.param == "no folders":
        monkeypatch.setattr(compaction, "_is_local", lambda root: False)
    elif not probe_exchange():
        pytest.skip("this system cannot exchange two folders in one step")
    return request.param == "folders exchanged"


def probe_exchange() -> bool:
    try:
        return exchange("/nonexistent/a", "/nonexistent/b")
    except FileNotFoundError:
        return True


def interpose(monkeypatch: pytest.MonkeyPatch, step: Callable[[], None]) -> None:
    """Has `step()` called before and after whatever the two do with files."""

    def stepwise(work: Callable) -> Callable:
        def run(*arguments: Any) -> Any:
            step()
            result = work(*arguments)
            step()
            return result

        return run

    def one_by_one(discard: Callable) -> Callable:
        def run(paths: Any) -> None:
            for path in paths:
                stepwise(discard)([path])

        return run

    for module, name in STEPS:
        wrap = one_by_one if name == "discard" else stepwise
        monkeypatch.setattr(module, name, wrap(getattr(module, name)))


def test_a_day_becomes_a_file_a_shard_with_the_same_rows(in_one_step, tmp_path):
    panes = write_day(tmp_path)
    assert compact(str(tmp_path), FOLDER, PATTERN, SORT_BY) == (6, 2)
    assert files(tmp_path) == COMPACTED
    assert seen(tmp_path) == as_seen(panes)
    assert not [path for path in (tmp_path / ".compacting").rglob("*") if path.is_file()]
    assert compact(str(tmp_path), FOLDER, PATTERN, SORT_BY) == (2, 2)


def test_late_panes_and_replays_after_a_compaction_replace_rows_in_the_compacted_file(in_one_step, tmp_path):
    panes = write_day(tmp_path)
    compact(str(tmp_path), FOLDER, PATTERN, SORT_BY)
    write(tmp_path, (0, 1, 5))
    write(tmp_path, (0, 1, 5), (1, 2, 3), (1, 7, 2))
    assert seen(tmp_path) == as_seen(panes | {(0, 1): 5, (1, 7): 2})
    assert files(tmp_path) == COMPACTED


class Killed(BaseException):
    pass


def killed_at(place: int, work: Callable[[], object]) -> bool:
    """Whether the work was still going on at that step, and so was killed there."""
    steps = itertools.count()

    def step() -> None:
        if next(steps) >= place:  # nor is anything done that cleans up
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        interpose(patch, step)
        try:
            work()
        except Killed:
            return True
    return False


def test_a_compaction_killed_at_any_step_leaves_the_output_right_and_the_next_completes_it(
    in_one_step, tmp_path
):
    for place in itertools.count():
        root = tmp_path / str(place)
        panes = as_seen(write_day(root))
        killed = killed_at(place, partial(compact, str(root), FOLDER, PATTERN, SORT_BY))
        found = seen(root)
        if in_one_step:
            assert found == panes, place
        assert {window: sorted(set(seconds)) for window, seconds in found.items()} == panes, place
        sweep(str(root), "raw/year=*/month=*/day=*")
        assert not [path for path in (root / ".compacting").rglob("*") if path.is_file()]
        compact(str(root), FOLDER, PATTERN, SORT_BY)
        assert (seen(root), files(root)) == (panes, COMPACTED), place
        if not killed:
            break
    assert place > 20


def test_a_job_killed_at_any_step_writes_again_after_its_restart(in_one_step, tmp_path):
    """Killed where a day is compacted meanwhile: its panes come again, of whichever window first."""
    for place in itertools.count():
        root = tmp_path / str(place)
        panes = write_day(root)
        late = [(0, 1, 5), (0, 2, 4)]
        killed = killed_at(place, partial(write, root, *late))
        compact(str(root), FOLDER, PATTERN, SORT_BY)
        for pane in reversed(late):
            write(root, pane)
        compact(str(root), FOLDER, PATTERN, SORT_BY)
        assert (seen(root), files(root)) == (as_seen(panes | {(0, 1): 5, (0, 2): 4}), COMPACTED), place
        if not killed:
            break
    assert place > 5


class Turns:
    """Threads that take their steps one at a time, in an order that is given."""

    def __init__(self, order: list[int]) -> None:
        self.order, self.changed = order, threading.Condition()
        self.names: list[str] = []
        self.failures: list[BaseException] = []

    def step(self) -> None:
        name = threading.current_thread().name
        with self.changed:
            if name in self.names:
                self._pass_on()
                assert self.changed.wait_for(lambda: self.turn == name, 30)

    def _pass_on(self) -> None:
        if self.names:
            self.turn = self.names[(self.order.pop() if self.order else 0) % len(self.names)]
            self.changed.notify_all()

    def run(self, **work: Callable[[], object]) -> None:
        threads = [threading.Thread(target=self._run, args=each, name=each[0]) for each in work.items()]
        self.names, self.turn = list(work), ""
        for thread in threads:
            thread.start()
        with self.changed:
            self._pass_on()
        for thread in threads:
            thread.join()
        assert not self.failures

    def _run(self, name: str, work: Callable[[], object]) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.turn == name, 30)
        try:
            work()
        except Withdrawn:
            pass
        except BaseException as failure:
            self.failures.append(failure)
        finally:
            with self.changed:
                self.names.remove(name)
                self._pass_on()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.lists(st.integers(0, 2), max_size=80), compactions=st.integers(1, 2))
def test_no_order_of_the_steps_of_a_job_and_of_compactions_loses_or_doubles_a_row(
    in_one_step, tmp_path_factory, order, compactions
):
    root = tmp_path_factory.mktemp("turns")
    panes = write_day(root)
    turns = Turns(order)
    compacts = {
        f"compaction {number}": lambda: compact(str(root), FOLDER, PATTERN, SORT_BY)
        for number in range(compactions)
    }

    def replay() -> None:
        write(root, (0, 1, 4), (1, 2, 4))
        write(root, (0, 1, 5))

    with pytest.MonkeyPatch.context() as patch:
        interpose(patch, turns.step)
        turns.run(job=replay, **compacts)
    panes |= {(0, 1): 5, (1, 2): 4}
    assert seen(root) == as_seen(panes)
    compact(str(root), FOLDER, PATTERN, SORT_BY)
    assert (seen(root), files(root)) == (as_seen(panes), COMPACTED)


def test_a_reader_sees_every_row_once_while_folders_are_exchanged(tmp_path):
    """Who lists a folder before it is exchanged and opens its files afterwards must list again."""
    if not probe_exchange():
        pytest.skip("this system cannot exchange two folders in one step")
    panes = as_seen(write_day(tmp_path))
    wrong: list[object] = []
    looked = threading.Event()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            try:
                found = seen(tmp_path)
            except duckdb.IOException as error:
                assert "No such file" in str(error) or "Cannot open" in str(error)
                continue
            looked.set()
            if found != panes:
                wrong.append(found)

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(30):
        assert looked.wait(30)
        looked.clear()
        compact(str(tmp_path), FOLDER, PATTERN, SORT_BY)
        for path in (tmp_path / FOLDER).iterdir():  # back to parts, one for one
            path.rename(path.with_name(path.name.replace("compacted", "20120301T000000")))
    done.set()
    reader.join()
    assert wrong == []


def test_files_of_others_in_the_folder_stay_where_they_are(tmp_path):
    panes = write_day(tmp_path)
    other = tmp_path / FOLDER / "detections-20120301T000000-000.parquet"
    batch = tmp_path / FOLDER / "traffic-20120301T000000-0123456789ab.parquet"
    for path in (other, batch):
        path.write_bytes(b"not looked at")
    compact(str(tmp_path), FOLDER, PATTERN, SORT_BY)
    assert files(tmp_path) == sorted([*COMPACTED, other.name, batch.name])
    for path in (other, batch):
        path.unlink()
    assert seen(tmp_path) == as_seen(panes)


def letters(*offsets: int) -> pa.RecordBatch:
    return to_dead_letters(
        messages(offsets), [Failure(("empty",), "is empty")], np.zeros(len(offsets)), TRAFFIC, "decode", 0
    )


def messages(offsets: tuple[int, ...]) -> pa.RecordBatch:
    rows = [{"value": b"", "source": "t", "partition": 0, "position": offset} for offset in offsets]
    return pa.RecordBatch.from_pylist(rows, RECORD)


def write_letters(root: Path, *offsets: int) -> None:
    writer = _WriteLetters(str(root), "traffic", PipelineOptions([]))
    writer.start_bundle()
    writer.process(letters(*offsets))
    writer.finish_bundle()


def test_dead_letters_of_a_partition_are_merged_and_written_again_after_a_restart(in_one_step, tmp_path):
    write_letters(tmp_path, 7, 100_000, 250_000, 10_000_000)
    first = "dead_letters/traffic-t-00000-000000"
    assert compact(str(tmp_path), first, PATTERN, ["position"]) == (3, 1)
    write_letters(tmp_path, 250_000, 250_001)
    query = f"select position from read_parquet('{tmp_path}/dead_letters/**/*.parquet') order by all"
    found = [row[0] for row in duckdb.connect().execute(query).fetchall()]
    assert found == [7, 100_000, 250_000, 250_001, 10_000_000]
    assert [path.name for path in (tmp_path / first).iterdir()] == ["traffic-t-00000-compacted.parquet"]


def test_a_part_that_holds_newer_rows_is_left_for_the_job_to_write_again(in_one_step, tmp_path):
    write_day(tmp_path)
    compact(str(tmp_path), FOLDER, PATTERN, SORT_BY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merged_files, "compacted_path", lambda path: "/nonexistent")  # as if killed in between
        write(tmp_path, (0, 1, 4))
    assert compact(str(tmp_path), FOLDER, PATTERN, SORT_BY) == (3, 3)
    write(tmp_path, (0, 1, 4))
    assert files(tmp_path) == COMPACTED


def test_withdrawing_what_is_not_there_is_nothing(tmp_path):
    withdraw(str(tmp_path), FOLDER)
    assert not list(tmp_path.iterdir())
