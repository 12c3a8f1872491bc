from __future__ import annotations

import hashlib
import math
import random
from typing import Any

import numpy as np
import pytest

from learners.base import ANCHOR, CANDIDATE, CHAMPION, SHADOW
from learners.clicks import MOST_PLACES, ClickModel
from tests.factories import fingerprint


def curve(place: int, score: float) -> float:
    """Return how likely a click is in a shop that is known: less further down, more with score."""
    return 1.0 / (1.0 + math.exp(-(-1.0 - 0.25 * place + 2.0 * score / (abs(score) + 5.0))))


def slate(chance: random.Random, n: int = 10) -> list[float]:
    """Return the scores of a slate, best first."""
    return sorted((chance.uniform(0.0, 20.0) for _ in range(n)), reverse=True)


def teach(model: ClickModel, chance: random.Random, n: int, *, flip: float = 0.0) -> None:
    """Let a model learn from slates of the shop, some clicks turned round."""
    for _ in range(n):
        scores = slate(chance)
        clicked = [float(chance.random() < curve(p, s)) for p, s in enumerate(scores)]
        model.learn(scores, [1.0 - c if chance.random() < flip else c for c in clicked])


def gap(model: ClickModel, version: int = SHADOW) -> float:
    """Return the largest mean error on a place, over 400 slates that were not learned."""
    chance, errors = random.Random(99), np.zeros(10)
    for _ in range(400):
        scores = slate(chance)
        right = np.array([curve(place, score) for place, score in enumerate(scores)])
        errors += model.expected(version, scores) - right
    return float(np.abs(errors / 400).max())


def mean_gap(model: ClickModel) -> float:
    """Return by how much whole slates are expected wrongly, as a mean over their places."""
    chance, error = random.Random(99), 0.0
    for _ in range(400):
        scores = slate(chance)
        right = np.array([curve(place, score) for place, score in enumerate(scores)])
        error += float((model.expected(SHADOW, scores) - right).mean())
    return error / 400


# -- learning --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_a_click_curve_is_learned_to_within_the_margin(seed: int) -> None:
    """After 4,000 slates no place is expected wrongly by over 0.05, nor a whole slate by 0.01."""
    model, chance = ClickModel(), random.Random(seed)
    teach(model, chance, 4_000)
    assert gap(model) < 0.05
    assert abs(mean_gap(model)) < 0.01
    teach(model, chance, 4_000)
    assert gap(model) < 0.04


def test_single_slates_are_expected_well() -> None:
    """Not only on average: by place and score, too, most errors are small."""
    model, chance = ClickModel(), random.Random(5)
    teach(model, chance, 8_000)
    errors = [
        abs(float(model.expected(SHADOW, scores)[place]) - curve(place, scores[place]))
        for scores in (slate(chance) for _ in range(300))
        for place in range(10)
    ]
    assert sum(errors) / len(errors) < 0.03
    assert max(errors) < 0.12  # the weight of scores is learned last


def test_an_untaught_model_expects_a_click_in_two() -> None:
    """Nothing learned, every place is even."""
    assert ClickModel().expected(SHADOW, [3.0, -2.0, 0.0]).tolist() == [0.5] * 3


def test_what_is_expected_falls_with_place_and_rises_with_score() -> None:
    """The order of places and scores is learned, not only their mean."""
    model = ClickModel()
    teach(model, random.Random(6), 4_000)
    even = model.expected(SHADOW, [5.0] * 10)
    assert even[0] > even[4] > even[9]
    assert model.expected(SHADOW, [15.0])[0] > model.expected(SHADOW, [1.0])[0] + 0.05


def test_a_fault_is_followed_slowly() -> None:
    """A model of long standing hardly moves within 300 slates, and has moved within 5,000."""
    model, chance, scores = ClickModel(), random.Random(7), [10.0] * 10
    teach(model, chance, 25_000)
    before = model.expected(SHADOW, scores)
    teach(model, chance, 300, flip=0.5)
    assert np.abs(model.expected(SHADOW, scores) - before).max() < 0.04
    teach(model, chance, 4_700, flip=0.5)
    assert before.mean() == pytest.approx(0.33, abs=0.03)
    assert model.expected(SHADOW, scores).mean() == pytest.approx(0.5, abs=0.03)


