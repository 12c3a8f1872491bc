"""Item factors, the user being the weighted sum of what they had: taste beyond single items."""

from __future__ import annotations

from typing import Any

import numpy as np

from learners import kernels
from learners.base import N_VERSIONS, SHADOW, RowPool, Source
from learners.candidates import Candidates
from learners.history import History, Profile
from learners.ids import State
from learners.kernels import F32, I32, I64, MISS
from learners.lines import zeros_by_lines
from learners.user_rows import UserRows

# Candidates expected less than this teach next to nothing, and are most of a pool.
LEAST_SHARE = 0.005


class Factors(Source):
    r"""Rate items by factors of the user and of their history: FISM, learned event by event.

    With $w_h = 1 / r_h$ for the recency rank of each item $h$ of the history,

    $$s(u, j) = q_j \cdot \Big( b_u +
    \frac{\sum_h \sqrt{w_h} p_h}{\sqrt{\sum_h \sqrt{w_h}}} \Big)$$

    where $b_u$ are factors of the user's own, as in SVD++: what else a user's events say is learned
    there by the same steps. It is personal state: live at once, in no version, and gone with the
    user.

    Each event takes a step of squared loss towards its reward, and towards 0 for `n_negatives`
    items drawn by a hash of the seed and the number of the event; a refusal only takes its item
    down, as far as 0.
    Where the choice was made from a pool that others scored as well, `learn_choice` takes another
    step, on what these left to explain. It names no candidates, as that would take a pass over the
    catalogue.

    Parameters
    ----------
    n_factors
        Length of $p$ and $q$; a multiple of 4.
    learning_rate
        Length of a step.
    decay
        Share of a factor, in units of the rate, that is lost in a step.
    n_negatives
        Items drawn for each event.
    choice_rate
        Length of the step of `learn_choice`.
    history
        Users and items; several learners may share one. Its own if None.
    seed
        Of the hash that draws; the first factors are hashed from the items' ids.

    Examples
    --------
    >>> from learners import Factors
    >>> from learners.checks import checkerboard, hit_rate

    >>> model = Factors(n_factors=8)
    >>> print(f"{hit_rate(model, checkerboard(n_users=40, n_items=30, seed=7), k=10):.3f}")
    0.765

    References
    ----------
    [^1]: Kabbur, S., Ning, X. and Karypis, G., 2013. FISM: factored item similarity models for
    top-N recommender systems. KDD, pp.659-667.
    [^2]: Koren, Y., 2008. Factorization meets the neighborhood: a multifaceted collaborative
    filtering model. KDD, pp.426-434.

    """

    def __init__(
        self,
        n_factors: int = 32,
        learning_rate: float = 0.2,
        decay: float = 0.002,
        n_negatives: int = 20,
        choice_rate: float = 0.05,
        history: History | None = None,
        seed: int = 1,
    ) -> None:
        self.n_factors = n_factors
        self.learning_rate = learning_rate
        self.decay = decay
        self.n_negatives = n_negatives
        self.choice_rate = choice_rate
        super().__init__(history=history, seed=seed)
        self.users = UserRows(self.personal, n_factors)

    def use_users(self, *, is_on: bool) -> None:
        """Keep factors of each user's own, all zero where there were none; or none any more."""
        if is_on != (self.users.width > 0):
            self.users.leave()
            self.users = UserRows(self.personal, self.n_factors if is_on else 0)

    def _reserve(self) -> None:
        items = self.personal.max_items
        self._pool = RowPool(N_VERSIONS * items + 2, items)
        self.factors = zeros_by_lines((self._pool.n_slots, 2 * self.n_factors), np.float32)
        # What negatives are drawn from: items in the order in which they were first had. An
        # eviction moves the last one into the gap. Never indices: these have no meaning.
        self.order = np.zeros(items, np.int32)
        self.order_place = np.full(items, MISS, np.int32)
        # [2] events learned, items in order.
        self.counts = np.zeros(2, np.int64)
        self.vector = np.zeros(self.n_factors, np.float32)
        self.gradient = np.zeros(self.n_factors, np.float32)
        self._version = SHADOW

    @property
    def rows(self) -> RowPool:
        """Return the pool of rows."""
        return self._pool

    @property
    def n_learned(self) -> int:
        """Return how many events were learned: draws are numbered by them."""
        return int(self.counts[0])

    @property
    def n_order(self) -> int:
        """Return how many items negatives are drawn from."""
        return int(self.counts[1])

    def learn(self, profile: Profile, item: int, reward: float, time_ms: int) -> None:
        """Take the steps of one event."""
        order, place = self.order, self.order_place
        draw = np.uint64(kernels.next_draw(order, place, self.counts, self.seed, item))
        own = self.users.live[profile.user]
        kernels.factors_learn(
            self._pool.pool,
            self.factors,
            self._pool.slots[SHADOW],
            self.personal.items.key,
            order,
            self.n_order,
            item,
            reward,
            profile.items,
            profile.weights,
            profile.n,
            own,
            own[:0] if profile.is_past else own,
            self.vector,
            self.gradient,
            self.learning_rate,
            self.decay,
            self.n_negatives,
            draw,
        )

    def _put_in_order(self, item: int) -> None:
        kernels.put_in_order(self.order, self.order_place, self.counts, item)

    def leave(self) -> None:
        """Hear no more of the history."""
        super().leave()
        self.users.leave()

    def drop_item(self, index: int, handle: int) -> None:
        """Forget an item that is being evicted."""
        super().drop_item(index, handle)
        place = int(self.order_place[index])
        if place != MISS:
            self.counts[1] -= 1
            last = self.order[self.n_order]
            self.order[place], self.order_place[last] = last, place
            self.order_place[index] = MISS

    def learn_choice(self, profile: Profile, pool: Candidates, place: int) -> None:
        """Take a step on the likelihood of a choice among pooled items, whose shares are known."""
        kernels.factors_choose(
            self._pool.pool,
            self.factors,
            self._pool.slots[SHADOW],
            self.personal.items.key,
            pool.item,
            pool.share,
            pool.n,
            place,
            profile.items,
            profile.weights,
            profile.n,
            self._own(profile),
            self.users.live[profile.user],
            self.vector,
            self.gradient,
            self.choice_rate,
            LEAST_SHARE,
        )

    def prepare(self, version: int, profile: Profile) -> None:
        """Make the user's vector."""
        self._version = version
        slots = self._pool.slots[version]
        own = self._own(profile)
        kernels.user_vector(
            self.factors, slots, profile.items, profile.weights, profile.n, own, self.vector
        )

    def _own(self, profile: Profile) -> F32:
        """Return the factors of a user's own, as far as they are known by their profile."""
        rows = self.users.past if profile.is_past else self.users.live
        own: F32 = rows[profile.user]
        return own

    def nominate(self, pool: Candidates, most: int) -> None:
        """Name nothing."""

    def rate(self, pool: Candidates, column: int) -> None:
        """Write the products of the pooled items with the user's vector."""
        kernels.factors_score(
            self.factors,
            self._pool.slots[self._version],
            self.vector,
            pool.item,
            pool.n,
            pool.raw[column],
        )

    def state(self) -> State:
        """Return the pool and the rows in use."""
        used = self._pool.n_used
        return self._pool.state(self.personal.items.n_indices) | {
            "factors": self.factors[:used],
            "n_learned": self.n_learned,
            "order": self.order[: self.n_order],
            **self.users.state(),
        }

    def load_state(self, state: State, remap: I64 | None = None) -> None:
        """Take over rows; under `remap`, which items there are stays as it is, and users' own."""
        present = self.order[: self.n_order].copy()
        self._reserve()
        for item in np.asarray(state["order"]) if remap is None else present:
            self._put_in_order(int(item))
        self._pool.load_state(state, remap)
        self.factors[: self._pool.n_used] = state["factors"]
        self.counts[0] = int(state["n_learned"])
        if remap is None:
            self.use_users(is_on="users" in state)
            self.users.load_state(state)

    def update_hash(self, version: int, order: I32, place: I64, sha: Any) -> None:
        """Hash rows in the order of the items' ids; an item without one counts as zeros."""
        slots = self._pool.slots[version][order]
        sha.update(np.ascontiguousarray(self.factors[slots]).tobytes())

    def hash_learning(self, place: I64, sha: Any) -> None:
        """Hash what negatives are drawn by, and what is users' own."""
        sha.update(self.n_learned.to_bytes(8, "little"))
        sha.update(place[self.order[: self.n_order]].tobytes())
        self.users.update_hash(sha)
