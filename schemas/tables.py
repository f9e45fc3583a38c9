"""`python -m schemas.tables`: the READMEs' tables, from the declarations."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from schemas.feed import Feed
from schemas.metrics import METRICS
from schemas.record import DEAD_LETTER
from schemas.traffic import TRAFFIC


def columns(schema: pa.Schema) -> str:
    """A Markdown table of a schema: column, type, unit and meaning."""
    return "\n".join(["| column | type | unit | |", "| --- | --- | --- | --- |", *map(_row, schema)])


def _row(field: pa.Field) -> str:
    metadata = field.metadata or {}
    unit, description = (metadata.get(name, b"").decode() for name in (b"unit", b"description"))
    return f"| `{field.name}` | {_type(field.type)} | {unit} | {description} |"


def _type(type: pa.DataType) -> str:
    if pa.types.is_dictionary(type):
        return "string"
    if pa.types.is_list(type):
        return f"list of {type.value_type}"
    return "timestamp, UTC" if pa.types.is_timestamp(type) else str(type)


def rules(feed: Feed) -> str:
    """A Markdown table of a feed's rules: the reason that a dead letter gives, and what it means."""
    rows = [f"| `{rule.name}` | {rule.message} |" for rule in feed.rules]
    return "\n".join(["| reason | |", "| --- | --- |", *rows])


def metrics() -> str:
    """A Markdown table of the metrics of a running job."""
    rows = [
        f"| `{each.full_name}` | {each.kind} | {', '.join(each.labels)} | {each.help} |" for each in METRICS
    ]
    return "\n".join(["| metric | kind | labels | |", "| --- | --- | --- | --- |", *rows])


def tables(feed: Feed) -> Iterator[str]:
    """All tables of a feed."""
    yield columns(feed.reading_schema)
    yield columns(feed.aggregate_schema)
    yield columns(DEAD_LETTER)
    yield rules(feed)


if __name__ == "__main__":
    print("\n\n".join([*tables(TRAFFIC), metrics()]))
