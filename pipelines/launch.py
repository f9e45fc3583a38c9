"""Running a job from the command line: one clear line for an error, and the closing accounts."""

from __future__ import annotations

import re
import signal
import sys
import uuid
from collections.abc import Sequence

from apache_beam.io.filesystems import FileSystems

from pipelines.arguments import parse_arguments
from pipelines.failures import in_words
from pipelines.logs import configure_logging
from pipelines.printing import fail
from pipelines.run_batch import run_batch
from pipelines.run_stream import run_stream
from runners.options import UnusableRunner
from schemas.feed import Feed
from transforms.errors import UserError
from transforms.files import publish

WHILE_RUNNING = re.compile(r" \[while running '.*'\]", re.DOTALL)


def launch(feed: Feed, argv: Sequence[str] | None) -> int:
    """Runs the feed's job as the command line says, and prints the accounts of a run that ends.

    Returns the exit status: 0, 1 when the accounts do not balance, 2 for what the user has to put right.
    """
    configure_logging()
    try:
        arguments = parse_arguments(feed, argv)
        _refuse_unwritable(arguments.output)
        run = run_stream if arguments.streaming else run_batch
        return run(arguments)
    except (UserError, UnusableRunner) as error:
        return fail(WHILE_RUNNING.sub("", str(error)))
    except KeyboardInterrupt:
        print("interrupted: run it again to complete it", file=sys.stderr)
        return 128 + signal.SIGINT
    except RuntimeError as error:  # a portable runner tells of an error in a worker as text
        if (said := in_words(str(error))) is None:
            raise
        return fail(said)


def _refuse_unwritable(output: str) -> None:
    """UserError now, rather than after an hour of reading, when the output cannot be written."""
    try:
        probe = FileSystems.join(output, f".writable-{uuid.uuid4().hex[:8]}")  # not that of another job
        publish(probe, b"this folder can be written\n")  # Beam cannot write an empty file to S3
        FileSystems.delete([probe])
    except ValueError as error:
        raise UserError(f"--output {output}: {error}") from error
    except UserError as error:
        cause = getattr(error.__cause__, "strerror", None) or error.__cause__
        raise UserError(f"--output {output}: cannot be written: {cause}") from error
