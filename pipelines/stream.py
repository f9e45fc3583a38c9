"""A feed as a stream: topics without end to Kafka and Parquet, on a runner of streams such as Flink.

topics ─► decode, validate, too late? ─► windows ─► deduplicate ─┬─► raw Parquet, files that grow
                      │                  (panes)                 └─► aggregate ─┬─► Kafka, upserts
                      │                                                         └─► Parquet
                      ├─► days ─► daily ─► Parquet                              (measured feeds)
                      ├─► stretches with their surroundings ─► clean ─┬─► Kafka, upserts
                      │                                               └─► Parquet
                      ├─► sessions (panes) ─► Parquet                   (feeds of sessions)
                      └── failed ─► dead letters, Parquet and Kafka
"""

from __future__ import annotations

from functools import partial

import apache_beam as beam
import pyarrow as pa

from pipelines.arguments import Arguments
from schemas.avro import Schema
from schemas.clean import clean_message_schema
from schemas.feed import Feed
from transforms import counters
from transforms.clean import CleanPanes, stretch_of
from transforms.daily import AggregateDayPanes
from transforms.decode import Decode
from transforms.decode_avro import DecodeAvro
from transforms.decode_json import DecodeJson
from transforms.kafka_sink import (
    Encode,
    WriteDeadLettersToKafka,
    WriteUpsertsToKafka,
    aggregate_avro_schema,
    clean_avro_schema,
    encode_as_avro,
    encode_as_json,
)
from transforms.kafka_stream import ReadForever
from transforms.merged_files import MergeDeadLetters, MergePanes, MergeSessions
from transforms.panes import SummarizePanes
from transforms.partitions import find_topics
from transforms.rules import validate
from transforms.schema_registry import SchemaRegistry
from transforms.sessions import GroupBySession, SummarizeSessionPanes
from transforms.windows import DAY_SECONDS, GroupByStretch, GroupByWindow


def message_decode(arguments: Arguments) -> Decode:
    """The step that decodes the topics' messages."""
    if arguments.format == "avro":
        return DecodeAvro(arguments.feed, SchemaRegistry(arguments.schema_registry))
    return DecodeJson(arguments.feed, arguments.timezone)


def decode_and_validate(
    records: pa.RecordBatch, now: int, feed: Feed, decode: Decode
) -> tuple[pa.RecordBatch, list[pa.RecordBatch]]:
    """Records of messages -> (accepted readings, batches of dead letters)."""
    with counters.timed("decode"):
        readings, malformed = decode.decode(records, now)
    with counters.timed("validate"):
        accepted, invalid = validate(readings, feed, now)
    return accepted, [letters for letters in (malformed, invalid) if letters.num_rows]


def encoding(arguments: Arguments, topic: str, columns: pa.Schema, schema: Schema) -> Encode:
    """How rows become messages; an Avro schema is registered now, and not by every worker."""
    if arguments.aggregates_format == "json":
        return encode_as_json
    schema_id = SchemaRegistry(arguments.schema_registry).register(topic, schema)
    return partial(encode_as_avro, columns=columns, schema=schema, schema_id=schema_id)


def write_upserts(
    arguments: Arguments, topic: str, key: tuple[str, ...], time: str, encode: Encode = encode_as_json
) -> WriteUpsertsToKafka:
    """The step that sends rows to a topic. UserError when there is no such topic."""
    (found,) = find_topics([topic], arguments.kafka, "latest")
    return WriteUpsertsToKafka(key, time, topic, len(found.partitions), arguments.kafka, encode)


