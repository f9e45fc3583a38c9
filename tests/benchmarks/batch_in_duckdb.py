"""The traffic job in DuckDB, as `tests.benchmarks.batch` times it: FILES OUTPUT."""

import sys

import duckdb

TYPES = {
    "sensor_id": "varchar",
    "timestamp": "timestamp",
    "speed_mph": "double",
    "volume_vph": "double",
    "occupancy_percent": "double",
    "latitude": "double",
    "longitude": "double",
    "road_name": "varchar",
    "direction": "varchar",
    "lane_count": "smallint",
}
RULES = {
    "sensor_id": "regexp_full_match(sensor_id, '[A-Za-z0-9_.:-]{1,64}')",
    "speed_mph": "isfinite(speed_mph) and speed_mph between 0 and 120",
    "volume_vph": "volume_vph is null or volume_vph between 0 and 20000",
    "occupancy_percent": "occupancy_percent is null or occupancy_percent between 0 and 100",
    "latitude": "latitude is null or latitude between 33.7 and 34.5",
    "longitude": "longitude is null or longitude between -119 and -117",
}
BY_DAY = "format parquet, compression zstd, partition_by (year, month, day)"


def run(files: str, output: str) -> None:
    con = duckdb.connect()
    con.sql("set timezone = 'UTC'")
    header = con.sql(f"from read_csv('{files}', header=true, all_varchar=true) limit 0").columns
    types = {name: TYPES[name] for name in header}
    rules = " and ".join(f"({RULES[name]})" for name in header if name in RULES)
    means = "".join(f", avg({name})" for name in ("volume_vph", "occupancy_percent") if name in header)
    con.sql(
        f"""create temp table readings as
        select * exclude (filename), filename as source
        from read_csv('{files}', header=true, filename=true, columns={types})
        where {rules}
        qualify row_number() over (partition by sensor_id, timestamp order by source) = 1"""
    )
    con.sql(
        f"""copy (select *, year(timestamp) as year, month(timestamp) as month, day(timestamp) as day
        from readings) to '{output}/raw' ({BY_DAY})"""
    )
    con.sql(
        f"""copy (select *, year(start) as year, month(start) as month, day(start) as day
        from (select sensor_id, time_bucket(interval 300 second, timestamp) as start, avg(speed_mph){means},
            var_pop(speed_mph), count(*), min(speed_mph), max(speed_mph), quantile_cont(speed_mph, 0.85)
            from readings group by all)) to '{output}/aggregates' ({BY_DAY})"""
    )


if __name__ == "__main__":
    run(*sys.argv[1:])
