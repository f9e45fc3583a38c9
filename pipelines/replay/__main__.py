"""The replay as a command; see `pipelines.replay.arguments` for what it takes."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence

from pipelines.replay.accounts import ReplayAccounts
from pipelines.replay.arguments import ReplayArguments, parse_arguments
from pipelines.replay.dead_letters import DeadLetterFile, DeadLetterTopic
from pipelines.replay.delivery import Delivery, Undeliverable
from pipelines.replay.dry_run import dry_run
from pipelines.replay.inject import Injector, Manifest
from pipelines.replay.metrics import Latencies, ReplayMetrics, Statistics, served
from pipelines.replay.pace import EventTimePace, Pace, RatePace, Unbounded
from pipelines.replay.portions import Encode, Source, read_ahead
from pipelines.replay.progress import shown
from pipelines.replay.sending import Sender
from pipelines.replay.stopping import Stop, stoppable
from pipelines.replay.topics import Broker, prepare
from transforms.errors import UserError
from transforms.json_messages import to_json

STATISTICS_EVERY_MS = 1_000


def replay(arguments: ReplayArguments, stop: Stop) -> tuple[ReplayAccounts, str | None]:
    """Replays the files; returns the accounts, and why it ended early if the broker was the reason.

    UserError when it cannot even begin, or a file cannot be read.
    """
    accounts = ReplayAccounts()
    topics = {arguments.topic: arguments.partitions}
    if arguments.dead_letter_topic:
        topics[arguments.dead_letter_topic] = arguments.partitions
    prepare(Broker(arguments.properties), topics, arguments.create_topics, arguments.replication_factor)
    latencies, statistics = Latencies(), Statistics()
    with contextlib.ExitStack() as ending:
        file = DeadLetterFile(arguments.dead_letters)
        ending.callback(file.close)
        bury = file.write
        if arguments.dead_letter_topic:
            letters = DeadLetterTopic(arguments.properties, arguments.dead_letter_topic, file)
            ending.callback(letters.close)
            bury = letters.write
        manifest = Manifest(arguments.manifest) if arguments.inject else None
        if manifest:
            ending.callback(manifest.close)
        watched = (
            {"statistics.interval.ms": STATISTICS_EVERY_MS} if arguments.metrics_port is not None else {}
        )
        delivery = Delivery(
            {**watched, **arguments.properties},
            arguments.topic,
            arguments.feed,
            accounts,
            file.write,
            latencies.observe,
            statistics.note,
        )
        if arguments.metrics_port is not None:
            metrics = ReplayMetrics(accounts, delivery, latencies, statistics)
            ending.enter_context(served(metrics, arguments.metrics_host, arguments.metrics_port))
        sender = Sender(
            delivery,
            pace_of(arguments),
            accounts,
            stop,
            bury,
            arguments.batch_size,
            arguments.max_messages,
            manifest,
        )
        source = source_of(arguments, encoder(arguments))
        ending.enter_context(shown(accounts, arguments.max_messages))
        portions = source.portions()
        if arguments.batch_mode:
            portions = iter(list(portions))
        if arguments.inject:
            portions = Injector(arguments.inject, arguments.seed, arguments.late_seconds).inject(portions)
        try:
            with read_ahead(portions) as ready, contextlib.suppress(Undeliverable):
                sender.run(ready)
        finally:
            delivery.finish(lambda: stop.at_once)
    return accounts, delivery.failure


def pace_of(arguments: ReplayArguments) -> Pace:
    if arguments.rate is not None:
        return RatePace(arguments.rate)
    return EventTimePace(arguments.speedup) if arguments.speedup else Unbounded()


def source_of(arguments: ReplayArguments, encode: Encode) -> Source:
    return Source(
        arguments.inputs,
        arguments.feed,
        encode,
        arguments.timezone,
        arguments.loop,
        time.time_ns() // 1000 if arguments.shift_to_now else None,
        arguments.deterministic,
    )


def encoder(arguments: ReplayArguments) -> Encode:
    """How messages become bytes. UserError when the schema registry refuses or cannot be reached."""
    if arguments.format == "json":
        return lambda messages, columns: to_json(messages.select(columns))
    from schemas.avro import avro_schema
    from transforms.avro import encode_avro
    from transforms.schema_registry import SchemaRegistry

    schema = avro_schema(arguments.feed)
    schema_id = SchemaRegistry(arguments.schema_registry).register(arguments.topic, schema)
    return lambda messages, columns: encode_avro(messages, schema, schema_id)


def closing_lines(arguments: ReplayArguments, accounts: ReplayAccounts, seconds: float) -> Iterator[str]:
    """The accounts, a line each, ending with where to look next."""
    yield from accounts.lines(seconds)
    if accounts.injected:
        yield f"injected         {arguments.manifest}"
    if os.path.exists(arguments.dead_letters):
        yield f"look next        {arguments.dead_letters}"
    elif accounts.refused:
        yield f"look next        topic {arguments.dead_letter_topic}"


def main(argv: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ) -> int:
    """Runs the replay; returns its exit status."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    logging.getLogger("pipelines").setLevel(logging.INFO)
    started = time.monotonic()
    with stoppable() as stop:
        try:
            arguments = parse_arguments(argv, environment)
            if arguments.dry_run:
                for line in dry_run(
                    source_of(arguments, lambda m, columns: to_json(m.select(columns))), stop
                ):
                    print(line)
                return 128 + stop.signal if stop.signal else 0
            accounts, failure = replay(arguments, stop)
        except UserError as error:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            return 2
    for line in closing_lines(arguments, accounts, time.monotonic() - started):
        print(line)
    if failure:
        print(f"error: {' '.join(failure.split())}", file=sys.stderr)
    if stop.signal:
        return 128 + stop.signal
    return 1 if failure or accounts.undelivered or not accounts.balanced else 0


if __name__ == "__main__":
    sys.exit(main())
