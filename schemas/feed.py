"""The declaration of a feed, and what derives from it: Arrow schemas and validation rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pyarrow as pa

TIMESTAMP = pa.timestamp("us", tz="UTC")
TEXT = pa.dictionary(pa.int32(), pa.string())
MAXIMUM_RULES = 63
COUNTED = ("count", "missing_count", "distinct_count")
"""The functions of an aggregate that give a whole number."""
PICKED = ("first", "last", "at_highest")
"""Those that give one of the field's own values."""


@dataclass(frozen=True)
class CsvDialect:
    """How a feed's files are written. With `skips_empty_rows`, a row of delimiters alone is a blank line."""

    delimiter: str = ","
    decimal_point: str = "."
    skips_empty_rows: bool = False


RFC_4180 = CsvDialect()


@dataclass(frozen=True)
class DateAndTime:
    """A timestamp in two columns of a file, each of a format of strptime's numbers: %d %m %Y %H %M %S."""

    date: str
    time: str
    date_format: str
    time_format: str


@dataclass(frozen=True)
class Elapsed:
    """A timestamp that is `seconds` after `start`, both the names of fields."""

    start: str
    seconds: str


@dataclass(frozen=True)
class Field:
    """One column of a feed.

    `type` is the Arrow type in memory; text is dictionary-encoded (`TEXT`), so that a rule on it is
    evaluated once per distinct value. `minimum` and `maximum` are inclusive and in `unit`.
    `known` are the only values accepted, when given; the command line's `known_option` names a file of them.
    The two age limits are seconds from the time of
    processing and apply to a timestamp. `zero_can_mean_missing` marks a field whose 0 may stand for
    "no reading". In a message the field stands inside the object named `group`, when it has one.

    In a file the field is the column of that name, or `column`, or made of others as `made_of` says. A file
    without it gives each of its rows the `default`, which the command line's `option` sets. `missing_value`
    is a number that stands for no value, `median` the usual value, for gaps that nothing near can fill.

    A reading that breaks a rule is refused. Not so where `tolerated`: there the value becomes null, and the
    reading goes on. `reason`, when given, is what dead letters say of a reading in which it cannot be read.
    """

    name: str
    type: pa.DataType
    description: str
    unit: str | None = None
    required: bool = False
    pattern: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    known: frozenset[str] | None = field(default=None, repr=False)
    max_future_seconds: float | None = None
    max_age_seconds: float | None = None
    zero_can_mean_missing: bool = False
    group: str | None = None
    column: str | None = None
    made_of: DateAndTime | Elapsed | None = None
    default: object = None
    missing_value: float | None = None
    median: float | None = None
    tolerated: bool = False
    reason: str | None = None
    option: str | None = None
    known_option: str | None = None

    def __post_init__(self) -> None:
        if self.minimum is not None and self.maximum is not None and not self.minimum <= self.maximum:
            raise ValueError(
                f"{self.name}: the minimum {self.minimum:g} is above the maximum {self.maximum:g}"
            )

    @property
    def arrow(self) -> pa.Field:
        """The Arrow field, with description and unit in its metadata."""
        metadata = {"description": self.description} | ({"unit": self.unit} if self.unit else {})
        return pa.field(self.name, self.type, nullable=not self.required, metadata=metadata)

    @property
    def is_number(self) -> bool:
        return pa.types.is_floating(self.type) or pa.types.is_integer(self.type)

    def rules(self) -> Iterable[Rule]:
        """The rules that the declaration implies, in the order in which a dead letter names them."""
        timestamp = pa.types.is_timestamp(self.type)
        if self.required:
            yield Rule(self, "missing", "is missing", self.reason)
        if self.type in (TEXT, pa.string()):
            yield Rule(self, "unparsable", "is not text")
        if self.is_number:
            yield Rule(self, "unparsable", "is not a number")
        if pa.types.is_boolean(self.type):
            yield Rule(self, "unparsable", "is neither true nor false")
        if timestamp:
            yield Rule(self, "unparsable", f"is not {self._timestamp_form}", self.reason)
            yield Rule(self, "nonexistent", "is a local time that the clock change skips")
        if pa.types.is_floating(self.type):
            yield Rule(self, "not_finite", "is NaN or infinite")
        if self.pattern:
            yield Rule(self, "malformed", f"does not match {self.pattern}")
        if self.known is not None:
            yield Rule(self, "unknown", f"is none of the {len(self.known):,} known ones")
        if self.minimum is not None or self.maximum is not None:
            low = "-inf" if self.minimum is None else f"{self.minimum:,g}"
            high = "inf" if self.maximum is None else f"{self.maximum:,g}"
            yield Rule(
                self, "out_of_range", f"is outside {low} to {high}{f' {self.unit}' if self.unit else ''}"
            )
        if self.max_future_seconds is not None:
            yield Rule(self, "in_future", f"is over {self.max_future_seconds:,g} s in the future")
        if self.max_age_seconds is not None:
            yield Rule(self, "too_old", f"is over {self.max_age_seconds:,g} s old")

    @property
    def _timestamp_form(self) -> str:
        match self.made_of:
            case DateAndTime():
                return f"of the form {self.made_of.date_format} {self.made_of.time_format}"
            case Elapsed():
                return "a finite time after the start"
        return "an ISO 8601 timestamp"


