"""Beam's Flink runner, with a job server that is spoken to as soon as it listens."""

import logging
import subprocess
import time

from apache_beam.options.pipeline_options import JobServerOptions, PipelineOptions
from apache_beam.portability.api import beam_job_api_pb2_grpc
from apache_beam.runners.portability import flink_runner
from apache_beam.runners.portability.job_server import JobServer, StopOnExitJobServer
from apache_beam.utils.subprocess_server import SubprocessServer

from runners.folders import temporary_folder
from runners.local.ports import accepts_connections

POLL_SECONDS, LISTENS_SECONDS = 0.02, 10


class FlinkRunner(flink_runner.FlinkRunner):
    """Gains about a second: gRPC first tries at once, in vain, and then only after one second, and 1.6."""

    def default_job_server(self, options: PipelineOptions) -> JobServer:
        server = super().default_job_server(options)
        return StopOnExitJobServer(_JobServer(options)) if isinstance(server, StopOnExitJobServer) else server


class _JobServer(JobServer):
    def __init__(self, options: PipelineOptions) -> None:
        given = options.view_as(JobServerOptions)
        given.artifacts_dir = given.artifacts_dir or str(temporary_folder("artifacts-"))
        command, endpoint = flink_runner.FlinkJarJobServer(options).subprocess_cmd_and_endpoint()
        port = int(endpoint.rpartition(":")[2])
        self._server = _ListeningServer(
            beam_job_api_pb2_grpc.JobServiceStub, command, port, logging.getLogger("FlinkJarJobServer")
        )

    def start(self) -> beam_job_api_pb2_grpc.JobServiceStub:
        return self._server.start()

    def stop(self) -> None:
        self._server.stop()


class _ListeningServer(SubprocessServer):
    def start_process(self) -> tuple[subprocess.Popen, str]:
        process, endpoint = super().start_process()
        deadline = time.monotonic() + LISTENS_SECONDS  # then gRPC waits, and says so
        while process.poll() is None and time.monotonic() < deadline and not accepts_connections(self._port):
            time.sleep(POLL_SECONDS)
        return process, endpoint
