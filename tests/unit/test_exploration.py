from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from app.engine import Engine
from app.events import VALID, Impression, ItemDelete, Record, Upgrade
from app.exploration import MOST_SHOWN, MOST_TAKEN, explored_places
from app.recommend import Request
from app.serving import Slate
from app.settings import KNOWN_SEMANTICS
from tests.factories import (
    START_MS,
    apply,
    click,
    configure,
    feed,
    fingerprint,
    make_engine,
    make_settings,
    sessions,
    upsert,
)

NEW = [f"new{n}" for n in range(30)]


def begun(share: float = 0.3, **changes: Any) -> Engine:
    """Return an engine whose old items have all been shown enough, with five categories."""
    engine = make_engine(explore_share=share, **changes)
    old = [f"g{group:02d}i{n}" for group in range(15) for n in range(10)]
    feed(engine, [upsert(item, f"c{n // 10 % 5}") for n, item in enumerate(old)])
    feed(engine, sessions(900, n_users=20), group=100)
    for n in range(MOST_SHOWN):
        for start in range(0, len(old), 15):
            apply(engine, impression("nobody", old[start : start + 15], f"{n}-{start}"))
    assert len(engine.exploration.cold) == 0
    return engine


def impression(user: str, items: list[str], slate: str = "s", **more: Any) -> Impression:
    """Return a slate that was shown."""
    return Impression(slate, user, items, [1.0] * len(items), START_MS + 900_000, **more)


def with_new(share: float = 0.3, **changes: Any) -> Engine:
    """Return the same with thirty items that nobody has seen."""
    new = [upsert(item, f"c{n % 5}") for n, item in enumerate(NEW)]
    return feed(begun(share, **changes), new)


def slates(engine: Engine, n: int, user: str = "u1", k: int = 10) -> list[Slate]:
    """Return slates with different ids."""
    return [engine.recommend(Request(user, k=k), f"slate-{number}") for number in range(n)]


def shown_new(found: list[Slate]) -> dict[str, int]:
    """Return how often each new item was shown."""
    ids = [s.item_id for slate in found for s in slate.items]
    return {item: ids.count(item) for item in NEW if item in ids}


def test_nothing_explores_where_nothing_is_new() -> None:
    """Once all items have been shown enough, lists are what they were, and certain."""
    engine = begun()
    plain = engine.recommend(Request("u1")).items
    assert all(slate.items == plain for slate in slates(engine, 50))
    assert {scored.propensity for scored in plain} == {1.0}


def test_new_items_are_shown_below_the_third_place() -> None:
    """Explored slots are about the share of those below the third, and the others stay as is."""
    engine = with_new(0.2)
    plain = engine.recommend(Request("u1")).items
    found = slates(engine, 500)
    n_explored = 0
    for slate in found:
        places = explored_places(slate.items)
        assert all(place >= 3 and slate.items[place].item_id in NEW for place in places)
        assert [s.item_id for s in slate.items[:3]] == [s.item_id for s in plain[:3]]
        for place, (ours, theirs) in enumerate(zip(slate.items, plain, strict=True)):
            likely = ours.propensity
            theirs = replace(theirs, propensity=1.0 if place < 3 else 0.8)
            assert place in places or ours == theirs
            assert place not in places or (0 < likely <= 0.2 and ours.score == theirs.score)
        n_explored += len(places)
    assert 0.17 < n_explored / 3_500 < 0.23
    assert len(shown_new(found)) > 15


def test_a_list_with_an_id_is_the_same_again() -> None:
    """The same id and the same state make the same list; without an id nothing explores."""
    engine = with_new()
    twin = Engine.from_state(engine.state())
    for one, other in zip(slates(engine, 40), slates(twin, 40), strict=True):
        assert one == other
    assert all(slate.draft is None for slate in slates(engine, 3))
    assert explored_places(engine.recommend(Request("u1")).items) == []
    asked = Request("u1", explain=True)
    plain = engine.recommend(asked)
    assert all(engine.recommend(asked, f"slate-{n}") == plain for n in range(40))
    given = Request("u1", candidates=NEW)
    assert all(engine.recommend(given, f"s{n}") == engine.recommend(given) for n in range(40))


def test_a_new_item_is_shown_to_whom_its_category_may_please() -> None:
    """What a category goes with decides, before anybody has touched the item."""
    engine = with_new(1.0)
    favourite = feed(engine, [click("fan", f"g00i{n}", at_s=950 + n) for n in range(6)])
    found = shown_new(slates(favourite, 200, user="fan", k=4))
    by_category = dict.fromkeys(range(5), 0)
    for item, n in found.items():
        by_category[NEW.index(item) % 5] += n
    assert by_category[0] > 0.9 * sum(by_category.values())


