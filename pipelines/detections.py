"""Traffic signs in the videos of dashcams: `python -m pipelines.detections`.

A file tells the time within its video: `--session_start` says when the video began.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pipelines.launch import launch
from schemas.detections import DETECTIONS


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the job; returns its exit status."""
    return launch(DETECTIONS, argv)


if __name__ == "__main__":
    sys.exit(main())
