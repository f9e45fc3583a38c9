"""Files that are whole as soon as they are visible, on any of Beam's file systems."""

from __future__ import annotations

import contextlib
import json
import posixpath
import re
import uuid
from typing import Any

import pyarrow as pa
from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems

from transforms.errors import UserError


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
        _rename(hidden, path)
    except (OSError, BeamIOError) as error:
        with contextlib.suppress(OSError, BeamIOError):
            FileSystems.delete([hidden])
        raise UserError(f"{path}: cannot be written: {error}") from error
    return len(content)


def _rename(hidden: str, path: str) -> None:
    try:
        FileSystems.rename([hidden], [path])
    except BeamIOError:
        if FileSystems.get_scheme(path) != "hdfs" or not FileSystems.exists(path):
            raise
        FileSystems.delete([path])  # Beam's HDFS does not rename onto a file that is there
        FileSystems.rename([hidden], [path])


def publish_json(path: str, content: dict) -> int:
    """Writes the content as indented JSON; see `publish`."""
    return publish(path, json.dumps(content, indent=2).encode() + b"\n")


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
