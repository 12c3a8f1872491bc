"""Item-item co-visitation over the live history."""

from __future__ import annotations

from typing import Any

import numpy as np

from learners import kernels
from learners.base import SHADOW, Learner, RowPool, remap_handles
from learners.history import History, Profile
from learners.ids import State
from learners.kernels import I32, I64, MISS, Neighbours, Scratch

_HASH_CHUNK = 1_024


class Covisit(Learner):
    r"""Recommend what was had together with what the user had lately.

    An event of user $u$ on item $i$ with reward $y$ adds $y / r$ to $c(i, h)$ and $c(h, i)$ for
    each item $h$ of the user's history, $r = 1, 2, \dots$ being its recency rank. An item $j$
    scores

    $$s(u, j) = \sum_h \frac{1}{r_h} \frac{c(h, j)}{\sqrt{(n_h + \beta)(n_j + \beta)}}$$

    with $n$ the rewards that an item had in all, and $\beta$ the shrinkage.

    A row keeps at most `max_neighbours`; a full one gives up a stale neighbour (its item is gone),
    else the one with the least weight, the oldest place first.

    Parameters
    ----------
    max_neighbours
        Neighbours kept per item.
    shrink
        Events by which the counts of rare items are damped.
    history
        Users and items; several learners may share one. Its own if None.
    seed
        Unused: nothing here is random. Part of River's contract.

    Examples
    --------
    >>> from learners import Covisit
    >>> from learners.checks import checkerboard, hit_rate

    >>> model = Covisit(max_neighbours=20, shrink=5.0)
    >>> print(f"{hit_rate(model, checkerboard(n_users=40, n_items=30, seed=7), k=10):.3f}")
    0.857

    References
    ----------
    [^1]: Linden, G., Smith, B. and York, J., 2003. Amazon.com recommendations: item-to-item
    collaborative filtering. IEEE Internet Computing, 7(1), pp.76-80.

    """

    def __init__(
        self,
        max_neighbours: int = 100,
        shrink: float = 20.0,
        history: History | None = None,
        seed: int = 1,
    ) -> None:
        self.max_neighbours = max_neighbours
        self.shrink = shrink
        super().__init__(history=history, seed=seed)

    def _reserve(self) -> None:
        items = self.personal.max_items
        self.rows_per_event = 1 + self.personal.scored_history
        self._pool = RowPool(2 * items + self.rows_per_event + 1, items)
        n, width = self._pool.n_slots, self.max_neighbours
        self.neighbours = Neighbours(
            handle=np.zeros((n, width), np.int64),
            weight=np.zeros((n, width), np.float32),
            size=np.zeros(n, np.int32),
            mass=np.zeros(n, np.float64),
            inv_norm=np.zeros(n, np.float64),
        )

    @property
    def rows(self) -> RowPool:
        """Return the pool of rows."""
        return self._pool

    def learn(self, profile: Profile, item: int, reward: float, time_ms: int) -> None:
        """Count the item together with each item of the profile."""
        kernels.covisit_learn(
            self._pool.pool,
            self.neighbours,
            self._pool.slots[SHADOW],
            self.personal.items.generation,
            item,
            reward,
            profile.items,
            profile.weights,
            profile.n,
            self.shrink,
        )

    def score(
        self, version: int, profile: Profile, scratch: Scratch, tick: int, n: int, column: int
    ) -> int:
        """Score the neighbours of the profile's items."""
        if profile.n == 0:
            return n
        return int(
            kernels.covisit_score(
                self.neighbours,
                self._pool.slots[version],
                self.personal.items.generation,
                profile.items,
                profile.weights,
                profile.n,
                scratch,
                tick,
                n,
                column,
            )
        )

    def contribution(self, version: int, history_item: int, weight: float, item: int) -> float:
        """Return what one item of the history adds to the score of another (both by index)."""
        slots, rows = self._pool.slots[version], self.neighbours
        slot = slots[history_item]
        shared = kernels.neighbour_weight(rows, slot, self.personal.items.handle(item))
        return float(weight * shared * rows.inv_norm[slot] * rows.inv_norm[slots[item]])

    def state(self) -> State:
        """Return the pool, with each row cut to its size."""
        used, rows = self._pool.n_used, self.neighbours
        size = rows.size[:used].copy()
        return self._pool.state(self.personal.items.n_indices) | {
            "size": size,
            "mass": rows.mass[:used].copy(),
            "handle": kernels.packed_rows(rows.handle, size),
            "weight": kernels.packed_rows(rows.weight, size),
        }

    def load_state(self, state: State, remap: I64 | None = None) -> None:
        """Take over rows; under `remap`, neighbours that no longer exist become stale."""
        self._reserve()
        self._pool.load_state(state, remap)
        used, rows = self._pool.n_used, self.neighbours
        rows.size[:used] = state["size"]
        rows.mass[:used] = state["mass"]
        for slot in range(1, used):
            rows.inv_norm[slot] = kernels.inverse_norm(rows.mass[slot], self.shrink)
        handles = np.asarray(state["handle"])
        handles = remap_handles(handles, remap, state.get("generation"), self.personal)
        kernels.unpack_rows(handles, rows.size[:used], rows.handle)
        kernels.unpack_rows(np.asarray(state["weight"]), rows.size[:used], rows.weight)

    def update_hash(self, version: int, order: I32, place: I64, sha: Any) -> None:
        """Hash rows in the order of the items' ids, neighbours by their place in it."""
        generation = self.personal.items.generation
        rows = self.neighbours
        for begin in range(0, len(order), _HASH_CHUNK):
            slots = self._pool.slots[version][order[begin : begin + _HASH_CHUNK]]
            handles = rows.handle[slots]
            index = handles & int(kernels.INDEX_MASK)
            is_live = generation[index] == handles >> 32
            is_used = np.arange(self.max_neighbours) < rows.size[slots][:, None]
            named = np.where(is_live, place[index], MISS)
            for array in (rows.size[slots], rows.mass[slots], named[is_used]):
                sha.update(np.ascontiguousarray(array).tobytes())
            sha.update(rows.weight[slots][is_used].tobytes())
