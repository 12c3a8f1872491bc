from __future__ import annotations

import copy
import functools
import math
import random

from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.conditions import Condition, parse
from app.engine import Engine
from app.events import DAY_MS, ItemUpsert
from app.recommend import Request
from tests.factories import START_MS, apply, click, feed, make_engine, sessions
from tests.properties import catalogues
from tests.properties.catalogues import Item

N_ITEMS, N_USERS = 150, 20
NOW_MS = START_MS + 999 * 1_000
SOON, LONG_AGO = NOW_MS + DAY_MS, START_MS - DAY_MS


@functools.cache
def shop() -> Engine:
    """An engine that learned visits, with items of every kind: known and cold, hidden and gone."""
    chance = random.Random(5)
    engine = feed(make_engine(had_return={"view": 0.005}), sessions(900, n_users=N_USERS))
    for number in range(900, 1_000):
        user, item = f"u{chance.randrange(N_USERS)}", f"cold{chance.randrange(20)}"
        apply(engine, click(user, item, at_s=number - 0.5, type="view"))
    for item in [str(item) for item in engine.history.items.index] + [f"new{n}" for n in range(25)]:
        apply(engine, upsert_of(item, made(chance), chance))
    return engine


def made(chance: random.Random) -> Item:
    """Draw what an item has."""
    item: Item = {"categories": chance.sample(catalogues.CATEGORIES, chance.randrange(4))}
    if chance.random() < 0.8:
        item["price"] = chance.choice([*catalogues.NUMBERS, 7])
    if chance.random() < 0.5:
        item["stock"] = chance.choice([True, False, 3])
    if chance.random() < 0.8:
        item["brand"] = chance.choice(catalogues.STRINGS)
    return item


def upsert_of(name: str, item: Item, chance: random.Random) -> ItemUpsert:
    """Return what makes an item so; one in ten is hidden, one in ten not available now."""
    attributes = {key: value for key, value in item.items() if key != "categories"}
    draw = chance.random()
    return ItemUpsert(
        name,
        item["categories"],
        attributes,
        hidden=draw < 0.1,
        available_from=SOON if 0.1 < draw < 0.15 else LONG_AGO if draw > 0.7 else None,
        available_until=NOW_MS if 0.15 < draw < 0.2 else SOON if draw > 0.8 else None,
    )


def eligible(engine: Engine, request: Request) -> set[str]:
    """Return what a request may be answered with, by its definition."""
    shown = (engine.catalogue.view(index) for index in engine.history.items.index.values())
    now_ms = engine.admission.watermark_ms
    had = kept(engine, request.user_id, now_ms)
    return {
        view["item_id"]
        for view in shown
        if view["item_id"] not in had
        and view["item_id"] not in request.exclude
        and not view["hidden"]
        and (view["available_from"] or 0) <= now_ms
        and now_ms < (view["available_until"] or math.inf)
        and (not request.categories or set(request.categories) & set(view["categories"]))
        and catalogues.meets(
            view["attributes"] | {"categories": view["categories"]}, request.filter
        )
    }


def kept(engine: Engine, user_id: str | None, now_ms: int) -> set[object]:
    """Return what a user had, but for what was viewed last, and so long ago that it is back."""
    user = engine.history.users.get(user_id)
    days = engine.settings.had_return
    return (
        set()
        if user < 0
        else {
            had.item_id
            for had in engine.history.had(user)
            if now_ms - had.time_ms <= days.get(engine.types[had.type_index], math.inf) * DAY_MS
        }
    )


conditions = st.lists(catalogues.clauses, max_size=2).map(
    lambda clauses: sum(map(parse, clauses), ())
)
requests = st.builds(
    Request,
    user_id=st.sampled_from([None, "nobody", *[f"u{n}" for n in range(N_USERS)]]),
    k=st.integers(1, 200),
    exclude=st.lists(st.sampled_from(["new1", "g00i1", "cold2", "none"]), max_size=3),
    categories=st.lists(st.sampled_from([*catalogues.CATEGORIES, "none"]), max_size=2),
    history=st.none(),
    candidates=st.none(),
    explain=st.booleans(),
    filter=conditions,
)


def check(engine: Engine, request: Request) -> None:
    """Assert that a slate has what a request may be answered with, and all there is if it is short.

    So has one of given candidates; what goes with an item is held to the filter, too.
    """
    items = engine.recommend(request).items
    ids = [scored.item_id for scored in items]
    allowed = eligible(engine, request)
    assert set(ids) <= allowed
    assert len(ids) == len(set(ids)) == min(request.k, len(allowed))
    scores = [scored.score for scored in items]
    assert scores == sorted(scores, reverse=True)
    given = engine.recommend(request._replace(candidates=[*allowed, "g00i2", "new3"])).items
    assert {scored.item_id for scored in given} <= allowed
    assert {
        scored.item_id for scored in engine.similar("g00i1", 50, condition=request.filter).items
    } <= (eligible(engine, Request(filter=request.filter)))


@settings(max_examples=250, deadline=None, derandomize=True)
@given(requests)
@example(Request("u1", 20, filter=parse({"brand": "acme", "price": {"min": 2}})))
@example(Request("u1", 200, filter=parse({"categories": {"all": ["red", "new"]}})))
@example(Request("u1", 200, categories=["hats"], filter=parse({"categories": {"none": ["red"]}})))
def test_no_slate_breaks_a_filter_and_none_is_short(request: Request) -> None:
    """Alone and in pairs: a slate has just what may be shown, and is short only if no more is."""
    check(shop(), request)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.lists(requests, min_size=3, max_size=5))
def test_a_restored_engine_filters_alike(asked: list[Request]) -> None:
    """After a restore the same requests get the same slates, and the state is the same."""
    engine = shop()
    twin = restored()
    for request in asked:
        assert twin.recommend(request).items == engine.recommend(request).items
    assert twin.hashes() == engine.hashes()


@functools.cache
def restored() -> Engine:
    """The shop again, from its state."""
    return Engine.from_state(copy.deepcopy(shop().state()))


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.integers(0, 140), catalogues.items), min_size=20, max_size=60),
    conditions,
)
def test_filters_hold_while_items_come_and_go(
    changes: list[tuple[int, Item]], condition: Condition
) -> None:
    """With more items than there is room for, those that are left are filtered as they are now."""
    engine = make_engine(max_items=100)
    for number, (item, own) in enumerate(changes * 4):
        item_id = f"i{(item + number) % 140}"
        apply(engine, upsert_of(item_id, own, random.Random(number)))
        apply(engine, click(f"u{number % 7}", f"i{number % 130}", at_s=number))
    check(engine, Request("u1", 50, filter=condition))
    twin = Engine.from_state(copy.deepcopy(engine.state()))
    check(twin, Request("u1", 50, filter=condition))
    assert twin.hashes() == engine.hashes()
