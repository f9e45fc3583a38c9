"""What a replay shows while it runs: a bar on a terminal, a log line now and then elsewhere."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from pipelines.alongside import alongside
from pipelines.replay.accounts import ReplayAccounts

DRAW_EVERY_SECONDS = 0.2
LOG_EVERY_SECONDS = 10

log = logging.getLogger(__name__)


@contextlib.contextmanager
def shown(accounts: ReplayAccounts, max_messages: int | None) -> Iterator[None]:
    """Shows the accounts until the block ends."""
    console = Console(stderr=True)
    show = _draw if console.is_terminal else _log
    with alongside(partial(show, console, accounts, max_messages)):
        yield


def _draw(console: Console, accounts: ReplayAccounts, total: int | None, ended: threading.Event) -> None:
    columns = (
        BarColumn(bar_width=20),
        *(
            TextColumn(f"{{task.fields[{name}]:>10,}} {name}")
            for name in ("sent", "acked", "failed", "pending")
        ),
        TextColumn("{task.fields[rate]:>9,} msg/s"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, auto_refresh=False) as bars:
        task = bars.add_task("replay", total=total, sent=0, acked=0, failed=0, pending=0, rate=0)
        while not ended.wait(DRAW_EVERY_SECONDS):
            seconds = bars.tasks[task].elapsed or 0
            rate = round(accounts.acked / seconds) if seconds else 0
            fields: dict[str, Any] = {"rate": rate, **_numbers(accounts)}
            bars.update(task, completed=accounts.acked, **fields)
            bars.refresh()


def _log(_: Console, accounts: ReplayAccounts, total: int | None, ended: threading.Event) -> None:
    started = time.monotonic()
    while not ended.wait(LOG_EVERY_SECONDS):
        numbers = ", ".join(f"{number:,} {name}" for name, number in _numbers(accounts).items())
        log.info("%s, %s msg/s", numbers, f"{accounts.acked / (time.monotonic() - started):,.0f}")


def _numbers(accounts: ReplayAccounts) -> dict[str, int]:
    return {
        "sent": accounts.sent,
        "acked": accounts.acked,
        "failed": accounts.undelivered.total(),
        "pending": accounts.pending,
    }