def test_no_more_places_than_are_looked_at() -> None:
    """Of a longer slate the first twenty places are learned and expected."""
    model, other = ClickModel(), ClickModel()
    scores = [float(n) for n in range(30)]
    model.learn(scores, [1.0, *[0.0] * 29])
    other.learn(scores[:MOST_PLACES], [1.0, *[0.0] * 19])
    assert fingerprint(model.state()) == fingerprint(other.state())
    assert len(model.expected(SHADOW, scores)) == MOST_PLACES == 20
    assert len(model.expected(SHADOW, [])) == 0


@pytest.mark.parametrize("score", [0.0, 1e300, -1e300, 1e-300, 5.0, -5.0])
def test_any_finite_score_leaves_probabilities(score: float) -> None:
    """Scores of any size are squashed: weights stay finite, and what is expected within 0 and 1."""
    model = ClickModel()
    for n in range(500):
        model.learn([score] * 20, [float(n % 2)] * 20)
    found = model.expected(SHADOW, [score] * 20)
    assert np.isfinite(model.weights).all()
    assert ((found > 0.0) & (found < 1.0)).all()


# -- versions --------------------------------------------------------------------------------------


def test_the_shadow_alone_learns() -> None:
    """What others expect stays as it is until it is assigned."""
    model = ClickModel()
    teach(model, random.Random(8), 100)
    for version in (CHAMPION, ANCHOR, CANDIDATE):
        assert model.expected(version, [1.0, 1.0]).tolist() == [0.5, 0.5]
    assert model.n_learned.tolist()[SHADOW] == model.n_learned.sum() == 100


def test_versions_are_assigned_as_copies() -> None:
    """An assigned version is equal, with what it has learned, and goes its own way afterwards."""
    model, chance = ClickModel(), random.Random(9)
    teach(model, chance, 200)
    model.assign(CHAMPION, SHADOW)
    then = model.expected(SHADOW, [3.0, 2.0])
    assert (model.expected(CHAMPION, [3.0, 2.0]) == then).all()
    teach(model, chance, 300)
    assert (model.expected(CHAMPION, [3.0, 2.0]) == then).all()
    assert (model.n_learned[CHAMPION], model.n_learned[SHADOW]) == (200, 500)
    model.assign(SHADOW, CHAMPION)
    assert (model.expected(SHADOW, [3.0, 2.0]) == then).all()
    assert model.n_learned[SHADOW] == 200


# -- state -----------------------------------------------------------------------------------------


def hashed(model: ClickModel) -> str:
    """Return the model's part of a model_hash."""
    sha = hashlib.sha256()
    model.update_hash(sha)
    return sha.hexdigest()


def test_state_continues_exactly() -> None:
    """A model made from a state has the same bytes, then and after learning more."""
    model, twin = ClickModel(), ClickModel()
    teach(model, random.Random(10), 300)
    model.assign(ANCHOR, SHADOW)
    state = model.state()
    before = fingerprint(state)
    twin.load_state(state)
    for seed in (11, 12):
        assert fingerprint(twin.state()) == fingerprint(model.state())
        assert hashed(twin) == hashed(model)
        teach(model, random.Random(seed), 200)
        teach(twin, random.Random(seed), 200)
    assert fingerprint(state) == before, "a state is a copy"


def test_each_version_is_hashed() -> None:
    """The hash changes with any version's weights or count."""
    model = ClickModel()
    found = {hashed(model)}
    for version in range(len(model.weights)):
        model.weights[version, 3] = 0.5
        found.add(hashed(model))
        model.n_learned[version] += 1
        found.add(hashed(model))
    assert len(found) == 2 * len(model.weights) + 1


@pytest.mark.parametrize(
    "change",
    [
        {"weights": np.zeros((4, 3))},
        {"weights": np.full((4, MOST_PLACES + 2), math.nan)},
        {"weights": np.full((4, MOST_PLACES + 2), math.inf)},
    ],
)
def test_a_damaged_state_is_refused(change: dict[str, Any]) -> None:
    """Weights of another shape, or that are no numbers, are refused; nothing changes."""
    model = ClickModel()
    teach(model, random.Random(13), 20)
    before = fingerprint(model.state())
    with pytest.raises(ValueError, match="damaged"):
        model.load_state(model.state() | change)
    assert fingerprint(model.state()) == before


@pytest.mark.parametrize("n_learned", [np.array(7), np.full(4, -1)], ids=["shape", "negative"])
def test_damaged_counts_are_refused(n_learned: Any) -> None:
    """One count for all versions, or one below nothing, is no state of a model."""
    model = ClickModel()
    with pytest.raises(ValueError, match="damaged"):
        model.load_state(model.state() | {"n_learned": n_learned})
