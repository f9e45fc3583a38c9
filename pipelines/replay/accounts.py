"""The accounts of a replay: where every row that was read has gone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa


@dataclass
class ReplayAccounts:
    """Counts of rows and messages, kept while the replay runs.

    `refused` are the rows that broke a rule of the feed, `undelivered` the messages that no broker took, both
    by reason and both dead letters. A row that was read ahead and never handed over counts as not read.

    >>> ReplayAccounts(read=100, acked=99, refused=Counter(speed_mph_out_of_range=1)).balanced
    True
    """

    read: int = 0
    acked: int = 0
    pending: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    undelivered: Counter[str] = field(default_factory=Counter)
    injected: Counter[str] = field(default_factory=Counter)

    @property
    def sent(self) -> int:
        """Messages handed over so far."""
        return self.acked + self.pending + self.undelivered.total()

    @property
    def dead_letters(self) -> Counter[str]:
        return self.refused + self.undelivered

    @property
    def balanced(self) -> bool:
        """Whether read = acked + dead letters, where a duplicate injected on purpose counts as read."""
        return self.read + self.injected["duplicate"] == self.acked + self.dead_letters.total()

    def lines(self, seconds: float) -> Iterator[str]:
        """The closing lines, given how long the replay took."""
        yield f"read             {self.read:>13,}"
        for kind, messages in self.injected.items():
            yield f"  injected       {messages:>13,}  {kind}"
        yield f"  acked          {self.acked:>13,}"
        yield f"  dead letters   {self.dead_letters.total():>13,}"
        for reason, rows in self.dead_letters.most_common():
            yield f"    {rows:>26,}  {reason}"
        yield f"balanced         {'yes' if self.balanced else 'NO':>13}"
        yield f"seconds          {seconds:>13,.1f}  at {round(self.acked / seconds):,} acked messages/s"


def reasons_of(letters: pa.RecordBatch) -> Counter[str]:
    """How many of the dead letters there are for each reason."""
    return Counter({each["values"]: each["counts"] for each in letters["reason"].value_counts().to_pylist()})
