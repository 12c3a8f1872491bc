from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import river.checks

from learners import Blend, Covisit, Factors, History, LinearCombiner, Sequence, Trending
from learners.base import ANCHOR, CHAMPION, SHADOW, Learner
from learners.blend import MOST
from learners.candidates import Candidates
from learners.checks import check_learner, checkerboard, content_hash
from learners.checks import yield_checks as yield_our_checks
from learners.combiner import context_of
from learners.history import Profile
from learners.inputs import CONTEXTS
from learners.kernels import MISS

LEARNERS: list[type[Learner]] = [Covisit, Sequence, Factors, Trending, Blend]
SIZES: dict[str, Any] = {
    "max_items": 100,
    "max_users": 60,
    "history_length": 8,
    "scored_history": 5,
    "had_length": 30,
}


RIVER_CHECKS = [
    pytest.param(learner, check, id=f"{learner.__name__}-{check.__name__}")
    for learner in LEARNERS
    for check in river.checks.yield_checks(learner())
]


@pytest.mark.parametrize(("learner", "check"), RIVER_CHECKS)
def test_river_contract(learner: type[Learner], check: Callable[[Learner], None]) -> None:
    """Our learners pass every check that River has for them."""
    check(learner())


@pytest.mark.parametrize("check", list(yield_our_checks()))
@pytest.mark.parametrize("learner", LEARNERS)
def test_own_contract(
    learner: type[Learner], check: Callable[[Callable[[], Learner]], None]
) -> None:
    """Our learners pass every check of our own, within small capacities."""
    check(lambda: learner(history=History(**SIZES)))


@pytest.mark.parametrize("learner", LEARNERS)
def test_context_without_time(learner: type[Learner]) -> None:
    """A context may carry other things than a time: then time stands still, as without any."""
    bare, told = learner(), learner()
    for user, item in [("u", "a"), ("u", "b"), ("v", "a")]:
        bare.learn_one(user, item, 1.0)
        told.learn_one(user, item, 1.0, {"colour": "red"})
    assert content_hash(bare) == content_hash(told)


@pytest.mark.parametrize("learner", [Factors, Blend])
def test_a_refusal_lowers_an_item_for_others(learner: type[Learner]) -> None:
    """Who liked the same gets an item less, once some have refused it."""
    model = learner()
    for user in range(40):
        for item in "abc" if user % 2 else "xyz":
            model.learn_one(f"u{user}", item, 1.0)
    for user in range(5):
        model.learn_one(f"v{user}", "a", 1.0)
    before = model.predict_one("v0", "c")
    for user in range(1, 5):
        model.learn_one(f"v{user}", "c", -1.0)
    assert model.predict_one("v0", "c") < before


@pytest.mark.parametrize("learner", [Covisit, Sequence, Trending])
def test_a_refusal_counts_for_nothing_else(learner: type[Learner]) -> None:
    """Counts of what was had do not change by a refusal; it goes into the user's own history."""
    model = learner()
    for item in "abc":
        model.learn_one("u", item, 1.0)
    model.learn_one("w", "a", 1.0)
    before = content_hash(model)
    model.learn_one("w", "c", -1.0)
    assert content_hash(model) == before
    assert model.personal.events(model.personal.users.get("w"))[0] == ("c", 0, -1.0)


class BrokenReads(Covisit):
    """Creates a user when asked about one."""

    def predict_one(self, user: Any, item: Any, x: dict[str, Any] | None = None) -> Any:
        """Answer, and remember who asked."""
        self.personal.touch_user(user, 10**6)
        return super().predict_one(user, item, x)


class BrokenAssign(Covisit):
    """Lets the versions share one index: what one learns, all learn."""

    def assign(self, target: int, source: int) -> int:
        """Alias the index instead of copying it."""
        self.rows.slots[target] = self.rows.slots[source]
        return 1


class BrokenTies(Trending):
    """Ranks in the order of arrival."""

    def rank(self, user: Any, items: Any, x: dict[str, Any] | None = None) -> list[Any]:
        """Return the items as a set gives them."""
        return list(items)


