"""The metrics of a running job, collected when Prometheus asks; see `schemas.metrics`."""

from __future__ import annotations

import itertools
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from schemas import metrics
from schemas.feed import Feed
from schemas.metrics import METRICS
from transforms.counters import MICROS, SENSOR_BITS, decode
from transforms.health import complaints, share

Labels = tuple[str, ...]
Figures = Mapping[str, Mapping[Labels, float]]
"""By the name of a counter, gauge or metric: the values of its labels, and the figure."""

THROUGHPUT_SECONDS = 1.0
NEVER_YET = {"late": ["allowed", "too_late"], "panes": ["on_time", "early", "late"]}


class JobMetrics(Collector):
    """What `read` gives by encoded name (`transforms.counters`), and what `observers` see, as metrics.

    An observer is given those figures, and returns others by the name of their metric. `reasons` are the
    (stage, reason) of dead letters that can be told beforehand: Prometheus takes no note of the first value
    of a series that was not there before, and so would miss a burst.
    """

    def __init__(
        self,
        feed: Feed,
        window_seconds: int,
        read: Callable[[], Mapping[str, int]],
        reasons: Iterable[Labels],
        observers: Iterable[Callable[[Figures], Figures]] = (),
    ) -> None:
        self.feed, self.window_seconds, self.read = feed, window_seconds, read
        self.zeros: dict[str, dict[Labels, float]] = {
            "dead_letters": dict.fromkeys(reasons, 0),
            **{name: {(label,): 0 for label in labels} for name, labels in NEVER_YET.items()},
        }
        self.observers = (self._rate, self._event_times, self._sensors, self._health, *observers)
        self._lock = threading.Lock()
        self._last = (time.monotonic(), 0.0)
        self._throughput = 0.0
        self._most_sensors = 0.0

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            counted = by_name(self.read())
            seen: dict[str, Mapping[Labels, float]] = {}
            for observe in self.observers:
                for name, values in observe(counted).items():
                    seen[name] = {**seen.get(name, {}), **values}
        for metric in METRICS:
            if metric.kind == "histogram":
                yield self._histogram(metric, counted)
                continue
            family = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}[metric.kind](
                metric.full_name, metric.help, labels=["feed", *metric.labels]
            )
            for labels, value in self._values(metric, counted, seen).items():
                family.add_metric([self.feed.name, *labels], value)
            yield family

    def _values(self, metric: metrics.Metric, counted: Figures, seen: Figures) -> Mapping[Labels, float]:
        zeros = self.zeros.get(metric.of or "", {})
        if metric.of and metric.kind == "counter" and not metric.labels:
            zeros = {(): 0}
        return {**zeros, **counted.get(metric.of or "", {}), **seen.get(metric.name, {})}

    def _histogram(self, metric: metrics.Metric, counted: Figures) -> Metric:
        assert metric.of
        family = HistogramMetricFamily(metric.full_name, metric.help, labels=["feed", *metric.labels])
        observations: dict[Labels, dict[int, float]] = defaultdict(dict)
        for (*labels, bucket), number in counted.get(metric.of, {}).items():
            observations[tuple(labels)][int(bucket)] = number
        bounds = [*map(str, metric.buckets), "+Inf"]
        for key, numbers in observations.items():
            totals = itertools.accumulate(numbers.get(place, 0) for place in range(len(bounds)))
            seconds = counted.get(f"{metric.of}_sum", {}).get(key, 0) / MICROS
            family.add_metric([self.feed.name, *key], list(zip(bounds, totals, strict=True)), seconds)
        return family

    def _rate(self, counted: Figures) -> Figures:
        """Of the time since the last scrape, or for scrapes close together since the one before."""
        records = counted.get("read", {}).get((), 0)
        now, (then, before) = time.monotonic(), self._last
        if now - then >= THROUGHPUT_SECONDS:
            self._throughput = max(records - before, 0) / (now - then)
            self._last = (now, records)
        return {"throughput_records_per_second": {(): self._throughput}}

    def _event_times(self, counted: Figures) -> Figures:
        now = time.time()
        watermarks = _seconds(counted.get("watermark", {}))
        newest = _seconds(counted.get("newest_event", {}))
        return {
            "watermark_timestamp_seconds": watermarks,
            "watermark_lag_seconds": {place: now - seconds for place, seconds in watermarks.items()},
            "newest_event_timestamp_seconds": newest,
            "freshness_seconds": {place: now - seconds for place, seconds in newest.items()},
        }

    def _sensors(self, counted: Figures) -> Figures:
        """Of all shards whose newest window is the newest of all, or the one before: they close in turn."""
        shards = [divmod(int(figure), 1 << SENSOR_BITS) for figure in counted.get("sensors", {}).values()]
        if not shards:
            return {}
        newest = max(window for window, _ in shards)
        reporting = sum(number for window, number in shards if window >= newest - self.window_seconds)
        self._most_sensors = max(self._most_sensors, reporting)
        known = self.feed.field(self.feed.key).known
        total = len(known) if known else self._most_sensors
        return {
            "sensors_reporting": {(): reporting},
            "sensors_known": {(): total},
            "completeness_ratio": {(): reporting / total},
        }

    def _health(self, counted: Figures) -> Figures:
        refused, quality = shares(counted)
        seen = {"error_ratio": refused, "quality_score_ratio": quality}
        if self.feed.health:
            seen["unhealthy"] = float(any(complaints(self.feed.health, refused, quality)))
        return {name: {(): figure} for name, figure in seen.items() if figure is not None}


def by_name(figures: Mapping[str, int]) -> Figures:
    """The figures by the names and labels that they were encoded from."""
    named: dict[str, dict[Labels, float]] = defaultdict(dict)
    for encoded, value in figures.items():
        name, *labels = decode(encoded)
        named[name][tuple(labels)] = value
    return named


def _seconds(micros: Mapping[Labels, float]) -> Mapping[Labels, float]:
    return {labels: value / MICROS for labels, value in micros.items()}


def shares(counted: Figures) -> tuple[float | None, float | None]:
    """(records refused among those read, mean quality score), None where there is nothing to share."""
    totals = {name: sum(values.values()) for name, values in counted.items()}
    refused = share(totals.get("dead_letters", 0), totals.get("read", 0))
    return refused, share(totals.get("usable", 0), totals.get("measured", 0))
