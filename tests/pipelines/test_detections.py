from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd
import pyarrow.parquet
import pytest

from pipelines.detections import main

HEADER = "frame_number,timestamp_sec,u,v,confidence,class_name,vehicle_lat,vehicle_lon,heading"
SIGHTINGS = [
    "0,0.0,100,200,0.9,stop,48.1,11.5,90",
    "0,0.0,700,220,0.8,yield,48.1,11.5,90",
    "1,0.033,104,201,0.91,stop,48.1,11.5,90",
    "2,0.066,-4,201,0.91,stop,48.1,11.5,90",
    "3,0.099,104,201,1.5,stop,48.1,11.5,361",
    "9000,300.0,104,201,0.7,stop,48.1,11.5,90",
]
UNTIMED = SIGHTINGS[0].replace("0.0", "", 1)
DRIVE = ["--vehicle=car-1", "--session=s-1", "--session_start=2024-05-01T12:00:00Z"]


def table(folder: Path) -> pd.DataFrame:
    files = sorted(folder.rglob("*.parquet"))
    return pd.concat([pyarrow.parquet.read_table(file, partitioning=None).to_pandas() for file in files])


def run(folder: Path, *options: str) -> int:
    (folder / "a.csv").write_text("\n".join([HEADER, *SIGHTINGS, ""]))
    return main([f"--input={folder / 'a.csv'}", f"--output={folder / 'out'}", *options])


def test_signs_in_the_same_frame_are_no_duplicates(tmp_path: Path) -> None:
    assert run(tmp_path, *DRIVE) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["read"], summary["accepted"], summary["duplicates"]) == (6, 4, 0)
    assert summary["dead_letters"] == {"pixel_u_out_of_range": 1, "confidence_out_of_range": 1}
    raw = table(tmp_path / "out" / "raw").sort_values("position")
    assert raw["detection_id"].nunique() == 4
    assert set(raw["vehicle_id"]) == {"car-1"}
    assert raw["timestamp"].iloc[-1] == pd.Timestamp("2024-05-01T12:05:00Z")
    letters = table(tmp_path / "out" / "dead_letters").sort_values("position")
    assert [list(rules) for rules in letters["rules"]] == [
        ["pixel_u_out_of_range"],
        ["confidence_out_of_range", "heading_out_of_range"],
    ]


def test_the_same_file_again_has_the_same_identifiers(tmp_path: Path) -> None:
    identifiers = []
    for _ in range(2):
        assert run(tmp_path, *DRIVE) == 0
        identifiers.append(table(tmp_path / "out" / "raw")["detection_id"].tolist())
    assert identifiers[0] == identifiers[1]


def test_an_identifier_given_twice_is_a_duplicate(tmp_path: Path) -> None:
    rows = [f"{SIGHTINGS[0]},d-1", f"{SIGHTINGS[0]},d-1", f"{SIGHTINGS[0]},d-2"]
    (tmp_path / "a.csv").write_text("\n".join([f"{HEADER},detection_id", *rows, ""]))
    assert main([f"--input={tmp_path / 'a.csv'}", f"--output={tmp_path / 'out'}", *DRIVE]) == 0
    raw = table(tmp_path / "out" / "raw")
    assert sorted(raw["detection_id"]) == ["d-1", "d-2"]
    assert raw.set_index("detection_id")["position"].to_dict()["d-1"] == 1


def test_without_the_start_of_the_recording_nothing_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "--vehicle=car-1", "--session=s-1") == 2
    assert "has no column recording_timestamp" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("sighting", "rules"),
    [
        (f"{SIGHTINGS[0]},yesterday", ["recording_timestamp_unparsable"]),
        (f"{SIGHTINGS[0]},", ["timestamp_missing"]),
        (f"{UNTIMED},2024-05-01T12:00:00Z", ["timestamp_sec_missing"]),
        (f"{UNTIMED},yesterday", ["timestamp_sec_missing", "recording_timestamp_unparsable"]),
    ],
)
def test_a_detection_without_a_time_says_what_is_wrong_with_what_it_is_made_of(
    sighting: str, rules: list[str], tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_text(f"{HEADER},recording_timestamp\n{sighting}\n")
    assert main([f"--input={tmp_path / 'a.csv'}", f"--output={tmp_path / 'out'}", *DRIVE[:2]]) == 0
    (letter,) = table(tmp_path / "out" / "dead_letters").to_dict("records")
    assert (letter["reason"], list(letter["rules"])) == (rules[0], rules)


def test_without_h3_one_line_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "polars_h3", None)  # as if it were not installed
    assert run(tmp_path, *DRIVE) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "error: the table signs of this feed needs H3: pip install '.[signs]'"
    assert list((tmp_path / "out").rglob("*.parquet")) == []


def test_a_class_is_one_of_those_declared_or_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "classes.csv").write_text("class_name\nyield\nunicorn_crossing\n")
    rows = [SIGHTINGS[0].replace("stop", name) for name in ("stop", "yield", "unicorn_crossing")]
    (tmp_path / "b.csv").write_text("\n".join([HEADER, *rows, ""]))
    for options, refused in (([], 3), ([f"--classes={tmp_path / 'classes.csv'}"], 1)):
        assert main([f"--input={tmp_path / 'b.csv'}", f"--output={tmp_path / 'out'}", *DRIVE, *options]) == 0
        (letter,) = table(tmp_path / "out" / "dead_letters").to_dict("records")
        assert (letter["reason"], letter["position"]) == ("class_name_unknown", refused)


def test_sessions_and_signs_are_written_beside_the_windows(tmp_path: Path) -> None:
    assert run(tmp_path, *DRIVE) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["summarized"] == {"sessions": 4, "signs": 4}
    processed = tmp_path / "out" / "processed"
    windows = table(processed / "aggregates").sort_values(["window_start", "class_name"])
    assert windows["message_count"].tolist() == [2, 1, 1]
    (drive,) = table(processed / "sessions").to_dict("records")
    assert (drive["message_count"], drive["frames"], drive["classes"]) == (4, 3, 2)
    signs = table(processed / "signs").set_index("class_name")
    assert signs["message_count"].to_dict() == {"stop": 3, "yield": 1}
    assert signs["best_frame"].to_dict() == {"stop": 1, "yield": 0}
