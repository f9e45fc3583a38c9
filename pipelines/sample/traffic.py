"""A simulated day, or many days, of loop detectors on the freeways of Los Angeles.

Nothing here was measured. The freeways have their real names and roughly their real courses; the sensors,
the vehicles and every number are made up, by a model in which the numbers agree with each other:

* Vehicles are conserved along a road and obey a triangular relation between flow and density (Newell 1993,
  "A simplified theory of kinematic waves in highway traffic", parts I-III, Transportation Research B 27(4)).
  Under it the cumulative count of vehicles past any point has a closed form, the lesser of two shifted
  curves: what came from upstream at the free speed, and what the queue downstream lets through, a message
  that travels backwards at the wave speed. So there is no time stepping and the waves keep their shape.
* Each direction of a road has one bottleneck whose capacity wavers by the minute. When the rush hour brings
  more than it lets through, a queue grows upstream of it, with stop-and-go waves running back through it.
* A detector counts whole vehicles in a step. Its volume is that count as an hourly rate; density is volume
  over speed (q = k v, Lighthill and Whitham 1955); occupancy is the share of road covered by vehicles of an
  effective length, each sensor having its own (Jia et al. 2001, "The PeMS algorithms for accurate, real-time
  estimates of g-factors and speeds from single-loop detectors").
* A sensor that saw no vehicle, or has dropped out, reports 0 for all three, as METR-LA does.

The same arguments give the same bytes, with the same version of numpy.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.sample.faults import Plantings
from pipelines.sample.files import to_csv, to_json
from pipelines.sample.traffic_faults import COLUMNS, TRAFFIC_FAULTS
from transforms.local_files import whole_file

Floats = NDArray[np.floating[Any]]

FREE_SPEED = 65.0
"""Speed of traffic below capacity, miles per hour."""
WAVE_SPEED = 12.0
"""Speed at which congestion travels upstream, miles per hour."""
JAM_DENSITY = 188.0
"""Vehicles per mile of one lane at a standstill."""
CAPACITY = JAM_DENSITY * FREE_SPEED * WAVE_SPEED / (FREE_SPEED + WAVE_SPEED)
"""The most one lane carries, vehicles per hour: the tip of the triangle, about 1,900."""

SHORTEST_HEADWAY_SECONDS = 1.2
"""No two vehicles of one lane pass closer than this, which bounds a count."""
SPEED_SPREAD = 0.12
"""Standard deviation of one vehicle's speed, as a share of the speed of the stream."""
LOWEST_SPEED, HIGHEST_SPEED = 2.0, 95.0
FEET_PER_MILE = 5280.0
MILES_PER_DEGREE = 69.1
METERS_BETWEEN_DIRECTIONS = 30.0
METERS_PER_DEGREE = 111_200.0

MODEL_STEP_HOURS = 30 / 3600
WARM_UP_HOURS = 4
"""Hours modelled before midnight: longer than a wave takes along the longest road."""

SENSOR_COLUMNS = ("sensor_id", "latitude", "longitude", "road_name", "direction", "lane_count")


@dataclass(frozen=True)
class Road:
    """A freeway: its course as (latitude, longitude) points, and the direction one drives along them.

    `morning` is the direction towards work, busiest in the morning.
    """

    name: str
    lanes: int
    along: str
    against: str
    morning: str
    course: tuple[tuple[float, float], ...]


