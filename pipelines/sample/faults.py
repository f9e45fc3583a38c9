"""Faults planted at known rows of a traffic sample, so that a job's account of it can be checked to the row.

Every planted row replaces an existing one, so that the number of rows stays the same. No row has two faults,
except where several broken rules are the fault, and a fault neither touches the first of two duplicates nor
stands near enough to an unclosed quote to close it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

COLUMNS = (
    "sensor_id",
    "timestamp",
    "speed_mph",
    "volume_vph",
    "occupancy_percent",
    "latitude",
    "longitude",
    "road_name",
    "direction",
    "lane_count",
)

# What is written into which fields, and the rules that this breaks, in the order in which the feed declares
# them. The first is the reason under which the row is set aside.
BROKEN_RULES: tuple[tuple[dict[str, str], tuple[str, ...]], ...] = (
    ({"sensor_id": ""}, ("sensor_id_missing",)),
    ({"sensor_id": "../../x"}, ("sensor_id_malformed", "sensor_id_unknown")),
    ({"sensor_id": "s" * 65}, ("sensor_id_malformed", "sensor_id_unknown")),
    ({"sensor_id": "not-installed-1"}, ("sensor_id_unknown",)),
    ({"timestamp": ""}, ("timestamp_missing",)),
    ({"timestamp": "2012-02-30 00:00:00"}, ("timestamp_unparsable",)),
    ({"timestamp": "2012-03-01 25:00:00"}, ("timestamp_unparsable",)),
    ({"timestamp": "yesterday"}, ("timestamp_unparsable",)),
    ({"timestamp": "2112-03-01 00:00:00"}, ("timestamp_in_future",)),
    ({"speed_mph": ""}, ("speed_mph_missing",)),
    ({"speed_mph": "fast"}, ("speed_mph_unparsable",)),
    ({"speed_mph": "nan"}, ("speed_mph_not_finite",)),
    ({"speed_mph": "inf"}, ("speed_mph_not_finite",)),
    ({"speed_mph": "-1.85"}, ("speed_mph_out_of_range",)),
    ({"speed_mph": "250"}, ("speed_mph_out_of_range",)),
    ({"volume_vph": "many"}, ("volume_vph_unparsable",)),
    ({"volume_vph": "nan"}, ("volume_vph_not_finite",)),
    ({"volume_vph": "-120"}, ("volume_vph_out_of_range",)),
    ({"volume_vph": "20001"}, ("volume_vph_out_of_range",)),
    ({"occupancy_percent": "12%"}, ("occupancy_percent_unparsable",)),
    ({"occupancy_percent": "-inf"}, ("occupancy_percent_not_finite",)),
    ({"occupancy_percent": "100.1"}, ("occupancy_percent_out_of_range",)),
    ({"latitude": "34N"}, ("latitude_unparsable",)),
    ({"latitude": "nan"}, ("latitude_not_finite",)),
    ({"latitude": "0"}, ("latitude_out_of_range",)),
    ({"longitude": "118W"}, ("longitude_unparsable",)),
    ({"longitude": "inf"}, ("longitude_not_finite",)),
    ({"longitude": "118.25"}, ("longitude_out_of_range",)),
    ({"lane_count": "four"}, ("lane_count_unparsable",)),
    ({"lane_count": "4.5"}, ("lane_count_unparsable",)),
    (
        {"sensor_id": "", "timestamp": "", "speed_mph": ""},
        ("sensor_id_missing", "timestamp_missing", "speed_mph_missing"),
    ),
    (
        {"speed_mph": "inf", "latitude": "95", "lane_count": "four"},
        ("speed_mph_not_finite", "latitude_out_of_range", "lane_count_unparsable"),
    ),
    (
        {"timestamp": "2112-03-01 00:00:00", "occupancy_percent": "140"},
        ("timestamp_in_future", "occupancy_percent_out_of_range"),
    ),
    (
        {"sensor_id": "not-installed-2", "speed_mph": "250", "volume_vph": "nan"},
        ("sensor_id_unknown", "speed_mph_out_of_range", "volume_vph_not_finite"),
    ),
)

# Lines that are no row of ten fields at all. Each is made from the fields of the row that it replaces.
BROKEN_LINES: tuple[tuple[str, Callable[[list[bytes]], bytes]], ...] = (
    ("wrong_field_count", lambda values: b",".join(values[:-3])),
    ("wrong_field_count", lambda values: b",".join([*values, b"4"])),
    ("unclosed_quote", lambda values: b",".join([*values[:7], b'"' + values[7], *values[8:]])),
    ("not_utf8", lambda values: b",".join([*values[:7], values[7] + b"\xff", *values[8:]])),
    ("not_utf8", lambda values: b",".join([*values[:7], b"Ca\xc3", *values[8:]])),
)

# Unusual and yet right: what each is, the field, and what becomes of its value.
ODDITIES: tuple[tuple[str, str, Callable[[bytes], bytes]], ...] = (
    ("quoted number", "speed_mph", lambda value: b'"' + value + b'"'),
    ("quoted sensor", "sensor_id", lambda value: b'"' + value + b'"'),
    ("comma in a quoted name", "road_name", lambda value: b'"' + value + b', Los Angeles"'),
    ("doubled quote in a quoted name", "road_name", lambda value: b'"' + value + b' ""the freeway"""'),
    ("name beyond ASCII", "road_name", lambda value: value + " Cañón".encode()),
    ("timestamp with T", "timestamp", lambda value: value.replace(b" ", b"T")),
    ("timestamp with T and Z", "timestamp", lambda value: value.replace(b" ", b"T") + b"Z"),
    ("timestamp with offset", "timestamp", lambda value: value + b"+00:00"),
    ("timestamp with fraction", "timestamp", lambda value: value + b".250"),
    ("timestamp with fraction and Z", "timestamp", lambda value: value.replace(b" ", b"T") + b".000001Z"),
    ("no volume", "volume_vph", lambda value: b""),
    ("no occupancy", "occupancy_percent", lambda value: b""),
    ("no latitude", "latitude", lambda value: b""),
    ("no longitude", "longitude", lambda value: b""),
    ("no road name", "road_name", lambda value: b""),
    ("no direction", "direction", lambda value: b""),
    ("no lane count", "lane_count", lambda value: b""),
)

