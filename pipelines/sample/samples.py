"""The samples that there are, one a feed, and what a job needs to run on each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from pipelines.sample import air_quality, detections, traffic


@dataclass(frozen=True)
class Sample:
    """A feed's simulated files: FEED.csv, and FEED.manifest.json that says what was planted in it.

    `write(folder, start=…, days=…, seed=…, faults_of_each_kind=…, …)` writes them and returns the manifest.
    `sizes` are its further whole-number options, each with its default and what it is. `of` says whose
    readings they are. A job that runs on the file needs the options `run`: a text is a file beside it.
    """

    write: Callable[..., dict[str, Any]]
    of: str
    start: date
    days: int = 1
    sizes: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    run: Mapping[str, str | int] = field(default_factory=dict)


SAMPLES = {
    "traffic": Sample(
        write=traffic.write_sample,
        of="loop detectors on the freeways of Los Angeles",
        start=date(2012, 3, 1),
        sizes={"sensors": (207, "number of sensors"), "step_seconds": (30, "seconds between readings")},
        run={"sensors": "traffic.sensors.csv", "max_future_seconds": 86_400},
    ),
    "detections": Sample(
        write=detections.write_sample,
        of="traffic signs that the cameras of driving cars see",
        start=date(2024, 5, 1),
        sizes={"vehicles": (3, "number of vehicles")},
    ),
    "air_quality": Sample(
        write=air_quality.write_sample,
        of="a multisensor device at a street, hour by hour",
        start=date(2004, 3, 10),
        days=91,
        sizes={"stations": (1, "number of stations")},
    ),
}
