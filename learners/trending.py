"""Popularity that fades by event time."""

from __future__ import annotations

from typing import Any

import numpy as np

from learners import kernels
from learners.base import N_VERSIONS, SHADOW, Learner, RowPool, remap_handles
from learners.history import History, Profile
from learners.ids import State
from learners.kernels import I32, I64, Decayed, Scratch


class Trending(Learner):
    r"""Recommend what is popular now, to everybody alike.

    An event at time $t$ with reward $y$ adds $y\,2^{t/H}$ to its item, $H$ being the half-life:
    forward decay, so nothing is ever rewritten as time goes by. A weight is kept in units of
    $2^{e}$, $e$ the whole half-lives until its last event, and rescaled exactly as $e$ moves on.

    Only the `n_top` heaviest items are candidates; their list is exact as long as no item is
    evicted from it, since weights decay alike and only ever grow.

    Parameters
    ----------
    half_life_s
        Seconds after which an event counts half.
    n_top
        Length of the list that recommendations come from.
    history
        Users and items; several learners may share one. Its own if None.
    seed
        Unused: nothing here is random. Part of River's contract.

    Examples
    --------
    >>> from learners import Trending
    >>> from learners.checks import checkerboard, hit_rate

    >>> model = Trending(half_life_s=3600)
    >>> print(f"{hit_rate(model, checkerboard(n_users=40, n_items=30, seed=7), k=10):.3f}")
    0.340

    References
    ----------
    [^1]: Cormode, G., Shkapenyuk, V., Srivastava, D. and Xu, B., 2009. Forward decay: a practical
    time decay model for streaming systems. ICDE, pp.138-149.

    """

    def __init__(
        self,
        half_life_s: int = 172_800,
        n_top: int = 1_000,
        history: History | None = None,
        seed: int = 1,
    ) -> None:
        self.half_life_s = half_life_s
        self.n_top = n_top
        super().__init__(history=history, seed=seed)

    def _reserve(self) -> None:
        items = self.personal.max_items
        self._pool = RowPool(N_VERSIONS * items + 2, items)
        n = self._pool.n_slots
        self.decayed = Decayed(weight=np.zeros(n, np.float64), epoch=np.zeros(n, np.int64))
        self.top = [np.zeros(self.n_top, np.int64) for _ in range(N_VERSIONS)]
        self.top_size = [np.zeros(1, np.int64) for _ in range(N_VERSIONS)]

    @property
    def rows(self) -> RowPool:
        """Return the pool of rows."""
        return self._pool

    def learn(self, profile: Profile, item: int, reward: float, time_ms: int) -> None:
        """Add the event to its item."""
        kernels.trending_learn(
            self._pool.pool,
            self.decayed,
            self._pool.slots[SHADOW],
            self.personal.items.generation,
            self.personal.items.key,
            self.top[SHADOW],
            self.top_size[SHADOW],
            item,
            reward,
            time_ms,
            self.half_life_s * 1_000,
        )

    def score(
        self, version: int, profile: Profile, scratch: Scratch, tick: int, n: int, column: int
    ) -> int:
        """Score the heaviest items; the profile plays no part."""
        return int(
            kernels.trending_score(
                self.decayed,
                self._pool.slots[version],
                self.top[version],
                self.top_size[version][0],
                scratch,
                tick,
                n,
                column,
            )
        )

    def assign(self, target: int, source: int) -> int:
        """Copy the version's list along with its rows."""
        self.top[target][:] = self.top[source]
        self.top_size[target][:] = self.top_size[source]
        return super().assign(target, source)

    def drop_item(self, index: int, handle: int) -> None:
        """Forget an item that is being evicted; its place is refilled as events come."""
        for top, size in zip(self.top, self.top_size, strict=True):
            kernels.trending_drop(top, size, handle)
        super().drop_item(index, handle)

    def state(self) -> State:
        """Return the pool and each version's list."""
        used = self._pool.n_used
        lists = {f"top_{v}": self.top[v][: self.top_size[v][0]].copy() for v in range(N_VERSIONS)}
        return (
            self._pool.state(self.personal.items.n_indices)
            | lists
            | {
                "weight": self.decayed.weight[:used].copy(),
                "epoch": self.decayed.epoch[:used].copy(),
            }
        )

    def load_state(self, state: State, remap: I64 | None = None) -> None:
        """Take over rows and lists; under `remap`, items that no longer exist drop out."""
        self._reserve()
        self._pool.load_state(state, remap)
        used = self._pool.n_used
        self.decayed.weight[:used] = state["weight"]
        self.decayed.epoch[:used] = state["epoch"]
        for version in range(N_VERSIONS):
            top = remap_handles(
                np.asarray(state[f"top_{version}"]), remap, state.get("generation"), self.personal
            )
            top = top[top >= 0]
            self.top[version][: len(top)] = top
            self.top_size[version][0] = len(top)

    def update_hash(self, version: int, order: I32, place: I64, sha: Any) -> None:
        """Hash weights in the order of the items' ids, and the list."""
        slots = self._pool.slots[version][order]
        top = self.top[version][: self.top_size[version][0]]
        named = place[top & int(kernels.INDEX_MASK)]
        for array in (self.decayed.weight[slots], self.decayed.epoch[slots], named):
            sha.update(np.ascontiguousarray(array).tobytes())
