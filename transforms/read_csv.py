"""Read CSV: from paths to the records of those files, read side by side."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import apache_beam as beam
import pyarrow as pa
from apache_beam.options.pipeline_options import PipelineOptions

from schemas.feed import Feed
from transforms import counters
from transforms.accounts import Accounts
from transforms.csv_files import Block, find_blocks, read_block
from transforms.files import FileDoFn


class _FindBlocks(FileDoFn):
    def __init__(self, feed: Feed, options: PipelineOptions) -> None:
        super().__init__(options)
        self.feed = feed

    def process(self, path: str) -> Iterable[Block]:
        return find_blocks(path, self.feed)


class _ReadBlocks(FileDoFn):
    def __init__(self, feed: Feed, options: PipelineOptions) -> None:
        super().__init__(options)
        self.known = feed.columns | {""}

    def process(self, block: Block) -> Iterable[pa.RecordBatch]:
        read = blank = 0
        for batch, blank_lines in read_block(block):
            read, blank = read + batch.num_rows, blank + blank_lines
            counters.add(read=batch.num_rows, bytes=batch["value"].total_values_length)
            yield batch
        unknown = {column for column in block.columns if column not in self.known}
        yield beam.pvalue.TaggedOutput(
            "accounts", Accounts(read=read, blank_lines=blank, unknown_columns=frozenset(unknown))
        )


@dataclass
class ReadCsv(beam.PTransform):
    """Paths of CSV files -> `records`, batches of `RECORD`, and `accounts`, what was read."""

    feed: Feed

    def expand(self, paths: beam.PCollection[str]) -> beam.pvalue.DoOutputsTuple:
        options = paths.pipeline.options
        return (
            paths
            | "FindBlocks" >> beam.ParDo(_FindBlocks(self.feed, options)).with_output_types(Block)
            | beam.Reshuffle()
            | "ReadBlocks"
            >> beam.ParDo(_ReadBlocks(self.feed, options))
            .with_output_types(pa.RecordBatch, accounts=Accounts)
            .with_outputs("accounts", main="records")
        )
