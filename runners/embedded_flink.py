"""The Flink inside Beam's job server: it has a REST interface, and ends with the process that started it."""

from __future__ import annotations

import re
import shlex
import shutil
from functools import cache
from pathlib import Path

from runners.folders import state_folder, temporary_folder
from runners.local.ports import LOOPBACK, free_ports

FILE = "flink-conf.yaml"
CONFIGURATION = """\
rest.address: {host}
rest.bind-address: {host}
rest.port: {port}
metrics.fetcher.update-interval: 1000
state.savepoints.dir: {savepoints}
"""


def embedded_configuration() -> Path:
    """A folder for --flink_conf_dir, kept until this process ends; the port in it is a free one."""
    folder = temporary_folder("flink-")
    savepoints = (state_folder() / "savepoints").as_uri()
    (folder / FILE).write_text(
        CONFIGURATION.format(host=LOOPBACK, port=next(free_ports()), savepoints=savepoints)
    )
    return folder


@cache
def java_of_this_process(java: Path) -> Path:
    """A launcher of that Java whose process ends when this one does, even where this one is killed.

    Without it the job of a killed launcher goes on, beside the one that is started in its place. Linux alone
    has this. Ctrl+C, which a terminal sends to all processes, is left to this one, which stops the job.
    """
    setpriv = shutil.which("setpriv")
    command = shlex.join([setpriv, "--pdeathsig", "TERM", str(java)] if setpriv else [str(java)])
    launcher = temporary_folder("flink-") / "java"
    launcher.write_text(f"#!/bin/sh\ntrap '' INT\nexec {command} \"$@\"\n")
    launcher.chmod(0o700)
    return launcher


def embedded_rest_url(folder: str | None) -> str | None:
    """The REST interface of a Flink with that configuration; None where it has none of a known port."""
    file = Path(folder, FILE) if folder else None
    port = (
        re.search(r"^rest\.port: (\d+)$", file.read_text(), re.MULTILINE) if file and file.exists() else None
    )
    return f"http://{LOOPBACK}:{port[1]}" if port else None
