"""The peers of `tests.benchmarks.stream`, in environments of their own: their packages conflict with ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from runners.folders import cache_folder
from runners.local.jars import find_maven
from runners.local.java import find_java

COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy"
FLINK = "2.3.0"
FLINK_JARS = (
    "org.apache.flink:flink-sql-connector-kafka:5.0.0-2.2",
    f"org.apache.flink:flink-sql-parquet:{FLINK}",
    "org.apache.hadoop:hadoop-client-api:3.4.2",
    "org.apache.hadoop:hadoop-client-runtime:3.4.2",
)


class NotInstalled(Exception):
    """A peer's packages do not install here; the message says which."""


def flink_python() -> Path:
    """The Python of an environment with PyFlink and its connectors, made when first asked for.

    NotInstalled when pip or Maven does not find them.
    """
    folder = cache_folder() / "peers" / f"pyflink-{FLINK}"
    python, complete = folder / "bin" / "python", folder / "complete"
    if not complete.exists():
        _run(sys.executable, "-m", "venv", str(folder))
        _run(str(python), "-m", "pip", "install", "--quiet", f"apache-flink=={FLINK}")
        (jars,) = folder.glob("lib/python*/site-packages/pyflink/lib")
        for coordinates in FLINK_JARS:
            copy = [COPY, f"-Dartifact={coordinates}", f"-DoutputDirectory={jars}"]
            _run(find_maven(), "--batch-mode", "--quiet", *copy)
        complete.touch()
    return python


def environment() -> dict[str, str]:
    """A peer's own: it is to find its packages, not ours, and Java."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return {**ours, "JAVA_HOME": str(find_java().resolve().parent.parent)}


def _run(*command: str) -> None:
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode:
        said = (answer.stderr or answer.stdout).strip().splitlines() or ["nothing"]
        raise NotInstalled(f"{' '.join(command[:4])} said: {said[-1]}")
