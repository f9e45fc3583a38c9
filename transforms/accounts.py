"""The accounts: where every reading that was read has gone."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields

import apache_beam as beam
import pyarrow as pa
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.window import GlobalWindows

from transforms.files import FileDoFn, publish_json
from transforms.health import share

SUMMARY = "summary.json"


def count_names(lists: pa.ListArray) -> Counter[str]:
    """How often each name occurs in a column of lists of names."""
    return Counter(
        {each["values"].as_py(): each["counts"].as_py() for each in lists.flatten().value_counts()}
    )


@dataclass(frozen=True)
class Accounts:
    """What one step has to say; accounts add up with `+`.

    `accepted` and `dead_letters` are counted from the files written, `read` where the source reads: the two
    ends of the pipeline, so that a loss anywhere between shows. `aggregated` is the sum of the windows'
    message counts. `nulled` counts values of accepted readings that are null for a rule that they broke;
    `usable` those of the `measured` ones that were there and broke none; by field, the others are in
    `missing_fields` and `out_of_range_fields`. `days` counts daily figures, one a
    field, `valid_days` those of enough values. `summarized` counts the readings in the rows of each session
    table.

    >>> (Accounts(read=3) + Accounts(accepted=2, duplicates=1)).balanced
    False
    >>> (Accounts(read=3) + Accounts(accepted=2, duplicates=1) + Accounts(aggregated=2)).balanced
    True
    """

    read: int = 0
    accepted: int = 0
    duplicates: int = 0
    dead_letters: Counter[str] = field(default_factory=Counter)
    aggregated: int = 0
    nulled: Counter[str] = field(default_factory=Counter)
    measured: int = 0
    usable: int = 0
    missing_fields: Counter[str] = field(default_factory=Counter)
    out_of_range_fields: Counter[str] = field(default_factory=Counter)
    days: int = 0
    valid_days: int = 0
    summarized: Counter[str] = field(default_factory=Counter)
    windows: int = 0
    aggregates: int = 0
    blank_lines: int = 0
    unknown_columns: frozenset[str] = frozenset()
    files: frozenset[str] = frozenset()
    bytes: int = 0

    def __add__(self, other: Accounts) -> Accounts:
        def combine(name: str):
            mine, its = getattr(self, name), getattr(other, name)
            return mine | its if isinstance(mine, frozenset) else mine + its

        return Accounts(**{each.name: combine(each.name) for each in fields(self)})

    @property
    def balanced(self) -> bool:
        """Whether read = accepted + duplicates + dead letters, and every accepted reading is in a window, and
        in a session of each table."""
        accounted = self.accepted + self.duplicates + self.dead_letters.total()
        return self.read == accounted and {self.aggregated, *self.summarized.values()} == {self.accepted}

    def summary(self, seconds: float) -> dict[str, object]:
        """What `summary.json` says, given the seconds that the run took."""
        return {
            "read": self.read,
            "accepted": self.accepted,
            "duplicates": self.duplicates,
            "dead_letters": dict(self.dead_letters.most_common()),
            "balanced": self.balanced,
            "nulled": dict(self.nulled.most_common()),
            "error_rate": share(self.dead_letters.total(), self.read),
            "mean_quality": share(self.usable, self.measured),
            "missing_ratio": share(self.measured - self.usable, self.measured),
            "missing_fields": dict(self.missing_fields.most_common()),
            "out_of_range_fields": dict(self.out_of_range_fields.most_common()),
            "days": self.days,
            "valid_days": self.valid_days,
            "blank_lines": self.blank_lines,
            "unknown_columns": sorted(self.unknown_columns),
            "windows": self.windows,
            "aggregates": self.aggregates,
            "aggregated": self.aggregated,
            "summarized": dict(self.summarized),
            "files": len(self.files),
            "bytes": self.bytes,
            "seconds": round(seconds, 3),
            "rows_per_second": round(self.read / seconds),
            "output_files": sorted(self.files),
        }


class AddAccounts(beam.CombineFn):
    """Adds accounts up."""

    def create_accumulator(self) -> Accounts:
        return Accounts()

    def add_input(self, accumulator: Accounts, element: Accounts) -> Accounts:
        return accumulator + element

    def merge_accumulators(self, accumulators: Iterable[Accounts]) -> Accounts:
        return sum(accumulators, Accounts())

    def extract_output(self, accumulator: Accounts) -> Accounts:
        return accumulator


class _WriteFile(FileDoFn):
    def __init__(self, summary: WriteSummary, options: PipelineOptions) -> None:
        super().__init__(options)
        self.summary = summary

    def process(self, accounts: Accounts) -> Iterable[int]:
        seconds = time.time() - self.summary.started
        content = {**self.summary.description, **accounts.summary(seconds)}
        yield publish_json(FileSystems.join(self.summary.root, SUMMARY), content)


@dataclass
class WriteSummary(beam.PTransform):
    """The accounts of all steps -> `summary.json` below the root: the run, and where its rows went."""

    root: str
    description: Mapping[str, object]
    started: float = field(default_factory=time.time)

    def expand(self, accounts: Sequence[beam.PCollection[Accounts]]) -> beam.PCollection[int]:
        return (
            [
                each | f"Window{place}" >> beam.WindowInto(GlobalWindows())
                for place, each in enumerate(accounts)
            ]
            | beam.Flatten()
            | beam.CombineGlobally(AddAccounts())
            | beam.ParDo(_WriteFile(self, accounts[0].pipeline.options)).with_output_types(int)
        )
