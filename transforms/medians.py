"""Medians of a feed's measured fields: what fills a gap that no value is near to."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from schemas.feed import Feed
from transforms.batches import concatenate
from transforms.casts import floats
from transforms.csv_files import find_blocks, read_block
from transforms.decode_csv import decode_csv
from transforms.deduplicate import deduplicate
from transforms.errors import UserError
from transforms.rules import validate

COUNTS = pa.schema([("field", pa.int64()), ("value", pa.float64()), ("count", pa.int64())])
"""How often each value of a feed's measured fields occurs; `field` is the place in `feed.any_of`."""


def count_values(readings: pa.RecordBatch, feed: Feed) -> pa.RecordBatch:
    """The `COUNTS` of readings: far fewer rows than readings, since a device tells few different values."""
    columns = (floats(readings[name]) for name in feed.any_of)
    counted = [np.unique(column[~np.isnan(column)], return_counts=True) for column in columns]
    fields = np.repeat(np.arange(len(counted)), [len(values) for values, _ in counted])
    values, counts = (np.concatenate(each) for each in zip(*counted, strict=True))
    return pa.RecordBatch.from_arrays([fields, values, counts], schema=COUNTS)


def medians_of(counts: pa.RecordBatch, feed: Feed) -> dict[str, float]:
    """The median of each measured field from `COUNTS` in any order, NaN where no value is."""
    fields, values, often = (counts[name].to_numpy() for name in COUNTS.names)
    of_field = (fields == place for place in range(len(feed.any_of)))
    return {name: _median(values[of], often[of]) for name, of in zip(feed.any_of, of_field, strict=True)}


def _median(values: np.ndarray, often: np.ndarray) -> float:
    if not len(values):
        return np.nan
    order = np.argsort(values)
    reached = np.cumsum(often[order])
    middle = np.searchsorted(reached, [(reached[-1] - 1) // 2, reached[-1] // 2], "right")
    return float(values[order][middle].mean())


def medians(readings: pa.RecordBatch, feed: Feed) -> dict[str, float]:
    """The median of each measured field, NaN where no value is."""
    return medians_of(count_values(readings, feed), feed)


def file_medians(path: str, feed: Feed, timezone: str = "UTC") -> dict[str, float]:
    """The medians of the readings that the job would accept of a CSV file. UserError when there are none."""
    batches = [records for block in find_blocks(path, feed) for records, _ in read_block(block)]
    accepted = [validate(decode_csv(records, feed, timezone)[0], feed)[0] for records in batches]
    if not any(readings.num_rows for readings in accepted):
        raise UserError(f"{path}: no reading in it can be accepted, so it has no medians")
    return medians(deduplicate(concatenate(accepted), feed)[0], feed)


def declared_medians(feed: Feed) -> dict[str, float]:
    """The median that the feed declares for each measured field, NaN where it declares none."""
    declared = {name: feed.field(name).median for name in feed.any_of}
    return {name: np.nan if median is None else median for name, median in declared.items()}
