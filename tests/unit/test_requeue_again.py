"""What an operator had learned again, after another rollback."""

from __future__ import annotations

from typing import Any

import pytest

from app.engine import Engine
from app.events import Command
from learners.base import ANCHOR, CHAMPION, SHADOW
from tests.factories import apply, command, feed, make_engine, sessions

EVENTS = sessions(900, n_users=20)


def requeued(*without: str, semantics: int = 10, anchor_after: bool = False) -> Engine:
    """Return an engine whose operator rolled back, and then had events 206 to 500 requeued.

    Where `anchor_after`, the anchor was made anew in between.
    """
    engine = make_engine(candidate_events=100_000, overlap_min=0.0)
    engine._follow(semantics)
    feed(engine, EVENTS[:500], group=50)
    assert command(engine, "rollback") is None
    assert engine.gate.data.set_aside == [[206, 500]]
    feed(engine, EVENTS[500:600], group=50)
    if anchor_after:
        engine.gate._assign(CHAMPION, SHADOW)
        engine.gate._assign(ANCHOR, SHADOW)
        engine.gate.data.anchor = engine.gate._here()
    feed(engine, EVENTS[600:620], group=20)
    apply(engine, Command("requeue", "but for one it was sound", "tester", without=list(without)))
    feed(engine, EVENTS[620:650], group=30)
    return Engine.from_state(engine.state())


def relearned(engine: Engine) -> dict[str, Any]:
    """Return what was learned again last."""
    return next(d.evidence for d in reversed(engine.gate.decisions) if d.kind == "relearn")


def rolled_back(engine: Engine) -> dict[str, Any]:
    """Let an alarm that sets nothing aside roll back; return what was learned again."""
    engine.gate.roll_back("harm", "gate", {}, aside=[])
    feed(engine, EVENTS[650:651])
    return relearned(engine)


@pytest.mark.parametrize("semantics", [9, 10])
def test_what_was_left_out_of_a_requeue_stays_out(semantics: int) -> None:
    """A later rollback learns the window again without it; until version 10 it came in then."""
    engine, whole = requeued("g03i1", semantics=semantics), requeued(semantics=semantics)
    # Some teach nothing in any case, as they repeat others.
    n_left_out = relearned(engine)["left_out"] - relearned(whole)["left_out"]
    assert n_left_out > 0
    one, other = rolled_back(engine), rolled_back(whole)
    assert one["windows"] == other["windows"] == [[206, 650]]
    assert one["left_out"] - other["left_out"] == (n_left_out if semantics >= 10 else 0)


@pytest.mark.parametrize("semantics", [9, 10])
def test_what_was_requeued_after_the_anchor_is_not_lost(semantics: int) -> None:
    """The anchor does not know it: a rollback to it learns it again, or sets it aside again.

    Until semantics version 10 it was gone, and nothing said so.
    """
    engine = requeued(semantics=semantics, anchor_after=True)
    windows = rolled_back(engine)["windows"]
    assert windows == ([[206, 500]] if semantics >= 10 else []) + [[601, 650]]
    engine = requeued(semantics=semantics, anchor_after=True)
    assert command(engine, "rollback") is None
    aside = engine.gate.data.set_aside
    assert aside == ([[206, 500]] if semantics >= 10 else []) + [[601, 650]]


def test_what_the_anchor_knows_is_not_learned_twice() -> None:
    """What was requeued before the anchor was made is in it."""
    engine = requeued()
    engine.gate._assign(ANCHOR, SHADOW)
    engine.gate.data.anchor = engine.gate._here()
    feed(engine, EVENTS[650:660], group=10)
    engine.gate.roll_back("harm", "gate", {}, aside=[])
    assert engine.gate.decisions[-1].evidence["learned_again"] == [[651, 660]]


def test_a_requeue_of_the_same_says_anew_what_is_left_out() -> None:
    """Who requeues a window whole that was requeued without an item gets all of it."""
    engine = requeued("g03i1")
    assert command(engine, "rollback") is None
    assert command(engine, "requeue") is None
    assert rolled_back(engine)["left_out"] == rolled_back(requeued())["left_out"]
