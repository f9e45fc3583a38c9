"""Where the runners keep what they fetch, and what local services write."""

import atexit
import shutil
import tempfile
from pathlib import Path

import platformdirs

APPLICATION = "sensor-feeds"


def cache_folder() -> Path:
    """What can be fetched or built again: jars, Prism's binary."""
    return platformdirs.user_cache_path(APPLICATION)


def state_folder() -> Path:
    """What services and jobs write: topics, checkpoints, logs."""
    return platformdirs.user_state_path(APPLICATION)


def temporary_folder(prefix: str) -> Path:
    """A new one, kept until this process ends."""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
