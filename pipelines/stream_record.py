"""What a stream's output was written with, kept beside it: one that resumes has to go on with the same."""

from __future__ import annotations

from collections.abc import Sequence

from apache_beam.io.filesystems import FileSystems

from pipelines.arguments import Arguments
from transforms.errors import UserError
from transforms.files import files_below, publish_json, read_json

# Which rows a file holds, and when a window is closed, follow from these; the source keeps its topics.
FIXED = {
    "topics": "--topic",
    "window_seconds": "--window_seconds",
    "allowed_lateness_seconds": "--allowed_lateness_seconds",
    "file_seconds": "--file_seconds",
    "fill_seconds": "--fill_seconds",
    "clean_seconds": "--clean_seconds",
    "shards": "--shards",
}


def resumes(arguments: Arguments) -> bool:
    """Whether the stream takes up a savepoint or checkpoint."""
    return any(flag.partition("=")[0] == "--savepoint_path" for flag in arguments.beam_flags)


def refuse_other_output(arguments: Arguments) -> None:
    """UserError when the output is another run's, or this stream resumes with options it did not start with.

    A stream replaces a window's rows by those it has read itself, and finds them by the names of its files.
    """
    if not resumes(arguments):
        files = f"raw/year=*/month=*/day=*/{arguments.feed.name}-*.parquet"
        if present := files_below(arguments.output, files):
            raise UserError(
                f"{min(present)}: this output already holds the results of another run; resume that with "
                "--savepoint_path, or choose another --output"
            )
        return
    path = _path(arguments)
    if not FileSystems.exists(path):
        raise UserError(
            f"{path}: not there, so no stream of {arguments.feed.name} has written to this --output; "
            "resume with the --output it was started with"
        )
    started, now = read_json(path), _fixed(arguments)
    # What an older version did not write down is not known to have changed.
    if changed := [name for name in FIXED if name in started and started[name] != now[name]]:
        given = " ".join(f"{FIXED[name]} {_text(started[name])}" for name in changed)
        raise UserError(
            f"{path}: this stream was started with {given}, and another would double or lose rows; "
            "resume it with that, or start anew in another --output"
        )


def record(arguments: Arguments) -> None:
    """Writes down what the stream starts with."""
    if not resumes(arguments):
        publish_json(_path(arguments), _fixed(arguments))


def _path(arguments: Arguments) -> str:
    return FileSystems.join(arguments.output, f"{arguments.feed.name}-stream.json")


def _fixed(arguments: Arguments) -> dict[str, object]:
    derived = {"fill_seconds": arguments.feed.fill_seconds, "topics": sorted(arguments.topics)}
    given = {**vars(arguments), **derived}
    return {name: given[name] for name in FIXED}


def _text(value: int | Sequence[str]) -> str:
    return str(value) if isinstance(value, int) else " ".join(value)
