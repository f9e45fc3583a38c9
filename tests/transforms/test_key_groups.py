"""Where Flink puts the partitions of a topic; test_traffic_partitions sees the real one do so."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.key_groups import KEY_GROUPS, added_place, key_at, key_group

PARALLELISMS = st.integers(1, 32)


GROUPS = {
    ("traffic-raw/0", 0): 8,
    ("traffic-raw/17", 4): 30,
    ("größe/3", 300): 21,
    ("t" * 200, 2**31 - 1): 96,
}


@pytest.mark.parametrize(("key", "group"), GROUPS.items())
def test_groups_are_those_of_flink(key, group):
    """As `KeyGroupRangeAssignment.assignToKeyGroup` of Flink 1.19 has them."""
    assert key_group(key) == group


def spread(places: list[float], parallelism: int) -> int:
    """By how many partitions more the busiest subtask reads than the idlest, those at such places."""
    groups = [key_group(key_at("traffic-raw", number, place)) for number, place in enumerate(places)]
    read = [sum(group * parallelism // KEY_GROUPS == i for group in groups) for i in range(parallelism)]
    assert sum(read) == len(places)
    return max(read) - min(read)


def at_first(partitions: int) -> list[float]:
    return [(number + 0.5) / partitions for number in range(partitions)]


@given(st.integers(1, 64), PARALLELISMS)
def test_all_subtasks_read_about_as_many_partitions(partitions, parallelism):
    assert spread(at_first(partitions), parallelism) <= (2 if KEY_GROUPS % parallelism else 1)


@given(st.integers(1, 32), st.integers(0, 32), st.sampled_from([1, 2, 4, 8]))
def test_so_they_do_when_some_are_added(partitions, added, parallelism):
    places = [added_place(number) for number in range(partitions, partitions + added)]
    assert spread(at_first(partitions) + places, parallelism) <= 2


@pytest.mark.parametrize("partitions", [1, 2, 4, 8])
def test_those_that_double_a_topic_are_on_the_subtasks_that_had_none(partitions):
    added = [added_place(number) for number in range(partitions, 2 * partitions)]
    assert spread(at_first(partitions) + added, 2 * partitions) == 0
