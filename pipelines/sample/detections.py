"""Simulated drives of vehicles whose cameras see traffic signs.

Nothing here was measured. A vehicle drives through a grid of streets, its speed wavering, and turns at some
crossings. Signs stand beside the street; from some 45 m on the camera has them in view, and the detector
finds them in most of the frames, the more surely the nearer they are. Where a sign is in the picture follows
from where it stands (a pinhole camera), so that pixels, positions, heading and confidence agree.

The same arguments give the same bytes, with the same version of numpy.
"""

from __future__ import annotations

import os
from datetime import date, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.sample.detections_faults import COLUMNS, DETECTIONS_FAULTS
from pipelines.sample.faults import Plantings
from pipelines.sample.files import to_csv, to_json
from schemas.detections import CLASSES
from transforms.local_files import whole_file

FRAMES_A_SECOND, FRAMES_APART = 30, 3
DRIVE_SECONDS = 1_200
DRIVE_HOURS = (7.5, 16.75)
SPEED, SPEED_SPREAD = 11.0, 2.5
"""Metres per second."""
BLOCK = 180.0
SIGNS_APART = 55.0
IN_VIEW = (6.0, 45.0)
"""Metres ahead of the vehicle."""
ASIDE, ABOVE = 3.5, 1.4
"""Metres from the camera to a sign's middle."""
FOCAL_LENGTH, CENTER = 1_000.0, (960.0, 540.0)
"""Pixels."""
PLACE = (48.137, 11.575)
METERS_PER_DEGREE = 111_200.0
DRIVE_STREAM = 3


def simulate_drive(vehicle: int, day: date, drive: int, *, seed: int) -> pa.Table:
    """The detections of one drive under the feed's COLUMNS, frame by frame, near signs before far ones."""
    random = np.random.default_rng([seed, DRIVE_STREAM, vehicle, day.toordinal(), drive])
    frames = np.arange(0, DRIVE_SECONDS * FRAMES_A_SECOND, FRAMES_APART)
    seconds = frames / FRAMES_A_SECOND
    wavering = np.sin(seconds / 40 + random.uniform(0, 6)) * SPEED_SPREAD
    driven = np.cumsum((SPEED + wavering) * FRAMES_APART / FRAMES_A_SECOND)

    blocks = int(driven[-1] // BLOCK) + 2
    turns = random.choice([-90, 0, 90], blocks, p=[0.2, 0.6, 0.2])
    headings = (random.integers(0, 4) * 90 + np.cumsum(turns)) % 360
    north = np.concatenate([[0], np.cumsum(BLOCK * np.cos(np.radians(headings)))])
    east = np.concatenate([[0], np.cumsum(BLOCK * np.sin(np.radians(headings)))])
    corners = np.arange(blocks + 1) * BLOCK
    latitude = PLACE[0] + (np.interp(driven, corners, north) + 700 * vehicle) / METERS_PER_DEGREE
    narrowing = METERS_PER_DEGREE * np.cos(np.radians(PLACE[0]))
    longitude = PLACE[1] + np.interp(driven, corners, east) / narrowing

    signs = np.arange(SIGNS_APART, driven[-1], SIGNS_APART)
    signs += random.uniform(-0.3, 0.3, len(signs)) * SIGNS_APART
    kind = random.integers(0, len(CLASSES), len(signs))
    frame, sign = np.nonzero(
        (signs[None, :] - driven[:, None] > IN_VIEW[0]) & (signs[None, :] - driven[:, None] < IN_VIEW[1])
    )
    ahead = signs[sign] - driven[frame]
    surely = np.clip(1.05 - ahead / 60 + random.normal(0, 0.06, len(ahead)), 0.05, 0.999)
    found = random.random(len(ahead)) < surely
    frame, sign, ahead, surely = frame[found], sign[found], ahead[found], surely[found]

    name = f"car-{vehicle + 1}"
    session = f"{name}-{day.isoformat()}-{drive + 1}"
    rows = len(frame)
    began = np.datetime64(day, "s") + int(DRIVE_HOURS[drive] * 3600)
    columns = {
        "frame_number": frames[frame],
        "timestamp_sec": np.round(seconds[frame], 3),
        "u": np.round(CENTER[0] + FOCAL_LENGTH * ASIDE / ahead, 1),
        "v": np.round(CENTER[1] - FOCAL_LENGTH * ABOVE / ahead, 1),
        "confidence": np.round(surely, 3),
        "class_name": np.array(sorted(CLASSES))[kind[sign]],
        "vehicle_lat": np.round(latitude[frame], 7),
        "vehicle_lon": np.round(longitude[frame], 7),
        "heading": headings[(driven[frame] // BLOCK).astype(int)].astype(float),
        "video_name": np.full(rows, f"{session}.mp4"),
        "recording_timestamp": np.full(rows, f"{began}Z"),
        "vehicle_id": np.full(rows, name),
        "session_id": np.full(rows, session),
        "detection_id": np.char.add(f"{session}-", np.char.zfill(np.arange(rows).astype(str), 6)),
    }
    return pa.table({name: columns[name] for name in COLUMNS})


def write_sample(
    output: str,
    *,
    seed: int = 1,
    start: date = date(2024, 5, 1),
    days: int = 1,
    vehicles: int = 3,
    faults_of_each_kind: int = 3,
) -> dict[str, Any]:
    """Write detections.csv and detections.manifest.json into the directory `output`; returns the manifest.

    Each vehicle drives twice a day. Raises ValueError for fewer than one vehicle or day, a negative seed,
    days beyond the year 9999, or too few rows for the faults; OSError where the files cannot be written.
    """
    if days < 1 or vehicles < 1:
        raise ValueError(f"days and vehicles must be at least 1, not {days} and {vehicles}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, not {seed}")
    try:
        dates = [start + timedelta(days=number) for number in range(days)]
    except OverflowError:
        raise ValueError(f"{days:,} days from {start} go beyond the calendar") from None
    drives = [
        simulate_drive(vehicle, day, drive, seed=seed)
        for day in dates
        for drive in range(len(DRIVE_HOURS))
        for vehicle in range(vehicles)
    ]
    table = pa.concat_tables(drives)
    rows = table.num_rows
    plantings = Plantings.draw(
        DETECTIONS_FAULTS, rows=rows, rows_a_day=rows, copies=faults_of_each_kind, seed=seed
    )
    manifest = {
        "feed": "detections",
        "simulated": "Simulated drives; nothing of it was measured.",
        "seed": seed,
        "start": start.isoformat(),
        "days": days,
        "vehicles": vehicles,
        "rows": rows,
        **plantings.manifest(),
    }
    os.makedirs(output, exist_ok=True)
    with (
        whole_file(os.path.join(output, "detections.manifest.json")) as manifest_file,
        whole_file(os.path.join(output, "detections.csv")) as file,
    ):
        manifest_file.write(to_json(manifest))
        file.write((",".join(COLUMNS) + "\n").encode())
        file.writelines(plantings.planted(to_csv(table), first_row=1))
    return manifest
