"""What holds for every feed, from its declaration and its sample alone."""

from __future__ import annotations

import importlib
import json
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import pytest
from confluent_kafka import Producer

from pipelines.replay import __main__ as replay
from pipelines.sample.samples import SAMPLES
from runners.local import KafkaBroker
from schemas.feed import DateAndTime, Feed
from schemas.feeds import FEEDS
from tests.stream_jobs import job, rows, wait_for
from transforms.batches import concatenate
from transforms.csv_files import find_blocks, read_block
from transforms.decode_csv import decode_csv
from transforms.json_messages import to_json
from transforms.messages import to_messages
from transforms.rules import validate

ROOT = Path(__file__).parents[2]
SIZES: dict[str, dict[str, Any]] = {
    "traffic": {"sensors": 8, "step_seconds": 60},
    "detections": {"vehicles": 2},
    "air_quality": {},
}
SQL = {
    "count": "count(*)",
    "missing_count": "count(*) - count({0})",
    "mean": "avg({0})",
    "minimum": "min({0})",
    "maximum": "max({0})",
    "variance": "var_pop({0})",
    "percentile_85": "quantile_cont({0}, 0.85)",
    "distinct_count": "count(distinct ({columns}))",
}
AHEAD_MICROS, LATER = 5 * 86_400_000_000, 200


@dataclass(frozen=True)
class Case:
    """A feed with a sample of it, in files of its own."""

    feed: Feed
    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / f"{self.feed.name}.csv"

    @property
    def manifest(self) -> dict[str, Any]:
        return json.loads((self.folder / f"{self.feed.name}.manifest.json").read_text())

    @property
    def options(self) -> list[str]:
        """What a run on the sample needs beside the file."""
        run = SAMPLES[self.feed.name].run.items()
        return [f"--{name}={self.folder / v if isinstance(v, str) else v}" for name, v in run]

    def run(self, output: Path, *arguments: str) -> dict[str, Any]:
        """Runs the feed's main on its sample unless told otherwise; returns the summary."""
        main = importlib.import_module(f"pipelines.{self.feed.name}").main
        source = arguments or (f"--input={self.file}",)
        assert main([*source, *self.options, f"--output={output}"]) == 0
        return json.loads((output / "summary.json").read_text())


