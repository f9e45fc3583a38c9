"""The metrics of a job on Flink: the figures of its workers, added up, and what Flink says of the job."""

from __future__ import annotations

from collections import Counter

import requests

from pipelines.metrics import Figures, Labels
from runners.flink_job import FlinkJob
from schemas.metrics import METRICS
from transforms.counters import NAMESPACE, decode

GAUGES = {metric.of for metric in METRICS if metric.kind == "gauge" and metric.of} | {"sensors"}


class FlinkFigures:
    """Reads the figures of a job; its counters never fall when Flink starts the job's workers again.

    Flink begins them at 0 then: what a worker had counted before is kept here, as long as the launcher lives.
    """

    def __init__(self, job: FlinkJob) -> None:
        self.job = job
        self.reachable = False
        self._last: dict[tuple[str, str], int] = {}
        self._counts: Counter[str] = Counter()

    def read(self) -> dict[str, int]:
        """The figures by encoded name; the last ones known when Flink does not answer."""
        try:
            figures = self.job.counters(NAMESPACE)
            self.reachable = True
        except requests.RequestException:
            figures, self.reachable = {}, False
        for (part, name), value in figures.items():
            if decode(name)[0] in GAUGES:
                self._counts[name] = max(value, self._counts[name])
                continue
            last = self._last.get((part, name), 0)
            self._counts[name] += value - last if value >= last else value
            self._last[part, name] = value
        return dict(self._counts)

    def observe(self, _: Figures) -> Figures:
        """What Flink says of the job itself."""
        if not self.reachable:
            return {"reachable": {("flink",): 0}}
        try:
            return {**self._checkpoints(), **self._job(), "reachable": {("flink",): 1}}
        except requests.RequestException:
            return {"reachable": {("flink",): 0}}

    def _checkpoints(self) -> Figures:
        told = self.job.checkpoints()
        if not told:
            return {}
        outcomes: dict[Labels, float] = {
            (outcome,): told["counts"][outcome] for outcome in ("completed", "failed")
        }
        latest = told["latest"]["completed"]
        if not latest:
            return {"checkpoints_total": outcomes}
        return {
            "checkpoints_total": outcomes,
            "state_bytes": {(): latest["state_size"]},
            "checkpoint_duration_seconds": {(): latest["end_to_end_duration"] / 1000},
            "last_checkpoint_timestamp_seconds": {(): latest["trigger_timestamp"] / 1000},
        }

    def _job(self) -> Figures:
        restarts, memory = self.job.restarts(), self.job.memory()
        return {
            "retries_total": {} if restarts is None else {("job_restart",): restarts},
            "task_manager_memory_bytes": {} if memory is None else {(): memory},
        }
