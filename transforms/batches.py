"""Record batches as elements: the coder that every step uses, and the few things done to whole batches."""

from __future__ import annotations

from collections.abc import Iterable

import apache_beam as beam
import pyarrow as pa

SMALL_ROWS = 1_000


class RecordBatchCoder(beam.coders.Coder):
    """Encodes a `pyarrow.RecordBatch` as an Arrow IPC stream, compressed with LZ4 unless it is small.

    A slice of a batch encodes its own rows only, where pickle would write the whole batch. LZ4 costs less
    than the copies that it saves: a runner moves each encoded batch several times. Of a batch of a hundred
    rows it would take as long as all the rest, and handing its columns to threads eight times as long.
    """

    large = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
    small = pa.ipc.IpcWriteOptions(use_threads=False)
    reading = pa.ipc.IpcReadOptions(use_threads=False)

    def encode(self, value: pa.RecordBatch) -> bytes:
        sink = pa.BufferOutputStream()
        options = self.small if value.num_rows < SMALL_ROWS else self.large
        with pa.ipc.new_stream(sink, value.schema, options=options) as writer:
            writer.write_batch(value)
        return sink.getvalue().to_pybytes()

    def decode(self, encoded: bytes) -> pa.RecordBatch:
        with pa.ipc.open_stream(encoded, options=self.reading) as reader:
            return reader.read_next_batch()

    def estimate_size(self, value: pa.RecordBatch) -> int:
        """In memory. Beam asks it of the first elements of every step, and would encode them for it."""
        return value.nbytes

    def is_deterministic(self) -> bool:
        return False

    def to_type_hint(self) -> type[pa.RecordBatch]:
        return pa.RecordBatch


beam.coders.registry.register_coder(pa.RecordBatch, RecordBatchCoder)


def concatenate(batches: Iterable[pa.RecordBatch]) -> pa.RecordBatch:
    """One batch of all rows, its dictionaries unified. ValueError for no batch at all."""
    batches = list(batches)
    if len(batches) == 1:
        return batches[0]
    table = pa.Table.from_batches(batches).unify_dictionaries().combine_chunks()
    if not table.num_rows:
        return batches[0]
    (whole,) = table.to_batches()
    return whole


def with_small_dictionaries(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch, with every dictionary that is larger than the batch cut down to the values in use.

    Slices share their parent's dictionary, and each encoded slice carries it whole.
    """
    for index, column in enumerate(batch.columns):
        if pa.types.is_dictionary(column.type) and len(column.dictionary) > len(column):
            smaller = column.dictionary_decode().dictionary_encode()
            batch = batch.set_column(index, batch.schema.field(index), smaller)
    return batch