@pytest.fixture(scope="module", params=SAMPLES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    name = request.param
    folder = tmp_path_factory.mktemp(name)
    SAMPLES[name].write(str(folder), start=SAMPLES[name].start, faults_of_each_kind=1, **SIZES[name])
    return Case(FEEDS[name], folder)


@pytest.fixture(scope="module")
def batch(case: Case) -> Path:
    """The output of a run on the sample."""
    case.run(case.folder / "batch")
    return case.folder / "batch"


def table(output: Path, kind: str) -> pa.Table:
    """All rows of a kind of output, as any reader of the folder sees them."""
    return pyarrow.dataset.dataset(output / kind, format="parquet").to_table()


def kinds(feed: Feed) -> dict[str, str]:
    """The tables of readings, windows and sessions, and the column that says of when a row is."""
    sessions = {f"processed/{each.name}": "session_start" for each in feed.session_tables}
    return {"raw": feed.event_time, "processed/aggregates": "window_start", **sessions}


def test_every_feed_has_a_sample_to_be_tried_with() -> None:
    assert set(SAMPLES) == set(FEEDS) == set(SIZES)


def declared_options(feed: Feed) -> set[str]:
    """The options that a feed's fields name."""
    return {name for field in feed.fields for name in (field.option, field.known_option) if name}


def test_help_offers_what_the_feed_declares_and_nothing_of_other_feeds(
    case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        importlib.import_module(f"pipelines.{case.feed.name}").main(["--help"])
    offered = set(re.findall(r"^  --([a-z_]+)", capsys.readouterr().out, re.MULTILINE))
    named = {option for field in case.feed.fields for option in (field.option, field.known_option)} - {None}
    of_any = {
        o for feed in FEEDS.values() for field in feed.fields for o in (field.option, field.known_option)
    }
    assert offered & of_any == named
    assert ("zero_speed" in offered) == any(field.zero_can_mean_missing for field in case.feed.fields)
    assert ("train" in offered) == bool(case.feed.any_of)


def test_bounds_that_cannot_be_read_are_told_with_a_field_of_the_feed(
    case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        importlib.import_module(f"pipelines.{case.feed.name}").main(["--bounds", "nonsense"])
    (said,) = capsys.readouterr().err.splitlines()
    (example,) = re.findall(r"'nonsense' is not of the form (\w+)=-?[\d.]*:", said)
    assert case.feed.field(example).is_number


def test_what_was_planted_is_found_with_its_bytes_place_and_rules(case: Case, batch: Path) -> None:
    summary, manifest = json.loads((batch / "summary.json").read_text()), case.manifest
    assert summary["balanced"] and summary["read"] == manifest["rows"]
    for name in ("accepted", "duplicates", "dead_letters"):
        assert summary[name] == manifest[name], name
    letters = {each["position"]: each for each in table(batch, "dead_letters").to_pylist()}
    planted = {each["row"]: each for each in manifest["faults"]}
    assert letters.keys() == planted.keys()
    lines = case.file.read_bytes().split(b"\n")
    for row, letter in letters.items():
        assert (letter["reason"], letter["stage"]) == (planted[row]["reason"], planted[row]["stage"])
        assert letter["rules"] == planted[row]["rules"]
        assert letter["value"].rstrip(b"\r\n") == lines[row].rstrip(b"\r")
        assert (letter["source"], letter["feed"]) == (str(case.file), case.feed.name)
    repeated = {each["row"] for each in manifest["duplicate_rows"]}
    kept = set(range(1, manifest["rows"] + 1)) - letters.keys() - repeated
    assert set(table(batch, "raw")["position"].to_pylist()) == kept


def test_a_sound_row_is_read_as_duckdb_reads_it(case: Case, tmp_path: Path) -> None:
    feed, dialect = case.feed, case.feed.dialect
    size = {name: value for name, value in SIZES[feed.name].items() if name != "days"}
    SAMPLES[feed.name].write(str(tmp_path), start=SAMPLES[feed.name].start, faults_of_each_kind=0, **size)
    plain = Case(feed, tmp_path)
    plain.run(tmp_path / "out")
    con = duckdb.connect()
    header = con.sql(f"from read_csv('{plain.file}', delim='{dialect.delimiter}', all_varchar=true)").columns
    fields = [
        field
        for field in feed.fields
        if not isinstance(field.made_of, DateAndTime) and set(feed.columns_of(field)) & set(header)
    ]
    numbers = {feed.columns_of(field)[0]: "double" for field in fields if field.is_number}
    text: pa.Table = con.execute(
        f"""select {", ".join(f'"{feed.columns_of(field)[0]}" as {field.name}' for field in fields)}
        from read_csv('{plain.file}', delim='{dialect.delimiter}', types={numbers}, null_padding=true,
            decimal_separator='{dialect.decimal_point}')"""
    ).to_arrow_table()
    accepted = table(tmp_path / "out", "raw").sort_by("position")
    text = text.take(pc.subtract(accepted["position"].combine_chunks(), 1))
    for field in fields:
        ours, theirs = accepted[field.name].to_pylist(), text[field.name].to_pylist()
        if field.missing_value is not None:
            theirs = [None if value == field.missing_value else value for value in theirs]
        if field.is_number:
            assert ours == theirs, field.name
        elif field.type == pa.string() or pa.types.is_dictionary(field.type):
            assert ours == [value or None for value in theirs], field.name


def test_the_windows_figures_are_those_that_duckdb_finds_in_the_readings(case: Case, batch: Path) -> None:
    feed = case.feed
    checked = [each for each in feed.aggregates if each.function in SQL]
    wanted = ", ".join(
        f"{SQL[each.function].format(*each.fields, columns=', '.join(each.fields))} as {each.name}"
        for each in checked
    )
    key = ", ".join([feed.key, *feed.per])
    con = duckdb.connect()
    con.sql("set timezone = 'UTC'")
    expected = con.sql(
        f"""select {key}, time_bucket(interval {feed.window_seconds} second, {feed.event_time},
            timestamptz 'epoch') as window_start, {wanted}
        from read_parquet('{batch}/raw/**/*.parquet', hive_partitioning=false) group by all order by all"""
    ).fetchall()
    names = ", ".join(each.name for each in checked)
    aggregates = f"read_parquet('{batch}/processed/aggregates/**/*.parquet', hive_partitioning=false)"
    found = con.sql(f"select {key}, window_start, {names} from {aggregates} order by all").fetchall()
    assert len(found) == len(expected) > 0
    for ours, theirs in zip(found, expected, strict=True):
        for mine, its in zip(ours, theirs, strict=True):
            if isinstance(mine, float) and isinstance(its, float):
                assert math.isclose(mine, its, rel_tol=1e-9, abs_tol=1e-9)
            else:
                assert mine == its


def contents(output: Path) -> dict[str, bytes]:
    """The files of readings and figures that a reader sees; a dead letter says when it failed."""
    files = (path for kind in ("raw", "processed") for path in (output / kind).rglob("[!.]*"))
    return {str(path.relative_to(output)): path.read_bytes() for path in files if path.is_file()}


def test_a_run_that_was_killed_and_one_that_was_not_end_with_the_same_bytes(
    case: Case, batch: Path, tmp_path: Path
) -> None:
    reference = contents(batch)
    case.run(batch)
    assert contents(batch) == reference
    output = tmp_path / "out"
    command = [sys.executable, "-m", f"pipelines.{case.feed.name}", f"--input={case.file}", *case.options]
    process = subprocess.Popen(
        [*command, f"--output={output}"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for(lambda: any(output.rglob("*.parquet")) or process.poll() is not None, "a first file")
    process.send_signal(signal.SIGKILL)
    process.wait()
    case.run(output)
    assert contents(output) == reference


def assert_same_tables(case: Case, streamed: Path, batch: Path) -> None:
    """The rows of the sample are the same wherever they were read from."""
    feed = case.feed
    made = {feed.ingestion_time, *({feed.identifier} - set(feed.distinct))}
    fields = [field.name for field in feed.fields if field.name not in made]
    end = pc.max(table(batch, "raw")[feed.event_time])
    for kind, time in kinds(feed).items():
        ours, theirs = (table(output, kind) for output in (streamed, batch))
        names = (
            fields
            if kind == "raw"
            else [name for name in theirs.column_names if name not in ("pane", "revision")]
        )
        by = [(name, "ascending") for name in names]
        ours = ours.filter(pc.less_equal(ours[time], end))
        ours, theirs = (each.select(names).sort_by(by).combine_chunks() for each in (ours, theirs))
        assert ours.num_rows == theirs.num_rows > 0, kind
        assert ours.equals(theirs), kind


@pytest.fixture
def replayed(case: Case, kafka: KafkaBroker, new_topic: Callable[..., str], tmp_path: Path) -> list[str]:
    """The options that read a topic which the sample was replayed to."""
    topic = new_topic(1)
    source = [f"--topic={topic}", f"--bootstrap_servers={kafka.bootstrap_servers}"]
    letters = [f"--dead_letters={tmp_path / 'letters.parquet'}"]
    assert replay.main([case.feed.name, f"--input={case.file}", *source, *letters]) == 0
    return source


def test_a_topic_read_to_its_end_gives_what_batch_gives(
    case: Case, batch: Path, replayed: list[str], tmp_path: Path
) -> None:
    summary = case.run(tmp_path / "topic", *replayed)
    assert summary["balanced"]
    assert_same_tables(case, tmp_path / "topic", batch)


def later(case: Case) -> Iterator[str]:
    """The last readings once more, days after: they carry the watermark past all windows."""
    raw = case.feed.as_raw
    records = next(read_block(next(iter(find_blocks(str(case.file), raw)))))[0]
    accepted = validate(decode_csv(records.slice(records.num_rows - LATER), raw)[0], raw)[0]
    messages = to_messages(concatenate([accepted]), raw)
    times = messages[raw.event_time].cast(pa.int64()).to_numpy()
    columns = {name: messages[name] for name in messages.schema.names}
    columns[raw.event_time] = pa.array(times + AHEAD_MICROS, messages[raw.event_time].type)
    yield from to_json(pa.RecordBatch.from_pydict(columns, schema=messages.schema)).to_pylist()


def test_a_stream_on_flink_gives_what_batch_gives(
    case: Case, batch: Path, kafka: KafkaBroker, replayed: list[str], tmp_path: Path
) -> None:
    topic = replayed[0].partition("=")[2]
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "enable.idempotence": True})
    for text in later(case):
        producer.produce(topic, text)
    assert producer.flush(30) == 0
    output = tmp_path / "stream"
    options = [replayed[0], "--out_of_orderness_seconds=3600", "--idle_seconds=1", *case.options]
    end = pc.max(table(batch, "raw")[case.feed.event_time]).as_py()
    with job(kafka, output, *options, program=f"pipelines.{case.feed.name}"):
        for kind, time in kinds(case.feed).items():
            number = table(batch, kind).num_rows
            of_sample = f"count(*) filter ({time} <= '{end.isoformat()}')"
            wait_for(lambda: rows(output, kind, of_sample) >= [(number,)], f"all of {kind}")  # noqa: B023
    assert_same_tables(case, output, batch)
