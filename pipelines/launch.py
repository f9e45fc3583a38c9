"""Running a job from the command line: one clear line for an error, and the closing accounts."""

from __future__ import annotations

import contextlib
import logging
import re
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
import grpc
import pyarrow as pa
from apache_beam.io.filesystems import FileSystems
from apache_beam.runners.runner import PipelineResult, create_runner

from pipelines.arguments import Arguments, parse_arguments
from pipelines.batch import build_batch
from pipelines.health import health_watched
from pipelines.printing import fail, print_lines
from pipelines.progress_bar import shown
from pipelines.stream_record import record, refuse_other_output
from pipelines.watched import watched
from runners.options import UnusableRunner, pipeline_options
from runners.savepoints import CannotStop, last_checkpoint, refused_resume, rest_url, stop_with_savepoint
from schemas.feed import Feed
from transforms import counters
from transforms.accounts import SUMMARY
from transforms.csv_files import CODECS
from transforms.errors import UserError
from transforms.files import files_below, publish, publish_json, read_json
from transforms.health import complaints
from transforms.parquet import digest

ENDED = (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)
UNHEALTHY = 3
CANCELLED = re.compile(r"JobCancellationException|failed in state CANCELLED")
FAILED = re.compile(r"failed in state FAILED: (.+)", re.DOTALL)
USER_ERROR_IN_TEXT = re.compile(r"UserError: (.+?)(?: \[while running|\\n|\n|$)")
WHILE_RUNNING = re.compile(r" \[while running '.*'\]", re.DOTALL)


def launch(feed: Feed, argv: Sequence[str] | None) -> int:
    """Runs the feed's job as the command line says, and prints the accounts of a run that ends.

    Returns the exit status: 0, 1 when the accounts do not balance, 2 for what the user has to put right.
    """
    _configure_logging()
    try:
        arguments = parse_arguments(feed, argv)
        _refuse_unwritable(arguments.output)
        return _stream(arguments) if arguments.streaming else _batch(arguments)
    except (UserError, UnusableRunner) as error:
        return fail(WHILE_RUNNING.sub("", str(error)))
    except KeyboardInterrupt:
        print("interrupted: run it again to complete it", file=sys.stderr)
        return 128 + signal.SIGINT
    except RuntimeError as error:  # a portable runner tells of an error in a worker as text
        if (said := _in_words(str(error))) is None:
            raise
        return fail(said)


def _in_words(failure: str) -> str | None:
    """What the user has to put right, from the text of a job's failure; None when it is something else."""
    found = USER_ERROR_IN_TEXT.search(failure)
    return found[1] if found else refused_resume(failure)


def _batch(arguments: Arguments) -> int:
    # It keeps the memory of batches for the next ones, where Arrow's own gives it back and asks for it anew.
    pa.set_memory_pool(pa.system_memory_pool())
    path = FileSystems.join(arguments.output, SUMMARY)
    pipeline = _pipeline(arguments)
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
        for line in _losses(result, summary):
            print(f"rows lost        {line}")
    if arguments.manifest and (wrong := list(_unlike(summary, read_json(arguments.manifest)))):
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


def _stream(arguments: Arguments) -> int:
    from pipelines.stream import build_stream  # Kafka's packages are an extra

    refuse_other_output(arguments)
    pipeline = _pipeline(arguments)
    build_stream(pipeline, arguments)
    record(arguments)
    signal.signal(signal.SIGTERM, _stop)
    try:
        with watched(arguments, pipeline), health_watched(arguments, pipeline):
            pipeline.run().wait_until_finish()
    except (_Stopped, KeyboardInterrupt) as stopped:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        print(_stopped_at(pipeline), flush=True)
        return STOPPED[type(stopped)]
    except (RuntimeError, grpc.RpcError) as error:
        if (end := _end_in_words(error)) is None:
            raise
        print(f"error: {end}{_last_checkpoint(pipeline)}", file=sys.stderr)
        return 1
    return 0


def _end_in_words(error: RuntimeError | grpc.RpcError) -> str | None:
    """How the stream ended that was not meant to; None for what is told otherwise."""
    if _is_end(error):
        return "the job server has gone; the job may still run on its cluster"
    if CANCELLED.search(str(error)):
        return "the job was cancelled"
    failed = FAILED.search(str(error))
    if failed is None or _in_words(str(error)) is not None:
        return None
    return f"the job failed: {failed[1].splitlines()[-1]}"


def _last_checkpoint(pipeline: beam.Pipeline) -> str:
    options = pipeline.options.get_all_options()
    url = rest_url(options.get("flink_master") or "[local]")
    place = url and last_checkpoint(url, options["job_name"])
    return (
        f"; the same command resumes it from its last checkpoint with --savepoint_path={place}"
        if place
        else ""
    )


class _Stopped(BaseException):
    """SIGTERM has come; no handler of errors on the way is meant to catch it."""


STOPPED = {_Stopped: 128 + signal.SIGTERM, KeyboardInterrupt: 128 + signal.SIGINT}


def _stop(*_: object) -> None:
    raise _Stopped


def _stopped_at(pipeline: beam.Pipeline) -> str:
    """Stops the stream with a savepoint where that can be asked for; returns what to say of it."""
    options = pipeline.options.get_all_options()
    url = rest_url(options.get("flink_master") or "[local]")
    if url is None:
        return "stopped without a savepoint: that needs a cluster, --flink_master HOST:PORT"
    try:
        place = stop_with_savepoint(url, options["job_name"])
    except CannotStop as error:
        return f"NOT stopped with a savepoint: {error}; the job may still run"
    return f"stopped with a savepoint; the same command resumes it with --savepoint_path={place}"


