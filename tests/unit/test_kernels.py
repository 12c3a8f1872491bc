from __future__ import annotations

import ast
import inspect
import math
import random
import sys
from fractions import Fraction

import numpy as np
import pytest

from app.recommend import Request
from learners import History, Trending, kernels
from learners.base import SHADOW
from learners.candidates import Candidates
from learners.ids import Ids, tie_key
from learners.kernels import MISS, Accumulator
from tests.factories import feed, make_engine, mixed, sessions

N_ITEMS = 40


def some_totals(seed: int) -> tuple[Candidates, kernels.U64]:
    """Return pooled items with few different totals, and the keys of all items."""
    chance = random.Random(seed)
    pool = Candidates(N_ITEMS, capacity=N_ITEMS)
    pool.begin()
    pool.add(chance.sample(range(N_ITEMS), chance.randint(0, N_ITEMS)))
    for place in range(pool.n):
        pool.total[place] = chance.choice([-0.5, 0.0, 0.25, 0.5, 1.0])
    return pool, np.array([chance.getrandbits(64) for _ in range(N_ITEMS)], np.uint64)


@pytest.mark.parametrize("seed", range(60))
def test_select_top_is_a_sort(seed: int) -> None:
    """The k best are the first k pooled items by total, ties by key."""
    pool, key = some_totals(seed)
    places = sorted(range(pool.n), key=lambda p: (-pool.total[p], key[pool.item[p]]))
    for k in (1, 3, 10, N_ITEMS):
        best = np.zeros(N_ITEMS, np.int32)
        found = kernels.select_top(pool.total, pool.item, pool.n, key, best, k)
        assert best[:found].tolist() == places[:k]


@pytest.mark.parametrize("seed", range(60))
def test_rank_of_counts_who_is_ahead(seed: int) -> None:
    """A doubled rank is twice those ahead plus those level; who is not pooled has none."""
    pool, _ = some_totals(seed)
    items, total = pool.item[: pool.n].tolist(), pool.total[: pool.n].tolist()
    for item in range(N_ITEMS):
        if item not in items:
            assert pool.rank_of(item) == MISS
        else:
            own = total[items.index(item)]
            level = total.count(own) - 1
            assert pool.rank_of(item) == 2 * sum(other > own for other in total) + level
    assert pool.rank_of(MISS) == MISS


