"""What deploy/ offers fits the service: every metric and label named there is in /metrics."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.service import small

DEPLOY = Path(__file__).parents[2] / "deploy"
NAME = re.compile(r"\b((?:sluice|process)_[a-z_]+)\b(?:\{([^}]*(?:\{[a-z_]+\}[^}]*)*)\})?")
LABEL = re.compile(r'(\w+)(?:=~|!~|!=|=)"')
SAMPLE = re.compile(r"^([a-z_]+)(?:\{(.*)\})? \S+$", re.MULTILINE)
# Prometheus' own.
TARGET = {"instance", "job"}


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What a service shows that has all its parts, and to which next to nothing has happened."""
    folder = tmp_path_factory.mktemp("deploy")
    service = small(folder, tokens="check", token_keys="k" * 16).start()
    service.post("/v1/feedback", {"user_id": "u", "item_id": "i", "type": "click"})
    service.get("/v1/recommendations/u")
    yield service.client.get("/metrics").text
    service.close()


@pytest.fixture(scope="module")
def samples(metrics: str) -> dict[str, set[str]]:
    """Every metric that the service shows, with the labels that it has."""
    found: dict[str, set[str]] = {}
    for name, labels in SAMPLE.findall(metrics):
        found.setdefault(name, set()).update(LABEL.findall(labels))
    return found


def rules() -> list[dict[str, Any]]:
    """Return the alert rules."""
    groups = yaml.safe_load((DEPLOY / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard_queries() -> list[str]:
    """Return the queries of the Grafana dashboard, its annotations among them."""
    content = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    panels = [target["expr"] for panel in content["panels"] for target in panel["targets"]]
    return panels + [each["expr"] for each in content["annotations"]["list"]]


def check(query: str, samples: dict[str, set[str]]) -> None:
    """Hold a query's metrics and labels against those that there are."""
    named = NAME.findall(query)
    assert named, query
    for name, selector in named:
        assert name in samples, query
        assert set(LABEL.findall(selector)) - TARGET <= samples[name], query


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_an_alert_is_about_something_that_is_measured(
    rule: dict[str, Any], samples: dict[str, set[str]]
) -> None:
    """Its metrics and labels exist; it says what happened, why it matters and what to do."""
    if rule["alert"] != "SluiceDown":  # Prometheus' own `up`
        check(rule["expr"], samples)
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert set(rule["annotations"]) == {"summary", "why", "runbook"}
    assert all(len(text) > 15 for text in rule["annotations"].values())


def test_the_dashboard_shows_what_is_measured(samples: dict[str, set[str]]) -> None:
    """Every query of the Grafana dashboard is over metrics and labels that exist."""
    queries = dashboard_queries()
    assert len(queries) > 15
    for query in queries:
        check(query, samples)


def test_alerts_that_count_find_their_series_from_the_start(metrics: str) -> None:
    """A decision that is alerted upon has a series before it first happens, at 0."""
    for kind in ("rollback", "alarm", "hold"):
        assert f'sluice_gate_decisions_total{{kind="{kind}"}} 0.0' in metrics


def test_prometheus_takes_the_rules() -> None:
    """Prometheus' own checker finds no fault with them."""
    if not (promtool := shutil.which("promtool")):
        pytest.skip("no promtool on PATH (Debian: apt-get install prometheus)")
    done = subprocess.run(
        [promtool, "check", "rules", DEPLOY / "alerts.yaml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
