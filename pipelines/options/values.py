"""What the text of an option must be, and the value that it becomes; argparse says so when it is not."""

from __future__ import annotations

from argparse import ArgumentTypeError
from datetime import UTC, datetime


def whole_number(text: str) -> int:
    """0 or more."""
    if not text.isdecimal():
        raise ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)


def positive(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def port(text: str) -> int:
    """0 is one too."""
    if not text.isdecimal() or int(text) > 65_535:
        raise ArgumentTypeError(f"{text!r} is no port")
    return int(text)


def moment(text: str) -> datetime:
    """A time, of UTC where it does not say.

    >>> moment("2024-05-01T14:00:00+02:00") == moment("2024-05-01T12:00")
    True
    """
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is no time, such as 2024-05-01T12:00:00Z") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)
