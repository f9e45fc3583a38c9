"""What a run shows while it works: a bar on a terminal, a log line now and then elsewhere."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from functools import partial

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from pipelines.alongside import alongside
from transforms.counters import live

DRAW_EVERY_SECONDS = 0.2
LOG_EVERY_SECONDS = 10

log = logging.getLogger(__name__)


@contextlib.contextmanager
def shown(input_bytes: int | None) -> Iterator[None]:
    """Shows rows and rows per second until the block ends; `input_bytes` is None where it is not known."""
    console = Console(stderr=True)
    show = _draw if console.is_terminal else _log
    with alongside(partial(show, console, input_bytes)):
        yield


def _draw(console: Console, input_bytes: int | None, ended: threading.Event) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[rows]:>12,} rows"),
        TextColumn("{task.fields[rate]:>11,} rows/s"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, auto_refresh=False) as bars:
        reading = bars.add_task("reading", total=input_bytes, rows=0, rate=0)
        writing = bars.add_task("writing", total=None, rows=0, rate=0, visible=False, start=False)
        while not ended.wait(DRAW_EVERY_SECONDS):
            written = live.count("grouped")
            # Headers and blank lines are no rows: the bytes of the rows alone never reach the total.
            _advance(bars, reading, live.count("read"), (written and input_bytes) or live.count("bytes"))
            if written:
                bars.start_task(writing)
                bars.update(writing, total=live.count("validated"), visible=True)
                _advance(bars, writing, written, written)
            bars.refresh()


def _advance(bars: Progress, task: TaskID, rows: int, completed: int) -> None:
    seconds = bars.tasks[task].finished_time or bars.tasks[task].elapsed or 0
    bars.update(task, completed=completed, rows=rows, rate=round(rows / seconds) if seconds else 0)


def _log(console: Console, input_bytes: int | None, ended: threading.Event) -> None:
    started = time.monotonic()
    while not ended.wait(LOG_EVERY_SECONDS):
        rows, seconds = live.count("read"), time.monotonic() - started
        log.info(
            "read %s rows (%s rows/s), wrote %s",
            f"{rows:,}",
            f"{rows / seconds:,.0f}",
            f"{live.count('grouped'):,}",
        )
