"""What a service writes to stderr while it runs."""

from __future__ import annotations

import json

import msgspec
import pytest

from tests.factories import sessions
from tests.integration.conftest import StartService
from tests.integration.service import Service, until


def warmed_up(service: Service) -> int:
    """Let a service learn, be acted on, and refuse; return how many decisions that made."""
    events = [msgspec.structs.replace(event, time_ms=None) for event in sessions(400)]
    for start in range(0, len(events), 50):
        service.learn(events[start : start + 50])
    service.post("/v1/feedback", [{"user_id": "u", "item_id": "i", "type": "stare"}] * 100)
    service.post("/v1/model/freeze", {"reason": 'so "far"'})
    n: int = service.get("/v1/model")["gate"]["decisions"]
    assert n > 3
    return n


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_decision_is_a_line_and_an_event_is_none(make_service: StartService, form: str) -> None:
    """However many events, there is a line for each decision, in either form, and none beside."""
    service = make_service(log_format=form).start()
    before = len(service.log.splitlines())
    n = warmed_up(service)
    until(lambda: len(service.log.splitlines()) - before >= n)
    lines = service.log.splitlines()[before:]
    assert len(lines) == n
    assert all("gate: " in line for line in lines)
    assert "freeze" in lines[-1]
    if form == "text":
        assert "number=" in lines[0]


def test_json_lines_are_json(make_service: StartService) -> None:
    """Each line is an object with time, level and message; a decision is in it as it is kept."""
    service = make_service(log_format="json").start()
    warmed_up(service)
    lines = [json.loads(line) for line in service.log.splitlines()]
    assert all({"time", "level", "logger", "message"} <= set(line) for line in lines)
    [freeze] = [d for line in lines if (d := line.get("decision")) and d["kind"] == "freeze"]
    [shown] = service.get("/v1/decisions", n=1)["decisions"]
    assert freeze["reason"] == 'so "far"'
    assert {name: freeze[name] for name in ("number", "event", "evidence")} == {
        name: shown[name] for name in ("number", "event", "evidence")
    }
