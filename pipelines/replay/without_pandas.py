"""Importing this keeps pandas out of the process: pyarrow loads it on first use wherever it is installed.

Nothing of a replay needs it, and it would take a third of the time to start and 35 MB.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


class WithoutPandas:
    """Finds no module, and forbids looking further for pandas."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: object = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("a replay does without pandas", name=name)


sys.meta_path.insert(0, WithoutPandas())
