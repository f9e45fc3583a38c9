"""The simulated files that a job runs on when it is told of no others."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from pipelines.sample.samples import SAMPLES

SAMPLE = "sample"

log = logging.getLogger(__name__)


def with_sample(options: argparse.Namespace, feed: str) -> tuple[argparse.Namespace, str]:
    """The options completed for a run on the feed's simulated files, and the path of their manifest.

    What only an option makes a fault, such as an unknown sensor, is planted in them too: they come with
    those options, which a person may set otherwise.
    """
    sample = SAMPLES[feed]
    manifest = Path(SAMPLE, f"{feed}.manifest.json")
    if not manifest.exists():
        log.info("no --input: simulating readings of %s into %s/", sample.of, SAMPLE)
        sample.write(SAMPLE)
    own = {
        name: str(Path(SAMPLE, value)) if isinstance(value, str) else value
        for name, value in sample.run.items()
        if getattr(options, name) is None
    }
    log.info("no --input: running on the simulated sample%s", "".join(f", --{o}={v}" for o, v in own.items()))
    completed = {**own, "input": [str(Path(SAMPLE, f"{feed}.csv"))]}
    return argparse.Namespace(**vars(options) | completed), str(manifest)
