"""librdkafka's properties for a replay, where nothing else is given."""

from collections.abc import Mapping

# Five attempts after 100, 200, 400, 800 and 1600 ms, for requests and for connections alike. A message
# waits longer than those: a broker that starts again needs up to half a minute.
DEFAULTS: Mapping[str, object] = {
    "client.id": "replay",
    "enable.idempotence": True,
    "acks": "all",
    "compression.type": "lz4",
    "linger.ms": 10,
    "retries": 5,
    "retry.backoff.ms": 100,
    "retry.backoff.max.ms": 1600,
    "reconnect.backoff.ms": 100,
    "reconnect.backoff.max.ms": 1600,
    "message.timeout.ms": 30_000,
    "partitioner": "murmur2_random",
    "queue.buffering.max.kbytes": 2_097_151,
    "log.connection.close": False,
}
