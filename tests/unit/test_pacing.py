"""Promotions where more events come in a second than are judged."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
from msgspec.structs import replace

from app.engine import Engine
from app.events import Entry, Feedback, Upgrade
from app.gate_data import Clock
from tests.factories import START_MS, configure, fingerprint, make_settings, sessions

PER_S = 50
SETTINGS: dict[str, Any] = {"judge_per_s": 5, "promote_events": 20, "overlap_min": 0}


def stream(n: int) -> list[Feedback]:
    """Return visits, fifty events a second."""
    return [
        replace(event, time_ms=START_MS + number * 1_000 // PER_S)
        for number, event in enumerate(sessions(n, seed=5, n_users=100))
    ]


def begun(semantics: int, **changes: Any) -> Engine:
    """Return an engine of a semantics version whose log has begun."""
    settings = make_settings(**{**SETTINGS, **changes})
    engine = Engine(settings)
    engine.apply(Entry([configure(settings, semantics=semantics)]), "0-1")
    return engine


def promotions(engine: Engine) -> list[int]:
    """Return after how many events each promotion came."""
    return [d.event for d in engine.gate.decisions if d.kind == "promote"]


def test_promotions_come_at_the_pace_of_judging() -> None:
    """About every four seconds, where five of fifty events a second count; until version 12 all."""
    n, warm = 4_000, 200
    found = {}
    for semantics in (11, 12):
        engine = begun(semantics, warmup_events=warm)
        engine.apply(Entry(list(stream(n))), "1-1")
        found[semantics] = promotions(engine)
    assert len(found[11]) > (n - 2 * warm) / 20 * 0.9
    assert 0.6 * len(found[11]) / 10 < len(found[12]) < 1.4 * len(found[11]) / 10


@pytest.mark.parametrize("changes", [{"judge_per_s": 0}, {"judge_per_s": PER_S + 10}])
def test_where_few_come_all_count(changes: dict[str, Any]) -> None:
    """Nothing changes below what is judged a second, or where all is."""
    found = []
    for semantics in (11, 12):
        engine = begun(semantics, **changes)
        engine.apply(Entry(list(stream(1_500))), "1-1")
        found.append(promotions(engine))
    assert found[0] == found[1] != []


def test_a_log_goes_on_counting_after_an_upgrade() -> None:
    """What came before counts whole; and a snapshot of version 11 is as it was."""
    events = stream(2_000)
    engine = begun(11)
    engine.apply(Entry(list(events[:1_000])), "1-1")
    state = engine.state()
    assert "n_paced" not in state
    assert "paced" not in state["gate"]["now"]
    again = Engine.from_state(state)
    for one in (engine, again):
        one.apply(Entry([Upgrade(12, "a test", "operator")]), "2-1")
        assert one.n_paced == one.n_events
        one.apply(Entry(list(events[1_000:])), "3-1")
        assert one.n_events - 1_000 > 5 * (one.n_paced - 1_000) > 0
    assert fingerprint(engine.state()) == fingerprint(again.state())
    assert fingerprint(Engine.from_state(again.state()).state()) == fingerprint(engine.state())


def test_a_clock_of_before_has_counted_all() -> None:
    """Where nobody says how many count for promotions, it is all events."""
    saved = {"event": 7, "learned": 5, "time_ms": 9}
    assert Clock(**saved) == Clock(7, 5, 9, 7)
    assert Clock(**asdict(Clock(7, 5, 9, 3))) == Clock(7, 5, 9, 3)
