"""What every learner shares: River's contract over a live history, and rows that versions share.

A learner keeps named arrays of rows in one pool; a version of the shared state is an index,
item -> slot. A row that another version holds is copied before it is written.
"""

from __future__ import annotations

import abc
from collections.abc import Hashable, Iterable
from inspect import signature
from typing import Any

import numpy as np
from river import base
from river.reco.base import Ranker

from learners import kernels
from learners.candidates import Candidates
from learners.history import History, Profile
from learners.ids import State
from learners.kernels import I32, I64, MISS, Pool, Versions
from learners.lines import zeros_by_lines

SHADOW, CHAMPION, ANCHOR, CANDIDATE = range(4)
N_VERSIONS = 4
NOTHING: I32 = np.zeros(0, np.int32)


def slot_table(n_items: int, n_pools: int) -> I32:
    """Return room for the indices of several pools, [versions, items, pools]: see `RowPool`."""
    return zeros_by_lines((N_VERSIONS, n_items, n_pools), np.int32)


class RowPool:
    """Slots with reference counts, and one index (item -> slot) per version; slot 0 is empty.

    The indices of pools that are read for the same items lie together, in one `slot_table`: far
    apart, each costs a cache miss of its own.
    """

    def __init__(self, n_slots: int, n_items: int) -> None:
        self.n_slots = n_slots
        self.pool = Pool(
            refs=np.zeros(n_slots, np.int32),
            free=np.zeros(n_slots, np.int32),
            marks=np.array([0, 1], np.int64),
        )
        # Beside nothing, where it is alone: so kernels are compiled for one layout.
        self._lie_in(slot_table(n_items, 2), 0)

    def _lie_in(self, table: I32, column: int) -> None:
        self.versions = Versions(self.pool, table[:, :, column])
        self.slots = list(self.versions.slots)

    def move_to(self, table: I32, column: int) -> None:
        """Have the indices in a column of a table from now on, which is still all 0."""
        if self.n_used > 1:
            table[:, :, column] = self.versions.slots
        self._lie_in(table, column)

    @property
    def n_used(self) -> int:
        """Return how many slots were ever in use (with slot 0)."""
        return int(self.pool.marks[1])

    def n_available(self) -> int:
        """Return how many slots can still be taken."""
        return int(self.pool.marks[0]) + self.n_slots - self.n_used

    def assign(self, target: int, source: int, n_items: int) -> int:
        """Make version `target` hold what `source` holds; return how many rows differed."""
        return int(kernels.assign_slots(self.pool, self.slots[target], self.slots[source], n_items))

    def holds(self, item: int) -> bool:
        """Tell whether any version has a row for an item."""
        return any(slots[item] != 0 for slots in self.slots)

    def drop(self, item: int) -> None:
        """Release an item's row in every version."""
        for slots in self.slots:
            kernels.release_slot(self.pool, slots[item])
            slots[item] = 0

    def state(self, n_items: int) -> State:
        """Return the indices and the free stack, cut to what is in use."""
        state: State = {f"slots_{v}": s[:n_items] for v, s in enumerate(self.slots)}
        n_free = int(self.pool.marks[0])
        return state | {"free": self.pool.free[:n_free], "n_used": self.n_used}

    def load_state(self, state: State, remap: I64 | None = None) -> None:
        """Take over the indices, moved by `remap` (old index -> new or MISS) if there is one."""
        n_used = int(state["n_used"])
        if n_used > self.n_slots:
            raise ValueError(f"{n_used} rows do not fit a pool of {self.n_slots}")
        self.pool.refs[:] = 0
        for version, slots in enumerate(self.slots):
            old = np.asarray(state[f"slots_{version}"], np.int32)
            slots[:] = 0
            if remap is None:
                slots[: len(old)] = old
            else:
                kept = remap[: len(old)] != MISS
                slots[remap[: len(old)][kept]] = old[kept]
            np.add.at(self.pool.refs, slots[slots > 0], 1)
        free = np.asarray(state["free"], np.int32)
        if remap is not None:
            unused = np.flatnonzero(self.pool.refs[1:n_used] == 0) + 1
            free = unused[::-1].astype(np.int32)
        self.pool.free[: len(free)] = free
        self.pool.marks[:] = len(free), n_used


