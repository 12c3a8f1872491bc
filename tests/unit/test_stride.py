"""How many events are looked at together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from app.admission import Admission, Run
from app.slices import SIZE, Stride
from tests.factories import apply, make_engine, sessions


def test_what_ended_a_look_is_taken_by_itself() -> None:
    """Nobody looks in vain at an event that could not be joined; behind it, as far as went well."""
    stride = Stride()
    assert stride.next(SIZE) == SIZE
    stride.note(SIZE, 5)
    assert stride.next(SIZE) == 0
    assert stride.next(SIZE) == 10
    stride.note(10, 5, is_over=True)
    assert stride.next(SIZE) == 10


def test_events_that_teach_nothing_are_not_looked_at_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a tracker's events each fifth is of a type that nobody knows: few looks find nothing."""
    n_found: list[int] = []
    plain = Admission.plain

    def noted(self: Admission, events: Sequence[Any], *args: Any) -> Run:
        run = plain(self, events, *args)
        n_found.append(run.n)
        return run

    engine = make_engine(gate="off")
    events = [
        replace(event, type="hover") if number % 5 == 4 else event
        for number, event in enumerate(sessions(1_000, seed=1, n_users=60))
    ]
    monkeypatch.setattr(Admission, "plain", noted)
    apply(engine, *events)
    assert len(n_found) > 100
    assert n_found.count(0) < 0.2 * len(n_found)
