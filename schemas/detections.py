"""Traffic signs that a detector sees in the video of a dashcam, one row per sign and frame.

A file tells the time within its video. With the time at which the recording began, in its own column
`recording_timestamp` or as that field's default, a detection has an event time.
"""

from typing import Any

import pyarrow as pa

from schemas.feed import TEXT, TIMESTAMP, Aggregate, Elapsed, Feed, Field

NAME = r"[A-Za-z0-9_.:-]{1,64}"


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
        Field("class_name", TEXT, "The kind of sign.", required=True),
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
    aggregates=(
        Aggregate("message_count", "count", "confidence", "Detections in the window."),
        Aggregate("avg_confidence", "mean", "confidence", "Mean confidence."),
        Aggregate("max_confidence", "maximum", "confidence", "Highest confidence."),
    ),
)
