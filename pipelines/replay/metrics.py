"""Metrics of a running replay, for Prometheus to scrape."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from pipelines.replay.accounts import ReplayAccounts
from pipelines.replay.delivery import Delivery
from pipelines.replay.latencies import Latencies
from transforms.kafka_statistics import RepeatedRequests

THROUGHPUT_SECONDS = 1.0


class ReplayMetrics(Collector):
    """Collects from the accounts when it is asked; a replay that nobody watches spends nothing on it."""

    def __init__(
        self, accounts: ReplayAccounts, delivery: Delivery, latencies: Latencies, repeated: RepeatedRequests
    ) -> None:
        self.accounts, self.delivery = accounts, delivery
        self.latencies, self.repeated = latencies, repeated
        self._lock = threading.Lock()
        self._last = (time.monotonic(), 0)
        self._throughput = 0.0

    def collect(self) -> Iterator[Metric]:
        accounts = self.accounts
        counters = {
            "rows_read": ("Rows read and accounted for.", accounts.read),
            "messages_sent": ("Messages handed to librdkafka.", accounts.sent),
            "messages_acked": ("Messages that the broker has acknowledged.", accounts.acked),
            "retries": (
                "Requests that were sent again, after an error or a timeout.",
                self.repeated.total,
            ),
            "backpressure_seconds": (
                "Time waited for room in the queue.",
                self.delivery.backpressure_seconds,
            ),
        }
        for name, (description, value) in counters.items():
            yield CounterMetricFamily(f"replay_{name}", description, value=value)
        by_reason = {
            "rows_refused": ("Rows that broke a rule.", accounts.refused),
            "messages_failed": ("Messages that the broker did not take.", accounts.undelivered),
            "messages_injected": ("Faults put in on purpose.", accounts.injected),
        }
        for name, (description, reasons) in by_reason.items():
            family = CounterMetricFamily(f"replay_{name}", description, labels=["reason"])
            for reason, number in list(reasons.items()):
                family.add_metric([reason], number)
            yield family
        yield GaugeMetricFamily("replay_queue_depth", "Messages under way.", value=accounts.pending)
        yield GaugeMetricFamily(
            "replay_throughput_messages_per_second", "Acknowledged of late.", value=self._rate(accounts.acked)
        )
        yield HistogramMetricFamily(
            "replay_send_latency_seconds",
            "From the reading of a row to the broker's acknowledgement.",
            buckets=self.latencies.cumulative(),
            sum_value=self.latencies.sum,
        )

    def _rate(self, acked: int) -> float:
        """Of the time since the last scrape, or for scrapes close together since the one before."""
        with self._lock:
            now, (then, before) = time.monotonic(), self._last
            if now - then >= THROUGHPUT_SECONDS:
                self._throughput, self._last = (acked - before) / (now - then), (now, acked)
            return self._throughput
