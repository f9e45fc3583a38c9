"""Flink's options; a batch job inside the job server, and a stream from Kafka on a session cluster."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam import coders
from apache_beam.io.restriction_trackers import OffsetRange, OffsetRestrictionTracker
from apache_beam.io.watermark_estimators import ManualWatermarkEstimator
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms.window import FixedWindows, TimestampedValue
from apache_beam.utils.timestamp import Duration, Timestamp
from confluent_kafka import Consumer, Producer, TopicPartition

from runners import flink
from runners.embedded_flink import embedded_configuration, embedded_rest_url
from runners.local import FlinkCluster, KafkaBroker
from runners.local.ports import accepts_connections
from runners.local.waiting import wait_until
from runners.options import UnusableRunner, pipeline_options
from tests.services import require_maven

# Beam's threads end with the error that their peer, which has done its work, went away.
beam_threads_die_with_the_job = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnhandledThreadExceptionWarning"
)


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flink, "job_server_jar", lambda: Path("server.jar"))
    monkeypatch.setattr(flink, "find_java", lambda: Path("java"))
    folder = embedded_configuration()
    monkeypatch.setattr(flink, "embedded_configuration", lambda: folder)


def value(flags: list[str], name: str) -> str | None:
    """What the last flag of that name says."""
    said = [flag.partition("=")[2] for flag in flags if flag.partition("=")[0] == name]
    return said[-1] if said else None


@pytest.mark.usefixtures("fetched")
def test_nothing_said_means_flink_inside_the_job_server() -> None:
    flags = flink.flink_options([], streaming=False)
    assert value(flags, "--flink_master") == "[local]"
    assert value(flags, "--flink_job_server_jar") == "server.jar"
    assert value(flags, "--flink_version") == "1.19"
    assert value(flags, "--environment_type") == "LOOPBACK"
    assert value(flags, "--parallelism") == "2"
    assert "--streaming" not in flags
    assert value(flags, "--flink_conf_dir") is None


@pytest.mark.usefixtures("fetched")
def test_a_stream_gets_checkpoints_that_outlive_it() -> None:
    flags = flink.flink_options([], streaming=True)
    assert {"--streaming", *flink.STREAMING} <= set(flags)
    # A finite number counts over the job's life; without it Flink restarts a job with checkpoints for ever.
    assert value(flags, "--number_of_execution_retries") is None
    assert value(flags, "--state_backend") == "filesystem"
    assert str(value(flags, "--state_backend_storage_path")).startswith("file:///")
    assert value(flags, "--sdk_worker_parallelism") == "4"
    assert value(flink.flink_options(["--parallelism=3"], streaming=True), "--sdk_worker_parallelism") == "6"
    assert str(embedded_rest_url(value(flags, "--flink_conf_dir"))).startswith("http://127.0.0.1:")


@pytest.mark.usefixtures("fetched")
def test_a_stream_s_workers_are_processes_and_a_batch_s_are_threads() -> None:
    stream = flink.flink_options([], streaming=True)
    assert value(stream, "--environment_type") == "EXTERNAL"
    host, _, port = str(value(stream, "--environment_config")).partition(":")
    assert accepts_connections(int(port)), "there the pool of workers listens"
    assert host == "127.0.0.1"
    batch = flink.flink_options([], streaming=False)
    assert (value(batch, "--environment_type"), value(batch, "--environment_config")) == ("LOOPBACK", None)


@pytest.mark.usefixtures("fetched")
def test_the_users_flags_win() -> None:
    mine = ["--parallelism=8", "--environment_type", "EXTERNAL", "--flink_job_server_jar=mine.jar"]
    defaults = flink.flink_defaults(mine, streaming=True)
    told = "--parallelism", "--environment_type", "--environment_config", "--flink_job_server_jar"
    assert not set(told) & {flag.partition("=")[0] for flag in defaults}
    assert flink.flink_options(mine, streaming=True) == [*defaults, *mine]


@pytest.mark.usefixtures("fetched")
@pytest.mark.parametrize("here", ["127.0.0.1:8081", "http://localhost:8081", "[auto]"])
def test_flink_on_this_machine_has_its_python_workers_from_this_process(here: str) -> None:
    flags = flink.flink_options([f"--flink_master={here}"], streaming=True)
    assert str(value(flags, "--environment_config")).startswith("127.0.0.1:")
    assert value(flags, "--state_backend") == "filesystem"


@pytest.mark.usefixtures("fetched")
@pytest.mark.parametrize(
    ("given", "ends_with_us"),
    [([], True), (["--flink_master=[local]"], True), (["--flink_master=a:1"], False)],
)
def test_a_flink_inside_the_job_server_ends_with_this_process_however_it_was_asked_for(
    given: list[str], ends_with_us: bool
) -> None:
    java = value(flink.flink_defaults(given, streaming=True), "--job_server_java_launcher")
    assert (java != "java") is ends_with_us


@pytest.mark.usefixtures("fetched")
def test_a_cluster_elsewhere_keeps_its_own_workers_and_its_own_place_for_checkpoints() -> None:
    flags = flink.flink_options(["--flink_master=flink.example:8081"], streaming=True)
    assert value(flags, "--environment_type") is None
    assert value(flags, "--state_backend") is None
    assert value(flags, "--checkpointing_interval") == "5000"


def test_a_running_job_server_needs_no_jar_and_no_java(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(flink, "job_server_jar")
    monkeypatch.delattr(flink, "find_java")
    flags = flink.flink_options(["--job_endpoint=localhost:8099"], streaming=True)
    assert value(flags, "--flink_master") is None
    assert value(flags, "--environment_type") == "EXTERNAL"


@pytest.mark.usefixtures("fetched")
def test_what_is_set_by_default_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        flink.flink_options(["--parallelism=8"], streaming=False)
    assert f"on Flink, set by default: {flink.NO_LIST_OF_PACKAGES} --environment_type=LOOPBACK" in caplog.text
    assert "--parallelism" not in caplog.text


@pytest.mark.parametrize("flag", ["--flink_master", "--job_endpoint"])
def test_where_nothing_answers_no_job_is_sent(flag: str) -> None:
    with pytest.raises(UnusableRunner, match=f"^{flag} 127.0.0.1:1: "):
        pipeline_options("FlinkRunner", [f"{flag}=127.0.0.1:1"], streaming=True)


def test_what_answers_has_to_be_flink(kafka: KafkaBroker) -> None:
    with pytest.raises(UnusableRunner, match="where its REST interface should be"):
        pipeline_options("FlinkRunner", [f"--flink_master={kafka.bootstrap_servers}"])


@beam_threads_die_with_the_job
def test_words_are_counted_on_flink_inside_the_job_server() -> None:
    require_maven()
    options = PipelineOptions(flink.flink_options(["--runner=FlinkRunner"], streaming=False))
    with beam.Pipeline(options=options) as pipeline:
        words = pipeline | beam.Create([("a", 1), ("b", 2), ("a", 3)])
        counts = words | beam.GroupByKey() | beam.MapTuple(lambda word, counts: (word, sum(counts)))
        assert_that(counts, equal_to([("a", 4), ("b", 2)]))


class UnboundedOffsets(OffsetRestrictionTracker):
    def is_bounded(self) -> bool:
        return False


class OffsetsFromStart(beam.transforms.core.RestrictionProvider):
    def initial_restriction(self, element: Any) -> OffsetRange:
        return OffsetRange(0, 2**63 - 1)

    def create_tracker(self, restriction: OffsetRange) -> UnboundedOffsets:
        return UnboundedOffsets(restriction)

    def restriction_size(self, element: Any, restriction: OffsetRange) -> float:
        return 1.0

    def restriction_coder(self) -> coders.Coder:
        return coders.PickleCoder()


RESTRICTION = beam.DoFn.RestrictionParam(OffsetsFromStart())
WATERMARK = beam.DoFn.WatermarkEstimatorParam(ManualWatermarkEstimator.default_provider())
NEW_YEAR = 1_325_376_000


class ReadTopic(beam.DoFn):
    """The messages of a topic of one partition, each at the time its producer gave it."""

    def __init__(self, servers: str) -> None:
        self.servers = servers

    @beam.DoFn.unbounded_per_element()
    def process(
        self, topic: str, tracker: Any = RESTRICTION, watermark: Any = WATERMARK
    ) -> Iterable[TimestampedValue]:
        consumer = Consumer({"bootstrap.servers": self.servers, "group.id": "test"})
        consumer.assign([TopicPartition(topic, 0, tracker.current_restriction().start)])
        for message in consumer.consume(100, timeout=1):
            if not tracker.try_claim(message.offset()):
                return
            at = Timestamp(message.timestamp()[1] / 1000)
            yield TimestampedValue(("all", message.value()), at)
            watermark.set_watermark(at)
        consumer.close()
        tracker.defer_remainder(Duration(seconds=0.5))


class SendCounts(beam.DoFn):
    def __init__(self, servers: str, topic: str) -> None:
        self.servers, self.topic = servers, topic

    def process(
        self, group: tuple[str, Iterable[bytes]], window: Any = beam.DoFn.WindowParam
    ) -> Iterator[None]:
        producer = Producer({"bootstrap.servers": self.servers})
        if count := len(list(group[1])):  # an empty pane follows the end of every window
            producer.produce(self.topic, f"{int(window.start)} {count}".encode())
        producer.flush()
        yield from ()


def send_seconds(kafka: KafkaBroker, topic: str, seconds: range) -> None:
    """A message for each second of 2012's first minutes."""
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers})
    for second in seconds:
        producer.produce(topic, b"reading", timestamp=(NEW_YEAR + second) * 1000)
    assert producer.flush(20) == 0


