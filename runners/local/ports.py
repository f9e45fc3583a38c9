"""Loopback ports for servers of our own."""

import random
import socket
from collections.abc import Iterator

LOOPBACK = "127.0.0.1"
# Below the range from which systems hand out ports for outgoing connections:
# a stopped server must find its port free when it comes back.
CANDIDATES = range(20_000, 30_000)


def free_ports() -> Iterator[int]:
    """Distinct ports nobody listens on."""
    for port in random.sample(CANDIDATES, len(CANDIDATES)):
        if is_free(port):
            yield port


def is_free(port: int) -> bool:
    with socket.socket() as listener:
        # As servers do: connections of an earlier one, still closing, are no hindrance.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def accepts_connections(port: int) -> bool:
    try:
        with socket.create_connection((LOOPBACK, port), timeout=1):
            return True
    except OSError:
        return False
