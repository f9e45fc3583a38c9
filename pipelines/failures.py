"""How a job failed, in the user's words: portable runners tell of it as text."""

from __future__ import annotations

import re

import grpc

from runners.savepoints import refused_resume

ENDED = (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)
CANCELLED = re.compile(r"JobCancellationException|failed in state CANCELLED")
FAILED = re.compile(r"failed in state FAILED: (.+)", re.DOTALL)
USER_ERROR = re.compile(r"UserError: (.+?)(?: \[while running|\\n|\n|$)")


def in_words(failure: str) -> str | None:
    """What the user has to put right, from the text of a job's failure; None when it is something else."""
    found = USER_ERROR.search(failure)
    return found[1] if found else refused_resume(failure)


def end_in_words(error: RuntimeError | grpc.RpcError) -> str | None:
    """How a stream ended that was not meant to; None for what is told otherwise."""
    if is_end(error):
        return "the job server has gone; the job may still run on its cluster"
    if CANCELLED.search(str(error)):
        return "the job was cancelled"
    failed = FAILED.search(str(error))
    if failed is None or in_words(str(error)) is not None:
        return None
    return f"the job failed: {failed[1].splitlines()[-1]}"


def is_end(error: BaseException | None) -> bool:
    """Whether the error says that the job server, or the job on it, has gone."""
    return isinstance(error, grpc.Call) and error.code() in ENDED
