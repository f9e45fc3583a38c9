"""The command that compacts: what it takes and what it leaves, and what it says."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from pipelines import compact
from pipelines.compact import closed_days
from tests.rows import accepted, micros
from transforms.merged_files import MergePanes, _WritePanes


def write(root: Path, folder: str, *times: str) -> None:
    """A reading at each of those times, and a pane of its window for each."""
    files = MergePanes(str(root), folder, "traffic", "timestamp", 300, 3600, ["sensor_id", "timestamp"])
    writer = _WritePanes(files)
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


def test_an_output_that_is_not_there_is_nothing_to_do(tmp_path, capsys):
    assert compact.main(["traffic", "--output", str(tmp_path / "none")]) == 0
    assert capsys.readouterr().out == ""
