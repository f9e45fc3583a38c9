"""The traffic job as a stream in PyFlink SQL, as `tests.benchmarks.stream` times it: SERVERS TOPIC OUTPUT."""

# mypy: ignore-errors
import sys

SETTINGS = {
    "parallelism.default": "2",
    "execution.checkpointing.interval": "5 s",
    "table.local-time-zone": "UTC",
    "taskmanager.memory.process.size": "3g",
}
READINGS = """
create table readings (
    sensor_id string, `timestamp` timestamp_ltz(3), speed_mph double, volume_vph double,
    occupancy_percent double, coordinates row<latitude double, longitude double>, road_name string,
    direction string, lane_count int, event_id string,
    watermark for `timestamp` as `timestamp` - interval '60' second
) with (
    'connector' = 'kafka', 'topic' = '{topic}', 'properties.bootstrap.servers' = '{servers}',
    'scan.startup.mode' = 'earliest-offset', 'scan.bounded.mode' = 'latest-offset',
    'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601', 'json.ignore-parse-errors' = 'true'
)"""
FILES = """
partitioned by (`day`)
with ('connector' = 'filesystem', 'path' = '{output}/{folder}', 'format' = 'parquet')"""
RAW = (
    """
create table `raw` (
    sensor_id string, `timestamp` timestamp_ltz(3), speed_mph double, volume_vph double,
    occupancy_percent double, latitude double, longitude double, road_name string, direction string,
    lane_count int, event_id string, `day` string
) """
    + FILES
)
AGGREGATES = (
    """
create table aggregates (
    sensor_id string, window_start timestamp(3), avg_speed double, avg_volume double, avg_occupancy double,
    speed_variance double, message_count bigint, min_speed double, max_speed double, `day` string
) """
    + FILES
)
VALID = (
    "speed_mph between 0 and 120 and volume_vph between 0 and 20000 and occupancy_percent between 0 and 100"
)
INSERT_RAW = f"""
insert into `raw` select sensor_id, `timestamp`, speed_mph, volume_vph, occupancy_percent,
    coordinates.latitude, coordinates.longitude, road_name, direction, lane_count, event_id,
    date_format(`timestamp`, 'yyyy-MM-dd') from readings where {VALID}"""
INSERT_AGGREGATES = f"""
insert into aggregates select sensor_id, window_start, avg(speed_mph), avg(volume_vph),
    avg(occupancy_percent), var_pop(speed_mph), count(*), min(speed_mph), max(speed_mph),
    date_format(window_start, 'yyyy-MM-dd')
from table(tumble(table readings, descriptor(`timestamp`), interval '5' minutes))
where {VALID} group by sensor_id, window_start, window_end"""


def run(servers: str, topic: str, output: str) -> None:
    from pyflink.table import EnvironmentSettings, TableEnvironment  # in an environment of its own

    tables = TableEnvironment.create(EnvironmentSettings.in_streaming_mode())
    for name, value in SETTINGS.items():
        tables.get_config().set(name, value)
    tables.execute_sql(READINGS.format(topic=topic, servers=servers))
    tables.execute_sql(RAW.format(output=output, folder="raw"))
    tables.execute_sql(AGGREGATES.format(output=output, folder="aggregates"))
    statements = tables.create_statement_set()
    statements.add_insert_sql(INSERT_RAW)
    statements.add_insert_sql(INSERT_AGGREGATES)
    statements.execute().wait()


if __name__ == "__main__":
    run(*sys.argv[1:])
