"""Files that are whole as soon as they are visible, on any of Beam's file systems."""

from __future__ import annotations

import contextlib
import json
import posixpath
import re
import uuid
from collections.abc import Iterable
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from transforms.errors import UserError, file_errors


class FileDoFn(beam.DoFn):
    """A step that touches files: it brings the pipeline's options of file systems to its worker.

    Beam itself tells them only to the workers of its containers, not to those that a worker pool starts.
    """

    def __init__(self, options: PipelineOptions) -> None:
        self.options = options

    def setup(self) -> None:
        FileSystems.set_options(self.options)


def publish(path: str, content: pa.Buffer | bytes) -> int:
    """Writes the file under a hidden name beside it, then renames it; returns its bytes.

    Replaces a file of that name. UserError when it cannot be written.
    """
    folder, name = FileSystems.split(path)
    hidden = FileSystems.join(folder, f".{name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with FileSystems.create(
            hidden, mime_type="application/octet-stream", compression_type=CompressionTypes.UNCOMPRESSED
        ) as file:
            file.write(content)
        rename(hidden, path)
    except file_errors(path) as error:
        with contextlib.suppress(*file_errors(path)):
            FileSystems.delete([hidden])
        raise UserError(f"{path}: cannot be written: {error}") from error
    return len(content)


def rename(path: str, new: str) -> None:
    """Gives a file another name, replacing what bears it. OSError or BeamIOError when that cannot be."""
    if FileSystems.get_scheme(path) == "hdfs":
        _rename_on_hdfs(path, new)
    else:
        FileSystems.rename([path], [new])


def _rename_on_hdfs(path: str, new: str) -> None:
    """Replaces in one step, which WebHDFS can and Beam's rename does not ask for."""
    from hdfs import HdfsError  # an extra

    file_system: Any = FileSystems.get_filesystem(path)
    source, destination = (file_system._parse_url(url)[1] for url in (path, new))
    try:
        file_system._hdfs_client._rename(source, destination=destination, renameoptions="OVERWRITE")
    except HdfsError as error:
        raise BeamIOError(f"{new}: {error}") from error


def publish_json(path: str, content: dict) -> int:
    """Writes the content as indented JSON; see `publish`."""
    return publish(path, json.dumps(content, indent=2).encode() + b"\n")


def discard(paths: Iterable[str]) -> None:
    """Deletes files, one after another; one that is gone already is no error."""
    for path in paths:
        try:
            FileSystems.delete([path])
        except BeamIOError:
            if FileSystems.exists(path):
                raise


def read_file(path: str) -> bytes | None:
    """The file's bytes; None when there is no such file, also when it goes while it is looked for."""
    if not FileSystems.exists(path):
        return None
    try:
        with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
            return file.read()
    except file_errors(path):
        if FileSystems.exists(path):
            raise
        return None


def read_json(path: str) -> dict[str, Any]:
    """The file's content."""
    with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
        return json.loads(file.read())


def files_below(root: str, pattern: str) -> set[str]:
    """The files below the root whose path there matches the glob, whatever characters the root has."""
    parts = pattern.split(posixpath.sep)
    if FileSystems.get_scheme(root) != "hdfs":
        return _matching(FileSystems.join(_literal(root), *parts))
    folders = {
        root
    }  # Beam's HDFS matches a glob in the last part of a path only, and no folder may be missing
    for part in parts:
        present = {folder for folder in folders if FileSystems.exists(folder)}
        folders = set().union(*(_matching(FileSystems.join(_literal(folder), part)) for folder in present))
    return folders


def _literal(path: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", path)


def _matching(pattern: str) -> set[str]:
    (match,) = FileSystems.match([pattern])
    return {file.path for file in match.metadata_list}
