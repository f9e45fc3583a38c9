"""The command that compacts: what it takes, leaves and says; and a stream that goes on beside it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines import compact
from pipelines.compact import closed_days
from tests.rows import accepted, micros
from tests.stream_jobs import (
    ROOT,
    assert_final_tables,
    job_on_cluster,
    raw_offsets,
    reading,
    rows,
    send,
    wait_for,
)
from tests.unprivileged import unprivileged
from transforms.merged_files import MergePanes, _WritePanes


def write(root: Path, folder: str, *times: str) -> None:
    """A reading at each of those times, and a pane of its window for each."""
    files = MergePanes(str(root), folder, "traffic", "timestamp", 300, 3600, ["sensor_id", "timestamp"])
    writer = _WritePanes(files, PipelineOptions([]))
    writer.start_bundle()
    for time in times:
        writer.process((0, accepted({"timestamp": micros(time)})))
    writer.finish_bundle()


def names(root: Path, folder: str) -> list[str]:
    return sorted(path.name for path in (root / folder).rglob("*.parquet"))


def test_days_are_compacted_once_they_and_their_lateness_are_over(tmp_path, capsys):
    days = ("2012-03-01T05:00", "2012-03-01T23:59", "2012-03-02T00:10", "2012-03-02T01:10")
    write(tmp_path, "raw", *days)
    write(tmp_path, "processed/aggregates", "2012-03-02T00:10")  # readings are ahead of what is aggregated
    assert compact.main(["traffic", "--output", str(tmp_path)]) == 0
    assert len(names(tmp_path, "raw")) == 4
    write(tmp_path, "processed/aggregates", "2012-03-02T01:00")
    capsys.readouterr()
    assert compact.main(["traffic", "--output", f"{tmp_path}/"]) == 0
    assert names(tmp_path, "raw/year=2012/month=03/day=01") == ["traffic-compacted-000.parquet"]
    assert capsys.readouterr().out.splitlines() == [
        "raw/year=2012/month=03/day=01: 2 files are now 1",
        "raw/year=2012/month=03/day=02: open, left as it is",
        "processed/aggregates/year=2012/month=03/day=02: open, left as it is",
    ]


def test_what_is_compacted_already_and_an_output_of_a_batch_run_are_nothing_to_do(tmp_path, capsys):
    write(tmp_path, "raw", "2012-03-01T05:00")
    write(tmp_path, "processed/aggregates", "2012-03-03T05:00")
    batch = tmp_path / "raw/year=2012/month=02/day=28/traffic-20120228T000000-0123456789ab.parquet"
    batch.parent.mkdir(parents=True)
    batch.write_bytes(b"not looked at")
    assert compact.main(["traffic", "--output", str(tmp_path)]) == 0
    capsys.readouterr()
    assert compact.main(["traffic", "--output", str(tmp_path)]) == 0
    assert "now" not in capsys.readouterr().out
    assert batch.exists()


@pytest.mark.parametrize("lateness, closed", [(3600, 1), (3601, 0)])
def test_the_lateness_is_the_job_s(lateness, closed):
    days = ["raw/year=2012/month=12/day=31"]
    assert len(closed_days(days, ["20130101T010000"], timedelta(seconds=lateness))) == closed


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--output", "hdfs://readings/out"], "hdfs_host"),
        (["--output", "hdfs://a", "--hdfs_host=127.0.0.1", "--hdfs_port=1", "--hdfs_user=a"], "hdfs://a"),
        (["--output", "out", "--alowed_lateness_seconds=1"], "--alowed_lateness_seconds"),
        (["--output", "out", "--allowed_lateness_seconds=some"], "--allowed_lateness_seconds"),
        (["--output", "out", "--allowed_lateness_seconds=-86400"], "--allowed_lateness_seconds"),
    ],
)
def test_what_the_user_has_to_put_right_is_one_line_and_status_2(arguments, said, capsys):
    try:
        status = compact.main(["traffic", *arguments])
    except SystemExit as exit:
        status = int(exit.code or 0)
    assert status == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_a_folder_that_may_not_be_changed_is_one_line_and_status_2(tmp_path):
    write(tmp_path, "raw", "2012-03-01T05:00")
    write(tmp_path, "processed/aggregates", "2012-03-03T05:00")
    closed = tmp_path / "raw/year=2012/month=03"
    closed.chmod(0o555)
    done = unprivileged(sys.executable, "-m", "pipelines.compact", "traffic", "--output", str(tmp_path))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {closed}/day=01") and line.endswith("Permission denied")


def test_an_output_that_is_not_there_is_nothing_to_do(tmp_path, capsys):
    assert compact.main(["traffic", "--output", str(tmp_path / "none")]) == 0
    assert capsys.readouterr().out == ""


@contextlib.contextmanager
def polling(output: Path) -> Iterator[list[int]]:
    """A reader who reads all readings over and over; how many it found each time, or -1 for one there twice.

    A file that was listed and is gone when it is opened tells it that a folder was compacted just then.
    """
    done, found = threading.Event(), list[int]()

    def read() -> None:
        while not done.wait(0.05):
            with contextlib.suppress(FileNotFoundError):
                places = rows(output, "raw", "partition, position")
                found.append(len(places) if len(set(places)) == len(places) else -1)

    reader = threading.Thread(target=read)
    reader.start()
    yield found
    done.set()
    reader.join()


def day(output: Path, kind: str) -> list[str]:
    return sorted(path.name for path in (output / kind / "year=2012/month=03/day=01").glob("*.parquet"))


SHARDS = 4
COMPACTED = [f"traffic-compacted-{shard:03d}.parquet" for shard in range(SHARDS)]
DAY_SECONDS, STEP_SECONDS = 86_400, 150


def test_days_of_a_running_stream_are_compacted_and_its_late_rows_and_restarts_go_on_there(
    flink_cluster, kafka, new_topic, tmp_path
):
    """A compaction is killed, the next completes it; then a row comes late, and a TaskManager is killed."""
    topic, output = new_topic(2), tmp_path / "out"
    sensors = [f"s{number:02}" for number in range(12)]
    sent = [
        (place % 2, reading(sensor, second, 20 + (second + place) % 60))
        for second in range(0, DAY_SECONDS + 3 * 3600, STEP_SECONDS)
        for place, sensor in enumerate(sensors)
    ]
    late = [(0, reading(sensors[0], 7 * 3600 + 1, 99)), (1, reading(sensors[1], 8 * 3600 + 1, 99))]
    more = [
        (place % 2, reading(sensor, DAY_SECONDS + second, 50))
        for second in range(4 * 3600, 6 * 3600, STEP_SECONDS)
        for place, sensor in enumerate(sensors)
    ]
    command = [sys.executable, "-m", "pipelines.compact", "traffic", "--output", str(output)]
    command.append("--allowed_lateness_seconds=0")  # less than the job's: its late rows come to closed days
    arguments = ["--topic", topic, f"--shards={SHARDS}", "--out_of_orderness_seconds=30"]
    arguments.append("--allowed_lateness_seconds=200000")
    with job_on_cluster(flink_cluster, kafka, output, *arguments), polling(output) as found:
        send(kafka, topic, sent)
        closed = len(sensors) * (DAY_SECONDS + 2 * 3600) // 300
        wait_for(lambda: len(rows(output, "processed/aggregates", "1")) >= closed, "a day and two hours", 180)
        wait_for(lambda: len(day(output, "raw")) > SHARDS * 23, "the day's readings are written")
        assert len(day(output, "raw")) <= SHARDS * 24
        with subprocess.Popen(command, cwd=ROOT) as killed:
            while not list(output.glob(".compacting/raw/*/*/*/*/*.parquet")):
                assert killed.poll() is None
            killed.kill()
        assert len(set(raw_offsets(output))) == len(raw_offsets(output)) >= len(sensors) * 600
        assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0
        assert day(output, "raw") == day(output, "processed/aggregates") == COMPACTED
        send(kafka, topic, late[:1])
        wait_for(lambda: len(rows_of(output, 99)) == 1, "the row that is late for a compacted day")
        send(kafka, topic, late[1:])
        flink_cluster.busy_task_managers()[0].kill()
        flink_cluster.start()
        send(kafka, topic, more)
        closed += len(sensors) * 2 * 3600 // 300
        wait_for(lambda: len(rows(output, "processed/aggregates", "1")) >= closed, "the next hours", 180)
        wait_for(lambda: len(rows_of(output, 99)) == 2, "both rows that are late")
    assert day(output, "raw") == day(output, "processed/aggregates") == COMPACTED
    assert not list((output / ".compacting").rglob("*.parquet"))
    assert found == sorted(found)
    assert found[0] > -1
    assert len(set(found)) > 3
    assert_final_tables(output, sent + late + more, DAY_SECONDS + 5 * 3600)


def rows_of(output: Path, speed: int) -> list[tuple]:
    return [row for row in rows(output, "raw", "speed_mph") if row[0] == speed]
