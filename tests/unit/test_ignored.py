from __future__ import annotations

import pytest

from app.engine import Engine
from app.events import Impression, UserDelete
from app.ignored import N_IGNORED
from app.recommend import Request
from tests.factories import (
    START_MS,
    apply,
    click,
    feed,
    fingerprint,
    make_engine,
    sessions,
)


def shop(**changes: object) -> Engine:
    """Return an engine that knows u0 to u9."""
    return feed(make_engine(**changes), sessions(600, n_users=10), group=100)


def show(engine: Engine, user: str, *items: str, slate: str = "s") -> None:
    """Log that a user was shown some items."""
    scores = [1.0] * len(items)
    apply(engine, Impression(slate, user, list(items), scores, START_MS + 700_000))


def times(engine: Engine, user: str, item: str) -> int:
    """Return how often a user has ignored an item."""
    return engine.ignored.times(engine.history.users.get(user), engine.history.items.get(item))


def scores(engine: Engine, user: str) -> dict[str, float]:
    """Return the scores of all that would be shown to a user."""
    return {s.item_id: s.score for s in engine.recommend(Request(user, k=100)).items}


def test_each_showing_lowers_a_score_a_little_more() -> None:
    """A score falls by the weight each time, for that user alone, and no other score moves."""
    engine = shop(ignored_weight=0.25)
    before, others = scores(engine, "u1"), scores(engine, "u2")
    first, second, *rest = before
    for n in range(3):
        show(engine, "u1", first, slate=f"s{n}")
    show(engine, "u1", second)
    after = scores(engine, "u1")
    assert after[first] == pytest.approx(before[first] - 0.75)
    assert after[second] == pytest.approx(before[second] - 0.25)
    assert {item: after[item] for item in rest} == {item: before[item] for item in rest}
    assert scores(engine, "u2") == others


def test_it_can_be_turned_off() -> None:
    """With a weight of 0 nothing is lowered, though it is remembered."""
    engine = shop(ignored_weight=0.0)
    before = scores(engine, "u1")
    show(engine, "u1", *list(before)[:5])
    assert scores(engine, "u1") == before
    assert times(engine, "u1", next(iter(before))) == 1


def test_what_was_taken_was_not_ignored() -> None:
    """An item that the user clicked, before or after it is logged as shown, is not held ignored."""
    engine = shop(exclude_had=False)
    had = {had.item_id for had in engine.history.had(engine.history.users.get("u1"))}
    early, late, never = [item for item in scores(engine, "u1") if item not in had][:3]
    apply(engine, click("u1", early, at_s=650))
    show(engine, "u1", early, late, never)
    assert [times(engine, "u1", item) for item in (early, late, never)] == [0, 1, 1]
    apply(engine, click("u1", late, at_s=660))
    assert [times(engine, "u1", item) for item in (early, late, never)] == [0, 0, 1]


def test_only_the_last_ones_are_remembered() -> None:
    """Past N_IGNORED the item shown longest ago goes; one that is shown again is the latest."""
    engine = shop()
    items = [str(item) for item in engine.history.items.index][: N_IGNORED + 2]
    user = engine.history.touch_user("fresh", engine.tick + 1)
    show(engine, "fresh", *items[: N_IGNORED // 2])
    show(engine, "fresh", *items[N_IGNORED // 2 : N_IGNORED], slate="t")
    show(engine, "fresh", items[0], slate="u")
    show(engine, "fresh", *items[N_IGNORED:], slate="v")
    found = [engine.ignored.times(user, engine.history.items.get(item)) for item in items]
    assert found == [2, 0, 0] + [1] * (N_IGNORED - 1)


def test_a_count_has_a_bound() -> None:
    """Past 255 showings it counts no further."""
    engine = shop()
    item = next(iter(scores(engine, "u1")))
    for n in range(300):
        show(engine, "u1", item, slate=f"s{n}")
    assert times(engine, "u1", item) == 255


def test_it_is_forgotten_with_the_user() -> None:
    """Who gets a forgotten user's place has ignored nothing, and nothing of it is in a snapshot."""
    engine = shop()
    shown = list(scores(engine, "u1"))[:4]
    show(engine, "u1", *shown)
    user = engine.history.users.get("u1")
    apply(engine, UserDelete("u1"))
    assert engine.history.touch_user("another", engine.tick + 1) == user
    assert [engine.ignored.times(user, engine.history.items.get(item)) for item in shown] == [0] * 4
    assert not engine.ignored.state()["n"].any()


def test_an_item_that_was_evicted_and_came_back_is_another() -> None:
    """What was ignored is the item of then."""
    engine = shop()
    item = next(iter(scores(engine, "u1")))
    show(engine, "u1", item)
    assert times(engine, "u1", item) == 1
    engine.history.evict_item(item)
    engine.history.touch_item(item, engine.tick + 1)
    assert times(engine, "u1", item) == 0


def test_an_explanation_adds_up() -> None:
    """What was lost for being ignored is a part of the score, and the parts are the score."""
    engine = shop(ignored_weight=0.5)
    show(engine, "u1", *list(scores(engine, "u1"))[:3])
    lowered = 0
    for scored in engine.recommend(Request("u1", k=50, explain=True)).items:
        why = scored.why or []
        if why:
            assert sum(part["weight"] for part in why) == pytest.approx(scored.score, abs=1e-9)
        lowered += {"because": "ignored", "weight": -0.5} in why
    assert lowered == 3


def test_it_survives_a_snapshot() -> None:
    """An engine from a state has the same content, and goes on the same."""
    engine = shop()
    for n, user in enumerate(("u1", "u2", "u1")):
        show(engine, user, *list(scores(engine, user))[n : n + 5], slate=f"s{n}")
    twin = Engine.from_state(engine.state())
    for each in (engine, twin):
        show(each, "u1", "g01i1", "g02i2", "g03i3", slate="later")
    assert twin.hashes() == engine.hashes()
    assert fingerprint(twin.state()) == fingerprint(engine.state())
