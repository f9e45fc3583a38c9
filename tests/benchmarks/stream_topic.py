"""A topic of simulated readings, as the replay client would send them, and a share of corrupt ones."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
from confluent_kafka import Producer

from schemas.traffic import TRAFFIC
from transforms.json_messages import to_json
from transforms.messages import to_messages

SENSORS, PARTITIONS, WINDOW_SECONDS = 207, 5, 300
START = 1_330_560_000  # 2012-03-01 00:00 UTC
MESSAGES, SENT_TWICE = 50_000, 50
MICROS = 1_000_000

WAYS: dict[str, Callable[[bytes], bytes]] = {
    "not_json": lambda value: value[: len(value) // 2],
    "speed_mph_unparsable": lambda value: value.replace(b'"speed_mph":', b'"speed_mph":"fast","x":'),
    "sensor_id_unparsable": lambda value: value.replace(b'"sensor_id":"', b'"sensor_id":7,"x":"'),
    "two documents": lambda value: value + b"\n" + value,
    "line breaks": lambda value: value.replace(b",", b",\n"),  # which is sound JSON
}


def readings(first: int, micros: np.ndarray, sensors: int = SENSORS) -> pa.RecordBatch:
    """Readings of those event times, numbered from `first`; a reading's number says its sensor."""
    rows = len(micros)
    random = np.random.default_rng(first)
    number = np.arange(first, first + rows)
    columns = {
        "sensor_id": _text([str(716_000 + sensor) for sensor in range(sensors)], number % sensors),
        "timestamp": micros,
        "speed_mph": np.round(random.uniform(0, 80, rows), 2),
        "volume_vph": np.round(random.uniform(0, 8000, rows)),
        "occupancy_percent": np.round(random.uniform(0, 40, rows), 2),
        "latitude": np.round(33.7 + (number % sensors) * 0.8 / sensors, 5),
        "longitude": np.round(-119 + (number % sensors) * 2.0 / sensors, 5),
        "road_name": _text(["I-405", "US-101", "I-10"], number % sensors % 3),
        "direction": _text(["N", "S", "E", "W"], number % sensors % 4),
        "lane_count": 3 + number % sensors % 3,
        "source": _text(["simulated"], np.zeros(rows, int)),
        "position": number,
    }
    schema = TRAFFIC.reading_schema
    arrays = [
        pa.array(columns[field.name]).cast(field.type)
        if field.name in columns
        else pa.nulls(rows, field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _text(values: list[str], codes: np.ndarray) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(codes.astype(np.int32), pa.array(values))


def values_of(batch: pa.RecordBatch) -> list[bytes]:
    """The readings as messages' values."""
    return to_json(to_messages(batch, TRAFFIC)).cast(pa.binary()).to_pylist()


def history(rows: int, step_seconds: int) -> Iterator[tuple[np.ndarray, list[bytes]]]:
    """(partitions, values) of so many readings, every sensor one in each step, in order of time."""
    for first in range(0, rows, MESSAGES):
        number = np.arange(first, min(first + MESSAGES, rows))
        micros = (START + number // SENSORS * step_seconds) * MICROS
        yield number % SENSORS % PARTITIONS, values_of(readings(first, micros))


def closing_time(rows: int, step_seconds: int) -> int:
    """When the readings are of that close the windows of a history, seconds since the epoch."""
    return START + rows // SENSORS * step_seconds + 7200


def fill(
    servers: str, topic: str, rows: int, step_seconds: int, corrupt: float = 0
) -> dict[tuple[int, int], bytes]:
    """Sends history, some of it twice, and then what closes its windows.

    Returns the corrupt messages by (partition, offset).
    """
    chance = random.Random(1)
    wrong: dict[tuple[int, int], bytes] = {}
    offsets: dict[int, int] = defaultdict(int)
    settings = {"linger.ms": 20, "compression.type": "snappy", "enable.idempotence": True}  # in order
    producer = Producer({"bootstrap.servers": servers, **settings})
    for partitions, values in history(rows, step_seconds):
        corrupted = [row for row in range(len(values)) if chance.random() < corrupt]
        for row in corrupted:
            way = chance.choice(list(WAYS))
            values[row] = WAYS[way](values[row])
            if way != "line breaks":
                partition = int(partitions[row])
                place = offsets[partition] + int((partitions[:row] == partition).sum())
                wrong[partition, place] = values[row]
        again = sorted(set(range(len(values))[-SENT_TWICE:]) - set(corrupted))
        partitions, values = np.append(partitions, partitions[again]), values + [values[row] for row in again]
        for partition in range(PARTITIONS):
            offsets[partition] += int((partitions == partition).sum())
        send(producer, topic, partitions, values)
    closing = closing_time(rows, step_seconds) * MICROS
    for n in range(2):
        number = np.arange(PARTITIONS)
        send(producer, topic, number, values_of(readings(0, np.full(PARTITIONS, closing + n * MICROS))))
    assert producer.flush(60) == 0
    return wrong


def send(producer: Producer, topic: str, partitions: np.ndarray, values: list[bytes]) -> None:
    for partition in np.unique(partitions).tolist():
        messages = [{"value": values[row]} for row in np.flatnonzero(partitions == partition).tolist()]
        while messages:
            producer.produce_batch(topic, messages, partition)
            messages = [message for message in messages if message.pop("_error", None)]
            if messages:  # its queue is full
                time.sleep(0.01)
            producer.poll(0)
