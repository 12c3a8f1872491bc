"""Popularity that fades by event time."""

from __future__ import annotations

from typing import Any

import numpy as np

from learners import kernels
from learners.base import N_VERSIONS, SHADOW, RowPool, Source, remap_handles
from learners.candidates import Candidates
from learners.categories import MAX_LISTED
from learners.history import History, Profile
from learners.ids import PackedRows, State
from learners.kernels import I32, I64, Decayed, Lists
from learners.lines import zeros_by_lines

# Items in the list of a category: the most that a request may ask for.
N_LISTED = 200


class Trending(Source):
    r"""Recommend what is popular now, to everybody alike.

    An event at time $t$ with reward $y$ adds $y\,2^{t/H}$ to its item, for each half-life $H$:
    forward decay, so nothing is ever rewritten as time goes by. A weight is kept in units of
    $2^{e}$, $e$ the whole half-lives until its last event, and rescaled exactly as $e$ moves on.

    Only the `n_top` heaviest items of a half-life are candidates. Their list is exact as long as no
    item is evicted from it, since weights decay alike and only ever grow. Each category has a list
    of its own, by the last half-life, for requests that want it. A refusal takes nothing back:
    many who rate a film low have seen it because it is popular.

    Parameters
    ----------
    half_lives_s
        Seconds after which an event counts half; each makes a list and a column of scores. The
        lists of categories go by the last one.
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

    >>> model = Trending(half_lives_s=(3600,))
    >>> print(f"{hit_rate(model, checkerboard(n_users=40, n_items=30, seed=7), k=10):.3f}")
    0.340

    References
    ----------
    [^1]: Cormode, G., Shkapenyuk, V., Srivastava, D. and Xu, B., 2009. Forward decay: a practical
    time decay model for streaming systems. ICDE, pp.138-149.

    """

    def __init__(
        self,
        half_lives_s: tuple[int, ...] = (86_400,),
        n_top: int = 1_000,
        history: History | None = None,
        seed: int = 1,
    ) -> None:
        self.half_lives_s = half_lives_s
        self.n_columns = len(half_lives_s)
        self.n_top = n_top
        super().__init__(history=history, seed=seed)
        self.personal.categories.on_changed.append(self._recategorise)

    def _reserve(self) -> None:
        items = self.personal.max_items
        self._pool = RowPool(N_VERSIONS * items + 2, items)
        # Side by side: of up to four half-lives, a row is a cache line.
        n = self.n_columns
        both = zeros_by_lines((self._pool.n_slots, 4 * -(-n // 4), 2), np.int64)
        self.decayed = Decayed(weight=both.view(np.float64)[:, :n, 0], epoch=both[:, :n, 1])
        self.half_lives_ms = np.array(self.half_lives_s, np.int64) * 1_000
        self.top = np.zeros((N_VERSIONS, n, self.n_top), np.int64)
        self.top_size = np.zeros((N_VERSIONS, n), np.int64)
        self.list_rows = RowPool(N_VERSIONS * MAX_LISTED + 2, MAX_LISTED)
        n_slots = self.list_rows.n_slots
        self.lists = Lists(
            handle=np.zeros((n_slots, N_LISTED), np.int64), size=np.zeros(n_slots, np.int64)
        )
        self._version = SHADOW

    @property
    def rows(self) -> RowPool:
        """Return the pool of rows."""
        return self._pool

    def learn(self, profile: Profile, item: int, reward: float, time_ms: int) -> None:
        """Add the event to its item."""
        if reward <= 0:
            return
        kernels.trending_learn(
            self._pool.pool,
            self.decayed,
            self._pool.slots[SHADOW],
            self.personal.items.generation,
            self.personal.items.key,
            self.top[SHADOW],
            self.top_size[SHADOW],
            self.personal.categories.labels,
            self.list_rows.pool,
            self.lists,
            self.list_rows.slots[SHADOW],
            item,
            reward,
            time_ms,
            self.half_lives_ms,
        )

    def _recategorise(self, index: int, lost: list[int], got: list[int]) -> None:
        """Move an item between the lists of categories: out of every version's, into the shadow's.

        What it is in is no matter of learning, and live at once; how heavy it is there passes the
        gate.
        """
        items, lists, pool = self.personal.items, self.lists, self.list_rows
        handle = items.handle(index)
        for label in lost:
            if label < MAX_LISTED:
                for slot in {int(slots[label]) for slots in pool.slots}:
                    own = slice(slot, slot + 1)
                    kernels.trending_drop(lists.handle[own], lists.size[own], handle)
        if self._pool.slots[SHADOW][index]:
            for label in got:
                self._list(SHADOW, label, index, handle)

    def _list(self, version: int, label: int, index: int, handle: int) -> None:
        kernels.list_in_category(
            self.list_rows.pool,
            self.lists,
            self.list_rows.slots[version],
            self.decayed,
            self._pool.slots[version],
            self.personal.items.key,
            label,
            index,
            handle,
        )

    def prepare(self, version: int, profile: Profile) -> None:
        """Note the version; the profile plays no part."""
        self._version = version

    def nominate(self, pool: Candidates, most: int) -> None:
        """Name the heaviest items of each half-life, and of the categories wanted."""
        pool.n = kernels.trending_nominate(
            self.top[self._version],
            self.top_size[self._version],
            self.lists,
            self.list_rows.slots[self._version],
            pool.allowed,
            pool.tick,
            pool.pooled,
            pool.item,
            pool.n,
            most,
        )

    def rate(self, pool: Candidates, column: int) -> None:
        """Write the weights of the pooled items, a row for each half-life."""
        version = self._version
        kernels.trending_score(
            self.decayed,
            self._pool.slots[version],
            self.top[version],
            self.top_size[version],
            pool.item,
            pool.n,
            pool.raw[column : column + self.n_columns],
        )

    def assign(self, target: int, source: int) -> int:
        """Copy the version's lists along with its rows."""
        self.top[target][:] = self.top[source]
        self.top_size[target][:] = self.top_size[source]
        self.list_rows.assign(target, source, self.n_lists)
        return super().assign(target, source)

    def leave(self) -> None:
        """Hear no more of the history, nor of its categories."""
        super().leave()
        self.personal.categories.on_changed.remove(self._recategorise)

    def drop_item(self, index: int, handle: int) -> None:
        """Forget an item that is being evicted; its place is refilled as events come."""
        for top, size in zip(self.top, self.top_size, strict=True):
            kernels.trending_drop(top, size, handle)
        super().drop_item(index, handle)

    @property
    def n_lists(self) -> int:
        """Return how many labels may have a list."""
        return min(self.personal.categories.n_labels, MAX_LISTED)

    def state(self) -> State:
        """Return the pools and the lists."""
        used = self._pool.n_used
        lists: State = {
            f"top_{v}": kernels.packed_rows(self.top[v], self.top_size[v])
            for v in range(N_VERSIONS)
        }
        lists |= {f"top_size_{v}": self.top_size[v] for v in range(N_VERSIONS)}
        size = self.lists.size[: self.list_rows.n_used]
        lists |= {
            "categories": self.list_rows.state(self.n_lists),
            "listed": PackedRows(self.lists.handle, size),
            "listed_size": size,
        }
        return (
            self._pool.state(self.personal.items.n_indices)
            | lists
            | {
                "weight": self.decayed.weight[:used],
                "epoch": self.decayed.epoch[:used],
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
            ends = np.cumsum(np.asarray(state[f"top_size_{version}"]))
            for h, part in enumerate(np.split(top, ends[:-1])):
                kept = part[part >= 0]
                self.top[version][h, : len(kept)] = kept
                self.top_size[version][h] = len(kept)
        if remap is None:
            self.list_rows.load_state(state["categories"])
            size = np.asarray(state["listed_size"])
            self.lists.size[: len(size)] = size
            kernels.unpack_rows(np.asarray(state["listed"]), size, self.lists.handle)
        else:
            self._list_anew()

    def _list_anew(self) -> None:
        """Make the lists of categories: items may be in others now than when a state was taken."""
        items, labels = self.personal.items, self.personal.categories.labels
        for version, slots in enumerate(self._pool.slots):
            for index in np.flatnonzero(slots):
                for label in labels[index][labels[index] > 0]:
                    self._list(version, int(label), int(index), items.handle(int(index)))

    def update_hash(self, version: int, order: I32, place: I64, sha: Any) -> None:
        """Hash weights in the order of the items' ids, and the lists."""
        slots = self._pool.slots[version][order]
        size = self.top_size[version]
        named = place[kernels.packed_rows(self.top[version], size) & int(kernels.INDEX_MASK)]
        for array in (self.decayed.weight[slots], self.decayed.epoch[slots], size, named):
            sha.update(np.ascontiguousarray(array).tobytes())
        labels = self.personal.categories.sorted_labels()
        rows = self.list_rows.slots[version][labels[labels < MAX_LISTED]]
        size = self.lists.size[rows]
        listed = kernels.packed_rows(self.lists.handle[rows], size)
        sha.update(size.tobytes() + place[listed & int(kernels.INDEX_MASK)].tobytes())
