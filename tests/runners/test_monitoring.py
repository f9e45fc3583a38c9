"""The alert rules and the dashboard, against the declared metrics and the real promtool."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from schemas.metrics import METRICS
from tests.monitoring import ALERTS, DASHBOARD, MONITORING, alerts_of, dashboard_queries, names_in, promtool

SERIES = {name for metric in METRICS for name in metric.series} | {
    "process_resident_memory_bytes",
    "up",
    "ALERTS",
}
STORIES = Path(__file__).parent / "monitoring" / "alerts.test.yml"


def test_each_alert_fires_and_clears_as_its_story_says() -> None:
    promtool("test", "rules", str(STORIES))


def test_every_alert_has_a_story_in_which_it_fires() -> None:
    fired = set(re.findall(r"alertname(?:=|: )\"?(\w+)", STORIES.read_text()))
    assert fired == alerts_of(ALERTS.read_text())


def test_a_story_fails_when_its_rule_is_another(tmp_path: Path) -> None:
    rules = ALERTS.read_text().replace("> 100000", "> 900000")
    (tmp_path / "alerts.yml").write_text(rules)
    (tmp_path / "test.yml").write_text(re.sub(r"\[\S*alerts.yml\]", "[alerts.yml]", STORIES.read_text()))
    with pytest.raises(AssertionError, match="LagHigh"):
        promtool("test", "rules", str(tmp_path / "test.yml"))


def test_prometheus_takes_the_configuration() -> None:
    promtool("check", "config", str(MONITORING / "prometheus.yml"))


def test_rules_and_dashboard_name_only_metrics_that_exist() -> None:
    named = names_in(ALERTS.read_text())
    named |= {name for query in dashboard_queries() for name in names_in(query)}
    assert named <= SERIES


def test_the_dashboard_shows_every_metric() -> None:
    shown = DASHBOARD.read_text()
    assert [metric.full_name for metric in METRICS if metric.full_name not in shown] == []
