"""Printing to a reader who may leave, as `head` does."""

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
