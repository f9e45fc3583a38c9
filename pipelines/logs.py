"""What of Beam's logs a person sees: nothing of what is told in words elsewhere."""

from __future__ import annotations

import logging
import threading

from pipelines.failures import CANCELLED, in_words, is_end
from transforms.errors import UserError


def configure_logging() -> None:
    """Warnings of all, and what our own packages say of a run."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING, force=True)
    logging.getLogger().addFilter(_is_not_said_in_words)
    logging.getLogger("pipelines").setLevel(logging.INFO)
    logging.getLogger("runners").setLevel(logging.INFO)
    logging.getLogger("apache_beam.runners.common").addFilter(_is_no_user_error)
    threading.excepthook = _report_thread
    logging.getLogger("apache_beam.runners.worker.data_plane").addFilter(_tells_of_no_end)
    # It warns of every job server that is stopped at the end, and this is how a job server ends.
    logging.getLogger("apache_beam.utils.subprocess_server").setLevel(logging.ERROR)
    # It logs what a file could not be written for, with a traceback, and raises it then.
    logging.getLogger("hdfs.util").setLevel(logging.CRITICAL)
    # It warns that threads may not run side by side; Arrow and NumPy release the lock, so here they do.
    logging.getLogger("apache_beam.runners.portability.fn_api_runner.fn_runner").setLevel(logging.ERROR)


def _report_thread(failed: threading.ExceptHookArgs) -> None:
    """Beam's threads end with these errors when their job or its server does, which is no error."""
    if not is_end(failed.exc_value):
        threading.__excepthook__(failed)


def _tells_of_no_end(record: logging.LogRecord) -> bool:
    return not (record.exc_info and is_end(record.exc_info[1]))


def _is_no_user_error(record: logging.LogRecord) -> bool:
    return not (record.exc_info and record.exc_info[0] is UserError)


def _is_not_said_in_words(record: logging.LogRecord) -> bool:
    """Beam logs the failure of a job, and raises it then."""
    message = record.getMessage() if record.levelno >= logging.ERROR else ""
    return in_words(message) is None and not CANCELLED.search(message)