@dataclass(frozen=True)
class Rule:
    """One thing that can be wrong with one field of a reading."""

    field: Field
    kind: str
    complaint: str
    reason: str | None = None

    @property
    def name(self) -> str:
        """The reason that dead letters and accounts give, such as `speed_mph_out_of_range`."""
        return self.reason or f"{self.field.name}_{self.kind}"

    @property
    def message(self) -> str:
        return f"{self.field.name} {self.complaint}"


@dataclass(frozen=True)
class Aggregate:
    """One column of a group's row: `function` over the values of the field `of`, or of several, in the group.

    The functions are those of `transforms.aggregate`. The column has the field's unit unless `unit` is given.
    """

    name: str
    function: str
    of: str | tuple[str, ...]
    description: str
    unit: str | None = None

    @property
    def fields(self) -> tuple[str, ...]:
        return (self.of,) if isinstance(self.of, str) else self.of


@dataclass(frozen=True)
class Cell:
    """A cell of H3, Uber's hexagonal grid: the column `name` says in which one a position is."""

    name: str
    latitude: str
    longitude: str
    resolution: int


@dataclass(frozen=True)
class SessionTable:
    """A table in `processed/name`: a row per key and session, and per value of the fields `per` and cell."""

    name: str
    description: str
    aggregates: tuple[Aggregate, ...]
    per: tuple[str, ...] = ()
    cell: Cell | None = None

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that its rows are made of, beside key and event time."""
        cell = (self.cell.latitude, self.cell.longitude) if self.cell else ()
        of = (name for aggregate in self.aggregates for name in aggregate.fields)
        return tuple(dict.fromkeys((*self.per, *cell, *of)))


@dataclass(frozen=True)
class Sessions:
    """A key's readings cut where `gap_seconds` or more pass without one, and what is told of each session."""

    gap_seconds: int
    tables: tuple[SessionTable, ...]


@dataclass(frozen=True)
class Health:
    """What a healthy run keeps to: at most such a share of records refused, and at least such a mean quality
    score, both 0 to 1.
    """

    most_refused: float
    least_quality: float


