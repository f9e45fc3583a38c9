"""The options a job needs on Flink; the user's own flags win."""

import argparse
import logging
import os
import socket
import sys
from pathlib import Path
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
# Without it all workers are threads of the launcher, and share one core.
PROCESSES = "--experiments=use_loopback_process_worker=True"
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
    _have_workers_run_this_python()
    return [*defaults, *user_flags]


def _have_workers_run_this_python() -> None:
    """Beam starts a plain `python` for each worker: it is to be this one, and to find the same modules."""
    here = str(Path(sys.executable).parent)
    os.environ["PATH"] = os.pathsep.join([here, os.environ.get("PATH", os.defpath)])
    os.environ["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
    logging.getLogger("apache_beam.runners.worker.worker_pool_main").setLevel(logging.ERROR)  # tells of each


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
        defaults.append("--environment_type=LOOPBACK")
    if not given.job_endpoint:
        defaults += [f"--flink_master={EMBEDDED}", *_job_server(given, embedded=address == EMBEDDED)]
    if streaming:
        defaults += ["--streaming", *STREAMING]
        if here:
            defaults += [PROCESSES, f"--sdk_worker_parallelism={PROCESSES_PER_SLOT * given.parallelism}"]
        if here and not given.job_endpoint:
            # By default checkpoints stay in memory, and one past 5 MiB makes the job fail over and over.
            # A cluster elsewhere, and a job server started with a configuration, have a place of their own.
            checkpoints = state_folder() / "checkpoints"
            defaults += ["--state_backend=filesystem", f"--state_backend_storage_path={checkpoints.as_uri()}"]
        if address == EMBEDDED:
            defaults.append(f"--flink_conf_dir={embedded_configuration()}")
    said = {_name(flag) for flag in user_flags} - {"--experiments"}  # of these there may be several
    return [flag for flag in defaults if _name(flag) not in said]


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
    parser.add_argument("--parallelism", type=int, default=PARALLELISM)
    given, _ = parser.parse_known_args(user_flags)
    return given


def _host(address: str) -> str | None:
    return urlsplit(address if "://" in address else f"//{address}").hostname


def _name(flag: str) -> str:
    return flag.partition("=")[0]
