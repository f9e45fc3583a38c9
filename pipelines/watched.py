"""A run whose metrics can be scraped while it lasts."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping

import apache_beam as beam

from pipelines.arguments import Arguments
from pipelines.flink_metrics import FlinkFigures
from pipelines.metrics import Figures, JobMetrics
from pipelines.metrics_server import served
from pipelines.options.metrics import METRICS_PORT
from runners.flink_job import FlinkJob, flink_rest_url
from transforms import decode_csv
from transforms.counters import live
from transforms.dead_letters import Failure
from transforms.errors import UserError

log = logging.getLogger(__name__)


@contextlib.contextmanager
def watched(arguments: Arguments, pipeline: beam.Pipeline) -> Iterator[None]:
    """Serves the metrics of the run until the block ends. UserError when the port asked for is taken.

    A stream without such a wish runs on when the usual port is taken, and says so.
    """
    live.reset()
    port = METRICS_PORT if arguments.metrics_port is None and arguments.streaming else arguments.metrics_port
    with contextlib.ExitStack() as serving:
        if port:
            try:
                serving.enter_context(served(_metrics(arguments, pipeline), arguments.metrics_host, port))
            except UserError as error:
                if arguments.metrics_port is not None:
                    raise
                log.warning("no metrics are served: %s", error)
        yield


def _metrics(arguments: Arguments, pipeline: beam.Pipeline) -> JobMetrics:
    read: Callable[[], Mapping[str, int]] = live.figures
    observers: list[Callable[[Figures], Figures]] = []
    if arguments.topics:
        from pipelines.consumer_lag import ConsumerLag  # Kafka's packages are an extra
        from transforms.partitions import find_topics

        topics = find_topics(arguments.topics, arguments.kafka, arguments.start)
        observers.append(ConsumerLag(topics, arguments.kafka, commits=arguments.streaming).observe)
    if job := _flink_job(arguments, pipeline):
        flink = FlinkFigures(job)
        read = flink.read
        observers.append(flink.observe)
    return JobMetrics(arguments.feed, arguments.window_seconds, read, known_reasons(arguments), observers)


def figures_of(arguments: Arguments, pipeline: beam.Pipeline) -> Callable[[], Mapping[str, int]]:
    """What reads the counters of the run: Flink's, of all its workers, or those of this process."""
    job = _flink_job(arguments, pipeline)
    return FlinkFigures(job).read if job else live.figures


def _flink_job(arguments: Arguments, pipeline: beam.Pipeline) -> FlinkJob | None:
    """The job as Flink tells of it; None where that is not known, or it is no Flink, whatever its flags."""
    url = flink_rest_url(pipeline.options) if arguments.runner == "FlinkRunner" else None
    return FlinkJob(url, pipeline.options.get_all_options()["job_name"]) if url else None


def known_reasons(arguments: Arguments) -> Iterator[tuple[str, str]]:
    """The (stage, reason) of the dead letters that a run may have, as far as they are declared."""
    yield from (("validate", rule.name) for rule in arguments.feed.rules if not rule.field.tolerated)
    yield from (("decode", failure.rules[0]) for failure in _decode_failures(arguments))
    if arguments.streaming:
        yield "window", "too_late"


def _decode_failures(arguments: Arguments) -> tuple[Failure, ...]:
    if not arguments.topics:
        return decode_csv.STRUCTURAL
    if arguments.format == "avro":
        from transforms import decode_avro  # Kafka's packages are an extra

        return decode_avro.FAILURES
    from transforms import decode_json

    return decode_json.STRUCTURAL
