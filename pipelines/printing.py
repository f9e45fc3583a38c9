"""What a command prints: lines to a reader who may leave, as `head` does, and what is wrong."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable


def print_lines(lines: Iterable[str]) -> None:
    """Prints the lines, each as soon as it is there, until their end or until nobody reads any more."""
    try:
        for line in lines:
            print(line, flush=True)
    except BrokenPipeError:  # what is still buffered must not fail at the interpreter's end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def fail(message: str) -> int:
    """Says what is wrong in one line on stderr; returns the exit status that goes with it."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return 2
