"""A feed in batch: from files, or from topics up to their present ends, to Parquet.

files ──► records ─► decode ─► validate ─► windows ─► deduplicate ─┬─► raw Parquet, by day
topics ─►              │           │                      │        └─► aggregate ─► Parquet, by day
                       │           │                      ├─► stretches ─┬─► clean ─► Parquet, by day
                       │           │                      │              └─► daily ─► Parquet, by day
                       │           │                      ├─► sessions ─► Parquet, by day (feeds of sessions)
                       │           │                      └─► duplicates, counted
                       └── failed ─┴─► dead letters, Parquet

Only feeds with measured fields have stretches: some days, with what must be known of before and after.
"""

from __future__ import annotations

from collections import Counter
from functools import partial

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.arguments import Arguments
from schemas.feed import NULLED, SessionTable
from transforms.accounts import Accounts, WriteSummary, count_names
from transforms.aggregate import AggregateWindows
from transforms.clean import Clean, FindMedians, count_clean, stretch_of
from transforms.daily import AggregateDays
from transforms.dead_letter_files import WriteDeadLetters
from transforms.decode import DecodeCsv
from transforms.deduplicate import Deduplicate
from transforms.medians import declared_medians
from transforms.parquet import DailyFiles, RefuseTakenDays, WriteDailyParquet
from transforms.read_csv import ReadCsv
from transforms.sessions import GroupSessions, SummarizeSessions
from transforms.validate import Validate
from transforms.windows import DAY_SECONDS, GatherStretches, GroupByWindow, whole_windows_of_a_day

SERIES_SECONDS = 8 * DAY_SECONDS


def count_accepted(readings: pa.RecordBatch) -> Accounts:
    nulled = count_names(readings[NULLED.name]) if NULLED.name in readings.schema.names else Counter()
    return Accounts(accepted=readings.num_rows, nulled=nulled)


def count_aggregates(aggregates: pa.RecordBatch) -> Accounts:
    return Accounts(
        aggregates=aggregates.num_rows,
        aggregated=pc.sum(aggregates["message_count"]).as_py(),
        windows=pc.count_distinct(aggregates["window_start"]).as_py(),
    )


def count_days(daily: pa.RecordBatch) -> Accounts:
    return Accounts(days=daily.num_rows, valid_days=pc.sum(daily["valid"]).as_py())


def count_sessions(rows: pa.RecordBatch, table: SessionTable) -> Accounts:
    return Accounts(summarized=Counter({table.name: pc.sum(rows["message_count"]).as_py()}))


def build_batch(pipeline: beam.Pipeline, arguments: Arguments) -> None:
    """The graph of a batch run."""
    feed, output, run = arguments.feed, arguments.output, arguments.run
    if arguments.topics:
        from pipelines.stream import message_decode  # Kafka's packages are an extra
        from transforms.kafka_source import ReadToEnd
        from transforms.partitions import find_topics

        topics = find_topics(arguments.topics, arguments.kafka, arguments.start)
        source = pipeline | beam.Create(topics) | ReadToEnd(arguments.kafka)
        decoded = source.records | message_decode(arguments)
    else:
        source = pipeline | beam.Create(arguments.inputs) | ReadCsv(feed)
        decoded = source.records | DecodeCsv(feed, arguments.timezone)
    validated = decoded.readings | Validate(feed)
    unique = (
        validated.readings
        | GroupByWindow(feed, whole_windows_of_a_day(arguments.window_seconds))
        | Deduplicate(feed)
    )
    raw_files = DailyFiles(output, "raw", feed.name, run, feed.event_time)
    free = validated.readings | RefuseTakenDays(raw_files)
    raw = unique.readings | "WriteRaw" >> WriteDailyParquet(raw_files, count_accepted, free)
    aggregates = (
        unique.readings
        | AggregateWindows(feed, arguments.window_seconds, arguments.zero_speed == "missing")
        | "WriteAggregates"
        >> WriteDailyParquet(
            DailyFiles(output, "processed/aggregates", feed.name, run, "window_start"), count_aggregates, free
        )
    )
    measured: tuple[beam.PCollection[Accounts], ...] = ()
    if feed.any_of:
        stretch = stretch_of(feed, SERIES_SECONDS)
        series = unique.readings | GatherStretches(feed, stretch)
        reference = (
            pipeline | "Declared" >> beam.Create([declared_medians(feed)])
            if arguments.train
            else unique.readings | FindMedians(feed)
        )
        measured = (
            series
            | Clean(feed, stretch, reference)
            | "WriteClean"
            >> WriteDailyParquet(
                DailyFiles(output, "processed/clean", feed.name, run, feed.event_time), count_clean, free
            ),
            series
            | AggregateDays(feed, stretch)
            | "WriteDaily"
            >> WriteDailyParquet(
                DailyFiles(output, "processed/daily", feed.name, run, "window_start"), count_days, free
            ),
        )
    sessions: list[beam.PCollection[Accounts]] = []
    if feed.sessions:
        grouped = unique.readings | GroupSessions(feed)
        for table in feed.sessions.tables:
            files = DailyFiles(output, f"processed/{table.name}", feed.name, run, "session_start")
            write = WriteDailyParquet(files, partial(count_sessions, table=table), free)
            rows = grouped | f"Summarize {table.name}" >> SummarizeSessions(feed, table)
            sessions.append(rows | f"Write {table.name}" >> write)
    dead_letters = (
        (decoded.failures, validated.failures) | beam.Flatten() | WriteDeadLetters(output, feed.name, free)
    )
    accounts = (source.accounts, unique.accounts, raw, aggregates, *measured, *sessions, dead_letters)
    _ = accounts | WriteSummary(output, arguments.describe())
