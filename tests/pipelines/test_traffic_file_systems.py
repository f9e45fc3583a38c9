"""The job from and to file systems that are not local: a real HDFS, and a local S3 server."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions
from botocore.exceptions import ClientError
from hdfs import HdfsError
from moto.server import ThreadedMotoServer

from pipelines import compact, traffic
from runners.local import FlinkCluster, HdfsCluster
from schemas.traffic import TRAFFIC
from tests.rows import accepted, micros
from tests.stream_jobs import READS, job, reading, send, wait_for
from transforms.csv_files import find_blocks, open_block, read_block
from transforms.errors import UserError
from transforms.files import files_below
from transforms.merged_files import MergePanes, _WritePanes

HEADER = "sensor_id,timestamp,speed_mph\n"
BUCKET = "s3://readings"


@pytest.fixture(scope="module")
def s3_flags() -> Iterator[list[str]]:
    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host.replace('0.0.0.0', '127.0.0.1')}:{port}"
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=url, **keys).create_bucket(Bucket="readings")
    yield [
        f"--s3_endpoint_url={url}",
        "--s3_access_key_id=test",
        "--s3_secret_access_key=test",
        "--s3_region_name=us-east-1",
    ]
    server.stop()


@pytest.fixture(params=["hdfs", "s3"])
def elsewhere(request: pytest.FixtureRequest) -> Iterator[tuple[str, list[str]]]:
    """(the root of a file system, the flags that reach it)"""
    if request.param == "hdfs":
        cluster: HdfsCluster = request.getfixturevalue("hdfs")
        yield "hdfs://readings", cluster.hdfs_flags
    else:
        yield BUCKET, request.getfixturevalue("s3_flags")


def write(path: str, text: str) -> None:
    if FileSystems.exists(path):
        FileSystems.delete([path])
    with FileSystems.create(path) as file:
        file.write(text.encode())


def read(path: str) -> bytes:
    with FileSystems.open(path) as file:
        return file.read()


def parquet_rows(root: str, summary: dict, folder: str) -> list[dict]:
    paths = [f"{root}/{path}" for path in summary["output_files"] if path.startswith(folder)]
    return [row for path in paths for row in pq.read_table(pa.BufferReader(read(path))).to_pylist()]


def test_files_come_from_and_go_to_another_file_system_and_a_second_run_replaces_them(elsewhere):
    root, flags = elsewhere
    FileSystems.set_options(PipelineOptions(flags))
    write(f"{root}/in/a.csv", HEADER + "a,2012-03-01 00:00,50\na,2012-03-02 00:00,60\nb,never,70\n")
    arguments = ["--input", f"{root}/in/*.csv", "--output", f"{root}/out", *flags]
    for _ in range(2):
        assert traffic.main(arguments) == 0
        summary = json.loads(read(f"{root}/out/summary.json"))
        assert (summary["accepted"], summary["dead_letters"]) == (2, {"timestamp_unparsable": 1})
        assert [row["speed_mph"] for row in parquet_rows(f"{root}/out", summary, "raw")] == [50, 60]
        assert len(parquet_rows(f"{root}/out", summary, "processed/aggregates")) == 2
        (letter,) = parquet_rows(f"{root}/out", summary, "dead_letters")
        assert letter["value"] == b"b,never,70"
    write(f"{root}/in/a.csv", HEADER + "a,2012-03-01 00:00,50\n")
    assert traffic.main(arguments) == 0
    written = json.loads(read(f"{root}/out/summary.json"))["output_files"]
    assert len(written) == 2
    for stale in set(summary["output_files"]) - set(written):
        assert not FileSystems.exists(f"{root}/out/{stale}")


def test_what_hdfs_refuses_is_one_line_and_status_2(hdfs: HdfsCluster, tmp_path, capfd):
    FileSystems.set_options(PipelineOptions(hdfs.hdfs_flags))
    write("hdfs://readings/file", HEADER + "a,2012-03-01 00:00,50\n")
    arguments = ["--input", "hdfs://readings/file", *hdfs.hdfs_flags]
    below_a_file = "hdfs://readings/file/out"
    for refused in (["--output", below_a_file], ["--output", str(tmp_path), "--sensors", below_a_file]):
        assert traffic.main([*arguments, *refused]) == 2
        said = [line for line in capfd.readouterr().err.splitlines() if "INFO" not in line]
        assert [line.partition(": cannot be")[0] for line in said] == [f"error: {refused[-2]} {below_a_file}"]


def test_what_cannot_be_read_there_is_an_error_in_words(elsewhere):
    root, flags = elsewhere
    FileSystems.set_options(PipelineOptions(flags))
    for look in (find_blocks, open_block):
        with pytest.raises(UserError, match=f"^{root}/none.csv: cannot be read: "):
            list(look(f"{root}/none.csv", TRAFFIC) or ())
    write(f"{root}/cut/a.csv", HEADER + "a,2012-03-01 00:00,50\n")
    (block,) = find_blocks(f"{root}/cut/a.csv", TRAFFIC)
    FileSystems.delete([block.path])
    with pytest.raises(UserError, match=f"^{block.path}: "):
        list(read_block(block))


def test_workers_in_a_pool_of_a_cluster_reach_them_too(
    flink_cluster: FlinkCluster, hdfs: HdfsCluster, s3_flags: list[str]
) -> None:
    """Beam gives such workers no options. A batch reads from HDFS and writes to S3, shuffles side by side."""
    flags = [*hdfs.hdfs_flags, *s3_flags]
    FileSystems.set_options(PipelineOptions(flags))
    write("hdfs://readings/pool/a.csv", HEADER + "a,2012-03-01 00:00,50\na,2012-03-02 00:00,60\nb,never,70\n")
    root = f"{BUCKET}/pool"
    where = ["--input", "hdfs://readings/pool/a.csv", "--output", root]
    assert traffic.main([*where, *flink_cluster.flags, *flags]) == 0
    summary = json.loads(read(f"{root}/summary.json"))
    assert summary["balanced"] and summary["read"] == 3
    assert [row["speed_mph"] for row in parquet_rows(root, summary, "raw")] == [50, 60]
    (letter,) = parquet_rows(root, summary, "dead_letters")
    assert letter["value"] == b"b,never,70"


def write_panes(root: str, folder: str, *times: str) -> None:
    """A reading at each of those times, and a pane of its window for each."""
    files = MergePanes(root, folder, "traffic", "timestamp", 300, 3600, ["sensor_id", "timestamp"])
    writer = _WritePanes(files, PipelineOptions([]))
    writer.start_bundle()
    for time in times:
        writer.process((0, accepted({"timestamp": micros(time)})))
    writer.finish_bundle()


def hours(root: str) -> list[int]:
    """The hours of all readings."""
    tables = [pq.read_table(pa.BufferReader(read(path))) for path in files_below(root, "raw/*/*/*/*.parquet")]
    return sorted(row["timestamp"].hour for row in pa.concat_tables(tables).to_pylist())


def test_files_are_compacted_there_and_brought_up_to_date_afterwards(elsewhere):
    root, flags = elsewhere
    root += "/stream"
    FileSystems.set_options(PipelineOptions(flags))
    write_panes(root, "raw", *(f"2012-03-01T{hour:02}:00" for hour in range(3)))
    write_panes(root, "processed/aggregates", "2012-03-02T05:00")
    assert len(files_below(root, "raw/*/*/*/*")) == 3
    assert compact.main(["traffic", "--output", root, *flags]) == 0
    assert [path.rpartition("/")[2] for path in files_below(root, "raw/*/*/*/*")] == [
        "traffic-compacted-000.parquet"
    ]
    assert hours(root) == [0, 1, 2]
    write_panes(root, "raw", "2012-03-01T01:00")
    assert hours(root) == [0, 1, 2]
    assert len(files_below(root, "raw/*/*/*/*")) == 1
    left = (files_below(root, f".compacting/*/*/*/*/{each}") for each in ("claim", "*/*"))
    assert not set().union(*left)


def table(root: str, kind: str) -> list[dict]:
    """All rows of a kind of output, as a reader sees them now.

    Beam asks for a file's length, and then for its bytes, piece by piece on HDFS. When it was replaced in
    between that is an error, or what comes is no file: read again.
    """
    paths = files_below(root, f"{kind}/year=*/month=*/day=*/*.parquet")
    for _ in range(READS):
        with contextlib.suppress(HdfsError, ClientError, pa.ArrowInvalid):
            return [row for path in paths for row in pq.read_table(pa.BufferReader(read(path))).to_pylist()]
    raise AssertionError(f"{kind} was replaced {READS} times while it was read")


def test_the_files_of_a_stream_grow_there(elsewhere, kafka, new_topic, tmp_path):
    """On time, then one late: the file that holds the window is replaced, and its rows are there once."""
    root, flags = elsewhere
    root, topic = f"{root}/growing", new_topic(1)
    FileSystems.set_options(PipelineOptions(flags))
    arguments = ["--topic", topic, "--shards=1", "--out_of_orderness_seconds=30", "--output", root, *flags]
    with job(kafka, tmp_path / "out", *arguments):
        send(kafka, topic, [(0, reading("a", second, 40)) for second in (0, 60, 400, 401)])
        wait_for(lambda: len(table(root, "raw")) == 2, "the first window is out")
        send(kafka, topic, [(0, reading("a", 30, 70)), (0, b"{")])
        send(kafka, topic, [(0, reading("a", second, 60)) for second in (900, 901)])
        wait_for(lambda: len(table(root, "raw")) == 5, "the late row and the second window")
        wait_for(lambda: len(table(root, "processed/aggregates")) == 2, "the aggregates of both")
        wait_for(lambda: files_below(root, "dead_letters/*/*.parquet"), "the dead letter")
    assert sorted(row["position"] for row in table(root, "raw")) == [0, 1, 2, 3, 4]
    assert sorted(
        (row["message_count"], row["avg_speed"], row["pane"]) for row in table(root, "processed/aggregates")
    ) == [
        (2, 40, "on time"),
        (3, 50, "late"),
    ]
    assert len(files_below(root, "raw/*/*/*/*")) == 1
