"""A local service: one or more server processes that keep ports, data and logs in one folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Self

from runners.local.errors import CannotStart
from runners.local.ports import free_ports, is_free
from runners.local.process import ProcessRecord, ServerProcess, end_all
from runners.local.program import Program


class Service:
    """Over the same folder a service has its earlier ports and data, and finds its running processes."""

    name: ClassVar[str]
    port_names: ClassVar[tuple[str, ...]]

    def __init__(self, folder: Path | str, ports: Mapping[str, int | None]) -> None:
        self.folder = Path(folder).absolute()
        self._ports_file = self.folder / "ports.json"
        remembered = json.loads(self._ports_file.read_text()) if self._ports_file.exists() else {}
        asked = {name: port for name, port in ports.items() if port}
        free = free_ports()
        self.ports: dict[str, int] = {
            name: asked.get(name) or remembered.get(name) or next(free) for name in self.port_names
        }
        self.processes = [ServerProcess(program, self.folder) for program in self.programs()]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """Where clients find it."""
        raise NotImplementedError

    @property
    def flags(self) -> list[str]:
        """What a job is given to use it."""
        raise NotImplementedError

    def programs(self) -> list[Program]:
        raise NotImplementedError

    def prepare(self) -> None:
        """Write what the programs read when they start."""

    def start(self) -> None:
        """Start what does not run yet and wait until all is ready; if that fails, end what was started."""
        new = [process for process in self.processes if not process.running]
        if new:
            self._claim_ports()
            self.prepare()
        try:
            for process in new:
                process.spawn()
            for process in self.processes:
                process.wait_until_ready()
        except BaseException:
            end_all([process.record for process in new], patience=0)
            raise

    def stop(self, patience: float = 20) -> None:
        """SIGTERM to all processes, and SIGKILL to what is left after so many seconds."""
        end_all(self.records(), patience)

    def kill(self) -> None:
        """SIGKILL to all processes, as a crash would end them."""
        self.stop(patience=0)

    def ready(self) -> bool:
        return all(process.ready() for process in self.processes)

    def records(self) -> list[ProcessRecord]:
        """The records of all processes ever started here and not ended yet, by whichever command."""
        return [ProcessRecord(path) for path in sorted(self.folder.glob("*.pid.json"))]

    def _claim_ports(self) -> None:
        if any(process.running for process in self.processes):
            return
        for name, port in self.ports.items():
            if not is_free(port):
                raise CannotStart(
                    f"{self.name}: port {port} ({name}) is taken: end the program that listens there, "
                    f"ask for another port, or delete {self._ports_file} to be given free ones"
                )
        self.folder.mkdir(parents=True, exist_ok=True)
        self._ports_file.write_text(json.dumps(self.ports))
