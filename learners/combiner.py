"""How much each source counts: weights per situation, learned online from the judged events."""

from __future__ import annotations

import abc
from typing import Any

import numpy as np
from river import base

from learners import kernels
from learners.base import N_VERSIONS, SHADOW
from learners.candidates import Candidates
from learners.history import Profile
from learners.ids import State
from learners.inputs import CONTEXTS
from learners.kernels import F64, I32

# Features of an item: how much it has been had, how little, how unlike the history; how new it is;
# how much of the history shares its categories.
OF_ITEM = (
    "had_often",
    "had_rarely",
    "had_unlike",
    "new_by_days",
    "new_by_weeks",
    "shared_categories",
)

# What a weight's sum of squared gradients begins with: a first step has about the length `rate`.
_FIRST_SQUARE = 0.01


def feature_names(half_lives_s: tuple[int, ...]) -> tuple[str, ...]:
    """Return the names of a candidate's features: of each rating its two, then those of the item.

    A rating over the largest, v, gives sqrt(v) by the source's name, v / (v + 0.1) with `_weak`.
    """
    ratings = ("covisit", "sequence", "factors", *(f"trending_{h}s" for h in half_lives_s))
    return (*ratings, *(f"{name}_weak" for name in ratings), *OF_ITEM)


def context_of(profile: Profile, now_ms: int, into: F64) -> None:
    """Write which of CONTEXTS hold for a user with this profile at this time (1.0 or 0.0)."""
    kernels.situation_of(profile.n, now_ms - int(profile.times[0]), into)


class Combiner(abc.ABC):
    """Turns what the sources gave to the pooled candidates into one total. It has versions.

    `combined` are the weights of the features in the last total; 1 each where nobody knows.
    """

    combined: F64

    @abc.abstractmethod
    def total(self, version: int, profile: Profile, pool: Candidates, now_ms: int) -> None:
        """Write the totals of the pooled items, given `pool.features`."""

    @abc.abstractmethod
    def learn_list(self, pool: Candidates, place: int, reward: float) -> bool:
        """Learn that the pooled item at a place was chosen, in the situation of the last total.

        Return whether `pool.share` now tells how likely each choice was.
        """

    def learn(self, profile: Profile, item: int, reward: float) -> None:  # noqa: B027  # optional
        """Learn an event, whether its item was pooled or not. Nothing, here."""

    @abc.abstractmethod
    def parts(self, version: int, pool: Candidates, places: I32, part_of: I32, parts: F64) -> None:
        """Write what each part adds to the totals at some places, as this version made them last.

        `part_of` has the part of each feature, then of each context that is given; the last part is
        the model's.
        """

    @abc.abstractmethod
    def assign(self, target: int, source: int) -> None:
        """Make version `target` equal to `source`."""

    def leave(self) -> None:  # noqa: B027  # optional
        """Hear no more of a history. Nothing, here."""

    @abc.abstractmethod
    def view(self, version: int) -> dict[str, Any]:
        """Return what a person may want to see of a version."""

    @abc.abstractmethod
    def state(self) -> State:
        """Return what `load_state` continues from."""

    @abc.abstractmethod
    def load_state(self, state: State, *, is_moved: bool) -> None:
        """Become what `state` was taken from; `is_moved`: into a history that has gone on since."""

    @abc.abstractmethod
    def update_hash(self, version: int, sha: Any) -> None:
        """Feed a version's content to a hashlib object."""

    def hash_learning(self, sha: Any) -> None:  # noqa: B027  # optional
        """Feed what later learning depends on and no version holds. Nothing, here."""


