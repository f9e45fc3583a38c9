"""What librdkafka tells of itself in its statistics."""

import json


def repeated_requests(statistics: str) -> int:
    """The requests that a client has sent again so far.

    Those of its retries, and those that timed out: their messages go back to its queue, which is no retry
    to it. Source: STATISTICS.md of librdkafka.

    >>> repeated_requests('{"brokers": {"a:9092/1": {"txretries": 1, "req_timeouts": 2}}}')
    3
    """
    brokers = json.loads(statistics)["brokers"].values()
    return sum(broker["txretries"] + broker["req_timeouts"] for broker in brokers)