def build_series(readings: beam.PCollection[pa.RecordBatch], arguments: Arguments) -> None:
    """The part of the graph that feeds with measured fields have."""
    feed, stretch = arguments.feed, stretch_of(arguments.feed, arguments.clean_seconds)
    lateness = arguments.allowed_lateness_seconds + arguments.window_seconds  # takes all that a window takes
    merge = partial(MergePanes, root=arguments.output, feed=feed.name, file_seconds=DAY_SECONDS)
    _ = (
        readings
        | "GroupByDay" >> GroupByWindow(feed, DAY_SECONDS, lateness, shards=arguments.shards)
        | AggregateDayPanes(feed)
        | "MergeDaily"
        >> merge(
            folder="processed/daily",
            time="window_start",
            window_seconds=DAY_SECONDS,
            sort_by=[feed.key, "window_start", "field"],
        )
    )
    clean = (
        readings
        | "GroupByStretch" >> GroupByStretch(feed, stretch, lateness, arguments.shards)
        | CleanPanes(feed, stretch)
    )
    _ = clean | "MergeClean" >> merge(
        folder="processed/clean",
        time=feed.event_time,
        window_seconds=arguments.clean_seconds,
        sort_by=[feed.key, feed.event_time],
    )
    if arguments.clean_topic:
        topic = arguments.clean_topic
        encode = encoding(arguments, topic, clean_message_schema(feed), clean_avro_schema(feed))
        _ = clean | "SendClean" >> write_upserts(arguments, topic, (feed.key,), feed.event_time, encode)


def build_sessions(readings: beam.PCollection[pa.RecordBatch], arguments: Arguments) -> None:
    """The part of the graph that feeds of sessions have."""
    feed = arguments.feed
    lateness = arguments.allowed_lateness_seconds + arguments.window_seconds  # takes all that a window takes
    sessions = readings | "GroupBySession" >> GroupBySession(feed, lateness)
    for table in feed.session_tables:
        _ = (
            sessions
            | f"Summarize {table.name}" >> SummarizeSessionPanes(feed, table, arguments.shards)
            | f"Merge {table.name}" >> MergeSessions(arguments.output, f"processed/{table.name}", feed)
        )


def build_stream(pipeline: beam.Pipeline, arguments: Arguments) -> None:
    """The graph of a run without end.

    A savepoint needs the labels of groupings, and of what is before a step that has state: keep them.
    """
    feed, output, kafka = arguments.feed, arguments.output, arguments.kafka
    source = ReadForever(
        feed=feed,
        topics=arguments.topics,
        configuration=kafka,
        decode=partial(decode_and_validate, feed=feed, decode=message_decode(arguments)),
        window_seconds=arguments.window_seconds,
        lateness=arguments.allowed_lateness_seconds,
        out_of_orderness=arguments.out_of_orderness_seconds,
        idle_seconds=arguments.idle_seconds,
    )
    read = pipeline | beam.Create(find_topics(arguments.topics, kafka, arguments.start)) | source
    panes = (
        read.readings
        | "GroupByWindow"
        >> GroupByWindow(
            feed,
            arguments.window_seconds,
            arguments.allowed_lateness_seconds,
            arguments.early_seconds,
            arguments.shards,
        )
        | SummarizePanes(feed, arguments.window_seconds, arguments.zero_speed == "missing")
    )
    merge = partial(
        MergePanes,
        root=output,
        feed=feed.name,
        window_seconds=arguments.window_seconds,
        file_seconds=arguments.file_seconds,
    )
    _ = panes.readings | "MergeRaw" >> merge(
        folder="raw", time=feed.event_time, sort_by=[feed.key, feed.event_time]
    )
    _ = panes.final_aggregates | "MergeAggregates" >> merge(
        folder="processed/aggregates", time="window_start", sort_by=[feed.key, "window_start", *feed.per]
    )
    if arguments.aggregates_topic:
        topic = arguments.aggregates_topic
        encode = encoding(arguments, topic, feed.aggregate_message_schema, aggregate_avro_schema(feed))
        _ = panes.aggregates | "SendAggregates" >> write_upserts(
            arguments, topic, (feed.key, *feed.per), "window_start", encode
        )
    if feed.any_of:
        build_series(read.readings, arguments)
    if feed.sessions:
        build_sessions(read.readings, arguments)
    _ = read.failures | MergeDeadLetters(output, feed.name)
    if arguments.dead_letter_topic:
        _ = read.failures | WriteDeadLettersToKafka(arguments.dead_letter_topic, kafka)
