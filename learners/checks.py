"""Checks that every learner must pass, besides River's own; made to be run by third parties too.

    from learners.checks import check_learner
    check_learner(lambda: MyLearner())

Each check makes fresh learners from the factory and raises AssertionError with the promise broken.
"""

from __future__ import annotations

import copy
import hashlib
import math
import random
from collections.abc import Callable, Hashable, Iterable, Iterator

import numpy as np
from river.reco.base import Ranker

from learners.base import ANCHOR, CHAMPION, SHADOW, Learner
from learners.kernels import MISS

Interaction = tuple[Hashable, Hashable]
Factory = Callable[[], Learner]


def checkerboard(n_users: int = 40, n_items: int = 30, seed: int = 1) -> list[Interaction]:
    """Return interactions whose right answer is known: even users like even items, odd ones odd."""
    pairs = [(u, i) for u in range(n_users) for i in range(n_items) if u % 2 == i % 2]
    random.Random(seed).shuffle(pairs)
    return [(f"u{u}", f"i{i}") for u, i in pairs]


def hit_rate(model: Ranker, stream: Iterable[Interaction], k: int = 10) -> float:
    """Return the prequential hit rate: rank all items seen that the user had not, then learn."""
    had: dict[Hashable, set[Hashable]] = {}
    seen: set[Hashable] = set()
    hits = n = 0
    for user, item in stream:
        candidates = seen - had.get(user, set())
        hits += item in model.rank(user, candidates)[:k]
        n += 1
        model.learn_one(user, item, True)
        had.setdefault(user, set()).add(item)
        seen.add(item)
    return hits / n


def _trained(make: Factory, seed: int = 3) -> Learner:
    model = make()
    for user, item in checkerboard(seed=seed):
        model.learn_one(user, item, 1.0)
    return model


def content_hash(model: Learner, version: int = SHADOW) -> str:
    """Return a hash of a version's canonical content."""
    order = model.personal.items.sorted_indices()
    place = np.full(model.personal.items.n_indices, MISS, np.int64)
    place[order] = np.arange(len(order))
    sha = hashlib.sha256()
    model.update_hash(version, order, place, sha)
    return sha.hexdigest()


def check_learns(make: Factory) -> None:
    """An item that everybody took next is ranked above one that a single user took."""
    model = make()
    for user in range(20):
        model.learn_one(f"u{user}", "start", 1.0)
        model.learn_one(f"u{user}", "rare" if user == 7 else "common", 1.0)
    model.learn_one("newcomer", "start", 1.0)
    assert model.rank("newcomer", ["rare", "common"]) == ["common", "rare"], "it did not learn"


def check_reads_never_write(make: Factory) -> None:
    """predict_one and rank, for known and unknown ids, leave content and size as they were."""
    model = _trained(make)
    personal = model.personal
    before = content_hash(model), len(personal.users), len(personal.items)
    for user in ("u1", "nobody"):
        model.predict_one(user, "i1")
        model.predict_one(user, "nothing")
        model.rank(user, ["i1", "i2", "nothing"])
    after = content_hash(model), len(personal.users), len(personal.items)
    assert before == after, "a read changed the state"


def check_rank_is_a_permutation(make: Factory) -> None:
    """Rank returns each item once, best first, whatever the order or container they came in."""
    model = _trained(make)
    items = [f"i{i}" for i in range(30)] + ["unknown-a", "unknown-b"]
    ranked = model.rank("u1", items)
    assert sorted(map(str, ranked)) == sorted(items), "rank lost or invented an item"
    assert ranked == model.rank("u1", set(items)), "rank depends on the order of its input"
    scores = [model.predict_one("u1", item) for item in ranked]
    assert scores == sorted(scores, reverse=True), "rank is not by score"


def check_scores_are_finite(make: Factory) -> None:
    """Every score is a finite float, before and after learning."""
    for model in (make(), _trained(make)):
        for user in ("u1", "nobody"):
            for item in ("i1", "nothing"):
                score = model.predict_one(user, item)
                assert math.isfinite(score), f"score {score!r}"


def check_is_deterministic(make: Factory) -> None:
    """The same events give the same bytes."""
    assert content_hash(_trained(make)) == content_hash(_trained(make)), "two runs differ"


def check_state_roundtrips(make: Factory) -> None:
    """A copy made from `state()` continues exactly as the original does."""
    model = _trained(make)
    twin = make()
    twin.personal.load_state(model.personal.state())
    twin.load_state(model.state())
    twin.tick = model.tick
    for learner in (model, twin, copied := copy.deepcopy(model)):
        for user, item in checkerboard(seed=9):
            learner.learn_one(user, item, 1.0)
    hashes = {content_hash(learner) for learner in (model, twin, copied)}
    assert len(hashes) == 1, "load_state(state()) does not continue identically"


def check_versions_are_separate(make: Factory) -> None:
    """What the shadow learns after an assignment is not seen by the version assigned to."""
    model = _trained(make)
    model.assign(CHAMPION, SHADOW)
    model.assign(ANCHOR, CHAMPION)
    frozen = content_hash(model, CHAMPION)
    assert frozen == content_hash(model, SHADOW), "assign made no equal version"
    for user, item in checkerboard(seed=9):
        model.learn_one(user, item, 1.0)
    assert frozen == content_hash(model, CHAMPION) == content_hash(model, ANCHOR), "champion moved"
    assert frozen != content_hash(model, SHADOW), "the shadow did not learn"
    model.assign(SHADOW, ANCHOR)
    assert frozen == content_hash(model, SHADOW), "rollback is not exact"


def check_memory_is_bounded(make: Factory) -> None:
    """An endless stream of new ids keeps users and items within their capacities."""
    model = make()
    personal = model.personal
    for event in range(personal.max_items + personal.max_users + 500):
        model.learn_one(f"u{event // 3}", f"i{event}", 1.0)
    assert len(personal.items) <= personal.max_items, "more items than the capacity"
    assert len(personal.users) <= personal.max_users, "more users than the capacity"
    assert math.isfinite(model.predict_one(f"u{event // 3}", f"i{event}"))


def yield_checks() -> Iterator[Callable[[Factory], None]]:
    """Yield every check."""
    yield check_learns
    yield check_reads_never_write
    yield check_rank_is_a_permutation
    yield check_scores_are_finite
    yield check_is_deterministic
    yield check_state_roundtrips
    yield check_versions_are_separate
    yield check_memory_is_bounded


def check_learner(make: Factory) -> None:
    """Run every check on learners from `make`, which should have small capacities."""
    for check in yield_checks():
        check(make)
