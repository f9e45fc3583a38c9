"""Kafka topics up to their present ends, as batches of records."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
import pyarrow as pa
from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from schemas.record import RECORD
from transforms import counters
from transforms.accounts import Accounts
from transforms.errors import UserError
from transforms.partitions import Partition, Topic, connect, servers

MESSAGES = 16_384
SILENCE_SECONDS = 60


def to_records(messages: Sequence[Message], topic: str, number: int) -> pa.RecordBatch:
    """The messages of one partition as a batch of `RECORD`; the value of a tombstone is null."""
    rows = len(messages)
    return pa.RecordBatch.from_arrays(
        [
            pa.array([message.value() for message in messages], pa.binary()),
            pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), pa.array([topic])),
            pa.array(np.full(rows, number, np.int32)),
            pa.array(_offsets(messages), pa.int64()),
        ],
        schema=RECORD,
    )


def _offsets(messages: Sequence[Message]) -> np.ndarray | list[int]:
    if messages and after(messages) - offset_of(messages[0]) == len(messages):
        return np.arange(offset_of(messages[0]), after(messages))
    return [offset_of(message) for message in messages]  # some between are gone, or marks of transactions


def consume(consumer: Consumer, seconds: float, most: int = MESSAGES) -> tuple[list[Message], int | None]:
    """(messages, the end of the partition where that is what came last), after so many or so long.

    UserError when the broker refuses, or no longer has the offset that comes next: those messages are lost.
    """
    found = consumer.consume(most, seconds)
    if not any(map(Message.error, found)):
        return found, None
    messages = [message for message in found if not _is_end(message)]
    return messages, found[-1].offset() if found[-1].error() else None


def _is_end(message: Message) -> bool:
    error = message.error()
    if error is None:
        return False
    if error.code() == KafkaError._PARTITION_EOF:
        return True
    where = f"{message.topic()}/{message.partition()} at offset {message.offset()}"
    raise UserError(f"{where}: {error.str()}")


def offset_of(message: Message) -> int:
    offset = message.offset()
    assert offset is not None  # only messages that were not yet sent have none
    return offset


def after(messages: Sequence[Message]) -> int:
    """The offset that comes next."""
    return offset_of(messages[-1]) + 1


def read_to_end(partition: Partition, configuration: Mapping[str, object]) -> Iterator[pa.RecordBatch]:
    """Batches of records up to the partition's `end`. UserError when the broker falls silent before."""
    consumer = connect(configuration)
    heard, place = time.monotonic(), partition.start
    try:
        consumer.assign([TopicPartition(partition.topic, partition.number, partition.start)])
        while place < partition.end:
            messages, end = consume(consumer, 0.5)
            if messages or end is not None:
                heard = time.monotonic()
            elif time.monotonic() - heard > SILENCE_SECONDS:
                raise UserError(
                    f"{servers(configuration)}: silent for {SILENCE_SECONDS} s, at offset {place}"
                )
            if messages:
                place = after(messages)
                messages = [message for message in messages if offset_of(message) < partition.end]
                yield to_records(messages, partition.topic, partition.number)
            if end is not None:  # what lies between the last message and the end are marks of transactions
                place = partition.end
    finally:
        consumer.close()


class _ReadToEnd(beam.DoFn):
    def __init__(self, configuration: Mapping[str, object]) -> None:
        self.configuration = configuration

    def process(self, partition: Partition) -> Iterable[pa.RecordBatch]:
        read = 0
        for batch in read_to_end(partition, self.configuration):
            read += batch.num_rows
            counters.add(read=batch.num_rows, bytes=batch["value"].total_values_length)
            if batch.num_rows:
                place = batch["position"][-1].as_py() + 1
                counters.gauge("position", place, partition.topic, str(partition.number))
            yield batch
        yield beam.pvalue.TaggedOutput("accounts", Accounts(read=read))


@dataclass
class ReadToEnd(beam.PTransform):
    """Topics -> `records`, batches of `RECORD` up to each partition's end, and `accounts`, what was read."""

    configuration: Mapping[str, object]

    def expand(self, topics: beam.PCollection[Topic]) -> beam.pvalue.DoOutputsTuple:
        return (
            topics
            | beam.FlatMap(lambda topic: topic.partitions).with_output_types(Partition)
            | beam.Reshuffle()
            | beam.ParDo(_ReadToEnd(self.configuration))
            .with_output_types(pa.RecordBatch, accounts=Accounts)
            .with_outputs("accounts", main="records")
        )
