"""Flink's options."""

from pathlib import Path

import pytest

from runners import flink
from runners.embedded_flink import embedded_configuration, embedded_rest_url
from runners.local import KafkaBroker
from runners.local.ports import accepts_connections
from runners.options import UnusableRunner, pipeline_options


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
