"""Keys that Flink deals out evenly: by chance one of two subtasks often reads four of five partitions."""

from __future__ import annotations

import itertools

KEY_GROUPS = 128  # Flink's default for up to 85 subtasks; each has some that follow one another
WORD = 0xFFFF_FFFF


def key_at(topic: str, number: int, place: float) -> tuple[str, int]:
    """A key for a partition of a topic, in the group at that place of all, from 0 up to 1.

    >>> [key_group(key_at("traffic-raw", number, number / 5)) * 2 // KEY_GROUPS for number in range(5)]
    [0, 0, 0, 1, 1]
    """
    wanted = int(place * KEY_GROUPS)
    tries = ((f"{topic}/{salt}", number) for salt in itertools.count())
    return next(key for key in tries if key_group(key) == wanted)


def added_place(number: int) -> float:
    """Of a partition that is added: always between those that there are, from the last group down.

    >>> [round((1 - added_place(number)) * KEY_GROUPS) for number in range(5)]
    [1, 65, 33, 97, 17]
    """
    halved = int(f"{number % KEY_GROUPS:07b}"[::-1], 2)
    return (KEY_GROUPS - 1 - halved) / KEY_GROUPS


def key_group(key: tuple[str, int]) -> int:
    """The group of a key in Flink's `KeyGroupRangeAssignment`.

    Subtask `i` of `n` has the groups from `i/n` of all on. The key is encoded as Beam's coders do it, and
    hashed as Java's `ByteBuffer.hashCode` and `MathUtils.murmurHash` of Flink do.
    """
    text = key[0].encode()
    hashed = 1
    for byte in reversed(_variable_length(len(text)) + text + _variable_length(key[1])):
        hashed = (31 * hashed + (byte ^ 0x80) - 0x80) & WORD
    return _murmur(hashed) % KEY_GROUPS


def _variable_length(number: int) -> bytes:
    """Seven bits in a byte, the lowest first."""
    rest, low = divmod(number, 0x80)
    return bytes([low | 0x80]) + _variable_length(rest) if rest else bytes([low])


def _murmur(word: int) -> int:
    """MurmurHash3 of one word, and of that the absolute value as a signed one."""
    mixed = _rotate(word * 0xCC9E2D51 & WORD, 15) * 0x1B873593 & WORD
    mixed = (_rotate(mixed, 13) * 5 + 0xE6546B64 & WORD) ^ 4
    mixed = (mixed ^ mixed >> 16) * 0x85EBCA6B & WORD
    mixed = (mixed ^ mixed >> 13) * 0xC2B2AE35 & WORD
    mixed ^= mixed >> 16
    return abs(mixed - (WORD + 1)) if mixed > WORD // 2 else mixed


def _rotate(word: int, bits: int) -> int:
    return (word << bits | word >> 32 - bits) & WORD