ROADS = (
    Road(
        "I-5", 4, "N", "S", "S",
        (
            (33.9000, -118.0560), (33.9730, -118.1220), (34.0180, -118.1800), (34.0370, -118.2200),
            (34.0800, -118.2280), (34.1140, -118.2660), (34.1560, -118.2890), (34.1890, -118.3260),
            (34.2250, -118.3750), (34.2780, -118.4450), (34.3240, -118.5010),
        ),
    ),
    Road(
        "I-10", 5, "E", "W", "E",
        (
            (34.0120, -118.4920), (34.0300, -118.4350), (34.0320, -118.3900), (34.0370, -118.3300),
            (34.0370, -118.2750), (34.0270, -118.2350), (34.0500, -118.2150), (34.0620, -118.1700),
            (34.0720, -118.1000), (34.0730, -118.0000),
        ),
    ),
    Road(
        "US-101", 4, "N", "S", "S",
        (
            (34.0560, -118.2370), (34.0740, -118.2650), (34.0980, -118.3150), (34.1170, -118.3380),
            (34.1370, -118.3620), (34.1530, -118.3790), (34.1560, -118.4300), (34.1610, -118.4690),
            (34.1730, -118.5600), (34.1560, -118.6400),
        ),
    ),
    Road(
        "I-405", 5, "N", "S", "S",
        (
            (33.9300, -118.3680), (33.9890, -118.3970), (34.0290, -118.4300), (34.0630, -118.4610),
            (34.1000, -118.4780), (34.1400, -118.4760), (34.1610, -118.4690), (34.2200, -118.4720),
            (34.2900, -118.4670),
        ),
    ),
    Road(
        "SR-110", 3, "N", "S", "S",
        (
            (33.9290, -118.2810), (34.0370, -118.2750), (34.0620, -118.2490), (34.0840, -118.2200),
            (34.1080, -118.1850), (34.1380, -118.1500),
        ),
    ),
    Road(
        "SR-134", 4, "E", "W", "E",
        (
            (34.1530, -118.3790), (34.1540, -118.3300), (34.1560, -118.2890), (34.1550, -118.2500),
            (34.1430, -118.2200), (34.1470, -118.1700), (34.1500, -118.1500),
        ),
    ),
    Road(
        "SR-170", 4, "N", "S", "S",
        ((34.1530, -118.3790), (34.1830, -118.4000), (34.2200, -118.4100)),
    ),
    Road(
        "I-210", 4, "E", "W", "W",
        (
            (34.2780, -118.4000), (34.2350, -118.2700), (34.2000, -118.1900), (34.1520, -118.1500),
            (34.1400, -118.0500),
        ),
    ),
)  # fmt: skip

# What arrives at the head of a road, hour by hour from midnight, as a share of its capacity.
DEMAND = {
    "morning": (
        0.10, 0.07, 0.06, 0.06, 0.12, 0.36, 0.77, 0.94, 0.92, 0.77, 0.66, 0.64,
        0.65, 0.66, 0.70, 0.74, 0.77, 0.77, 0.68, 0.52, 0.40, 0.34, 0.26, 0.17,
    ),
    "evening": (
        0.10, 0.07, 0.06, 0.06, 0.10, 0.28, 0.58, 0.74, 0.73, 0.64, 0.60, 0.60,
        0.63, 0.67, 0.75, 0.87, 0.94, 0.94, 0.83, 0.60, 0.44, 0.37, 0.29, 0.18,
    ),
    "weekend": (
        0.18, 0.13, 0.10, 0.08, 0.08, 0.12, 0.20, 0.29, 0.38, 0.48, 0.58, 0.65,
        0.68, 0.70, 0.71, 0.71, 0.70, 0.67, 0.62, 0.54, 0.46, 0.41, 0.34, 0.26,
    ),
}  # fmt: skip

# What a bottleneck lets through, as a share of the capacity of the road: its usual range from one road to the
# next, and how far and how fast it wavers.
BOTTLENECK_SHARE = (0.78, 0.85)
BOTTLENECK_PLACE = (0.60, 0.85)
BOTTLENECK_WAVERING = 0.12
BOTTLENECK_WAVERING_MINUTES = 2.5
DEMAND_WAVERING = 0.03

DROP_OUTS_A_DAY = 0.12
DROP_OUT_HOURS = 1.5

# Layout, each day and the faults draw from streams of their own, so that a date has the same traffic
# whichever day the sample starts on and whatever was planted in it.
LAYOUT_STREAM, DAY_STREAM = 0, 1


@dataclass(frozen=True)
class Carriageway:
    """One direction of a road, measured in miles from where its traffic enters.

    `capacity` and `bottleneck_capacity` are vehicles per hour over all lanes.
    """

    road: Road
    direction: str
    length: float
    bottleneck: float
    bottleneck_capacity: float

    @property
    def capacity(self) -> float:
        return CAPACITY * self.road.lanes

    def demand(self, weekday: int) -> tuple[float, ...]:
        """The 24 shares of capacity that arrive on a weekday (Monday is 0)."""
        if weekday >= 5:
            return DEMAND["weekend"]
        return DEMAND["morning" if self.direction == self.road.morning else "evening"]


@dataclass(frozen=True)
class Sensors:
    """The detectors in the order of their names; every array has one value per sensor.

    `milepost` is miles downstream of where the carriageway's traffic enters, `speed_factor` how much faster
    than FREE_SPEED traffic likes to go there, `effective_length` in feet of vehicle and detector together.
    """

    carriageways: tuple[Carriageway, ...]
    carriageway: NDArray[np.int64]
    milepost: Floats
    speed_factor: Floats
    effective_length: Floats
    lanes: NDArray[np.int64]
    known: pa.Table
    """The columns SENSOR_COLUMNS."""

    def __len__(self) -> int:
        return len(self.milepost)


