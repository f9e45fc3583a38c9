"""The peers of `tests.benchmarks.stream`, in environments of their own: their packages conflict with ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa

from runners.folders import cache_folder
from runners.local.jars import find_maven
from runners.local.java import find_java
from schemas.feed import COUNTED, TIMESTAMP, Feed, Rule

LINE = 280  # pip and Maven go on with all that they have tried
COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy"
FLINK = "2.3.0"
FLINK_JARS = (
    "org.apache.flink:flink-sql-connector-kafka:5.0.0-2.2",
    f"org.apache.flink:flink-sql-parquet:{FLINK}",
    "org.apache.hadoop:hadoop-client-api:3.4.2",
    "org.apache.hadoop:hadoop-client-runtime:3.4.2",
)
SPARK = "4.0.0"
SPARK_JARS = (
    f"org.apache.spark:spark-sql-kafka-0-10_2.13:{SPARK}",
    f"org.apache.spark:spark-token-provider-kafka-0-10_2.13:{SPARK}",
    "org.apache.kafka:kafka-clients:3.9.0",
    "org.apache.commons:commons-pool2:2.12.0",
)

FLOAT_LIMIT = 1.7976931348623157e308
CONDITIONS = {
    "missing": "`{0.name}` is null",
    "unparsable": None,  # each tool sees it in another way
    "not_finite": f"abs(`{{0.name}}`) > {FLOAT_LIMIT}",
    "malformed": "not regexp(`{0.name}`, '^({0.pattern})$')",
    "out_of_range": "`{0.name}` not between {0.minimum} and {0.maximum}",
}
"""What breaks a rule, in SQL that both tools understand, of a field."""
STATISTICS = {
    "mean": "avg({})",
    "variance": "var_pop({})",
    "count": "count(*)",
    "minimum": "min({})",
    "maximum": "max({})",
    "percentile_85": "percentile({}, 0.85)",
    "missing_count": "count(*) - count({})",
}


class NotInstalled(Exception):
    """A peer's packages do not install here; the message says which."""


def flink_python() -> Path:
    """The Python of an environment with PyFlink and its connectors, made when first asked for.

    NotInstalled when pip or Maven does not find them.
    """
    return _python(f"pyflink-{FLINK}", f"apache-flink=={FLINK}", "pyflink/lib", FLINK_JARS)


def spark_python() -> Path:
    """The Python of an environment with PySpark and its Kafka source, made when first asked for.

    NotInstalled when pip or Maven does not find them.
    """
    return _python(f"pyspark-{SPARK}", f"pyspark=={SPARK}", "pyspark/jars", SPARK_JARS)


def declaration(feed: Feed) -> str:
    """What the programs of the peers, which cannot import it, have to know of the feed, as JSON."""
    rules = [rule for rule in feed.rules if rule.kind in CONDITIONS]
    return json.dumps(
        {
            "key": feed.key,
            "event_time": feed.event_time,
            "fields": [
                {"name": field.name, "type": _kind(field.type), "group": field.group} for field in feed.fields
            ],
            "rules": [
                {"reason": rule.name, "field": rule.field.name, "condition": _condition(rule)}
                # "missing" is what is null and not for being unparsable
                for rule in sorted(rules, key=lambda rule: rule.kind == "missing")
            ],
            "aggregates": {each.name: STATISTICS[each.function].format(each.of) for each in feed.aggregates},
            "counts": [each.name for each in feed.aggregates if each.function in COUNTED],
        }
    )


def _condition(rule: Rule) -> str | None:
    condition = CONDITIONS[rule.kind]
    return condition and condition.format(rule.field)


def _kind(type: pa.DataType) -> str:
    if type == TIMESTAMP:
        return "timestamp"
    if pa.types.is_floating(type):
        return "number"
    if pa.types.is_integer(type):
        return "whole number"
    return "flag" if pa.types.is_boolean(type) else "text"


def environment() -> dict[str, str]:
    """A peer's own: it is to find its packages, not ours, and Java."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return {**ours, "JAVA_HOME": str(find_java().resolve().parent.parent)}


def _python(name: str, requirement: str, jars: str, coordinates: tuple[str, ...]) -> Path:
    """The Python of an environment with one requirement, and more jars beside those that it brings."""
    folder = cache_folder() / "peers" / name
    python, complete = folder / "bin" / "python", folder / "complete"
    if not complete.exists():
        _run(sys.executable, "-m", "venv", str(folder))
        _run(str(python), "-m", "pip", "install", "--quiet", requirement)
        (into,) = folder.glob(f"lib/python*/site-packages/{jars}")
        for artifact in coordinates:
            copy = [COPY, f"-Dartifact={artifact}", f"-DoutputDirectory={into}"]
            _run(find_maven(), "--batch-mode", "--quiet", *copy)
        complete.touch()
    return python


def _run(*command: str) -> None:
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode:
        lines = f"{answer.stdout}\n{answer.stderr}".splitlines()
        errors = [line.partition("ERROR")[2].lstrip(":] ") for line in lines if "ERROR" in line]
        raise NotInstalled(errors[0][:LINE] if errors else f"{' '.join(command[:4])} failed")
