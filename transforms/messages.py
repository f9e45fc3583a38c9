"""Messages: accepted readings as the columns of Kafka messages, and messages as a feed's columns again."""

from __future__ import annotations

import hashlib
import time

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.feed import TEXT, TIMESTAMP, Feed

VERSION_AND_VARIANT = np.array([0xF000, 0b11 << 62], np.uint64)
VERSION_8 = np.array([0x8000, 0b10 << 62], np.uint64)
ABOVE_VERSION = np.uint64(16)
UUID_LENGTH = 36
HEXADECIMAL = np.frombuffer(b"0123456789abcdef", np.uint8)
FOUR_DIGITS = HEXADECIMAL[np.arange(1 << 16)[:, None] >> [12, 8, 4, 0] & 15].view(np.uint32).ravel()
DIGITS_OF_UUID = np.dtype(
    {
        "names": list("abcdefgh"),  # four digits each
        "formats": [np.uint32] * 8,
        "offsets": [0, 4, 9, 14, 19, 24, 28, 32],  # with the dashes between them
        "itemsize": UUID_LENGTH,
    }
)


def to_messages(readings: pa.RecordBatch, feed: Feed, now: int | None = None) -> pa.RecordBatch:
    """Readings of `feed.reading_schema` -> as many messages of `feed.message_schema`, in the same order.

    A null in the feed's `identifier` becomes a UUID of where the reading came from, so that sending a file
    again sends the same messages. A null in its `ingestion_time` becomes `now`, microseconds since the epoch:
    this moment unless given.
    """
    columns = {field.name: _plain(readings[field.name]) for field in feed.fields}
    if feed.identifier:
        columns[feed.identifier] = with_identifiers(columns[feed.identifier], readings)
    if feed.ingestion_time:
        micros = time.time_ns() // 1000 if now is None else now
        columns[feed.ingestion_time] = columns[feed.ingestion_time].fill_null(pa.scalar(micros, TIMESTAMP))
    schema = feed.message_schema
    arrays = [columns[field.name] if field.name in columns else _nest(columns, field) for field in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def from_messages(messages: pa.RecordBatch, feed: Feed) -> pa.RecordBatch:
    """Messages with the columns of `feed.message_schema` -> the feed's columns, in the feed's own types.

    The inverse of `to_messages`, except that what it filled in stays. Any field may be null here: whether it
    must not be is for `validate` to say.
    """
    schema = pa.schema([field.arrow.with_nullable(True) for field in feed.fields])
    columns = []
    for field in feed.fields:
        group = messages[field.group] if field.group else None
        column = messages[field.name] if group is None else pc.struct_field(group, field.name)
        columns.append(column.dictionary_encode() if field.type == TEXT else column)
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _plain(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if column.type == TEXT else column


def _nest(columns: dict[str, pa.Array], group: pa.Field) -> pa.StructArray:
    members = [columns[member.name] for member in group.type]
    absent = members[0].is_null()
    for member in members[1:]:
        absent = pc.and_(absent, member.is_null())
    return pa.StructArray.from_arrays(members, fields=list(group.type), mask=absent)


def with_identifiers(column: pa.StringArray, readings: pa.RecordBatch) -> pa.StringArray:
    """The column with a UUID for each null, of where that reading came from; see `identify`."""
    if not column.null_count:
        return column
    return pc.coalesce(column, identify(readings["source"], readings["partition"], readings["position"]))


def identify(source: pa.DictionaryArray, partition: pa.Array, position: pa.Array) -> pa.StringArray:
    """A UUID for each place in a source, the same in every run.

    Version 8 of RFC 9562, which leaves the choice of bits free: those of SHA-256 of the source, the first of
    them XORed with the partition, the last with the position. So identifiers of one source begin alike, and
    messages that follow each other compress well.

    >>> source = pa.array(["a.csv"] * 2).dictionary_encode()
    >>> identify(source, pa.array([None, None], pa.int32()), pa.array([1, 2])).to_pylist()
    ['32f29f33-d511-85a6-808e-62cc3dfe85d1', '32f29f33-d511-85a6-808e-62cc3dfe85d2']
    """
    hashes = np.array([_hash(value) for value in source.dictionary.to_pylist()], np.uint64).reshape(-1, 2)
    words = hashes[source.indices.to_numpy()]
    if partition.null_count < len(partition):
        places = pc.fill_null(pc.add(partition.cast(pa.int64()), 1), 0)  # none is another than the first
        words[:, 0] ^= places.to_numpy().astype(np.uint64) << ABOVE_VERSION
    words[:, 1] ^= position.to_numpy().astype(np.uint64)
    return _format(words & ~VERSION_AND_VARIANT | VERSION_8)


def _hash(source: str) -> np.ndarray:
    return np.frombuffer(hashlib.sha256(source.encode()).digest()[:16], ">u8")


def _format(words: np.ndarray) -> pa.StringArray:
    """UUIDs as text, from two 64-bit words each."""
    rows = len(words)
    text = np.full((rows, UUID_LENGTH), ord("-"), np.uint8)
    digits, numbers = text.view(DIGITS_OF_UUID).reshape(rows), words.astype(">u8").view(">u2")
    for place, name in enumerate(DIGITS_OF_UUID.names or ()):
        digits[name] = FOUR_DIGITS[numbers[:, place]]
    offsets = np.arange(0, (rows + 1) * UUID_LENGTH, UUID_LENGTH, dtype=np.int32)
    return pa.StringArray.from_buffers(rows, pa.py_buffer(offsets), pa.py_buffer(text))
