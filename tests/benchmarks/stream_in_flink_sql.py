"""The traffic job as a stream in PyFlink SQL, timed by `tests.benchmarks.stream`: SERVERS TOPIC OUTPUT FEED.

FEED is `stream_peers.declaration`. Messages are read by Flink's JSON format, its fastest way, which drops
those that it cannot read: there are no dead letters. To keep their bytes they would have to be read raw and
parsed by functions of SQL, which took more than twice the CPU time. Nor are late rows kept: windows of SQL
have no allowed lateness. An event time has to end in Z.
"""

# mypy: ignore-errors
import json
import sys

SETTINGS = {
    "parallelism.default": "2",
    "execution.checkpointing.interval": "5 s",
    "execution.checkpointing.dir": "file://{output}/checkpoints",
    "pipeline.object-reuse": "true",
    "table.local-time-zone": "UTC",
    "taskmanager.memory.process.size": "3g",
}
TYPES = {
    **{"text": "string", "timestamp": "timestamp_ltz(3)", "number": "double"},
    **{"whole number": "int", "flag": "boolean", "count": "bigint"},
}
WHERE_FROM = "source string, `partition` int, `position` bigint"
MESSAGES = """
create table messages (
    {members},
    source string metadata from 'topic' virtual,
    `partition` int metadata virtual,
    `position` bigint metadata from 'offset' virtual,
    watermark for `{event_time}` as `{event_time}` - interval '60' second
) with (
    'connector' = 'kafka', 'topic' = '{topic}', 'properties.bootstrap.servers' = '{servers}',
    'scan.startup.mode' = 'earliest-offset', 'scan.bounded.mode' = 'latest-offset',
    'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601', 'json.ignore-parse-errors' = 'true'
)"""
ACCEPTED = """
select * from (
    select {names}, source, `partition`, `position`, window_time, row_number() over (
        partition by window_start, window_end, {key}, `{event_time}` order by `{event_time}`) as copy
    from table(tumble(
        (select {selected}, source, `partition`, `position` from messages where {valid}),
        descriptor(`{event_time}`), interval '5' minutes))
) where copy = 1"""
FILES = """
create table `{table}` ({columns}, `day` string) partitioned by (`day`)
with ('connector' = 'filesystem', 'path' = '{output}/{table}', 'format' = 'parquet')"""
INSERT_RAW = """
insert into `raw` select {names}, source, `partition`, `position`, date_format(`{event_time}`, 'yyyy-MM-dd')
from accepted"""
INSERT_AGGREGATES = """
insert into `aggregates` select {key}, window_start, window_end, {statistics},
    date_format(window_start, 'yyyy-MM-dd')
from table(tumble(table accepted, descriptor(window_time), interval '5' minutes))
group by {key}, window_start, window_end"""


def columns(types: dict[str, str]) -> str:
    return ", ".join(f"`{name}` {TYPES[kind]}" for name, kind in types.items())


def members(fields: list[dict]) -> str:
    """The columns of a message, those of a group as a row."""
    grouped = {}
    for field in fields:
        grouped.setdefault(field["group"], {})[field["name"]] = field["type"]
    alone = columns(grouped.pop(None))
    return ", ".join([alone, *(f"`{group}` row<{columns(inside)}>" for group, inside in grouped.items())])


def selected(field: dict) -> str:
    """A field's column as one of the message itself."""
    name = f"`{field['name']}`"
    return f"`{field['group']}`.{name} as {name}" if field["group"] else name


def run(servers: str, topic: str, output: str, declaration: str) -> None:
    from pyflink.table import EnvironmentSettings, TableEnvironment  # in an environment of its own

    feed = json.loads(declaration)
    fields, kinds = feed["fields"], {field["name"]: field["type"] for field in feed["fields"]}
    words = {name: feed[name] for name in ("key", "event_time")}
    words |= {"topic": topic, "servers": servers, "output": output}
    words |= {"names": ", ".join(f"`{name}`" for name in kinds), "members": members(fields)}
    words["selected"] = ", ".join(map(selected, fields))
    broken = [rule["condition"] for rule in feed["rules"] if rule["condition"]]
    words["valid"] = " and ".join(f"({condition}) is not true" for condition in broken)
    words["statistics"] = ", ".join(feed["aggregates"].values())
    tables = TableEnvironment.create(EnvironmentSettings.in_streaming_mode())
    for name, value in SETTINGS.items():
        tables.get_config().set(name, value.format(**words))
    tables.execute_sql(MESSAGES.format(**words))
    # A view of a Table, unlike one made by SQL, is worked out once for all that select from it.
    tables.create_temporary_view("accepted", tables.sql_query(ACCEPTED.format(**words)))
    aggregates = {name: "count" if name in feed["counts"] else "number" for name in feed["aggregates"]}
    window = "window_start timestamp(3), window_end timestamp(3)"
    for table, written in (
        ("raw", f"{columns(kinds)}, {WHERE_FROM}"),
        ("aggregates", f"{feed['key']} string, {window}, {columns(aggregates)}"),
    ):
        tables.execute_sql(FILES.format(table=table, columns=written, **words))
    statements = tables.create_statement_set()
    for insert in (INSERT_RAW, INSERT_AGGREGATES):
        statements.add_insert_sql(insert.format(**words))
    statements.execute().wait()


if __name__ == "__main__":
    run(*sys.argv[1:])
