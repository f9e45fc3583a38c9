"""The options a job needs on Flink; the user's own flags win."""

import argparse
import logging
from urllib.parse import urlsplit

from runners.folders import state_folder
from runners.local.jars import FLINK_VERSION, job_server_jar
from runners.local.java import find_java

_LOGGER = logging.getLogger(__name__)

EMBEDDED = "[local]"
LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")

STREAMING = (
    "--checkpointing_interval=5000",
    # Without it a job with checkpoints stands still: running, checkpoints complete, no element moves.
    "--finish_bundle_before_checkpointing",
    # A cancelled job can be taken up again with --savepoint_path=file://…/chk-N
    "--retain_externalized_checkpoints_on_cancellation",
)


def flink_options(user_flags: list[str], *, streaming: bool) -> list[str]:
    """The user's flags after the defaults they overrule; says in the log which defaults these are."""
    defaults = flink_defaults(user_flags, streaming=streaming)
    _LOGGER.info("on Flink, set by default: %s", " ".join(defaults))
    return [*defaults, *user_flags]


def flink_defaults(user_flags: list[str], *, streaming: bool) -> list[str]:
    """What a job needs where the user said nothing.

    Where it runs follows from the user's flags: on a Flink inside the job server (neither address given),
    on the cluster of --flink_master, or behind the running job server of --job_endpoint.
    """
    given = _given(user_flags)
    defaults = ["--parallelism=2"]
    address = given.job_endpoint or given.flink_master or EMBEDDED
    here = address == EMBEDDED or _host(address) in LOOPBACK_HOSTS
    if here:
        defaults.append("--environment_type=LOOPBACK")
    if not given.job_endpoint:
        defaults += [f"--flink_master={EMBEDDED}", *_job_server(given)]
    if streaming:
        defaults += ["--streaming", *STREAMING]
        if here and not given.job_endpoint:
            # By default a checkpoint is kept in memory and may hold 5 MiB: past that the job fails over and over.
            # A cluster elsewhere, and a job server started with a configuration, have a place of their own.
            checkpoints = state_folder() / "checkpoints"
            defaults += ["--state_backend=filesystem", f"--state_backend_storage_path={checkpoints.as_uri()}"]
    return defaults


def _job_server(given: argparse.Namespace) -> list[str]:
    """Beam starts its job server itself, from these."""
    flags = ["--job_server_jvm_properties=-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
    if not given.job_server_java_launcher:
        flags.append(f"--job_server_java_launcher={find_java()}")
    if not given.flink_job_server_jar:
        flags += [f"--flink_version={FLINK_VERSION}", f"--flink_job_server_jar={job_server_jar()}"]
    return flags


def _given(user_flags: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    for flag in ("--flink_master", "--job_endpoint", "--flink_job_server_jar", "--job_server_java_launcher"):
        parser.add_argument(flag)
    given, _ = parser.parse_known_args(user_flags)
    return given


def _host(address: str) -> str | None:
    return urlsplit(address if "://" in address else f"//{address}").hostname
