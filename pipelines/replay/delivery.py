"""Delivery: messages to the broker, and for each that it does not take a dead letter."""

from __future__ import annotations

import itertools
import logging
import time
import weakref
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pyarrow as pa
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from pipelines.replay.accounts import ReplayAccounts, reasons_of
from schemas.feed import Feed
from transforms.dead_letters import Failure, to_dead_letters
from transforms.partitions import CONNECTION_REMEDIES

FLUSH_SECONDS = 0.2
FULL_QUEUE_SECONDS = 0.005
PENDING_MESSAGES = 16_000
PENDING_BYTES = 8 << 20
THE_KEYS_PARTITION = -1
AT_ONCE = 1_024

# What to do about an error that no retry has cured.
REMEDIES = {
    **CONNECTION_REMEDIES,
    KafkaError.UNKNOWN_TOPIC_OR_PART: "create it with --create_topics, or name another with --topic",
    KafkaError._UNKNOWN_TOPIC: "create it with --create_topics, or name another with --topic",
    KafkaError._UNKNOWN_PARTITION: "its partitions have changed: start the replay again",
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "have this user allowed to write to it, or name another user",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "have this user allowed to write to a topic, or IdempotentWrite",
    KafkaError.SASL_AUTHENTICATION_FAILED: "put right KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD",
    KafkaError._FATAL: "the idempotent producer cannot go on: start the replay again",
    KafkaError.UNSUPPORTED_COMPRESSION_TYPE: "choose another --compression",
    KafkaError.MSG_SIZE_TOO_LARGE: "raise message.max.bytes, and max.message.bytes of the topic",
    KafkaError._MSG_TIMED_OUT: "no broker has answered for as long as message.timeout.ms: is it up?",
}
# After these a further message may still be taken.
PASSING = {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError._MSG_TIMED_OUT, KafkaError._SSL}


def is_hopeless(error: KafkaError) -> bool:
    """Whether every further message would meet the same error."""
    return error.fatal() or (error.code() in REMEDIES and error.code() not in PASSING)


class Undeliverable(Exception):
    """Nothing more can be delivered; `Delivery.failure` says why and what to do."""


