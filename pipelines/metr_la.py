"""`python -m pipelines.metr_la`: METR-LA as it is published, turned into readings of the traffic feed.

METR-LA comes wide, one column per sensor and one row per time step: as a pandas HDFStore (metr-la.h5), or as
a CSV whose header is the sensors and which has no times (los_speed.csv). The feed wants one row per reading.

Source: Y. Li, R. Yu, C. Shahabi, Y. Liu, "Diffusion Convolutional Recurrent Neural Network: Data-Driven
Traffic Forecasting", ICLR 2018, https://github.com/liyaguang/DCRNN.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from pipelines.parser import OneLineParser
from pipelines.printing import fail
from transforms.errors import UserError
from transforms.local_files import whole_file

COLUMNS = ("sensor_id", "timestamp", "speed_mph", "latitude", "longitude")
LOCATION_COLUMNS = {"sensor_id": pa.string(), "latitude": pa.float64(), "longitude": pa.float64()}
SENSOR = re.compile(r"[0-9]{1,64}")
START = datetime(2012, 3, 1)
STEP_SECONDS = 300
HDF5_KEY = "df"
HDF5_ENDINGS = (".h5", ".hdf5")


@dataclass(frozen=True)
class WideSpeeds:
    """Speeds in mph, one float64 column per sensor and one row per step; the first step is at `start`."""

    speeds: pa.Table
    start: datetime
    step_seconds: int

    def days(self) -> Iterator[WideSpeeds]:
        """The same day by day, in order."""
        begin = 0
        while begin < self.speeds.num_rows:
            first = self._time(begin)
            midnight = datetime.combine(first, datetime.min.time()) + timedelta(days=1)
            steps = -((first - midnight) // timedelta(seconds=self.step_seconds))
            yield WideSpeeds(self.speeds.slice(begin, steps), first, self.step_seconds)
            begin += steps

    @property
    def last(self) -> datetime:
        return self._time(self.speeds.num_rows - 1)

    def _time(self, row: int) -> datetime:
        return self.start + row * timedelta(seconds=self.step_seconds)


def wide_to_readings(speeds: pa.Table, locations: pa.Table, start: datetime, step_seconds: int) -> pa.Table:
    """One row per cell of `speeds`, in time order, then sensor.

    `speeds` has one float64 column per sensor, in mph, and one row per step, the first at `start`.
    `locations` has the columns LOCATION_COLUMNS, the first as string; a sensor that it does not list gets
    null coordinates. The result has COLUMNS: string, timestamp[s] without a zone, and three float64, null
    where the input is. Raises ValueError for a sensor that occurs twice in either table.

    >>> wide = pa.table({"20": [61.5, 0.0], "10": [63.0, 64.25]})
    >>> where = pa.table({"sensor_id": ["10"], "latitude": [34.15497], "longitude": [-118.31829]})
    >>> readings = wide_to_readings(wide, where, datetime(2012, 3, 1), 300)
    >>> readings["sensor_id"].to_pylist(), readings["speed_mph"].to_pylist()
    (['10', '20', '10', '20'], [63.0, 61.5, 64.25, 0.0])
    >>> str(readings["timestamp"][2]), readings["latitude"].to_pylist()
    ('2012-03-01 00:05:00', [34.15497, None, 34.15497, None])
    """
    sensors = pa.array(sorted(speeds.column_names), pa.string())
    for what, names in (("speeds", sensors), ("locations", locations["sensor_id"])):
        if twice := [str(count["values"]) for count in pc.value_counts(names) if count["counts"].as_py() > 1]:
            raise ValueError(f"sensor {twice[0]} occurs twice in the {what}")
    steps, width = speeds.num_rows, len(sensors)
    placed = locations.take(pc.index_in(sensors, locations["sensor_id"].combine_chunks()))
    every_step = pa.array(np.tile(np.arange(width), steps))
    # Column after column in one array; the reading of step i and sensor j is at j * steps + i.
    chunks = [chunk for name in sensors.to_pylist() for chunk in speeds[name].cast(pa.float64()).chunks]
    by_sensor = pa.concat_arrays(chunks) if chunks else pa.array([], pa.float64())
    by_time = np.arange(steps * width).reshape(width, steps).T.ravel()
    seconds = np.arange(steps) * np.timedelta64(step_seconds, "s")
    return pa.table(
        {
            "sensor_id": sensors.take(every_step),
            "timestamp": pa.array(np.repeat(np.datetime64(start, "s") + seconds, width)),
            "speed_mph": by_sensor.take(pa.array(by_time)),
            "latitude": placed["latitude"].take(every_step),
            "longitude": placed["longitude"].take(every_step),
        }
    )


def read_wide_csv(path: str, start: datetime = START, step_seconds: int = STEP_SECONDS) -> WideSpeeds:
    """The speeds of a CSV whose header is the sensors. Raises UserError for any other file."""
    with _readable(path):
        with open(path, encoding="utf-8-sig", newline="") as file:
            header = next(csv.reader(file), [""])
        _check_sensors(header)
        return WideSpeeds(_read_csv(path, dict.fromkeys(header, pa.float64())), start, step_seconds)


def read_wide_hdf5(path: str) -> WideSpeeds:
    """The speeds of a pandas HDFStore, with the times of its index; NaN becomes null.

    Open only files you trust: pandas may unpickle objects from them. Raises UserError for any other file, for
    times that are not equally far apart, and without PyTables.
    """
    with _readable(path):
        try:
            import pandas
            import tables  # noqa: F401
        except ImportError:
            raise UserError(f"{path}: reading HDF5 needs PyTables: pip install '.[hdf5]'") from None
        with open(path, "rb"):
            pass  # for a missing file the plain message rather than that of PyTables
        frame = pandas.read_hdf(path, HDF5_KEY)
        if not isinstance(frame, pandas.DataFrame) or not isinstance(frame.index, pandas.DatetimeIndex):
            raise UserError(f"{path}: {HDF5_KEY!r} is no table of sensors over times")
        names = [str(name) for name in frame.columns]
        _check_sensors(names)
        times = frame.index.to_numpy("datetime64[s]")
        steps = np.unique(np.diff(times).astype(np.int64))
        if len(steps) != 1 or steps[0] <= 0:
            raise UserError(f"{path}: its times are not equally far apart")
        values = frame.to_numpy(np.float64)
        columns = [pa.array(values[:, place], from_pandas=True) for place in range(len(names))]
        return WideSpeeds(pa.table(columns, names=names), times[0].item(), int(steps[0]))


def _check_sensors(header: Sequence[str]) -> None:
    if unlike := [name for name in header if not SENSOR.fullmatch(name)]:
        raise ValueError(f"the header has {unlike[0][:40]!r} where a sensor such as 773869 should be")
    if twice := [name for name, times in Counter(header).items() if times > 1]:
        raise ValueError(f"the header has sensor {twice[0]} twice")


def read_locations(path: str) -> pa.Table:
    """The columns LOCATION_COLUMNS of a CSV file. Raises UserError for a file without them."""
    with _readable(path):
        return _read_csv(path, LOCATION_COLUMNS)


def _read_csv(path: str, types: dict[str, pa.DataType]) -> pa.Table:
    return pyarrow.csv.read_csv(
        path,
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=types, include_columns=list(types), null_values=[""], strings_can_be_null=True
        ),
    )


@contextmanager
def _readable(path: str) -> Iterator[None]:
    """Turns what is wrong with a file into a UserError that names it."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except OSError as problem:
        raise UserError(f"{path}: {problem.strerror or problem}") from None
    except (pa.ArrowException, KeyError, ValueError, RuntimeError) as problem:
        # Arrow quotes the whole bad line, PyTables puts a trace of its own before what it has to say.
        message = str(problem.args[0]) if problem.args else type(problem).__name__
        raise UserError(f"{path}: {message.strip().splitlines()[-1][:200]}") from None


