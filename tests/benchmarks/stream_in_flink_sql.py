"""The traffic job as a stream in PyFlink SQL, timed by `tests.benchmarks.stream`: SERVERS TOPIC OUTPUT FEED.

FEED is `stream_peers.declaration`. Flink's JSON format drops a message that it cannot read, so that the bytes
are read raw and parsed once: as a list of one document, so that a second one in the value is an error, into a
VARIANT. This Flink cannot cast its members, but their JSON texts. What is to be worked out once a row stands
behind an `unnest`, else Flink would merge the queries and do it once for each column. The other way, to read
the topic twice, as JSON for the readings and raw for the dead letters, has not been timed against this one.

What it cannot do: an event time has to end in Z, as no function of SQL reads another offset; windows of SQL
have no allowed lateness, so that a row whose window has closed is a dead letter; bytes that are not UTF-8 are
not found; and a dead letter has one reason, which is not_json for all that is not one object.
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
# Without the nullif every null costs an exception.
CASTS = {
    kind: f"try_cast(nullif({{text}}, 'null') as {TYPES[kind]})"
    for kind in ("number", "whole number", "flag")
} | {
    "timestamp": "event_time",
    "text": """case when {text} not like '"%' then null
        when position('\\' in {text}) > 0 then json_unquote({text}) else trim(both '"' from {text}) end""",
}
UNPARSABLE = "`{name}` is null and `{name}_text` <> 'null'"
WHERE_FROM = "source string, `partition` int, `position` bigint"
MESSAGES = """
create table messages (
    `value` bytes,
    source string metadata from 'topic' virtual,
    `partition` int metadata virtual,
    `position` bigint metadata from 'offset' virtual,
    event_time as to_timestamp_ltz(
        json_value(cast(`value` as string), '$.{event_time}'), 'yyyy-MM-dd''T''HH:mm:ss[.SSS]''Z'''),
    watermark for event_time as event_time - interval '60' second
) with (
    'connector' = 'kafka', 'topic' = '{topic}', 'properties.bootstrap.servers' = '{servers}',
    'scan.startup.mode' = 'earliest-offset', 'scan.bounded.mode' = 'latest-offset', 'format' = 'raw'
)"""
DOCUMENT = """case when ltrim(cast(`value` as string)) like '{%'
    then try_parse_json('[' || cast(`value` as string) || ']', true) end"""
WINDOW = "timestampdiff(second, to_timestamp_ltz(0, 3), {time}) / 300"
CLOSED = "current_watermark(event_time) + interval '0.001' second"
READINGS = """
select `value`, source, `partition`, `position`, event_time, {names}, reason
from messages
cross join unnest(array[{document}]) as parsed (document)
cross join unnest(array[row({members})]) as members ({texts})
cross join unnest(array[row({typed})]) as readings ({names})
cross join unnest(array[case
    when document is null or document[2] is not null then 'not_json'
    {rules}
    when {window} < {closed} then 'too_late'
end]) as checked (reason)"""
ACCEPTED = """
select * from (
    select {names}, source, `partition`, `position`, window_time, row_number() over (
        partition by window_start, window_end, {key}, event_time order by event_time) as copy
    from table(tumble(
        (select {names}, source, `partition`, `position`, event_time from readings where reason is null),
        descriptor(event_time), interval '5' minutes))
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
INSERT_DEAD_LETTERS = """
insert into `dead_letters` select `value`, source, `partition`, `position`, reason,
    date_format(current_timestamp, 'yyyy-MM-dd')
from readings where reason is not null"""


def member(field: dict) -> str:
    """The JSON text of a field, which may stand in a group's object; of a time only where it cannot be read.

    Written out are single values, as `json_string` takes long for a text, and longer for an object.
    """
    name, group = field["name"], field["group"]
    if field["type"] == "timestamp":
        return f"case when event_time is null then json_string(document[1]['{name}']) end"
    if group:
        inside = f"json_exists(cast(`value` as string), '$.{group}.{name}')"
        return f"case when {inside} then json_string(document[1]['{group}']['{name}']) end"
    return f"json_string(document[1]['{name}'])"


def columns(types: dict[str, str]) -> str:
    return ", ".join(f"`{name}` {TYPES[kind]}" for name, kind in types.items())


def run(servers: str, topic: str, output: str, declaration: str) -> None:
    from pyflink.table import EnvironmentSettings, TableEnvironment  # in an environment of its own

    feed = json.loads(declaration)
    fields, kinds = feed["fields"], {field["name"]: field["type"] for field in feed["fields"]}
    names = ", ".join(f"`{name}`" for name in kinds)
    texts = {name: f"`{name}_text`" for name in kinds}
    unparsable = {name: UNPARSABLE.format(name=name) for name in kinds}
    tables = TableEnvironment.create(EnvironmentSettings.in_streaming_mode())
    for name, value in SETTINGS.items():
        tables.get_config().set(name, value.format(output=output))
    tables.execute_sql(MESSAGES.format(topic=topic, servers=servers, event_time=feed["event_time"]))
    readings = READINGS.format(
        document=DOCUMENT,
        members=", ".join(map(member, fields)),
        texts=", ".join(texts.values()),
        typed=", ".join(CASTS[kind].format(text=texts[name]) for name, kind in kinds.items()),
        names=names,
        rules="\n    ".join(
            f"when {rule['condition'] or unparsable[rule['field']]} then '{rule['reason']}'"
            for rule in feed["rules"]
        ),
        window=WINDOW.format(time="event_time"),
        closed=WINDOW.format(time=CLOSED),
    )
    # A view of a Table, unlike one made by SQL, is worked out once for all that select from it.
    tables.create_temporary_view("readings", tables.sql_query(readings))
    accepted = ACCEPTED.format(names=names, key=feed["key"])
    tables.create_temporary_view("accepted", tables.sql_query(accepted))
    aggregates = {name: "count" if name in feed["counts"] else "number" for name in feed["aggregates"]}
    window = "window_start timestamp(3), window_end timestamp(3)"
    for table, written in (
        ("raw", f"{columns(kinds)}, {WHERE_FROM}"),
        ("aggregates", f"{feed['key']} string, {window}, {columns(aggregates)}"),
        ("dead_letters", f"`value` bytes, {WHERE_FROM}, reason string"),
    ):
        tables.execute_sql(FILES.format(table=table, columns=written, output=output))
    statements = tables.create_statement_set()
    statistics = ", ".join(feed["aggregates"].values())
    for insert in (INSERT_RAW, INSERT_AGGREGATES, INSERT_DEAD_LETTERS):
        statements.add_insert_sql(
            insert.format(names=names, key=feed["key"], statistics=statistics, event_time=feed["event_time"])
        )
    statements.execute().wait()


if __name__ == "__main__":
    run(*sys.argv[1:])
