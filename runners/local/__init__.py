"""Real servers as processes of this machine, without Docker: Kafka, Flink, a registry, HDFS, Prometheus."""

from runners.local.errors import CannotStart
from runners.local.flink import FlinkCluster
from runners.local.hdfs import HdfsCluster
from runners.local.kafka import KafkaBroker
from runners.local.prometheus import Prometheus
from runners.local.registry import SchemaRegistry

__all__ = ["CannotStart", "FlinkCluster", "HdfsCluster", "KafkaBroker", "Prometheus", "SchemaRegistry"]
