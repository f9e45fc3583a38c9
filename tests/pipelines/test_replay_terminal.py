"""The replay as a person at a terminal, a monitor, and a slow broker meet it."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from runners.local import KafkaBroker
from runners.local.ports import free_ports
from runners.local.waiting import wait_until
from tests.monitoring import promtool, scrape
from tests.pipelines.test_replay import ROOT, Replay, account, readings

WIDE = {**os.environ, "COLUMNS": "200", "TERM": "xterm"}


@pytest.fixture
def replay(kafka: KafkaBroker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Replay:
    return Replay(kafka, tmp_path, capsys)


def test_a_terminal_shows_what_is_sent_acked_failed_and_pending(
    replay: Replay, topic: str, tmp_path: Path
) -> None:
    master, terminal = pty.openpty()
    command = replay.arguments(topic, readings(tmp_path / "a.csv", 1_000), rate=500)
    with subprocess.Popen(
        [sys.executable, "-m", "pipelines.replay", *command],
        cwd=ROOT,
        env=WIDE,
        stdout=subprocess.PIPE,
        stderr=terminal,
        text=True,
    ) as process:
        os.close(terminal)
        shown = b""
        with contextlib.suppress(OSError):  # the terminal is gone with the process
            while piece := os.read(master, 1 << 16):
                shown += piece
        out = process.communicate(timeout=60)[0]
    os.close(master)
    assert account(out)["acked"] == 1_000
    for name in ("sent", "acked", "failed", "pending", "msg/s"):
        assert name.encode() in shown


def test_a_reader_of_the_output_may_leave(tmp_path: Path) -> None:
    file = readings(tmp_path / "a.csv", 100_000)
    dry_run = [sys.executable, "-m", "pipelines.replay", "traffic", "--dry_run", "--input", str(file)]
    with subprocess.Popen(
        dry_run, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout and process.stderr
        assert process.stdout.readline().startswith("message")
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


@pytest.mark.parametrize("module", ["pipelines.replay", "pipelines.traffic"])
def test_a_mistyped_option_is_told_the_right_one(module: str, tmp_path: Path) -> None:
    feed = ["traffic"] if module == "pipelines.replay" else []
    command = [*feed, "--input", "a.csv", "--toppic", "t"]
    run = subprocess.run(
        [sys.executable, "-m", module, *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    said = "error: unknown option --toppic; did you mean --topic?\n"
    assert (run.returncode, run.stderr) == (2, said)


def test_promtool_finds_no_fault_with_the_metrics(replay: Replay, topic: str, tmp_path: Path) -> None:
    port = next(free_ports())
    file = readings(tmp_path / "a.csv", 100_000)
    process = replay.start(topic, file, rate=1_000, metrics_port=port, inject="duplicate=0.1")
    try:
        assert wait_until(lambda: "replay_messages_acked_total" in scrape(port), within=60)
        text = scrape(port)
    finally:
        process.terminate()
        process.communicate(timeout=30)
    promtool("check", "metrics", stdin=text)


def test_while_the_broker_is_away_the_reader_waits_and_memory_stays_flat(
    kafka: KafkaBroker,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    new_topic: Callable[..., str],
) -> None:
    topic, port = new_topic(), next(free_ports())
    file = readings(tmp_path / "a.csv", 1_000_000, sensors=200)
    broker = psutil.Process(kafka.processes[0].pid)
    replay = Replay(kafka, tmp_path, capsys)
    process = replay.start(topic, file, metrics_port=port)
    memory = psutil.Process(process.pid).memory_info
    waited = "replay_backpressure_seconds_total"

    def seconds_waited() -> float:
        lines = [line for line in scrape(port).splitlines() if line.startswith(waited)]
        return float(lines[0].split()[1]) if lines else 0.0

    try:
        assert wait_until(lambda: "replay_messages_acked_total" in scrape(port), within=60)
        broker.suspend()
        before = seconds_waited()
        assert wait_until(lambda: seconds_waited() > before + 1, within=30)
        full = memory().rss
        assert wait_until(lambda: seconds_waited() > before + 4, within=30)
        assert memory().rss < full + (4 << 20)
    finally:
        broker.resume()
        out, err = process.communicate(timeout=120)
    assert (process.returncode, account(out)["acked"]) == (0, 1_000_000), err