@pytest.mark.parametrize("learner", [BrokenReads, BrokenAssign, BrokenTies])
def test_checks_catch_planted_bugs(learner: type[Learner]) -> None:
    """The checks that we ship find a read that writes, aliased versions, a rank that is none."""
    with pytest.raises(AssertionError):
        check_learner(lambda: learner(history=History(**SIZES)))


def covisit_by_hand(
    events: list[tuple[str, str, float]], length: int, shrink: float
) -> Callable[[str, str], float]:
    """Return the scores of the formula in Covisit's docstring, computed with dictionaries."""
    count: dict[tuple[str, str], float] = defaultdict(float)
    mass: dict[str, float] = defaultdict(float)
    had: dict[str, list[str]] = defaultdict(list)
    for user, item, reward in events:
        if reward > 0:
            for r, other in enumerate(reversed(had[user][-length:]), start=1):
                if other != item:
                    count[item, other] += reward / r**0.5
                    count[other, item] += reward / r**0.5
            mass[item] += reward
            had[user].append(item)

    def score(user: str, item: str) -> float:
        total = 0.0
        for r, other in enumerate(reversed(had[user][-length:]), start=1):
            norm = ((mass[other] + shrink) * (mass[item] + shrink)) ** 0.5
            total += count[other, item] / norm / r
        return total

    return score


@pytest.mark.parametrize("seed", range(3))
def test_covisit_is_its_formula(seed: int) -> None:
    """With room for every neighbour, scores are those of the docstring, to single precision."""
    chance = random.Random(seed)
    events = [
        (f"u{chance.randrange(12)}", f"i{chance.randrange(20)}", chance.choice([1.0, 0.5]))
        for _ in range(500)
    ]
    model = Covisit(max_neighbours=20, shrink=5.0, history=History(100, 60, 500, 4))
    for user, item, reward in events:
        model.learn_one(user, item, reward)
    expected = covisit_by_hand(events, 4, 5.0)
    for user in (f"u{n}" for n in range(12)):
        for item in (f"i{n}" for n in range(20)):
            assert model.predict_one(user, item) == pytest.approx(expected(user, item), rel=1e-5)


def test_trending_is_its_formula() -> None:
    """Weights are sums of 2^(t/H), whatever the order in which the events came."""
    chance = random.Random(2)
    model = Trending(half_lives_s=(100,))
    times: dict[str, list[int]] = defaultdict(list)
    for _ in range(400):
        item, time_s = f"i{chance.randrange(8)}", chance.randrange(3_000)
        times[item].append(time_s)
        model.learn_one("u", item, 1.0, {"time_ms": time_s * 1_000})
    found = {item: model.predict_one("v", item) for item in times}
    expected = {item: sum(2 ** (t / 100) for t in ts) for item, ts in times.items()}
    unit = found["i0"] / expected["i0"]
    assert found == pytest.approx({i: w * unit for i, w in expected.items()}, rel=1e-6)


def test_sequence_is_its_formula() -> None:
    """What followed counts by recency and by the time between, over all that followed."""
    chance = random.Random(6)
    model = Sequence(shrink=2.0, n_last=3, gap_s=60, history=History(100, 60))
    follows: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    had: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for time_s in range(0, 6_000, 20):
        user, item = f"u{chance.randrange(5)}", f"i{chance.randrange(8)}"
        model.learn_one(user, item, 0.5, {"time_ms": time_s * 1_000})
        for r, (other, then_s) in enumerate(reversed(had[user][-3:]), start=1):
            if other != item:
                follows[other][item] += 0.5 / r * 60 / (60 + time_s - then_s)
        had[user].append((item, time_s))
    for user in had:
        for item in (f"i{n}" for n in range(8)):
            expected = sum(
                follows[other][item] / (2.0 + sum(follows[other].values())) / r
                for r, (other, _) in enumerate(reversed(had[user][-3:]), start=1)
            )
            assert model.predict_one(user, item) == pytest.approx(expected, rel=1e-5)


