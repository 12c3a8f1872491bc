"""How likely is a click on what is shown? A small model of place and score, with versions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from learners import kernels
from learners.base import N_VERSIONS, SHADOW
from learners.ids import State
from learners.kernels import F64

MOST_PLACES = 20
"""Places of a slate that are looked at."""

_RATE = 0.3
# The sum of squared gradients fades over some 20,000 slates: what clicks depend on does change.
_KEPT = 1.0 - 1.0 / 20_000
_FIRST_SQUARE = 1.0


class ClickModel:
    r"""Say how likely each item of a slate is clicked, by its place and by its score.

    $P = 1 / (1 + e^{-(b_j + a s + c |s|)})$ for an item with score $s$ at place $j$; learned from
    outcomes by AdaGrad. It ranks nothing: it is what outcomes are compared with.
    """

    def __init__(self) -> None:
        shape = N_VERSIONS, MOST_PLACES + 2
        self.weights = np.zeros(shape, np.float64)
        self.squares = np.full(shape, _FIRST_SQUARE)
        self.n_learned = np.zeros(N_VERSIONS, np.int64)

    def expected(self, version: int, scores: Sequence[float]) -> F64:
        """Return the probability of a click on each place; at most MOST_PLACES of them."""
        given = _given(scores)
        found = np.zeros(len(given))
        kernels.clicks_expected(self.weights[version], given, len(given), found)
        return found

    def learn(self, scores: Sequence[float], clicked: Sequence[float]) -> None:
        """Teach the shadow which places of a slate were clicked (1.0) and which not (0.0)."""
        given = _given(scores)
        outcomes = np.array(clicked[: len(given)], np.float64)
        kernels.clicks_learn(
            self.weights[SHADOW],
            self.squares[SHADOW],
            given,
            outcomes,
            len(given),
            _RATE,
            _KEPT,
        )
        self.n_learned[SHADOW] += 1

    def assign(self, target: int, source: int) -> None:
        """Make version `target` equal to `source`."""
        for array in (self.weights, self.squares, self.n_learned):
            array[target] = array[source]

    def state(self) -> State:
        """Return what `load_state` continues from."""
        return {
            "weights": self.weights.copy(),
            "squares": self.squares.copy(),
            "n_learned": self.n_learned.copy(),
        }

    def load_state(self, state: State) -> None:
        """Become the model that `state` was taken from; raise ValueError if it is damaged."""
        weights, squares = np.asarray(state["weights"]), np.asarray(state["squares"])
        if weights.shape != self.weights.shape or squares.shape != self.squares.shape:
            raise ValueError("a click model's state belongs to other places")
        if not (np.isfinite(weights).all() and np.isfinite(squares).all() and (squares > 0).all()):
            raise ValueError("a click model's state is damaged")
        self.weights[:], self.squares[:] = weights, squares
        self.n_learned[:] = state["n_learned"]

    def update_hash(self, sha: Any) -> None:
        """Feed all versions to a hashlib object."""
        sha.update(self.weights.tobytes() + self.squares.tobytes() + self.n_learned.tobytes())


def _given(scores: Sequence[float]) -> F64:
    # Far from any score that is served; a product with a weight stays finite.
    return np.clip(np.array(scores[:MOST_PLACES], np.float64), -50.0, 50.0)