def _pipeline(arguments: Arguments) -> beam.Pipeline:
    options = pipeline_options(arguments.runner, arguments.beam_flags, arguments.streaming)
    try:
        runner = create_runner(options.get_all_options()["runner"])
    except (ValueError, ImportError, AttributeError, TypeError) as error:
        raise UserError(f"--runner {arguments.runner}: {error}") from error
    return beam.Pipeline(runner=runner, options=options)


def _configure_logging() -> None:
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING, force=True)
    logging.getLogger().addFilter(_is_not_said_in_words)
    logging.getLogger("pipelines").setLevel(logging.INFO)
    logging.getLogger("runners").setLevel(logging.INFO)
    logging.getLogger("apache_beam.runners.common").addFilter(_is_no_user_error)
    threading.excepthook = _report_thread
    logging.getLogger("apache_beam.runners.worker.data_plane").addFilter(_tells_of_no_end)
    # It warns of every job server that is stopped at the end, and this is how a job server ends.
    logging.getLogger("apache_beam.utils.subprocess_server").setLevel(logging.ERROR)
    # It warns that threads may not run side by side; Arrow and NumPy release the lock, so here they do.
    logging.getLogger("apache_beam.runners.portability.fn_api_runner.fn_runner").setLevel(logging.ERROR)


def _report_thread(failed: threading.ExceptHookArgs) -> None:
    """Beam's threads end with these errors when their job or its server does, which is no error."""
    if not _is_end(failed.exc_value):
        threading.__excepthook__(failed)


def _is_end(error: BaseException | None) -> bool:
    return isinstance(error, grpc.Call) and error.code() in ENDED


def _tells_of_no_end(record: logging.LogRecord) -> bool:
    return not (record.exc_info and _is_end(record.exc_info[1]))


def _is_no_user_error(record: logging.LogRecord) -> bool:
    return not (record.exc_info and record.exc_info[0] is UserError)


def _is_not_said_in_words(record: logging.LogRecord) -> bool:
    """Beam logs the failure of a job, and raises it then."""
    message = record.getMessage() if record.levelno >= logging.ERROR else ""
    return _in_words(message) is None and not CANCELLED.search(message)


def _refuse_unwritable(output: str) -> None:
    """UserError now, rather than after an hour of reading, when the output cannot be written."""
    try:
        probe = FileSystems.join(output, ".writable")
        publish(probe, b"this folder can be written\n")  # Beam cannot write an empty file to S3
        FileSystems.delete([probe])
    except ValueError as error:
        raise UserError(f"--output {output}: {error}") from error
    except UserError as error:
        cause = getattr(error.__cause__, "strerror", None) or error.__cause__
        raise UserError(f"--output {output}: cannot be written: {cause}") from error


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


def closing_lines(output: str, summary: Mapping[str, Any]) -> Iterator[str]:
    """The accounts, a line each, ending with where to look next."""
    dead_letters = summary["dead_letters"]
    yield f"read             {summary['read']:>13,}"
    yield f"  accepted       {summary['accepted']:>13,}"
    yield f"  duplicates     {summary['duplicates']:>13,}"
    yield f"  dead letters   {sum(dead_letters.values()):>13,}"
    for reason, rows in dead_letters.items():
        yield f"    {rows:>26,}  {reason}"
    if summary["nulled"]:
        yield f"values nulled    {sum(summary['nulled'].values()):>13,}"
        for rule, values in summary["nulled"].items():
            yield f"    {values:>26,}  {rule}"
    if summary["mean_quality"] is not None:
        yield f"mean quality     {summary['mean_quality']:>13.3f}"
    if summary["days"]:
        yield f"daily figures    {summary['days']:>13,}  of which {summary['valid_days']:,} are valid"
    yield f"balanced         {'yes' if summary['balanced'] else 'NO':>13}"
    yield f"windows          {summary['windows']:>13,}  with {summary['aggregates']:,} aggregates"
    yield f"files            {summary['files']:>13,}  of {summary['bytes']:,} bytes"
    yield f"seconds          {summary['seconds']:>13,.1f}  at {summary['rows_per_second']:,} rows/s"
    if summary["blank_lines"]:
        yield f"blank lines      {summary['blank_lines']:>13,}  passed over"
    if summary["unknown_columns"]:
        yield f"unknown columns  ignored: {', '.join(summary['unknown_columns'])}"
    yield f"look next        {FileSystems.join(output, SUMMARY)}"


def _unlike(summary: Mapping[str, Any], manifest: Mapping[str, Any]) -> Iterator[str]:
    """The accounts in which a run on the sample differs from what was planted there."""
    planted = {**manifest, "read": manifest["rows"]}
    return (
        name for name in ("read", "accepted", "duplicates", "dead_letters") if summary[name] != planted[name]
    )


def _losses(result: PipelineResult, summary: Mapping[str, Any]) -> Iterator[str]:
    written = {name: summary[name] for name in ("accepted", "duplicates", "aggregated")}
    dead_letters = sum(summary["dead_letters"].values())
    return counters.losses(counters.counted(result) | written | {"dead_letters": dead_letters})
