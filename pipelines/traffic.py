"""Traffic speeds: `python -m pipelines.traffic --input 'readings/*.csv' --output out/`.

files ─► decode ─► validate ─► windows ─► deduplicate ─┬─► raw Parquet, by day
           │           │                      │        └─► aggregate ─► Parquet, by day
           │           │                      └─► duplicates, counted
           └── failed ─┴─► dead letters, Parquet
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.arguments import BatchArguments, parse_arguments
from pipelines.launch import launch
from schemas.traffic import TRAFFIC
from transforms.accounts import Accounts, WriteSummary
from transforms.aggregate import AggregateWindows
from transforms.csv_files import ReadCsv
from transforms.dead_letters import WriteDeadLetters
from transforms.decode import DecodeCsv
from transforms.deduplicate import Deduplicate
from transforms.parquet import DailyFiles, WriteDailyParquet
from transforms.validate import Validate
from transforms.windows import GroupByWindow, whole_windows_of_a_day


def count_accepted(readings: pa.RecordBatch) -> Accounts:
    return Accounts(accepted=readings.num_rows)


def count_aggregates(aggregates: pa.RecordBatch) -> Accounts:
    return Accounts(
        aggregates=aggregates.num_rows,
        aggregated=pc.sum(aggregates["message_count"]).as_py(),
        windows=pc.count_distinct(aggregates["window_start"]).as_py(),
    )


def build(pipeline: beam.Pipeline, arguments: BatchArguments) -> None:
    """The graph of a batch run."""
    feed, output, run = arguments.feed, arguments.output, arguments.run
    files = pipeline | beam.Create(arguments.inputs) | ReadCsv(feed)
    decoded = files.records | DecodeCsv(feed, arguments.timezone)
    validated = decoded.readings | Validate(feed)
    unique = (
        validated.readings
        | GroupByWindow(feed, whole_windows_of_a_day(arguments.window_seconds))
        | Deduplicate(feed)
    )
    raw = unique.readings | "WriteRaw" >> WriteDailyParquet(
        DailyFiles(output, "raw", feed.name, run, feed.event_time), count_accepted
    )
    aggregates = (
        unique.readings
        | AggregateWindows(feed, arguments.window_seconds, arguments.zero_speed == "missing")
        | "WriteAggregates"
        >> WriteDailyParquet(
            DailyFiles(output, "processed/aggregates", feed.name, run, "window_start"), count_aggregates
        )
    )
    dead_letters = (
        (decoded.failures, validated.failures) | beam.Flatten() | WriteDeadLetters(output, feed.name)
    )
    accounts = (files.accounts, unique.accounts, raw, aggregates, dead_letters)
    _ = accounts | WriteSummary(output, arguments.describe())


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the job; returns its exit status."""
    return launch(build, lambda: parse_arguments(TRAFFIC, argv))


if __name__ == "__main__":
    sys.exit(main())
