"""The closing lines of a batch run: its accounts, and what differs from what they should be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from apache_beam.io.filesystems import FileSystems
from apache_beam.runners.runner import PipelineResult

from transforms import counters
from transforms.accounts import SUMMARY


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


def unlike(summary: Mapping[str, Any], manifest: Mapping[str, Any]) -> Iterator[str]:
    """The accounts in which a run on the sample differs from what was planted there."""
    planted = {**manifest, "read": manifest["rows"]}
    return (
        name for name in ("read", "accepted", "duplicates", "dead_letters") if summary[name] != planted[name]
    )


def losses(result: PipelineResult, summary: Mapping[str, Any]) -> Iterator[str]:
    """A line for each step that lost rows; see `transforms.counters.losses`."""
    written = {name: summary[name] for name in ("accepted", "duplicates", "aggregated")}
    dead_letters = sum(summary["dead_letters"].values())
    return counters.losses(counters.counted(result) | written | {"dead_letters": dead_letters})
