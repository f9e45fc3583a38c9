"""Figures of detections, by window and by session, against slow and obvious oracles."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import apache_beam as beam
import h3
import pyarrow as pa
import pytest
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that
from hypothesis import given, settings
from hypothesis import strategies as st

from runners.options import IN_PROCESS
from schemas.detections import DETECTIONS
from tests.rows import accepted, micros
from transforms.aggregate import aggregate
from transforms.deduplicate import deduplicate
from transforms.sessions import GroupSessions, SummarizeSessions, summarize_sessions
from transforms.windows import split_by_window

SECOND = 1_000_000
NOON = micros("2024-05-01 12:00")
assert DETECTIONS.sessions
GAP = DETECTIONS.sessions.gap_seconds
SESSIONS, SIGNS = DETECTIONS.session_tables

sightings = st.fixed_dictionaries(
    {
        "vehicle_id": st.sampled_from(["car-1", "car-2", "Car-2"]),
        "class_name": st.sampled_from(["stop", "yield"]),
        "session_id": st.sampled_from(["s1", "s2"]),
        "video_name": st.sampled_from([None, "a.mp4"]),
        "seconds": st.integers(-5, 8).map(lambda n: n * 300) | st.sampled_from([599.999999, 600.000001]),
        "frame_number": st.integers(0, 3),
        "confidence": st.sampled_from([0.5, 0.75, 0.9]),
        "vehicle_lat": st.sampled_from([-90.0, 0.0, 48.1, 48.1005, 48.2]),
        "vehicle_lon": st.sampled_from([-180.0, -179.9995, 11.5, 179.9995, 180.0]),
    }
)
several = st.lists(sightings, min_size=1, max_size=14)


def detections(rows: Iterable[dict[str, Any]]) -> pa.RecordBatch:
    """Accepted detections, no two of them with the same identifier, sorted."""
    full = [
        {
            **{"vehicle_id": "car-1", "session_id": "s1", "frame_number": 0, "timestamp_sec": 0.0},
            **{"pixel_u": 1.0, "pixel_v": 1.0, "confidence": 0.9, "class_name": "stop"},
            **{"vehicle_lat": 48.1, "vehicle_lon": 11.5, "detection_id": f"d{place}"},
            **{name: value for name, value in row.items() if name != "seconds"},
            "timestamp": NOON + round(row.get("seconds", 0) * SECOND),
        }
        for place, row in enumerate(rows)
    ]
    return deduplicate(accepted(*full, feed=DETECTIONS), DETECTIONS)[0]


def meters(one: dict, other: dict) -> float:
    """By the chord between two points of the sphere."""
    lat, lon, lat2, lon2 = (
        math.radians(row[name]) for row in (one, other) for name in ("vehicle_lat", "vehicle_lon")
    )
    chord = math.dist(
        (math.cos(lat) * math.cos(lon), math.cos(lat) * math.sin(lon), math.sin(lat)),
        (math.cos(lat2) * math.cos(lon2), math.cos(lat2) * math.sin(lon2), math.sin(lat2)),
    )
    return 2 * 6_371_008.8 * math.asin(min(chord / 2, 1))


def figures(members: Sequence[dict]) -> dict[str, Any]:
    """What all three tables say of some detections in order of time."""
    confidences = [row["confidence"] for row in members]
    return {
        "message_count": len(members),
        "avg_confidence": sum(confidences) / len(members),
        "max_confidence": max(confidences),
        "frames": len({(row["session_id"], row["video_name"], row["frame_number"]) for row in members}),
        "track_length": sum(meters(*pair) for pair in itertools.pairwise(members)),
    }


def assert_same(found: list[dict], expected: list[dict]) -> None:
    assert len(found) == len(expected)
    for row, wanted in zip(found, expected, strict=True):
        for name, value in wanted.items():
            if isinstance(value, float):
                assert row[name] == pytest.approx(value, rel=1e-6, abs=1e-3), name
            else:
                assert row[name] == value, name


def plain(batch: pa.RecordBatch) -> list[dict]:
    """The rows, times in microseconds."""
    columns = [column.view(pa.int64()) if pa.types.is_timestamp(column.type) else column for column in batch]
    return pa.table(columns, names=batch.schema.names).to_pylist()


def by(rows: Iterable[dict], *names: str) -> list[tuple[tuple, list[dict]]]:
    groups = defaultdict(list)
    for row in rows:
        groups[tuple(row[name] for name in names)].append(row)
    return sorted(groups.items())


@settings(deadline=None, max_examples=200)
@given(several, st.sampled_from([300, 420, 3600]))
def test_windows_by_vehicle_and_class_are_those_of_an_oracle(rows: list[dict], seconds: int) -> None:
    readings = detections(rows)
    batch = aggregate(readings, DETECTIONS, seconds)
    batch.validate(full=True)
    assert batch.schema.equals(DETECTIONS.aggregate_schema, check_metadata=True)
    members = [{**row, "window": row["timestamp"] // (seconds * SECOND)} for row in plain(readings)]
    expected = [
        {
            "vehicle_id": vehicle,
            "class_name": name,
            "window_start": window * seconds * SECOND,
            **figures(each),
        }
        for (vehicle, window, name), each in by(members, "vehicle_id", "window", "class_name")
    ]
    assert_same(plain(batch), expected)


def slow_sessions(readings: Iterable[dict]) -> list[list[dict]]:
    sessions: list[list[dict]] = []
    for row in readings:
        last = sessions[-1][-1] if sessions else None
        same = last and last["vehicle_id"] == row["vehicle_id"]
        if last and same and row["timestamp"] - last["timestamp"] < GAP * SECOND:
            sessions[-1].append(row)
        else:
            sessions.append([row])
    return sessions


def slow_signs(session: list[dict]) -> list[dict]:
    located = [
        {**row, "cell": h3.latlng_to_cell(row["vehicle_lat"], row["vehicle_lon"], 10)} for row in session
    ]
    signs = []
    for (name, cell), members in by(located, "class_name", "cell"):
        best = max(members, key=lambda row: row["confidence"])  # the first of them
        east = [(row["vehicle_lon"] - members[0]["vehicle_lon"] + 180) % 360 - 180 for row in members]
        mean_lon = members[0]["vehicle_lon"] + sum(east) / len(members)
        signs.append(
            {
                "class_name": name,
                "cell": cell,
                "first_seen": members[0]["timestamp"],
                "last_seen": members[-1]["timestamp"],
                "mean_lat": sum(row["vehicle_lat"] for row in members) / len(members),
                "mean_lon": (mean_lon + 180) % 360 - 180,
                "best_frame": best["frame_number"],
                "best_video": best["video_name"],
                "best_session": best["session_id"],
                **{name: figures(members)[name] for name in ("message_count", "avg_confidence")},
            }
        )
    return signs


@settings(deadline=None, max_examples=200)
@given(several)
def test_sessions_and_signs_are_those_of_an_oracle(rows: list[dict]) -> None:
    readings = detections(rows)
    sessions, signs = (summarize_sessions(readings, DETECTIONS, table) for table in (SESSIONS, SIGNS))
    expected, expected_signs = [], []
    for session in slow_sessions(plain(readings)):
        window = {
            "vehicle_id": session[0]["vehicle_id"],
            "session_start": session[0]["timestamp"],
            "session_end": session[-1]["timestamp"],
        }
        classes = {row["class_name"] for row in session}
        expected.append({**window, **figures(session), "classes": len(classes)})
        expected_signs += [{**window, **sign} for sign in slow_signs(session)]
    assert_same(plain(sessions), expected)
    found = plain(signs)
    for row, wanted in zip(found, expected_signs, strict=True):  # 180° east is 180° west
        assert abs((row.pop("mean_lon") - wanted.pop("mean_lon") + 180) % 360 - 180) < 1e-6
    assert_same(found, expected_signs)
    for batch, table in ((sessions, SESSIONS), (signs, SIGNS)):
        batch.validate(full=True)
        assert batch.schema.equals(DETECTIONS.session_schema(table), check_metadata=True)


def test_a_gap_ends_a_session_and_less_does_not() -> None:
    readings = detections([{"seconds": 0}, {"seconds": GAP - 1e-6}, {"seconds": 2 * GAP - 1e-6}])
    counts = summarize_sessions(readings, DETECTIONS, SESSIONS)["message_count"].to_pylist()
    assert counts == [2, 1]


def test_no_reading_has_no_session() -> None:
    batch = summarize_sessions(detections([]), DETECTIONS, SIGNS)
    assert batch.num_rows == 0 and batch.schema.equals(DETECTIONS.session_schema(SIGNS))


def test_sessions_in_a_pipeline_are_whole_wherever_the_groups_are_cut() -> None:
    rows = [
        {"vehicle_id": f"car-{n % 5}", "seconds": 43_200 - 3000 + n * 90, "frame_number": n}
        for n in range(100)
    ]
    readings = detections(rows)
    groups = list(split_by_window(readings, 3600))

    def check(days: list[tuple[int, pa.RecordBatch]]) -> None:
        expected = plain(summarize_sessions(readings, DETECTIONS, SESSIONS))
        assert [start - NOON // SECOND for start, _ in sorted(days, key=lambda day: day[0])] == [-43_200]
        assert [row for _, batch in days for row in plain(batch)] == expected
        assert len(expected) == 5

    with TestPipeline(runner=IN_PROCESS) as pipeline:
        whole = pipeline | beam.Create(groups) | GroupSessions(DETECTIONS)
        assert_that(whole | SummarizeSessions(DETECTIONS, SESSIONS), check)
