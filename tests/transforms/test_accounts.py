from __future__ import annotations

import json
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.transforms.window import FixedWindows, TimestampedValue
from hypothesis import given, settings
from hypothesis import strategies as st

from runners.options import IN_PROCESS
from transforms.accounts import Accounts, AddAccounts, WriteSummary
from transforms.files import read_json

counts = st.integers(0, 1_000)
names = st.frozensets(st.sampled_from("abcd"))
accounts = st.builds(
    Accounts,
    read=counts,
    accepted=counts,
    duplicates=counts,
    dead_letters=st.dictionaries(st.sampled_from("xyz"), st.integers(1, 9)).map(Counter),
    aggregated=counts,
    nulled=st.dictionaries(st.sampled_from("xyz"), st.integers(1, 9)).map(Counter),
    measured=counts,
    usable=counts,
    missing_fields=st.dictionaries(st.sampled_from("xyz"), st.integers(1, 9)).map(Counter),
    out_of_range_fields=st.dictionaries(st.sampled_from("xyz"), st.integers(1, 9)).map(Counter),
    days=counts,
    valid_days=counts,
    summarized=st.dictionaries(st.sampled_from("xyz"), st.integers(1, 9)).map(Counter),
    windows=counts,
    aggregates=counts,
    blank_lines=counts,
    unknown_columns=names,
    files=names,
    bytes=counts,
)
BALANCED = Accounts(read=10, accepted=6, duplicates=1, dead_letters=Counter(x=2, y=1), aggregated=6)


def test_every_field_of_the_accounts_is_tried_here() -> None:
    """A field that is new must be generated above."""
    assert {field.name for field in fields(Accounts)} == {
        "summarized",
        *("read", "accepted", "duplicates", "dead_letters", "aggregated", "windows", "aggregates"),
        *(
            "nulled",
            "measured",
            "usable",
            "missing_fields",
            "out_of_range_fields",
            "days",
            "valid_days",
            "blank_lines",
            "unknown_columns",
            "files",
            "bytes",
        ),
    }


@settings(deadline=None)
@given(accounts, accounts, accounts)
def test_accounts_add_up_in_any_order_and_grouping(one: Accounts, two: Accounts, three: Accounts) -> None:
    assert (one + two) + three == one + (two + three)
    assert one + two == two + one
    assert one + Accounts() == one == Accounts() + one


@settings(deadline=None)
@given(accounts, accounts)
def test_adding_adds_numbers_and_unites_names(one: Accounts, two: Accounts) -> None:
    both = one + two
    assert both.read == one.read + two.read
    assert both.files == one.files | two.files
    for reason in "xyz":
        assert both.dead_letters[reason] == one.dead_letters[reason] + two.dead_letters[reason]


@settings(deadline=None)
@given(st.lists(accounts, max_size=6), st.integers(0, 6))
def test_the_combiner_adds_up_whatever_it_is_given_in_whatever_parts(each: list[Accounts], cut: int) -> None:
    combine = AddAccounts()
    parts = []
    for part in (each[:cut], each[cut:]):
        accumulator = combine.create_accumulator()
        for element in part:
            accumulator = combine.add_input(accumulator, element)
        parts.append(accumulator)
    assert combine.extract_output(combine.merge_accumulators(parts)) == sum(each, Accounts())


def test_accounts_balance_where_every_row_is_somewhere() -> None:
    assert BALANCED.balanced
    assert Accounts().balanced


@pytest.mark.parametrize("step", [1, -1])
@pytest.mark.parametrize("name", ["read", "accepted", "duplicates", "aggregated"])
def test_one_row_too_many_or_too_few_anywhere_puts_them_out_of_balance(name: str, step: int) -> None:
    changed = replace(BALANCED, **{name: getattr(BALANCED, name) + step})
    assert not changed.balanced
    assert changed.summary(1)["balanced"] is False


@pytest.mark.parametrize("reasons", [Counter(x=2), Counter(x=2, y=2), Counter(x=2, y=1, z=1)])
def test_a_dead_letter_too_many_or_too_few_puts_them_out_of_balance(reasons: Counter[str]) -> None:
    assert not replace(BALANCED, dead_letters=reasons).balanced


@settings(deadline=None)
@given(accounts)
def test_a_summary_is_json_that_says_what_the_accounts_say(accounts: Accounts) -> None:
    summary = json.loads(json.dumps(accounts.summary(2.0)))
    assert summary["balanced"] == accounts.balanced
    assert summary["read"] == accounts.read
    assert summary["dead_letters"] == dict(accounts.dead_letters)
    assert list(summary["dead_letters"].values()) == sorted(accounts.dead_letters.values(), reverse=True)
    assert (summary["files"], summary["output_files"]) == (len(accounts.files), sorted(accounts.files))
    assert (summary["seconds"], summary["rows_per_second"]) == (2.0, round(accounts.read / 2))


def test_the_summary_of_a_run_adds_up_the_accounts_of_all_steps_and_windows(tmp_path: Path) -> None:
    with TestPipeline(runner=IN_PROCESS) as pipeline:
        read = pipeline | "Read" >> beam.Create(
            [Accounts(read=4), Accounts(read=6, unknown_columns=frozenset("x"))]
        )
        windowed = [TimestampedValue(Accounts(accepted=3, aggregated=3), second) for second in (0, 1_000)]
        written = pipeline | "Written" >> beam.Create(windowed) | beam.WindowInto(FixedWindows(300))
        failed = pipeline | "Failed" >> beam.Create(
            [Accounts(dead_letters=Counter(a=1)), Accounts(duplicates=3)]
        )
        _ = (read, written, failed) | WriteSummary(str(tmp_path), {"feed": "traffic"})
    summary = read_json(str(tmp_path / "summary.json"))
    assert (summary["feed"], summary["read"], summary["accepted"], summary["duplicates"]) == (
        "traffic",
        10,
        6,
        3,
    )
    assert (summary["dead_letters"], summary["unknown_columns"], summary["balanced"]) == (
        {"a": 1},
        ["x"],
        True,
    )
    assert summary["seconds"] > 0


def test_a_run_without_any_row_has_a_summary_too(tmp_path: Path) -> None:
    with TestPipeline(runner=IN_PROCESS) as pipeline:
        nothing = pipeline | beam.Create([]).with_output_types(Accounts)
        _ = (nothing,) | WriteSummary(str(tmp_path), {})
    summary = read_json(str(tmp_path / "summary.json"))
    assert (summary["read"], summary["balanced"], summary["rows_per_second"]) == (0, True, 0)
