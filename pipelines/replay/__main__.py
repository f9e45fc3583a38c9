"""The replay as a command; see `pipelines.replay.arguments` for what it takes."""

from __future__ import annotations

if __name__ == "__main__":
    import pipelines.replay.without_pandas  # noqa: F401 - before anything uses pyarrow

import contextlib
import gc
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import pyarrow as pa

from pipelines.printing import fail, print_lines
from pipelines.replay.accounts import ReplayAccounts
from pipelines.replay.arguments import ReplayArguments, parse_arguments
from pipelines.replay.dead_letters import DeadLetterFile, DeadLetterTopic
from pipelines.replay.delivery import Delivery, Undeliverable
from pipelines.replay.dry_run import dry_run
from pipelines.replay.inject import Injector, Manifest
from pipelines.replay.latencies import Latencies
from pipelines.replay.pace import EventTimePace, Pace, RatePace, Unbounded
from pipelines.replay.portions import Encode, Portion, Source, made_ahead
from pipelines.replay.progress import shown
from pipelines.replay.sending import Sender
from pipelines.replay.stopping import Stop, stoppable
from pipelines.replay.topics import Broker, prepare, topics_of
from transforms.errors import UserError
from transforms.json_messages import to_json
from transforms.kafka_statistics import RepeatedRequests

STATISTICS_EVERY_MS = 1_000


class Outcome(NamedTuple):
    """How a replay has ended: `failure` is what ended it early, if anything did; `status` its exit status."""

    accounts: ReplayAccounts
    dead_letters: str | None
    failure: str | None
    status: int


def replay(arguments: ReplayArguments, stop: Stop) -> Outcome:
    """Replays the files. UserError when it cannot even begin."""
    needed = [topic for topic in (arguments.topic, arguments.dead_letter_topic) if topic]
    topics = topics_of(
        arguments.feed.name, arguments.topic, arguments.dead_letter_topic, arguments.partitions
    )
    file = DeadLetterFile(arguments.dead_letters)
    prepare(
        Broker(arguments.properties), needed, topics, arguments.create_topics, arguments.replication_factor
    )
    source = source_of(arguments, encoder(arguments))
    accounts, latencies, repeated = ReplayAccounts(), Latencies(), RepeatedRequests()
    unusable = None
    with contextlib.ExitStack() as ending:
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
            repeated.note,
        )
        if arguments.metrics_port is not None:
            from pipelines.metrics_server import served  # only now: most replays serve none
            from pipelines.replay.metrics import ReplayMetrics

            metrics = ReplayMetrics(accounts, delivery, latencies, repeated)
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
        ending.enter_context(shown(accounts, arguments.max_messages))
        try:
            with (
                made_ahead(source.pieces(), source.portion, workers_of(arguments)) as portions,
                contextlib.suppress(Undeliverable),
            ):
                sender.run(prepared(arguments, portions))
        except UserError as error:  # a damaged file: what was read before is sent and accounted for
            unusable = str(error)
        finally:
            delivery.finish(lambda: stop.at_once)
    failed = delivery.failure or accounts.undelivered or not accounts.balanced
    status = 128 + stop.signal if stop.signal else 2 if unusable else 1 if failed else 0
    return Outcome(accounts, file.path if file.written else None, unusable or delivery.failure, status)


def workers_of(arguments: ReplayArguments) -> int:
    return 1 if arguments.shift_to_now else arguments.workers  # times are shifted in order


def prepared(arguments: ReplayArguments, portions: Iterator[Portion]) -> Iterator[Portion]:
    if arguments.batch_mode:
        portions = iter(list(portions))
    if arguments.inject:
        return Injector(arguments.inject, arguments.seed, arguments.late_seconds).inject(portions)
    return portions


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


def as_json(messages: pa.RecordBatch, columns: Sequence[str]) -> pa.StringArray:
    return to_json(messages.select(columns))


def encoder(arguments: ReplayArguments) -> Encode:
    """How messages become bytes. UserError when the schema registry refuses or cannot be reached."""
    if arguments.format == "json":
        return as_json
    from schemas.avro import avro_schema  # only now: a replay of JSON needs none of it in memory
    from transforms.avro_messages import encode_avro
    from transforms.schema_registry import SchemaRegistry

    schema = avro_schema(arguments.feed)
    schema_id = SchemaRegistry(arguments.schema_registry).register(arguments.topic, schema)
    return lambda messages, columns: encode_avro(messages, schema, schema_id)


def closing_lines(arguments: ReplayArguments, outcome: Outcome, seconds: float) -> Iterator[str]:
    """The accounts, a line each, ending with where to look next."""
    yield from outcome.accounts.lines(seconds)
    if outcome.accounts.injected:
        yield f"injected         {arguments.manifest}"
    if outcome.dead_letters:
        yield f"look next        {outcome.dead_letters}"
    elif outcome.accounts.refused:
        yield f"look next        topic {arguments.dead_letter_topic}"


def main(argv: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ) -> int:
    """Runs the replay; returns its exit status."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    logging.getLogger("pipelines").setLevel(logging.INFO)
    pa.set_memory_pool(pa.system_memory_pool())  # the others keep tens of MB that they no longer need
    gc.freeze()  # what is loaded by now stays: no collection need look at it again
    started = time.monotonic()
    with stoppable() as stop:
        try:
            arguments = parse_arguments(argv, environment)
            if arguments.dry_run:
                print_lines(dry_run(source_of(arguments, as_json), workers_of(arguments), stop))
                return 128 + stop.signal if stop.signal else 0
            outcome = replay(arguments, stop)
        except UserError as error:
            return fail(str(error))
    print_lines(closing_lines(arguments, outcome, time.monotonic() - started))
    if outcome.failure:
        fail(outcome.failure)
    return outcome.status


if __name__ == "__main__":
    sys.exit(main())
