"""The topics of a replay: there before the first message, and only by asking for them."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from pipelines.kafka_properties import SILENT
from pipelines.replay.delivery import REMEDIES
from transforms.errors import UserError

PAUSES = (0.1, 0.2, 0.4, 0.8, 1.6)
ANSWER_SECONDS = 1.0
CREATE_SECONDS = 30.0
TOPICS: Mapping[str, Mapping[str, int]] = {
    "traffic": {"traffic-raw": 5},
    "detections": {"detections": 3},
    "air_quality": {"air_quality.raw": 3, "air_quality.clean": 3, "air_quality.dlq": 3},
}
"""The topics around a feed and their partitions; the first of them is the one that a replay fills."""
FOR_PRODUCERS_ONLY = ("acks", "batch.", "compression.", "enable.idempotence", "linger.", "message.timeout.",
                      "partitioner", "queue.buffering.", "retries")  # fmt: skip

log = logging.getLogger(__name__)


class Broker:
    """What is asked of the broker before and beside the messages."""

    def __init__(self, properties: Mapping[str, Any]) -> None:
        self._refusal: KafkaError | None = None
        self.servers = properties["bootstrap.servers"]
        kept = {name: value for name, value in properties.items() if not name.startswith(FOR_PRODUCERS_ONLY)}
        callbacks: dict[str, Any] = {"error_cb": self._note}
        self._admin = AdminClient({**kept, **callbacks}, logger=SILENT)  # we say ourselves what is wrong

    def topics(self) -> dict[str, int]:
        """The partitions of each topic. UserError when no broker answers in five attempts, or refuses."""
        for pause in PAUSES:
            try:
                found = self._admin.list_topics(timeout=ANSWER_SECONDS).topics.values()
                return {str(topic.topic): len(topic.partitions) for topic in found}
            except KafkaException as error:
                self._admin.poll(0)
                if self._refusal:
                    raise UserError(
                        f"{self.servers} refuses us: {self._refusal.str()}: {REMEDIES[self._refusal.code()]}"
                    ) from error
                last = error.args[0]
            time.sleep(pause)
        raise UserError(f"{self.servers}: no broker answers: {last.str()}; is --bootstrap_servers right?")

    def create(self, topics: Mapping[str, int], replication_factor: int) -> None:
        """Creates those topics, with so many partitions each. UserError when the broker does not."""
        new = [NewTopic(topic, partitions, replication_factor) for topic, partitions in topics.items()]
        for topic, created in self._admin.create_topics(new, operation_timeout=CREATE_SECONDS).items():
            try:
                created.result(CREATE_SECONDS)
                log.info("created topic %s with %d partitions", topic, topics[topic])
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise UserError(f"topic {topic} cannot be created: {error.args[0].str()}") from error

    def _note(self, error: KafkaError) -> None:
        if error.code() in REMEDIES:
            self._refusal = error


def topics_of(feed: str, topic: str, dead_letter_topic: str | None, partitions: int | None) -> dict[str, int]:
    """The topics to create and their partitions: around a feed's own topic all that the feed has.

    >>> topics_of("air_quality", "elsewhere", None, None)
    {'elsewhere': 3}
    """
    own = TOPICS[feed]
    usual = next(iter(own.values()))
    asked = {name: usual for name in (topic, dead_letter_topic) if name}
    topics = {**own, **asked} if topic in own else asked
    return {name: partitions or number for name, number in topics.items()}


def default_dead_letter_topic(topic: str) -> str:
    """The topic beside that one.

    >>> default_dead_letter_topic("traffic-raw"), default_dead_letter_topic("air_quality.raw")
    ('traffic-raw.dlq', 'air_quality.dlq')
    """
    return f"{topic.removesuffix('.raw')}.dlq"


def prepare(
    broker: Broker, needed: Sequence[str], topics: Mapping[str, int], create: bool, replication_factor: int
) -> None:
    """Sees to it that the needed topics exist; creates all topics that do not, but only when asked to.

    UserError when one does not exist and is not to be created, or cannot be.
    """
    existing = broker.topics()
    wanted = topics if create else needed
    missing = {topic: topics[topic] for topic in wanted if topic not in existing}
    if missing and not create:
        raise UserError(
            f"topic {', '.join(missing)} does not exist on {broker.servers}: "
            "create it with --create_topics, or name another with --topic"
        )
    if missing:
        broker.create(missing, replication_factor)
    for topic in topics.keys() - missing.keys():
        if create and existing[topic] != topics[topic]:
            log.warning("topic %s has %d partitions, not %d", topic, existing[topic], topics[topic])
