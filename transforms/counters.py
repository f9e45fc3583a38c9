"""Beam counters of rows that enter and leave each step, and what they say of a step that loses rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from apache_beam.metrics import Metrics
from apache_beam.metrics.metric import MetricsFilter
from apache_beam.runners.runner import PipelineResult

NAMESPACE = "readings"

# (step, what enters it, what leaves it)
STEPS = (
    ("decode", ("read",), ("decoded", "decode_failures")),
    ("validate", ("decoded",), ("validated", "validate_failures")),
    ("group by window", ("validated",), ("grouped",)),
    ("deduplicate", ("grouped",), ("unique", "duplicates")),
    ("write raw", ("unique",), ("accepted",)),
    ("aggregate", ("unique",), ("aggregated",)),
    ("write dead letters", ("decode_failures", "validate_failures"), ("dead_letters",)),
)


def add(**rows: int) -> None:
    """Adds to the counters of those names; a runner that repeats a bundle may count its rows twice."""
    for name, number in rows.items():
        Metrics.counter(NAMESPACE, name).inc(number)


def counted(result: PipelineResult) -> dict[str, int]:
    """The counters of a finished run."""
    metrics = result.metrics().query(MetricsFilter().with_namespace(NAMESPACE))
    return {each.key.metric.name: each.result for each in metrics["counters"]}


def losses(rows: Mapping[str, int]) -> Iterator[str]:
    """A line for each step that more rows enter than leave, or the other way round.

    >>> list(losses({"read": 3, "decoded": 2, "validated": 2, "grouped": 2, "unique": 2, "accepted": 2,
    ...              "aggregated": 2}))
    ['decode: 3 rows in, 2 out']
    """
    for step, entering, leaving in STEPS:
        before = sum(rows.get(name, 0) for name in entering)
        after = sum(rows.get(name, 0) for name in leaving)
        if before != after:
            yield f"{step}: {before:,} rows in, {after:,} out"
