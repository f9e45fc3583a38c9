"""What only a run without end needs to be told."""

from __future__ import annotations

import argparse

from pipelines.options.values import positive, whole_number


def add_streams(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("streams", "Of a run without end.")
    for name, default, text in (
        (
            "out_of_orderness_seconds",
            60,
            "how far behind the newest reading of its partition another may come",
        ),
        ("idle_seconds", 10, "after so long without a message a partition no longer holds windows back"),
        ("file_seconds", 3600, "event time that one file holds"),
        ("shards", 2, "files side by side, and the most that can work at the same time"),
    ):
        group.add_argument(
            f"--{name}", type=positive, default=default, metavar="N", help=f"{text} (default: {default})"
        )
    group.add_argument(
        "--early_seconds",
        type=whole_number,
        default=30,
        metavar="N",
        help="how often an open window sends its results so far to --aggregates_topic, 0 for never "
        "(default: 30)",
    )
    group.add_argument("--aggregates_topic", metavar="TOPIC", help="where aggregates go, as upserts")
    group.add_argument(
        "--aggregates_format",
        choices=("json", "avro"),
        default="json",
        help="of the messages there, and of clean readings (default: %(default)s)",
    )
    group.add_argument(
        "--dead_letter_topic", metavar="TOPIC", help="where dead letters go beside their files"
    )