@dataclass(frozen=True)
class Day:
    """One day's readings, each array of shape (steps, sensors) but `times`, of shape (steps,).

    `density` is vehicles per mile of one lane, before any rounding; the feed does not carry it.
    """

    times: NDArray[np.datetime64]
    speed: Floats
    volume: NDArray[np.int64]
    occupancy: Floats
    density: Floats


def place_sensors(count: int, seed: int) -> Sensors:
    """Spread `count` sensors over both directions of ROADS in proportion to their lengths.

    Raises ValueError for fewer than one sensor.

    >>> sensors = place_sensors(207, seed=1)
    >>> len(sensors), sensors.known.column_names[0], sensors.known["sensor_id"][0].as_py()
    (207, 'sensor_id', 'sim-0001')
    """
    if count < 1:
        raise ValueError(f"sensors must be at least 1, not {count}")
    random = np.random.default_rng([seed, LAYOUT_STREAM])
    carriageways = tuple(
        Carriageway(
            road,
            direction,
            length := _course_miles(road)[-1],
            bottleneck=length * random.uniform(*BOTTLENECK_PLACE),
            bottleneck_capacity=CAPACITY * road.lanes * random.uniform(*BOTTLENECK_SHARE),
        )
        for road in ROADS
        for direction in (road.along, road.against)
    )
    # Sensors sit at equal distances along all carriageways laid end to end, nudged by a fifth of that.
    ends = np.cumsum([carriageway.length for carriageway in carriageways])
    places = (np.arange(count) + 0.5 + random.uniform(-0.2, 0.2, count)) * ends[-1] / count
    index = np.searchsorted(ends, places)
    milepost = places - np.concatenate([[0.0], ends])[index]
    chosen = [carriageways[i] for i in index]
    positions = [_position(carriageway, mile) for carriageway, mile in zip(chosen, milepost, strict=True)]
    lanes = np.array([carriageway.road.lanes for carriageway in chosen])
    digits = max(4, len(str(count)))
    known = pa.table(
        {
            "sensor_id": [f"sim-{number:0{digits}d}" for number in range(1, count + 1)],
            "latitude": [round(latitude, 5) for latitude, _ in positions],
            "longitude": [round(longitude, 5) for _, longitude in positions],
            "road_name": [carriageway.road.name for carriageway in chosen],
            "direction": [carriageway.direction for carriageway in chosen],
            "lane_count": lanes,
        }
    )
    return Sensors(
        carriageways,
        index,
        milepost,
        speed_factor=np.clip(random.normal(1.0, 0.03, count), 0.9, 1.1),
        effective_length=random.uniform(20.0, 25.0, count),
        lanes=lanes,
        known=known,
    )