def test_what_is_shown_often_and_never_clicked_gives_way() -> None:
    """Among items alike, those with fewer showings are preferred, or those that were clicked."""
    engine = with_new(1.0)
    seen, clicked = NEW[0:15], NEW[0]
    for n in range(40):
        apply(engine, impression("nobody", seen, f"x{n}"))
    feed(engine, [click(f"v{n}", clicked, at_s=960 + n) for n in range(4)])
    found = shown_new(slates(engine, 300, user="stranger", k=10))
    unseen = sum(n for item, n in found.items() if item not in seen)
    assert unseen > 0.8 * sum(found.values())
    assert found.get(clicked, 0) >= max(found.get(item, 0) for item in seen[1:])


@pytest.mark.parametrize("how", ["shown", "taken"])
def test_an_item_is_new_until_it_has_been_shown_or_had_enough(how: str) -> None:
    """After MOST_SHOWN showings, or MOST_TAKEN events, however it was found, it is one of all."""
    engine = with_new(1.0, cap_user_item=0)
    item = engine.history.items.get(NEW[3])
    for n in range(MOST_SHOWN if how == "shown" else MOST_TAKEN):
        assert item in engine.exploration.cold
        shown: Record = impression("nobody", [NEW[3]], f"x{n}")
        if how == "taken":
            shown = click(f"v{n}", NEW[3], at_s=960 + n)
        apply(engine, shown)
    assert item not in engine.exploration.cold
    assert NEW[3] not in shown_new(slates(engine, 200, k=8)) or how == "taken"


def test_what_is_not_eligible_is_not_explored() -> None:
    """Not hidden, excluded or had items, and none without the category that was asked for."""
    engine = with_new(1.0)
    apply(engine, upsert(NEW[0], "c0", hidden=True))
    apply(engine, click("u1", NEW[5], at_s=970))
    request = Request("u1", k=10, categories=["c0"], exclude=[NEW[10]])
    ids = {s.item_id for n in range(200) for s in engine.recommend(request, f"s{n}").items}
    assert ids & set(NEW) == {NEW[15], NEW[20], NEW[25]}


def test_a_list_that_had_to_be_filled_up_is_left_alone() -> None:
    """Where all that is eligible is shown anyway there is nothing to explore."""
    engine = with_new(1.0)
    request = Request("u1", k=190)
    plain = engine.recommend(request)
    assert all(engine.recommend(request, f"s{n}") == plain for n in range(20))
    assert len({s.item_id for s in plain.items}) == len(plain.items)


def test_an_item_that_is_deleted_is_forgotten() -> None:
    """It is no longer shown; when it comes again, it is new again."""
    engine = with_new(1.0)
    for n in range(30):
        apply(engine, impression("nobody", NEW[:1], f"x{n}"))
    apply(engine, ItemDelete(NEW[0]))
    assert NEW[0] not in shown_new(slates(engine, 100))
    apply(engine, upsert(NEW[0], "c0"))
    index = engine.history.items.get(NEW[0])
    assert index in engine.exploration.cold
    assert engine.exploration.state()["shown"][index] == 0


def test_of_many_new_items_all_get_their_turn() -> None:
    """More than a slate looks at wait, and events bring the next; the newest never wait."""
    engine = make_engine(max_items=1_000, explore_share=1.0)
    feed(engine, [upsert(f"i{n}") for n in range(600)], group=600)
    items, seen = engine.history.items, set(engine.exploration.cold.tolist())
    newest = {items.get(f"i{n}") for n in range(590, 600)}
    for n in range(400):
        feed(engine, sessions(25, n_groups=2, start=25 * n), group=25)
        seen |= set(engine.exploration.cold.tolist())
        assert newest <= set(engine.exploration.cold.tolist())
        assert len(engine.exploration.cold) <= 128
    assert {items.get(f"i{n}") for n in range(600)} <= seen


def test_places_that_explored_are_not_what_clicks_are_compared_with() -> None:
    """Neither what is expected nor the gate's watch learns from them; they count as shown."""
    engine, twin = with_new(), with_new()
    items = [*list(engine.history.items.index)[:4], NEW[0]]
    plain = [str(item) for item in items]
    for n in range(20):
        apply(engine, impression("u1", plain, f"x{n}", explored=[4]))
        apply(twin, impression("u1", plain[:4], f"x{n}"))
    assert np.array_equal(engine.clicks.weights, twin.clicks.weights)
    for name, calibration in engine.calibration.items():
        assert calibration.rows() == twin.calibration[name].rows()
    shown = engine.exploration.state()["shown"]
    assert shown[engine.history.items.get(NEW[0])] == 20


