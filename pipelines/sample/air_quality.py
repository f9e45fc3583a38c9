"""Simulated hours of the air in streets, in the format of the UCI file: a row for every hour and station.

The file of more than one station has a further column, `station`.

Nothing here was measured. The numbers agree with each other by a simple model:

* Carbon monoxide is what traffic emits, by hour and weekday, over how well the air mixes: badly in winter and
  at night, with weather that lasts some days (an autoregressive process). Benzene, hydrocarbons and nitrogen
  oxides come from the same exhausts; nitrogen dioxide forms from the oxides as far as ozone lasts, so that it
  levels off.
* Temperature follows season, hour and weather; humidity is what a dew point below it leaves. Absolute
  humidity is the vapour pressure in kPa, by Magnus' formula.
* Each sensor answers to its gas by a power law, the one for nitrogen oxides and ozone's the other way round.
* The analysers are serviced at 4 in the morning, now and then fail for hours, and the one for hydrocarbons
  is given up after six weeks. A value that is not there is -200.

The same arguments give the same bytes, with the same version of numpy.
"""

from __future__ import annotations

import json
import os
from datetime import date, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from numpy.typing import NDArray

from pipelines.sample.air_quality_faults import AIR_QUALITY_FAULTS, VALUES
from pipelines.sample.faults import Plantings
from transforms.local_files import whole_file

Floats = NDArray[np.floating[Any]]

HOURS = 24
EMPTY_ROWS = 114
"""So many rows of delimiters alone end the file, as they end UCI's."""
LINE_END = b"\r\n"
MISSING = -200.0
SERVICE_HOUR, HYDROCARBON_HOURS = 4, 6 * 7 * HOURS
OUTAGE_SHARE, OUTAGE_HOURS = 0.01, 8
ANALYSERS = ("CO(GT)", "NMHC(GT)", "C6H6(GT)", "NOx(GT)", "NO2(GT)")
# What a weekday emits, hour by hour from midnight, as a share of its busiest.
TRAFFIC = np.array((
    0.25, 0.15, 0.10, 0.08, 0.10, 0.20, 0.45, 0.85, 1.00, 0.90, 0.75, 0.70,
    0.72, 0.75, 0.70, 0.68, 0.72, 0.85, 0.98, 1.00, 0.85, 0.60, 0.45, 0.35,
))  # fmt: skip
SUNDAY_TRAFFIC = 0.6
DECIMALS = {"CO(GT)": 1, "C6H6(GT)": 1, "T": 1, "RH": 1, "AH": 4}