def counted(kafka: KafkaBroker, topic: str) -> dict[int, set[int]]:
    """The counts sent so far, by the second their window of ten seconds starts at."""
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap_servers, "group.id": "test"})
    consumer.assign([TopicPartition(topic, 0, 0)])
    counts: dict[int, set[int]] = {}
    for message in consumer.consume(1000, timeout=1):
        start, count = (message.value() or b"").split()
        counts.setdefault(int(start) - NEW_YEAR, set()).add(int(count))
    consumer.close()
    return counts


@beam_threads_die_with_the_job
def test_a_stream_on_the_cluster_goes_on_after_a_task_manager_is_killed(
    kafka: KafkaBroker, flink_cluster: FlinkCluster, topic: str
) -> None:
    results = f"{topic}-counts"
    kafka.create_topic(results)
    send_seconds(kafka, topic, range(25))

    user_flags = [*flink_cluster.flags, "--checkpointing_interval=1000"]
    pipeline = beam.Pipeline(options=PipelineOptions(flink.flink_options(user_flags, streaming=True)))
    (
        pipeline
        | beam.Create([topic])
        | beam.ParDo(ReadTopic(kafka.bootstrap_servers)).with_output_types(tuple[str, bytes])
        | beam.WindowInto(FixedWindows(10))
        | "group" >> beam.GroupByKey()
        | beam.ParDo(SendCounts(kafka.bootstrap_servers, results))
    )
    job = pipeline.run()
    try:
        assert wait_until(lambda: counted(kafka, results) == {0: {10}, 10: {10}}, within=120)
        killed = flink_cluster.busy_task_managers()[0]
        killed.kill()
        send_seconds(kafka, topic, range(25, 45))
        expected = {0: {10}, 10: {10}, 20: {10}, 30: {10}}
        assert wait_until(lambda: counted(kafka, results) == expected, within=120)
    finally:
        job.cancel()
        flink_cluster.start()
    checkpoints = list((flink_cluster.folder / "checkpoints").glob("*/chk-*/_metadata"))
    assert checkpoints, "a cancelled job can be taken up again"