def test_what_nobody_vouches_for_is_not_compared() -> None:
    """A slate declared without a token counts as shown, and leaves click model and gate alone."""
    engine = with_new()
    before = engine.clicks.weights.copy(), engine.n_impressions
    apply(engine, impression("u1", NEW[:3], "x", is_verified=False))
    assert np.array_equal(engine.clicks.weights, before[0])
    assert engine.n_impressions == before[1]
    assert engine.exploration.state()["shown"][engine.history.items.get(NEW[0])] == 1


@pytest.mark.parametrize("semantics", [9, 10])
def test_a_slate_counts_once(semantics: int) -> None:
    """Declared again, by a client that had no answer, it changes nothing: its clicks are gone.

    Until semantics version 10 it counted each time, as a slate that nobody had clicked on.
    """
    engine = with_new()
    engine._follow(semantics)
    items = [str(item) for item in list(engine.history.items.index)[:4]]
    answer = click("u1", items[0], at_s=1_000, recommendation_id="s", token=VALID)
    apply(engine, answer)
    apply(engine, impression("u1", items))
    once = engine.n_impressions, engine.calibration["champion"].rows(), engine.hashes()
    engine = Engine.from_state(engine.state())
    apply(engine, impression("u1", items), impression("u1", items))
    again = engine.n_impressions, engine.calibration["champion"].rows(), engine.hashes()
    assert (again == once) is (semantics >= 10)
    apply(engine, impression("u1", items, "another"))
    assert engine.n_impressions == again[0] + 1


# -- versions and state ----------------------------------------------------------------------------


def test_labels_pass_the_gate() -> None:
    """What labels go with is served from the champion, and set back with it."""
    engine = with_new(1.0)
    apply(engine, upsert("old", "c9"))
    feed(engine, [click(f"w{n}", "old", at_s=980 + n) for n in range(3)])
    labels = engine.exploration.labels
    state = labels.state(engine.history.items.n_indices)["covisit"]
    assert not np.array_equal(state["slots_0"], state["slots_1"])
    engine.learner.assign(1, 0)
    engine._assign(1, 0)
    state = labels.state(engine.history.items.n_indices)["covisit"]
    assert np.array_equal(state["slots_0"], state["slots_1"])


def test_it_survives_a_snapshot() -> None:
    """An engine from a state has the same content, explores the same, and goes on the same."""
    engine = with_new()
    for n in range(30):
        apply(engine, impression("u1", NEW[:5], f"x{n}"))
    twin = Engine.from_state(engine.state())
    for each in (engine, twin):
        feed(each, sessions(200, n_users=20, start=5_000), group=50)
        apply(each, impression("u2", NEW[2:7], "later"))
    assert twin.hashes() == engine.hashes()
    assert fingerprint(twin.state()) == fingerprint(engine.state())
    assert slates(engine, 20) == slates(twin, 20)


def test_a_snapshot_from_before_is_begun_with() -> None:
    """Where a state knows nothing of exploration, all items of then are old ones."""
    state = with_new().state()
    del state["exploration"], state["ignored"]
    engine = Engine.from_state(state)
    assert len(engine.exploration.cold) == 0
    apply(engine, upsert("newest", "c1"))
    assert len(engine.exploration.cold) == 1
    assert engine.exploration.labels.of(engine.history.items.get(NEW[7])) == ["c2"]


@pytest.mark.parametrize("semantics", [v for v in KNOWN_SEMANTICS if v < 8])
def test_older_logs_know_nothing_of_it(semantics: int) -> None:
    """In a log of an older version nothing explores or is lowered, and state has its old form."""
    settings = make_settings(explore_share=0.05)
    engine = Engine(settings)
    apply(engine, configure(settings, semantics=semantics))
    feed(engine, [upsert(item, "c") for item in NEW])
    feed(engine, sessions(300, n_users=9), group=50)
    apply(engine, impression("u1", NEW[:5]))
    plain = engine.recommend(Request("u1"))
    assert all(slate == plain for slate in slates(engine, 40))
    state = engine.state()
    assert not {"exploration", "ignored"} & set(state)
    assert not {"explore_share", "ignored_weight"} & set(state["settings"])
    assert Engine.from_state(state).hashes() == engine.hashes()
    apply(engine, Upgrade(8, "all are new", "tester"))
    assert Engine.from_state(engine.state()).hashes() == engine.hashes()
    assert len(engine.exploration.cold) == 0
    apply(engine, upsert("newest", "c"))
    assert len(engine.exploration.cold) == 1