@pytest.mark.parametrize("seed", range(60))
def test_nth_largest_is_a_sort(seed: int) -> None:
    """The nth largest is what a sort puts there, with many equal values, too."""
    chance = random.Random(seed)
    values = [chance.choice([0.5, 1.0, 2.0, chance.random()]) for _ in range(chance.randint(1, 99))]
    for nth in {1, (len(values) + 1) // 2, len(values)}:
        found = kernels.nth_largest(np.array(values), len(values), nth)
        assert found == sorted(values, reverse=True)[nth - 1]


@pytest.mark.parametrize("seed", range(60))
def test_a_bound_lets_enough_through(seed: int) -> None:
    """At least as many values as wanted reach the bound, and of spread out ones not many more;
    of a thousand and more, about as many.
    """
    chance = random.Random(seed)
    values = np.array([chance.random() ** 4 for _ in range(chance.randint(1, 500))])
    wanted = chance.randint(1, 100)
    bound = kernels.promising(values, len(values), wanted, np.zeros(256, np.int32), 1_024)
    reached = int((values >= bound).sum())
    assert reached >= min(wanted, len(values))
    assert reached <= wanted + max(20, len(values) // 4)
    many = np.array([chance.random() ** 4 for _ in range(2_000)])
    bound = kernels.promising(many, len(many), 120, np.zeros(256, np.int32), 256)
    assert 60 <= int((many >= bound).sum()) <= 700


@pytest.mark.parametrize("seed", range(60))
def test_nominees_are_the_best_eligible_ones(seed: int) -> None:
    """A source names its best items that are allowed, by their sums or these times a factor of
    their own; of those level with the last, the first. Of each it can be told beforehand.
    """
    chance = random.Random(seed)
    labels = np.array([[chance.randrange(4) for _ in range(2)] for _ in range(N_ITEMS)], np.int32)
    hidden = np.array([chance.random() < 0.2 for _ in range(N_ITEMS)], np.uint8)
    pool = Candidates(N_ITEMS, capacity=30, hidden=hidden, labels=labels)
    wanted = chance.sample(range(1, 4), chance.randint(0, 2))
    pool.begin(np.array(wanted, np.int32))
    excluded = chance.sample(range(N_ITEMS), 8)
    for item in excluded:
        pool.exclude(item)
    touched = chance.sample(range(N_ITEMS), chance.randint(0, N_ITEMS))
    score = [chance.choice([0.0, 1e-30, 0.25, 0.5, 0.51, 1.0]) for _ in range(N_ITEMS)]
    largest = chance.choice([0.0, 1.0, math.inf])
    damping = np.array([chance.choice([0.25, 0.5, 1.0]) for _ in range(N_ITEMS)])
    own = damping if largest else np.ones(N_ITEMS)
    key, total = np.zeros(64, np.int64), np.zeros(64)
    key[touched] = np.array(touched, np.int64) | 1 << 32
    total[touched] = [score[item] for item in touched]
    sums = Accumulator(
        key=key,
        sum=total,
        place=np.array(touched, np.int32),
        touched=np.array(touched, np.int32),
        value=np.array([score[item] for item in touched], np.float64),
        kept=np.zeros(N_ITEMS, np.int32),
        work=np.zeros(N_ITEMS),
        bins=np.zeros(256, np.int32),
        tick=np.ones(1, np.int64),
    )
    already = [item for item in chance.sample(range(N_ITEMS), 3) if pool.is_eligible(item)]
    pool.add(already)
    most = chance.randint(1, 10)
    eligible = [
        item
        for item in touched
        if score[item] > 0
        and item not in excluded
        and not hidden[item]
        and (not wanted or set(wanted) & set(labels[item].tolist()))
    ]
    best = sorted(eligible, key=lambda item: -score[item] * own[item])[:most]
    slots = np.arange(N_ITEMS, dtype=np.int32)
    told = [
        item
        for item in [*eligible, *set(range(N_ITEMS)).difference(touched)]
        if kernels.is_among_best(
            sums, len(touched), damping, slots, largest, pool.allowed, pool.tick, item, most
        )
    ]
    assert set(told) == set(best)
    n = kernels.nominate_best(
        sums,
        len(touched),
        damping,
        slots,
        largest,
        pool.allowed,
        pool.tick,
        pool.pooled,
        pool.item,
        pool.n,
        most,
    )
    assert set(pool.item[:n].tolist()) == {*already, *best}
    assert len(set(pool.item[:n].tolist())) == n


@pytest.mark.parametrize("seed", range(10))
def test_a_sketch_never_counts_too_little(seed: int) -> None:
    """A pair's estimate is at least what was counted for it, and exact with room to spare."""
    chance = random.Random(seed)
    for size in (64, 2**16):
        sketch, counted = np.zeros(size, np.uint16), dict[tuple[int, int], int]()
        for _ in range(2_000):
            pair = chance.randrange(20), chance.randrange(20)
            units = chance.randint(1, 16)
            counted[pair] = counted.get(pair, 0) + units
            key, other = (np.uint64(tie_key(number)) for number in pair)
            estimate = kernels.sketch_add(sketch, key, other, units, 0)
            assert estimate >= counted[pair]
            assert size == 64 or estimate == counted[pair]
    full = np.full(64, 65_530, np.uint16)
    assert kernels.sketch_add(full, np.uint64(1), np.uint64(2), 16, 0) == kernels.SKETCH_MAX


def test_a_sketch_ages_all_round() -> None:
    """In the course of so many events as it takes, every counter is halved once."""
    sketch, place = np.full(256, 9, np.uint16), np.zeros(1, np.int64)
    for _ in range(256 // kernels.SKETCH_STRIPE):
        kernels.sketch_age(sketch, place)
    assert set(sketch.tolist()) == {4}
    assert place[0] == 0


def test_exp_is_precise() -> None:
    """The exponential is right to 1e-7 of its value, and nothing far below."""
    for n in range(5_000):
        x = -n / 100
        assert kernels.exp(x) == pytest.approx(math.exp(x), rel=1e-7)
    assert kernels.exp(-800.0) == kernels.exp(-1e300) == 0.0


@pytest.mark.parametrize("seed", range(20))
def test_trending_list_is_a_sort(seed: int) -> None:
    """After every event, in or out of order, the list holds the heaviest items, ties by key."""
    chance = random.Random(seed)
    n_top, spread = 5, chance.choice([1, 100, 10_000])
    model = Trending(half_lives_s=(60,), n_top=n_top, history=History(50, 10))
    items, rows = model.personal.items, model.decayed
    for _ in range(150):
        x = {"time_ms": 60_000 * chance.randrange(spread) // 2}
        model.learn_one("u", f"i{chance.randrange(20)}", chance.choice([1.0, 0.5]), x)
        slots = model.rows.slots[SHADOW]
        weight = {
            i: Fraction(float(rows.weight[slots[i], 0]))
            * Fraction(2) ** int(rows.epoch[slots[i], 0])
            for i in items.index.values()
        }
        ranked = sorted(weight, key=lambda i: (-weight[i], int(items.key[i])))
        listed = model.top[SHADOW][0, : model.top_size[SHADOW][0]] & int(kernels.INDEX_MASK)
        assert listed.tolist() == ranked[:n_top]


def test_exp2_fraction_is_precise() -> None:
    """Powers of two between whole ones are right to 6e-8 of their value, and never over 2."""
    for n in range(20_011):
        fraction = n / 20_011
        assert kernels.exp2_fraction(fraction) == pytest.approx(math.exp2(fraction), rel=6e-8)
    assert kernels.exp2_fraction(math.nextafter(1.0, 0.0)) <= 2.0


def test_shift_is_exact() -> None:
    """Shifting is ldexp, down to nothing at all."""
    for value in (1.0, 1.7, 0.1):
        for by in (0, 1, 30, -1, -30, -1_000, -1_080, -5_000):
            assert kernels.shift(value, by) == math.ldexp(value, by)


def test_neighbour_that_is_stale_scores_nothing() -> None:
    """A handle stops being live the moment that its item is removed."""
    ids = Ids(3)
    index = ids.touch("a", 1)
    handle = ids.handle(index)
    assert kernels.is_live(handle, ids.generation)
    ids.remove("a")
    assert not kernels.is_live(handle, ids.generation)
    assert ids.touch("b", 2) == index
    assert not kernels.is_live(handle, ids.generation)


def test_tie_key_is_the_same_in_every_process() -> None:
    """The key that breaks ties depends on the id alone: its value is written down here."""
    assert tie_key("a") == 0x2F42665B399EF840


# -- what is counted ------------------------------------------------------------------------------


def test_who_counts_uses_of_arrays_gets_none_from_who_does_not() -> None:
    """A kernel that counts would give back what one that does not has never counted."""
    functions = [
        node
        for node in ast.parse(inspect.getsource(kernels)).body
        if isinstance(node, ast.FunctionDef) and node.decorator_list
    ]
    is_counting = {
        node.name: ast.unparse(node.decorator_list[0]) == "njit(cache=True)" for node in functions
    }
    arrays = ("I32", "I64", "F32", "F64", "U8", "U16", "U64", "Filter", "Accumulator")
    giving = {
        node.name
        for node in functions
        if not is_counting[node.name]
        and any(name in ast.unparse(node.returns or node) for name in arrays)
    }
    assert "_filter_of" in giving
    for node in functions:
        called = {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
        assert not (is_counting[node.name] and called & giving), node.name


def test_kernels_give_back_what_they_were_given() -> None:
    """However often an engine is taught and asked, nothing counts more uses of its arrays."""
    engine = feed(make_engine(), mixed(120, seed=3))
    learner, pool = engine.learner, engine.recommender.last.pool
    wanted = np.array([1], np.int32)
    lent = [engine.history.arrays, learner.shared, pool.buffers]
    found = []
    for number in range(3):
        feed(engine, sessions(120, seed=number + 4))
        for _ in range(20):
            engine.recommend(Request("u1", k=20, categories=["c1"], explain=True))
            pool.begin(wanted)
            learner.search(pool, SHADOW, None, np.zeros(30, np.int32))
            pool.eligible_of(np.arange(5, dtype=np.int32))
            pool.begin()
        found.append([sys.getrefcount(wanted), *(value._meminfo.refcount for value in lent)])
    assert found[0] == found[1] == found[2]
    assert lent[1] is learner.shared
