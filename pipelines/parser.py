"""A command line's parser that tells of a mistake in one line."""

from __future__ import annotations

import argparse
import difflib
import re
from typing import NoReturn

UNKNOWN = re.compile(r"unrecognized arguments: (--[^ =]+)")


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage before it, and exits with status 2."""

    def error(self, message: str) -> NoReturn:
        unknown = UNKNOWN.match(message)
        if unknown and (meant := self.meant(unknown[1])):
            message = f"unknown option {unknown[1]}; did you mean {meant}?"
        else:
            message += "; see --help"
        self.exit(2, f"error: {message}\n")

    def meant(self, option: str) -> str | None:
        """The option that is spelled nearly like that one."""
        close = difflib.get_close_matches(option, self._option_string_actions, 1, cutoff=0.75)
        return close[0] if close else None
