from __future__ import annotations

import itertools
import random

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runners.options import IN_PROCESS
from schemas.detections import DETECTIONS
from schemas.traffic import TRAFFIC
from tests.rows import accepted, micros
from transforms.accounts import Accounts
from transforms.batches import concatenate
from transforms.deduplicate import Deduplicate, deduplicate

LOWEST, HIGHEST = -(2**63), 2**63 - 1
NOON = micros("2012-03-01 12:00")
SOUND = {"sensor_id": "s1", "source": "a.csv", "partition": None, "position": 1, "speed_mph": 0.0}

rows = st.fixed_dictionaries(
    {
        "sensor_id": st.sampled_from(["s1", "s2", "s10", "S1", "é"]),
        "timestamp": st.sampled_from([NOON, NOON + 1, 0, -1]),
        "source": st.sampled_from(["b.csv", "a.csv", "topic"]),
        "partition": st.none() | st.integers(0, 11),
        "position": st.integers(0, 20),
        "speed_mph": st.integers(0, 120).map(float),
    }
)
rows_far_apart = st.builds(
    lambda row, when: {**row, "timestamp": when},
    rows,
    st.sampled_from([LOWEST, LOWEST + 1, -1, 0, 1, HIGHEST - 1, HIGHEST]) | st.integers(LOWEST, HIGHEST),
)


def place(row: dict) -> tuple:
    return row["source"], row["partition"] or 0, row["position"]


def plain(batch: pa.RecordBatch) -> list[dict]:
    """The columns that matter here, times in microseconds."""
    names = ("sensor_id", "timestamp", "source", "partition", "position", "speed_mph")
    columns = [batch[name].view(pa.int64()) if name == "timestamp" else batch[name] for name in names]
    return pa.table(columns, names=list(names)).to_pylist()


def slow_deduplicate(rows: list[dict]) -> list[dict]:
    first: dict[tuple, dict] = {}
    for row in sorted(rows, key=place):
        first.setdefault((row["sensor_id"], row["timestamp"]), row)
    return [first[key] for key in sorted(first, key=lambda key: (key[0].encode(), key[1]))]


def test_the_first_by_source_and_position_stays() -> None:
    readings = accepted(
        {"source": "b.csv", "position": 1, "speed_mph": 1.0},
        {"source": "a.csv", "position": 10, "speed_mph": 2.0},
        {"source": "a.csv", "position": 9, "speed_mph": 3.0},
        {"source": "a.csv", "position": 8, "speed_mph": 4.0, "sensor_id": "s2"},
    )
    unique, duplicates = deduplicate(readings, TRAFFIC)
    assert (unique["speed_mph"].to_pylist(), duplicates) == ([3.0, 4.0], 2)


def test_the_first_of_a_topic_is_the_first_of_its_lowest_partition() -> None:
    readings = accepted(
        {"source": "topic", "partition": 10, "position": 1},
        {"source": "topic", "partition": 9, "position": 3},
        {"source": "topic", "partition": 9, "position": 2},
    )
    unique, _ = deduplicate(readings, TRAFFIC)
    assert (unique["partition"].to_pylist(), unique["position"].to_pylist()) == ([9], [2])


@settings(deadline=None, max_examples=300)
@given(
    st.lists(rows, max_size=12, unique_by=place) | st.lists(rows_far_apart, max_size=12, unique_by=place),
    st.lists(st.integers(0, 12), max_size=3).map(sorted),
)
@example([{**SOUND, "timestamp": when, "sensor_id": s} for when in (LOWEST, HIGHEST) for s in "ab"], [])
def test_readings_stay_that_an_oracle_with_a_dictionary_keeps(rows: list[dict], cuts: list[int]) -> None:
    batches = [accepted(*rows[low:high]) for low, high in itertools.pairwise([0, *cuts, len(rows)])]
    unique, duplicates = deduplicate(concatenate(batches), TRAFFIC)
    unique.validate(full=True)
    expected = slow_deduplicate(rows)
    assert (plain(unique), duplicates) == (expected, len(rows) - len(expected))


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_arrival_does_not_matter(seed: int) -> None:
    shuffled = random.Random(seed)
    found = [
        {"sensor_id": f"s{n % 7}", "timestamp": NOON + n % 30, "position": n, "source": f"{n % 3}.csv"}
        for n in range(1_000)
    ]
    expected, duplicates = deduplicate(accepted(*found), TRAFFIC)
    shuffled.shuffle(found)
    cuts = sorted(shuffled.sample(range(1_000), 9))
    batches = [accepted(*found[low:high]) for low, high in itertools.pairwise([0, *cuts, 1_000])]
    again, as_many = deduplicate(concatenate(batches), TRAFFIC)
    assert as_many == duplicates == 1_000 - 210
    assert plain(again) == plain(expected)


