"""Air quality of a street, hour by hour: `python -m pipelines.air_quality`.

Its file's raw rows are bronze, what `pipelines.batch` accepts of them is silver: values that stand for none,
or that no street has, are null there and named in `nulled`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pipelines.launch import launch
from schemas.air_quality import AIR_QUALITY


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the job; returns its exit status."""
    return launch(AIR_QUALITY, argv)


if __name__ == "__main__":
    sys.exit(main())
