"""Daily figures of a feed, each with the completeness that decides whether it can stand for its day."""

import pyarrow as pa

from schemas.feed import TEXT, TIMESTAMP, Feed

LEAST_COMPLETENESS = 0.75
"""A daily mean needs 75 % of its hourly values, 18 of 24: Directive 2008/50/EC, Annex XI, part A, "24-hour
values"; so says 40 CFR Part 50, Appendix N, section 3.0."""


def daily_schema(feed: Feed) -> pa.Schema:
    """One row per key, UTC day and field of `feed.daily`. Filled values are in none of the figures."""
    columns: tuple[tuple[str, pa.DataType, bool, str], ...] = (
        ("window_start", TIMESTAMP, False, "The day's first moment, UTC."),
        ("window_end", TIMESTAMP, False, "Exclusive."),
        ("field", TEXT, False, "What was measured."),
        ("unit", TEXT, True, "Of the three figures."),
        ("mean", pa.float64(), True, "Of the day's observed values."),
        ("minimum", pa.float64(), True, "The lowest of them."),
        ("maximum", pa.float64(), True, "The highest of them."),
        ("value_count", pa.int64(), False, f"Steps of {feed.step_seconds} s with an observed value."),
        ("expected_count", pa.int64(), False, "Such steps in a day."),
        ("completeness", pa.float64(), False, "The share of them that has a value."),
        ("valid", pa.bool_(), False, f"Whether that is at least {LEAST_COMPLETENESS:.0%}."),
    )
    return pa.schema(
        [
            feed.field(feed.key).arrow,
            *(pa.field(name, type, null, {"description": text}) for name, type, null, text in columns),
        ]
    )
