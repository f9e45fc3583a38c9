from __future__ import annotations

from datetime import UTC, datetime, timedelta

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.air_quality import AIR_QUALITY, MEASURED
from transforms.batches import concatenate
from transforms.daily import aggregate_days
from transforms.deduplicate import deduplicate

FIRST = datetime(2004, 12, 1, tzinfo=UTC)
NUMBERS = st.none() | st.integers(-9, 9).map(float)


def reading(minute: int, station: str = "a", **values: float | None) -> dict:
    measured = {field.name: 1.0 for field in MEASURED} | values
    where: dict = {"source": "a.csv", "partition": None, "position": minute + 1, "nulled": []}
    return {"station": station, "timestamp": FIRST + timedelta(minutes=minute), **measured, **where}


def days_of(*readings: dict) -> pa.RecordBatch:
    rows = [pa.RecordBatch.from_pylist([each], AIR_QUALITY.reading_schema) for each in readings]
    result = aggregate_days(deduplicate(concatenate(rows), AIR_QUALITY)[0], AIR_QUALITY)
    result.validate(full=True)
    return result


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 72 * 60), st.sampled_from("ab"), NUMBERS, NUMBERS),
        min_size=1,
        unique_by=lambda row: row[:2],
    )
)
def test_daily_figures_are_those_of_duckdb(rows: list[tuple]) -> None:
    ours = days_of(
        *(
            reading(minute, station, benzene_ug_m3=benzene, carbon_monoxide_mg_m3=monoxide)
            for minute, station, benzene, monoxide in rows
        )
    )
    readings = pa.table(
        {
            "station": [row[1] for row in rows] * 2,
            "minute": [row[0] for row in rows] * 2,
            "field": ["benzene_ug_m3"] * len(rows) + ["carbon_monoxide_mg_m3"] * len(rows),
            "value": pa.array([row[2] for row in rows] + [row[3] for row in rows], pa.float64()),
        }
    )
    con = duckdb.connect()
    con.register("readings", readings)
    con.register("ours", pa.Table.from_batches([ours]))
    con.sql("set timezone = 'UTC'")
    theirs = """select station, minute // 1440 as day, field, round(avg(value), 9), min(value), max(value),
        count(distinct minute // 60) filter (value is not null) as present, present / 24, present >= 18
        from readings group by all order by all"""
    mine = f"""select station, (epoch(window_start)::bigint - {FIRST.timestamp():.0f}) // 86400, field,
        round(mean, 9), minimum, maximum, value_count, completeness, valid
        from ours where field in ('benzene_ug_m3', 'carbon_monoxide_mg_m3') order by all"""
    assert con.sql(mine).fetchall() == con.sql(theirs).fetchall()


@pytest.mark.parametrize(("hours", "valid"), [(17, False), (18, True), (24, True)])
def test_a_day_is_valid_with_three_quarters_of_its_hours(hours: int, valid: bool) -> None:
    rows = (reading(hour * 60, benzene_ug_m3=float(hour) if hour < hours else None) for hour in range(24))
    (benzene,) = (row for row in days_of(*rows).to_pylist() if row["field"] == "benzene_ug_m3")
    assert (benzene["value_count"], benzene["expected_count"], benzene["valid"]) == (hours, 24, valid)
    assert (benzene["mean"], benzene["unit"]) == ((hours - 1) / 2, "µg/m³")
