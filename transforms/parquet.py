"""Parquet files that appear whole or not at all, under names that make a second run replace the first.

Beam's own WriteToParquet cannot do this: its shard names depend on the run.
"""

from __future__ import annotations

import base64
import hashlib
import posixpath
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from transforms import counters
from transforms.accounts import Accounts
from transforms.errors import UserError
from transforms.files import FileDoFn, files_below, publish, read_file

ROW_GROUP_ROWS = 20_000
SAMPLE_ROWS = 1_000
DAY_MICROS = 86_400_000_000


def with_plain_text(batch: pa.RecordBatch) -> pa.Table:
    """The batch as a file has it: dictionaries are how the job holds text, not what it means."""
    return pa.Table.from_batches([batch]).cast(_plain_text(batch.schema))


def _plain_text(schema: pa.Schema) -> pa.Schema:
    return pa.schema([f.with_type(pa.string()) if pa.types.is_dictionary(f.type) else f for f in schema])


def to_parquet(batch: pa.RecordBatch) -> pa.Buffer:
    """The batch as a Parquet file: zstd, small row groups and a page index, for queries by key and time."""
    columns = [_text(each) if pa.types.is_dictionary(each.type) else each for each in batch.columns]
    fields = [field.with_type(each.type) for field, each in zip(batch.schema, columns, strict=True)]
    table = pa.table(columns, schema=pa.schema(fields))
    dictionaries, encodings = _encodings(table)
    schema = _plain_text(batch.schema)  # for readers, whom the writer would tell of the job's dictionaries
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink,
        table.schema,
        compression="zstd",
        use_dictionary=dictionaries,
        column_encoding=encodings,
        write_page_index=True,
        write_batch_size=ROW_GROUP_ROWS,
        store_schema=False,
    ) as writer:
        writer.add_key_value_metadata({"ARROW:schema": base64.b64encode(schema.serialize())})
        writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
    return sink.getvalue()


def _text(column: pa.DictionaryArray) -> pa.Array:
    """Text that repeats with a dictionary, which need not be found anew; other text plain.

    The dictionary is of the values in use, by first row: a file follows from its rows alone.
    """
    if not _repeats(column):
        return column.dictionary_decode()
    codes = column.indices.dictionary_encode()
    return pa.DictionaryArray.from_arrays(codes.indices, column.dictionary.take(codes.dictionary))


def _repeats(column: pa.Array | pa.ChunkedArray) -> bool:
    first = column.slice(0, SAMPLE_ROWS)
    return len(first.unique()) <= len(first) / 2


def _encodings(table: pa.Table) -> tuple[list[str], dict[str, str]]:
    """(the columns to encode with a dictionary, the encodings of others): quicker than plain, and no larger.

    Whole numbers and times are delta-encoded, since rows are sorted. Text and measured values have
    dictionaries where they repeat; the bytes of computed ones, which do not, are kept apart by place.
    """
    dictionaries, encodings = [], {}
    for name, type in zip(table.schema.names, table.schema.types, strict=True):
        if pa.types.is_int64(type) or pa.types.is_timestamp(type):
            encodings[name] = "DELTA_BINARY_PACKED"
        elif pa.types.is_dictionary(type):
            dictionaries.append(name)
        elif pa.types.is_string(type) or pa.types.is_floating(type):
            if _repeats(table[name]):
                dictionaries.append(name)
            elif pa.types.is_floating(type):
                encodings[name] = "BYTE_STREAM_SPLIT"
    return dictionaries, encodings


def read_parquet(path: str) -> pa.Table | None:
    """The file's table; None when there is no such file."""
    content = read_file(path)
    return None if content is None else pq.read_table(pa.BufferReader(content))


def sorted_parquet(table: pa.Table, sort_by: Sequence[str]) -> pa.Buffer:
    """The table's rows, at least one, in that order as a Parquet file; see `to_parquet`."""
    order = pc.sort_indices(table, [(name, "ascending") for name in sort_by])
    return to_parquet(table.take(order).combine_chunks().to_batches()[0])


def split_by_day(batch: pa.RecordBatch, time: str) -> Iterator[tuple[str, pa.RecordBatch]]:
    """(`year=2012/month=03/day=01`, the rows of that UTC day), rows in their order.

    The folder's name is built from a typed timestamp, never from text that came with the data.
    """
    days, found = _days(batch, time)
    for day in found:
        rows = batch if len(found) == 1 else batch.filter(pa.array(days == day))
        yield day_folder(int(day)), rows


