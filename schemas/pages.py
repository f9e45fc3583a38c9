"""`python -m schemas.pages`: the page of each feed, from its declaration."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

from schemas.clean import clean_schema
from schemas.daily import LEAST_COMPLETENESS, daily_schema
from schemas.feed import DateAndTime, Elapsed, Feed, Field
from schemas.feeds import FEEDS
from schemas.tables import columns, rules


def page(feed: Feed) -> str:
    """A Markdown section: what the feed is, its steps in order, its columns with units, its rules."""
    module = importlib.import_module(f"schemas.{feed.name}")
    notes = (module.__doc__ or "").partition("\n")[2].strip()
    parts = [
        f"## {feed.name}",
        feed.description,
        notes,
        f"`python -m pipelines.{feed.name}`, declared in [{feed.name}.py]({feed.name}.py).",
        "\n".join(f"{number}. {step}" for number, step in enumerate(steps(feed), 1)),
        f"### {feed.name}: readings, `raw/`\n\n{columns(feed.reading_schema)}",
        f"### {feed.name}: windows, `processed/aggregates/`\n\n{columns(feed.aggregate_schema)}",
    ]
    for table in feed.session_tables:
        title = f"### {feed.name}: {table.name}, `processed/{table.name}/`"
        parts.append(f"{title}\n\n{table.description}\n\n{columns(feed.session_schema(table))}")
    if feed.any_of:
        parts.append(f"### {feed.name}: clean, `processed/clean/`\n\n{columns(clean_schema(feed))}")
    if feed.daily:
        parts.append(f"### {feed.name}: daily, `processed/daily/`\n\n{columns(daily_schema(feed))}")
    parts.append(f"### {feed.name}: rules\n\n{rules(feed)}")
    return "\n\n".join(part for part in parts if part)


def steps(feed: Feed) -> Iterator[str]:
    """What becomes of a row, a sentence for each step."""
    dialect = feed.dialect
    blank = ", rows of delimiters alone are blank lines" if dialect.skips_empty_rows else ""
    yield (
        f"Read: CSV with a header row, `{dialect.delimiter}` between values, `{dialect.decimal_point}` as "
        f"decimal point{blank}; or messages, JSON or Avro, with the fields' names."
    )
    needed = (
        f"Decode: a file needs at least the columns {_names(feed.required_columns)}. Blanks around a "
        "number, a timestamp or a name of a declared form are passed over."
    )
    yield " ".join([needed, *_unusual(feed)])
    tolerated = [field.name for field in feed.fields if field.tolerated]
    kept = f" A value of {_names(tolerated)} that breaks a rule is null instead." if tolerated else ""
    yield f"Validate: a row that breaks a rule is a dead letter that names all it broke.{kept}"
    yield f"Group: windows of {feed.window_seconds:,} s of `{feed.event_time}`."
    same = (feed.key, feed.event_time, *feed.distinct)
    yield f"Deduplicate: of rows that agree in {_names(same)} the first by source and position stays."
    yield f"Aggregate: a row for each window and {_names((feed.key, *feed.per))}."
    if feed.sessions:
        told = _names([table.name for table in feed.session_tables])
        minutes = feed.sessions.gap_seconds // 60
        yield (
            f"Sessions: a `{feed.key}`'s readings are cut where {minutes} minutes pass without one; told in "
            f"{told}. In a stream, a late reading that makes a session longer, or two sessions one, replaces "
            "what was written of them."
        )
    if feed.any_of:
        yield (
            f"Clean: a gap takes the value before, if that is at most {feed.fill_seconds:,} s away, else the "
            "one after, as near, else the median; a column of each field says which."
        )
    if feed.daily:
        least = f"{LEAST_COMPLETENESS:.0%}"
        yield f"Daily: figures of {_names(feed.daily)}, valid where {least} of a day's steps have a value."


def _unusual(feed: Feed) -> Iterator[str]:
    """What is not one column, of the field's own name, that holds its value."""
    for field in feed.fields:
        match field.made_of:
            case DateAndTime():
                made_of = field.made_of
                form = f"{made_of.date_format} {made_of.time_format}"
                yield f"`{field.name}` is made of `{made_of.date}` and `{made_of.time}`, `{form}`."
            case Elapsed():
                yield f"`{field.name}` is `{field.made_of.start}` and `{field.made_of.seconds}` on."
            case None if field.column:
                yield f"`{field.name}` is the column `{field.column}`{_missing(field)}."
        if field.option:
            yield f"Without a column `{field.name}`, `--{field.option}` says it for all rows."
    for field in feed.fields:
        if field.known_option:
            yield f"`--{field.known_option} FILE` says the known values of `{field.name}`."


def _missing(field: Field) -> str:
    return "" if field.missing_value is None else f", where {field.missing_value:g} is no value"


def _names(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


if __name__ == "__main__":
    print("\n\n".join(map(page, FEEDS.values())))
