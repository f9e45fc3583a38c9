"""A command by a user who may not write everywhere."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def unprivileged(*command: str) -> subprocess.CompletedProcess[str]:
    """Runs it; root may write everywhere, unless it gives that up."""
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root, and no setpriv to give up its rights: apt-get install util-linux")
        command = ("setpriv", "--bounding-set=-all", *command)
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
