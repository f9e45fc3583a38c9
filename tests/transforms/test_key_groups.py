"""Where Flink puts the partitions of a topic; test_traffic_partitions sees the real one do so."""

from hypothesis import given
from hypothesis import strategies as st

from transforms.key_groups import KEY_GROUPS, halving, key_at, key_group

PARALLELISMS = st.integers(1, 32)


def subtasks(places: list[float], parallelism: int) -> list[int]:
    """How many of the partitions at those places each subtask reads."""
    groups = [key_group(key_at("traffic-raw", number, place)) for number, place in enumerate(places)]
    return [sum(group * parallelism // KEY_GROUPS == i for group in groups) for i in range(parallelism)]


@given(st.integers(1, 64), PARALLELISMS)
def test_all_subtasks_read_about_as_many_partitions(partitions, parallelism):
    read = subtasks([(number + 0.5) / partitions for number in range(partitions)], parallelism)
    assert sum(read) == partitions
    assert max(read) - min(read) <= (2 if KEY_GROUPS % parallelism else 1)


@given(st.integers(0, 64), st.sampled_from([1, 2, 4, 8]))
def test_those_that_are_added_are_spread_too(partitions, parallelism):
    read = subtasks([halving(number) for number in range(partitions)], parallelism)
    assert max(read) - min(read) <= 1


@given(st.text(), st.integers(0, 2**31 - 1), st.floats(0, 1, exclude_max=True))
def test_a_key_is_in_the_group_that_is_asked_for(topic, number, place):
    assert key_group(key_at(topic, number, place)) == int(place * KEY_GROUPS)
