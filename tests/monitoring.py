"""What tests of metrics need: reading an endpoint, and the real promtool."""

from __future__ import annotations

import shutil
import subprocess
from collections import defaultdict

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from schemas.metrics import PREFIX

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
