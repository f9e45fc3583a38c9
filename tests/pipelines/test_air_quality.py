from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pyarrow.parquet
import pytest

from pipelines.air_quality import main
from schemas.air_quality import AIR_QUALITY, MEASURED, POLLUTANTS

UCI = Path(__file__).parents[3] / "shared" / "data" / "AirQualityUCI.csv"
uci_file = pytest.mark.skipif(not UCI.exists(), reason="needs the UCI file: ../shared/data/AirQualityUCI.csv")


def table(folder: Path) -> pd.DataFrame:
    files = sorted(folder.rglob("*.parquet"))
    return pd.concat([pyarrow.parquet.read_table(file, partitioning=None).to_pandas() for file in files])


def written(file: Path) -> pd.DataFrame:
    """The file as pandas reads it, under the feed's names, times first."""
    raw = pd.read_csv(file, sep=";", decimal=",").dropna(how="all", axis=0).dropna(how="all", axis=1)
    time = pd.to_datetime(raw["Date"] + " " + raw["Time"], format="%d/%m/%Y %H.%M.%S", utc=True)
    names = {field.column: field.name for field in MEASURED}
    return raw[list(names)].rename(columns=names).assign(timestamp=time).set_index("timestamp")


@uci_file
def test_the_uci_file_is_read_as_pandas_reads_it(tmp_path: Path) -> None:
    assert main([f"--input={UCI}", f"--output={tmp_path}"]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["read"], summary["accepted"], summary["blank_lines"]) == (9357, 9326, 114)
    assert (summary["dead_letters"], summary["duplicates"]) == ({"nothing_usable": 31}, 0)
    assert (summary["balanced"], summary["unknown_columns"]) == (True, [])
    assert summary["nulled"] == {"nitrogen_oxides_ppb_out_of_range": 78}

    expected = written(UCI)
    for field in MEASURED:
        column = expected[field.name]
        expected[field.name] = column.where(column.between(field.minimum or 0, field.maximum or 0))
    every_hour, expected = expected, expected.dropna(how="all")
    accepted = table(tmp_path / "raw").set_index("timestamp").sort_index()
    names = [field.name for field in MEASURED]
    pd.testing.assert_frame_equal(
        accepted[names], expected[names].astype(float), check_freq=False, check_index_type=False
    )
    assert accepted["nulled"].map(len).sum() == 78

    clean = table(tmp_path / "processed" / "clean").set_index("timestamp").sort_index()
    filled = every_hour.ffill(limit=3).bfill(limit=3).fillna(expected.median()).loc[expected.index]
    pd.testing.assert_frame_equal(
        clean[names], filled[names].astype(float), check_freq=False, check_index_type=False
    )
    assert summary["mean_quality"] == pytest.approx(expected.notna().mean(axis=1).mean())

    assert summary["missing_ratio"] == pytest.approx(1 - summary["mean_quality"])
    assert summary["out_of_range_fields"] == {"nitrogen_oxides_ppb": 78}
    missing = expected.isna().sum() - pd.Series(summary["out_of_range_fields"]).reindex(names).fillna(0)
    assert summary["missing_fields"] == missing[missing > 0].astype(int).to_dict()
    assert summary["error_rate"] == 31 / 9357

    days = table(tmp_path / "processed" / "daily")
    assert (summary["days"], summary["valid_days"]) == (len(days), days["valid"].sum()) == (391 * 5, 1363)
    for name, figures in days.set_index("window_start").sort_index().groupby("field"):
        hours = expected[name].resample("D").count()
        assert figures["value_count"].tolist() == hours.tolist()
        assert (figures["valid"] == (hours >= 18)).all()
        theirs = expected[name].resample("D").agg(["mean", "min", "max"])
        pd.testing.assert_frame_equal(
            figures[["mean", "minimum", "maximum"]],
            theirs.rename(columns={"min": "minimum", "max": "maximum"}),
            check_names=False,
            check_freq=False,
            check_index_type=False,
        )

    daily = expected[list(POLLUTANTS)].resample("D")
    aggregates = table(tmp_path / "processed" / "aggregates").set_index("window_start").sort_index()
    assert aggregates["message_count"].tolist() == [size for size in daily.size() if size]
    for name in POLLUTANTS:
        means = daily[name].mean()[daily.size() > 0]
        pd.testing.assert_series_equal(
            aggregates[f"avg_{name}"], means, check_names=False, check_freq=False, check_index_type=False
        )


