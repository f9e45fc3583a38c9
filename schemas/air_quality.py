"""Hourly means of a multisensor device and of a reference analyser beside it, at a street in an Italian city.

Source: S. De Vito, E. Massera, M. Piga, L. Martinotto, G. Di Francia, "On field calibration of an electronic
nose for benzene estimation in an urban pollution monitoring scenario", Sensors and Actuators B 129 (2008);
data set "Air Quality" of the UCI Machine Learning Repository, CC BY 4.0. Descriptions and units are its
documentation's; it gives none for the sensors' responses and the absolute humidity. Some ranges are this
project's, wide enough for any street. The medians are those of the data set's usable values.
"""

import pyarrow as pa

from schemas.feed import TEXT, TIMESTAMP, Aggregate, CsvDialect, DateAndTime, Feed, Field, Health


def _measured(
    name: str,
    column: str,
    description: str,
    unit: str | None,
    limits: tuple[float, float],
    median: float,
) -> Field:
    return Field(
        name,
        pa.float64(),
        description,
        unit=unit,
        minimum=limits[0],
        maximum=limits[1],
        column=column,
        missing_value=-200,
        median=median,
        tolerated=True,
    )


RESPONSE = (0, 5000)
MEASURED = (
    _measured(
        "carbon_monoxide_mg_m3",
        "CO(GT)",
        "Carbon monoxide, by the reference analyser.",
        "mg/m³",
        (0, 50),
        1.8,
    ),
    _measured(
        "tin_oxide_response", "PT08.S1(CO)", "Tin oxide sensor, nominally for CO.", None, RESPONSE, 1063
    ),
    _measured(
        "non_methane_hydrocarbons_ug_m3",
        "NMHC(GT)",
        "Non-methane hydrocarbons, by the reference analyser.",
        "µg/m³",
        (0, 5000),
        150,
    ),
    _measured("benzene_ug_m3", "C6H6(GT)", "Benzene, by the reference analyser.", "µg/m³", (0, 100), 8.2),
    _measured(
        "titania_response", "PT08.S2(NMHC)", "Titania sensor, nominally for NMHC.", None, RESPONSE, 909
    ),
    _measured(
        "nitrogen_oxides_ppb",
        "NOx(GT)",
        "Nitrogen oxides, by the reference analyser.",
        "ppb",
        (0, 1000),
        177.5,
    ),
    _measured(
        "tungsten_oxide_nox_response",
        "PT08.S3(NOx)",
        "Tungsten oxide sensor, nominally for NOx.",
        None,
        RESPONSE,
        806,
    ),
    _measured(
        "nitrogen_dioxide_ug_m3",
        "NO2(GT)",
        "Nitrogen dioxide, by the reference analyser.",
        "µg/m³",
        (0, 1000),
        109,
    ),
    _measured(
        "tungsten_oxide_no2_response",
        "PT08.S4(NO2)",
        "Tungsten oxide sensor, nominally for NO2.",
        None,
        RESPONSE,
        1463,
    ),
    _measured(
        "indium_oxide_response", "PT08.S5(O3)", "Indium oxide sensor, nominally for O3.", None, RESPONSE, 963
    ),
    _measured("temperature_celsius", "T", "Air temperature.", "°C", (-20, 50), 17.8),
    _measured("relative_humidity_percent", "RH", "Relative humidity.", "percent", (0, 100), 49.6),
    _measured("absolute_humidity", "AH", "Absolute humidity.", None, (0, 10), 0.9954),
)
POLLUTANTS = tuple(field.name for field in MEASURED if field.column and field.column.endswith("(GT)"))

AIR_QUALITY = Feed(
    name="air_quality",
    description="Air pollutants, sensor responses and weather, one row per station and hour.",
    key="station",
    event_time="timestamp",
    fields=(
        Field(
            "station", TEXT, "The station.", required=True, pattern=r"[A-Za-z0-9_.:-]{1,64}", default="uci"
        ),
        Field(
            "timestamp",
            TIMESTAMP,
            "When the hour began.",
            required=True,
            made_of=DateAndTime("Date", "Time", date_format="%d/%m/%Y", time_format="%H.%M.%S"),
            reason="undated",
        ),
        *MEASURED,
    ),
    aggregates=(
        Aggregate("message_count", "count", POLLUTANTS[0], "Readings in the window."),
        *(
            Aggregate(f"{prefix}_{name}", function, name, f"{words} of {name}.")
            for name in POLLUTANTS
            for prefix, function, words in (
                ("avg", "mean", "Mean"),
                ("max", "maximum", "Highest value"),
                ("missing", "missing_count", "Readings without a value"),
            )
        ),
    ),
    window_seconds=86_400,
    dialect=CsvDialect(delimiter=";", decimal_point=",", skips_empty_rows=True),
    any_of=tuple(field.name for field in MEASURED),
    step_seconds=3600,
    fill_seconds=3 * 3600,
    daily=POLLUTANTS,
    health=Health(most_refused=0.10, least_quality=0.70),
)
