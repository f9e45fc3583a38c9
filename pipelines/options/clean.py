"""Clean readings: how gaps are filled, and when a run is unhealthy."""

from __future__ import annotations

import argparse
from dataclasses import replace

from pipelines.options.files import matching_files
from pipelines.options.values import positive, whole_number
from schemas.feed import Feed
from transforms.medians import file_medians


def add_clean(parser: argparse.ArgumentParser, feed: Feed) -> None:
    """A feed without measured fields has no such options."""
    parser.set_defaults(train=None, clean_seconds=0, clean_topic=None, fail_unhealthy=False)
    if not feed.any_of:
        return
    group = parser.add_argument_group("clean readings")
    group.add_argument(
        "--train",
        metavar="FILE",
        help="a file of this feed whose medians fill what nothing near can (default: those of the input, "
        "for a stream those that the feed declares)",
    )
    group.add_argument(
        "--fill_seconds",
        type=whole_number,
        default=feed.fill_seconds,
        metavar="N",
        help="how far from a gap a value may be that fills it, besides 3 readings; a stream holds readings "
        "so long (default: %(default)s)",
    )
    group.add_argument(
        "--clean_seconds",
        type=positive,
        default=feed.step_seconds,
        metavar="N",
        help="event time whose clean readings a stream gives together; more is quicker where history is read "
        "again (default: %(default)s)",
    )
    group.add_argument(
        "--clean_topic", metavar="TOPIC", help=f"where a stream sends them too, such as {feed.name}.clean"
    )
    if feed.health:
        group.add_argument(
            "--fail_unhealthy",
            action="store_true",
            help=f"end with status 3 when over {feed.health.most_refused:.0%}% of the records are refused or "
            f"the mean quality is under {feed.health.least_quality:.0%}%; there is an alert in any case",
        )


def with_fill(feed: Feed, options: argparse.Namespace) -> Feed:
    """The feed with how far its gaps are filled, and the medians of --train. UserError without that file."""
    if not feed.any_of:
        return feed
    feed = replace(feed, fill_seconds=options.fill_seconds)
    if options.train:
        (path,) = matching_files([options.train])
        for name, median in file_medians(path, feed, options.timezone).items():
            feed = feed.with_field(name, median=median)
    return feed
