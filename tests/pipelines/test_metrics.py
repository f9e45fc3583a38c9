"""What a running job tells Prometheus, beside what its accounts say in the end."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from pipelines import air_quality, traffic
from pipelines.arguments import parse_arguments
from pipelines.consumer_lag import ConsumerLag
from pipelines.metrics import JobMetrics, by_name
from pipelines.sample.traffic import write_sample
from pipelines.watched import figures_of
from runners.local.ports import free_ports
from runners.local.waiting import wait_until
from runners.options import new_pipeline
from schemas.air_quality import AIR_QUALITY
from schemas.metrics import METRICS, PREFIX
from schemas.traffic import TRAFFIC
from tests.monitoring import Samples, promtool, scrape
from tests.stream_jobs import reading, send
from transforms.counters import live
from transforms.partitions import find_topics

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The arguments of a run on a simulated day with faults."""
    folder = tmp_path_factory.mktemp("sample")
    write_sample(str(folder), sensors=20, step_seconds=60)
    sensors = ["--sensors", str(folder / "traffic.sensors.csv"), "--max_future_seconds", "86400"]
    return ["--input", str(folder / "traffic.csv"), *sensors]


def served_now(feed=TRAFFIC) -> Samples:
    """What the endpoint would serve of the last run in this process."""
    registry = CollectorRegistry()
    registry.register(JobMetrics(feed, 300, live.figures, ()))
    return Samples(generate_latest(registry).decode())


def test_the_counters_of_a_batch_are_its_accounts(sample, tmp_path):
    assert traffic.main([*sample, "--output", str(tmp_path)]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    metrics = served_now()
    assert metrics.total("records_read_total") == summary["read"]
    assert metrics.total("records_accepted_total") == summary["accepted"]
    assert metrics.total("duplicates_total") == summary["duplicates"]
    assert metrics.total("windows_emitted_total") == summary["windows"]
    assert metrics.total("panes_emitted_total", timing="on_time") == summary["windows"]
    assert metrics.total("files_written_total") == summary["files"]
    assert metrics.total("written_bytes_total") == summary["bytes"]
    assert {
        reason: number for reason, number in metrics.by("dead_letters_total", "reason").items() if number
    } == (summary["dead_letters"])
    steps = metrics.by("batch_processing_seconds_count", "step")
    assert set(steps) == {"decode", "validate", "deduplicate", "aggregate", "write"}
    assert metrics.total("sensors_reporting") == metrics.total("sensors_known") == 20


def test_a_feed_with_a_quality_score_has_it_as_a_metric(tmp_path):
    columns = "Date;Time;CO(GT);PT08.S1(CO);NMHC(GT);C6H6(GT);PT08.S2(NMHC);NOx(GT);PT08.S3(NOx);NO2(GT);"
    columns += "PT08.S4(NO2);PT08.S5(O3);T;RH;AH;;"
    rows = ["10/03/2004;18.00.00;2,6;1360;150;11,9;1046;166;1056;113;1692;1268;13,6;48,9;0,7578;;"]
    rows.append("10/03/2004;19.00.00;-200;1292;-200;9,4;955;103;1174;92;1559;972;13,3;47,7;0,7255;;")
    file = tmp_path / "air.csv"
    file.write_text("\n".join([columns, *rows]) + "\n")
    assert air_quality.main(["--input", str(file), "--output", str(tmp_path / "out")]) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert 0.5 < summary["mean_quality"] < 1
    assert served_now(AIR_QUALITY).total("quality_score_ratio") == summary["mean_quality"]


def test_a_run_is_scraped_while_it_works_and_promtool_finds_no_fault(tmp_path):
    write_sample(str(tmp_path), sensors=400, step_seconds=60)  # so many that there is time to look
    port, path = next(free_ports()), str(tmp_path / "traffic.csv")
    command = [sys.executable, "-m", "pipelines.traffic", "--input", path, "--output", str(tmp_path / "out")]
    process = subprocess.Popen([*command, "--metrics_port", str(port)], cwd=ROOT, stdout=subprocess.DEVNULL)
    text = ""

    def read_some() -> bool:
        nonlocal text
        text = scrape(port) or text
        return Samples(text).total("records_read_total") > 0

    try:
        assert wait_until(read_some, within=60)
    finally:
        assert process.wait(60) == 0
    families = list(text_string_to_metric_families(text))
    own = {family.name for family in families if family.name.startswith(PREFIX)}
    assert own == {metric.full_name.removesuffix("_total") for metric in METRICS}
    assert Samples(text).total("process_resident_memory_bytes", prefix="") > 10_000_000
    declared = {metric.full_name.removesuffix("_total"): {"feed", "le", *metric.labels} for metric in METRICS}
    for family in families:
        for each in family.samples:
            assert set(each.labels) <= declared.get(family.name, set())
    if shutil.which("promtool"):
        promtool("check", "metrics", stdin=text)


def test_the_lag_of_a_run_to_the_topics_ends_is_what_has_come_since(kafka, new_topic, tmp_path):
    topic = new_topic(2)
    send(kafka, topic, [(n % 2, reading("a", n)) for n in range(100)])
    configuration = {"bootstrap.servers": kafka.bootstrap_servers, "group.id": "test"}
    lag = ConsumerLag(find_topics([topic], configuration, "earliest"), configuration, commits=False)
    live.reset()
    assert lag.observe(by_name(live.figures()))["consumer_lag_records"] == {
        (topic, "0"): 50,
        (topic, "1"): 50,
    }
    source = ["--topic", topic, "--bootstrap_servers", kafka.bootstrap_servers]
    assert traffic.main([*source, "--output", str(tmp_path)]) == 0
    send(kafka, topic, [(1, reading("a", n)) for n in range(7)])
    seen = lag.observe(by_name(live.figures()))
    assert seen["consumer_lag_records"] == {(topic, "0"): 0, (topic, "1"): 7}
    assert seen["partition_end_offset"] == {(topic, "0"): 50, (topic, "1"): 57}
    assert seen["reachable"] == {("broker",): 1}
    assert served_now().total("records_read_total") == 100


def test_a_run_that_is_not_on_flink_counts_for_itself_whatever_flags_of_flink_are_left(sample):
    arguments = parse_arguments(TRAFFIC, [*sample, "--flink_master=127.0.0.1:1"])
    pipeline = new_pipeline(arguments.runner, arguments.beam_flags, arguments.streaming)
    assert figures_of(arguments, pipeline) == live.figures


def test_a_taken_port_is_one_line_and_the_output_is_left_as_it_was(sample, tmp_path, capfd):
    (tmp_path / "summary.json").write_text('{"inputs": ["other"]}')
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert traffic.main([*sample, "--output", str(tmp_path), "--metrics_port", port]) == 2
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "INFO" not in line]
    assert line == f"error: --metrics_port {port}: Address already in use; give another, or 0 to serve none"
    assert json.loads((tmp_path / "summary.json").read_text()) == {"inputs": ["other"]}