def test_an_undated_row_is_a_dead_letter_with_its_bytes(tmp_path: Path) -> None:
    header = ";".join(["Date", "Time", *(str(field.column) for field in MEASURED), "", ""])
    values = ";".join(["1,5"] * len(MEASURED))
    rows = [f"10/03/2004;18.00.00;{values};;", f"31/02/2004;18.00.00;{values};;", ";" * 16]
    (tmp_path / "a.csv").write_text("\r\n".join([header, *rows, ""]))
    assert main([f"--input={tmp_path}/a.csv", f"--output={tmp_path}/out"]) == 0
    (letter,) = table(tmp_path / "out" / "dead_letters").to_dict("records")
    assert (letter["reason"], letter["value"], letter["position"]) == ("undated", rows[1].encode(), 2)
    assert AIR_QUALITY.name == letter["feed"]


def test_gaps_are_filled_with_the_medians_of_the_file_to_train_with(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", *(row(hour, 7) for hour in range(3)), row(3, 9))
    write(tmp_path / "a.csv", *(row(hour, None if hour < 9 else 1) for hour in range(10)))
    arguments = [f"--input={tmp_path}/a.csv", f"--output={tmp_path}/out"]
    expected = {(): [1] * 10, (f"--train={tmp_path}/train.csv",): [7] * 6 + [1] * 4}
    expected[("--fill_seconds=3600",)] = expected[()]
    expected["--fill_seconds=3600", f"--train={tmp_path}/train.csv"] = [7] * 8 + [1] * 2
    for options, values in expected.items():
        assert main([*arguments, *options]) == 0
        clean = table(tmp_path / "out" / "processed" / "clean").sort_values("timestamp")
        assert clean["benzene_ug_m3"].tolist() == values


@pytest.mark.parametrize(("rows", "said"), [([], "no reading in it"), (None, "no such file")])
def test_a_file_that_nothing_can_be_trained_with_is_one_line(
    rows: list | None, said: str, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    write(tmp_path / "a.csv", row(0, 1))
    if rows is not None:
        write(tmp_path / "train.csv", *rows)
    arguments = [f"--input={tmp_path}/a.csv", f"--train={tmp_path}/train.csv", f"--output={tmp_path}/out"]
    assert main(arguments) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert f"{tmp_path}/train.csv" in line
    assert said in line


@pytest.mark.parametrize(
    ("bad", "poor", "alerts"),
    [
        (1, 0, []),  # exactly 10 %
        (2, 0, ["18.2 % of the records are refused, more than 10 %"]),
        (0, 9, ["the mean quality is 23.1 %, less than 70 %"]),
        (2, 9, ["18.2 % of the records are refused, more than 10 %", "the mean quality is 23.1 %, less"]),
    ],
)
def test_an_unhealthy_run_raises_an_alert_and_a_status_where_asked_for(
    bad: int, poor: int, alerts: list[str], tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    """Of the good rows some have 3 values of 13, the others all."""
    whole = row(0, 1).replace("-200", "1")
    scant = row(0, 1).replace("-200", "1", 1)
    good = [(scant if hour < poor else whole).replace("00.00.00", f"{hour:02}.00.00") for hour in range(9)]
    write(tmp_path / "a.csv", *good, *[whole.replace("10/03", "31/02")] * bad)
    arguments = [f"--input={tmp_path}/a.csv", f"--output={tmp_path}/out"]
    assert main(arguments) == 0
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("ALERT")]
    assert len(said) == len(alerts)
    for line, alert in zip(said, alerts, strict=True):
        assert line.startswith(f"ALERT air_quality: {alert}")
    assert main([*arguments, "--fail_unhealthy"]) == (3 if alerts else 0)


def row(hour: int, benzene: float | None) -> str:
    """A line of the file: benzene and, so that it is never without any value, carbon monoxide."""
    known = {"CO(GT)": 1.0, "C6H6(GT)": -200 if benzene is None else benzene}
    values = (str(known.get(str(field.column), -200)).replace(".", ",") for field in MEASURED)
    return ";".join(["10/03/2004", f"{hour:02}.00.00", *values, "", ""])


def write(path: Path, *rows: str) -> None:
    header = ";".join(["Date", "Time", *(str(field.column) for field in MEASURED), "", ""])
    path.write_text("\r\n".join([header, *rows, ""]))
