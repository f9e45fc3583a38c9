"""The options a job needs on Prism, Beam's runner in Go: above all, where its binary is."""

import logging
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from apache_beam.version import __version__ as beam_version
from filelock import FileLock

from runners.folders import cache_folder

_LOGGER = logging.getLogger(__name__)

PACKAGE = "github.com/apache/beam/sdks/v2/go/cmd/prism"


def prism_options(user_flags: list[str]) -> list[str]:
    """The user's flags after the defaults they overrule; says in the log which defaults these are."""
    defaults = prism_defaults(user_flags)
    _LOGGER.info("on Prism, set by default: %s", " ".join(defaults) or "nothing, Beam downloads its binary")
    return [*defaults, *user_flags]


def prism_defaults(user_flags: list[str]) -> list[str]:
    if any(flag.partition("=")[0] == "--prism_location" for flag in user_flags):
        return []
    binary = find_prism() or build_prism()
    return [f"--prism_location={binary}"] if binary else []


def find_prism() -> Path | None:
    """The binary in the cache, on PATH, or where `go install` puts it."""
    cached = _cached()
    if cached.exists():
        return cached
    found = shutil.which("prism") or shutil.which("prism", path=_go_binaries())
    return Path(found) if found else None


def build_prism() -> Path | None:
    """Prism of this Beam's version, built once into the cache; nothing where there is no Go."""
    go = shutil.which("go")
    if go is None:
        return None
    cached = _cached()
    cached.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(cached.with_suffix(".lock")):
        if cached.exists():
            return cached
        module = f"{PACKAGE}@v{beam_version}"
        _LOGGER.warning("building Prism once, which takes some minutes: go install %s", module)
        with tempfile.TemporaryDirectory(dir=cached.parent) as unfinished:
            environment = {**os.environ, "GOBIN": unfinished}
            command = [go, "install", module]
            built = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if built.returncode != 0:
                _LOGGER.warning("Prism could not be built, Beam will look for it: %s", built.stderr.strip())
                return None
            Path(unfinished, "prism").rename(cached)
    return cached


def _cached() -> Path:
    return cache_folder() / "prism" / f"prism-{beam_version}"


def _go_binaries() -> str:
    folder = os.environ.get("GOBIN") or Path(os.environ.get("GOPATH") or Path.home() / "go", "bin")
    return str(folder)
