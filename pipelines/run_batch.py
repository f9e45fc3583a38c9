"""A batch run: the job to its end, files that an earlier run left, and the closing accounts."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
from apache_beam.io.filesystems import FileSystems

from pipelines.arguments import Arguments
from pipelines.batch import build_batch
from pipelines.closing_lines import closing_lines, losses, unlike
from pipelines.printing import print_lines
from pipelines.progress_bar import shown
from pipelines.watched import watched
from runners.options import new_pipeline
from transforms.accounts import SUMMARY
from transforms.csv_files import CODECS
from transforms.errors import UserError
from transforms.files import files_below, publish_json, read_json
from transforms.health import complaints
from transforms.parquet import digest

UNHEALTHY = 3


def run_batch(arguments: Arguments) -> int:
    """Runs the job and prints its accounts; the exit status: 1 when they do not balance."""
    # It keeps the memory of batches for the next ones, where Arrow's own gives it back and asks for it anew.
    pa.set_memory_pool(pa.system_memory_pool())
    path = FileSystems.join(arguments.output, SUMMARY)
    pipeline = new_pipeline(arguments.runner, arguments.beam_flags, arguments.streaming)
    build_batch(pipeline, arguments)
    with watched(arguments, pipeline), _unfinished(arguments, path), shown(_input_bytes(arguments.inputs)):
        result = pipeline.run()
        result.wait_until_finish()
    summary = read_json(path)
    stale = _delete_stale_files(arguments, summary["output_files"])
    print_lines(closing_lines(arguments.output, summary))
    if stale:
        print(f"deleted          {stale:>13,}  files that the same inputs gave before and no longer give")
    if not summary["balanced"]:
        for line in losses(result, summary):
            print(f"rows lost        {line}")
    if arguments.manifest and (wrong := list(unlike(summary, read_json(arguments.manifest)))):
        print(f"NOT AS PLANTED   {', '.join(wrong)} differ from {arguments.manifest}")
        return 1
    if not summary["balanced"]:
        return 1
    return _tell_health(arguments, summary)


def _tell_health(arguments: Arguments, summary: Mapping[str, Any]) -> int:
    """Says on stderr which limits of the feed the run has not kept; its exit status."""
    health = arguments.feed.health
    broken = list(complaints(health, summary["error_rate"], summary["mean_quality"])) if health else []
    for complaint in broken:
        print(f"ALERT {arguments.feed.name}: {complaint}", file=sys.stderr)
    return UNHEALTHY if broken and arguments.fail_unhealthy else 0


@contextlib.contextmanager
def _unfinished(arguments: Arguments, path: str) -> Iterator[None]:
    """Without its summary at `path` an output is not finished; a refused run leaves it as it was."""
    earlier = read_json(path) if FileSystems.exists(path) else None
    before = _own_files(arguments)
    if earlier:
        FileSystems.delete([path])
    try:
        yield
    except (UserError, RuntimeError):
        if earlier and earlier["inputs"] != list(arguments.inputs) and _own_files(arguments) == before:
            publish_json(path, earlier)
        raise


def _input_bytes(paths: tuple[str, ...]) -> int | None:
    """The bytes to read; None where some are compressed, or there are topics instead."""
    if not paths or any(path.endswith(tuple(CODECS)) for path in paths):
        return None
    return sum(file.size_in_bytes for match in FileSystems.match(list(paths)) for file in match.metadata_list)


def _own_files(arguments: Arguments) -> set[str]:
    """The files that runs over the same inputs, whole or killed, have written."""
    feed = arguments.feed.name
    by_day = f"year=*/month=*/day=*/{feed}-*-{arguments.run}.parquet"
    patterns = [f"raw/{by_day}", f"processed/*/{by_day}"]
    patterns += [f"dead_letters/{feed}-{digest([source])}-*.parquet" for source in arguments.inputs]
    return set().union(*(files_below(arguments.output, pattern) for pattern in patterns))


def _delete_stale_files(arguments: Arguments, written: Sequence[str]) -> int:
    """Deletes what an earlier run over the same files wrote and this one did not; returns how many.

    A topic may have lost its oldest messages since: what they gave is kept.
    """
    if arguments.topics:
        return 0
    whole = {FileSystems.join(arguments.output, *path.split("/")) for path in written}
    stale = _own_files(arguments) - whole
    FileSystems.delete(sorted(stale))
    return len(stale)