class LinearCombiner(Combiner, base.Classifier):
    r"""Say how likely a choice is, by weights of features that depend on the situation.

    A candidate $j$ with features $x_j$ has the total $s_j = \sum_c z_c\, w_c \cdot x_j$, the sum
    going over the `CONTEXTS` that hold ($z_c = 1$), and those that are given. Learning from a list
    of candidates takes an AdaGrad step on the log-likelihood $s_i - \log \sum_j e^{s_j}$ of the one
    that was chosen.

    As a River classifier it learns and predicts one difference of two candidates at a time:
    $P(y) = 1 / (1 + e^{-s})$; a context is given among the features, by its name.

    Parameters
    ----------
    features
        Names of the features.
    initial
        Their first weights, in every situation; 0 for those not named.
    learning_rate
        Length of a step.
    given
        Names of contexts beside `CONTEXTS`, each with a number from -1 to 1, if there are any.

    Examples
    --------
    >>> from learners.combiner import LinearCombiner

    >>> model = LinearCombiner(features=("covisit", "trending"))
    >>> for _ in range(20):
    ...     model.learn_one({"covisit": 1.0, "trending": 0.2}, True)
    >>> round(model.predict_proba_one({"covisit": 1.0, "trending": 0.2})[True], 3)
    0.758

    References
    ----------
    [^1]: Duchi, J., Hazan, E. and Singer, Y., 2011. Adaptive subgradient methods for online
    learning and stochastic optimization. JMLR, 12, pp.2121-2159.

    """

    def __init__(
        self,
        features: tuple[str, ...] = ("x",),
        initial: dict[str, float] | None = None,
        learning_rate: float = 0.15,
        given: tuple[str, ...] | None = None,
    ) -> None:
        self.features = features
        self.initial = initial
        self.learning_rate = learning_rate
        self.given = given
        self.contexts = (*CONTEXTS, *(given or ()))
        shape = N_VERSIONS, len(self.contexts), len(features)
        self.weights = np.zeros(shape, np.float64)
        self.weights[:, 0] = [(initial or {}).get(name, 0.0) for name in features]
        self.squares = np.full(shape, _FIRST_SQUARE)
        self.combined = np.zeros(len(features), np.float64)
        self.context = np.zeros(len(self.contexts), np.float64)

    # -- lists --------------------------------------------------------------------------------

    def total(self, version: int, profile: Profile, pool: Candidates, now_ms: int) -> None:
        """Write the totals of the pooled items; `combined` then has the weights in force."""
        kernels.blend_totals(
            self.weights,
            version,
            profile.n,
            profile.times,
            now_ms,
            self.context,
            pool.features,
            pool.n,
            self.combined,
            pool.total,
        )

    def learn_list(self, pool: Candidates, place: int, reward: float) -> bool:
        """Take a step on the likelihood of the choice."""
        kernels.softmax(pool.total, pool.n, pool.share)
        kernels.blend_learn(
            self.weights[SHADOW],
            self.squares[SHADOW],
            self.context,
            pool.features,
            pool.share,
            pool.n,
            place,
            reward,
            self.learning_rate,
        )
        return True

    def parts(self, version: int, pool: Candidates, places: I32, part_of: I32, parts: F64) -> None:
        """Split the totals by the weights of the last total, and what a given context adds."""
        own, n_own = self.combined.copy(), len(CONTEXTS)
        added = self.context[n_own:, None] * self.weights[version, n_own:]
        for weights in added:
            own -= weights
        kernels.parts_of(pool.features, own, part_of, places, len(places), parts)
        for part, weights in zip(part_of[len(self.features) :], added):
            parts[:, part] = weights @ pool.features[:, places]

    # -- River's contract ---------------------------------------------------------------------

    def _pair(self, x: dict[Any, Any]) -> Candidates:
        """Return two candidates, one with features x, one with none, and their totals."""
        pool = Candidates(2, capacity=2, n_features=len(self.features))
        pool.begin()
        pool.add([0, 1])
        pool.features[:, 0] = [float(x.get(name, 0.0)) for name in self.features]
        self.context[:] = [float(x.get(name, 0.0)) for name in self.contexts]
        self.context[0] = 1.0
        kernels.weigh(
            self.weights[SHADOW], self.context, pool.features, 2, self.combined, pool.total
        )
        return pool

    def predict_proba_one(self, x: dict[Any, Any], **kwargs: Any) -> dict[Any, float]:
        """Return the probability of True and of False for a difference of two candidates."""
        pool = self._pair(x)
        kernels.softmax(pool.total, 2, pool.share)
        return {True: float(pool.share[0]), False: float(pool.share[1])}

    def learn_one(self, x: dict[Any, Any], y: Any, **kwargs: Any) -> None:
        """Learn that the first (True) or the second of two candidates was chosen."""
        self.learn_list(self._pair(x), 0 if y else 1, 1.0)

    # -- versions and state -------------------------------------------------------------------

    def assign(self, target: int, source: int) -> None:
        """Make version `target` equal to `source`."""
        self.weights[target] = self.weights[source]
        self.squares[target] = self.squares[source]

    def inherit(self, other: LinearCombiner) -> None:
        """Take over the weights of the features and contexts that both have, by name."""
        features = [name for name in self.features if name in other.features]
        contexts = [name for name in self.contexts if name in other.contexts]
        ours, theirs = (
            np.ix_(
                range(N_VERSIONS),
                [model.contexts.index(name) for name in contexts],
                [model.features.index(name) for name in features],
            )
            for model in (self, other)
        )
        self.weights[ours] = other.weights[theirs]
        self.squares[ours] = other.squares[theirs]

    def view(self, version: int) -> dict[str, dict[str, float]]:
        """Return a version's weights by situation and feature."""
        return {
            context: dict(zip(self.features, map(float, weights), strict=True))
            for context, weights in zip(self.contexts, self.weights[version], strict=True)
        }

    def state(self) -> State:
        """Return what `load_state` continues from."""
        return {"weights": self.weights.copy(), "squares": self.squares.copy()}

    def load_state(self, state: State, *, is_moved: bool = False) -> None:
        """Take over the weights; raise ValueError if they belong to other features."""
        if np.shape(state["weights"]) != self.weights.shape:
            raise ValueError("a combiner's state belongs to other features")
        self.weights[:] = state["weights"]
        self.squares[:] = state["squares"]

    def update_hash(self, version: int, sha: Any) -> None:
        """Feed a version's weights to a hashlib object."""
        sha.update(self.weights[version].tobytes() + self.squares[version].tobytes())
