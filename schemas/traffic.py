"""Traffic speeds of loop detectors, as the METR-LA data set has them (207 detectors, Los Angeles County).

Source: Y. Li, R. Yu, C. Shahabi, Y. Liu, "Diffusion Convolutional Recurrent Neural Network: Data-Driven
Traffic Forecasting", ICLR 2018; readings of the Los Angeles Metropolitan Transportation Authority.
"""

import pyarrow as pa

from schemas.feed import TEXT, TIMESTAMP, Aggregate, Feed, Field

TRAFFIC = Feed(
    name="traffic",
    description="Speed, flow and occupancy of road traffic, one row per detector and time step.",
    key="sensor_id",
    event_time="timestamp",
    identifier="event_id",
    fields=(
        Field(
            "sensor_id",
            TEXT,
            "The detector.",
            required=True,
            pattern=r"[A-Za-z0-9_.:-]{1,64}",
            known_option="sensors",
        ),
        Field("timestamp", TIMESTAMP, "When the reading was taken.", required=True),
        Field(
            "speed_mph",
            pa.float64(),
            "Mean speed; in METR-LA a 0 means no car or no reading.",
            unit="mph",
            required=True,
            minimum=0,
            maximum=120,
            zero_can_mean_missing=True,
        ),
        Field(
            "volume_vph", pa.float64(), "Flow over all lanes.", unit="vehicles/h", minimum=0, maximum=20_000
        ),
        Field(
            "occupancy_percent",
            pa.float64(),
            "Share of time that a vehicle covers the loop.",
            unit="percent",
            minimum=0,
            maximum=100,
        ),
        Field(
            "latitude",
            pa.float64(),
            "WGS 84.",
            unit="degrees",
            minimum=33.7,
            maximum=34.5,
            group="coordinates",
        ),
        Field(
            "longitude",
            pa.float64(),
            "WGS 84.",
            unit="degrees",
            minimum=-119,
            maximum=-117,
            group="coordinates",
        ),
        Field("road_name", TEXT, "The road, such as I-405."),
        Field("direction", TEXT, "The direction of travel."),
        Field("lane_count", pa.int32(), "Lanes that the detector covers.", unit="lanes"),
        Field("event_id", pa.string(), "Identifies the message; replay gives one to those that have none."),
        Field("segment_id", TEXT, "The stretch of road that the detector stands for."),
        Field("weather_condition", TEXT, "The weather at the time, such as clear or rain."),
        Field("incident_nearby", pa.bool_(), "Whether an incident is reported close by."),
    ),
    aggregates=(
        Aggregate("avg_speed", "mean", "speed_mph", "Mean speed."),
        Aggregate("avg_volume", "mean", "volume_vph", "Mean flow."),
        Aggregate("avg_occupancy", "mean", "occupancy_percent", "Mean occupancy."),
        Aggregate("speed_variance", "variance", "speed_mph", "Population variance of the speed."),
        Aggregate("message_count", "count", "speed_mph", "Readings in the window."),
        Aggregate("min_speed", "minimum", "speed_mph", "Lowest speed."),
        Aggregate("max_speed", "maximum", "speed_mph", "Highest speed."),
        Aggregate(
            "p85_speed", "percentile_85", "speed_mph", "85th percentile speed, interpolated between readings."
        ),
        Aggregate("missing_count", "missing_count", "speed_mph", "Readings whose speed counts as missing."),
    ),
)
