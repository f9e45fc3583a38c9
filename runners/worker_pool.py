"""Python workers on this machine: processes forked from one that has imported already what they run."""

from __future__ import annotations

import atexit
import contextlib
import logging
import signal
import threading
from multiprocessing import get_context
from multiprocessing.forkserver import ensure_running
from multiprocessing.process import BaseProcess

import grpc
from apache_beam.portability.api import beam_fn_api_pb2 as messages
from apache_beam.portability.api import beam_fn_api_pb2_grpc as services
from apache_beam.runners.worker import data_plane
from apache_beam.runners.worker.sdk_worker import SdkHarness
from apache_beam.runners.worker.statesampler import StateSampler
from apache_beam.utils.thread_pool_executor import shared_unbounded_instance

from runners.local.ports import LOOPBACK

FORKED = get_context("forkserver")
ENDING_SECONDS = 10
SAMPLING_MILLIS = 5


class WorkerPool(services.BeamFnExternalWorkerPoolServicer):
    """Starts and stops the workers that a runner asks for, as its EXTERNAL environment.

    Beam's own pool starts each as a new Python, which takes most of a second of a core to import Beam and
    the pipeline. Here they are imported once: say what with `multiprocessing.set_forkserver_preload`.
    """

    def __init__(self, state_cache_bytes: int) -> None:
        self._state_cache_bytes = state_cache_bytes
        self._workers: dict[str, BaseProcess] = {}

    def StartWorker(
        self, request: messages.StartWorkerRequest, context: grpc.ServicerContext
    ) -> messages.StartWorkerResponse:
        arguments = request.control_endpoint.url, request.worker_id, self._state_cache_bytes
        worker = FORKED.Process(target=_work, args=arguments, daemon=True)
        worker.start()
        self._workers[request.worker_id] = worker
        return messages.StartWorkerResponse()

    def StopWorker(
        self, request: messages.StopWorkerRequest, context: grpc.ServicerContext
    ) -> messages.StopWorkerResponse:
        if worker := self._workers.pop(request.worker_id, None):
            worker.terminate()
            worker.join(ENDING_SECONDS)
            worker.kill()
        return messages.StopWorkerResponse()


def start_worker_pool(state_cache_bytes: int = 0) -> str:
    """A pool that lasts as long as this process, as do its workers; the address for --environment_config."""
    ensure_running()  # it imports while the pipeline is built and the runner starts
    server = grpc.server(shared_unbounded_instance())
    port = server.add_insecure_port(f"{LOOPBACK}:0")
    services.add_BeamFnExternalWorkerPoolServicer_to_server(WorkerPool(state_cache_bytes), server)
    server.start()
    atexit.register(server.stop, None)
    return f"{LOOPBACK}:{port}"


def _work(control: str, worker_id: str, state_cache_bytes: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C goes to all; the launcher stops the job
    threading.excepthook = _end_of_a_thread
    logging.getLogger(data_plane.__name__).setLevel(logging.CRITICAL)  # it prints of one too
    # A bundle's end waits for the thread that samples what its time goes into: by default up to 200 ms.
    StateSampler.__init__.__defaults__ = (SAMPLING_MILLIS,)
    with contextlib.suppress(grpc.RpcError):  # the runner has gone, and with it the work
        SdkHarness(control, worker_id=worker_id, state_cache_size=state_cache_bytes).run()


def _end_of_a_thread(end: threading.ExceptHookArgs) -> None:
    """Threads that wait for a runner end with this error when it has gone; what is run for it is told it."""
    if not issubclass(end.exc_type, grpc.RpcError):
        threading.__excepthook__(end)
