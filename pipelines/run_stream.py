"""A run of a stream: until it fails or is stopped, with a savepoint where that can be."""

from __future__ import annotations

import signal
import sys
from multiprocessing import set_forkserver_preload

import apache_beam as beam
import grpc
from apache_beam.runners.runner import PipelineResult

from pipelines.arguments import Arguments
from pipelines.failures import end_in_words
from pipelines.health import health_watched
from pipelines.stream_record import record, refuse_other_output
from pipelines.watched import watched
from runners.flink_job import flink_rest_url
from runners.options import new_pipeline
from runners.savepoints import CannotStop, last_checkpoint, stop_with_savepoint


class _Stopped(BaseException):
    """SIGTERM has come; no handler of errors on the way is meant to catch it."""


STOPPED = {_Stopped: 128 + signal.SIGTERM, KeyboardInterrupt: 128 + signal.SIGINT}


def run_stream(arguments: Arguments) -> int:
    """Runs the job until it ends; the exit status: 128 and the signal's number when it was stopped."""
    from pipelines.stream import build_stream  # Kafka's packages are an extra

    refuse_other_output(arguments)
    set_forkserver_preload(["runners.worker_pool", "pipelines.stream"])  # what a worker runs
    pipeline = new_pipeline(arguments.runner, arguments.beam_flags, arguments.streaming)
    build_stream(pipeline, arguments)
    record(arguments)
    signal.signal(signal.SIGTERM, _stop)
    try:
        with watched(arguments, pipeline), health_watched(arguments, pipeline):
            _start(pipeline).wait_until_finish()
    except (_Stopped, KeyboardInterrupt) as stopped:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        print(_stopped_at(pipeline), flush=True)
        return STOPPED[type(stopped)]
    except (RuntimeError, grpc.RpcError) as error:
        if (end := end_in_words(error)) is None:
            raise
        print(f"error: {end}{_last_checkpoint(pipeline)}", file=sys.stderr)
        return 1
    return 0


def _start(pipeline: beam.Pipeline) -> PipelineResult:
    """Runs it, so that Ctrl+C, which goes to all processes of a terminal, stops this one alone."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # what is started now inherits it
    try:
        return pipeline.run()
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # Beam's own stops its job server
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _stop(*_: object) -> None:
    raise _Stopped


def _stopped_at(pipeline: beam.Pipeline) -> str:
    """Stops the stream with a savepoint where that can be asked for; returns what to say of it."""
    url = flink_rest_url(pipeline.options)
    if url is None:
        return (
            "stopped without a savepoint: where Flink can be asked for one is not known, give --flink_master"
        )
    try:
        place = stop_with_savepoint(url, pipeline.options.get_all_options()["job_name"])
    except CannotStop as error:
        return f"NOT stopped with a savepoint: {error}; the job may still run"
    return f"stopped with a savepoint; the same command resumes it with --savepoint_path={place}"


def _last_checkpoint(pipeline: beam.Pipeline) -> str:
    url = flink_rest_url(pipeline.options)
    place = url and last_checkpoint(url, pipeline.options.get_all_options()["job_name"])
    return (
        f"; the same command resumes it from its last checkpoint with --savepoint_path={place}"
        if place
        else ""
    )
