"""librdkafka's properties as a person gives them: in the environment, in a file, on the command line."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from confluent_kafka import KafkaException, Producer

from transforms.errors import UserError

PREFIX = "KAFKA_"
NOT_PROPERTIES = {"KAFKA_TOPIC"}
NOT_TEXT = {"", "default.topic.config", "interceptors", "logger", "opaque"}  # which programs alone can give
OTHER_SPELLINGS = {
    "sasl.mechanism": "sasl.mechanisms",
    "metadata.broker.list": "bootstrap.servers",
    "delivery.timeout.ms": "message.timeout.ms",
    "queue.buffering.max.ms": "linger.ms",
    "compression.codec": "compression.type",
    "request.required.acks": "acks",
    "message.send.max.retries": "retries",
}
SECRET = re.compile(
    r"password|secret|key\.pem$|jaas|oauthbearer\.(config|assertion\.private)|token(?!\.endpoint)"
)
UNKNOWN = re.compile(r'No such configuration property: "([^"]+)"')

log = logging.getLogger(__name__)


def given_properties(
    environment: Mapping[str, str], file: str | None, settings: Iterable[str]
) -> dict[str, str]:
    """Those of all three; the command line wins over the file, and that over the environment."""
    return from_environment(environment) | (from_file(file) if file else {}) | from_command_line(settings)


def from_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """KAFKA_SASL_USERNAME is sasl.username, and so on; what no property is, stays out and is logged."""
    named = {
        name: name.removeprefix(PREFIX).lower().replace("_", ".")
        for name in environment
        if name.startswith(PREFIX) and name not in NOT_PROPERTIES and environment[name]
    }
    found = {OTHER_SPELLINGS.get(known, known): environment[name] for name, known in named.items()}
    while unknown := _unknown_property(found):
        log.info("%s%s is no property of librdkafka: ignored", PREFIX, unknown.upper().replace(".", "_"))
        del found[unknown]
    return found


def _unknown_property(properties: Mapping[str, str]) -> str | None:
    if found := NOT_TEXT & properties.keys():
        return found.pop()
    try:
        Producer(dict(properties), logger=SILENT)
    except KafkaException as error:
        if unknown := UNKNOWN.search(error.args[0].str()):
            return unknown[1]
    return None


def from_file(path: str) -> dict[str, str]:
    """The properties of a file with a `name=value` in each line; lines that begin with # are comments."""
    try:
        lines = Path(path).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--kafka_config_file {path}: cannot be read: {error}") from error
    stripped = [line.strip() for line in lines]
    return dict(_split(line, path) for line in stripped if line and not line.startswith("#"))


def from_command_line(settings: Iterable[str]) -> dict[str, str]:
    """The properties of `name=value` arguments. UserError for a secret: all users of the machine see them."""
    properties = dict(_split(setting, "--kafka_config") for setting in settings)
    for name in properties:
        if SECRET.search(name):
            variable = PREFIX + name.upper().replace(".", "_")
            raise UserError(
                f"--kafka_config {name}: a command line is no place for a secret: give it as {variable} "
                "or in --kafka_config_file"
            )
    return properties


def _split(setting: str, where: str) -> tuple[str, str]:
    name, equals, value = setting.partition("=")
    if not equals or name.strip() in NOT_TEXT:
        raise UserError(f"{where}: an entry is not of the form linger.ms=20")
    return OTHER_SPELLINGS.get(name.strip(), name.strip()), value.strip()


def check(properties: Mapping[str, object]) -> None:
    """UserError for a property that librdkafka does not know, or a value that it does not take."""
    try:
        Producer(dict(properties), logger=SILENT)
    except KafkaException as error:
        raise UserError(f"Kafka's configuration: {error.args[0].str()}") from error


SILENT = logging.Logger("discarded", logging.CRITICAL + 1)
