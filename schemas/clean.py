"""Clean readings: what a feed's readings become once their gaps are filled and their quality is assessed."""

import pyarrow as pa

from schemas.feed import TEXT, WHERE_FROM, Feed, Field

ORIGINS = ("observed", "forward", "backward", "median", "missing")
SEASONS = ("winter", "spring", "summer", "autumn")
ROLLING_SECONDS = 86_400


def origin_of(field: str) -> str:
    """The column that says where the field's value is from."""
    return f"{field}_origin"


def rolling_of(field: str) -> str:
    """The column of the field's rolling mean."""
    return f"{field}_mean_24h"


def _described(name: str, type: pa.DataType, description: str, unit: str | None = None) -> pa.Field:
    metadata = {"description": description} | ({"unit": unit} if unit else {})
    return pa.field(name, type, metadata=metadata)


def clean_schema(feed: Feed) -> pa.Schema:
    """The feed's fields, where each reading came from, and what cleaning adds.

    The measured fields are those in `feed.any_of`. The quality score is the share of them whose value was
    observed and broke no rule: 1.0 when all were.
    """
    names = pa.list_(pa.string())
    measured = [feed.field(name) for name in feed.any_of]
    return pa.schema(
        [
            *(field.arrow for field in feed.fields),
            *WHERE_FROM,
            *(_described(origin_of(field.name), TEXT, _origin(field)) for field in measured),
            _described("qa_missing_fields", names, "Fields that came without a value."),
            _described("qa_out_of_range_fields", names, "Fields whose value broke a rule."),
            _described("missing_ratio", pa.float64(), "Share of the measured fields without a usable value."),
            _described("quality_score", pa.float64(), "Share of the measured fields with one."),
            _described("hour", pa.int32(), "Of the day, UTC."),
            _described("weekday", pa.int32(), "Monday is 0."),
            _described("month", pa.int32(), "January is 1."),
            _described("season", TEXT, "Meteorological, of the northern hemisphere."),
            *(
                _described(rolling_of(field.name), pa.float64(), f"24-hour mean of {field.name}.", field.unit)
                for field in measured
            ),
        ]
    )


def clean_message_schema(feed: Feed) -> pa.Schema:
    """A clean reading as a message: plain text."""
    return pa.schema([f.with_type(pa.string()) if f.type == TEXT else f for f in clean_schema(feed)])


def _origin(field: Field) -> str:
    return f"How {field.name} came about: {', '.join(ORIGINS)}."
