from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from pipelines.air_quality import main
from pipelines.sample.air_quality import SERVICE_HOUR, simulate, write_sample
from pipelines.sample.air_quality_faults import VALUES
from schemas.air_quality import MEASURED

START = date(2004, 3, 10)


def test_a_run_without_arguments_finds_what_was_planted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([]) == 0
    manifest = json.loads((tmp_path / "sample" / "air_quality.manifest.json").read_text())
    summary = json.loads((tmp_path / "out" / "air_quality" / "summary.json").read_text())
    for name in ("accepted", "duplicates", "dead_letters", "blank_lines"):
        assert summary[name] == manifest[name]
    letters = pyarrow.parquet.read_table(tmp_path / "out" / "air_quality" / "dead_letters").to_pylist()
    found = [
        {name: letter[name] for name in ("stage", "reason", "rules")} | {"row": letter["position"]}
        for letter in letters
    ]
    assert sorted(found, key=lambda fault: fault["row"]) == manifest["faults"]
    lines = (tmp_path / "sample" / "air_quality.csv").read_bytes().split(b"\r\n")
    assert {letter["position"]: letter["value"] for letter in letters} == {
        letter["position"]: lines[letter["position"]] for letter in letters
    }
    planted = [oddity["oddity"] for oddity in manifest["oddities"]]
    assert summary["nulled"]["nitrogen_oxides_ppb_out_of_range"] == planted.count(
        "nitrogen oxides out of range"
    )
    assert summary["nulled"]["benzene_ug_m3_unparsable"] == planted.count("a decimal point")
    assert "balanced" in capsys.readouterr().out
    assert main(["--max_age_seconds", "1"]) == 0  # such a run finds other rows than were planted
    assert "PLANTED" not in capsys.readouterr().out


def test_the_same_arguments_give_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    files = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_sample(str(tmp_path / name), seed=seed)
        files.append((tmp_path / name / "air_quality.csv").read_bytes())
    assert files[0] == files[1] != files[2]


def test_the_file_of_several_stations_names_them(tmp_path: Path) -> None:
    write_sample(str(tmp_path / "sample"), days=2, stations=3, faults_of_each_kind=0)
    assert main([f"--input={tmp_path}/sample/air_quality.csv", f"--output={tmp_path}/out"]) == 0
    readings = pyarrow.parquet.read_table(tmp_path / "out" / "raw", partitioning=None)
    assert sorted(readings["station"].value_counts().to_pylist(), key=str) == [
        {"values": f"sim-000{number}", "counts": 48} for number in (1, 2, 3)
    ]


@pytest.mark.parametrize("seed", range(3))
def test_what_was_not_planted_breaks_no_rule_and_no_row_is_empty(seed: int) -> None:
    values = simulate(START, 400, seed)
    for field in MEASURED:
        present = values[str(field.column)]
        present = present[~np.isnan(present)]
        assert field.minimum is not None and field.maximum is not None
        assert field.minimum <= present.min() <= present.max() <= field.maximum
    assert not np.isnan([values[name] for name in VALUES]).all(axis=0).any()
    assert np.isnan(values["CO(GT)"][SERVICE_HOUR::24]).all()


def test_the_air_is_worst_when_people_drive_and_in_winter() -> None:
    monoxide = simulate(START, 400, 1)["CO(GT)"].reshape(-1, 24)
    assert np.nanmean(monoxide[:, 8]) > 2 * np.nanmean(monoxide[:, 3])
    assert np.nanmean(monoxide[265:325]) > 1.3 * np.nanmean(monoxide[85:145])


@pytest.mark.parametrize(
    "options", [{"days": 0}, {"stations": 0}, {"seed": -1}, {"start": date(9999, 12, 1)}, {"days": 2}]
)
def test_a_sample_that_cannot_be_is_refused_and_nothing_is_written(options: dict, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"days|stations|seed|rows"):
        write_sample(str(tmp_path / "sample"), **options)
    assert not (tmp_path / "sample").exists()
