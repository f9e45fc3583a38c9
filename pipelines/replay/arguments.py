"""The command line of a replay."""

from __future__ import annotations

import argparse
import glob
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import urlsplit

from pipelines.kafka_properties import check, given_properties
from pipelines.replay.options import (
    DEFAULT_URL,
    DEFAULT_VEHICLE,
    FOLDER,
    PACED_BATCH,
    UNBOUNDED_BATCH,
    parser,
)
from pipelines.replay.properties import DEFAULTS
from pipelines.replay.topics import TOPICS, default_dead_letter_topic
from schemas.feed import Feed
from schemas.feeds import FEEDS
from transforms.errors import UserError


@dataclass(frozen=True)
class ReplayArguments:
    """What a replay was asked to do."""

    feed: Feed
    inputs: tuple[str, ...]
    topic: str
    properties: Mapping[str, object] = field(repr=False)  # secrets are among them
    format: str
    schema_registry: str = field(repr=False)  # may hold a password
    timezone: str
    speedup: float
    rate: float | None
    max_messages: int | None
    batch_size: int
    workers: int
    loop: bool
    batch_mode: bool
    shift_to_now: bool
    deterministic: int | None
    dry_run: bool
    create_topics: bool
    partitions: int | None
    replication_factor: int
    dead_letters: str
    dead_letter_topic: str | None
    inject: Mapping[str, float]
    seed: int
    late_seconds: float
    manifest: str
    metrics_host: str
    metrics_port: int | None


def parse_arguments(argv: Sequence[str] | None, environment: Mapping[str, str]) -> ReplayArguments:
    """The arguments of a replay; the process's own when `argv` is None.

    UserError for a file that is missing, a secret on the command line, or a property that librdkafka refuses.
    SystemExit with status 2 for a command line that does not parse, as argparse does.
    """
    given = parser().parse_args(argv)
    feed = _feed(given)
    topic = given.topic or environment.get("KAFKA_TOPIC") or next(iter(TOPICS[feed.name]))
    if given.loop and given.batch_mode:
        raise UserError("--loop never ends: it cannot be read into memory by --batch_mode")
    paced = given.rate is not None or given.speedup > 0
    dead_letter_topic = given.dead_letter_topic
    started = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    inject = dict(given.inject)
    if sum(inject.values()) > 1:
        raise UserError(f"--inject: the shares add up to {sum(inject.values()):g}, more than 1")
    return ReplayArguments(
        feed=feed,
        inputs=_matching(given.input),
        topic=topic,
        properties={} if given.dry_run else _properties(given, environment),
        format=given.format,
        schema_registry=_registry(given.schema_registry, environment),
        timezone=given.timezone,
        speedup=given.speedup,
        rate=given.rate,
        max_messages=given.max_messages,
        batch_size=given.batch_size or (PACED_BATCH if paced else UNBOUNDED_BATCH),
        workers=given.workers,
        loop=given.loop,
        batch_mode=given.batch_mode,
        shift_to_now=given.shift_to_now,
        deterministic=given.deterministic,
        dry_run=given.dry_run,
        create_topics=given.create_topics,
        partitions=given.partitions,
        replication_factor=given.replication_factor,
        dead_letters=given.dead_letters or f"{FOLDER}/{topic}-{started}.dead_letters.parquet",
        dead_letter_topic=default_dead_letter_topic(topic) if dead_letter_topic == "" else dead_letter_topic,
        inject=inject,
        seed=given.seed,
        late_seconds=given.late_seconds,
        manifest=given.manifest or f"{FOLDER}/{topic}-{started}.injected.jsonl",
        metrics_host=given.metrics_host,
        metrics_port=given.metrics_port,
    )


def _feed(given: argparse.Namespace) -> Feed:
    """The feed, its values as they are in the files, completed with what those may not say of a drive."""
    feed = FEEDS[given.feed].as_raw
    drive = {"--vehicle": given.vehicle, "--session": given.session, "--session_start": given.session_start}
    if feed.name != "detections":
        if wrong := [option for option, value in drive.items() if value is not None]:
            raise UserError(f"{wrong[0]} is for detections, not for {feed.name}")
        return feed
    made = uuid.uuid4().hex if given.deterministic is None else f"{given.deterministic}"
    start = given.session_start or datetime.now(UTC)
    return (
        feed.with_field("vehicle_id", default=given.vehicle or DEFAULT_VEHICLE)
        .with_field("session_id", default=given.session or f"session-{made}")
        .with_field("recording_timestamp", default=start)
    )


def _registry(given: str | None, environment: Mapping[str, str]) -> str:
    if given and "@" in urlsplit(given).netloc:
        raise UserError(
            "--schema_registry: a command line is no place for a secret: give SCHEMA_REGISTRY_URL"
        )
    return given or environment.get("SCHEMA_REGISTRY_URL") or DEFAULT_URL


def _properties(given: argparse.Namespace, environment: Mapping[str, str]) -> dict[str, object]:
    named = {
        "bootstrap.servers": given.bootstrap_servers,
        "compression.type": given.compression,
        "linger.ms": given.linger_ms,
    }
    merged: dict[str, object] = {
        **DEFAULTS,
        **given_properties(environment, given.kafka_config_file, given.kafka_config),
        **{name: value for name, value in named.items() if value is not None},
    }
    if "bootstrap.servers" not in merged:
        raise UserError("where is Kafka? Give --bootstrap_servers or KAFKA_BOOTSTRAP_SERVERS, or --dry_run")
    check(merged)
    return merged


def _matching(patterns: Sequence[str]) -> tuple[str, ...]:
    """The files that the globs match, each once, in the order of the arguments and then of the names."""
    found: dict[str, None] = {}
    for pattern in patterns:
        paths = [os.path.abspath(path) for path in sorted(glob.glob(pattern)) or [pattern]]
        if missing := [path for path in paths if not os.path.isfile(path)]:
            raise UserError(f"--input {missing[0]}: no such file")
        found |= dict.fromkeys(paths)
    return tuple(found)