def write_readings(
    wide: WideSpeeds, locations: pa.Table, output: str, *, by_day: bool = False
) -> dict[str, int]:
    """Write the readings as CSV, with memory for one day of them; returns the bytes of each file written.

    With `by_day`, `readings/metr-la.csv` stands for readings/metr-la-2012-03-01.csv and so on. A file appears
    whole or not at all.
    """
    os.makedirs(os.path.dirname(output) or ".", exist_ok=True)
    if not by_day:
        return {output: _write_csv(wide.days(), locations, output)}
    stem, ending = os.path.splitext(output)
    paths = {f"{stem}-{day.start:%Y-%m-%d}{ending}": day for day in wide.days()}
    return {path: _write_csv([day], locations, path) for path, day in paths.items()}


def _write_csv(days: Iterable[WideSpeeds], locations: pa.Table, path: str) -> int:
    plain = pyarrow.csv.WriteOptions(include_header=False, quoting_style="none", batch_size=65_536)
    with whole_file(path) as file:
        file.write((",".join(COLUMNS) + "\n").encode())
        for day in days:
            readings = wide_to_readings(day.speeds, locations, day.start, day.step_seconds)
            pyarrow.csv.write_csv(readings, file, plain)
        return file.tell()


def parser() -> argparse.ArgumentParser:
    program = OneLineParser(
        prog="python -m pipelines.metr_la",
        description="Turn METR-LA as published, one column per sensor, into readings of the traffic feed.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    program.add_argument("--speeds", required=True, help="los_speed.csv or metr-la.h5", metavar="FILE")
    program.add_argument("--locations", required=True, help="graph_sensor_locations.csv", metavar="FILE")
    program.add_argument("--output", default="readings/metr-la.csv", help="CSV file to write", metavar="FILE")
    program.add_argument("--by_day", action="store_true", help="write a file per day, its date in the name")
    only_csv = "only for a CSV, which has no times"
    program.add_argument(
        "--start", type=_time, help=f"time of the first row, {START:%Y-%m-%dT%H:%M} if not given ({only_csv})"
    )
    program.add_argument(
        "--step_seconds",
        type=_seconds,
        help=f"seconds between rows, {STEP_SECONDS} if not given ({only_csv})",
    )
    return program


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 2012-03-01T00:00") from None
    if time.tzinfo or time.microsecond:
        raise argparse.ArgumentTypeError(f"{text!r} has an offset or a fraction; METR-LA has neither")
    return time


def _seconds(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= 86_400:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 1 to 86400")
    return int(text)


def convert(options: argparse.Namespace) -> str:
    """Do what the options say; returns the closing line. Raises UserError."""
    locations = read_locations(options.locations)
    if options.speeds.lower().endswith(HDF5_ENDINGS):
        if options.start or options.step_seconds:
            raise UserError(f"{options.speeds} has its own times: leave out --start and --step_seconds")
        wide = read_wide_hdf5(options.speeds)
    else:
        wide = read_wide_csv(options.speeds, options.start or START, options.step_seconds or STEP_SECONDS)
    if not wide.speeds.num_rows:
        raise UserError(f"{options.speeds}: has no speeds")
    try:
        written = write_readings(wide, locations, options.output, by_day=options.by_day)
    except ValueError as problem:
        raise UserError(f"{options.locations}: {problem}") from None
    except OSError as problem:
        raise UserError(f"{problem.filename or options.output}: {problem.strerror or problem}") from None
    where = options.output if not options.by_day else f"{len(written)} files such as {next(iter(written))}"
    speeds = wide.speeds
    remarks = ""
    if without := set(speeds.column_names) - set(locations["sensor_id"].to_pylist()):
        remarks += f"; sensors without a location: {len(without)}, such as {min(without)}"
    if empty := sum(column.null_count for column in speeds.columns):
        remarks += f"; readings without a speed: {empty:,}"
    return (
        f"{where}: {speeds.num_rows * speeds.num_columns:,} rows of {speeds.num_columns} sensors, "
        f"{wide.start} to {wide.last}, {sum(written.values()):,} bytes{remarks}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    try:
        print(convert(parser().parse_args(arguments)))
    except UserError as problem:
        raise SystemExit(fail(str(problem))) from None


if __name__ == "__main__":
    main()
