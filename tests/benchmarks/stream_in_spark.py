"""The traffic job in Spark Structured Streaming, timed by `tests.benchmarks.stream`: SERVERS TOPIC OUTPUT."""

# mypy: ignore-errors
import sys

SETTINGS = {
    "spark.master": "local[2]",
    "spark.driver.memory": "3g",
    "spark.ui.enabled": "false",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.shuffle.partitions": "2",  # its default of 200 is 200 state stores on two cores
}
READING = """
    sensor_id string, timestamp timestamp, speed_mph double, volume_vph double, occupancy_percent double,
    coordinates struct<latitude: double, longitude: double>, road_name string, direction string,
    lane_count int, event_id string"""
VALID = (
    "speed_mph between 0 and 120 and volume_vph between 0 and 20000 and occupancy_percent between 0 and 100"
)
RAW = (
    *("sensor_id", "timestamp", "speed_mph", "volume_vph", "occupancy_percent"),
    *("coordinates.latitude", "coordinates.longitude", "road_name", "direction", "lane_count", "event_id"),
    "date_format(timestamp, 'yyyy-MM-dd') as day",
)
STATISTICS = {
    "avg_speed": "avg(speed_mph)",
    "avg_volume": "avg(volume_vph)",
    "avg_occupancy": "avg(occupancy_percent)",
    "speed_variance": "var_pop(speed_mph)",
    "message_count": "count(*)",
    "min_speed": "min(speed_mph)",
    "max_speed": "max(speed_mph)",
}
AGGREGATES = (
    *("sensor_id", "window.start as window_start", *STATISTICS),
    "date_format(window.start, 'yyyy-MM-dd') as day",
)


def run(servers: str, topic: str, output: str) -> None:
    from pyspark.sql import SparkSession  # in an environment of its own
    from pyspark.sql.functions import array, col, expr, from_json, inline, window

    builder = SparkSession.builder
    for name, value in SETTINGS.items():
        builder = builder.config(name, value)
    spark = builder.getOrCreate()
    kafka = {"kafka.bootstrap.servers": servers, "subscribe": topic, "startingOffsets": "earliest"}
    messages = spark.readStream.format("kafka").options(**kafka).load()
    # As a table of one row, which the filter is not pushed below: else it parses a message once a condition.
    valid = messages.select(inline(array(from_json(col("value").cast("string"), READING)))).where(VALID)
    aggregates = (
        valid.withWatermark("timestamp", "60 seconds")
        .groupBy("sensor_id", window("timestamp", "5 minutes"))
        .agg(*(expr(statistic).alias(name) for name, statistic in STATISTICS.items()))
    )
    # Both read and parse the topic: two queries do not share a source. A window is written once the watermark
    # has passed it, so the last one, of the readings that close the others, stays open.
    queries = []
    for folder, rows in (("raw", valid.selectExpr(*RAW)), ("aggregates", aggregates.selectExpr(*AGGREGATES))):
        writer = rows.writeStream.format("parquet").outputMode("append").partitionBy("day")
        writer = writer.option("checkpointLocation", f"{output}/checkpoints/{folder}")
        queries.append(writer.trigger(availableNow=True).start(f"{output}/{folder}"))
    for query in queries:
        query.awaitTermination()
    spark.stop()


if __name__ == "__main__":
    run(*sys.argv[1:])
