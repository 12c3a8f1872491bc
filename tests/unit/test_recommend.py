from __future__ import annotations

import pytest

from app.engine import Engine
from app.events import ItemUpsert
from app.recommend import Request, Scored, mean_overlap
from tests.factories import apply, click, feed, make_engine, sessions, upsert


def popular(n: int = 6, **changes: object) -> Engine:
    """Return an engine in which item i5 is the most popular, then i4, and so on."""
    events = [click(f"u{u}", f"i{i}", at_s=i) for i in range(n) for u in range(i + 1)]
    return feed(make_engine(**changes), events)


def ids(items: list[Scored]) -> list[str]:
    """Return the item ids of a slate."""
    return [scored.item_id for scored in items]


def ask(engine: Engine, **request: object) -> list[str]:
    """Return the item ids that answer a request."""
    return ids(engine.recommend(Request(**request)).items)  # type: ignore[arg-type]


def test_a_stranger_gets_what_is_popular() -> None:
    """An unknown user gets the trending list, as does nobody at all."""
    engine = popular()
    assert ask(engine, user_id="stranger") == ["i5", "i4", "i3", "i2", "i1", "i0"]
    assert ask(engine, k=2) == ["i5", "i4"]


def test_what_was_had_is_not_shown_again() -> None:
    """What a user had is left out, unless the settings say otherwise."""
    assert ask(popular(), user_id="u4") == ["i3", "i2", "i1", "i0"]
    assert len(ask(popular(exclude_had=False), user_id="u4")) == 6


def test_what_was_refused_is_gone_at_once() -> None:
    """A skip or dislike takes an item off that user's list, also where what was had may return."""
    for changes in ({}, {"exclude_had": False}):
        engine = popular(**changes)
        assert "i5" in ask(engine, user_id="picky")
        for type_, item in (("dislike", "i5"), ("skip", "i2")):
            apply(engine, click("picky", item, at_s=50, type=type_))
            assert item not in ask(engine, user_id="picky")
        assert {"i5", "i2"} <= set(ask(engine, user_id="stranger"))
        apply(engine, click("picky", "i2", at_s=60))
        assert ("i2" in ask(engine, user_id="picky")) == ("exclude_had" in changes)


def test_what_was_refused_is_not_looked_for_in_haste() -> None:
    """In haste, too, where trending names too few and more is searched for, it stays away."""
    engine = feed(popular(exclude_had=False), [upsert(f"new{n}") for n in range(10)])
    apply(engine, click("u9", "i5", type="skip"))
    found = ask(engine, user_id="u9", k=12, in_haste=True)
    assert found[:5] == ["i4", "i3", "i2", "i1", "i0"]
    assert len(found) == 12
    assert "i5" not in found


def test_hidden_and_excluded_items_are_not_shown() -> None:
    """Hidden items are shown to nobody, excluded ones not in this answer."""
    engine = popular()
    apply(engine, ItemUpsert("i5", hidden=True))
    assert ask(engine, exclude=["i4", "unheard-of"]) == ["i3", "i2", "i1", "i0"]
    assert "i4" in ask(engine)


def test_categories_are_any_of() -> None:
    """A category lets in what carries it, had by anybody or not; an unknown one lets in nothing."""
    engine = popular()
    apply(engine, upsert("i1", "x"), upsert("i3", "y"), upsert("new", "y", "z"))
    assert ask(engine, categories=["x", "y"]) == ["i3", "i1", "new"]
    assert ask(engine, categories=["unheard-of"]) == []


def test_candidates_are_ranked_and_nothing_else() -> None:
    """Just the candidates come back, best first, the allowed ones among them, at most k."""
    engine = popular()
    apply(engine, upsert("new"), upsert("i2", hidden=True))
    given = ["i1", "new", "i5", "i1", "i2", "unheard-of", "i3"]
    assert ask(engine, candidates=given) == ["i5", "i3", "i1", "new"]
    assert ask(engine, candidates=given, k=2, exclude=["i5"]) == ["i3", "i1"]
    assert ask(engine, candidates=[]) == []


def test_candidates_are_held_to_the_categories() -> None:
    """Candidates outside of the wanted categories are left out, whether anybody had them or not."""
    engine = make_engine()
    apply(engine, upsert("a", "x"), upsert("b", "y"), upsert("c"))
    assert ask(engine, candidates=["a", "b", "c"], categories=["x"]) == ["a"]


def test_a_slate_is_short_only_if_nothing_is_left() -> None:
    """Past what the sources name come the other items, which are rated like these."""
    engine = popular()
    apply(engine, upsert("old"), upsert("new"))
    assert {*ask(engine, user_id="stranger", k=20)[-2:]} == {"new", "old"}
    last = engine.recommend(Request("stranger", k=20)).items[-1]
    assert last.sources == ["catalogue"]


