"""Faults planted at known rows of a sample, so that a job's account of it can be checked to the row.

Every planted row replaces an existing one, so that the number of rows stays the same. No row has two faults,
except where several broken rules are the fault, and a fault neither touches the first of two duplicates nor
stands near enough to an unclosed quote to close it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

BrokenRule = tuple[dict[str, str], tuple[str, ...]]
Oddity = tuple[str, str, Callable[[bytes], bytes]]


@dataclass(frozen=True)
class Faults:
    """The faults and oddities that a feed's sample may have.

    `broken_rules` say what is written into which fields, and the rules that this breaks, in the order in
    which the feed declares them: the first is the reason under which the row is set aside. `oddities` are
    unusual and yet right: what each is, the field, and what becomes of its value. `duplicates` say of each
    kind which fields of the repeated row change, and the two values of which they get the one that they do
    not have. `text` is the field in which a line's quotes and bytes are broken.
    """

    columns: tuple[str, ...]
    broken_rules: tuple[BrokenRule, ...]
    oddities: tuple[Oddity, ...]
    duplicates: tuple[tuple[str, Mapping[str, tuple[str, str]]], ...]
    text: str
    delimiter: bytes = b","

    def repeated(self, values: list[bytes], kind: str) -> list[bytes]:
        """A row's values once more, as that kind of duplicate has them."""
        for name, (one, other) in dict(self.duplicates)[kind].items():
            place = self.columns.index(name)
            values[place] = (one if values[place] != one.encode() else other).encode()
        return values


# Lines that are no row of the file's fields at all, made from the values of the row that each replaces and
# the place of a text among them.
BROKEN_LINES: tuple[tuple[str, Callable[[list[bytes], int], list[bytes]]], ...] = (
    ("wrong_field_count", lambda values, text: values[:-3]),
    ("wrong_field_count", lambda values, text: [*values, b"4"]),
    ("unclosed_quote", lambda values, text: [*values[:text], b'"' + values[text], *values[text + 1 :]]),
    ("not_utf8", lambda values, text: [*values[:text], values[text] + b"\xff", *values[text + 1 :]]),
    ("not_utf8", lambda values, text: [*values[:text], b"Ca\xc3", *values[text + 1 :]]),
)

LINES_BETWEEN_QUOTES = 50
"""No quote follows an unclosed one within this many lines."""
ROWS_PER_PLANTED_ROW = 4
"""The sparsest planting that finds its places quickly by drawing."""
ROWS_BACK_TO_FIRST = 5_000
"""How far a duplicate stands from the row it repeats, at most."""
FAULT_STREAM = 2


