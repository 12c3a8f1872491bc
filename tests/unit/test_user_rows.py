"""Factors of users' own: what is learned of each user by the side of what is shared."""

from __future__ import annotations

import numpy as np
import pytest

from app.engine import Engine
from app.events import Upgrade, UserDelete
from app.recommend import Request
from app.settings import KNOWN_SEMANTICS
from learners.history import History
from learners.kernels import F32
from learners.user_rows import UserRows
from tests.factories import (
    apply,
    busy_log,
    click,
    command,
    configure,
    feed,
    fingerprint,
    make_engine,
    make_settings,
    restore,
    sessions,
)


def rows(engine: Engine) -> UserRows:
    """Return what the factors keep of users."""
    return engine.learner.factors.users


def own(engine: Engine, user_id: str) -> F32:
    """Return a copy of a user's own factors."""
    return rows(engine).take(engine.history.users.get(user_id))


def of_all(engine: Engine) -> dict[str, bytes]:
    """Return all users' own factors."""
    return {f"{u}": own(engine, f"{u}").tobytes() for u in engine.history.users.index}


def scores(engine: Engine, user_id: str) -> list[float]:
    """Return what a user's list is ranked by."""
    return [scored.score for scored in engine.recommend(Request(user_id, k=20)).items]


def test_they_are_live_and_nobody_elses() -> None:
    """An event moves its user's factors, and their list, while the champion stands still."""
    engine = feed(make_engine(), sessions(600, n_users=20))
    command(engine, "freeze")
    before, version = of_all(engine), engine.gate.data.version
    apply(engine, click("u3", "g02i2", at_s=700), click("u3", "g02i4", at_s=701))
    after = of_all(engine)
    assert [user for user in after if after[user] != before[user]] == ["u3"]
    assert engine.gate.data.version == version
    with_own = scores(engine, "u3")
    rows(engine).live[:] = 0.0
    assert scores(engine, "u3") != with_own


def test_strangers_have_none() -> None:
    """Nobody's row stays zero, whatever is asked and learned."""
    engine = feed(make_engine(), busy_log(900))
    engine.recommend(Request("nobody", k=5))
    engine.recommend(Request(None, k=5, history=["g01i1", "g02i2"]))
    assert rows(engine).live.any()
    assert not rows(engine).live[-1].any()


def test_who_is_forgotten_leaves_none() -> None:
    """Of a user who goes nothing is kept, and who gets the place begins with nothing."""
    engine = feed(make_engine(), sessions(600, n_users=20))
    user = engine.history.users.get("u3")
    assert own(engine, "u3").any()
    apply(engine, UserDelete("u3"))
    assert not rows(engine).live[user].any()
    apply(engine, click("newcomer", "g01i1", at_s=700))
    assert engine.history.users.get("newcomer") == user
    assert not own(engine, "newcomer").any()


def test_what_is_learned_again_leaves_them_alone() -> None:
    """An operator who sets back what is shared, and has it learned again, moves nobody's own."""
    engine = feed(make_engine(), sessions(900, n_users=20))
    before = of_all(engine)
    command(engine, "rollback", force=True)
    command(engine, "requeue")
    assert engine.gate.decisions[-1].kind == "relearn"
    assert of_all(engine) == before


def test_a_restored_snapshot_leaves_them_alone() -> None:
    """To restore shared state of before is about what is shared."""
    engine = feed(make_engine(), sessions(600, n_users=20))
    state = Engine.from_state(engine.state()).state()
    feed(engine, sessions(300, seed=2, n_users=20, start=600))
    before = of_all(engine)
    restore(engine, state)
    assert of_all(engine) == before


def test_requests_know_them_as_of_the_batch() -> None:
    """In batches they are served as they were when this one began, over a restart as well."""
    engine = make_engine(freshness="micro_batch", freshness_personal_s=600, warmup_events=100)
    feed(engine, sessions(600, n_users=20))
    apply(engine, click("u1", "g09i9", at_s=1_200), click("u2", "g08i8", at_s=1_201))
    served = scores(engine, "u1")
    apply(engine, click("u1", "g09i1", at_s=1_201), click("u1", "g09i2", at_s=1_201))
    user = engine.history.users.get("u1")
    assert (rows(engine).past[user] != rows(engine).live[user]).any()
    assert scores(engine, "u1") == served
    again = Engine.from_state(engine.state())
    assert scores(again, "u1") == served
    assert again.hashes() == engine.hashes()
    rows(again).past[user] += 1.0
    assert scores(again, "u1") != served
    assert again.hashes()["model_hash"] != engine.hashes()["model_hash"]


def test_they_are_in_snapshots_and_hashes() -> None:
    """What is restored goes on as before; a row of other numbers is another state."""
    log = busy_log(1_200)
    engine = feed(make_engine(), log[:900])
    again = Engine.from_state(engine.state())
    assert of_all(again) == of_all(engine)
    for one in (engine, again):
        feed(one, log[900:])
    assert again.hashes() == engine.hashes()
    assert fingerprint(again.state()) == fingerprint(engine.state())
    rows(again).live[0] += 1.0
    assert again.hashes()["model_hash"] != engine.hashes()["model_hash"]


@pytest.mark.parametrize("semantics", [v for v in KNOWN_SEMANTICS if v < 9])
def test_older_logs_have_none_until_they_go_on(semantics: int) -> None:
    """In a log of an older version there are none; from an upgrade on they are learned."""
    settings = make_settings()
    engine = Engine(settings)
    apply(engine, configure(settings, semantics=semantics))
    feed(engine, sessions(300, n_users=9), group=50)
    assert not rows(engine).width
    assert "users" not in engine.learner.state()["factors"]
    assert Engine.from_state(engine.state()).hashes() == engine.hashes()
    apply(engine, Upgrade(9, "a test asks", "tester"))
    assert not rows(engine).live.any()
    feed(engine, sessions(100, seed=2, n_users=9, start=300))
    assert rows(engine).live.any()
    assert Engine.from_state(engine.state()).hashes() == engine.hashes()


def test_to_keep_them_again_is_to_keep_them() -> None:
    """A version that keeps them too, as the next one will, goes on with what there is."""
    engine = feed(make_engine(), sessions(300, n_users=9))
    before = of_all(engine)
    engine.learner.use_users(is_on=True)
    assert of_all(engine) == before


@pytest.mark.parametrize("changes", [{"covisit_shrink": 9.0}, {"n_factors": 16}])
def test_a_challenger_has_its_own(changes: dict[str, object]) -> None:
    """It begins with those of the champion where they fit, and learns its own from there."""
    engine = feed(make_engine(challenger=changes), sessions(600, n_users=20))
    running = engine.challenges.running
    assert running is not None
    theirs = running.learner.factors.users
    assert theirs.width == changes.get("n_factors", rows(engine).width)
    assert theirs.live.any()
    assert theirs.live is not rows(engine).live
    assert Engine.from_state(engine.state()).hashes() == engine.hashes()
    command(engine, "stop_challenger")
    assert engine.history.user_rows == [rows(engine)]


def test_a_mean_with_nothing_is_what_was_there() -> None:
    """Merged with one who has no events, a row stays as it is, to the last bit."""
    history = History(max_items=2, max_users=2)
    kept = UserRows(history, 5)
    row = np.random.default_rng(1).normal(size=5).astype(np.float32)
    kept.merge(0, row, 7, np.zeros(5, np.float32), 0)
    assert kept.live[0].tobytes() == row.tobytes()
