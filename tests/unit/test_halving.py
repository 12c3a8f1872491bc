"""Counts that are halved from time to time, so that what came lately says more."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from app.engine import Engine
from app.events import Command
from app.settings import KNOWN_SEMANTICS, EngineSettings
from learners import Blend, Covisit, Sequence
from learners.base import SHADOW
from learners.ids import State
from learners.neighbours import NeighbourLists
from tests.factories import (
    apply,
    command,
    configure,
    feed,
    make_engine,
    make_settings,
    restore,
    sessions,
)

Make = Any
NEVER: dict[str, Any] = {"overlap_min": 0, "halve_counts_at": 0}


def taught(make: Make, n: int, halve_at: int) -> NeighbourLists:
    """Return a learner whose users had "a", then each another of five items, n times in all."""
    model: NeighbourLists = make(max_neighbours=5, halve_at=halve_at)
    for event in range(n):
        model.learn_one(f"u{event}", "a", 1.0)
        model.learn_one(f"u{event}", f"b{event % 5}", 1.0)
    return model


def row_of(model: NeighbourLists, item: str) -> tuple[float, Any]:
    """Return the mass of an item's row, and its weights."""
    slot = model.rows.slots[SHADOW][model.personal.items.get(item)]
    return float(model.neighbours.mass[slot]), model.neighbours.weight[slot]


@pytest.mark.parametrize(("make", "last"), [(Covisit, 1.0), (Sequence, 0.5)])
def test_a_row_is_halved_at_its_limit(make: Make, last: float) -> None:
    """Mass and weights are halved together, as soon as the mass has come to the limit."""
    mass, weights = row_of(taught(make, 9, 10), "a")
    assert (mass, weights.sum()) == (9.0, 9.0)
    # What a sequence counts last is in the row by then; co-visitation sees it with the next item.
    mass, halved = row_of(taught(make, 10, 10), "a")
    assert (mass, halved.sum()) == (5.0, weights.sum() / 2 + last)
    assert row_of(taught(make, 10, 0), "a")[0] == 10.0
    mass, _ = row_of(taught(make, 200, 10), "a")
    assert 5.0 <= mass < 10.0


@pytest.mark.parametrize("make", [Covisit, Sequence])
def test_a_full_row_takes_what_is_new(make: Make) -> None:
    """After thousands of events with others an item finds what goes with it now; not without."""
    for halve_at, is_found in ((50, True), (0, False)):
        model = taught(make, 3_000, halve_at)
        for event in range(60):
            model.learn_one(f"v{event}", "a", 1.0)
            model.learn_one(f"v{event}", "new", 1.0)
        scores = {item: model.predict_one("somebody", item) for item in ("new", "b1")}
        model.learn_one("somebody", "a", 1.0)
        scores = {item: model.predict_one("somebody", item) for item in scores}
        assert (scores["new"] > scores["b1"]) == is_found, (halve_at, scores)


def test_a_limit_that_is_never_reached_changes_nothing() -> None:
    """To the byte: hashes are those of counts that are kept for ever."""
    log = sessions(200)
    plain, limited = (feed(make_engine(halve_counts_at=at), log) for at in (0, 10**9))
    assert plain.hashes()["model_hash"] == limited.hashes()["model_hash"]
    assert plain.hashes() != feed(make_engine(halve_counts_at=10), log).hashes()


def test_it_is_in_a_log_only_where_it_is_set() -> None:
    """A log of before goes on as it is, and a snapshot knows what its counts were halved at."""
    for semantics in KNOWN_SEMANTICS:
        assert "halve_counts_at" not in EngineSettings().logged(semantics)
        assert make_settings(halve_counts_at=40).logged(semantics)["halve_counts_at"] == 40
    engine = feed(make_engine(halve_counts_at=40), sessions(100))
    twin = Engine.from_state(engine.state())
    assert isinstance(twin.learner, Blend)
    assert twin.learner.covisit.limit == twin.learner.sequence.limit == 40.0
    log = sessions(200)
    assert feed(engine, log).hashes() == feed(twin, log).hashes()
    assert np.isinf(make_engine().learner.covisit.limit)


def test_a_log_can_be_told_to_halve_from_here_on() -> None:
    """Rows that are full come under the limit within a few events; old snapshots still fit."""
    log, half = sessions(800, n_groups=1), 400
    settings = make_settings(halve_counts_at=10, challenger={"n_factors": 8})
    engine = feed(make_engine(challenger={"n_factors": 8}), log[:half])
    snapshot = copy.deepcopy(engine.state())
    assert row_of(engine.learner.covisit, "g00i0")[0] > 30
    outcome = apply(engine, configure(settings, reconfigure=True))
    kinds = [d.kind for d in outcome.decisions]
    assert kinds == ["configure", "challenger_stopped", "challenger_started"]
    assert outcome.decisions[0].evidence["halve_counts_at"] == [0, 10]
    running = engine.challenges.running
    assert running is not None
    assert running.learner.covisit.limit == engine.learner.sequence.limit == 10.0
    twin = Engine.from_state(copy.deepcopy(engine.state()))
    for one in (engine, twin):
        feed(one, log[half:])
        assert row_of(one.learner.covisit, "g00i0")[0] < 10
    assert engine.hashes() == twin.hashes()
    assert restore(engine, snapshot).results[0].status == "applied"


def adopted() -> tuple[Engine, State]:
    """Return an engine that has adopted 40 where its log says 0, and its state before that."""
    engine = feed(make_engine(**NEVER), sessions(400), group=50)
    snapshot = copy.deepcopy(engine.state())
    challenge(engine, halve_counts_at=40)
    assert command(engine, "adopt", force=True) is None
    return engine, snapshot


def challenge(engine: Engine, **changes: Any) -> None:
    """Start a challenger."""
    apply(engine, Command("start_challenger", "a test asks", "tester", changes=changes))


def halve_at(engine: Engine, limit: int) -> list[str]:
    """Change the setting in the log; return the kinds of the decisions that this made."""
    settings = make_settings(**NEVER | {"halve_counts_at": limit})
    return [d.kind for d in apply(engine, configure(settings, reconfigure=True)).decisions]


def test_what_was_adopted_stands_between_a_snapshot_and_now() -> None:
    """A log of before refuses what it refused then; once the setting has changed, counts fit."""
    engine, snapshot = adopted()
    assert "halve_counts_at=0, now 40" in str(restore(engine, snapshot).results[0].reason)
    halve_at(engine, 30)
    assert restore(engine, snapshot).results[0].status == "applied"


def test_an_operator_has_the_last_word_on_what_was_adopted() -> None:
    """Who sets it after an adoption gets it; a challenger goes on where nothing changes by that."""
    engine, _ = adopted()
    challenge(engine, n_factors=8)
    assert halve_at(engine, 40) == ["configure"]
    assert engine.challenges.running is not None
    twin = Engine.from_state(copy.deepcopy(engine.state()))
    for one in (engine, twin):
        assert halve_at(one, 30) == ["configure", "challenger_stopped"]
        assert one.settings.halve_counts_at == one.learner.covisit.limit == 30
        feed(one, sessions(200, start=1_000))
    assert twin.hashes() == engine.hashes() == Engine.from_state(engine.state()).hashes()
