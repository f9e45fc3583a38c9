"""What the steps count while they work: as Beam metrics, which add up over workers, and in this process.

Beam's metrics have no labels: those of `schemas.metrics` stand in the metric's name, see `encode`. A
runner that works in the launcher's own process shows Beam's figures at the end only, ours while it runs.
"""

from __future__ import annotations

import contextlib
import string
import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.metrics import Metrics
from apache_beam.metrics.metric import MetricsFilter
from apache_beam.runners.runner import PipelineResult

from schemas.feed import Feed
from schemas.metrics import BY_COUNTER
from transforms.accounts import Accounts

NAMESPACE = "readings"
SAFE = frozenset(f"{string.ascii_letters}{string.digits}_".encode())
MICROS = 1_000_000
SENSOR_BITS = 20

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


class Live:
    """The figures of this process, by encoded name."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._gauges: dict[str, int] = {}

    def add(self, counts: Mapping[str, int]) -> None:
        with self._lock:
            self._counts.update(counts)

    def raise_to(self, name: str, value: int) -> int:
        with self._lock:
            self._gauges[name] = max(value, self._gauges.get(name, value))
            return self._gauges[name]

    def count(self, name: str) -> int:
        return self._counts[name]

    def figures(self) -> dict[str, int]:
        """All of them, as they are now."""
        with self._lock:
            return {**self._counts, **self._gauges}

    def reset(self) -> None:
        with self._lock:
            self._counts.clear()
            self._gauges.clear()


live = Live()


def encode(name: str, *labels: str) -> str:
    """One name of the counter and the values of its labels, of letters, digits, `_`, `-` and `%` only.

    >>> encode("dead_letters", "validate", "no-such.rule"), decode("dead_letters-validate-no%2Dsuch%2Erule")
    ('dead_letters-validate-no%2Dsuch%2Erule', ('dead_letters', 'validate', 'no-such.rule'))
    """
    return "-".join(
        "".join(chr(byte) if byte in SAFE else f"%{byte:02X}" for byte in part.encode())
        for part in (name, *labels)
    )


def decode(encoded: str) -> tuple[str, ...]:
    """The counter and the values of its labels, from the one name."""
    return tuple(unquote(part) for part in encoded.split("-"))


def add(**amounts: int) -> None:
    """Adds to the counters of those names; a runner that repeats a bundle may count it twice."""
    _add(amounts)


def add_to(name: str, amounts: Mapping[tuple[str, ...], int]) -> None:
    """Adds to a counter with labels: their values -> how much."""
    _add({encode(name, *labels): amount for labels, amount in amounts.items()})


def add_dead_letters(letters: pa.RecordBatch) -> None:
    """Counts dead letters by stage and reason."""
    if letters.num_rows:
        by_cause = pa.table(letters.select(["stage", "reason"])).group_by(["stage", "reason"])
        causes = by_cause.aggregate([([], "count_all")]).to_pylist()
        add_to("dead_letters", {(each["stage"], each["reason"]): each["count_all"] for each in causes})


def add_accounts(accounts: Accounts) -> None:
    """Counts what a step of a batch has written."""
    figures = ("accepted", "windows", "measured", "usable")
    add(**{name: getattr(accounts, name) for name in figures})
    add_to("panes", {("on_time",): accounts.windows})
    for name in ("missing_fields", "out_of_range_fields"):
        add_to(name, {(field,): values for field, values in getattr(accounts, name).items()})


def observe(name: str, seconds: float, *labels: str) -> None:
    """Adds one observation to a histogram: to the counter of its bucket, and to its sum in microseconds."""
    bucket = bisect_left(BY_COUNTER[name].buckets, seconds)
    _add({encode(name, *labels, str(bucket)): 1, encode(f"{name}_sum", *labels): round(seconds * MICROS)})


@contextlib.contextmanager
def timed(step: str) -> Iterator[None]:
    """Observes how long the block takes: that step for one batch."""
    started = time.perf_counter()
    yield
    observe("batch", time.perf_counter() - started, step)


def gauge(name: str, value: int, *labels: str) -> None:
    """Raises a figure that only grows, such as a watermark."""
    encoded = encode(name, *labels)
    Metrics.gauge(NAMESPACE, encoded).set(live.raise_to(encoded, value))


def newest_event(readings: pa.RecordBatch, feed: Feed) -> None:
    """Notes the newest event time of accepted readings."""
    if readings.num_rows:
        gauge("newest_event", pc.max(readings[feed.event_time]).value)


def sensors_reporting(aggregates: pa.RecordBatch, key: str, shard: int = 0) -> None:
    """Notes how many sensors the newest window of the aggregates has; `key` is their column.

    Window and number are one figure, so that they cannot come apart on their way through a runner: the
    window's start in seconds, shifted, and the number.
    """
    if aggregates.num_rows:
        starts = aggregates["window_start"]
        newest = pc.max(starts)
        sensors = len(aggregates[key].filter(pc.equal(starts, newest)).unique())
        gauge("sensors", (newest.value // MICROS << SENSOR_BITS) + sensors, str(shard))


def _add(amounts: Mapping[str, int]) -> None:
    live.add(amounts)
    for name, amount in amounts.items():
        if amount:
            Metrics.counter(NAMESPACE, name).inc(amount)


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
