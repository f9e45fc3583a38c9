"""Files that are whole as soon as they are visible, on any of Beam's file systems."""

from __future__ import annotations

import contextlib
import json
import os
import posixpath
import uuid
from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa
from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems

from transforms.errors import UserError


@contextlib.contextmanager
def whole_file(path: str) -> Iterator[BinaryIO]:
    """A local file, written piece by piece, that takes its name only once its last byte is on it."""
    unfinished = f"{path}.{os.getpid()}.unfinished"
    try:
        with open(unfinished, "wb") as file:
            yield file
        os.replace(unfinished, path)
    except BaseException:
        if os.path.exists(unfinished):
            os.unlink(unfinished)
        raise


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
        FileSystems.rename([hidden], [path])
    except (OSError, BeamIOError) as error:
        with contextlib.suppress(OSError, BeamIOError):
            FileSystems.delete([hidden])
        raise UserError(f"{path}: cannot be written: {error}") from error
    return len(content)


def publish_json(path: str, content: dict) -> int:
    """Writes the content as indented JSON; see `publish`."""
    return publish(path, json.dumps(content, indent=2).encode() + b"\n")


def read_json(path: str) -> dict[str, Any]:
    """The file's content."""
    with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
        return json.loads(file.read())


def delete(root: str, paths: set[str]) -> None:
    """Deletes those of the paths below the root that are still there."""
    full = [FileSystems.join(root, *path.split(posixpath.sep)) for path in sorted(paths)]
    FileSystems.delete([path for path in full if FileSystems.exists(path)])
