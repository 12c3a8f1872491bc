from __future__ import annotations

import copy
import random
from math import sqrt

import numpy as np
import pytest

from learners import Blend, History, Trending
from learners.base import CHAMPION, SHADOW
from learners.categories import MAX_CATEGORIES, MAX_LISTED
from learners.checks import content_hash
from learners.combiner import OF_ITEM
from learners.history import Profile
from learners.kernels import MISS

NAMES = "uvwxyz"


def shop(seed: int, n_events: int = 400) -> Trending:
    """Return a learner over items that come and go, and change their categories meanwhile."""
    chance = random.Random(seed)
    model = Trending((60, 600), history=History(max_items=30, max_users=20))
    categories = model.personal.categories
    for n in range(n_events):
        user, item = f"u{chance.randrange(20)}", f"i{int(chance.random() ** 2 * 45)}"
        model.learn_one(user, item, chance.choice([1.0, 0.5, -1.0]), {"time_ms": n * 1_000})
        if chance.random() < 0.3:
            index = model.personal.items.get(item)
            categories.put(index, chance.sample(NAMES, chance.randint(0, 3)))
        if chance.random() < 0.05:
            model.assign(CHAMPION, SHADOW)
    return model


def listed(model: Trending, name: str, version: int = SHADOW) -> list[int]:
    """Return the items in the list of a category, heaviest first."""
    [label] = model.personal.categories.wanted([name])
    slot = model.list_rows.slots[version][label]
    handles = model.lists.handle[slot, : model.lists.size[slot]]
    items = model.personal.items
    assert all(items.generation[h & 0xFFFFFFFF] == h >> 32 for h in handles.tolist())
    return [int(handle & 0xFFFFFFFF) for handle in handles]


@pytest.mark.parametrize("seed", range(10))
def test_a_category_lists_its_items_by_weight(seed: int) -> None:
    """Whatever joins, leaves or is evicted: a list is the category's items that somebody had."""
    model = shop(seed)
    personal, categories = model.personal, model.personal.categories
    for name in NAMES:
        members = categories.members(categories.wanted([name]))
        had = [i for i in members if model.rows.slots[SHADOW][i]]
        pool = model.new_pool(30)
        pool.begin()
        pool.add(had)
        model.prepare(SHADOW, Profile(1))
        model.rate(pool, 0)
        weight = dict(zip(pool.item[: pool.n].tolist(), pool.raw[1, : pool.n].tolist()))
        by_weight = sorted(had, key=lambda i: (-weight[i], int(personal.items.key[i])))
        assert listed(model, name) == by_weight
        assert had, "nothing was tested"


def test_lists_have_versions_and_membership_is_live() -> None:
    """What is learned waits for a promotion; an item that leaves a category leaves all lists."""
    model = Trending()
    for item, times in (("a", 1), ("b", 2)):
        for n in range(times):
            model.learn_one(f"u{n}", item, 1.0)
    items, categories = model.personal.items, model.personal.categories
    a, b = items.get("a"), items.get("b")
    for index in (a, b):
        categories.put(index, ["x"])
    model.assign(CHAMPION, SHADOW)
    for n in range(2, 5):
        model.learn_one(f"u{n}", "a", 1.0)
    assert (listed(model, "x"), listed(model, "x", CHAMPION)) == ([a, b], [b, a])
    categories.put(b, ["y"])
    assert (listed(model, "x"), listed(model, "x", CHAMPION)) == ([a], [a])
    assert (listed(model, "y"), listed(model, "y", CHAMPION)) == ([b], [])


