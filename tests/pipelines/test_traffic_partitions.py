"""A topic that gets more partitions while the job runs, and while it is stopped; its lag the while."""

from __future__ import annotations

import signal
from collections.abc import Iterable

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewPartitions

from runners.local import FlinkCluster, KafkaBroker
from runners.local.web import get_json
from tests.stream_jobs import job, lag, raw_offsets, reading, rows, send, wait_for


def grow(kafka: KafkaBroker, topic: str, partitions: int) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    admin.create_partitions([NewPartitions(topic, partitions)])[topic].result()
    wait_for(
        lambda: len(admin.list_topics(topic, timeout=5).topics[topic].partitions) == partitions,
        f"{partitions} partitions",
    )


def send_in_a_transaction(kafka: KafkaBroker, topic: str, messages: Iterable[tuple[int, bytes]]) -> None:
    """After the last message there is then a mark, with an offset of its own."""
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "transactional.id": topic})
    producer.init_transactions()
    producer.begin_transaction()
    for partition, value in messages:
        producer.produce(topic, value, partition=partition)
    producer.commit_transaction()


def partitions_by_subtask(cluster: FlinkCluster) -> list[int]:
    """How many each subtask of the only job has been given; Flink's figures are up to ten seconds old."""
    url = f"{cluster.rest_url}/jobs"
    (job,) = [job for job in get_json(f"{url}/overview")["jobs"] if job["state"] == "RUNNING"]
    vertices = get_json(f"{url}/{job['jid']}")["vertices"]
    (reads,) = [vertex for vertex in vertices if "ToKeyedWorkItem" in vertex["name"]]
    of_subtasks = [
        get_json(f"{url}/{job['jid']}/vertices/{reads['id']}/subtasks/{subtask}/metrics?get=numRecordsIn")
        for subtask in range(reads["parallelism"])
    ]
    return [int(figure["value"]) for figures in of_subtasks for figure in figures]


def test_partitions_added_to_a_topic_are_read_and_lag_is_0_once_caught_up(
    flink_cluster: FlinkCluster, kafka: KafkaBroker, new_topic, tmp_path
):
    topic, output = new_topic(2), tmp_path / "out"
    arguments = ["--topic", topic, "--out_of_orderness_seconds=30", "--idle_seconds=1"]
    arguments.append(f"--flink_master={flink_cluster.rest_url.removeprefix('http://')}")
    sent = 0

    def send_to(partitions: int, first: int, last: int) -> None:
        nonlocal sent
        history = [(p, reading(f"s{p}", t)) for t in range(first, last, 10) for p in range(partitions)]
        send(kafka, topic, history)
        sent += len(history)

    with job(kafka, output, *arguments) as first:
        send_to(2, 0, 600)
        wait_for(lambda: lag(kafka, topic, 2) == 0, "both partitions are read", 180)
        wait_for(lambda: partitions_by_subtask(flink_cluster) == [1, 1], "each subtask reads one of them")
        grow(kafka, topic, 5)
        send_to(5, 600, 1200)
        wait_for(lambda: lag(kafka, topic, 5) == 0, "the new partitions are read too")
        wait_for(
            lambda: sorted(partitions_by_subtask(flink_cluster)) == [2, 3], "and the new ones are dealt out"
        )
        first.terminate()
        assert first.wait(120) == 128 + signal.SIGTERM
    grow(kafka, topic, 6)
    send_to(6, 1200, 2400)
    said = [
        line for line in (tmp_path / "out.log").read_text().splitlines() if line.startswith("stopped with")
    ]
    with job(kafka, output, *arguments, said[0].rpartition(" ")[2]) as second:
        closing = [(p, reading(f"s{p}", 4000 + t)) for p in range(6) for t in (0, 1)]
        send_in_a_transaction(kafka, topic, closing)
        wait_for(lambda: lag(kafka, topic, 6) == 0, "all is read, the marks of the transaction too")
        wait_for(lambda: len(raw_offsets(output)) == sent, "every reading of a closed window is written")
        second.terminate()
        second.wait(120)
    assert len(set(raw_offsets(output))) == sent
    assert not rows(output, "dead_letters")