def simulate_day(sensors: Sensors, day: date, *, seed: int, step_seconds: int = 30) -> Day:
    """The readings of one day; a reading's time is the start of the step it covers.

    `step_seconds` must divide a day.
    """
    random = np.random.default_rng([seed, DAY_STREAM, day.toordinal()])
    step_hours = step_seconds / 3600
    edges = np.arange(86_400 // step_seconds + 1) * step_hours
    passed = np.empty((len(edges), len(sensors)))
    queued = np.empty((len(edges) - 1, len(sensors)), dtype=bool)
    for number, carriageway in enumerate(sensors.carriageways):
        passage = _passage(carriageway, day, random)
        for sensor in np.flatnonzero(sensors.carriageway == number):
            mile = float(sensors.milepost[sensor])
            passed[:, sensor], _ = passage.at(mile, edges)
            _, queued[:, sensor] = passage.at(mile, edges[:-1] + step_hours / 2)
    expected_flow = np.diff(passed, axis=0) / step_hours / sensors.lanes
    congested_density = np.maximum(JAM_DENSITY - expected_flow / WAVE_SPEED, CAPACITY / FREE_SPEED)
    expected_speed = np.where(queued, expected_flow / congested_density, FREE_SPEED) * sensors.speed_factor

    most = sensors.lanes * max(1, int(step_seconds / SHORTEST_HEADWAY_SECONDS))
    expected_count = expected_flow * step_hours * sensors.lanes
    count = random.binomial(most, np.clip(expected_count / most, 0.0, 1.0))
    spread = SPEED_SPREAD / np.sqrt(np.maximum(count, 1))
    speed = expected_speed * (1.0 + spread * random.standard_normal(count.shape))
    speed = np.clip(speed, LOWEST_SPEED, HIGHEST_SPEED)

    silent = (count == 0) | _drop_outs(len(sensors), edges[:-1], random)
    count[silent] = 0
    speed[silent] = 0.0
    hourly = count / step_hours
    density = np.divide(hourly, speed * sensors.lanes, out=np.zeros_like(speed), where=~silent)
    occupancy = np.minimum(density * sensors.effective_length / FEET_PER_MILE * 100.0, 100.0)
    midnight = np.datetime64(day, "s")
    return Day(
        times=midnight + np.arange(len(edges) - 1) * np.timedelta64(step_seconds, "s"),
        speed=np.round(speed, 1),
        volume=np.rint(hourly).astype(np.int64),
        occupancy=np.round(occupancy, 1),
        density=density,
    )


@dataclass(frozen=True)
class Passage:
    """Cumulative vehicles over a day at the two ends of a carriageway that decide all between them.

    `entered` and `released` count, at each hour of `clock`, those past its start and past its bottleneck.
    """

    carriageway: Carriageway
    clock: Floats
    entered: Floats
    released: Floats

    def at(self, mile: float, hours: Floats) -> tuple[Floats, NDArray[np.bool_]]:
        """Vehicles past a milepost by each of `hours`, and whether a queue stood there then."""
        ahead = self.carriageway.bottleneck - mile
        if ahead <= 0:
            passed = np.interp(hours + ahead / FREE_SPEED, self.clock, self.released)
            return passed, np.zeros(len(hours), dtype=bool)
        arrived = np.interp(hours - mile / FREE_SPEED, self.clock, self.entered)
        room = JAM_DENSITY * self.carriageway.road.lanes * ahead
        allowed = np.interp(hours - ahead / WAVE_SPEED, self.clock, self.released) + room
        return np.minimum(arrived, allowed), arrived > allowed


def _passage(carriageway: Carriageway, day: date, random: np.random.Generator) -> Passage:
    clock = np.arange(-WARM_UP_HOURS, 24 + 2 * MODEL_STEP_HOURS, MODEL_STEP_HOURS)
    weekdays = [(day + timedelta(days=offset)).weekday() for offset in (-1, 0, 1)]
    shares = np.concatenate([carriageway.demand(weekday) for weekday in weekdays])
    demand = np.interp(clock, np.arange(-24, 48), shares) * random.normal(1.0, DEMAND_WAVERING)
    capacity = carriageway.bottleneck_capacity * (1.0 + BOTTLENECK_WAVERING * _wavering(len(clock), random))
    entered = _cumulative(np.minimum(demand, 1.0) * carriageway.capacity)
    allowed = _cumulative(np.clip(capacity, 0.3 * carriageway.capacity, carriageway.capacity))
    arrived = np.interp(clock - carriageway.bottleneck / FREE_SPEED, clock, entered)
    # A queue that began at s has let through what had arrived by then and all the capacity since.
    released = allowed + np.minimum.accumulate(arrived - allowed)
    return Passage(carriageway, clock, entered, released)


def _wavering(length: int, random: np.random.Generator) -> Floats:
    """Smooth noise on the model's clock, of mean 0 and standard deviation 1."""
    width = BOTTLENECK_WAVERING_MINUTES / 60 / MODEL_STEP_HOURS
    reach = int(4 * width)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    kernel /= np.sqrt(np.sum(kernel**2))
    return np.convolve(random.standard_normal(length + 2 * reach), kernel, mode="valid")


def _cumulative(flow: Floats) -> Floats:
    return np.concatenate([[0.0], np.cumsum(flow[:-1])]) * MODEL_STEP_HOURS


def _drop_outs(sensors: int, hours: Floats, random: np.random.Generator) -> NDArray[np.bool_]:
    start = random.uniform(0.0, 24.0, sensors)
    end = start + random.exponential(DROP_OUT_HOURS, sensors)
    happens = random.random(sensors) < DROP_OUTS_A_DAY
    return happens & (hours[:, None] >= start) & (hours[:, None] < end)


def _course_miles(road: Road) -> Floats:
    """Miles from the first point of a road's course to each of its points."""
    latitude, longitude = np.array(road.course).T
    east = np.diff(longitude) * np.cos(np.radians(latitude[:-1]))
    return np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(latitude), east) * MILES_PER_DEGREE)])


