from __future__ import annotations

import math
import random
from fractions import Fraction

import numpy as np
import pytest

from learners import History, Trending, kernels
from learners.base import SHADOW, new_scratch
from learners.ids import Ids, tie_key
from learners.kernels import MISS, Scratch

N_ITEMS = 40


def some_scores(seed: int) -> tuple[Scratch, int, kernels.U8, kernels.U64]:
    """Return candidates with few different scores, some marked or hidden, and their keys."""
    chance = random.Random(seed)
    scratch = new_scratch(N_ITEMS, 2)
    candidates = chance.sample(range(N_ITEMS), chance.randint(0, N_ITEMS))
    scratch.candidate[: len(candidates)] = candidates
    for item in candidates:
        scratch.stamp[item] = 7
        scratch.score[item, -1] = chance.choice([0.0, 0.25, 0.5, 1.0])
    for item in range(N_ITEMS):
        scratch.mark[item] = chance.choice([0, 6, 7])
    hidden = np.array([chance.random() < 0.2 for _ in range(N_ITEMS)], np.uint8)
    key = np.array([chance.getrandbits(64) for _ in range(N_ITEMS)], np.uint64)
    return scratch, len(candidates), hidden, key


@pytest.mark.parametrize("seed", range(60))
def test_select_top_is_a_sort(seed: int) -> None:
    """The k best are the first k, by score and then key, of what is neither marked nor hidden."""
    scratch, n, hidden, key = some_scores(seed)
    eligible = [int(i) for i in scratch.candidate[:n] if scratch.mark[i] != 7 and not hidden[i]]
    eligible.sort(key=lambda item: (-scratch.score[item, -1], key[item]))
    for k in (1, 3, 10, N_ITEMS):
        best = np.zeros(N_ITEMS, np.int32)
        found = kernels.select_top(scratch, n, 7, hidden, key, best, k)
        assert best[:found].tolist() == eligible[:k]


@pytest.mark.parametrize("seed", range(60))
def test_rank_of_counts_who_is_ahead(seed: int) -> None:
    """A doubled rank is twice those ahead plus those level; no candidate has none."""
    scratch, n, hidden, _ = some_scores(seed)
    candidates = scratch.candidate[:n].tolist()
    eligible = [i for i in candidates if scratch.mark[i] != 7 and not hidden[i]]
    score = scratch.score[:, -1]
    for item in range(N_ITEMS):
        rank = kernels.rank_of(scratch, n, 7, 7, hidden, item)
        if item not in candidates or hidden[item]:
            assert rank == MISS
        else:
            ahead = sum(score[other] > score[item] for other in eligible)
            level = sum(score[other] == score[item] for other in eligible if other != item)
            assert rank == 2 * ahead + level


@pytest.mark.parametrize("seed", range(10))
def test_mark_outside_keeps_any_wanted_label(seed: int) -> None:
    """A candidate stays if it carries any wanted label; an unlabelled one never does."""
    chance = random.Random(seed)
    scratch, n, _, _ = some_scores(seed)
    labels = np.array([[chance.randrange(6) for _ in range(3)] for _ in range(N_ITEMS)], np.int32)
    wanted = np.array(chance.sample(range(1, 6), chance.randint(0, 3)), np.int32)
    marked = {int(i) for i in scratch.candidate[:n] if scratch.mark[i] == 7}
    kernels.mark_outside(scratch, n, 7, labels, wanted)
    for item in scratch.candidate[:n].tolist():
        is_outside = not set(labels[item].tolist()) & set(wanted.tolist())
        assert (scratch.mark[item] == 7) == (is_outside or item in marked)


@pytest.mark.parametrize("seed", range(20))
def test_trending_list_is_a_sort(seed: int) -> None:
    """After every event, in or out of order, the list holds the heaviest items, ties by key."""
    chance = random.Random(seed)
    n_top, spread = 5, chance.choice([1, 100, 10_000])
    model = Trending(half_life_s=60, n_top=n_top, history=History(50, 10))
    items, rows = model.personal.items, model.decayed
    for _ in range(150):
        x = {"time_ms": 60_000 * chance.randrange(spread) // 2}
        model.learn_one("u", f"i{chance.randrange(20)}", chance.choice([1.0, 0.5]), x)
        slots = model.rows.slots[SHADOW]
        weight = {
            i: Fraction(float(rows.weight[slots[i]])) * Fraction(2) ** int(rows.epoch[slots[i]])
            for i in items.index.values()
        }
        ranked = sorted(weight, key=lambda i: (-weight[i], int(items.key[i])))
        listed = model.top[SHADOW][: model.top_size[SHADOW][0]] & int(kernels.INDEX_MASK)
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
