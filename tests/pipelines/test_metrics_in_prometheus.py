"""One Prometheus that scrapes all that runs: a replay, the batch job on DirectRunner, the stream on Flink."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.sample.traffic import write_sample
from runners.local.ports import free_ports
from runners.local.prometheus import Prometheus
from tests.monitoring import MISSING
from tests.stream_jobs import ROOT, job_on_cluster, wait_for


def run(*command: str, log: Path) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", *command], cwd=ROOT, stdout=log.open("w"))


def test_prometheus_sees_what_is_sent_and_that_all_of_it_is_read(flink_cluster, kafka, new_topic, tmp_path):
    if shutil.which("prometheus") is None:
        pytest.skip(MISSING)
    write_sample(str(tmp_path), sensors=400, step_seconds=60)  # so many that there is time to look
    file, topic = str(tmp_path / "traffic.csv"), new_topic(4)
    ports = dict(zip(("replay", "batch", "stream"), free_ports(), strict=False))

    def flag(name: str) -> str:
        return f"--metrics_port={ports[name]}"

    def seen(name: str, metric: str) -> float:
        """The most that was scraped of it."""
        found = prometheus.query(f'max_over_time({metric}{{instance="127.0.0.1:{ports[name]}"}}[10m])')
        return float(found[0]["value"][1]) if found else 0

    prometheus = Prometheus(
        tmp_path / "prometheus",
        targets=[f"127.0.0.1:{port}" for port in ports.values()],
        scrape_seconds=1,
    )
    source = ["--topic", topic, "--max_future_seconds=86400"]
    with prometheus, job_on_cluster(flink_cluster, kafka, tmp_path / "stream", *source, flag("stream")):
        sent = ["--topic", topic, "--bootstrap_servers", kafka.bootstrap_servers, "--rate=5000"]
        most = ["--max_messages=30000", "--dead_letters", str(tmp_path / "letters")]
        replay = run(
            "pipelines.replay", "traffic", "--input", file, *sent, *most, flag("replay"), log=tmp_path / "r"
        )
        assert replay.wait(120) == 0
        assert 0 < seen("replay", "replay_messages_acked_total") <= 30_000
        read = "stream_processor_records_read_total"
        wait_for(lambda: seen("stream", read) == 30_000, "the stream has read what was sent", 120)
        wait_for(lambda: seen("stream", "stream_processor_task_manager_memory_bytes") > 1e8, "its memory")
        output = tmp_path / "batch"
        batch = run(
            "pipelines.traffic", "--input", file, "--output", str(output), flag("batch"), log=tmp_path / "b"
        )
        assert batch.wait(120) == 0
        assert 0 < seen("batch", read) <= json.loads((output / "summary.json").read_text())["read"]
