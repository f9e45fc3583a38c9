"""From the name of a runner to Beam's pipeline options."""

from __future__ import annotations

import argparse
import difflib
import os
import uuid
from collections.abc import Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineRunner, create_runner

IN_PROCESS = "apache_beam.runners.portability.fn_api_runner.fn_runner.FnApiRunner"


class UnusableRunner(ValueError):
    """There is no such runner, or it has no such option; the message is for the user."""


def pipeline_options(runner: str, flags: Sequence[str], streaming: bool = False) -> PipelineOptions:
    """Beam's options for a run on that runner; the user's own flags win over the defaults.

    DirectRunner is the in-process FnApiRunner, named explicitly, with a worker thread per core: Beam's own
    DirectRunner tries other runners first and so differs from machine to machine. UnusableRunner for a flag
    that no runner in this process knows; other runners have options that only they know.
    """
    given = list(flags)
    match runner:
        case "DirectRunner":
            if unknown := _unknown(given):
                raise UnusableRunner(unknown)
            return PipelineOptions(["--runner", IN_PROCESS, f"--direct_num_workers={_cores()}", *given])
        case "FlinkRunner":
            given = [f"--job_name=job-{uuid.uuid4().hex[:8]}", *_on_flink(given, streaming)]
        case "PrismRunner":
            from runners.prism import prism_options

            given = prism_options(given)
    return PipelineOptions(["--runner", runner, *given])


def new_pipeline(runner: str, flags: Sequence[str], streaming: bool) -> beam.Pipeline:
    """An empty pipeline for that runner, with the options of `pipeline_options`. UnusableRunner as there."""
    options = pipeline_options(runner, flags, streaming)
    try:
        return beam.Pipeline(runner=_create(runner, options), options=options)
    except (ValueError, ImportError, AttributeError, TypeError) as error:
        raise UnusableRunner(f"--runner {runner}: {error}") from error


def _create(runner: str, options: PipelineOptions) -> PipelineRunner:
    if runner == "FlinkRunner":
        from runners.flink_runner import FlinkRunner

        return FlinkRunner()
    return create_runner(options.get_all_options()["runner"])


def _on_flink(flags: list[str], streaming: bool) -> list[str]:
    from runners.flink import flink_options, refuse_unreachable
    from runners.local.errors import CannotStart

    try:
        refuse_unreachable(flags)
        return flink_options(flags, streaming=streaming)
    except CannotStart as error:
        raise UnusableRunner(str(error)) from error


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _unknown(flags: Sequence[str]) -> str | None:
    """What to say of the first flag that Beam does not know."""
    parsers: list[argparse.ArgumentParser] = []
    PipelineOptions([]).get_all_options(add_extra_args_fn=parsers.append)
    unknown = parsers[0].parse_known_args(list(flags))[1]
    if not unknown:
        return None
    name = unknown[0].partition("=")[0]
    known = parsers[0].format_usage().replace("[", " ").replace("]", " ").split()
    close = difflib.get_close_matches(name, known, 1)
    return f"unknown option {name}; {f'did you mean {close[0]}?' if close else 'see --help'}"