def test_many_readings_over_many_years_stay_in_order() -> None:
    random_times = (
        np.random.default_rng(1).integers(micros("0001-01-01"), micros("9999-12-31"), 2_000).tolist()
    )
    found = [{"sensor_id": f"s{n % 50}", "timestamp": when} for n, when in enumerate(random_times)]
    unique, _ = deduplicate(accepted(*found), TRAFFIC)
    keys = [(row["sensor_id"], row["timestamp"]) for row in plain(unique)]
    assert keys == sorted(set(keys)) and len(keys) == 2_000


signs = st.fixed_dictionaries(
    {
        "vehicle_id": st.sampled_from(["a", "b"]),
        "timestamp": st.sampled_from([NOON, NOON + 1]),
        "detection_id": st.sampled_from(["d1", "d2", "d10"]),
        "source": st.sampled_from(["b.csv", "a.csv"]),
        "partition": st.none() | st.integers(0, 2),
        "position": st.integers(0, 20),
    }
)


@settings(deadline=None, max_examples=300)
@given(st.lists(signs, max_size=12, unique_by=place), st.randoms(use_true_random=False))
def test_signs_in_one_frame_stay_unless_their_identifier_is_the_same(
    rows: list[dict], shuffled: random.Random
) -> None:
    def identity(row: dict) -> tuple:
        return row["vehicle_id"], row["timestamp"], row["detection_id"]

    first: dict[tuple, dict] = {}
    for row in sorted(rows, key=place):
        first.setdefault(identity(row), row)
    shuffled.shuffle(rows)
    unique, duplicates = deduplicate(accepted(*rows, feed=DETECTIONS), DETECTIONS)
    columns = [unique[name] for name in ("source", "partition", "position", "detection_id")]
    found = pa.table(columns, names=["source", "partition", "position", "detection_id"]).to_pylist()
    kept = sorted(first.values(), key=lambda row: (row["vehicle_id"], row["timestamp"], place(row)))
    assert found == [{name: row[name] for name in found[0]} for row in kept]
    assert duplicates == len(rows) - len(kept)


def test_no_reading_has_no_duplicate() -> None:
    unique, duplicates = deduplicate(accepted(), TRAFFIC)
    assert (unique.num_rows, duplicates) == (0, 0)


def test_deduplicate_in_a_pipeline_counts_what_it_drops() -> None:
    def check(accounts: list[Accounts]) -> None:
        assert sum(accounts, Accounts()) == Accounts(duplicates=2)

    one = accepted({"speed_mph": 1.0}, {"sensor_id": "s2"}, {"speed_mph": 2.0})
    two = accepted({"speed_mph": 3.0, "position": 99, "source": "0.csv"})
    with TestPipeline(runner=IN_PROCESS) as pipeline:
        unique = pipeline | beam.Create([(0, [one, two]), (300, [accepted({})])]) | Deduplicate(TRAFFIC)
        speeds = unique.readings | beam.MapTuple(lambda start, batch: (start, batch["speed_mph"].to_pylist()))
        assert_that(speeds, equal_to([(0, [3.0, 60.0]), (300, [60.0])]), label="readings")
        assert_that(unique.accounts, check, label="accounts")
