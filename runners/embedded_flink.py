"""The Flink inside Beam's job server: a configuration that gives it a REST interface."""

from __future__ import annotations

import atexit
import re
import shutil
import tempfile
from pathlib import Path

from runners.local.ports import LOOPBACK, free_ports

FILE = "flink-conf.yaml"
CONFIGURATION = """\
rest.address: {host}
rest.bind-address: {host}
rest.port: {port}
metrics.fetcher.update-interval: 1000
"""


def embedded_configuration() -> Path:
    """A folder for --flink_conf_dir, kept until this process ends; the port in it is a free one."""
    folder = Path(tempfile.mkdtemp(prefix="flink-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / FILE).write_text(CONFIGURATION.format(host=LOOPBACK, port=next(free_ports())))
    return folder


def embedded_rest_url(folder: str | None) -> str | None:
    """The REST interface of a Flink with that configuration; None where it has none of a known port."""
    file = Path(folder, FILE) if folder else None
    port = (
        re.search(r"^rest\.port: (\d+)$", file.read_text(), re.MULTILINE) if file and file.exists() else None
    )
    return f"http://{LOOPBACK}:{port[1]}" if port else None
