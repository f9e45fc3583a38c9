"""The faults that a traffic sample may have."""

from __future__ import annotations

from pipelines.sample.faults import BrokenRule, Faults, Oddity

COLUMNS = (
    "sensor_id",
    "timestamp",
    "speed_mph",
    "volume_vph",
    "occupancy_percent",
    "latitude",
    "longitude",
    "road_name",
    "direction",
    "lane_count",
)

BROKEN_RULES: tuple[BrokenRule, ...] = (
    ({"sensor_id": ""}, ("sensor_id_missing",)),
    ({"sensor_id": "../../x"}, ("sensor_id_malformed", "sensor_id_unknown")),
    ({"sensor_id": "s" * 65}, ("sensor_id_malformed", "sensor_id_unknown")),
    ({"sensor_id": "not-installed-1"}, ("sensor_id_unknown",)),
    ({"timestamp": ""}, ("timestamp_missing",)),
    ({"timestamp": "2012-02-30 00:00:00"}, ("timestamp_unparsable",)),
    ({"timestamp": "2012-03-01 25:00:00"}, ("timestamp_unparsable",)),
    ({"timestamp": "yesterday"}, ("timestamp_unparsable",)),
    ({"timestamp": "2112-03-01 00:00:00"}, ("timestamp_in_future",)),
    ({"speed_mph": ""}, ("speed_mph_missing",)),
    ({"speed_mph": "fast"}, ("speed_mph_unparsable",)),
    ({"speed_mph": "nan"}, ("speed_mph_not_finite",)),
    ({"speed_mph": "inf"}, ("speed_mph_not_finite",)),
    ({"speed_mph": "-1.85"}, ("speed_mph_out_of_range",)),
    ({"speed_mph": "250"}, ("speed_mph_out_of_range",)),
    ({"volume_vph": "many"}, ("volume_vph_unparsable",)),
    ({"volume_vph": "nan"}, ("volume_vph_not_finite",)),
    ({"volume_vph": "-120"}, ("volume_vph_out_of_range",)),
    ({"volume_vph": "20001"}, ("volume_vph_out_of_range",)),
    ({"occupancy_percent": "12%"}, ("occupancy_percent_unparsable",)),
    ({"occupancy_percent": "-inf"}, ("occupancy_percent_not_finite",)),
    ({"occupancy_percent": "100.1"}, ("occupancy_percent_out_of_range",)),
    ({"latitude": "34N"}, ("latitude_unparsable",)),
    ({"latitude": "nan"}, ("latitude_not_finite",)),
    ({"latitude": "0"}, ("latitude_out_of_range",)),
    ({"longitude": "118W"}, ("longitude_unparsable",)),
    ({"longitude": "inf"}, ("longitude_not_finite",)),
    ({"longitude": "118.25"}, ("longitude_out_of_range",)),
    ({"lane_count": "four"}, ("lane_count_unparsable",)),
    ({"lane_count": "4.5"}, ("lane_count_unparsable",)),
    (
        {"sensor_id": "", "timestamp": "", "speed_mph": ""},
        ("sensor_id_missing", "timestamp_missing", "speed_mph_missing"),
    ),
    (
        {"speed_mph": "inf", "latitude": "95", "lane_count": "four"},
        ("speed_mph_not_finite", "latitude_out_of_range", "lane_count_unparsable"),
    ),
    (
        {"timestamp": "2112-03-01 00:00:00", "occupancy_percent": "140"},
        ("timestamp_in_future", "occupancy_percent_out_of_range"),
    ),
    (
        {"sensor_id": "not-installed-2", "speed_mph": "250", "volume_vph": "nan"},
        ("sensor_id_unknown", "speed_mph_out_of_range", "volume_vph_not_finite"),
    ),
)

ODDITIES: tuple[Oddity, ...] = (
    ("quoted number", "speed_mph", lambda value: b'"' + value + b'"'),
    ("quoted sensor", "sensor_id", lambda value: b'"' + value + b'"'),
    ("comma in a quoted name", "road_name", lambda value: b'"' + value + b', Los Angeles"'),
    ("doubled quote in a quoted name", "road_name", lambda value: b'"' + value + b' ""the freeway"""'),
    ("name beyond ASCII", "road_name", lambda value: value + " Cañón".encode()),
    ("timestamp with T", "timestamp", lambda value: value.replace(b" ", b"T")),
    ("timestamp with T and Z", "timestamp", lambda value: value.replace(b" ", b"T") + b"Z"),
    ("timestamp with offset", "timestamp", lambda value: value + b"+00:00"),
    ("timestamp with fraction", "timestamp", lambda value: value + b".250"),
    ("timestamp with fraction and Z", "timestamp", lambda value: value.replace(b" ", b"T") + b".000001Z"),
    ("no volume", "volume_vph", lambda value: b""),
    ("no occupancy", "occupancy_percent", lambda value: b""),
    ("no latitude", "latitude", lambda value: b""),
    ("no longitude", "longitude", lambda value: b""),
    ("no road name", "road_name", lambda value: b""),
    ("no direction", "direction", lambda value: b""),
    ("no lane count", "lane_count", lambda value: b""),
)

TRAFFIC_FAULTS = Faults(
    columns=COLUMNS,
    broken_rules=BROKEN_RULES,
    oddities=ODDITIES,
    duplicates=(("exact copy", {}), ("different speed", {"speed_mph": ("33.3", "44.4")})),
    text="road_name",
)
