"""Traffic signs that a detector sees in the video of a dashcam, one row per sign and frame.

A file tells the time within its video. With the time at which the recording began, in its own column
`recording_timestamp` or as that field's default, a detection has an event time. The only position is the
vehicle's: that of a sign is where the vehicle was when it saw it, which is up to some 50 m before the sign.

The classes are the 43 of the German Traffic Sign Recognition Benchmark, under names of this project: J.
Stallkamp, M. Schlipsing, J. Salmen, C. Igel, "Man vs. computer: Benchmarking machine learning algorithms for
traffic sign recognition", Neural Networks 32 (2012). A detector that knows others comes with a file of them.
"""

from typing import Any

import pyarrow as pa

from schemas.feed import TEXT, TIMESTAMP, Aggregate, Cell, Elapsed, Feed, Field, Sessions, SessionTable

NAME = r"[A-Za-z0-9_.:-]{1,64}"
CLASSES = frozenset(
    (
        "speed_limit_20",
        "speed_limit_30",
        "speed_limit_50",
        "speed_limit_60",
        "speed_limit_70",
        "speed_limit_80",
        "end_of_speed_limit_80",
        "speed_limit_100",
        "speed_limit_120",
        "no_overtaking",
        "no_overtaking_by_trucks",
        "priority_at_next_intersection",
        "priority_road",
        "yield",
        "stop",
        "no_vehicles",
        "no_trucks",
        "no_entry",
        "danger",
        "bend_left",
        "bend_right",
        "double_bend",
        "uneven_road",
        "slippery_road",
        "road_narrows_right",
        "roadworks",
        "traffic_signals",
        "pedestrians",
        "children",
        "bicycles",
        "snow",
        "wild_animals",
        "end_of_restrictions",
        "turn_right_ahead",
        "turn_left_ahead",
        "ahead_only",
        "ahead_or_right",
        "ahead_or_left",
        "keep_right",
        "keep_left",
        "roundabout",
        "end_of_no_overtaking",
        "end_of_no_overtaking_by_trucks",
    )
)
FRAME = ("session_id", "video_name", "frame_number")
POSITION = ("vehicle_lat", "vehicle_lon")
COUNT = Aggregate("message_count", "count", "confidence", "Detections.")
FRAMES = Aggregate("frames", "distinct_count", FRAME, "Distinct frames.", unit="frames")
AVG_CONFIDENCE = Aggregate("avg_confidence", "mean", "confidence", "Mean confidence.")
MAX_CONFIDENCE = Aggregate("max_confidence", "maximum", "confidence", "Highest confidence.")
TRACK = Aggregate("track_length", "track_length", POSITION, "Way of the vehicle between them.", unit="m")


def _pixels(name: str, description: str, **rules: Any) -> Field:
    return Field(name, pa.float64(), description, unit="pixels", **rules)


DETECTIONS = Feed(
    name="detections",
    description="Traffic signs seen by vehicles' cameras, one row per sign and video frame.",
    key="vehicle_id",
    event_time="timestamp",
    identifier="detection_id",
    ingestion_time="ingested_at",
    distinct=("detection_id",),
    fields=(
        Field("vehicle_id", TEXT, "The vehicle.", required=True, pattern=NAME, option="vehicle"),
        Field(
            "session_id",
            TEXT,
            "The drive, or the run of the detector.",
            required=True,
            pattern=NAME,
            option="session",
        ),
        Field(
            "timestamp",
            TIMESTAMP,
            "When the frame was taken.",
            required=True,
            made_of=Elapsed(start="recording_timestamp", seconds="timestamp_sec"),
        ),
        Field("frame_number", pa.int64(), "The frame in its video.", required=True, minimum=0),
        Field("timestamp_sec", pa.float64(), "Time in the video.", unit="s", required=True, minimum=0),
        _pixels("pixel_u", "The sign's column in the frame.", required=True, minimum=0, column="u"),
        _pixels("pixel_v", "The sign's row in the frame.", required=True, minimum=0, column="v"),
        Field("confidence", pa.float64(), "The detector's confidence.", required=True, minimum=0, maximum=1),
        Field(
            "class_name",
            TEXT,
            "The kind of sign.",
            required=True,
            known=CLASSES,
            known_option="classes",
        ),
        Field(
            "vehicle_lat",
            pa.float64(),
            "The vehicle's latitude, WGS 84.",
            unit="degrees",
            required=True,
            minimum=-90,
            maximum=90,
        ),
        Field(
            "vehicle_lon",
            pa.float64(),
            "The vehicle's longitude, WGS 84.",
            unit="degrees",
            required=True,
            minimum=-180,
            maximum=180,
        ),
        Field(
            "heading",
            pa.float64(),
            "The vehicle's course, clockwise from north.",
            unit="degrees",
            minimum=0,
            maximum=360,
        ),
        Field("video_name", TEXT, "The video."),
        Field("recording_timestamp", TIMESTAMP, "When the recording began.", option="session_start"),
        # a box may reach beyond the frame
        _pixels("bbox_x1", "Left edge of the sign."),
        _pixels("bbox_y1", "Upper edge of the sign."),
        _pixels("bbox_x2", "Right edge of the sign."),
        _pixels("bbox_y2", "Lower edge of the sign."),
        Field(
            "detection_id", pa.string(), "Identifies the detection; a UUID of its file and row unless given."
        ),
        Field("ingested_at", TIMESTAMP, "When the message was made."),
    ),
    per=("class_name",),
    aggregates=(COUNT, AVG_CONFIDENCE, MAX_CONFIDENCE, FRAMES, TRACK),
    sessions=Sessions(
        gap_seconds=600,
        tables=(
            SessionTable(
                "sessions",
                "Drives: a vehicle's detections with less than 10 minutes between one and the next.",
                (
                    COUNT,
                    FRAMES,
                    Aggregate("classes", "distinct_count", "class_name", "Kinds of sign.", unit="classes"),
                    AVG_CONFIDENCE,
                    MAX_CONFIDENCE,
                    TRACK,
                ),
            ),
            SessionTable(
                "signs",
                "Signs: the detections of one class from one place in one session.",
                (
                    COUNT,
                    Aggregate("first_seen", "first", "timestamp", "When it was first seen."),
                    Aggregate("last_seen", "last", "timestamp", "When it was last seen."),
                    Aggregate("mean_lat", "mean", "vehicle_lat", "Mean latitude of the vehicle, WGS 84."),
                    Aggregate(
                        "mean_lon", "mean_longitude", "vehicle_lon", "Mean longitude of the vehicle, WGS 84."
                    ),
                    AVG_CONFIDENCE,
                    MAX_CONFIDENCE,
                    Aggregate(
                        "best_frame", "at_highest", ("frame_number", "confidence"), "The most confident one."
                    ),
                    Aggregate("best_video", "at_highest", ("video_name", "confidence"), "Its video."),
                    Aggregate("best_session", "at_highest", ("session_id", "confidence"), "Its session_id."),
                ),
                per=("class_name",),
                cell=Cell("cell", *POSITION, resolution=10),
            ),
        ),
    ),
)
