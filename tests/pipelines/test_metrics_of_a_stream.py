"""A stream on a real Flink with two TaskManagers, watched: its metrics, and the alerts that they raise."""

from __future__ import annotations

from runners.local.ports import free_ports
from tests.monitoring import Samples, promtool, scrape
from tests.stream_jobs import job_on_cluster, reading, rows, send, wait_for

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
        wait_for(lambda: counted(port).total("records_read_total") == len(sent + bad), "all is read")
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
