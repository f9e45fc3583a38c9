"""The metrics of a running job, as data: what is served, shown, alerted on and documented."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PREFIX = "stream_processor_"
STEP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
LATENCY_SECONDS = (0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 86_400.0)
STEPS = ("decode", "validate", "deduplicate", "aggregate", "write")


@dataclass(frozen=True)
class Metric:
    """One metric. Each also has the label `feed`; `labels` are the further ones, of few values each.

    `of` names the counter or gauge of the steps (`transforms.counters`) that it serves; without it the
    launcher finds the figure itself. The upper bounds of a histogram's `buckets` are inclusive.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    of: str | None = None
    buckets: tuple[float, ...] = ()

    @property
    def full_name(self) -> str:
        """The name that Prometheus sees."""
        return f"{PREFIX}{self.name}"

    @property
    def series(self) -> tuple[str, ...]:
        """The names of its time series."""
        endings = ("_bucket", "_sum", "_count") if self.kind == "histogram" else ("",)
        return tuple(f"{self.full_name}{ending}" for ending in endings)


def _counter(name: str, of: str | None, help: str, *labels: str) -> Metric:
    return Metric(f"{name}_total", "counter", help, labels, of)


def _gauge(name: str, of: str | None, help: str, *labels: str) -> Metric:
    return Metric(name, "gauge", help, labels, of)


METRICS = (
    _counter(
        "records_read",
        "read",
        "Records read, good or bad. Like all counters of records it may count twice what a runner repeats "
        "after a failure; the accounts, which come from what was written, are exact.",
    ),
    _counter("read_bytes", "bytes", "Bytes of the records read."),
    _counter(
        "records_accepted", "accepted", "Readings accepted, without duplicates, as their windows emit them."
    ),
    _counter("duplicates", "duplicates", "Readings left out because one of the same key came before."),
    _counter("dead_letters", "dead_letters", "Records refused.", "stage", "reason"),
    _counter(
        "late_records",
        "late",
        "Readings that came after their window was out: allowed, or too_late and so dead letters.",
        "outcome",
    ),
    _counter("windows_emitted", "windows", "Windows that have closed; of a stream, in each shard."),
    _counter("panes_emitted", "panes", "Results of windows: on_time, early, late.", "timing"),
    Metric(
        "end_to_end_latency_seconds",
        "histogram",
        "Of a pane: from the event time of its newest reading, or the time that the broker gave its newest "
        "message, to its emission.",
        ("since",),
        "latency",
        LATENCY_SECONDS,
    ),
    Metric(
        "batch_processing_seconds",
        "histogram",
        f"Time that a step takes for one batch of records: {', '.join(STEPS)}.",
        ("step",),
        "batch",
        STEP_SECONDS,
    ),
    _counter("files_written", "files_written", "Files written or brought up to date."),
    _counter("written_bytes", "bytes_written", "Bytes of the files written."),
    _counter("retries", "retries", "Done again after a failure: job_restart, kafka_request.", "operation"),
    _gauge("throughput_records_per_second", None, "Records read per second between the last two scrapes."),
    _gauge(
        "consumer_lag_records",
        None,
        "Records from where the job stands to the broker's end of the partition.",
        "topic",
        "partition",
    ),
    _gauge("partition_end_offset", None, "The broker's end of the partition.", "topic", "partition"),
    _gauge(
        "watermark_timestamp_seconds",
        "watermark",
        "Event time up to which a partition is read.",
        "topic",
        "partition",
    ),
    _gauge("watermark_lag_seconds", None, "From a partition's watermark to now.", "topic", "partition"),
    _gauge("newest_event_timestamp_seconds", "newest_event", "Newest event time accepted."),
    _gauge("freshness_seconds", None, "From the newest event time accepted to now."),
    _gauge("sensors_reporting", None, "Sensors with a reading in the last window that closed."),
    _gauge(
        "sensors_known", None, "Sensors of --sensors, else the most that reported in one window of this run."
    ),
    _gauge("completeness_ratio", None, "Sensors reporting in the last window among those known."),
    _counter(
        "measured_values",
        "measured",
        "Values that accepted readings should have; feeds with a quality score.",
    ),
    _counter("usable_values", "usable", "Those of them that were observed and broke no rule."),
    _counter("missing_values", "missing_fields", "Measured values that were not there.", "field"),
    _counter("out_of_range_values", "out_of_range_fields", "Measured values that broke a rule.", "field"),
    _gauge("error_ratio", None, "Records refused among those read, in this run."),
    _gauge("unhealthy", None, "Whether the run breaks a limit that its feed declares: 1 or 0."),
    _gauge("quality_score_ratio", None, "Mean quality score of the run: usable values among measured ones."),
    _gauge(
        "worker_memory_peak_bytes", "worker_memory", "Most that a Python worker which reads has had resident."
    ),
    _gauge("task_manager_memory_bytes", None, "Heap and other JVM memory of all TaskManagers of Flink."),
    _gauge("state_bytes", None, "Size of the last completed checkpoint."),
    _gauge("checkpoint_duration_seconds", None, "Time that the last completed checkpoint took."),
    _gauge("last_checkpoint_timestamp_seconds", None, "When the last completed checkpoint was triggered."),
    _counter("checkpoints", None, "Checkpoints: completed, failed.", "outcome"),
    _gauge("reachable", None, "Whether the broker or Flink answered at this scrape: 1 or 0.", "service"),
)
BY_COUNTER = {metric.of: metric for metric in METRICS if metric.of}
