"""Kafka: the topics to read instead of files, and how its clients reach it."""

from __future__ import annotations

import argparse
import os

from pipelines.options.values import moment
from transforms.errors import UserError

GROUP = "stream-processor-group-v2"
DEFAULT_SERVERS = "127.0.0.1:9092"


def add_kafka(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "Kafka",
        "With --topic, DirectRunner reads the topics up to their present ends and stops;\nFlinkRunner goes "
        "on without end, and writes files that grow.",
    )
    group.add_argument(
        "--topic", nargs="+", default=[], metavar="TOPIC", help="topics to read, instead of files"
    )
    group.add_argument(
        "--bootstrap_servers",
        metavar="HOST:PORT",
        help=f"(default: KAFKA_BOOTSTRAP_SERVERS, or {DEFAULT_SERVERS})",
    )
    group.add_argument(
        "--kafka_config",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="any property of librdkafka but secrets, such as security.protocol=SASL_SSL",
    )
    group.add_argument(
        "--kafka_config_file",
        metavar="FILE",
        help="the same and secrets, a NAME=VALUE in each line; wins over variables such as "
        "KAFKA_SASL_PASSWORD (KAFKA_X_Y is x.y)",
    )
    group.add_argument(
        "--format", choices=("json", "avro"), default="json", help="of the messages (default: %(default)s)"
    )
    group.add_argument(
        "--schema_registry",
        default=os.environ.get("SCHEMA_REGISTRY_URL", "http://127.0.0.1:8082"),
        metavar="URL",
        help="of Avro's schemas (default: SCHEMA_REGISTRY_URL, or http://127.0.0.1:8082)",
    )
    group.add_argument(
        "--start",
        type=_start,
        default="earliest",
        metavar="PLACE",
        help="earliest, latest, a time such as 2012-03-01T00:00:00Z, or group (its committed offsets: "
        "a stream so started lacks the readings of windows open then) (default: %(default)s)",
    )


def client_settings(options: argparse.Namespace) -> dict[str, str]:
    """What the clients of Kafka are configured with; secrets may be among it.

    UserError where files are read and yet something is given, and for what is not of the form NAME=VALUE.
    """
    if not options.topic:
        if options.kafka_config or options.kafka_config_file:
            raise UserError("--kafka_config and --kafka_config_file go with --topic; files are read here")
        return {}
    from pipelines.kafka_properties import given_properties  # Kafka's packages are an extra

    given = given_properties(os.environ, options.kafka_config_file, options.kafka_config)
    servers = {"bootstrap.servers": options.bootstrap_servers} if options.bootstrap_servers else {}
    return {"bootstrap.servers": DEFAULT_SERVERS, "group.id": GROUP, **given, **servers}


def _start(text: str) -> str:
    """A named place as it is, a time as milliseconds since the epoch."""
    if text in ("earliest", "latest", "group"):
        return text
    try:
        return str(round(moment(text).timestamp() * 1000))
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither earliest, latest, group nor a time") from None