def test_a_given_history_stands_for_the_user() -> None:
    """With a history the user plays no part: it is scored, excluded, and not stored."""
    engine = feed(make_engine(), sessions(500))
    events = sessions(5, seed=99, start=1_000)
    feed(engine, events)
    engine.learner.factors.users.live[:] = 0.0  # which no history tells
    history = [event.item_id for event in events]
    by_user = engine.recommend(Request(events[0].user_id, k=10)).items
    assert engine.recommend(Request("anyone", k=10, history=history)).items == by_user
    assert "anyone" not in engine.history.users
    assert not set(history) & set(ids(by_user))
    strangers = ask(engine, user_id="stranger")
    assert ask(engine, user_id=events[0].user_id, history=[]) == strangers


def test_a_given_history_may_say_when_it_was() -> None:
    """With its times a history of days ago is scored as a user's own is; nothing is from later."""
    engine = feed(make_engine(), sessions(900, n_users=60))
    events = sessions(5, seed=99, start=1_000)
    feed(engine, [*events, click("other", "g00i0", at_s=400_000)])
    engine.learner.factors.users.live[:] = 0.0
    history, times = [e.item_id for e in events], [e.time_ms for e in events]
    by_user = engine.recommend(Request(events[0].user_id, k=10)).items
    given = Request(None, k=10, history=history)
    assert engine.recommend(given._replace(history_ms=times)).items == by_user
    just_now = engine.recommend(given).items
    assert just_now != by_user
    for unknown in ([None] * 5, [10**15] * 5):
        assert engine.recommend(given._replace(history_ms=unknown)).items == just_now


def test_a_given_history_may_be_unheard_of() -> None:
    """Unknown items of a given history are passed over."""
    engine = popular()
    assert ask(engine, history=["unheard-of"]) == ask(engine)


def test_reasons_add_up_to_the_score() -> None:
    """An explained score is the sum of its reasons, largest first; unasked there are none."""
    engine = feed(make_engine(), sessions(800))
    user = next(iter(engine.history.users.newest()))
    history = [str(item) for item, *_ in engine.history.events(engine.history.users.get(user))]
    for scored in engine.recommend(Request(str(user), k=50, explain=True)).items:
        assert scored.why is not None
        weights = [float(reason["weight"]) for reason in scored.why]
        assert sum(weights) == pytest.approx(scored.score, rel=1e-5)
        assert weights == sorted(weights, reverse=True)
        given = {reason["because"] for reason in scored.why if float(reason["weight"]) > 0}
        assert ("trending" in scored.sources) == ("trending" in given)
        assert ("covisit" in scored.sources) <= bool(given & set(history))
    assert engine.recommend(Request(str(user))).items[0].why is None


def test_similar_items_are_neighbours() -> None:
    """What goes with an item is what was had together with it, never itself nor the hidden."""
    engine = feed(make_engine(), sessions(1_000))
    slate = engine.similar("g03i4", 4)
    assert {scored.item_id[:3] for scored in slate.items} == {"g03"}
    assert "g03i4" not in ids(slate.items)
    best = slate.items[0].item_id
    apply(engine, ItemUpsert(best, hidden=True))
    assert best not in ids(engine.similar("g03i4", 4).items)


def test_similar_says_nothing_where_it_knows_nothing() -> None:
    """An item had together with nothing has nothing similar: popularity is no likeness."""
    engine = popular()
    apply(engine, click("hermit", "lonely", at_s=100))
    assert engine.similar("lonely", 5).items == []


def test_an_answer_names_its_model() -> None:
    """Each slate says which version of which log position made it, and the gate's state."""
    engine = feed(make_engine(overlap_min=0), sessions(300))
    model = engine.recommend(Request()).model
    assert model["version"] == engine.gate.data.version > 1
    assert (model["gate"], model["mode"]) == ("open", "normal")
    last = max(d.event for d in engine.gate.decisions if d.kind == "promote")
    assert model["cursor"] == f"{last + 1}-0"


def test_overlap_is_the_shared_part() -> None:
    """Two lists of slates overlap by the mean share that they have in common."""
    assert mean_overlap([{1, 2}, {3}], [{2, 3}, {3}]) == 0.75
    assert mean_overlap([{1, 2, 3, 4}], [{1}]) == 0.25
    assert mean_overlap([set()], [set()]) == mean_overlap([], []) == 1.0
    assert mean_overlap([set(), {1}], [set(), {2}]) == 0.0


def test_users_from_before_a_promotion_come_first() -> None:
    """Those who were there since are passed, a thousand at a time, and come behind the rest."""
    engine = make_engine(max_users=5_000)
    for number in range(3_010):
        engine.history.touch_user(f"u{number}", number + 1)
    latest = list(engine.recommender.latest_users_before(5, 7))
    assert latest[:3] == [None, None, None]
    names = [engine.history.users.ids[user] for user in latest if user is not None]
    assert names == ["u4", "u3", "u2", "u1", "u0", "u3009", "u3008"]
    assert list(engine.recommender.latest_users_before(3_010, 2)) == [3_009, 3_008]
