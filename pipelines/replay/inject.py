"""Faults put in on purpose, for testing a pipeline: messages late, out of order, twice, or corrupt."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.replay.portions import OUTGOING, Portion
from transforms.errors import UserError

KINDS = ("late", "duplicate", "corrupt", "out_of_order")
LATE, DUPLICATE, CORRUPT, OUT_OF_ORDER, NONE = range(5)
MOST_HELD = 10_000
MICROS = 1_000_000


@dataclass
class Injector:
    """Makes such a share of the messages faulty, each in one way at most; the same ones for the same seed.

    A late message is sent only when the events are `late_seconds` past its own, one out of order as soon as a
    later event has been sent, both at the end at the latest. A duplicate follows its message at once. A
    corrupt message is cut off somewhere.
    """

    shares: Mapping[str, float]
    seed: int
    late_seconds: float
    _held: pa.RecordBatch = field(init=False, repr=False)
    _clock: int = field(default=np.iinfo(np.int64).min, init=False)

    def __post_init__(self) -> None:
        self._held = pa.RecordBatch.from_pylist([], OUTGOING)
        self._choices, self._cuts = (np.random.default_rng([self.seed, number]) for number in range(2))
        self._bounds = np.cumsum([self.shares.get(kind, 0.0) for kind in KINDS])

    def inject(self, portions: Iterator[Portion]) -> Iterator[Portion]:
        """The portions with their faults; what is held back at the end comes as one more."""
        portion = None
        for portion in portions:
            yield portion._replace(messages=self._spoil(portion.messages))
        if portion is not None and self._held.num_rows:
            yield portion._replace(messages=self._held, refused=portion.refused.slice(0, 0))

    def _spoil(self, messages: pa.RecordBatch) -> pa.RecordBatch:
        rows = messages.num_rows
        if not rows:
            return messages
        kinds = np.searchsorted(self._bounds, self._choices.random(rows), "right")
        messages = _marked(self._cut(messages, kinds == CORRUPT), np.where(kinds == DUPLICATE, NONE, kinds))
        repeated = np.flatnonzero(kinds == DUPLICATE)
        copies = _marked(messages.take(pa.array(repeated)), np.full(len(repeated), DUPLICATE))
        clock = np.maximum.accumulate(np.append(self._clock, _micros(messages)))[1:]
        self._clock = int(clock[-1])

        places = np.arange(rows, dtype=np.float64)
        delayed = (kinds == LATE) | (kinds == OUT_OF_ORDER)
        places[delayed] = np.maximum(places + 1.5, self._release(messages, clock))[delayed]
        everything = pa.concat_batches([self._held, messages, copies])
        places = np.concatenate([self._release(self._held, clock), places, repeated + 0.25])
        order = np.argsort(places, kind="stable")
        still_held = order[places[order] >= rows]
        surplus = max(len(still_held) - MOST_HELD, 0)
        self._held = everything.take(pa.array(still_held[surplus:]))
        return everything.take(pa.array(order[: len(order) - len(still_held) + surplus]))

    def _release(self, messages: pa.RecordBatch, clock: np.ndarray) -> np.ndarray:
        """After which of the messages with that clock each one goes; past their end when after none."""
        late = pc.fill_null(pc.equal(messages["injected"], "late"), False).to_numpy(zero_copy_only=False)
        until = _micros(messages) + late * int(self.late_seconds * MICROS)
        return np.searchsorted(clock, until, "right") + 0.5

    def _cut(self, messages: pa.RecordBatch, which: np.ndarray) -> pa.RecordBatch:
        if not which.any():
            return messages
        payloads = messages["payload"].filter(pa.array(which)).to_pylist()
        cut = [payload[: 1 + int(self._cuts.random() * (len(payload) - 1))] for payload in payloads]
        replaced = pc.replace_with_mask(messages["payload"], pa.array(which), pa.array(cut, pa.binary()))
        return _with_column(messages, "payload", replaced)


def _marked(messages: pa.RecordBatch, kinds: np.ndarray) -> pa.RecordBatch:
    indices = pa.array(kinds, pa.int32(), mask=kinds == NONE)
    return _with_column(messages, "injected", pa.DictionaryArray.from_arrays(indices, pa.array(KINDS)))


def _with_column(messages: pa.RecordBatch, name: str, column: pa.Array) -> pa.RecordBatch:
    place = OUTGOING.get_field_index(name)
    return messages.set_column(place, OUTGOING.field(place), column)


def _micros(messages: pa.RecordBatch) -> np.ndarray:
    return messages["event_time"].view(pa.int64()).to_numpy()


class Manifest:
    """A file of what was injected, a JSON object in each line, in the order of sending."""

    def __init__(self, path: str) -> None:
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "w")  # noqa: SIM115 - open for as long as the replay runs
        except OSError as error:
            raise UserError(f"--manifest {path}: cannot be written: {error}") from error

    def write(self, messages: pa.RecordBatch) -> None:
        """Notes those of the messages that are faults."""
        faults = messages.select(["injected", "source", "position", "key", "event_time"]).filter(
            messages["injected"].is_valid()
        )
        for fault in faults.to_pylist():
            fault["event_time"] = fault["event_time"].isoformat().replace("+00:00", "Z")
            self._file.write(json.dumps(fault) + "\n")

    def close(self) -> None:
        self._file.close()
