"""Figures of detections, by window and by session, against slow and obvious oracles."""

from __future__ import annotations

import itertools
import math
import random
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import h3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.test_stream import TestStream
from apache_beam.testing.util import assert_that
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import Timestamp
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from runners.options import IN_PROCESS
from schemas.detections import DETECTIONS
from schemas.feed import SessionTable
from tests.rows import accepted, micros
from transforms.aggregate import aggregate
from transforms.batches import RecordBatchCoder
from transforms.counters import counted
from transforms.deduplicate import deduplicate
from transforms.merged_files import MergeSessions
from transforms.sessions import (
    GroupBySession,
    GroupSessions,
    SummarizeSessionPanes,
    SummarizeSessions,
    summarize_sessions,
)
from transforms.windows import split_by_window

SUPPORTS_TEST_STREAM = "apache_beam.runners.direct.direct_runner.BundleBasedDirectRunner"
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


def published(root: Path) -> list[dict]:
    """Rows of a stream's sessions as any reader of the folder sees them, in order."""
    files = sorted(root.rglob("*.parquet"))
    batches = [batch for file in files for batch in pq.read_table(file, partitioning=None).to_batches()]
    rows = [row for batch in batches for row in plain(batch)]
    return sorted(rows, key=lambda row: (row["vehicle_id"], row["session_start"]))


def told(stream: TestStream, root: Path, table: SessionTable = SESSIONS) -> dict[str, int]:
    """Writes the sessions of a stream; returns the job's counters."""
    with TestPipeline(runner=SUPPORTS_TEST_STREAM, options=PipelineOptions(streaming=True)) as pipeline:
        _ = (
            pipeline
            | stream
            | GroupBySession(DETECTIONS, 3600)
            | SummarizeSessionPanes(DETECTIONS, table, shards=2)
            | MergeSessions(str(root), "signs", DETECTIONS)
        )
    assert pipeline.result
    return counted(pipeline.result)


def arrival(*minutes: float, vehicle: str = "car-1", start: int = NOON) -> TimestampedValue:
    """Detections of one vehicle in one batch, stamped with the first."""
    batch = detections(
        {"vehicle_id": vehicle, "seconds": (start - NOON) // SECOND + minute * 60, "frame_number": minute}
        for minute in minutes
    )
    return TimestampedValue(batch, Timestamp(micros=batch["timestamp"].view(pa.int64())[0].as_py()))


def at(minute: float, start: int = NOON) -> Timestamp:
    return Timestamp(micros=start + round(minute * 60 * SECOND))


@pytest.mark.parametrize(("late", "sizes"), [((), [4, 2, 1]), ((31,), [7, 1])])
def test_a_late_sighting_makes_two_sessions_one_and_leaves_neither_of_them(
    late: tuple[int, ...], sizes: list[int], tmp_path: Path
) -> None:
    """A drive of 25 minutes in one batch, another 12 minutes later, and then one sighting between the two."""
    stream = TestStream(coder=RecordBatchCoder()).add_elements([arrival(0, 9, 18, 25)])
    stream = stream.add_elements([arrival(37, 40), arrival(20, vehicle="car-2")])
    stream = stream.advance_watermark_to(at(60))
    if late:
        stream = stream.add_elements([arrival(*late)])
    told(stream.advance_watermark_to_infinity(), tmp_path)
    found = published(tmp_path)
    assert [row["message_count"] for row in found] == sizes
    end = 40 if late else 25
    assert (found[0]["session_start"], found[0]["session_end"]) == (NOON, NOON + end * 60 * SECOND)


def test_a_file_of_sessions_is_counted_with_its_bytes(tmp_path: Path) -> None:
    stream = TestStream(coder=RecordBatchCoder()).add_elements([arrival(0, 9)])
    counts = told(stream.advance_watermark_to_infinity(), tmp_path)
    (file,) = tmp_path.rglob("*.parquet")
    assert (counts["files_written"], counts["bytes_written"]) == (1, file.stat().st_size)


@pytest.mark.parametrize(("earlier", "day"), [((), "day=02"), ((-3,), "day=01")])
def test_a_session_that_is_found_to_have_begun_the_day_before_moves_to_that_day(
    earlier: tuple[int, ...], day: str, tmp_path: Path
) -> None:
    midnight = micros("2024-05-02")
    stream = TestStream(coder=RecordBatchCoder()).add_elements([arrival(2, 5, start=midnight)])
    stream = stream.advance_watermark_to(at(30, midnight))
    if earlier:
        stream = stream.add_elements([arrival(*earlier, start=midnight)])
    told(stream.advance_watermark_to_infinity(), tmp_path)
    assert [path.parent.name for path in tmp_path.rglob("*.parquet")] == [day]
    assert [row["message_count"] for row in published(tmp_path)] == [2 + len(earlier)]


@settings(deadline=None, max_examples=8, phases=[Phase.explicit, Phase.generate])
@given(several, st.randoms(use_true_random=False))
def test_in_whatever_order_batches_come_the_stream_ends_with_what_batch_gives(
    rows: list[dict], shuffled: random.Random
) -> None:
    readings = detections(rows)
    batches = [readings.slice(place, 2) for place in range(0, readings.num_rows, 2)]
    shuffled.shuffle(batches)
    stream = TestStream(coder=RecordBatchCoder())
    for batch in batches:
        first = min(batch["timestamp"].view(pa.int64()).to_pylist())
        stream = stream.add_elements([TimestampedValue(batch, Timestamp(micros=first))])
    with tempfile.TemporaryDirectory() as folder:
        told(stream.advance_watermark_to_infinity(), Path(folder), SIGNS)
        found = published(Path(folder))
    expected = plain(summarize_sessions(readings, DETECTIONS, SIGNS))
    for each in (found, expected):
        each.sort(key=lambda row: (row["vehicle_id"], row["session_start"], row["class_name"], row["cell"]))
    assert found == expected
