"""Apache Kafka: one broker that is its own controller (KRaft), its topics kept on disk."""

import base64
import subprocess
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from runners.local.errors import CannotStart
from runners.local.ports import LOOPBACK
from runners.local.program import DATED_LOG, JavaProgram, Program
from runners.local.service import Service
from runners.local.waiting import wait_until

CLUSTER_ID = base64.urlsafe_b64encode(b"local-kafka-0001").decode().rstrip("=")

PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller_port}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=PLAINTEXT://{host}:{port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
log.dirs={data}
# Readings carry the time they were measured at, often years ago: the usual week would drop them at once.
log.retention.ms=-1
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
"""


class KafkaBroker(Service):
    name = "kafka"
    port_names = ("kafka", "kafka_controller")

    def __init__(self, folder: Path | str, *, port: int | None = None) -> None:
        super().__init__(folder, {"kafka": port})

    @property
    def bootstrap_servers(self) -> str:
        return f"{LOOPBACK}:{self.ports['kafka']}"

    @property
    def address(self) -> str:
        return self.bootstrap_servers

    @property
    def flags(self) -> list[str]:
        return [f"--bootstrap_servers={self.bootstrap_servers}"]

    def create_topic(self, topic: str, partitions: int = 1) -> None:
        admin = self._admin()
        admin.create_topics([NewTopic(topic, partitions, 1)])[topic].result()

        def shown() -> bool:  # the controller knows it before the broker does
            return len(admin.list_topics(topic, timeout=5).topics[topic].partitions) == partitions

        if not wait_until(shown, within=20):
            raise TimeoutError(f"the broker does not show the topic {topic} after 20 s")

    def delete_topic(self, topic: str) -> None:
        admin = self._admin()
        admin.delete_topics([topic])[topic].result()

    def programs(self) -> list[Program]:
        return [
            JavaProgram(
                name="broker",
                jars="kafka",
                main="kafka.Kafka",
                arguments=[str(self._properties)],
                options=["-Xmx512m", *DATED_LOG],
                ready=self._answers,
            )
        ]

    def prepare(self) -> None:
        data = self.folder / "data"
        self._properties.write_text(
            PROPERTIES.format(
                host=LOOPBACK,
                port=self.ports["kafka"],
                controller_port=self.ports["kafka_controller"],
                data=data,
            )
        )
        if not (data / "meta.properties").exists():
            self._format_storage()

    @property
    def _properties(self) -> Path:
        return self.folder / "server.properties"

    def _format_storage(self) -> None:
        tool = JavaProgram(
            name="storage tool",
            jars="kafka",
            main="kafka.tools.StorageTool",
            arguments=["format", "--cluster-id", CLUSTER_ID, "--config", str(self._properties)],
            options=["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"],
            ready=lambda: True,
        )
        answer = subprocess.run(tool.command(), capture_output=True, text=True, check=False)
        if answer.returncode != 0:
            raise CannotStart(f"Kafka's storage could not be formatted:\n{answer.stdout}{answer.stderr}")

    def _answers(self) -> bool:
        try:
            return bool(self._admin().list_topics(timeout=2).brokers)
        except KafkaException:
            return False

    def _admin(self) -> AdminClient:
        # While a broker starts, librdkafka would tell stderr of every refused connection.
        return AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 0})
