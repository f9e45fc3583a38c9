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


def medians(readings: pa.RecordBatch, feed: Feed) -> dict[str, float]:
    """The median of each measured field, NaN where no value is."""
    columns = {name: floats(readings[name]) for name in feed.any_of}
    return {name: float(np.nanmedian(v)) if not np.isnan(v).all() else np.nan for name, v in columns.items()}


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
