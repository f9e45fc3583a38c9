"""A Flink session cluster, JobManager and TaskManagers as JVMs of their own, with Beam's job server."""

import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import requests

from runners.local.jars import JOB_SERVER, OPENED_PACKAGES
from runners.local.ports import LOOPBACK, accepts_connections
from runners.local.process import ServerProcess
from runners.local.program import DATED_LOG, JavaProgram, Program, PythonProgram
from runners.local.service import Service
from runners.local.web import answers, get_json

PROJECT = Path(__file__).parents[2]
SLOTS = 2
ADD_OPENS = tuple(f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in OPENED_PACKAGES)
SMALL = ("-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")

# Without Flink's shell scripts a TaskManager computes no memory sizes: each must stand here.
CONFIGURATION = {
    "jobmanager.rpc.address": "{host}",
    "jobmanager.rpc.port": "{flink_rpc}",
    "jobmanager.bind-host": "{host}",
    "jobmanager.memory.process.size": "1g",
    "rest.address": "{host}",
    "rest.bind-address": "{host}",
    "rest.port": "{flink}",
    "taskmanager.host": "{host}",
    "taskmanager.bind-host": "{host}",
    "taskmanager.numberOfTaskSlots": str(SLOTS),
    "taskmanager.cpu.cores": f"{SLOTS}.0",
    "taskmanager.memory.framework.heap.size": "128m",
    "taskmanager.memory.framework.off-heap.size": "128m",
    "taskmanager.memory.task.heap.size": "768m",
    "taskmanager.memory.task.off-heap.size": "128m",
    "taskmanager.memory.network.min": "128m",
    "taskmanager.memory.network.max": "128m",
    # Shuffles of a batch, which run side by side, hold so many each: for the usual 512 there is no memory.
    "taskmanager.network.sort-shuffle.min-buffers": "32",
    "taskmanager.memory.managed.size": "256m",
    "taskmanager.memory.jvm-metaspace.size": "256m",
    "taskmanager.memory.jvm-overhead.min": "192m",
    "taskmanager.memory.jvm-overhead.max": "192m",
    "parallelism.default": "2",
    "state.backend.type": "hashmap",
    "state.checkpoints.dir": "file://{folder}/checkpoints",
    "state.savepoints.dir": "file://{folder}/savepoints",
    "state.checkpoints.num-retained": "2",
    # A cancelled or failed job can be taken up again: --savepoint_path=file://…/chk-N
    "execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
    "metrics.fetcher.update-interval": "1000",
    "heartbeat.interval": "2000",
    "heartbeat.timeout": "10000",
    "pekko.ask.timeout": "30s",
    # The jars of Beam's runner are on the cluster's own class path.
    "classloader.resolve-order": "parent-first",
    "io.tmp.dirs": "{folder}/temporary",
}


