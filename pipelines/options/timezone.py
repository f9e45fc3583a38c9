"""The zone of timestamps without an offset."""

from __future__ import annotations

import argparse
import zoneinfo


def add_timezone(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--timezone",
        type=timezone,
        default="UTC",
        metavar="ZONE",
        help="of timestamps without an offset, such as America/Los_Angeles (default: UTC)",
    )


def timezone(name: str) -> str:
    """The name of a zone that there is."""
    if name not in zoneinfo.available_timezones():
        raise argparse.ArgumentTypeError(f"{name!r} is no time zone; one is America/Los_Angeles")
    return name
