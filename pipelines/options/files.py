"""Files: those to read, what they do not say themselves, and where results go."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Sequence
from pathlib import Path

from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.filesystems import FileSystems

from pipelines.options.sample import SAMPLE
from pipelines.options.timezone import add_timezone
from pipelines.options.values import moment
from pipelines.sample.samples import SAMPLES
from schemas.feed import TIMESTAMP, Feed
from transforms.errors import UserError

# A scheme, which is also the name of the extra that brings it, and the package that it needs.
EXTRAS = {"hdfs": "hdfs", "s3": "boto3"}


def add_files(parser: argparse.ArgumentParser, feed: Feed) -> None:
    group = parser.add_argument_group("files")
    group.add_argument(
        "--input",
        nargs="+",
        metavar="FILE",
        help="CSV files or globs, plain, .gz, .bz2 or .zst, local or on any of Beam's file systems "
        + (f"(default: simulated ones, made on first use in {SAMPLE}/)" if feed.name in SAMPLES else ""),
    )
    group.add_argument(
        "--output",
        default=f"out/{feed.name}",
        metavar="FOLDER",
        help="where results go, local or not (default: %(default)s)",
    )
    add_timezone(group)
    for field in feed.fields:
        if field.option:
            group.add_argument(
                f"--{field.option}",
                type=moment if field.type == TIMESTAMP else str,
                metavar="TIME" if field.type == TIMESTAMP else "NAME",
                help=f"{field.name} of files that have no such column",
            )


def with_defaults(feed: Feed, options: argparse.Namespace) -> Feed:
    """The feed with the values of what its files do not say."""
    for field in feed.fields:
        if field.option and (value := getattr(options, field.option)) is not None:
            feed = feed.with_field(field.name, default=value)
    return feed


def matching_files(patterns: Sequence[str]) -> tuple[str, ...]:
    """The files that the globs match, each once, sorted. UserError when one matches none."""
    paths = set()
    for pattern in map(absolute, patterns):
        try:
            if "://" not in pattern and Path(pattern).is_file():  # whatever brackets its name has
                paths.add(pattern)
                continue
            if "://" not in pattern and Path(pattern).is_dir():
                raise UserError(f"--input {pattern}: is a folder; give {pattern}/*.csv")
            (match,) = FileSystems.match([pattern])
        except (BeamIOError, ValueError) as error:
            raise UserError(f"--input {pattern}: cannot be listed: {error}") from error
        if not match.metadata_list:
            raise UserError(f"--input {pattern}: no such file")
        paths |= {file.path for file in match.metadata_list}
    return tuple(sorted(paths))


def absolute(path: str) -> str:
    """The path as any process can open it. UserError where its file system is not installed."""
    scheme = FileSystems.get_scheme(path)
    if scheme in EXTRAS and importlib.util.find_spec(EXTRAS[scheme]) is None:
        raise UserError(f"{path}: needs pip install '.[{scheme}]'")
    return path if "://" in path else str(Path(path).absolute())
