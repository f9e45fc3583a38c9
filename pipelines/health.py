"""The health of a stream, told on stderr while it runs."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator, Mapping

import apache_beam as beam

from pipelines.alongside import alongside
from pipelines.arguments import Arguments
from pipelines.metrics import by_name, shares
from pipelines.watched import figures_of
from schemas.feed import Health
from transforms.health import complaints

LOOK_SECONDS = 10
LEAST_RECORDS = 100
"""Of fewer new records nothing is said."""


class HealthWatch:
    """Compares figures with those of the last look: what was long ago does not hide what is now."""

    def __init__(self, feed: str, health: Health, read: Callable[[], Mapping[str, int]]) -> None:
        self.feed, self.health, self.read = feed, health, read
        self.before: Mapping[str, int] = {}
        self.unhealthy = False

    def look(self) -> Iterator[str]:
        """What there is to say of the records since the last look, once there are enough of them."""
        now = self.read()
        if now.get("read", 0) - self.before.get("read", 0) < LEAST_RECORDS:
            return
        since = {name: figure - self.before.get(name, 0) for name, figure in now.items()}
        self.before = now
        broken = list(complaints(self.health, *shares(by_name(since))))
        yield from (f"ALERT {self.feed}: {complaint}" for complaint in broken)
        if self.unhealthy and not broken:
            yield f"{self.feed} is healthy again"
        self.unhealthy = bool(broken)


@contextlib.contextmanager
def health_watched(arguments: Arguments, pipeline: beam.Pipeline) -> Iterator[None]:
    """Looks at the figures of the run now and then, until the block ends."""
    if arguments.feed.health is None:
        yield
        return
    watch = HealthWatch(arguments.feed.name, arguments.feed.health, figures_of(arguments, pipeline))

    def run(ended: threading.Event) -> None:
        while not ended.wait(LOOK_SECONDS):
            for line in watch.look():
                print(line, file=sys.stderr, flush=True)

    with alongside(run):
        yield
