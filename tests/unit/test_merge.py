"""Merging an anonymous id into a user: what moves, in which order, within which bounds."""

from __future__ import annotations

import numpy as np

from app import snapshot
from app.catalogue import Attributes
from app.engine import Engine
from app.events import Record, UserDelete, UserMerge, UserUpsert
from app.recommend import Request
from learners.history import Had
from tests.factories import (
    EVICTING,
    START_MS,
    apply,
    busy_log,
    click,
    feed,
    fingerprint,
    make_engine,
    sessions,
)
from tests.unit.test_history import assert_all_given_back


def merge(engine: Engine, user_id: str, from_id: str) -> str:
    """Merge an id into a user; return what became of it."""
    return apply(engine, UserMerge(user_id, from_id)).results[0].status


def history(engine: Engine, user_id: str) -> list[tuple[object, float]]:
    """Return items and rewards of a user's history, newest first."""
    events = engine.history.events(engine.history.users.get(user_id))
    return [(item_id, reward) for item_id, _, reward in events]


def had(engine: Engine, user_id: str) -> list[Had]:
    """Return a user's had-set, oldest first."""
    return engine.history.had(engine.history.users.get(user_id))


def shared(engine: Engine) -> bytes:
    """Return a fingerprint of what is learned, but for what is users' own."""
    state = engine.learner.state()
    state["factors"] = {name: part for name, part in state["factors"].items() if name != "users"}
    return fingerprint(state)


def slate(engine: Engine, user_id: str) -> list[str]:
    """Return what a user is shown."""
    return [scored.item_id for scored in engine.recommend(Request(user_id, k=50)).items]


def test_history_and_had_set_are_in_the_order_of_time() -> None:
    """Events of both ids follow each other as they happened, with their rewards and types."""
    engine = make_engine()
    apply(engine, click("ana", "a", at_s=10), click("ana", "b", at_s=40))
    apply(engine, click("x", "c", at_s=20), click("x", "d", at_s=30, type="dislike"))
    assert merge(engine, "ana", "x") == "applied"
    assert history(engine, "ana") == [("b", 1.0), ("d", -1.0), ("c", 1.0), ("a", 1.0)]
    dislike, liked = engine.types.index("dislike"), engine.types.index("click")
    assert had(engine, "ana") == [
        Had(item, START_MS + seconds * 1_000, kind)
        for item, seconds, kind in [
            ("a", 10, liked),
            ("c", 20, liked),
            ("d", 30, dislike),
            ("b", 40, liked),
        ]
    ]
    assert "x" not in engine.history.users
    assert "d" not in slate(engine, "ana")


def test_an_item_that_both_had_was_had_last_by_the_later() -> None:
    """Of an item that is in both had-sets, the later time and its type remain, whoever's it is."""
    for later, earlier in (("ana", "x"), ("x", "ana")):
        engine = make_engine()
        apply(engine, click(earlier, "a", at_s=10, type="view"), click(earlier, "b", at_s=15))
        apply(engine, click(later, "a", at_s=20, type="purchase"))
        merge(engine, "ana", "x")
        assert [(one.item_id, one.time_ms - START_MS) for one in had(engine, "ana")] == [
            ("b", 15_000),
            ("a", 20_000),
        ]
        assert had(engine, "ana")[-1].type_index == engine.types.index("purchase")


def test_a_new_user_becomes_who_the_id_was() -> None:
    """Merged into a user who was never here, an id is renamed: what is shown stays the same."""
    engine = feed(make_engine(), sessions(600, n_users=20))
    expected = slate(engine, "u3")
    assert merge(engine, "ana", "u3") == "applied"
    assert slate(engine, "ana") == expected


def test_nothing_shared_is_taught() -> None:
    """Versions and counts of events are as before: what was learned once is not learned again."""
    engine = feed(make_engine(), sessions(600, n_users=20))
    before, n_events = shared(engine), engine.n_events
    merge(engine, "u1", "u2")
    assert shared(engine) == before
    assert engine.n_events == n_events


def test_factors_of_the_user_are_the_mean_of_both() -> None:
    """Each counts as much as the events that it was learned from."""
    engine = make_engine()
    feed(engine, [click("u2", f"i{n}", at_s=n) for n in range(30)])
    feed(engine, [click("u1", f"i{n}", at_s=40 + n) for n in range(10)])
    rows, users = engine.learner.factors.users, engine.history.users
    own, other = rows.take(users.get("u1")), rows.take(users.get("u2"))
    assert own.any()
    assert other.any()
    merge(engine, "u1", "u2")
    merged = rows.live[users.get("u1")]
    np.testing.assert_allclose(merged, 0.25 * own + 0.75 * other, rtol=1e-6)
    assert np.count_nonzero(rows.live.any(axis=1)) == 1