@dataclass(frozen=True)
class Plantings:
    """The rows to be replaced, and by what. Rows count from 1, the first after the header."""

    faults: Faults
    rows: int
    broken_lines: dict[int, int] = field(default_factory=dict)
    """Row to its place in BROKEN_LINES."""
    broken_rules: dict[int, int] = field(default_factory=dict)
    """Row to its place in the faults' broken rules."""
    oddities: dict[int, int] = field(default_factory=dict)
    """Row to its place in the faults' oddities."""
    duplicates: dict[int, tuple[str, int]] = field(default_factory=dict)
    """Row to its kind of duplicate and the row it repeats."""

    @classmethod
    def draw(cls, faults: Faults, *, rows: int, rows_a_day: int, copies: int, seed: int) -> Plantings:
        """Choose rows for `copies` of every kind of fault and oddity, in a sample of `rows` rows.

        A duplicate repeats a row of its own day. Raises ValueError where the rows are too few.

        >>> from pipelines.sample.traffic_faults import TRAFFIC_FAULTS
        >>> plantings = Plantings.draw(TRAFFIC_FAULTS, rows=5000, rows_a_day=5000, copies=1, seed=1)
        >>> plantings.manifest()["duplicates"]
        2
        """
        if copies < 0:
            raise ValueError(f"faults of each kind must not be negative, not {copies}")
        quoting = [
            place for place, (_, _, change) in enumerate(faults.oddities) if b'"' in change(b"")
        ] * copies
        unclosed = sum(reason == "unclosed_quote" for reason, _ in BROKEN_LINES) * copies
        kinds = len(BROKEN_LINES) + len(faults.broken_rules) + len(faults.oddities)
        kinds += 2 * len(faults.duplicates)
        needed = ROWS_PER_PLANTED_ROW * (
            copies * kinds + LINES_BETWEEN_QUOTES * (len(quoting) + 2 * unclosed)
        )
        if rows < needed or (copies and rows_a_day < 2):
            raise ValueError(
                f"{rows:,} rows are too few for {copies} faults of each kind, which need {needed:,}"
            )
        plantings = cls(faults, rows)
        random = np.random.default_rng([seed, FAULT_STREAM])
        taken: set[int] = set()
        quotes: list[int] = []

        def row() -> int:
            while (drawn := int(random.integers(1, rows, endpoint=True))) in taken:
                pass
            taken.add(drawn)
            return drawn

        def row_far_from_quotes() -> int:
            while True:
                drawn = row()
                if all(abs(drawn - quote) > LINES_BETWEEN_QUOTES for quote in quotes):
                    return drawn
                taken.discard(drawn)

        def duplicate_and_first() -> tuple[int, int]:
            while True:
                drawn = row()
                earliest = max(drawn - ROWS_BACK_TO_FIRST, (drawn - 1) // rows_a_day * rows_a_day + 1)
                if earliest < drawn:
                    first = int(random.integers(earliest, drawn))
                    if first not in taken:
                        taken.add(first)
                        return drawn, first
                taken.discard(drawn)

        # Quotes come first: the more rows are taken, the fewer stand far from all quotes.
        for place in quoting:
            quotes.append(row())
            plantings.oddities[quotes[-1]] = place
        for place, (reason, _) in enumerate(BROKEN_LINES):
            for _copy in range(copies):
                if reason == "unclosed_quote":
                    quotes.append(row_far_from_quotes())
                    plantings.broken_lines[quotes[-1]] = place
                else:
                    plantings.broken_lines[row()] = place
        for place in range(len(faults.broken_rules)):
            plantings.broken_rules.update((row(), place) for _copy in range(copies))
        for place in range(len(faults.oddities)):
            if place not in quoting:
                plantings.oddities.update((row(), place) for _copy in range(copies))
        for kind, _ in faults.duplicates:
            for _copy in range(copies):
                drawn, first = duplicate_and_first()
                plantings.duplicates[drawn] = (kind, first)
        return plantings

    def planted(self, lines: pa.Buffer, first_row: int) -> Iterator[memoryview | bytes]:
        """The CSV `lines` of whole rows, of which the first is `first_row`, with their share planted.

        `lines` must hold every row that a duplicate among them repeats.
        """
        text = memoryview(lines)
        # A line starts at starts[row - first_row] and ends one byte before the next.
        newlines = np.flatnonzero(np.frombuffer(lines, np.uint8) == ord("\n"))
        starts = np.concatenate([[0], newlines + 1])

        def values(row: int) -> list[bytes]:
            line = bytes(text[starts[row - first_row] : starts[row - first_row + 1] - 1])
            return line.split(self.faults.delimiter)

        copied = 0
        replaced = {**self.broken_lines, **self.broken_rules, **self.oddities, **self.duplicates}
        for row in sorted(row for row in replaced if first_row <= row < first_row + len(newlines)):
            yield text[copied : starts[row - first_row]]
            yield self._line(row, values) + b"\n"
            copied = int(starts[row - first_row + 1])
        yield text[copied:]

    def _line(self, row: int, values: Callable[[int], list[bytes]]) -> bytes:
        return self.faults.delimiter.join(self._changed(row, values))

    def _changed(self, row: int, values: Callable[[int], list[bytes]]) -> list[bytes]:
        place = self.faults.columns.index
        if row in self.broken_lines:
            _, breaking = BROKEN_LINES[self.broken_lines[row]]
            return breaking(values(row), place(self.faults.text))
        if row in self.duplicates:
            kind, first = self.duplicates[row]
            return self.faults.repeated(values(first), kind)
        own = values(row)
        if row in self.oddities:
            _, name, change = self.faults.oddities[self.oddities[row]]
            own[place(name)] = change(own[place(name)])
        else:
            written, _ = self.faults.broken_rules[self.broken_rules[row]]
            for name, value in written.items():
                own[place(name)] = value.encode()
        return own

    def manifest(self) -> dict[str, Any]:
        """What was planted where, and the counts that a correct job reports."""
        faults = [
            *((row, (BROKEN_LINES[place][0],), "decode") for row, place in self.broken_lines.items()),
            *(
                (row, self.faults.broken_rules[place][1], "validate")
                for row, place in self.broken_rules.items()
            ),
        ]
        return {
            "accepted": self.rows - len(faults) - len(self.duplicates),
            "duplicates": len(self.duplicates),
            "dead_letters": dict(sorted(Counter(rules[0] for _, rules, _ in faults).items())),
            "faults": [
                {"row": row, "stage": stage, "reason": rules[0], "rules": list(rules)}
                for row, rules, stage in sorted(faults)
            ],
            "duplicate_rows": [
                {"row": row, "first_row": first, "kind": kind}
                for row, (kind, first) in sorted(self.duplicates.items())
            ],
            "oddities": [
                {"row": row, "oddity": self.faults.oddities[place][0]}
                for row, place in sorted(self.oddities.items())
            ],
        }
