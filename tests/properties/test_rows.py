from __future__ import annotations

import copy
import random
from collections import Counter

import pytest

from learners import Blend, Covisit, Factors, History, Sequence, Trending
from learners.base import ANCHOR, CANDIDATE, CHAMPION, SHADOW, Learner, RowPool
from learners.checks import content_hash

MADE: list[type[Learner]] = [Covisit, Sequence, Factors, Trending, Blend]
NAMES = [learner.__name__ for learner in MADE]
N_ITEMS = 12


def pools(model: Learner) -> list[RowPool]:
    """Return every pool of rows of a learner."""
    sources = model.sources.values() if isinstance(model, Blend) else [model]
    return [source.rows for source in sources]


def check_counts(pool: RowPool) -> None:
    """Every slot counts the places that hold it; every other used slot is free, once."""
    holders = Counter(int(slot) for slots in pool.slots for slot in slots if slot)
    free = pool.pool.free[: pool.pool.marks[0]].tolist()
    used = range(1, pool.n_used)
    assert {slot: int(pool.pool.refs[slot]) for slot in used} == {s: holders[s] for s in used}
    assert sorted([*holders, *free]) == list(used)
    assert pool.n_used <= pool.n_slots


def check_only_live_items_have_rows(model: Learner) -> None:
    """No version holds a row for an index that no item has."""
    ids = model.personal.items.ids
    for pool in pools(model):
        for slots in pool.slots:
            assert [int(i) for i in slots.nonzero()[0] if i >= len(ids) or ids[i] is None] == []


def learn(model: Learner, chance: random.Random, tick: int, n_items: int) -> bool:
    """Learn one event; tell whether an item was evicted for it."""
    before = set(model.personal.items.index)
    user, item = f"u{chance.randrange(10)}", f"i{chance.randrange(n_items)}"
    model.learn_one(user, item, 1.0, {"time_ms": tick * 1_000})
    return not before <= set(model.personal.items.index)


def assign(model: Learner, chance: random.Random) -> None:
    """Make one version equal to another, as the gate might."""
    pairs = [(CHAMPION, SHADOW), (ANCHOR, CANDIDATE), (CANDIDATE, CHAMPION), (SHADOW, ANCHOR)]
    model.assign(*chance.choice(pairs))


def make(learner: type[Learner]) -> Learner:
    """Return a learner whose pool is soon too small for four versions."""
    return learner(history=History(N_ITEMS, 8, history_length=6, scored_history=4, had_length=30))


def test_a_source_of_ones_own_has_its_rows_beside_the_others() -> None:
    """Whoever adds one to a blend need not say anywhere how many there are."""
    model = make(Blend)
    assert isinstance(model, Blend)
    model.learn_one("u", "a", 1.0)
    model.learn_one("u", "b", 1.0)
    model.sources["own"] = own = Covisit(history=model.personal)
    own.learn_one("u", "c", 1.0)
    before = own.rows.slots[SHADOW].tolist()
    model.load_state(copy.deepcopy(model.state()))
    assert any(before)
    assert own.rows.slots[SHADOW].tolist() == before


@pytest.mark.parametrize("seed", range(6))
def test_a_short_look_back_leaves_rows_for_all_that_follows(seed: int) -> None:
    """What follows looks back at five items, also where scores look at one: there is room."""
    history = History(N_ITEMS, 8, history_length=6, scored_history=1, had_length=30)
    chance, model = random.Random(seed), Sequence(history=history)
    for tick in range(1, 600):
        if chance.random() < 0.6:
            learn(model, chance, tick, n_items=N_ITEMS)
        else:
            assign(model, chance)
        assert model.rows.n_used <= model.rows.n_slots
    check_counts(model.rows)


@pytest.mark.parametrize("learner", MADE, ids=NAMES)
@pytest.mark.parametrize("seed", range(6))
def test_slots_are_counted(learner: type[Learner], seed: int) -> None:
    """After any learning, assigning, evicting, reloading: no slot is lost, none held twice."""
    chance, model = random.Random(seed), make(learner)
    for tick in range(1, 400):
        move = chance.random()
        if move < 0.9:
            learn(model, chance, tick, n_items=16)
        elif move < 0.97:
            assign(model, chance)
        elif move < 0.985 and len(model.personal.items) > 1:
            model.personal.evict_item(chance.choice(list(model.personal.items.index)))
        else:
            model.load_state(model.state())
        for pool in pools(model):
            check_counts(pool)


@pytest.mark.parametrize("learner", MADE, ids=NAMES)
@pytest.mark.parametrize("seed", range(4))
def test_other_versions_never_move_while_the_shadow_learns(
    learner: type[Learner], seed: int
) -> None:
    """Learning changes the shadow alone, byte for byte, unless an item is evicted from all."""
    chance, model, n_compared = random.Random(seed), make(learner), 0
    others = (CHAMPION, ANCHOR, CANDIDATE)
    for tick in range(1, 200):
        before = [content_hash(model, version) for version in others]
        known = len(model.personal.items)
        if not learn(model, chance, tick, n_items=16) and known == len(model.personal.items):
            assert [content_hash(model, version) for version in others] == before
            n_compared += 1
        if tick % 15 == 0:
            assign(model, chance)
    assert n_compared > 50


@pytest.mark.parametrize("learner", MADE, ids=NAMES)
@pytest.mark.parametrize("seed", range(6))
def test_an_exhausted_pool_evicts(learner: type[Learner], seed: int) -> None:
    """With versions far apart the pool runs out: items go, learning goes on, rows go with them."""
    chance, model = random.Random(seed), make(learner)
    n_evicted = 0
    for tick in range(1, 400):
        n_evicted += learn(model, chance, tick, n_items=N_ITEMS)
        check_only_live_items_have_rows(model)
        for every, pair in ((40, (CHAMPION, SHADOW)), (120, (ANCHOR, CHAMPION))):
            if tick % every == 0:
                model.assign(*pair)
    if learner in (Trending, Factors):
        assert n_evicted == 0  # its pool holds every item in every version
    else:
        assert n_evicted > 0


@pytest.mark.parametrize("learner", MADE, ids=NAMES)
@pytest.mark.parametrize("seed", range(8))
def test_reload_continues_identically_from_anywhere(learner: type[Learner], seed: int) -> None:
    """A twin loaded at any moment, also while the versions differ, stays a twin."""
    chance, model = random.Random(seed), make(learner)
    for tick in range(1, 30 + 20 * seed):
        learn(model, chance, tick, n_items=N_ITEMS)
        if tick % 8 == 0:
            assign(model, chance)
    twin = make(learner)
    twin.personal.load_state(model.personal.state())
    twin.load_state(model.state())
    twin.tick = model.tick
    items = [f"i{n}" for n in range(N_ITEMS)]
    for later in range(60):
        for user in ("u1", "u2", "nobody"):
            ours = [model.predict_one(user, item) for item in items]
            assert ours == [twin.predict_one(user, item) for item in items]
        for version in (SHADOW, CHAMPION, ANCHOR, CANDIDATE):
            assert content_hash(model, version) == content_hash(twin, version)
        for one in (model, twin):
            same = random.Random(1_000 * seed + later)
            learn(one, same, 1_000 + later, n_items=N_ITEMS)
            if later % 13 == 0:
                assign(one, same)


def test_a_state_that_does_not_fit_is_refused() -> None:
    """A pool refuses an index over its number of slots."""
    big, small = RowPool(10, 5), RowPool(3, 5)
    state = big.state(5) | {"n_used": 7}
    with pytest.raises(ValueError, match="7 rows do not fit a pool of 3"):
        small.load_state(state)
