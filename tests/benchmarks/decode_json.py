"""`python -m tests.benchmarks.decode_json`: messages/s from JSON to readings, clean and with corrupt ones.

Beside it pyarrow.json, which makes the columns only: no timestamps, no dictionaries, no bad message.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import partial

import pyarrow as pa
import pyarrow.json

from schemas.record import RECORD
from schemas.traffic import TRAFFIC
from transforms.decode_json import decode_json
from transforms.json_messages import to_json
from transforms.messages import to_messages

MESSAGES, RUNS = 10_000, 15


def make_messages() -> list[bytes]:
    chance = random.Random(0)
    rows = [
        dict.fromkeys(TRAFFIC.reading_schema.names)
        | {
            "sensor_id": str(716_000 + row % 207),
            "timestamp": 1_330_560_000_000_000 + row // 207 * 30_000_000,
            "speed_mph": round(chance.uniform(0, 80), 2),
            "volume_vph": round(chance.uniform(0, 8000)),
            "occupancy_percent": round(chance.uniform(0, 40), 2),
            "latitude": round(chance.uniform(33.7, 34.5), 5),
            "longitude": round(chance.uniform(-119, -117), 5),
            "road_name": chance.choice(["I-405", "US-101", "I-10"]),
            "direction": chance.choice("NSEW"),
            "lane_count": chance.choice([3, 4, 5]),
            "source": "traffic.csv",
            "position": row + 1,
        }
        for row in range(MESSAGES)
    ]
    batch = pa.RecordBatch.from_pylist(rows, TRAFFIC.reading_schema)
    return [text.encode() for text in to_json(to_messages(batch, TRAFFIC)).to_pylist()]


def corrupt(values: list[bytes], share: float) -> list[bytes]:
    """The messages, that share of them cut short, of wrong types, doubled, or with line breaks inside."""
    chance = random.Random(1)
    ways: list[Callable[[bytes], bytes]] = [
        lambda value: value[: len(value) // 2],
        lambda value: value.replace(b'"speed_mph":', b'"speed_mph":"fast","x":'),
        lambda value: value.replace(b'"sensor_id":"', b'"sensor_id":7,"x":"'),
        lambda value: value + b"\n" + value,
        lambda value: value.replace(b",", b",\n"),
    ]
    return [chance.choice(ways)(value) if chance.random() < share else value for value in values]


def measure(name: str, run: Callable[[], object]) -> None:
    times = []
    for _ in range(RUNS):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    median = sorted(times)[RUNS // 2]
    print(f"{name:28} {MESSAGES / median:11,.0f} messages/s, at best {MESSAGES / min(times):11,.0f}")


def read_with_pyarrow(values: list[bytes]) -> pa.Table:
    text = b"\n".join(values)
    return pyarrow.json.read_json(
        pa.BufferReader(text),
        read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=len(text) + 1),
        parse_options=pyarrow.json.ParseOptions(
            explicit_schema=TRAFFIC.received_schema, unexpected_field_behavior="ignore"
        ),
    )


def main() -> None:
    clean = make_messages()
    print(f"{MESSAGES:,} messages of {sum(map(len, clean)) / MESSAGES:.0f} bytes")
    for share in (0, 0.01, 0.1, 1):
        values = corrupt(clean, share)
        rows = [{"value": v, "source": "t", "partition": 0, "position": n} for n, v in enumerate(values)]
        records = pa.RecordBatch.from_pylist(rows, RECORD)
        measure(f"decode_json, {share:.0%} corrupt", partial(decode_json, records, TRAFFIC))
    measure("pyarrow.json, columns only", partial(read_with_pyarrow, clean))


if __name__ == "__main__":
    main()
