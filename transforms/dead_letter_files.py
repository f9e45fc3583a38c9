"""Dead letters as Parquet files: one for each source and stretch of its rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from transforms import counters
from transforms.accounts import Accounts
from transforms.batches import concatenate
from transforms.files import FileDoFn, publish
from transforms.parquet import digest, to_parquet

ROWS_PER_FILE = 100_000


def split_by_source(
    letters: pa.RecordBatch, rows: int = ROWS_PER_FILE
) -> Iterator[tuple[tuple[str, int], pa.RecordBatch]]:
    """((source, n), its dead letters whose position is in the n-th stretch of `rows` rows)."""
    sources = letters["source"].indices.to_numpy()
    stretches = letters["position"].to_numpy() // rows
    for source, stretch in sorted(set(zip(sources.tolist(), stretches.tolist(), strict=True))):
        mask = pa.array((sources == source) & (stretches == stretch))
        yield (letters["source"].dictionary[source].as_py(), stretch), letters.filter(mask)


class _WriteFile(FileDoFn):
    def __init__(self, root: str, feed: str, options: PipelineOptions) -> None:
        super().__init__(options)
        self.root, self.feed = root, feed

    def process(
        self, group: tuple[tuple[str, int], Iterable[pa.RecordBatch]], after: bool = True
    ) -> Iterable[Accounts]:
        (source, stretch), batches = group
        letters = concatenate(batches)
        letters = letters.take(pc.sort_indices(letters["position"]))
        path = f"dead_letters/{self.feed}-{digest([source])}-{stretch:05d}.parquet"
        size = publish(FileSystems.join(self.root, *path.split("/")), to_parquet(letters))
        reasons = Counter(
            {each["values"]: each["counts"] for each in letters["reason"].value_counts().to_pylist()}
        )
        counters.add(files_written=1, bytes_written=size)
        yield Accounts(dead_letters=reasons, files=frozenset([path]), bytes=size)


@dataclass
class WriteDeadLetters(beam.PTransform):
    """Batches of dead letters -> accounts of the files written, by source and stretch of rows.

    Nothing is written before `after` has its one element.
    """

    root: str
    feed: str
    after: beam.PCollection[bool] | None = None

    def expand(self, letters: beam.PCollection[pa.RecordBatch]) -> beam.PCollection[Accounts]:
        waits = [] if self.after is None else [beam.pvalue.AsSingleton(self.after)]
        write = _WriteFile(self.root, self.feed, letters.pipeline.options)
        return (
            letters
            | beam.FlatMap(split_by_source).with_output_types(tuple[tuple[str, int], pa.RecordBatch])
            | beam.GroupByKey()
            | beam.ParDo(write, *waits).with_output_types(Accounts)
        )
