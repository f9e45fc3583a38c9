"""From a runner's name to options, and the same answer on each runner."""

import json
from pathlib import Path

import pyarrow.dataset
import pytest
from apache_beam.options.pipeline_options import DirectOptions, StandardOptions

from pipelines import traffic
from pipelines.sample.traffic import write_sample
from runners.options import IN_PROCESS, UnusableRunner, pipeline_options
from runners.prism import find_prism
from tests.services import require_maven


def test_direct_runner_is_the_in_process_one_with_a_worker_per_core():
    options = pipeline_options("DirectRunner", [])
    assert options.view_as(StandardOptions).runner == IN_PROCESS
    assert options.view_as(DirectOptions).direct_num_workers >= 1


def test_a_user_s_flag_wins():
    options = pipeline_options("DirectRunner", ["--direct_num_workers=7"])
    assert options.view_as(DirectOptions).direct_num_workers == 7


def test_an_unknown_flag_is_refused_with_the_closest_that_there_is():
    with pytest.raises(UnusableRunner, match="--direct_num_worker; did you mean --direct_num_workers"):
        pipeline_options("DirectRunner", ["--direct_num_worker=7"])


def test_other_runners_get_their_name_as_it_is():
    assert pipeline_options("SomeRunner", []).view_as(StandardOptions).runner == "SomeRunner"


@pytest.mark.parametrize("runner", ["FlinkRunner", "PrismRunner"])
def test_every_runner_gives_the_same_files(runner, tmp_path: Path, capfd):
    if runner == "FlinkRunner":
        require_maven()
    elif find_prism() is None:
        pytest.skip("no Prism binary: neither in the cache, on PATH nor where go install puts it")
    write_sample(str(tmp_path), sensors=20, step_seconds=60, seed=3)
    arguments = ["--input", str(tmp_path / "traffic.csv"), "--sensors", str(tmp_path / "traffic.sensors.csv")]
    summaries, tables = [], []
    for name in ("DirectRunner", runner):
        output = tmp_path / name
        assert traffic.main(["--runner", name, *arguments, "--output", str(output)]) == 0
        summary = json.loads((output / "summary.json").read_text())
        summaries.append(
            {key: summary[key] for key in ("read", "accepted", "duplicates", "dead_letters", "files")}
        )
        tables.append(
            [pyarrow.dataset.dataset(output / kind).to_table() for kind in ("raw", "processed/aggregates")]
        )
    assert summaries[0] == summaries[1]
    assert [mine.equals(its) for mine, its in zip(*tables, strict=True)] == [True, True]


def test_an_unreadable_input_is_one_line_on_flink_too(tmp_path, capfd):
    require_maven()
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    arguments = ["--runner", "FlinkRunner", "--input", str(tmp_path / "other.csv")]
    assert traffic.main([*arguments, "--output", str(tmp_path / "out")]) == 2
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error:")]
    assert errors == [
        f"error: {tmp_path}/other.csv: has no column sensor_id, timestamp, speed_mph; its header row is 'a,b'"
    ]