@pytest.mark.parametrize("seed", range(5))
def test_lists_come_through_a_state(seed: int) -> None:
    """A twin made from a state goes on the same, and so does one whose items have other indices."""
    model = shop(seed)
    twin, moved = (Trending((60, 600), history=History(30, 20)) for _ in range(2))
    twin.personal.load_state(copy.deepcopy(model.personal.state()))
    twin.load_state(copy.deepcopy(model.state()))
    twin.tick = model.tick
    ids = model.personal.items.ids
    for tick, index in enumerate(reversed(range(len(ids)))):
        if ids[index] is not None:
            here = moved.personal.touch_item(ids[index], tick)
            moved.personal.categories.put(here, model.personal.categories.of(index))
    remap = np.array([moved.personal.items.get(i) if i is not None else MISS for i in ids])
    generation = model.personal.items.generation[: len(ids)]
    moved.load_state(copy.deepcopy(model.state()) | {"generation": generation}, remap)
    for version in (SHADOW, CHAMPION):
        assert content_hash(twin, version) == content_hash(model, version)
    for name in NAMES:
        ours, theirs = listed(model, name), listed(moved, name)
        assert [ids[i] for i in ours] == [moved.personal.items.ids[i] for i in theirs]
    for one in (model, twin):
        one.learn_one("u1", "i1", 1.0, {"time_ms": 500_000})
        one.personal.categories.put(one.personal.items.get("i1"), ["u", "new"])
    assert content_hash(twin) == content_hash(model)


def test_a_wanted_category_is_named_from_its_list() -> None:
    """Items of a category that a request wants are named, however little they trend."""
    model = Trending(n_top=3, history=History(200, 200))
    for n in range(120):
        for user in range(2 if n < 100 else 1):
            model.learn_one(f"u{user}", f"i{n}", 1.0)
    items, categories = model.personal.items, model.personal.categories
    rare = [items.get(f"i{n}") for n in range(100, 120)]
    for index in rare:
        categories.put(index, ["rare"])
    pool = model.new_pool(50, labels=categories.labels)
    pool.begin(categories.wanted(["rare", "unheard-of"]))
    model.pool_candidates(SHADOW, Profile(1), pool, 0, most=5)
    assert pool.n == 5
    assert set(pool.item[:5].tolist()) <= set(rare)


def test_shared_categories_are_their_formula() -> None:
    """How much of a history, by the root of its weights, carries a candidate's categories."""
    model = Blend(history=History(50, 50))
    for user, item in [("u", "a"), ("u", "b"), ("v", "c"), ("v", "d"), ("v", "e")]:
        model.learn_one(user, item, 1.0)
    personal = model.personal
    given = {"a": ["x"], "b": ["x", "y"], "c": ["x", "y", "z"], "d": ["z"]}
    for item, names in given.items():
        personal.categories.put(personal.items.get(item), names)
    profile, pool = personal.profile(personal.users.get("u"), Profile(20)), model.new_pool(50)
    for _ in range(2):  # nothing is left over from a request
        pool.begin()
        model.pool_candidates(SHADOW, profile, pool, 0)
        row = pool.features[-len(OF_ITEM) + OF_ITEM.index("shared_categories")]
        shared = {
            str(personal.items.ids[i]): row[place]
            for place, i in enumerate(pool.item[: pool.n].tolist())
        }
        whole = 1.0 + sqrt(1 / 2)
        assert shared["c"] == pytest.approx((whole + 1.0) / (whole * sqrt(3)))
        assert shared["a"] == pytest.approx(1.0)
        assert (shared["d"], shared["e"]) == (0.0, 0.0)


def test_more_categories_than_are_learned_from_can_still_be_asked_for() -> None:
    """Past what is listed, and past sixteen of an item, nothing breaks."""
    model = Blend(history=History(MAX_LISTED // MAX_CATEGORIES + 10, 10))
    personal = model.personal
    for n in range(personal.max_items):
        names = [f"c{n}-{m}" for m in range(MAX_CATEGORIES + 3)]
        personal.categories.put(personal.touch_item(f"i{n}", n), names)
    last = f"i{personal.max_items - 1}"
    assert len(personal.categories.of(personal.items.get(last))) == MAX_CATEGORIES
    for item in (last, "i0"):
        model.learn_one("u", item, 1.0)
    assert personal.categories.n_labels > MAX_LISTED
    wanted = personal.categories.wanted([f"c{personal.max_items - 1}-0"])
    assert list(personal.categories.members(wanted)) == [personal.items.get(last)]
    assert model.rank("u", ["i0", last]) == model.rank("u", [last, "i0"])
