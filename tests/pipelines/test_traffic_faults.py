"""Faults on a real cluster: after each the tables are what DuckDB makes of all that was sent."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from pipelines import traffic
from runners.local import KafkaBroker
from tests.stream_jobs import (
    START,
    assert_final_tables,
    flags,
    job,
    job_on_cluster,
    raw_offsets,
    reading,
    rows,
    running,
    send,
    wait_for,
)


@pytest.fixture
def traffic_topic(kafka: KafkaBroker, new_topic: Callable[..., str]) -> Iterator[tuple[str, list]]:
    """A topic of 4 partitions, and 60,000 readings of two hours to be sent to it, as (partition, value).

    Each sensor is in one partition, out of order by up to 20 s, and one reading in a hundred is sent twice.
    """
    topic = new_topic(4)
    sent = []
    for n in range(60_000):
        sensor, second = n % 40, n // 40 * 5 + (n * 7919) % 20
        value = reading(f"s{sensor:02}", second, 20 + (n * 31) % 60)
        sent += [(sensor % 4, value)] * (2 if n % 100 == 0 else 1)
    yield topic, sent


RESUMED_OTHERWISE = {
    "--shards=8": "--shards 4",
    "--file_seconds=60": "--file_seconds 3600",
    "--window_seconds=60": "--window_seconds 300",
    "--allowed_lateness_seconds=0": "--allowed_lateness_seconds 3600",
    "--topic=other": "--topic test_",
}

CLOSED_SECONDS = 7200
OUTAGE_SECONDS = 15
LAST = [(partition, reading(f"s{partition:02}", 9000 + t)) for partition in range(4) for t in (0, 1)]


def all_windows_are_out(output: Path, sent: list[tuple[int, bytes]]) -> bool:
    """Aggregates and readings: a bundle writes the files of the one before those of the other."""
    aggregates = rows(output, "processed/aggregates", f"epoch(window_start) < {START + CLOSED_SECONDS}")
    readings = rows(output, "raw", f"epoch(timestamp) < {START + CLOSED_SECONDS}")
    values = {value for _, value in sent if json.loads(value)["timestamp"] < (START + CLOSED_SECONDS) * 1000}
    windows = CLOSED_SECONDS // 300 * 40
    return (sum(row[0] for row in aggregates), sum(row[0] for row in readings)) == (windows, len(values))


@pytest.mark.parametrize("fault", ["task manager killed", "broker stopped"])
def test_nothing_is_lost_or_doubled(fault, flink_cluster, kafka, traffic_topic, tmp_path):
    topic, sent = traffic_topic
    output = tmp_path / "out"
    with job_on_cluster(flink_cluster, kafka, output, "--topic", topic, "--out_of_orderness_seconds=30"):
        send(kafka, topic, sent[:30_000])
        wait_for(lambda: len(raw_offsets(output)) > 10_000, "the first half is being written")
        broken = time.monotonic()
        match fault:
            case "task manager killed":
                flink_cluster.busy_task_managers()[0].kill()
                flink_cluster.start()
            case "broker stopped":
                kafka.stop()
                time.sleep(OUTAGE_SECONDS)  # the fault itself, not a wait for something
                kafka.start()
        send(kafka, topic, sent[30_000:] + LAST)
        wait_for(lambda: all_windows_are_out(output, sent), "all windows", 180)
        print(f"{fault}: all windows out {time.monotonic() - broken:.0f} s later")
    assert_final_tables(output, sent, CLOSED_SECONDS)
    assert not rows(output, "dead_letters")


def test_a_stream_stopped_by_sigterm_resumes_from_its_savepoint(
    flink_cluster, kafka, traffic_topic, tmp_path, capfd
):
    topic, sent = traffic_topic
    output = tmp_path / "out"
    arguments = ["--topic", topic, "--out_of_orderness_seconds=30", "--environment_type=LOOPBACK"]
    arguments.append(f"--flink_master={flink_cluster.rest_url.removeprefix('http://')}")
    with job(kafka, output, *arguments) as first:
        send(kafka, topic, sent[:30_000])
        wait_for(lambda: len(raw_offsets(output)) > 10_000, "the first half is being written")
        first.terminate()
        assert first.wait(120) == 128 + signal.SIGTERM
    log = (tmp_path / "out.log").read_text()
    (said,) = [line for line in log.splitlines() if line.startswith("stopped")]
    assert "Traceback" not in log
    assert "the same command resumes it with --savepoint_path=file:" in said
    assert not running(flink_cluster)
    for option, before in RESUMED_OTHERWISE.items():
        assert traffic.main([*flags(kafka, output), *arguments, "--savepoint_path=file:///s", option]) == 2
        errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error:")]
        assert len(errors) == 1 and f"this stream was started with {before}" in errors[0]
    send(kafka, topic, sent[30_000:] + LAST)
    with job(kafka, output, *arguments, said.rpartition(" ")[2]):
        wait_for(lambda: all_windows_are_out(output, sent), "all windows", 180)
        for each in running(flink_cluster):
            requests.patch(f"{flink_cluster.rest_url}/jobs/{each}?mode=cancel", timeout=30).raise_for_status()
    assert_final_tables(output, sent, CLOSED_SECONDS)
    assert not rows(output, "dead_letters")
