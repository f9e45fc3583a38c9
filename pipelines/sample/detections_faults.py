"""The faults that a sample of detections may have."""

from __future__ import annotations

from pipelines.sample.faults import BrokenRule, Faults, Oddity

COLUMNS = (
    "frame_number",
    "timestamp_sec",
    "u",
    "v",
    "confidence",
    "class_name",
    "vehicle_lat",
    "vehicle_lon",
    "heading",
    "video_name",
    "recording_timestamp",
    "vehicle_id",
    "session_id",
    "detection_id",
)

BROKEN_RULES: tuple[BrokenRule, ...] = (
    ({"vehicle_id": ""}, ("vehicle_id_missing",)),
    ({"vehicle_id": "../../x"}, ("vehicle_id_malformed",)),
    ({"session_id": "a b"}, ("session_id_malformed",)),
    ({"recording_timestamp": ""}, ("timestamp_missing",)),
    ({"recording_timestamp": "2024-02-30T00:00:00Z"}, ("recording_timestamp_unparsable",)),
    ({"timestamp_sec": ""}, ("timestamp_sec_missing",)),
    ({"timestamp_sec": "-1"}, ("timestamp_sec_out_of_range",)),
    ({"frame_number": ""}, ("frame_number_missing",)),
    ({"frame_number": "-1"}, ("frame_number_out_of_range",)),
    ({"frame_number": "7.5"}, ("frame_number_unparsable",)),
    ({"u": "-0.5"}, ("pixel_u_out_of_range",)),
    ({"v": "-1"}, ("pixel_v_out_of_range",)),
    ({"v": "nan"}, ("pixel_v_not_finite",)),
    ({"confidence": "1.01"}, ("confidence_out_of_range",)),
    ({"confidence": "-0.1"}, ("confidence_out_of_range",)),
    ({"confidence": "high"}, ("confidence_unparsable",)),
    ({"class_name": ""}, ("class_name_missing",)),
    ({"class_name": "unicorn_crossing"}, ("class_name_unknown",)),
    ({"vehicle_lat": "90.1"}, ("vehicle_lat_out_of_range",)),
    ({"vehicle_lon": "-180.1"}, ("vehicle_lon_out_of_range",)),
    ({"vehicle_lat": "48N"}, ("vehicle_lat_unparsable",)),
    ({"heading": "360.1"}, ("heading_out_of_range",)),
    ({"heading": "north"}, ("heading_unparsable",)),
    ({"confidence": "2", "heading": "-1"}, ("confidence_out_of_range", "heading_out_of_range")),
)

ODDITIES: tuple[Oddity, ...] = (
    ("quoted class", "class_name", lambda value: b'"' + value + b'"'),
    ("comma in a quoted name", "video_name", lambda value: b'"' + value + b', Munich"'),
    ("name beyond ASCII", "video_name", lambda value: value + " Straße".encode()),
    ("no heading", "heading", lambda value: b""),
    ("no video", "video_name", lambda value: b""),
    ("heading of 360", "heading", lambda value: b"360"),
    ("confidence of 1", "confidence", lambda value: b"1"),
    ("pixel at the edge", "u", lambda value: b"0"),
)

DETECTIONS_FAULTS = Faults(
    columns=COLUMNS,
    broken_rules=BROKEN_RULES,
    oddities=ODDITIES,
    duplicates=(("exact copy", {}), ("different confidence", {"confidence": ("0.333", "0.444")})),
    text="video_name",
)