def simulate(start: date, days: int, seed: int, station: int = 0) -> dict[str, Floats]:
    """A station's values of each hour under the columns of the file, NaN where there is none."""
    random = np.random.default_rng([seed, 0, station])
    hour = np.arange(days * HOURS)
    clock = hour % HOURS
    day_of_year = (start.timetuple().tm_yday + hour / HOURS) / 365.25
    weekday = (start.weekday() + hour // HOURS) % 7
    winter = (1 + np.cos(2 * np.pi * (day_of_year - 0.04))) / 2
    sun = np.cos(2 * np.pi * (clock - 14) / HOURS)

    emitted = TRAFFIC[clock] * np.where(weekday == 6, SUNDAY_TRAFFIC, 1.0)
    mixing = np.exp(0.35 * sun - 0.7 * winter + 0.45 * _weather(len(hour), 36, random))
    monoxide = np.clip(3.2 * emitted / mixing * random.lognormal(0, 0.15, len(hour)) + 0.2, 0.1, 12)
    benzene = np.clip(4.6 * monoxide**1.15 * random.lognormal(0, 0.08, len(hour)), 0.1, 90)
    oxides = np.clip((60 + 90 * winter) * monoxide**1.1 * random.lognormal(0, 0.12, len(hour)), 5, 990)
    dioxide = 180 * oxides / (oxides + 160) * random.lognormal(0, 0.08, len(hour))
    hydrocarbons = np.clip(60 * monoxide**1.2 * random.lognormal(0, 0.2, len(hour)), 10, 2000)

    temperature = 18 - 13 * (winter - 0.5) + (7 - 3 * winter) * sun + 3 * _weather(len(hour), 60, random)
    dew_point = temperature - np.clip(11 + 5 * sun + 4 * _weather(len(hour), 30, random), 1, 25)
    vapour = _vapour_pressure(dew_point)

    def response(base: float, gas: Floats, power: float) -> Floats:
        return np.clip(base * gas**power * random.normal(1, 0.02, len(hour)), 300, 2800)

    values = {
        "CO(GT)": monoxide,
        "PT08.S1(CO)": response(900, monoxide, 0.25),
        "NMHC(GT)": np.where(hour < HYDROCARBON_HOURS, hydrocarbons, np.nan),
        "C6H6(GT)": benzene,
        "PT08.S2(NMHC)": response(430, benzene, 0.35),
        "NOx(GT)": oxides,
        "PT08.S3(NOx)": response(2100, oxides, -0.18),
        "NO2(GT)": np.clip(dioxide, 2, 400),
        "PT08.S4(NO2)": response(1050, benzene, 0.13) + 25 * vapour * 10,
        "PT08.S5(O3)": response(620, monoxide, 0.55),
        "T": np.clip(temperature, -15, 45),
        "RH": np.clip(100 * vapour / _vapour_pressure(temperature), 5, 95),
        "AH": vapour,
    }
    for name in ANALYSERS:
        values[name][(clock == SERVICE_HOUR) | _outages(len(hour), random)] = np.nan
    return values


def _vapour_pressure(celsius: Floats) -> Floats:
    """Of saturated air in kPa: Magnus, with the coefficients of WMO No. 8."""
    return 0.6112 * np.exp(17.62 * celsius / (243.12 + celsius))


def _weather(hours: int, memory: float, random: np.random.Generator) -> Floats:
    """Noise of mean 0 and standard deviation 1 that forgets with a time constant of so many hours."""
    keep = np.exp(-1 / memory)
    reach = int(6 * memory)
    kernel = np.sqrt(1 - keep**2) * keep ** np.arange(reach)
    return np.convolve(random.standard_normal(hours + reach - 1), kernel, mode="valid")


def _outages(hours: int, random: np.random.Generator) -> NDArray[np.bool_]:
    begins = random.random(hours) < OUTAGE_SHARE
    return np.convolve(begins, np.ones(OUTAGE_HOURS))[:hours] > 0


def day_table(day: date, values: dict[str, Floats]) -> pa.Table:
    """A day's rows as the file has them: text, with a decimal comma. Values are of shape (24, stations)."""
    stations = values[VALUES[0]].shape[1]
    times = np.datetime64(day, "s") + np.repeat(np.arange(HOURS), stations) * np.timedelta64(3600, "s")
    hours = pa.array(times)
    columns = {
        "Date": pc.strftime(hours, "%d/%m/%Y"),
        "Time": pc.replace_substring(pc.strftime(hours, "%H:%M:%S"), ":", "."),
        **{name: _text(values[name].ravel(), DECIMALS.get(name, 0)) for name in VALUES},
    }
    if stations > 1:
        columns["station"] = pa.array([f"sim-{number:04}" for number in range(1, stations + 1)] * HOURS)
    empty = pa.repeat("", len(hours))
    return pa.Table.from_arrays([*columns.values(), empty, empty], names=[*columns, "", ""])


def _text(values: Floats, decimals: int) -> pa.StringArray:
    rounded = np.nan_to_num(np.round(values, decimals), nan=MISSING)
    whole = pc.replace_substring_regex(pa.array(rounded).cast(pa.string()), r"\.0$", "")
    return pc.replace_substring(whole, ".", ",")


def write_sample(
    output: str,
    *,
    seed: int = 1,
    start: date = date(2004, 3, 10),
    days: int = 91,
    stations: int = 1,
    faults_of_each_kind: int = 3,
) -> dict[str, Any]:
    """Write air_quality.csv and air_quality.manifest.json into the directory `output`; return the manifest.

    It says what was planted in which data row (the row after the header is 1) and what a correct job
    therefore accepts, drops as duplicates and sets aside. Both files appear once both are whole.

    Raises ValueError for less than a day or a station, a negative seed, days beyond the year 9999, or too few
    rows for the faults; OSError where the files cannot be written.
    """
    if days < 1:
        raise ValueError(f"days must be at least 1, not {days}")
    if stations < 1:
        raise ValueError(f"stations must be at least 1, not {stations}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, not {seed}")
    try:
        start + timedelta(days=days)
    except OverflowError:
        raise ValueError(f"{days:,} days from {start} go beyond the calendar") from None
    rows_a_day = stations * HOURS
    faults = AIR_QUALITY_FAULTS
    plantings = Plantings.draw(
        faults, rows=days * rows_a_day, rows_a_day=rows_a_day, copies=faults_of_each_kind, seed=seed
    )
    manifest = {
        "feed": "air_quality",
        "simulated": "Simulated by a model of a street's air; nothing of it was measured.",
        "seed": seed,
        "start": start.isoformat(),
        "days": days,
        "stations": stations,
        "rows": days * rows_a_day,
        "blank_lines": EMPTY_ROWS,
        **plantings.manifest(),
    }
    each = [simulate(start, days, seed, station) for station in range(stations)]
    values = {name: np.stack([one[name] for one in each], axis=1) for name in VALUES}
    os.makedirs(output, exist_ok=True)
    with (
        whole_file(os.path.join(output, "air_quality.manifest.json")) as manifest_file,
        whole_file(os.path.join(output, "air_quality.csv")) as file,
    ):
        manifest_file.write((json.dumps(manifest, indent=1) + "\n").encode())
        for number in range(days):
            hours = slice(number * HOURS, (number + 1) * HOURS)
            rows = day_table(
                start + timedelta(days=number), {name: series[hours] for name, series in values.items()}
            )
            if number == 0:
                file.write(";".join(rows.column_names).encode() + LINE_END)
            planted = b"".join(plantings.planted(_csv(rows), first_row=1 + number * rows_a_day))
            file.write(planted.replace(b"\n", LINE_END))
        file.write((b";" * (rows.num_columns - 1) + LINE_END) * EMPTY_ROWS)
    return manifest


def _csv(rows: pa.Table) -> pa.Buffer:
    lines = pa.BufferOutputStream()
    plain = pyarrow.csv.WriteOptions(include_header=False, quoting_style="none", delimiter=";")
    pyarrow.csv.write_csv(rows, lines, plain)
    return lines.getvalue()