def test_factors_find_the_two_halves() -> None:
    """On the checkerboard every unseen item of a user's half is above every one of the other."""
    model = Factors(n_factors=8, history=History(100, 100))
    board = checkerboard(n_users=40, n_items=30, seed=1)
    for user, item in board[: len(board) // 2]:
        model.learn_one(user, item, 1.0)
    had = set(board[: len(board) // 2])
    wrong = n = 0
    for u in range(40):
        ranked = model.rank(f"u{u}", [f"i{i}" for i in range(30) if (f"u{u}", f"i{i}") not in had])
        own = sum(int(item[1:]) % 2 == u % 2 for item in map(str, ranked))
        wrong += sum(int(item[1:]) % 2 != u % 2 for item in map(str, ranked[:own]))
        n += own
    assert wrong / n < 0.15  # by chance: 0.5


def test_factors_stay_finite() -> None:
    """However long one pair is repeated, at a step far too long, no factor runs away."""
    model = Factors(n_factors=4, learning_rate=5.0, history=History(100, 100))
    for n in range(3_000):
        model.learn_one("u", f"i{n % 3}", 1.0)
    assert abs(model.predict_one("u", "i1")) < 1e3


def test_combiner_is_its_formula() -> None:
    """A step goes along the difference to what was expected, in the situation at hand alone."""
    model = LinearCombiner(("a", "b"), {"a": 0.5}, learning_rate=0.1)
    x = {"a": 1.0, "b": -2.0, "newcomer": 1.0}
    p = 1 / (1 + math.exp(-0.5))
    assert model.predict_proba_one(x)[True] == pytest.approx(p)
    model.learn_one(x, True)
    for f, feature in enumerate((1.0, -2.0)):
        g = (1 - p) * feature
        step = 0.1 * g / (0.01 + g * g) ** 0.5
        for name, first in (("always", 0.5 if f == 0 else 0.0), ("newcomer", 0.0)):
            assert model.view(SHADOW)[name]["ab"[f]] == pytest.approx(first + step)
        assert model.view(SHADOW)["regular"]["ab"[f]] == 0


def test_combiner_finds_which_source_is_right() -> None:
    """Of two features, the one that the choices follow gets the weight."""
    chance, model = random.Random(3), LinearCombiner(("right", "wrong"))
    for _ in range(500):
        right, wrong = chance.uniform(-1, 1), chance.uniform(-1, 1)
        model.learn_one({"right": right, "wrong": wrong}, right > 0)
    weights = model.view(SHADOW)["always"]
    assert weights["right"] > 2.0
    assert abs(weights["wrong"]) < 0.3 * weights["right"]


@pytest.mark.parametrize("check", list(river.checks.yield_checks(LinearCombiner())))
def test_combiner_is_a_river_classifier(check: Callable[[LinearCombiner], None]) -> None:
    """The combiner passes every check that River has for a classifier."""
    check(LinearCombiner())


def test_contexts_tell_who_asks() -> None:
    """A stranger, a newcomer, a regular, and one back after a while are different situations."""
    into = np.zeros(len(CONTEXTS))

    def held(n: int, away_s: float) -> set[str]:
        profile = Profile(64)
        profile.n, now_ms = n, 10**12
        profile.times[0] = now_ms - int(away_s * 1_000)
        context_of(profile, now_ms, into)
        return {name for name, value in zip(CONTEXTS, into, strict=True) if value}

    assert held(0, 0) == {"always", "stranger"}
    assert held(1, 5) == {"always", "newcomer", "in_a_burst"}
    assert held(3, 600) == {"always"}
    assert held(20, 3_600) == {"always", "regular", "later_that_day"}
    assert held(64, 90_000) == {"always", "regular", "back_after_a_day"}


def test_blend_without_history_gives_the_trending_list() -> None:
    """A newcomer gets what is popular, in its order."""
    model = Blend()
    for n in range(6):
        for user in range(n + 1):
            model.learn_one(f"u{user}", f"i{n}", 1.0)
    ranked = model.rank("newcomer", [f"i{n}" for n in range(6)])
    assert ranked == [f"i{n}" for n in (5, 4, 3, 2, 1, 0)]


@pytest.mark.parametrize("seed", range(3))
def test_a_list_of_the_strongest_is_kept(seed: int) -> None:
    """A full row ends with the neighbours that were counted most, though they came last."""
    chance = random.Random(seed)
    model = Covisit(max_neighbours=10, shrink=1.0, history=History(1_000, 1_000, scored_history=1))
    times = {f"i{n}": 12 if n < 8 else 1 for n in range(200)}
    pairs = [other for other, count in times.items() for _ in range(count)]
    chance.shuffle(pairs)
    for n, other in enumerate([f"early{n}" for n in range(10)] + pairs):
        model.learn_one(f"v{n}", "hub", 1.0)
        model.learn_one(f"v{n}", other, 1.0)
    hub, items = model.personal.items.get("hub"), model.personal.items
    kept = {o for o in times if model.contribution(SHADOW, hub, 1.0, items.get(o)) > 0}
    assert {f"i{n}" for n in range(8)} <= kept


def test_full_row_gives_up_a_stale_neighbour_first_then_the_weakest() -> None:
    """A neighbour whose item is gone makes room first, then the weakest of those that live."""
    personal = History(max_items=10, max_users=100, scored_history=1)
    model = Covisit(max_neighbours=3, shrink=1.0, history=personal)

    def pair(other: str, times: int) -> None:
        for n in range(times):
            model.learn_one(f"{other}{n}{len(personal.users)}", "hub", 1.0)
            model.learn_one(f"{other}{n}{len(personal.users) - 1}", other, 1.0)

    def neighbours() -> set[str]:
        found = {"strong", "middle", "weak", "new", "newer"}
        hub = personal.items.get("hub")
        weights = {
            o: model.contribution(SHADOW, hub, 1.0, personal.items.get(o))
            for o in found
            if o in personal.items
        }
        return {other for other, weight in weights.items() if weight > 0}

    for other, times in (("strong", 3), ("middle", 2), ("weak", 1)):
        pair(other, times)
    assert neighbours() == {"strong", "middle", "weak"}
    personal.evict_item("strong")
    pair("new", 2)
    assert neighbours() == {"middle", "weak", "new"}
    pair("newer", 1)
    assert neighbours() == {"middle", "weak", "new"}  # one against one: who is there stays
    pair("newer", 1)
    assert neighbours() == {"middle", "new", "newer"}


def test_an_item_that_returns_has_forgotten_what_it_was() -> None:
    """An id that comes back after its eviction has neither rows nor neighbours from before."""
    model = Blend()
    for user in range(5):
        model.learn_one(f"u{user}", "a", 1.0)
        model.learn_one(f"u{user}", "b", 1.0)
    model.personal.evict_item("a")
    model.learn_one("fresh", "a", 1.0)
    fresh, b = model.personal.items.get("a"), model.personal.items.get("b")
    assert model.covisit.contribution(SHADOW, fresh, 1.0, b) == 0
    assert model.covisit.contribution(SHADOW, b, 1.0, fresh) == 0
    assert not model.personal.has_had(model.personal.users.get("u1"), fresh)


def test_score_does_not_depend_on_how_a_row_came_about() -> None:
    """A row that begins as a neighbour's, after a rollback, scores by the formula all the same."""
    model = Covisit(shrink=4.0)
    model.learn_one("u", "a", 1.0)
    model.assign(ANCHOR, SHADOW)
    model.learn_one("v", "new", 1.0)
    model.assign(SHADOW, ANCHOR)
    model.learn_one("v", "a", 1.0)
    model.learn_one("w", "a", 1.0)
    mass_a, mass_new = 3.0, 0.0
    expected = 1.0 / ((mass_a + 4.0) * (mass_new + 4.0)) ** 0.5
    assert model.predict_one("w", "new") == pytest.approx(expected)


def test_assign_says_how_many_rows_differed() -> None:
    """An assignment counts the rows that it changed; a second one finds none."""
    model = Covisit()
    for item in "abc":
        model.learn_one("u", item, 1.0)
    assert model.assign(CHAMPION, SHADOW) == 3
    assert model.assign(CHAMPION, SHADOW) == 0
    model.learn_one("v", "c", 1.0)
    assert model.assign(CHAMPION, SHADOW) == 1


def test_room_is_made_by_items_that_have_rows() -> None:
    """A full pool spares the items that hold no row: evicting them frees nothing."""
    personal = History(max_items=100, max_users=100, scored_history=4)
    model = Covisit(max_neighbours=5, history=personal)
    for n in range(20):
        personal.touch_item(f"catalogue-{n}", n)
    model.tick = 1_000
    for n in range(78):
        model.learn_one(f"u{n % 7}", f"i{n}", 1.0)
    for version in (CHAMPION, ANCHOR):
        model.assign(version, SHADOW)
        for n in range(78):
            model.learn_one(f"v{version}-{n % 7}", f"i{n}", 1.0)
    assert model.rows.n_available() >= 0
    assert all(f"catalogue-{n}" in personal.items for n in range(20))
    assert any(f"i{n}" not in personal.items for n in range(78)), "nothing was evicted at all"


def test_params_are_the_constructors() -> None:
    """The hyper-parameters shown are those given, without the history."""
    params = Blend(max_neighbours=7, history=History(**SIZES)).params()
    assert params["max_neighbours"] == 7
    assert "history" not in params


@pytest.mark.parametrize("seed", range(5))
def test_one_call_does_what_the_sources_do(seed: int) -> None:
    """The blend's one kernel names and rates as its sources do step by step.

    Where scores look back less far than sequence does, too: the two share room.
    """
    chance = random.Random(seed)
    history = History(**SIZES | {"scored_history": 1 + seed})
    model = Blend(max_neighbours=10, history=history)
    for n in range(400):
        item, time_ms = f"i{chance.randrange(150)}", n * 60_000
        model.learn_one(f"u{chance.randrange(70)}", item, 1.0, {"time_ms": time_ms})
    personal = model.personal
    for user in list(personal.users.index.values())[:10]:
        profile = personal.profile(user, Profile(8))
        most, given = chance.randint(1, 5), np.array([0, 1], np.int32)
        pool, steps = model.new_pool(200), model.new_pool(200)
        pool.begin()
        steps.begin()
        model.pool_candidates(SHADOW, profile, pool, 0, most=most, given=given)
        for source, least in zip([model.covisit, model.sequence, model.trending], MOST):
            source.prepare(SHADOW, profile)
            source.nominate(steps, max(most, least))
        steps.add(given.tolist())
        column = 0
        for source in model.sources.values():
            source.prepare(SHADOW, profile)
            source.rate(steps, column)
            column += source.n_columns
        assert pool.item[: pool.n].tolist() == steps.item[: steps.n].tolist()
        assert np.array_equal(pool.raw[:, : pool.n], steps.raw[:, : pool.n])


class StepByStep(Blend):
    """A blend that learns as its parts do one after the other."""

    def learn(self, profile: Profile, item: int, reward: float, time_ms: int) -> None:
        """Let every source learn by itself."""
        for source in self.sources.values():
            source.learn(profile, item, reward, time_ms)

    def learn_choice(self, profile: Profile, pool: Candidates, item: int, reward: float) -> None:
        """Let the combiner learn, then the factors."""
        place = pool.place(item)
        if place != MISS:
            self.combiner.learn_list(pool, place, reward)
            if reward > 0:
                self.factors.learn_choice(profile, pool, place)


@pytest.mark.parametrize("seed", range(5))
def test_one_call_teaches_what_the_sources_learn(seed: int) -> None:
    """The blend's kernels leave the same bytes as its parts do one after the other."""
    chance = random.Random(seed)
    events = [
        (f"u{chance.randrange(40)}", f"i{chance.randrange(90)}", chance.choice([-0.5, 0.5, 1.0]))
        for _ in range(500)
    ]
    hashes = set()
    for kind in (Blend, StepByStep):
        model = kind(max_neighbours=10, history=History(**SIZES))
        for n, (user, item, reward) in enumerate(events):
            model.learn_one(user, item, reward, {"time_ms": n * 60_000})
        hashes.add(content_hash(model))
    assert len(hashes) == 1


def test_an_accumulator_survives_its_last_number() -> None:
    """Requests are numbered within 31 bits; when the numbers begin anew, nothing old is left."""
    model = Covisit()
    for item in "abcabd":
        model.learn_one("u", item, 1.0)
    before = model.predict_one("u", "d")
    model.sums.tick[:] = 2**31 - 2
    assert [model.predict_one("u", "d") for _ in range(3)] == [before] * 3