DUPLICATES = ("exact copy", "different speed")

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

    rows: int
    broken_lines: dict[int, int] = field(default_factory=dict)
    """Row to its place in BROKEN_LINES."""
    broken_rules: dict[int, int] = field(default_factory=dict)
    """Row to its place in BROKEN_RULES."""
    oddities: dict[int, int] = field(default_factory=dict)
    """Row to its place in ODDITIES."""
    duplicates: dict[int, tuple[str, int]] = field(default_factory=dict)
    """Row to its kind in DUPLICATES and the row it repeats."""

    @classmethod
    def draw(cls, *, rows: int, rows_a_day: int, copies: int, seed: int) -> Plantings:
        """Choose rows for `copies` of every kind of fault and oddity, in a sample of `rows` rows.

        A duplicate repeats a row of its own day. Raises ValueError where the rows are too few.

        >>> plantings = Plantings.draw(rows=5000, rows_a_day=5000, copies=1, seed=1)
        >>> plantings.manifest()["duplicates"]
        2
        """
        if copies < 0:
            raise ValueError(f"faults of each kind must not be negative, not {copies}")
        quoting = [place for place, (_, _, change) in enumerate(ODDITIES) if b'"' in change(b"")] * copies
        unclosed = sum(reason == "unclosed_quote" for reason, _ in BROKEN_LINES) * copies
        kinds = len(BROKEN_LINES) + len(BROKEN_RULES) + len(ODDITIES) + 2 * len(DUPLICATES)
        needed = ROWS_PER_PLANTED_ROW * (
            copies * kinds + LINES_BETWEEN_QUOTES * (len(quoting) + 2 * unclosed)
        )
        if rows < needed or (copies and rows_a_day < 2):
            raise ValueError(
                f"{rows:,} rows are too few for {copies} faults of each kind, which need {needed:,}"
            )
        plantings = cls(rows)
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
        for place in range(len(BROKEN_RULES)):
            plantings.broken_rules.update((row(), place) for _copy in range(copies))
        for place in range(len(ODDITIES)):
            if place not in quoting:
                plantings.oddities.update((row(), place) for _copy in range(copies))
        for kind in DUPLICATES:
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
            return bytes(text[starts[row - first_row] : starts[row - first_row + 1] - 1]).split(b",")

        copied = 0
        replaced = {**self.broken_lines, **self.broken_rules, **self.oddities, **self.duplicates}
        for row in sorted(row for row in replaced if first_row <= row < first_row + len(newlines)):
            yield text[copied : starts[row - first_row]]
            yield self._line(row, values) + b"\n"
            copied = int(starts[row - first_row + 1])
        yield text[copied:]

    def _line(self, row: int, values: Callable[[int], list[bytes]]) -> bytes:
        if row in self.broken_lines:
            _, breaking = BROKEN_LINES[self.broken_lines[row]]
            return breaking(values(row))
        if row in self.duplicates:
            kind, first = self.duplicates[row]
            repeated = values(first)
            if kind == "different speed":
                place = COLUMNS.index("speed_mph")
                repeated[place] = b"33.3" if repeated[place] != b"33.3" else b"44.4"
            return b",".join(repeated)
        own = values(row)
        if row in self.oddities:
            _, name, change = ODDITIES[self.oddities[row]]
            own[COLUMNS.index(name)] = change(own[COLUMNS.index(name)])
        else:
            written, _ = BROKEN_RULES[self.broken_rules[row]]
            for name, value in written.items():
                own[COLUMNS.index(name)] = value.encode()
        return b",".join(own)

    def manifest(self) -> dict[str, Any]:
        """What was planted where, and the counts that a correct job reports."""
        faults = [
            *((row, (BROKEN_LINES[place][0],), "decode") for row, place in self.broken_lines.items()),
            *((row, BROKEN_RULES[place][1], "validate") for row, place in self.broken_rules.items()),
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
                {"row": row, "oddity": ODDITIES[place][0]} for row, place in sorted(self.oddities.items())
            ],
        }