@dataclass(frozen=True)
class Feed:
    """A feed of readings: its columns, what identifies a reading, and what is aggregated per window.

    `key` names the field that an aggregate is made per (the sensor), together with the fields of `per`;
    `event_time` the field that places a reading in its window. Readings that agree in `key` and `event_time`,
    and in the fields of `distinct`, are duplicates of each other. A message whose `identifier` field is null
    gets a UUID there, and the time of sending in its `ingestion_time` field; an accepted reading gets the
    former already when it is one of `distinct`, unless it is raw.
    `raw` readings keep the values that a tolerated field would lose, and those that stand for no value;
    the others are refused without a value in `any_of` these fields, when it names some. Those are the
    measured ones, whose gaps are filled in clean readings, with a value at most `fill_seconds` away. A key
    sends a reading every `step_seconds`, so that it can be said of the fields `daily` which days are
    complete.

    >>> from schemas.traffic import TRAFFIC
    >>> TRAFFIC.with_bounds({"speed_mph": (0, 100)}).field("speed_mph").maximum
    100
    """

    name: str
    description: str
    fields: tuple[Field, ...]
    key: str
    event_time: str
    aggregates: tuple[Aggregate, ...]
    per: tuple[str, ...] = ()
    sessions: Sessions | None = None
    window_seconds: int = 300
    identifier: str | None = None
    ingestion_time: str | None = None
    distinct: tuple[str, ...] = ()
    dialect: CsvDialect = RFC_4180
    any_of: tuple[str, ...] = ()
    step_seconds: int = 0
    fill_seconds: int = 0
    daily: tuple[str, ...] = ()
    health: Health | None = None
    raw: bool = False

    def __post_init__(self) -> None:
        names = [field.name for field in self.fields]
        named = {self.key, self.event_time, *(name for each in self.aggregates for name in each.fields)}
        named |= {name for table in self.session_tables for name in table.fields}
        named |= {name for name in (self.identifier, self.ingestion_time) if name}
        named |= {*self.distinct, *self.any_of, *self.daily, *self.per}
        made_of = [field.made_of for field in self.fields if isinstance(field.made_of, Elapsed)]
        named |= {name for each in made_of for name in (each.start, each.seconds)}
        if missing := named - set(names):
            raise ValueError(f"feed {self.name} names fields that it does not declare: {sorted(missing)}")
        if len(self.rules) > MAXIMUM_RULES:
            raise ValueError(f"feed {self.name} has more than {MAXIMUM_RULES} rules")

    def field(self, name: str) -> Field:
        """The field of that name; KeyError when the feed has none."""
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> Mapping[str, Field]:
        return {field.name: field for field in self.fields}

    @cached_property
    def rules(self) -> tuple[Rule, ...]:
        """Every rule of the feed; a rule's place is its bit in a reading's `broken` column."""
        rules = [rule for field in self.fields for rule in field.rules()]
        if self.any_of:
            rules.append(Rule(self.field(self.key), "unusable", "has sent no usable value", "nothing_usable"))
        return tuple(rules)

    def bit(self, field: str, kind: str) -> np.uint64:
        """That rule's bit in a reading's `broken` column; KeyError when the feed has no such rule."""
        return self._bits[field, kind]

    @cached_property
    def _bits(self) -> Mapping[tuple[str, str], np.uint64]:
        return {(rule.field.name, rule.kind): np.uint64(1 << place) for place, rule in enumerate(self.rules)}

    @cached_property
    def tolerated(self) -> np.uint64:
        """The bits of all rules that do not refuse a reading."""
        return np.uint64(sum(1 << place for place, rule in enumerate(self.rules) if rule.field.tolerated))

    @cached_property
    def required(self) -> tuple[str, ...]:
        return tuple(field.name for field in self.fields if field.required)

    @cached_property
    def columns(self) -> frozenset[str]:
        """All columns that its files may have."""
        return frozenset(column for field in self.fields for column in self.columns_of(field))

    @cached_property
    def required_columns(self) -> tuple[str, ...]:
        """The columns without which a file has no whole reading."""
        needed = [field for field in self.fields if field.required]
        elapsed = [field.made_of for field in needed if isinstance(field.made_of, Elapsed)]
        needed += [self.field(name) for made_of in elapsed for name in (made_of.start, made_of.seconds)]
        columns = [self.columns_of(field) for field in needed if field.default is None]
        return tuple(dict.fromkeys(column for each in columns for column in each))

    def columns_of(self, field: Field) -> tuple[str, ...]:
        """The columns of a file that hold the field itself."""
        match field.made_of:
            case DateAndTime():
                return field.made_of.date, field.made_of.time
            case Elapsed():
                return ()
        return (field.column or field.name,)

    @property
    def session_tables(self) -> tuple[SessionTable, ...]:
        return self.sessions.tables if self.sessions else ()

    @property
    def as_raw(self) -> Feed:
        """The feed with all values as they are in its files; see `raw`."""
        return replace(self, raw=True)

    @cached_property
    def reading_schema(self) -> pa.Schema:
        """An accepted reading: the feed's fields, then where it came from, then the rules whose break nulled
        a value, in feeds that have such rules."""
        nulled = [NULLED] if self.tolerated and not self.raw else []
        return pa.schema([*(field.arrow for field in self.fields), *WHERE_FROM, *nulled])

    @cached_property
    def decoded_schema(self) -> pa.Schema:
        """A reading between decode and validate: with its original bytes and the rules already broken."""
        fields = [field.arrow.with_nullable(True) for field in self.fields]
        return pa.schema(
            [*fields, *WHERE_FROM, pa.field("value", pa.binary()), pa.field("broken", pa.uint64())]
        )

    @cached_property
    def message_schema(self) -> pa.Schema:
        """A reading as a message: plain text, and the fields of a group together where the first one stands.

        A group is null where all its fields are.
        """
        groups = dict.fromkeys(field.group or field.name for field in self.fields)
        return pa.schema([self._message_field(name) for name in groups])

    @cached_property
    def received_schema(self) -> pa.Schema:
        """A message before it is validated: any field may be null."""
        return pa.schema([field.with_nullable(True) for field in self.message_schema])

    def _message_field(self, name: str) -> pa.Field:
        members = [_with_plain_text(field.arrow) for field in self.fields if field.group == name]
        return pa.field(name, pa.struct(members)) if members else _with_plain_text(self.field(name).arrow)

    @cached_property
    def aggregate_schema(self) -> pa.Schema:
        """One row per key and window, and per value of the fields `per`."""
        return pa.schema(
            [
                *(self.field(name).arrow for name in (self.key, *self.per)),
                _time("window_start", "Inclusive."),
                _time("window_end", "Exclusive."),
                *map(self._aggregate_field, self.aggregates),
                *PANE,
            ]
        )

    def session_schema(self, table: SessionTable) -> pa.Schema:
        """One row per key, session, and value of the fields and the cell that the table names."""
        cell = table.cell
        return pa.schema(
            [
                self.field(self.key).arrow,
                _time("session_start", "Its first reading."),
                _time("session_end", "Its last reading."),
                *(self.field(name).arrow for name in table.per),
                *([_described(cell.name, TEXT, f"H3, resolution {cell.resolution}.")] if cell else ()),
                *map(self._aggregate_field, table.aggregates),
            ]
        )

    @cached_property
    def aggregate_message_schema(self) -> pa.Schema:
        """A row of the aggregates as a message: plain text."""
        return pa.schema([_with_plain_text(field) for field in self.aggregate_schema])

    def _aggregate_field(self, aggregate: Aggregate) -> pa.Field:
        of, function = self.field(aggregate.fields[0]), aggregate.function
        unit = aggregate.unit or of.unit
        if function in PICKED:
            return _described(aggregate.name, of.type, aggregate.description, unit, not of.required)
        if function in COUNTED:
            return _described(
                aggregate.name, pa.int64(), aggregate.description, aggregate.unit or "readings", False
            )
        if function == "variance" and unit:
            unit = f"{unit}^2"
        return _described(aggregate.name, pa.float64(), aggregate.description, unit, True)

    def with_field(self, name: str, **changes: object) -> Feed:
        """The feed with that field's declaration changed; KeyError when the feed has none of that name."""
        changed = replace(self.field(name), **changes)  # type: ignore[arg-type]
        return replace(self, fields=tuple(changed if f.name == name else f for f in self.fields))

    def with_bounds(self, bounds: Mapping[str, tuple[float | None, float | None]]) -> Feed:
        """The feed with other limits; None leaves a side open. ValueError for a field that is no number."""
        feed = self
        for name, (minimum, maximum) in bounds.items():
            if not feed.field(name).is_number:
                raise ValueError(f"{name} is no number: it has no bounds")
            feed = feed.with_field(name, minimum=minimum, maximum=maximum)
        return feed