class Learner(Ranker):
    """Base of the learners: River's three methods over a `History`, and versions of shared state.

    Subclasses say how to learn from (profile, item, reward, time), and which candidates they name
    with which scores. Nothing here reads a clock: a context `x` may carry `time_ms`; without it
    time stands still. And what the history's `inputs` name.
    """

    # What a subclass may add to the pool in one event: itself and each item of the profile.
    rows_per_event = 1
    # How many columns of a pool `rate` writes.
    n_columns = 1

    seed: int

    def __init__(self, history: History | None = None, seed: int = 1) -> None:
        super().__init__(seed=seed)
        self.history = history
        self.personal = history if history is not None else History()
        self.tick = 0
        self._profile = Profile(self.personal.history_length)
        self._reserve()
        self._own_pool = self.new_pool(self.personal.max_items)
        self.personal.on_item_evicted.append(self.drop_item)

    @abc.abstractmethod
    def _reserve(self) -> None:
        """Make the arrays of the shared state."""

    @property
    @abc.abstractmethod
    def rows(self) -> RowPool:
        """Return the pool of this learner's rows."""

    @abc.abstractmethod
    def learn(self, profile: Profile, item: int, reward: float, time_ms: int) -> None:
        """Teach the shadow one event, given the profile from before it."""

    @abc.abstractmethod
    def pool_candidates(
        self,
        version: int,
        profile: Profile,
        pool: Candidates,
        now_ms: int,
        most: int = 1,
        given: I32 = NOTHING,
    ) -> None:
        """Fill a pool that has begun with the best eligible items, at most so many of each kind.

        And with `given` ones, eligible or not; write everybody's scores and totals. No state
        changes.
        """

    def new_pool(self, capacity: int, **arrays: Any) -> Candidates:
        """Return a pool that `rate` fits; `arrays` may be the arrays `hidden` and `labels`."""
        return Candidates(
            self.personal.max_items, capacity=capacity, n_columns=self.n_columns, **arrays
        )

    @abc.abstractmethod
    def update_hash(self, version: int, order: I32, place: I64, sha: Any) -> None:
        """Feed a version's content to `sha`: items in `order`, an index i written as place[i]."""

    def hash_learning(self, place: I64, sha: Any) -> None:
        """Feed to `sha` what later learning depends on and no version holds. Nothing, here."""

    @abc.abstractmethod
    def state(self) -> State:
        """Return named arrays and plain values from which `load_state` continues identically."""

    @abc.abstractmethod
    def load_state(self, state: State, remap: I64 | None = None) -> None:
        """Become what `state` was taken from; with `remap`, under other item indices."""

    def assign(self, target: int, source: int) -> int:
        """Make version `target` equal to `source`; return how many rows differed."""
        return self.rows.assign(target, source, self.personal.items.n_indices)

    def drop_item(self, index: int, handle: int) -> None:
        """Forget an item that is being evicted."""
        self.rows.drop(index)

    def leave(self) -> None:
        """Hear no more of the history: this learner is given up, the history goes on."""
        self.personal.on_item_evicted.remove(self.drop_item)

    def has_room(self) -> bool:
        """Tell whether one more event can be learned without evicting an item."""
        return self.rows.n_available() >= self.rows_per_event

    def holds_rows(self, item: int) -> bool:
        """Tell whether any version has a row for an item."""
        return self.rows.holds(item)

    def make_room(self, keep: int) -> None:
        """Evict the items with rows touched longest ago, but not `keep`, until one more fits."""
        items = self.personal.items
        while not self.has_room():
            held = (i for i in items.index.items() if i[1] != keep and self.holds_rows(i[1]))
            self.personal.evict_item(next(held)[0])

    def params(self) -> dict[str, Any]:
        """Return the hyper-parameters by name; a River model as its text."""
        given = {n: v for n, v in self._given().items() if not isinstance(v, History | None)}
        return {
            name: " ".join(repr(value).split()) if isinstance(value, base.Base) else value
            for name, value in given.items()
        }

    def _given(self) -> dict[str, Any]:
        """Return the arguments that the constructor got."""
        return {name: getattr(self, name) for name in signature(type(self)).parameters}

    # -- River's contract ---------------------------------------------------------------------

    def learn_one(
        self, user: Hashable, item: Hashable, y: Any, x: dict[str, Any] | None = None
    ) -> None:
        """Learn that `user` had `item` with reward `y` (True is 1); `x` may hold time_ms."""
        personal = self.personal
        self.tick += 1
        user_index = personal.touch_user(user, self.tick)
        item_index = personal.touch_item(item, self.tick)
        time_ms = int((x or {}).get("time_ms", 0))
        self.make_room(item_index)
        profile = personal.profile(user_index, self._profile)
        self.learn(profile, item_index, float(y), time_ms)
        personal.append(user_index, item_index, time_ms=time_ms, reward=float(y))

    def predict_one(  # type: ignore[override]  # River's numbers.Number is no supertype of float
        self, user: Hashable, item: Hashable, x: dict[str, Any] | None = None
    ) -> float:
        """Return the score of an item for a user, 0 if nothing is known. Changes no state."""
        return self._scores(user, [item], x)[0]

    def rank(
        self, user: Hashable, items: Iterable[Hashable], x: dict[str, Any] | None = None
    ) -> list[Hashable]:
        """Return the items, best first; ties by id, whatever the order they came in."""
        ordered = sorted(items, key=str)
        scores = self._scores(user, ordered, x)
        return [item for _, item in sorted(zip(scores, ordered, strict=True), key=_best_first)]

    def _scores(
        self, user: Hashable, items: list[Hashable], x: dict[str, Any] | None
    ) -> list[float]:
        personal, pool = self.personal, self._own_pool
        profile = personal.profile(personal.users.get(user), self._profile)
        pool.begin()
        personal.inputs.give(x)
        known = [index for index in map(personal.items.get, items) if index != MISS]
        time_ms = int((x or {}).get("time_ms", 0))
        # Some are named as well: what a score is relative to must not depend on who else is asked.
        self.pool_candidates(SHADOW, profile, pool, time_ms, given=np.array(known, np.int32))
        score = dict(zip(pool.item[: pool.n].tolist(), pool.total[: pool.n].tolist(), strict=True))
        return [float(score.get(personal.items.get(item), 0.0)) for item in items]

    def __getstate__(self) -> dict[str, Any]:
        """Return parameters and compact state: copying a learner must not copy its capacity."""
        return {
            "params": self._given(),
            "tick": self.tick,
            "personal": (self.personal.sizes(), self.personal.state()),
            "state": self.state(),
        }

    def __setstate__(self, saved: dict[str, Any]) -> None:
        """Rebuild from what `__getstate__` returned; the copy has a history of its own."""
        sizes, personal = saved["personal"]
        history = History(**sizes)
        history.load_state(personal)
        own = saved["params"]["history"] is None
        self.__init__(**(saved["params"] | {"history": history}))  # type: ignore[misc]
        if own:
            self.history = None
        self.tick = saved["tick"]
        self.load_state(saved["state"])


