"""Where a replay's dead letters go: a Parquet file, or a topic and what that does not take to the file."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from schemas.record import DEAD_LETTER
from transforms.dead_letters import to_headers
from transforms.errors import UserError
from transforms.local_files import whole_file

FLUSH_SECONDS = 0.2


class DeadLetterFile:
    """A Parquet file of `DEAD_LETTER`, which comes to be with the first of them, and is whole when closed."""

    def __init__(self, path: str) -> None:
        """UserError when the file cannot be written: now, rather than when the first row is refused."""
        self.path = path
        folder = next(folder for folder in Path(path).absolute().parents if folder.exists())
        if not os.access(folder, os.W_OK) or os.path.isdir(path):
            raise UserError(f"--dead_letters {path}: cannot be written")
        self._open = contextlib.ExitStack()
        self._writer: pq.ParquetWriter | None = None

    @property
    def written(self) -> bool:
        return self._writer is not None

    def write(self, letters: pa.RecordBatch) -> None:
        """UserError when the file cannot be written."""
        if not letters.num_rows:
            return
        try:
            if self._writer is None:
                Path(self.path).parent.mkdir(parents=True, exist_ok=True)
                file = self._open.enter_context(whole_file(self.path))
                self._writer = self._open.enter_context(
                    pq.ParquetWriter(file, DEAD_LETTER, compression="zstd")
                )
            self._writer.write_batch(letters)
        except OSError as error:
            raise UserError(f"--dead_letters {self.path}: cannot be written: {error}") from error

    def close(self) -> None:
        self._open.close()


class DeadLetterTopic:
    """A topic of dead letters: original bytes as the value, the other columns of `DEAD_LETTER` as headers.

    What the broker does not take goes to the file.
    """

    def __init__(self, properties: Mapping[str, object], topic: str, file: DeadLetterFile) -> None:
        self.topic, self.file = topic, file
        self._producer = Producer(dict(properties), logger=logging.getLogger("librdkafka"))

    def write(self, letters: pa.RecordBatch) -> None:
        """Hands the dead letters over; waits while the queue is full."""
        values = letters["value"].to_pylist()
        for row, (value, headers) in enumerate(zip(values, to_headers(letters), strict=True)):
            report = _Report(self, letters.slice(row, 1))
            while True:
                try:
                    self._producer.produce(self.topic, value, headers=list(headers), on_delivery=report)
                    break
                except BufferError:
                    self._producer.poll(FLUSH_SECONDS)
                except KafkaException as error:  # such as a row that is too large for a message
                    report(error.args[0], None)
                    break
        self._producer.poll(0)

    def close(self) -> None:
        while len(self._producer):
            self._producer.flush(FLUSH_SECONDS)


class _Report:
    def __init__(self, topic: DeadLetterTopic, letter: pa.RecordBatch) -> None:
        self._topic, self._letter = topic, letter

    def __call__(self, error: KafkaError | None, _: Message | None) -> None:
        if error is not None:
            self._topic.file.write(self._letter)
