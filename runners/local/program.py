"""What a server process is, as data: what it runs and when it is ready."""

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from runners.local.jars import fetch_jars
from runners.local.java import find_java

DATED_LOG = (
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd HH:mm:ss.SSS",
)


@dataclass(frozen=True, kw_only=True)
class Program(ABC):
    name: str
    ready: Callable[[], bool]
    environment: Mapping[str, str] = field(default_factory=dict)
    ready_within: float = 90

    @abstractmethod
    def command(self) -> list[str]:
        """The command line; asked for only when it is run, for it may fetch what it needs."""


@dataclass(frozen=True, kw_only=True)
class JavaProgram(Program):
    jars: str
    main: str
    arguments: Sequence[str] = ()
    options: Sequence[str] = ()
    configuration: Path | None = None
    """A folder that stands before the jars on the class path."""

    def command(self) -> list[str]:
        java = find_java()
        class_path = f"{fetch_jars(self.jars)}/*"
        if self.configuration:
            class_path = f"{self.configuration}{os.pathsep}{class_path}"
        return [str(java), *self.options, "-cp", class_path, self.main, *self.arguments]


@dataclass(frozen=True, kw_only=True)
class PythonProgram(Program):
    module: str
    arguments: Sequence[str] = ()

    def command(self) -> list[str]:
        return [sys.executable, "-m", self.module, *self.arguments]
