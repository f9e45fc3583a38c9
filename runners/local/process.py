"""One server as a process of its own, which outlives this one and is found again through its record."""

import json
import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from runners.local.errors import CannotStart
from runners.local.program import Program
from runners.local.waiting import wait_until

LAST_LINES = 15
# The start of a process as the system tells it moves a little when the clock is set.
SAME_START_SECONDS = 2.0


class ServerProcess:
    """A program that runs in the background, its log and its record beside each other in a folder."""

    def __init__(self, program: Program, folder: Path) -> None:
        self.program = program
        self.name = program.name
        self.log = folder / f"{program.name}.log"
        self.record = ProcessRecord(folder / f"{program.name}.pid.json")
        self._child: psutil.Popen | None = None
        self._log_before = 0

    def __repr__(self) -> str:
        return f"<{self.name} {f'pid {self.pid}' if self.running else 'not running'}>"

    @property
    def pid(self) -> int | None:
        process = self.record.process()
        return process.pid if process else None

    @property
    def running(self) -> bool:
        if self._child is not None:
            self._child.poll()  # else a dead child stays a zombie
        return self.record.process() is not None

    def start(self) -> None:
        """Start and wait until ready; nothing happens when it runs already."""
        self.spawn()
        self.wait_until_ready()

    def spawn(self) -> None:
        if self.running:
            return
        command = self.program.command()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._log_before = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self._child = psutil.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.program.environment},
                cwd=self.log.parent,
                start_new_session=True,  # Ctrl-C in the terminal is for the command, not for its servers
            )
        self.record.write(self._child)

    def wait_until_ready(self) -> None:
        within = self.program.ready_within
        ready = wait_until(lambda: self.program.ready() or not self.running, within=within)
        if not self.running:
            raise CannotStart(f"{self.name} ended while it started; {self._log_tail()}")
        if not ready:
            raise CannotStart(f"{self.name} was not ready after {within:.0f} s; {self._log_tail()}")

    def ready(self) -> bool:
        return self.running and self.program.ready()

    def kill(self) -> None:
        """SIGKILL, as a crash would end it."""
        self.record.end(patience=0)

    def stop(self, patience: float = 20) -> None:
        """SIGTERM, and SIGKILL to what is left after so many seconds."""
        self.record.end(patience)

    def _log_tail(self) -> str:
        with self.log.open("rb") as log:
            log.seek(self._log_before)
            lines = log.read().decode(errors="replace").splitlines()
        return "\n  ".join([f"the end of {self.log}:", *(lines[-LAST_LINES:] or ["(empty)"])])


class ProcessRecord:
    """A file with the pid and the start of a process, so that no signal ever reaches another one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        return self.path.name.removesuffix(".pid.json")

    def write(self, process: psutil.Process) -> None:
        unfinished = self.path.with_suffix(".new")
        unfinished.write_text(json.dumps({"pid": process.pid, "started": process.create_time()}))
        unfinished.replace(self.path)

    def process(self) -> psutil.Process | None:
        """The recorded process while it lives, and never one that only has its number."""
        try:
            recorded = json.loads(self.path.read_text())
            process = psutil.Process(recorded["pid"])
            same = abs(process.create_time() - recorded["started"]) < SAME_START_SECONDS
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except (FileNotFoundError, psutil.NoSuchProcess):
            return None

    def end(self, patience: float) -> None:
        end_all([self], patience)


def end_all(records: Sequence[ProcessRecord], patience: float) -> None:
    """End the recorded processes and their children: at once for no patience, else SIGTERM first."""
    servers = [process for record in records if (process := record.process())]
    children = [child for server in servers for child in _children(server)]
    alive = [*servers, *children]
    if patience > 0:
        for process in alive:
            _signal(process.terminate)
        _, alive = psutil.wait_procs(alive, timeout=patience)
    for process in alive:
        _signal(process.kill)
    _, undying = psutil.wait_procs(alive, timeout=10)
    if undying:
        raise TimeoutError(f"still there 10 s after SIGKILL: {undying}")
    for record in records:
        record.path.unlink(missing_ok=True)


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _signal(send: Callable[[], None]) -> None:
    try:
        send()
    except psutil.NoSuchProcess:
        return
