"""The traffic job in Polars, as `tests.benchmarks.batch` times it: FILES OUTPUT."""

import glob
import sys

import polars as pl

TYPES: dict[str, pl.DataType | type[pl.DataType]] = {
    "sensor_id": pl.String,
    "timestamp": pl.Datetime("us"),
    "speed_mph": pl.Float64,
    "volume_vph": pl.Float64,
    "occupancy_percent": pl.Float64,
    "latitude": pl.Float64,
    "longitude": pl.Float64,
    "road_name": pl.String,
    "direction": pl.String,
    "lane_count": pl.Int16,
}
LIMITS = {
    "speed_mph": (0, 120),
    "volume_vph": (0, 20_000),
    "occupancy_percent": (0, 100),
    "latitude": (33.7, 34.5),
    "longitude": (-119, -117),
}


def write_by_day(frame: pl.DataFrame, time: str, folder: str) -> None:
    day = pl.col(time).dt
    frame = frame.with_columns(year=day.year(), month=day.month(), day=day.day())
    frame.write_parquet(folder, compression="zstd", partition_by=["year", "month", "day"])


def run(files: str, output: str) -> None:
    header = pl.scan_csv(glob.glob(files)[0]).collect_schema().names()
    rules = [pl.col("sensor_id").str.contains("^[A-Za-z0-9_.:-]{1,64}$"), pl.col("speed_mph").is_finite()]
    for name, limits in LIMITS.items():
        if name in header:
            rules.append(pl.col(name).is_between(*limits) | pl.col(name).is_null())
    readings = (
        pl.scan_csv(files, schema={name: TYPES[name] for name in header}, include_file_paths="source")
        .filter(*rules)
        .unique(["sensor_id", "timestamp"], keep="first", maintain_order=True)
        .collect()
    )
    write_by_day(readings, "timestamp", f"{output}/raw")
    speed = pl.col("speed_mph")
    means = [
        pl.mean(name).alias(f"avg_{name}") for name in ("volume_vph", "occupancy_percent") if name in header
    ]
    aggregates = readings.group_by(
        "sensor_id", pl.col("timestamp").dt.truncate("5m").alias("window_start")
    ).agg(
        speed.mean().alias("avg_speed"),
        speed.var(ddof=0).alias("speed_variance"),
        pl.len().alias("message_count"),
        speed.min().alias("min_speed"),
        speed.max().alias("max_speed"),
        speed.quantile(0.85, "linear").alias("p85_speed"),
        *means,
    )
    write_by_day(aggregates, "window_start", f"{output}/aggregates")


if __name__ == "__main__":
    run(*sys.argv[1:])
