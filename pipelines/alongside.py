"""A thread alongside a block of work."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def alongside(run: Callable[[threading.Event], None]) -> Iterator[None]:
    """Runs it in a thread until the block ends: then its event is set, and it is to return."""
    ended = threading.Event()
    thread = threading.Thread(target=run, args=(ended,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
