"""The rules of a feed, held against its readings."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.feed import NULLED, TIMESTAMP, Elapsed, Feed, Field, Rule
from transforms.casts import floats
from transforms.dead_letters import Failure, to_dead_letters
from transforms.messages import with_identifiers

YEAR_1, YEAR_10000 = -62_135_596_800_000_000, 253_402_300_800_000_000
"""The four-digit years begin and end here, in microseconds since the epoch; Python holds no others."""


def broken_rules(readings: pa.RecordBatch, feed: Feed, now: int) -> np.ndarray:
    """For each reading of `feed.decoded_schema` the rules that it breaks: uint64, bit i for `feed.rules[i]`.

    `now` is microseconds since the epoch.
    """
    broken = readings["broken"].to_numpy().copy()
    columns = {field.name: _values(readings, field) for field in feed.fields}
    # what a field is made of comes first: where that is wrong, the field is not said to be missing
    for rule in sorted(feed.rules, key=lambda rule: isinstance(rule.field.made_of, Elapsed)):
        rows = _breaking(rule, columns[rule.field.name], broken, feed, now)
        if rows is not None and rows.any():
            broken[rows] |= feed.bit(rule.field.name, rule.kind)
    if feed.any_of and not feed.raw:
        broken[~_usable(columns, broken, feed)] |= feed.bit(feed.key, "unusable")
    return broken


def _usable(columns: Mapping[str, pa.Array], broken: np.ndarray, feed: Feed) -> np.ndarray:
    """The readings that have a value which breaks no rule in one of the fields that count."""
    usable = np.zeros(len(broken), bool)
    for name in feed.any_of:
        usable |= _valid(columns[name]) & (broken & _bits_of(feed, name) == 0)
        if usable.all():  # as in most batches after a field or two
            break
    return usable


def _values(readings: pa.RecordBatch, field: Field) -> pa.Array:
    """The field's column, null also where a number stands for no value."""
    column = readings[field.name]
    if field.missing_value is None or column.null_count == len(column):
        return column
    return _without(column, pc.equal(column, field.missing_value))


def _without(column: pa.Array, mask: pa.BooleanArray) -> pa.Array:
    return pc.if_else(pc.fill_null(mask, False), pa.scalar(None, column.type), column)


def _breaking(rule: Rule, column: pa.Array, broken: np.ndarray, feed: Feed, now: int) -> np.ndarray | None:
    field = rule.field
    absent = column.null_count == len(column)
    match rule.kind:
        case "missing" if column.null_count:
            null = column.is_null().to_numpy(zero_copy_only=False)
            parts = (field.made_of.start, field.made_of.seconds) if isinstance(field.made_of, Elapsed) else ()
            return null & (broken & _bits_of(feed, field.name, *parts) == 0)
        case "unparsable" if not absent and field.type == TIMESTAMP:
            return _valid(column) & ((_micros(column) < YEAR_1) | (_micros(column) >= YEAR_10000))
        case "not_finite" if not absent:
            finite = np.isfinite(floats(column))
            return None if finite.all() else ~finite & _valid(column)
        case "out_of_range" if not absent:
            numbers = floats(column)
            low = -np.inf if field.minimum is None else field.minimum
            high = np.inf if field.maximum is None else field.maximum
            outside = (numbers < low) | (numbers > high)
            return outside & np.isfinite(numbers) if outside.any() else None
        case "malformed":
            matches = pc.match_substring_regex(column.dictionary, f"^({field.pattern})$")
            return _of_values(column, ~matches.to_numpy(zero_copy_only=False))
        case "unknown":
            known = pc.is_in(column.dictionary, pa.array(sorted(field.known or ()), pa.string()))
            return _of_values(column, ~known.to_numpy(zero_copy_only=False))
        case "in_future" if not absent and field.max_future_seconds is not None:
            return _micros(column) > now + field.max_future_seconds * 1e6
        case "too_old" if not absent and field.max_age_seconds is not None:
            return _valid(column) & (_micros(column) < now - field.max_age_seconds * 1e6)
    return None  # decided where the text was parsed, or nothing to decide


def _bits_of(feed: Feed, *names: str) -> np.uint64:
    rules = (rule for rule in feed.rules if rule.field.name in names)
    return np.bitwise_or.reduce([feed.bit(rule.field.name, rule.kind) for rule in rules])


def _micros(column: pa.Array) -> np.ndarray:
    """The timestamps as microseconds since the epoch; for null the lowest there is."""
    return pc.fill_null(column.view(pa.int64()), np.iinfo(np.int64).min).to_numpy()


def _valid(column: pa.Array) -> np.ndarray:
    return column.is_valid().to_numpy(zero_copy_only=False)


def _of_values(column: pa.DictionaryArray, bad_values: np.ndarray) -> np.ndarray | None:
    """The rows whose value is a bad one, from a mask over the dictionary."""
    if not bad_values.any():
        return None
    rows = bad_values[pc.fill_null(column.indices, 0).to_numpy()]
    return rows & _valid(column)


def validate(readings: pa.RecordBatch, feed: Feed, now: int = 0) -> tuple[pa.RecordBatch, pa.RecordBatch]:
    """Decoded readings -> (readings of `feed.reading_schema`, dead letters).

    A reading is accepted that keeps every rule but those of tolerated fields. Unless the feed is `raw`, its
    values that break such a rule are null and so are those that stand for no value.
    """
    broken = broken_rules(readings, feed, now)
    bad = broken & ~feed.tolerated != 0
    accepted, failed = readings, readings.slice(0, 0)
    if bad.any():
        accepted, failed = readings.filter(pa.array(~bad)), readings.filter(pa.array(bad))
    masks, which = np.unique(broken[bad], return_inverse=True)
    failures = [_failure(int(mask), feed) for mask in masks]
    return (
        _to_readings(accepted, broken[~bad], feed),
        to_dead_letters(failed, failures, which, feed, "validate", now),
    )


def _to_readings(accepted: pa.RecordBatch, broken: np.ndarray, feed: Feed) -> pa.RecordBatch:
    columns = {name: accepted[name] for name in accepted.schema.names}
    if not feed.raw:
        for field in feed.fields:
            columns[field.name] = _values(accepted, field)
            if field.tolerated and broken.any():
                mask = broken & _bits_of(feed, field.name) != 0
                columns[field.name] = _without(columns[field.name], pa.array(mask))
    if feed.identifier in feed.distinct and not feed.raw:
        columns[feed.identifier] = with_identifiers(columns[feed.identifier], accepted)
    if NULLED.name in feed.reading_schema.names:
        masks, which = np.unique(broken, return_inverse=True)
        names = pa.array([_failure(int(mask), feed).rules for mask in masks], NULLED.type)
        columns[NULLED.name] = names.take(pa.array(which, pa.int32()))
    arrays = [columns[name] for name in feed.reading_schema.names]
    return pa.RecordBatch.from_arrays(arrays, schema=feed.reading_schema)


def _failure(mask: int, feed: Feed) -> Failure:
    """What the broken rules say, first of those that refuse the reading."""
    rules = [rule for place, rule in enumerate(feed.rules) if mask >> place & 1]
    rules.sort(key=lambda rule: rule.field.tolerated)
    return Failure(tuple(rule.name for rule in rules), "; ".join(rule.message for rule in rules))
