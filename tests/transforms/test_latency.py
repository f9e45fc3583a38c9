from __future__ import annotations

import time

import pyarrow as pa

from schemas.feed import TEXT, TIMESTAMP
from transforms.batches import RecordBatchCoder
from transforms.counters import live
from transforms.latency import newest_broker_time, observe_latency, with_broker_time
from transforms.windows import split_by_shard, split_by_window

SCHEMA = pa.schema([pa.field("sensor_id", TEXT), pa.field("timestamp", TIMESTAMP)])


def batch(*seconds: float) -> pa.RecordBatch:
    times = pa.array([round(each * 1e6) for each in seconds], TIMESTAMP)
    sensors = pa.array([f"s{place}" for place in range(len(seconds))]).dictionary_encode()
    return pa.RecordBatch.from_arrays([sensors, times], schema=SCHEMA)


def test_the_broker_s_time_goes_with_a_batch_through_windows_shards_and_the_coder():
    stamped = with_broker_time(batch(1, 400, 2, 401), 1_330_560_000_123)
    coder = RecordBatchCoder()
    parts = [
        coder.decode(coder.encode(part))
        for _, window in split_by_window(stamped, 300)
        for _, part in split_by_shard(window, 4, "sensor_id")
    ]
    assert len(parts) >= 2
    assert {newest_broker_time([part]) for part in parts} == {1_330_560_000_123}
    assert newest_broker_time([batch(1), stamped, with_broker_time(batch(2), 5)]) == 1_330_560_000_123
    assert newest_broker_time([batch(1)]) is None


def test_a_pane_s_latency_is_that_of_its_newest_reading_and_message():
    live.reset()
    now = time.time()
    batches = [with_broker_time(batch(now - 100, now - 40), round((now - 4) * 1000)), batch(now - 50)]
    observe_latency(batches, round((now - 40) * 1e6))
    figures = live.figures()
    assert 39e6 < figures["latency_sum-event"] < 60e6
    assert 3e6 < figures["latency_sum-broker"] < 24e6
    assert sum(number for name, number in figures.items() if name.startswith("latency-event-")) == 1