def _described(
    name: str, type: pa.DataType, description: str, unit: str | None = None, nullable: bool = False
) -> pa.Field:
    return pa.field(name, type, nullable, {"description": description} | ({"unit": unit} if unit else {}))


def _time(name: str, description: str) -> pa.Field:
    return _described(name, TIMESTAMP, description)


def _with_plain_text(field: pa.Field) -> pa.Field:
    return field.with_type(pa.string()) if field.type == TEXT else field


PANE = (
    pa.field(
        "revision", pa.int32(), nullable=False, metadata={"description": "A higher one replaces the lower."}
    ),
    pa.field(
        "pane", TEXT, nullable=False, metadata={"description": "early, on time or late; of a file: on time."}
    ),
)
WHERE_FROM = (
    pa.field(
        "source", TEXT, nullable=False, metadata={"description": "The file or topic that it came from."}
    ),
    pa.field("partition", pa.int32(), metadata={"description": "The topic's partition; null for a file."}),
    pa.field(
        "position",
        pa.int64(),
        nullable=False,
        metadata={"description": "Its row in the file, the first is 1; or its offset."},
    ),
)

NULLED = pa.field(
    "nulled",
    pa.list_(pa.string()),
    nullable=False,
    metadata={"description": "The rules that values broke which are null for it."},
)
