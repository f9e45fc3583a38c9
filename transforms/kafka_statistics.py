"""What librdkafka tells of itself in its statistics."""

import json


class RepeatedRequests:
    """The requests that a client has sent again so far.

    Those of its retries, and those that timed out: their messages go back to its queue, which is no retry
    to it. Source: STATISTICS.md of librdkafka.

    >>> repeated = RepeatedRequests()
    >>> repeated.note('{"brokers": {"a:9092/1": {"txretries": 1, "req_timeouts": 2}}}')
    3
    >>> repeated.note('{"brokers": {}}'), repeated.total
    (0, 3)
    """

    def __init__(self) -> None:
        self.total = self._told = 0

    def note(self, statistics: str) -> int:
        """How many there are since the last statistics, which forget a broker that went away."""
        brokers = json.loads(statistics)["brokers"].values()
        told = sum(broker["txretries"] + broker["req_timeouts"] for broker in brokers)
        added = max(told - self._told, 0)
        self._told, self.total = told, self.total + added
        return added
