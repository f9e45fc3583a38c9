"""The simulated files that a job runs on when it is told of no others."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from pipelines.sample.samples import SAMPLES
from schemas.feed import Feed

SAMPLE = "sample"

log = logging.getLogger(__name__)


def with_sample(options: argparse.Namespace, feed: Feed) -> tuple[argparse.Namespace, str | None]:
    """The options completed for a run on the feed's simulated files, and the path of their manifest.

    What only an option makes a fault, such as an unknown sensor, is planted in them too: they come with
    those options. A person may set these and other rules otherwise: no manifest says what is found then.
    """
    sample = SAMPLES[feed.name]
    manifest = Path(SAMPLE, f"{feed.name}.manifest.json")
    if not manifest.exists():
        log.info("no --input: simulating readings of %s into %s/", sample.of, SAMPLE)
        sample.write(SAMPLE)
    own = {
        name: str(Path(SAMPLE, value)) if isinstance(value, str) else value
        for name, value in sample.run.items()
        if getattr(options, name) is None
    }
    log.info("no --input: running on the simulated sample%s", "".join(f", --{o}={v}" for o, v in own.items()))
    as_planted = str(manifest) if _has_usual_rules(options, feed) else None
    completed = {**own, "input": [str(Path(SAMPLE, f"{feed.name}.csv"))]}
    return argparse.Namespace(**vars(options) | completed), as_planted


def _has_usual_rules(options: argparse.Namespace, feed: Feed) -> bool:
    known = [field.known_option for field in feed.fields if field.known_option]
    given = (getattr(options, name) for name in ("max_future_seconds", "max_age_seconds", *known))
    return not options.bounds and options.timezone == "UTC" and not any(each is not None for each in given)
