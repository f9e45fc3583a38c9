"""A sample's files: the lines of a table, and the manifest beside them."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pyarrow.csv


def to_csv(table: pa.Table) -> pa.Buffer:
    """The table's rows as lines of CSV, without quotes."""
    lines = pa.BufferOutputStream()
    plain = pyarrow.csv.WriteOptions(include_header=False, quoting_style="none", batch_size=65_536)
    pyarrow.csv.write_csv(table, lines, plain)
    return lines.getvalue()


def to_json(manifest: dict[str, Any]) -> bytes:
    return (json.dumps(manifest, indent=1) + "\n").encode()
