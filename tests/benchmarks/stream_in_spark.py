"""The traffic job in Spark Structured Streaming, for `tests.benchmarks.stream`: SERVERS TOPIC OUTPUT FEED.

FEED is `stream_peers.declaration`. Two queries read the topic, one for the accepted readings and one for the
dead letters, since a query has one sink and dead letters are not to be deduplicated; aggregates are made of
the raw Parquet. A message is parsed as a list of one document, so that a second one in the value is an error,
into text that is then cast. A micro-batch is 300,000 messages; after each there is a checkpoint.

What it cannot do: from_json takes a number for text, and text for a number where it is one; rows later than
the watermark are dropped and no more than counted (`numRowsDroppedByWatermark`); and a dead letter has one
reason, which is not_json for all that is not one object.
"""

# mypy: ignore-errors
import json
import sys

SETTINGS = {
    "spark.master": "local[2]",
    "spark.driver.memory": "3g",
    "spark.ui.enabled": "false",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.shuffle.partitions": "2",  # its default of 200 is 200 state stores on two cores
}
MESSAGES_PER_BATCH = 300_000
OUT_OF_ORDERNESS = "60 seconds"
TYPES = {"timestamp": "timestamp", "number": "double", "whole number": "int", "flag": "boolean"}
UNPARSABLE = "`{name}` is null and `{name}_text` is not null"
WHERE_FROM = ("topic as source", "partition", "offset as position")


def document_type(fields: list[dict]) -> str:
    """All as text, the members of a group together."""
    grouped = {}
    for field in fields:
        grouped.setdefault(field["group"], []).append(f"`{field['name']}`")
    alone = [f"{name}: string" for name in grouped.pop(None)]
    groups = [
        f"{group}: struct<{', '.join(f'{name}: string' for name in names)}>"
        for group, names in grouped.items()
    ]
    return f"array<struct<{', '.join(alone + groups)}>>"


def run(servers: str, topic: str, output: str, declaration: str) -> None:
    from pyspark.sql import SparkSession  # in an environment of its own
    from pyspark.sql.functions import expr, window

    feed = json.loads(declaration)
    fields, key, event_time = feed["fields"], feed["key"], feed["event_time"]
    kinds = {field["name"]: field["type"] for field in fields}
    names = [f"`{name}`" for name in kinds]
    builder = SparkSession.builder
    for name, value in SETTINGS.items():
        builder = builder.config(name, value)
    spark = builder.getOrCreate()
    kafka = {"kafka.bootstrap.servers": servers, "subscribe": topic, "startingOffsets": "earliest"}
    kafka["maxOffsetsPerTrigger"] = str(MESSAGES_PER_BATCH)
    messages = spark.readStream.format("kafka").options(**kafka).load()

    # As a table of one row, which filters are not pushed below: else it parses a message once a condition.
    parsed = f"from_json('[' || cast(value as string) || ']', '{document_type(fields)}')"
    documents = messages.selectExpr("value", *WHERE_FROM, f"inline(array(struct({parsed} as documents)))")
    texts = documents.selectExpr(
        *("value", "source", "partition", "position", "coalesce(size(documents) = 1, false) as sound"),
        *(
            f"get(documents, 0).{'.'.join(filter(None, (field['group'], field['name'])))}"
            f" as `{field['name']}_text`"
            for field in fields
        ),
    )
    casts = [
        f"`{name}_text` as `{name}`"
        if kind == "text"
        else f"try_cast(`{name}_text` as {TYPES[kind]}) as `{name}`"
        for name, kind in kinds.items()
    ]
    rules = "".join(
        f" when {rule['condition'] or UNPARSABLE.format(name=rule['field'])} then '{rule['reason']}'"
        for rule in feed["rules"]
    )
    checked = texts.selectExpr("*", *casts).selectExpr(
        *("value", "source", "partition", "position", *names),
        f"case when not sound then 'not_json' {rules} end as reason",
    )
    accepted = (
        checked.where("reason is null")
        .withWatermark(event_time, OUT_OF_ORDERNESS)
        .dropDuplicates([key, event_time])
        .selectExpr(
            *names, "source", "partition", "position", f"date_format(`{event_time}`, 'yyyy-MM-dd') as day"
        )
    )
    dead_letters = checked.where("reason is not null").selectExpr(
        *("value", "source", "partition", "position", "reason", "date_format(now(), 'yyyy-MM-dd') as day")
    )

    def write(rows, folder):
        writer = rows.writeStream.format("parquet").outputMode("append").partitionBy("day")
        writer = writer.option("checkpointLocation", f"{output}/checkpoints/{folder}")
        return writer.trigger(availableNow=True).start(f"{output}/{folder}")

    for query in [write(accepted, "raw"), write(dead_letters, "dead_letters")]:
        query.awaitTermination()
    raw = spark.readStream.schema(accepted.schema).parquet(f"{output}/raw")
    aggregates = (
        raw.withWatermark(event_time, OUT_OF_ORDERNESS)
        .groupBy(key, window(event_time, "5 minutes"))
        .agg(*(expr(statistic).alias(name) for name, statistic in feed["aggregates"].items()))
        .selectExpr(
            *(key, "window.start as window_start", "window.end as window_end", *feed["aggregates"]),
            "date_format(window.start, 'yyyy-MM-dd') as day",
        )
    )
    # A window is written once the watermark has passed it: the last one, of the readings that close the
    # others, stays open.
    write(aggregates, "aggregates").awaitTermination()
    spark.stop()


if __name__ == "__main__":
    run(*sys.argv[1:])