def test_what_cannot_be_merged_changes_nothing() -> None:
    """An id that is unknown, merged already, or the user's own leaves histories as they are."""
    engine = make_engine()
    apply(engine, click("ana", "a"), click("x", "b"), UserUpsert("ana", {"n": 1}))
    assert merge(engine, "ana", "x") == "applied"
    before = fingerprint(engine.history.state()), fingerprint(engine.catalogue.state())
    for from_id in ("x", "nobody", "ana"):
        assert merge(engine, "ana", from_id) == "unchanged"
    assert merge(engine, "newcomer", "nobody") == "unchanged"
    assert before == (fingerprint(engine.history.state()), fingerprint(engine.catalogue.state()))


def test_attributes_move_and_the_users_own_stay() -> None:
    """A user gets the attributes that they have not, as far as there is room."""
    engine = make_engine()
    many: Attributes = {"a": 2}
    many |= {f"n{n}": n for n in range(64)}
    apply(engine, UserUpsert("ana", {"a": 1}), UserUpsert("x", many))
    merge(engine, "ana", "x")
    found = engine.catalogue.user_attributes["ana"]
    assert found["a"] == 1
    assert len(found) == 64
    assert list(found)[1] == "n0"
    assert "x" not in engine.catalogue.user_attributes


def test_what_was_ignored_moves() -> None:
    """How often items were ignored is added up, the id's are the latest; what was had is not."""
    engine = make_engine()
    apply(
        engine, click("ana", "a", at_s=1), click("x", "b", at_s=2), click("y", "c"), click("y", "d")
    )
    for user_id, items in (("ana", "bdd"), ("x", "acd")):
        for item_id in items:
            index = engine.history.items.get(item_id)
            engine.ignored.add(engine.history.users.get(user_id), index)
    merge(engine, "ana", "x")
    user, ids = engine.history.users.get("ana"), engine.history.item_id
    found = [(ids(handle), n) for handle, n in engine.ignored.of(user).items()]
    assert found == [("d", 3), ("c", 1)]


def test_bounds_hold() -> None:
    """History and had-set keep their lengths, the newest stays, and no block of memory is lost."""
    engine = make_engine()
    for who, start in (("ana", 0), ("x", 100)):
        feed(engine, [click(who, f"{who}{n}", at_s=start + n) for n in range(35)])
    merge(engine, "ana", "x")
    assert history(engine, "ana") == [(f"x{n}", 1.0) for n in range(34, 18, -1)]
    names = [one.item_id for one in had(engine, "ana")]
    assert names == [f"ana{n}" for n in range(30, 35)] + [f"x{n}" for n in range(35)]
    apply(engine, UserDelete("ana"))
    assert engine.history.n_rooms == 0
    assert_all_given_back(engine.history)


def test_an_id_may_come_back_and_be_merged_again() -> None:
    """Events that still come in under a merged id make it anew, and can be merged as well."""
    engine = make_engine()
    apply(engine, click("x", "a", at_s=1))
    merge(engine, "ana", "x")
    apply(engine, click("x", "b", at_s=2))
    assert history(engine, "ana") == [("a", 1.0)]
    assert merge(engine, "ana", "x") == "applied"
    assert history(engine, "ana") == [("b", 1.0), ("a", 1.0)]


def test_what_is_learned_again_is_learned_as_the_users() -> None:
    """After a rollback the events of a merged id are learned again, with the history of then."""
    engine = make_engine()
    apply(engine, click("ana", "a", at_s=1), click("x", "b", at_s=2), click("x", "c", at_s=4))
    apply(engine, click("ana", "d", at_s=3))
    merge(engine, "ana", "x")
    apply(engine, click("ana", "e", at_s=5))
    found = [learned for learned in engine.window.events(0, 100, set()) if learned is not None]
    ids = engine.history.items.ids
    assert [ids[learned.item] for learned in found] == ["a", "b", "c", "d", "e"]
    profiles = []
    for learned in engine.window.events(0, 100, set()):
        assert learned is not None
        profile = learned.profile
        profiles.append("".join(str(ids[i]) for i in profile.items[: profile.n]))
    assert profiles == ["", "a", "dba", "ba", "cdba"]


def log_with_merges(n_events: int) -> list[Record]:
    """Return a log of everything, with a merge after every tenth record."""
    log: list[Record] = []
    for number, record in enumerate(busy_log(n_events)):
        log.append(record)
        if number % 10 == 9:
            log.append(UserMerge(f"u{number * 7 % 60}", f"u{number * 11 % 120}"))
    return log


def test_a_snapshot_goes_on_as_the_engine_does() -> None:
    """Restored amid merges, an engine has the same state to the byte as one that went on."""
    log = log_with_merges(600)
    engine = feed(make_engine(**EVICTING), log[:400])
    other = Engine.from_state(snapshot.load([snapshot.dump(engine.state(), engine.cursor)]))
    feed(engine, log[400:])
    feed(other, log[400:])
    assert fingerprint(engine.state()) == fingerprint(other.state())
    assert engine.hashes() == other.hashes()
    grouped = feed(make_engine(**EVICTING), log, group=50)
    assert grouped.hashes() == engine.hashes()
