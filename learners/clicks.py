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

# A step is 5 / (slates + 100) at first, and falls with the square of the slates after thousands of
# them, but never below this: what is expected then follows a change within some 5,000 slates. That
# is later than a fault of a fifth of the clicks is seen (500 slates), sooner than tastes turn.
_SETTLES = 3_000
_LEAST_RATE = 0.0002


class ClickModel:
    r"""Say how likely each item of a slate is clicked, by its place and by its score.

    $P = 1 / (1 + e^{-(b + b_j + a s')})$ for an item with score $s$ at place $j$, and
    $s' = s / (|s| + 5)$; learned from outcomes by stochastic gradient. It ranks nothing: it is what
    outcomes are compared with.
    """

    def __init__(self) -> None:
        self.weights = np.zeros((N_VERSIONS, MOST_PLACES + 2), np.float64)
        self.n_learned = np.zeros(N_VERSIONS, np.int64)

    def expected(self, version: int, scores: Sequence[float]) -> F64:
        """Return the probability of a click on each place; at most MOST_PLACES of them."""
        given = np.array(scores[:MOST_PLACES], np.float64)
        found = np.zeros(len(given))
        kernels.clicks_expected(self.weights[version], given, found)
        return found

    def learn(self, scores: Sequence[float], clicked: Sequence[float]) -> None:
        """Teach the shadow which places of a slate were clicked (1.0) and which not (0.0)."""
        given = np.array(scores[:MOST_PLACES], np.float64)
        outcomes = np.array(clicked[: len(given)], np.float64)
        n = int(self.n_learned[SHADOW])
        rate = max(5.0 / (n + 100) / (1.0 + n / _SETTLES), _LEAST_RATE)
        kernels.clicks_learn(self.weights[SHADOW], given, outcomes, rate)
        self.n_learned[SHADOW] += 1

    def learn_anew(self) -> None:
        """Go on from the present weights in large steps, as after the first slates."""
        self.n_learned[:] = 0

    def assign(self, target: int, source: int) -> None:
        """Make version `target` equal to `source`."""
        for array in (self.weights, self.n_learned):
            array[target] = array[source]

    def state(self) -> State:
        """Return what `load_state` continues from."""
        return {"weights": self.weights.copy(), "n_learned": self.n_learned.copy()}

    def load_state(self, state: State) -> None:
        """Become the model that `state` was taken from; raise ValueError if it is damaged."""
        weights, n_learned = np.asarray(state["weights"]), np.asarray(state["n_learned"])
        is_sound = weights.shape == self.weights.shape and n_learned.shape == self.n_learned.shape
        if not is_sound or not np.isfinite(weights).all() or (n_learned < 0).any():
            raise ValueError("a click model's state is damaged")
        self.weights[:], self.n_learned[:] = weights, n_learned

    def update_hash(self, sha: Any) -> None:
        """Feed all versions to a hashlib object."""
        sha.update(self.weights.tobytes() + self.n_learned.tobytes())
