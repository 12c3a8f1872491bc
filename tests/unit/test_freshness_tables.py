"""What `sluice freshness` prints, of reports that are made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scripts.cells import Lab
from scripts.datasets import of_log
from scripts.freshness import show
from scripts.messy import examine
from scripts.verdicts import METRICS, SEGMENTS
from tests.factories import make_settings, sessions


def report_of(data: str, n: int, loss: float, share: float = 0.5) -> dict[str, Any]:
    """Return a report on so many events, with a loss whose interval is as wide as it is large."""
    stream = of_log((event, None) for event in sessions(1_000, n_users=1))
    one = {"value": loss, "low": -2 * loss, "high": 2 * loss}
    rows = [
        {
            "name": name,
            "kind": kind,
            "list_changed": share,
            "quality": {s: {m: {"value": share} for m in METRICS} for s in SEGMENTS},
            "loss": {s: dict.fromkeys(METRICS, one) for s in SEGMENTS},
            "cost": {
                "cpu_s_per_million_events": n / 1e3,
                "cpu_s_per_million_requests": n / 1e3,
                "money": n / 1e4,
                "state_bytes": n,
            },
        }
        for name, kind in (("personal 10 min", "personal"), ("micro_batch 10 min", "tier"))
    ]
    return {
        "data": data,
        "events": n,
        "mess": examine(stream, make_settings()),
        "judged": dict.fromkeys(SEGMENTS, n),
        "segments": SEGMENTS,
        "cells": rows,
        "frontier": ["micro_batch 10 min"],
        "terms": {"price_per_core_hour": 0.05, "requests_per_event": 1.0},
        "headline": "said in a line",
        "advice": {"shared": "what it costs"},
        "rule": "as stated",
    }


def test_usual_figures_have_room_in_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No line of the tables is longer than a terminal of the usual width, and nothing is cut."""
    monkeypatch.setenv("COLUMNS", "80")
    show(report_of("events.csv", 44_300, 0.0841))
    out = capsys.readouterr().out
    assert "8.41%  -16.82 to 16.82" in out
    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out


def test_large_figures_are_never_cut(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where figures have no room the lines are longer, so that not one digit is lost."""
    monkeypatch.setenv("COLUMNS", "80")
    show(report_of("events.csv", 1_234_567_890, 34.5678))
    out = capsys.readouterr().out
    assert "…" not in out
    assert out.count("1,234,567,890") == 2 + len(SEGMENTS)
    for figure in ("3456.78%", "-6913.56 to 6913.56", "1,234,568", "123456.7890", "1,177.4"):
        assert figure in out


def test_names_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """A folder or a user may be called what would be markup elsewhere."""
    report = report_of("old[/bold]", 5, 0.0)
    report["mess"]["users"] |= {"largest_user": "[red]u[/]", "largest_share": 0.5}
    show(report)
    out = capsys.readouterr().out
    assert "old[/bold]: 5 events" in out
    assert "One user, '[red]u[/]', has 50.0%" in out


def test_what_cells_judge_is_not_what_a_service_has_set(tmp_path: Path) -> None:
    """Every event is judged, whatever share of them a service judges, and however many a second."""
    events = sessions(100)
    few = make_settings(judge_share=0.5, judge_per_s=1)
    for base in Lab(events, "digest", few, tmp_path).base.values():
        assert (base.judge_share, base.judge_per_s) == (1.0, 0)
