"""The options a job needs on Flink; the user's own flags win."""

import argparse
import logging
import socket
from urllib.parse import urlsplit

import requests
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.flink_runner import MAGIC_HOST_NAMES

from runners.embedded_flink import embedded_configuration, java_of_this_process
from runners.folders import state_folder
from runners.local.errors import CannotStart
from runners.local.jars import FLINK_VERSION, job_server_jar
from runners.local.java import find_java
from runners.local.web import get_json
from runners.savepoints import EMBEDDED, rest_url
from runners.worker_pool import start_worker_pool

_LOGGER = logging.getLogger(__name__)

ANSWER_SECONDS = 5
LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")

# Beam warns, with pages of detail, of every worker that was gone before its job ended.
QUIET = ("defaultLogLevel=warn", "log.org.apache.beam.runners.fnexecution.control=error")
# The Python workers need the cores: its second compiler alone would take one for a quarter of a minute.
JVM = ("-Xmx2g", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
STREAMING = (
    "--checkpointing_interval=5000",
    # Without it a job with checkpoints stands still: running, checkpoints complete, no element moves.
    "--finish_bundle_before_checkpointing",
    # A cancelled job can be taken up again with --savepoint_path=file://…/chk-N
    "--externalized_checkpoints_enabled",
    "--retain_externalized_checkpoints_on_cancellation",
    # A partition is read once in each bundle, and a window that has closed waits for a bundle's end.
    "--max_bundle_time_mills=250",
)
# Without it Beam starts pip to list what is installed here, for a log that no worker on this machine writes.
NO_LIST_OF_PACKAGES = "--experiments=disable_logging_submission_environment"
PARALLELISM = 2
# Beam deals processes out to a job's tasks in the order in which these start. With one for each slot, two
# tasks that read shared a process, and so a core, as often as not.
PROCESSES_PER_SLOT = 2


class FlinkStreamingOptions(PipelineOptions):
    """What only the running job server declares: Beam would warn of each that it does not know it."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        for switch in (
            "--finish_bundle_before_checkpointing",
            "--externalized_checkpoints_enabled",
            "--retain_externalized_checkpoints_on_cancellation",
        ):
            parser.add_argument(switch, action="store_true", default=None)
        parser.add_argument("--checkpointing_interval", type=int)
        parser.add_argument("--state_backend")
        parser.add_argument("--state_backend_storage_path")
        parser.add_argument("--savepoint_path")
        parser.add_argument("--flink_conf_dir")
        parser.add_argument("--max_bundle_time_mills", type=int)


def flink_options(user_flags: list[str], *, streaming: bool) -> list[str]:
    """Defaults and then the user's flags; says in the log what was set by default."""
    defaults = flink_defaults(user_flags, streaming=streaming)
    _LOGGER.info("on Flink, set by default: %s", " ".join(defaults))
    return [*defaults, *user_flags]


def refuse_unreachable(user_flags: list[str]) -> None:
    """CannotStart when nothing answers at the user's --job_endpoint, or no Flink at the --flink_master."""
    given = _given(user_flags)
    if given.job_endpoint:
        place = urlsplit(f"//{given.job_endpoint}")
        try:
            socket.create_connection((place.hostname or "", place.port or 0), ANSWER_SECONDS).close()
        except (OSError, ValueError) as error:
            raise CannotStart(
                f"--job_endpoint {given.job_endpoint}: no job server answers there: {error}"
            ) from error
    url = rest_url(given.flink_master or EMBEDDED)
    if url and not url.startswith("https:"):
        try:
            get_json(f"{url}/config")["flink-version"]
        except (requests.RequestException, KeyError, TypeError) as error:
            cause = "nothing answers" if isinstance(error, requests.ConnectionError) else "no Flink answers"
            raise CannotStart(
                f"--flink_master {given.flink_master}: {cause} at {url}, where its REST interface should be"
            ) from error


def flink_defaults(user_flags: list[str], *, streaming: bool) -> list[str]:
    """What a job needs where the user said nothing.

    Where it runs follows from the user's flags: on a Flink inside the job server (neither address given),
    on the cluster of --flink_master, or behind the running job server of --job_endpoint.
    """
    given = _given(user_flags)
    defaults = [f"--parallelism={PARALLELISM}"]
    address = given.job_endpoint or given.flink_master or EMBEDDED
    here = address in MAGIC_HOST_NAMES or _host(address) in LOOPBACK_HOSTS
    if here:
        defaults += [NO_LIST_OF_PACKAGES, *_workers(given, streaming)]
    if not given.job_endpoint:
        defaults += [f"--flink_master={EMBEDDED}", *_job_server(given, embedded=address == EMBEDDED)]
    if streaming:
        defaults += ["--streaming", *STREAMING]
        if here:
            defaults.append(f"--sdk_worker_parallelism={PROCESSES_PER_SLOT * given.parallelism}")
        if here and not given.job_endpoint:
            # By default checkpoints stay in memory, and one past 5 MiB makes the job fail over and over.
            # A cluster elsewhere, and a job server started with a configuration, have a place of their own.
            checkpoints = state_folder() / "checkpoints"
            defaults += ["--state_backend=filesystem", f"--state_backend_storage_path={checkpoints.as_uri()}"]
        if address == EMBEDDED:
            defaults.append(f"--flink_conf_dir={embedded_configuration()}")
    said = {_name(flag) for flag in user_flags} - {"--experiments"}  # of these there may be several
    return [flag for flag in defaults if _name(flag) not in said]


def _workers(given: argparse.Namespace, streaming: bool) -> list[str]:
    """Threads of this process for a batch; for a stream processes, as threads would share one core."""
    if given.environment_type:
        return []
    if not streaming:
        return ["--environment_type=LOOPBACK"]
    pool = start_worker_pool(given.max_cache_memory_usage_mb << 20)
    return ["--environment_type=EXTERNAL", f"--environment_config={pool}"]


def _job_server(given: argparse.Namespace, *, embedded: bool) -> list[str]:
    """Beam starts its job server itself, from these."""
    properties = [*JVM, *(f"-Dorg.slf4j.simpleLogger.{quiet}" for quiet in QUIET)]
    flags = [f"--job_server_jvm_properties={each}" for each in properties]
    if not given.job_server_java_launcher:
        java = java_of_this_process(find_java()) if embedded else find_java()
        flags.append(f"--job_server_java_launcher={java}")
    if not given.flink_job_server_jar:
        flags += [f"--flink_version={FLINK_VERSION}", f"--flink_job_server_jar={job_server_jar()}"]
    return flags


def _given(user_flags: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    for flag in ("--flink_master", "--job_endpoint", "--flink_job_server_jar", "--job_server_java_launcher"):
        parser.add_argument(flag)
    parser.add_argument("--environment_type")
    parser.add_argument("--parallelism", type=int, default=PARALLELISM)
    parser.add_argument("--max_cache_memory_usage_mb", type=int, default=0)
    given, _ = parser.parse_known_args(user_flags)
    return given


def _host(address: str) -> str | None:
    return urlsplit(address if "://" in address else f"//{address}").hostname


def _name(flag: str) -> str:
    return flag.partition("=")[0]
