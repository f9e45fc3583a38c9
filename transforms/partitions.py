"""The partitions of topics: those there are, and where in them a run starts."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from transforms.errors import UserError

BROKER_SECONDS = 10
UNREACHABLE = (
    KafkaError._TRANSPORT,
    KafkaError._TIMED_OUT,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._DESTROY_BROKER,
)
CONNECTION_REMEDIES = {
    KafkaError._AUTHENTICATION: "put right KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD, and the mechanism",
    KafkaError._SSL: "is KAFKA_SSL_CA_LOCATION the authority of its certificate, does it speak TLS?",
}
# A small queue, refilled quickly, reads as fast as a large one in a quarter of the memory.
CONSUMER = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "enable.partition.eof": True,
    "auto.offset.reset": "error",
    "queued.min.messages": 20_000,
    "fetch.queue.backoff.ms": 5,
    "isolation.level": "read_committed",
}

silent = logging.getLogger(f"{__name__}.librdkafka")
silent.setLevel(logging.CRITICAL)  # what matters of its log comes as errors too, and is told in a line


class Partition(NamedTuple):
    """Some offsets of a topic's partition: from `start` up to `end`, which is not one of them.

    One that was `added` while the job ran has no end, and must catch up with the others' event time.
    """

    topic: str
    number: int
    start: int
    end: int
    added: bool = False


class Topic(NamedTuple):
    """A topic, and its partitions when the job was started."""

    name: str
    partitions: tuple[Partition, ...]


def connect(configuration: Mapping[str, object]) -> Consumer:
    """A consumer with the settings that this source relies on. UserError for a setting that is none."""
    try:
        return Consumer({**configuration, **CONSUMER}, logger=silent)
    except KafkaException as error:
        raise UserError(f"Kafka: {error.args[0].str()}") from error


def find_topics(topics: Sequence[str], configuration: Mapping[str, object], start: str) -> list[Topic]:
    """The topics with their partitions, and these with their present ends.

    `start` is `earliest`, `latest`, `group` (the group's committed offsets, else the earliest), or
    milliseconds since the epoch (the first message of that time or later). UserError when no broker answers
    or a topic does not exist.
    """
    noted: list[KafkaError] = []
    consumer = connect({**configuration, "error_cb": noted.append})
    try:
        return [
            Topic(
                topic,
                tuple(
                    _partition(consumer, topic, number, start)
                    for number in range(count_partitions(consumer, topic))
                ),
            )
            for topic in topics
        ]
    except KafkaException as error:
        consumer.poll(0)  # which hands over what was noted
        cause = _cause(error.args[0], noted, configuration)
        raise UserError(f"{servers(configuration)}: {cause}") from error
    except NoSuchTopic as error:
        raise UserError(f"{servers(configuration)}: topic {error} does not exist; create it first") from error
    finally:
        consumer.close()


def _cause(error: KafkaError, noted: Sequence[KafkaError], configuration: Mapping[str, object]) -> str:
    """What is wrong: a broker that does not answer may also have answered, and named another address."""
    if error.code() not in UNREACHABLE:
        return error.str()
    for refusal in noted:
        if refusal.code() in CONNECTION_REMEDIES:
            return f"{refusal.str()}; {CONNECTION_REMEDIES[refusal.code()]}"
    consumer = connect(configuration)
    try:
        brokers = consumer.list_topics(timeout=BROKER_SECONDS).brokers.values()
    except KafkaException:
        return "no broker answers; see that it runs, and that --bootstrap_servers is its address"
    finally:
        consumer.close()
    places = ", ".join(f"{broker.host}:{broker.port}" for broker in brokers)
    return (
        f"the broker there says that it is to be found at {places}, where none answers; its "
        "advertised.listeners must be addresses that this machine can reach"
    )


def servers(configuration: Mapping[str, object]) -> str:
    return f"Kafka at {configuration.get('bootstrap.servers')}"


class NoSuchTopic(LookupError):
    pass


def count_partitions(consumer: Consumer, topic: str) -> int:
    """How many partitions the topic has; they are numbered from 0. KafkaException when no broker answers."""
    metadata = consumer.list_topics(topic, BROKER_SECONDS).topics[topic]
    if metadata.error is not None:
        raise NoSuchTopic(topic)
    return len(metadata.partitions)


def _partition(consumer: Consumer, topic: str, number: int, start: str) -> Partition:
    low, high = consumer.get_watermark_offsets(TopicPartition(topic, number), BROKER_SECONDS)
    match start:
        case "earliest":
            first = low
        case "latest":
            first = high
        case "group":
            (committed,) = consumer.committed([TopicPartition(topic, number)], BROKER_SECONDS)
            first = committed.offset if committed.offset >= 0 else low
        case milliseconds:
            wanted = TopicPartition(topic, number, int(milliseconds))
            (found,) = consumer.offsets_for_times([wanted], BROKER_SECONDS)
            first = found.offset if found.offset >= 0 else high
    return Partition(topic, number, max(first, low), high)
