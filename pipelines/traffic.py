"""Traffic speeds of loop detectors: `python -m pipelines.traffic`.

In batch, from files (`--input`) or from topics up to their present ends (`--topic`, on DirectRunner), the
graph is that of `pipelines.batch`; as a stream (`--topic`, on any other runner) that of `pipelines.stream`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pipelines.launch import launch
from schemas.traffic import TRAFFIC


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the job; returns its exit status."""
    return launch(TRAFFIC, argv)


if __name__ == "__main__":
    sys.exit(main())
