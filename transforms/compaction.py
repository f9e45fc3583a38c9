"""Compaction: the many small files of a closed folder become few, while a job writes and readers read.

A folder is compacted once. The parts of one writer, a shard or a topic's partition, become one file; from
then on that writer brings the one file up to date. Who writes wins: a compaction is claimed before the first
part is read, and a writer withdraws the claim after its own write. So no row is lost, in whatever order the
two act or are killed.

What a reader sees, who lists a folder and then opens what was listed:

- On a local disk of Linux the folder and its compacted twin change places in one step. A listing has the
  parts or the compacted files, never both and never neither; a part that is opened after that step is not
  found, and listing again is the remedy.
- Elsewhere (HDFS, object stores) no step changes several names. A compacted file appears, and then its parts
  go, so that a listing in between has rows twice, each with the same source, partition and position. Rows are
  never missing. A compaction killed in between leaves it so until it is run again.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import sys
import uuid
from collections import defaultdict
from collections.abc import Iterable, Sequence

import pyarrow as pa
from apache_beam.io.filesystems import FileSystems

from transforms.errors import UserError
from transforms.files import discard, files_below, publish, read_file, rename
from transforms.parquet import read_parquet, sorted_parquet

CLAIMS = ".compacting"
STRETCH = re.compile(r"-(\d{8}T\d{6}(?=-\d{3,4}\.parquet$)|\d{8}(?=\.parquet$))")
UNFINISHED = re.compile(r"\..+\.tmp")
AT_FDCWD, RENAME_EXCHANGE = -100, 2


class Withdrawn(Exception):
    """A job wrote to the folder meanwhile, or another compaction took it over: what was not done is left."""


def compacted_path(path: str) -> str:
    """The file that a part goes into: the part's name without its stretch of time or offsets.

    >>> compacted_path("traffic-20120301T050000-003.parquet")
    'traffic-compacted-003.parquet'
    >>> compacted_path("traffic-t-00001-00000012.parquet")
    'traffic-t-00001-compacted.parquet'
    """
    return STRETCH.sub("-compacted", path)


def stretch_of(path: str) -> str | None:
    """The stretch that a part's name tells; None for a file that is no part of a stream's output."""
    found = STRETCH.search(path)
    return found and found[1]


def withdraw(root: str, folder: str) -> None:
    """Whatever compaction of the folder is under way, or was killed, can no longer change anything there."""
    claim = _claim(root, folder)
    if _is_local(root):
        aside = f"{claim}.{uuid.uuid4().hex[:8]}"
        try:
            os.rename(claim, aside)  # all at once: half of what is staged must not be published
        except FileNotFoundError:
            return
        shutil.rmtree(aside)
    elif FileSystems.exists(FileSystems.join(claim, "claim")):
        discard([FileSystems.join(claim, "claim")])
        discard(files_below(root, f"{CLAIMS}/{folder}/*/*"))


def sweep(root: str, folders: str) -> None:
    """Withdraws what killed compactions have left of the folders that match the glob."""
    for claim in files_below(root, f"{CLAIMS}/{folders}/claim"):
        withdraw(root, claim.removeprefix(FileSystems.join(root, CLAIMS, "")).rpartition("/")[0])
    discard(files_below(root, f"{CLAIMS}/{folders}/*/*"))


def compact(root: str, folder: str, pattern: str, sort_by: Sequence[str]) -> tuple[int, int]:
    """Merges the parts in the folder whose names match; returns how many files there were and are.

    `sort_by` names columns that together tell any two rows apart.
    A part whose compacted file is there already is left over from a compaction that was killed: it goes when
    its rows are all in that file, and stays when not, for then a job is about to write them again. Withdrawn
    when a job writes to the folder meanwhile. UserError when something cannot be written.
    """
    token = uuid.uuid4().hex
    withdraw(root, folder)
    publish(FileSystems.join(_claim(root, folder), "claim"), token.encode())
    try:
        before = files_below(root, f"{folder}/{pattern}")
        parts = _parts(before)
        staged = [merged for merged in parts if merged not in before]
        for merged in staged:
            table = pa.concat_tables(map(_read, parts[merged]), promote_options="default")
            publish(_staged(root, folder, token, merged), sorted_parquet(table, sort_by))
        if not (staged and _exchange_folders(root, folder, token, before)):
            for merged in staged:
                _publish_staged(root, folder, token, merged)
                discard(parts[merged])
            for merged in parts.keys() - set(staged):
                discard(part for part in parts[merged] if _is_contained(part, merged, sort_by))
    finally:
        if _holds(root, folder, token):
            withdraw(root, folder)
    return len(before), len(files_below(root, f"{folder}/{pattern}"))


def _claim(root: str, folder: str) -> str:
    return FileSystems.join(root, CLAIMS, *folder.split("/"))


def _is_local(root: str) -> bool:
    return FileSystems.get_scheme(root) is None


def _staged(root: str, folder: str, token: str, merged: str) -> str:
    return FileSystems.join(_claim(root, folder), token, FileSystems.split(merged)[1])


def _parts(files: Iterable[str]) -> dict[str, list[str]]:
    """compacted file -> its parts among those files"""
    parts = defaultdict(list)
    for path in sorted(files):
        if stretch_of(path):
            parts[compacted_path(path)].append(path)
    return parts


def _read(path: str) -> pa.Table:
    table = read_parquet(path)
    if table is None:
        raise Withdrawn(path)
    return table


def _is_contained(part: str, merged: str, keys: Sequence[str]) -> bool:
    """Whether every row of the part is in the compacted file as it is."""
    rows, present = _read(part), _read(merged)
    numbered = present.select(keys).append_column("row", pa.array(range(present.num_rows)))
    found = numbered.join(rows.select(keys), list(keys), join_type="left semi")["row"]
    order = [(name, "ascending") for name in keys]
    return present.take(found).sort_by(order).equals(rows.sort_by(order))


def _holds(root: str, folder: str, token: str) -> bool:
    return read_file(FileSystems.join(_claim(root, folder), "claim")) == token.encode()


def _publish_staged(root: str, folder: str, token: str, merged: str) -> None:
    """It is staged before the claim is looked at; a withdrawal deletes the claim first, then that."""
    if not _holds(root, folder, token):
        raise Withdrawn(folder)
    try:
        rename(_staged(root, folder, token, merged), merged)
    except OSError as error:
        if _holds(root, folder, token):
            raise UserError(f"{merged}: cannot be written: {error}") from error
        raise Withdrawn(folder) from error


def _exchange_folders(root: str, folder: str, token: str, files: Iterable[str]) -> bool:
    """Puts what is staged in the place of the folder; False where that needs more than one step.

    The folder may have no other files: what is not staged would be gone, or lose what is written meanwhile.
    """
    if not _is_local(root):
        return False
    place = os.path.join(root, folder)
    parts = {os.path.basename(path) for path in files if stretch_of(path)}
    if any(name not in parts and not UNFINISHED.fullmatch(name) for name in os.listdir(place)):
        return False
    if not _holds(root, folder, token):  # it was withdrawn while files were staged: some may be missing
        raise Withdrawn(folder)
    try:
        return exchange(os.path.join(_claim(root, folder), token), place)
    except FileNotFoundError as error:
        raise Withdrawn(folder) from error
    except OSError as error:
        raise UserError(f"{place}: cannot be written: {error.strerror}") from error


def exchange(one: str, other: str) -> bool:
    """Two folders of a disk change names in one step; False where the system has none for that.

    It is renameat2(2) of Linux with RENAME_EXCHANGE, which Python does not have. OSError when it fails.
    """
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if not sys.platform.startswith("linux") or renameat2 is None:
        return False
    if renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
        return False
    raise OSError(code, os.strerror(code), one)
