"""What tests of metrics need: reading an endpoint, and the real promtool."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from schemas.metrics import PREFIX

MONITORING = Path(__file__).parents[1] / "runners" / "monitoring"
ALERTS = MONITORING / "alerts.yml"
DASHBOARD = MONITORING / "grafana" / "dashboards" / "sensor-feeds.json"
MISSING = "Prometheus is needed: apt-get install --no-install-recommends prometheus"


class Samples:
    """The samples of one scrape, found without the project's prefix."""

    def __init__(self, text: str) -> None:
        families = text_string_to_metric_families(text)
        self.samples = [sample for family in families for sample in family.samples]

    def by(self, name: str, label: str, prefix: str = PREFIX) -> dict[str, float]:
        """The sums by the values of a label."""
        sums: dict[str, float] = defaultdict(float)
        for sample in self.samples:
            if sample.name == prefix + name:
                sums[sample.labels.get(label, "")] += sample.value
        return sums

    def total(self, name: str, prefix: str = PREFIX, **labels: str) -> float:
        """The sum over the samples with these labels."""
        return sum(
            sample.value
            for sample in self.samples
            if sample.name == prefix + name and labels.items() <= sample.labels.items()
        )


def scrape(port: int) -> str:
    """The text served there now; empty when nobody answers."""
    with requests.Session() as web:
        web.trust_env = False
        try:
            return web.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text
        except requests.ConnectionError:
            return ""


def promtool(*arguments: str, stdin: str = "") -> str:
    """What promtool prints; a failure of it fails the test. Skips where there is none."""
    if shutil.which("promtool") is None:
        pytest.skip(MISSING)
    answer = subprocess.run(
        ["promtool", *arguments], input=stdin, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


def dashboard_queries() -> list[str]:
    """The queries of all panels and annotations, as Grafana sends them."""
    dashboard = json.loads(DASHBOARD.read_text())
    targets = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    targets += [each["expr"] for each in dashboard["annotations"]["list"]]
    return [target.replace("$feed", ".*").replace("$__rate_interval", "1m") for target in targets]


def names_in(text: str) -> set[str]:
    """The names of our series in a query or a file of rules."""
    return set(re.findall(rf"\b{PREFIX}\w+", text))


def alerts_of(rules: str) -> set[str]:
    return set(re.findall(r"- alert: (\w+)", rules))