def _days(batch: pa.RecordBatch, time: str) -> tuple[np.ndarray, np.ndarray]:
    """The UTC day of each row in days since the epoch, and each of these days once, ascending."""
    days = batch[time].view(pa.int64()).to_numpy() // DAY_MICROS
    same = len(days) and (days == days[0]).all()  # as in most batches; to sort takes long
    return days, days[:1] if same else np.unique(days)


def day_folder(day: int) -> str:
    """`year=2012/month=03/day=01` of days since the epoch."""
    year, month, date = str(np.datetime64(day, "D")).rsplit("-", 2)
    return f"year={year}/month={month}/day={date}"


def digest(texts: Iterable[str]) -> str:
    """A short name for a set of paths: 12 hexadecimal digits, the same in every run."""
    return hashlib.sha256("\n".join(sorted(texts)).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class DailyFiles:
    """Where a run's files of one kind go: `root/folder/year=…/month=…/day=…/feed-start-run.parquet`.

    `run` is the digest of the run's inputs: the same inputs again write the same files, and a day that holds
    the files of other inputs is refused, since neither replacing nor adding to them would be right.
    """

    root: str
    folder: str
    feed: str
    run: str
    time: str

    def write(self, start: int, batch: pa.RecordBatch) -> Iterator[tuple[str, int]]:
        """Writes the rows of the group that starts at `start`, in seconds since the epoch.

        Yields each file's path below the root, and its bytes. UserError when the day is taken, or the file
        cannot be written.
        """
        name = np.datetime_as_string(np.datetime64(start, "s")).replace("-", "").replace(":", "")
        for day, rows in split_by_day(batch, self.time):
            folder = posixpath.join(self.folder, day)
            self.refuse_files_of_others(folder)
            path = posixpath.join(folder, f"{self.feed}-{name}-{self.run}.parquet")
            yield path, publish(FileSystems.join(self.root, *path.split("/")), to_parquet(rows))

    def refuse_files_of_others(self, folder: str) -> None:
        """UserError when that folder below the root holds files of other inputs."""
        present = files_below(self.root, f"{folder}/{self.feed}-*.parquet")
        others = {path for path in present if not path.endswith(f"-{self.run}.parquet")}
        if others:
            raise UserError(
                f"{min(others)}: this day already holds the results of other inputs; give all files of "
                "a day in one run, delete that folder first, or choose another --output"
            )


class _RefuseTaken(FileDoFn):
    def __init__(self, files: DailyFiles, options: PipelineOptions) -> None:
        super().__init__(options)
        self.files = files

    def process(self, days: set[int]) -> Iterable[bool]:
        for day in sorted(days):
            self.files.refuse_files_of_others(posixpath.join(self.files.folder, day_folder(day)))
        yield True


@dataclass
class RefuseTakenDays(beam.PTransform):
    """Readings -> True, when no day of theirs holds the results of other inputs: what writes waits for it.

    Without it a run would be refused when it had written half of its days.
    """

    files: DailyFiles

    def expand(self, readings: beam.PCollection[pa.RecordBatch]) -> beam.PCollection[bool]:
        return (
            readings
            | beam.FlatMap(self._days).with_output_types(int)
            | beam.CombineGlobally(beam.combiners.ToSetCombineFn())
            | beam.ParDo(_RefuseTaken(self.files, readings.pipeline.options)).with_output_types(bool)
        )

    def _days(self, readings: pa.RecordBatch) -> list[int]:
        return _days(readings, self.files.time)[1].tolist()


class _Write(FileDoFn):
    def __init__(
        self, files: DailyFiles, count: Callable[[pa.RecordBatch], Accounts], options: PipelineOptions
    ) -> None:
        super().__init__(options)
        self.files, self.count = files, count

    def process(self, group: tuple[int, pa.RecordBatch], after: bool = True) -> Iterable[Accounts]:
        start, batch = group
        with counters.timed("write"):
            written = list(self.files.write(start, batch))
        for path, size in written:
            counters.add(files_written=1, bytes_written=size)
            yield Accounts(files=frozenset([path]), bytes=size)
        accounts = self.count(batch)
        counters.add_accounts(accounts)
        yield accounts


@dataclass
class WriteDailyParquet(beam.PTransform):
    """(start, batch) -> accounts of the files written; `count` says what a batch adds to the accounts.

    Nothing is written before `after` has its one element.
    """

    files: DailyFiles
    count: Callable[[pa.RecordBatch], Accounts]
    after: beam.PCollection[bool] | None = None

    def expand(self, groups: beam.PCollection[tuple[int, pa.RecordBatch]]) -> beam.PCollection[Accounts]:
        waits = [] if self.after is None else [beam.pvalue.AsSingleton(self.after)]
        write = _Write(self.files, self.count, groups.pipeline.options)
        return groups | beam.ParDo(write, *waits).with_output_types(Accounts)
