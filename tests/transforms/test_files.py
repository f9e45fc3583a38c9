from __future__ import annotations

import threading
from pathlib import Path

import pyarrow as pa
import pytest
from apache_beam.internal import pickler
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.options.value_provider import RuntimeValueProvider
from apache_beam.transforms.display import DisplayData
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.errors import UserError
from transforms.files import FileDoFn, files_below, publish, publish_json, read_json
from transforms.local_files import whole_file


def everything_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_publish_makes_the_folders_and_says_how_many_bytes_it_wrote(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c.bin"
    assert publish(str(path), b"12345") == 5
    assert path.read_bytes() == b"12345"
    assert everything_in(tmp_path) == ["a", "a/b", "a/b/c.bin"]


def test_publish_replaces_a_file_of_that_name(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    publish(str(path), b"first and longer")
    assert publish(str(path), pa.py_buffer(b"second")) == 6
    assert path.read_bytes() == b"second"
    assert everything_in(tmp_path) == ["x.parquet"]


@pytest.mark.parametrize("name", ["data.csv.gz", "data.bz2", "data.zst", "with space [1] é.parquet"])
def test_publish_writes_the_bytes_as_they_are_whatever_the_name(tmp_path: Path, name: str) -> None:
    publish(str(tmp_path / name), b"plain")
    assert (tmp_path / name).read_bytes() == b"plain"


def test_a_reader_sees_the_old_file_or_the_new_one_and_nothing_between(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    contents = [bytes([letter]) * 1_000_000 for letter in b"ab"]
    publish(str(path), contents[0])
    done = threading.Event()
    torn: list[int] = []

    def read() -> None:
        while not done.is_set():
            if (seen := path.read_bytes()) not in contents:
                torn.append(len(seen))

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(60):
        publish(str(path), contents[turn % 2])
    done.set()
    reader.join()
    assert torn == []


def test_what_cannot_be_written_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    path = tmp_path / "file" / "x.parquet"
    with pytest.raises(UserError, match=f"{path}: cannot be written"):
        publish(str(path), b"x")
    assert everything_in(tmp_path) == ["file"]


def test_a_write_that_fails_at_the_last_step_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "x.parquet" / "in the way").mkdir(parents=True)
    with pytest.raises(UserError, match=r"x\.parquet: cannot be written"):
        publish(str(tmp_path / "x.parquet"), b"x")
    assert everything_in(tmp_path) == ["x.parquet", "x.parquet/in the way"]


def test_a_file_written_piece_by_piece_has_no_name_before_its_end(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    with whole_file(str(path)) as file:
        file.write(b"12")
        file.flush()
        assert not path.exists()
        file.write(b"3")
    assert path.read_bytes() == b"123"
    assert everything_in(tmp_path) == ["x.bin"]


def test_a_file_whose_writing_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), whole_file(str(path)) as file:
        file.write(b"new")
        raise ZeroDivisionError
    assert path.read_bytes() == b"old"
    assert everything_in(tmp_path) == ["x.bin"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_json_comes_back(tmp_path_factory: pytest.TempPathFactory, content: dict) -> None:
    path = tmp_path_factory.mktemp("json") / "summary.json"
    assert publish_json(str(path), content) == path.stat().st_size
    assert read_json(str(path)) == content


@pytest.mark.parametrize("name", ["out", "out [1]", "out*"])
def test_files_below_a_root_are_those_that_match_whatever_the_root_is_called(
    name: str, tmp_path: Path
) -> None:
    root = tmp_path / name
    for path in ("a/x.parquet", "a/y.parquet", "b/x.csv"):
        publish(str(root / path), b"")
    assert files_below(str(root), "*/*.parquet") == {str(root / "a/x.parquet"), str(root / "a/y.parquet")}
    assert files_below(str(root), "c/*") == set()


def test_a_step_that_touches_files_brings_the_options_of_file_systems_and_shows_none_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    FileSystems.set_options(None)  # as in a worker that Beam told nothing
    monkeypatch.setattr(RuntimeValueProvider, "runtime_options", None)
    with pytest.raises(ValueError, match="pipeline_options is not set"):
        FileSystems.get_filesystem("hdfs://a")
    flags = ["--hdfs_host=h", "--hdfs_port=1", "--hdfs_user=u", "--s3_secret_access_key=hidden"]
    step = FileDoFn(PipelineOptions(flags))
    pickler.loads(pickler.dumps(step)).setup()
    assert FileSystems.get_filesystem("hdfs://a").scheme() == "hdfs"
    shown = [each.get_dict() for each in DisplayData.create_from(step).items]
    assert "hidden" not in f"{step} {step!r} {shown}"
