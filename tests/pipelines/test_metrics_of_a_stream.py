"""A stream on a real Flink with two TaskManagers, watched: its metrics, and the alerts that they raise."""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Callable

import pytest

from runners.local.ports import free_ports
from runners.local.prometheus import Prometheus
from tests.monitoring import ALERTS, MISSING, Samples, dashboard_queries, promtool, scrape
from tests.stream_jobs import job, job_on_cluster, reading, rows, send, wait_for

BAD = [b"{", b"[]", b'{"sensor_id": "a", "timestamp": 1330560000000, "speed_mph": 999}'] * 20


def counted(port: int) -> Samples:
    return Samples(scrape(port))


def test_the_counters_of_a_stream_are_what_was_written_and_outlive_its_workers(
    flink_cluster, kafka, new_topic, tmp_path
):
    topic, output = new_topic(4), tmp_path / "out"
    port = next(free_ports())
    master = flink_cluster.rest_url.removeprefix("http://")
    arguments = ["--topic", topic, "--out_of_orderness_seconds=30", "--allowed_lateness_seconds=600"]
    arguments += ["--idle_seconds=1", f"--metrics_port={port}", f"--flink_master={master}"]
    good = [(n % 4, reading(f"s{n % 40:02}", n // 40 * 5)) for n in range(20_000)]
    sent = [message for n, message in enumerate(good) for _ in range(2 if n % 100 == 0 else 1)]
    bad = [(n % 4, value) for n, value in enumerate(BAD)]
    with job_on_cluster(flink_cluster, kafka, output, *arguments):
        send(kafka, topic, sent + bad)
        wait_for(lambda: counted(port).total("records_read_total") == len(sent + bad), "all is read", 180)
        metrics = counted(port)
        assert metrics.total("dead_letters_total") == len(bad)
        assert metrics.by("dead_letters_total", "reason")["speed_mph_out_of_range"] == 20
        assert metrics.by("consumer_lag_records", "partition").keys() == {"0", "1", "2", "3"}
        wait_for(lambda: counted(port).total("consumer_lag_records") == 0, "nothing is left to be read")
        late = [(0, reading("s00", 1.5)), (0, reading("s00", 2099.5))]  # too late, and late but allowed
        send(kafka, topic, late)
        end = [(p, reading(f"s{p:02}", 5000 + t)) for p in range(4) for t in (0, 1)]
        send(kafka, topic, end)
        wait_for(
            lambda: len(rows(output, "raw")) == len(good) + 1, "all windows but the last are written", 180
        )
        wait_for(lambda: counted(port).total("records_accepted_total") == len(good) + 1, "and counted")
        wait_for(lambda: counted(port).total("last_checkpoint_timestamp_seconds") > 0, "a checkpoint")
        text = scrape(port)
        metrics = Samples(text)
        assert metrics.total("duplicates_total") == len(sent) - len(good)
        assert metrics.total("late_records_total", outcome="too_late") == 1
        assert metrics.total("late_records_total", outcome="allowed") == 1
        reasons = dict(rows(output, "dead_letters", "reason, 1"))
        letters = [reason for reason, _ in rows(output, "dead_letters", "reason, 1")]
        told = {reason: n for reason, n in metrics.by("dead_letters_total", "reason").items() if n}
        assert told == {reason: letters.count(reason) for reason in reasons}
        read = metrics.total("records_read_total")
        assert read == sum(told.values()) + metrics.total("duplicates_total") + len(good) + 1 + len(end)
        assert metrics.total("panes_emitted_total", timing="late") >= 1
        assert metrics.total("sensors_reporting") == 40
        for since in ("event", "broker"):
            assert metrics.total("end_to_end_latency_seconds_count", since=since) > 0
        assert 0 < metrics.total("end_to_end_latency_seconds_sum", since="broker") < 1e6
        assert set(metrics.by("watermark_timestamp_seconds", "partition").values()) == {1_330_564_970}
        assert metrics.total("task_manager_memory_bytes") > 1e8
        assert metrics.total("worker_memory_peak_bytes") > 1e8
        assert metrics.total("state_bytes") > 0
        promtool("check", "metrics", stdin=text)

        killed = flink_cluster.busy_task_managers()[0]
        killed.kill()
        seen = []

        def restarted() -> bool:
            seen.append(counted(port))
            return seen[-1].total("retries_total", operation="job_restart") >= 1

        wait_for(restarted, "Flink starts the job again", 120)
        flink_cluster.start()
        send(kafka, topic, [(p, reading(f"s{p:02}", 6000 + t)) for p in range(4) for t in (0, 1)])

        def reads_on() -> bool:
            seen.append(counted(port))
            return seen[-1].total("records_read_total") >= read + 8

        wait_for(reads_on, "it reads on", 120)
    assert all(each.samples for each in seen), "the endpoint answers all the while"
    totals = [each.total("records_read_total") for each in seen]
    assert totals == sorted(totals)


# A minute of the rules is this many seconds here.
MINUTE = 3


@pytest.fixture
def watched(kafka, new_topic, tmp_path):
    """(topic, port of the metrics, Prometheus): a stream of four partitions on a Flink of its own."""
    if shutil.which("prometheus") is None:
        pytest.skip(MISSING)
    topic, output = new_topic(4), tmp_path / "out"
    port = next(free_ports())
    rules = tmp_path / "alerts.yml"
    rules.write_text(re.sub(r"\b(\d+)m\b", lambda found: f"{int(found[1]) * MINUTE}s", ALERTS.read_text()))
    arguments = ["--topic", topic, "--idle_seconds=1", "--out_of_orderness_seconds=30"]
    with (
        Prometheus(
            tmp_path / "prometheus", targets=[f"127.0.0.1:{port}"], rules=rules, scrape_seconds=3
        ) as prometheus,
        job(kafka, output, *arguments, f"--metrics_port={port}"),
    ):
        yield topic, port, prometheus


def test_alerts_fire_and_clear_and_the_dashboard_s_queries_have_answers(watched, kafka):
    """A burst of bad messages, a partition that falls silent, a broker stopped and started."""
    topic, port, prometheus = watched

    def firing() -> set[str]:
        return {each["metric"]["alertname"] for each in prometheus.query('ALERTS{alertstate="firing"}')}

    second = itertools.count()

    def flow(partitions: range) -> None:
        """Some seconds of readings, and all of them read."""
        time = next(second) * 20
        send(kafka, topic, [(p, reading(f"s{p}", time + t)) for t in range(20) for p in partitions])

    def flow_until(condition: Callable[[], object], what: str, partitions: range = range(4)) -> None:
        def flows() -> object:
            flow(partitions)
            return condition()

        wait_for(flows, what, 180)

    flow_until(lambda: counted(port).total("records_read_total") > 0, "the first readings are read")
    flow_until(lambda: not firing(), "all is well")
    send(kafka, topic, [(n % 4, b"{") for n in range(5_000)])
    flow_until(lambda: firing() >= {"DeadLetterBurst"}, "a burst of bad messages is told of")
    flow_until(lambda: "DeadLetterBurst" not in firing(), "the burst is over")
    flow_until(lambda: "PartitionIdle" in firing(), "a silent partition is told of", range(3))
    unanswered = [query for query in dashboard_queries() if not prometheus.query(query)]
    assert [query for query in unanswered if not re.search("values_total|quality|unhealthy|> 0", query)] == []
    flow_until(lambda: "PartitionIdle" not in firing(), "it is heard again")

    kafka.stop()
    wait_for(lambda: firing() >= {"BrokerUnreachable"}, "a broker that is gone is told of", 120)
    kafka.start()
    wait_for(lambda: "BrokerUnreachable" not in firing(), "it is back", 120)
    assert prometheus.query('resets({__name__="stream_processor_records_read_total"}[10m]) > 0') == []