class Delivery:
    """One producer for one topic. All its methods belong to one thread.

    librdkafka itself retries, and keeps the order in each partition while it does; its last word on a message
    is the delivery report. Reports of success are not asked for one by one: what librdkafka neither holds any
    more nor has reported as failed is acknowledged.
    """

    def __init__(
        self,
        properties: Mapping[str, object],
        topic: str,
        feed: Feed,
        accounts: ReplayAccounts,
        bury: Callable[[pa.RecordBatch], None],
        acknowledged: Callable[[int, float], None] = lambda messages, seconds: None,
        statistics: Callable[[str], object] | None = None,
    ) -> None:
        """`bury` gets dead letters; `acknowledged` how many messages are settled, and seconds since read."""
        self.topic, self.feed, self.accounts = topic, feed, accounts
        self._bury, self._acknowledged = bury, acknowledged
        self.backpressure_seconds = 0.0
        self._handed = self._failed = 0
        self._failures: dict[_Handover, list[tuple[int, KafkaError]]] = {}
        self._hopeless: KafkaError | None = None
        self._acked_at = time.monotonic()
        self._timeout_seconds = float(str(properties.get("message.timeout.ms", 300_000))) / 1000
        callbacks = {"stats_cb": statistics} if statistics else {}
        self._capacity = int(str(properties.get("queue.buffering.max.messages", PENDING_MESSAGES)))
        self._producer = Producer(
            {
                **properties,
                **callbacks,
                "queue.buffering.max.messages": self._capacity,
                "delivery.report.only.error": True,
                "error_cb": self._note_error,
            },
            logger=logging.getLogger("librdkafka"),
        )

    @property
    def pending(self) -> int:
        """Messages handed over whose fate is open."""
        return len(self._producer)

    @property
    def failure(self) -> str | None:
        """Why nothing more can be delivered, and what to do; None as long as something can."""
        return explain(self._hopeless, self.topic) if self._hopeless else None

    def room(self, payload_bytes: float) -> int:
        """How many messages of about that size may be handed over now."""
        return max(min(self._capacity, int(PENDING_BYTES / max(payload_bytes, 1)) + 1) - self.pending, 0)

    def send(self, messages: pa.RecordBatch, read_at: float) -> None:
        """Hands over messages of `OUTGOING`, waiting while there is no room. Undeliverable as `poll`."""
        handover = _Handover(self, messages)
        weakref.finalize(handover, self._settle, messages.num_rows, read_at).atexit = False
        self._handed += messages.num_rows
        topic, produce = self.topic, self._producer.produce
        left = _keyed(messages)
        for key, payload in left:
            try:
                produce(topic, payload, key, THE_KEYS_PARTITION, handover)
            except BufferError:
                self._send_again(handover, key, payload)
                if self._hopeless:
                    break
            except KafkaException as error:
                handover.fail(payload, error.args[0])
        if self._hopeless:
            for _, payload in left:
                handover.fail(payload, self._hopeless)
        self.poll(0)

    def _send_again(self, handover: _Handover, key: str, payload: bytes) -> None:
        """Again and again, as long as there is no room."""
        while True:
            self._wait(FULL_QUEUE_SECONDS)
            if self._hopeless:
                handover.fail(payload, self._hopeless)
                return
            try:
                self._producer.produce(self.topic, payload, key, THE_KEYS_PARTITION, handover)
            except BufferError:
                continue
            except KafkaException as error:
                handover.fail(payload, error.args[0])
            return

    def wait_for_room(self) -> None:
        """Serves delivery reports for a moment, and counts it as back-pressure. Undeliverable as `poll`."""
        self._wait(FULL_QUEUE_SECONDS)
        self.poll(0)

    def _wait(self, seconds: float) -> None:
        started = time.monotonic()
        self._serve(self._producer.poll, seconds)
        self.backpressure_seconds += time.monotonic() - started

    def poll(self, seconds: float) -> None:
        """Serves delivery reports for up to so many seconds. Undeliverable when nothing more can be sent."""
        self._serve(self._producer.poll, seconds)
        self._account()
        if self._hopeless:
            raise Undeliverable

    def finish(self, purge: Callable[[], bool] = lambda: False) -> None:
        """Waits for the fate of every message; once `purge` says so, gives up those that are left."""
        while self.pending:
            if self._hopeless or purge():
                self._producer.purge()
            self._serve(self._producer.flush, FLUSH_SECONDS)
            self._account()
        self._account()

    def _serve(self, call: Callable[[float], int], seconds: float) -> None:
        try:
            call(seconds)
        except KafkaException as error:  # a fatal one is raised besides
            self._note_error(error.args[0])

    def _account(self) -> None:
        pending = self.pending  # with what librdkafka wants to tell us besides: at times a few too many
        acked = self._handed - self._failed - pending
        if acked > self.accounts.acked:
            self.accounts.acked, self._acked_at = acked, time.monotonic()
        for handover, failures in self._failures.items():
            self._bury_failed(handover.messages, failures)
        self._failures.clear()
        self.accounts.pending = pending

    def _bury_failed(self, messages: pa.RecordBatch, failures: list[tuple[int, KafkaError]]) -> None:
        kinds = {error.code(): error for _, error in failures}
        places = {code: place for place, code in enumerate(kinds)}
        which = np.array([places[error.code()] for _, error in failures])
        letters = to_dead_letters(
            messages.take(pa.array([row for row, _ in failures])),
            [Failure((reason(error),), explain(error, self.topic)) for error in kinds.values()],
            which,
            self.feed,
            "deliver",
            time.time_ns() // 1000,
        )
        self.accounts.undelivered += reasons_of(letters)
        self._bury(letters)

    def _fail(self, handover: _Handover, row: int, error: KafkaError) -> None:
        self._failed += 1
        self._failures.setdefault(handover, []).append((row, error))
        silent = time.monotonic() - self._acked_at > self._timeout_seconds
        if is_hopeless(error) or (silent and error.code() != KafkaError.MSG_SIZE_TOO_LARGE):
            self._hopeless = self._hopeless or error

    def _note_error(self, error: KafkaError) -> None:
        if is_hopeless(error):
            self._hopeless = self._hopeless or error

    def _settle(self, messages: int, read_at: float) -> None:
        self._acknowledged(messages, time.monotonic() - read_at)


class _Handover:
    """Messages handed over together, and who is called when one of them fails.

    librdkafka holds it once for each message and lets go at that message's report: it goes with the last.
    """

    def __init__(self, delivery: Delivery, messages: pa.RecordBatch) -> None:
        self.delivery, self.messages = delivery, messages
        self._rows: dict[bytes, list[int]] | None = None

    def __call__(self, error: KafkaError | None, message: Message) -> None:
        assert error is not None, "only errors are reported"
        self.fail(message.value() or b"", error)

    def fail(self, payload: bytes, error: KafkaError) -> None:
        """Notes a failure. A report names no row; but rows of the same payload are the same message."""
        if self._rows is None:
            self._rows = {}
            for row, each in enumerate(self.messages["payload"].to_pylist()):
                self._rows.setdefault(each, []).append(row)
        rows = self._rows[payload]
        self.delivery._fail(self, rows.pop(0) if len(rows) > 1 else rows[0], error)


def _keyed(messages: pa.RecordBatch) -> Iterator[tuple[str, bytes]]:
    """Each message's key and payload, made for a few at a time, so that the processor's cache holds them."""
    keys = messages["key"].dictionary.to_pylist()

    def some(low: int) -> Iterator[tuple[str, bytes]]:
        these = messages.slice(low, AT_ONCE)
        of_rows = map(keys.__getitem__, these["key"].indices.to_numpy().tolist())
        return zip(of_rows, these["payload"].to_pylist(), strict=True)

    return itertools.chain.from_iterable(map(some, range(0, messages.num_rows, AT_ONCE)))


def reason(error: KafkaError) -> str:
    """The reason in the accounts: `msg_timed_out`, `msg_size_too_large`."""
    return error.name().strip("_").lower()


def explain(error: KafkaError, topic: str) -> str:
    """The error and what to do about it."""
    remedy = REMEDIES.get(error.code())
    return f"topic {topic}: {error.str()}{f': {remedy}' if remedy else ''}"
