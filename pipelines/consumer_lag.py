"""How many records of each partition are still to be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from confluent_kafka import Consumer, IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from pipelines.metrics import Figures, Labels
from transforms.partitions import Topic, connect, silent

ANSWER_SECONDS = 2


class ConsumerLag:
    """From where the job stands to the broker's end of each partition, also of those that are added.

    Where it stands is what a stream has committed for its group; a run to the topics' ends commits nothing,
    and tells its `position`.
    """

    def __init__(self, topics: Sequence[Topic], configuration: Mapping[str, str], commits: bool) -> None:
        self.topics = [topic.name for topic in topics]
        self.starts: dict[Labels, int] = {
            (each.topic, str(each.number)): each.start for topic in topics for each in topic.partitions
        }
        clients: dict[str, str | int | float | bool] = {
            name: value for name, value in configuration.items() if name != "group.id"
        }
        self.admin = AdminClient(clients, logger=silent)
        self.consumer: Consumer | None = connect(configuration) if commits else None

    def observe(self, counted: Figures) -> Figures:
        """The lag and the end of each partition, and whether the broker is `reachable`."""
        try:
            places = self._partitions()
            ends = self._ends(places)
            read = self._committed(self.consumer, places) if self.consumer else counted.get("position", {})
        except KafkaException:
            return {"reachable": {("broker",): 0}}
        lags = {
            place: max(end - max(read.get(place, 0), self.starts.get(place, 0)), 0)
            for place, end in ends.items()
        }
        return {
            "consumer_lag_records": lags,
            "partition_end_offset": ends,
            "reachable": {("broker",): 1},
        }

    def _partitions(self) -> list[TopicPartition]:
        return [
            TopicPartition(topic, number)
            for topic in self.topics
            for number in self.admin.list_topics(topic, ANSWER_SECONDS).topics[topic].partitions
        ]

    def _ends(self, places: Sequence[TopicPartition]) -> Mapping[Labels, float]:
        answers = self.admin.list_offsets(
            {place: OffsetSpec.latest() for place in places},
            isolation_level=IsolationLevel.READ_COMMITTED,
            request_timeout=ANSWER_SECONDS,
        )
        return {_labels(place): answer.result().offset for place, answer in answers.items()}

    def _committed(self, consumer: Consumer, places: list[TopicPartition]) -> Mapping[Labels, float]:
        return {_labels(place): place.offset for place in consumer.committed(places, ANSWER_SECONDS)}


def _labels(place: TopicPartition) -> Labels:
    return place.topic, str(place.partition)