class FlinkCluster(Service):
    name = "flink"
    port_names = ("flink", "flink_rpc", "job_server", "artifacts", "workers")

    def __init__(
        self,
        folder: Path | str,
        *,
        task_managers: int | None = None,
        worker_pool: bool | None = None,
        configuration: Mapping[str, str] | None = None,
        port: int | None = None,
    ) -> None:
        """`configuration` goes into flink-conf.yaml over what stands there.

        With nothing said, TaskManagers and worker pool are as they run already: else one and none.
        """
        before = {path.name.partition(".")[0] for path in Path(folder).glob("*.pid.json")}
        self._task_managers = task_managers or len(before - {"job_manager", "job_server", "worker_pool"}) or 1
        self._worker_pool = worker_pool or "worker_pool" in before
        self._configuration = configuration or {}
        super().__init__(folder, {"flink": port})
        self.job_manager, self.job_server, *rest = self.processes
        self.task_managers = rest[: self._task_managers]
        self.worker_pool = rest[self._task_managers] if self._worker_pool else None

    @property
    def rest_url(self) -> str:
        return f"http://{LOOPBACK}:{self.ports['flink']}"

    @property
    def job_endpoint(self) -> str:
        return f"{LOOPBACK}:{self.ports['job_server']}"

    @property
    def artifact_endpoint(self) -> str:
        return f"{LOOPBACK}:{self.ports['artifacts']}"

    @property
    def address(self) -> str:
        return self.rest_url

    @property
    def flags(self) -> list[str]:
        master = self.rest_url.removeprefix("http://")
        submit = ["--runner=FlinkRunner", f"--job_endpoint={self.job_endpoint}", f"--flink_master={master}"]
        if self._worker_pool:
            workers = f"{LOOPBACK}:{self.ports['workers']}"
            return [*submit, "--environment_type=EXTERNAL", f"--environment_config={workers}"]
        return submit

    def registered_task_managers(self) -> list[str]:
        """The names of the TaskManagers the JobManager knows."""
        return sorted(each["id"] for each in self._known_task_managers())

    def busy_task_managers(self) -> list[ServerProcess]:
        """Those that run a part of a job."""
        busy = {each["id"] for each in self._known_task_managers() if each["freeSlots"] < each["slotsNumber"]}
        return [process for process in self.task_managers if process.name in busy]

    def programs(self) -> list[Program]:
        configuration = ["--configDir", str(self._conf)]
        job_manager = self._java(
            "job_manager",
            "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint",
            arguments=configuration,
            options=SMALL,
            ready=lambda: answers(f"{self.rest_url}/overview"),
        )
        job_server = self._java(
            "job_server",
            JOB_SERVER,
            arguments=[
                f"--job-host={LOOPBACK}",
                f"--job-port={self.ports['job_server']}",
                f"--artifact-port={self.ports['artifacts']}",
                "--expansion-port=0",
                f"--flink-master={LOOPBACK}:{self.ports['flink']}",
                f"--flink-conf-dir={self._conf}",
                f"--artifacts-dir={self.folder / 'artifacts'}",
            ],
            options=SMALL,
            ready=lambda: accepts_connections(self.ports["job_server"]),
        )
        task_managers = [
            self._java(
                name,
                "org.apache.flink.runtime.taskexecutor.TaskManagerRunner",
                arguments=[*configuration, f"-Dtaskmanager.resource-id={name}"],
                options=["-Xmx1g", "-XX:MaxDirectMemorySize=400m", "-XX:MaxMetaspaceSize=256m"],
                ready=self._registered(name),
            )
            for name in (f"task_manager_{number}" for number in range(self._task_managers))
        ]
        return [job_manager, job_server, *task_managers, *([self._pool()] if self._worker_pool else [])]

    def stop(self, patience: float = 20) -> None:
        super().stop(patience)
        # Every job leaves copies of its class path, 150 MB each, which a killed cluster does not clear away.
        for leftover in ("artifacts", "temporary"):
            shutil.rmtree(self.folder / leftover, ignore_errors=True)

    def prepare(self) -> None:
        for needed in ("temporary", "checkpoints", "savepoints", "conf"):
            (self.folder / needed).mkdir(parents=True, exist_ok=True)
        known = {**self.ports, "host": LOOPBACK, "folder": self.folder}
        usual = {name: value.format_map(known) for name, value in CONFIGURATION.items()}
        lines = {**usual, **self._configuration}
        (self._conf / "flink-conf.yaml").write_text(
            "".join(f"{name}: {value}\n" for name, value in lines.items())
        )

    @property
    def _conf(self) -> Path:
        return self.folder / "conf"

    def _known_task_managers(self) -> list[dict[str, Any]]:
        return get_json(f"{self.rest_url}/taskmanagers")["taskmanagers"]

    def _java(self, name: str, main: str, *, options: Sequence[str], **more: Any) -> JavaProgram:
        return JavaProgram(
            name=name, jars="flink", main=main, options=[*ADD_OPENS, *DATED_LOG, *options], **more
        )

    def _pool(self) -> PythonProgram:
        port = self.ports["workers"]
        return PythonProgram(
            name="worker_pool",
            module="apache_beam.runners.worker.worker_pool_main",
            arguments=[f"--service_port={port}"],
            environment={
                # The pool starts a plain `python` for each worker; and jobs import this project's packages.
                "PATH": os.pathsep.join(
                    [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
                ),
                "PYTHONPATH": os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")]),
            },
            ready=lambda: accepts_connections(port),
        )

    def _registered(self, name: str) -> Callable[[], bool]:
        def registered() -> bool:
            try:
                return name in self.registered_task_managers()
            except requests.RequestException:
                return False

        return registered