class Source(Learner):
    """A learner that scores in three steps, so that others can put items into the pool between.

    `prepare` once a request, then `nominate` and `rate`, as often as wanted.
    """

    @abc.abstractmethod
    def prepare(self, version: int, profile: Profile) -> None:
        """Do what is done once a request: for a version, and a user's profile."""

    @abc.abstractmethod
    def nominate(self, pool: Candidates, most: int) -> None:
        """Add this learner's best eligible items to the pool, at most so many of each kind."""

    @abc.abstractmethod
    def rate(self, pool: Candidates, column: int) -> None:
        """Write the scores of the pooled items into `pool.raw`, from row `column` on."""

    def pool_candidates(
        self,
        version: int,
        profile: Profile,
        pool: Candidates,
        now_ms: int,
        most: int = 1,
        given: I32 = NOTHING,
    ) -> None:
        """Prepare, name, rate; the first column is the total."""
        self.prepare(version, profile)
        self.nominate(pool, most)
        pool.add(given.tolist())
        self.rate(pool, 0)
        pool.total[: pool.n] = pool.raw[0, : pool.n]


def _best_first(scored: tuple[float, Hashable]) -> float:
    return -scored[0]


def remap_handles(
    handles: I64, remap: I64 | None, old_generation: I32 | None, personal: History
) -> I64:
    """Return handles under the present indices; without `remap` they are as they were.

    `remap` maps an index of the saved state to one of now, or MISS; `old_generation` are the
    generations at the time of saving, by which handles that were stale already are told.
    """
    if remap is None or old_generation is None:
        return handles
    index = handles & int(kernels.INDEX_MASK)
    was_live = old_generation[index] == handles >> 32
    moved = np.where(was_live, remap[index], MISS)
    present = personal.items.generation[np.maximum(moved, 0)].astype(np.int64) << 32
    # A generation of -1 is never given out: such a handle is stale for good.
    return np.where(moved == MISS, np.int64(-1) << 32, present | moved)