def _position(carriageway: Carriageway, milepost: float) -> tuple[float, float]:
    """Latitude and longitude of a milepost, on the right-hand side of the road's centre."""
    road = carriageway.road
    miles = _course_miles(road)
    along = carriageway.direction == road.along
    mile = milepost if along else miles[-1] - milepost
    course = np.array(road.course)
    latitude, longitude = (float(np.interp(mile, miles, course[:, axis])) for axis in (0, 1))
    piece = min(max(int(np.searchsorted(miles, mile)) - 1, 0), len(miles) - 2)
    north, east = (course[piece + 1] - course[piece]) * (1 if along else -1)
    east *= np.cos(np.radians(latitude))
    aside = METERS_BETWEEN_DIRECTIONS / 2 / METERS_PER_DEGREE / np.hypot(north, east)
    return latitude - east * aside, longitude + north * aside / np.cos(np.radians(latitude))


def day_table(sensors: Sensors, day: Day) -> pa.Table:
    """A day's readings under the feed's COLUMNS, in time order, then sensor.

    The order and the types are those of the CSV; `timestamp` is timestamp[s] without a zone.
    """
    steps = len(day.times)

    def every_step(name: str) -> pa.Array:
        return pa.chunked_array([sensors.known[name].combine_chunks()] * steps).combine_chunks()

    columns = {name: every_step(name) for name in SENSOR_COLUMNS}
    columns["timestamp"] = pa.array(np.repeat(day.times, len(sensors)))
    columns["speed_mph"] = pa.array(day.speed.ravel())
    columns["volume_vph"] = pa.array(day.volume.ravel())
    columns["occupancy_percent"] = pa.array(day.occupancy.ravel())
    return pa.table({name: columns[name] for name in COLUMNS})


def write_sample(
    output: str,
    *,
    seed: int = 1,
    start: date = date(2012, 3, 1),
    days: int = 1,
    sensors: int = 207,
    step_seconds: int = 30,
    faults_of_each_kind: int = 3,
) -> dict[str, Any]:
    """Write traffic.csv, traffic.sensors.csv and traffic.manifest.json into the directory `output`.

    All three appear once all are whole, the manifest last. Memory holds one day. Returns the manifest, which
    says what was planted in which data row (the row after the header is 1) and what a correct job therefore
    accepts, drops as duplicates and sets aside.

    Raises ValueError for fewer than one sensor or day, a negative seed, a step that does not divide a day,
    days beyond the year 9999, or too few rows for the faults; OSError where the files cannot be written.
    """
    if days < 1:
        raise ValueError(f"days must be at least 1, not {days}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, not {seed}")
    if step_seconds < 1 or 86_400 % step_seconds:
        raise ValueError(f"step_seconds must divide a day of 86400 seconds, and {step_seconds} does not")
    try:
        start - timedelta(days=1), start + timedelta(days=days)  # the model looks a day further each way
    except OverflowError:
        raise ValueError(f"{days:,} days from {start} go beyond the calendar") from None
    placed = place_sensors(sensors, seed)
    rows_a_day = sensors * 86_400 // step_seconds
    plantings = Plantings.draw(
        TRAFFIC_FAULTS, rows=days * rows_a_day, rows_a_day=rows_a_day, copies=faults_of_each_kind, seed=seed
    )
    os.makedirs(output, exist_ok=True)
    manifest = {
        "feed": "traffic",
        "simulated": "Simulated by a traffic model; nothing of it was measured.",
        "seed": seed,
        "start": start.isoformat(),
        "days": days,
        "sensors": sensors,
        "step_seconds": step_seconds,
        "rows": days * rows_a_day,
        **plantings.manifest(),
    }
    with (
        whole_file(os.path.join(output, "traffic.manifest.json")) as manifest_file,
        whole_file(os.path.join(output, "traffic.sensors.csv")) as sensors_file,
        whole_file(os.path.join(output, "traffic.csv")) as file,
    ):
        manifest_file.write(to_json(manifest))
        sensors_file.write((",".join(SENSOR_COLUMNS) + "\n").encode())
        sensors_file.write(to_csv(placed.known))
        file.write((",".join(COLUMNS) + "\n").encode())
        for number in range(days):
            simulated = simulate_day(
                placed, start + timedelta(days=number), seed=seed, step_seconds=step_seconds
            )
            lines = to_csv(day_table(placed, simulated))
            file.writelines(plantings.planted(lines, first_row=1 + number * rows_a_day))
    return manifest
