"""Prometheus, with the project's rules, scraping jobs of this machine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runners.local.errors import CannotStart
from runners.local.ports import LOOPBACK
from runners.local.program import Program
from runners.local.service import Service
from runners.local.web import answers, session

RULES = Path(__file__).parents[1] / "monitoring" / "alerts.yml"
JOBS = "127.0.0.1:8000"
CONFIGURATION = """\
global:
  scrape_interval: {seconds}s
  scrape_timeout: {seconds}s
  evaluation_interval: 1s
rule_files: [{rules}]
scrape_configs:
  - job_name: sensor-feeds
    static_configs:
      - targets: {targets}
"""


@dataclass(frozen=True, kw_only=True)
class _Command(Program):
    arguments: Sequence[str]

    def command(self) -> list[str]:
        found = shutil.which("prometheus")
        if found is None:
            raise CannotStart(
                "there is no prometheus on PATH: install it "
                "(Debian: apt-get install --no-install-recommends prometheus; macOS: brew install prometheus)"
            )
        return [found, *self.arguments]


class Prometheus(Service):
    name = "prometheus"
    port_names = ("prometheus",)

    def __init__(
        self,
        folder: Path | str,
        *,
        targets: Sequence[str] = (JOBS,),
        rules: Path = RULES,
        scrape_seconds: int = 5,
        port: int | None = None,
    ) -> None:
        """It scrapes the metrics of jobs at these `targets`, each HOST:PORT."""
        self._targets, self._rules, self._seconds = list(targets), rules, scrape_seconds
        super().__init__(folder, {"prometheus": port})

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.ports['prometheus']}"

    @property
    def address(self) -> str:
        return self.url

    @property
    def flags(self) -> list[str]:
        return ["--metrics_port=8000"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """What an instant query gives: a `metric` and a `value` each. HTTPError for a faulty one."""
        with session() as web:
            answer = web.get(f"{self.url}/api/v1/query", params={"query": expression}, timeout=10)
            answer.raise_for_status()
            return answer.json()["data"]["result"]

    def programs(self) -> list[Program]:
        configuration = self.folder / "prometheus.yml"
        return [
            _Command(
                name="prometheus",
                arguments=[
                    f"--config.file={configuration}",
                    f"--storage.tsdb.path={self.folder / 'data'}",
                    f"--web.listen-address={LOOPBACK}:{self.ports['prometheus']}",
                ],
                ready=lambda: answers(f"{self.url}/api/v1/status/runtimeinfo"),
            )
        ]

    def prepare(self) -> None:
        (self.folder / "prometheus.yml").write_text(
            CONFIGURATION.format(
                seconds=self._seconds, rules=json.dumps(str(self._rules)), targets=json.dumps(self._targets)
            )
        )
