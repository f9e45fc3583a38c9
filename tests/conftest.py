"""Fixtures for all tests."""

import logging
import threading
from collections.abc import Iterator

import pytest

pytest_plugins = ["tests.services"]


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """A test that runs a real `main()` leaves log handlers behind, on a stream that ends with the test."""
    root, hook = logging.getLogger(), threading.excepthook
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    threading.excepthook = hook
