"""Exploration slots: a share of the slots below the third shows items that few have seen.

Which slots explore, and what they show, is drawn by hashes of the seed and the recommendation id,
so that a read stays a read, and it is known how likely everything was that was shown.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b
from itertools import chain, islice
from typing import Any, Protocol, cast

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from app.catalogue import Catalogue
from app.recommend import Asked, Best, Scored
from learners import kernels
from learners.history import History
from learners.ids import State
from learners.kernels import F64, I32, MISS
from learners.labels import Labels

N_SPARED = 3
"""Slots that never explore: the first ones, which most people look at."""

EXPLORATION = "exploration"
"""The source that stands beside an item that explores."""

MOST_SHOWN = 100
"""Showings after which an item is not new any more ..."""
MOST_TAKEN = MOST_SHOWN // kernels.SHOWN_PER_EVENT
"""... or events: then the sources know it, however it was found."""

# Cold items that a slate looks at: the newest, and as many of those that wait, by turns.
_N_FRESH = _N_WAITING = 64
# Events after which the turn goes on by one.
_TURN_EVENTS = 20
# Items that a slot draws from. More would show more that nobody is likely to want.
_PER_SLOT = 3
# What an item is worth that nothing speaks for, beside one whose labels fit best.
_FLOOR = 0.1
_MOST_SLOTS = 200
_NOBODY = np.uint64(0)


class Limits(Protocol):
    """What rules say of the places of a slate, and of what may come into it."""

    def open_places(self, slate: list[Scored]) -> list[int]:
        """Return the places at which another item may stand."""

    def fitting(self, slate: list[Scored], items: I32) -> NDArray[np.bool_]:
        """Tell which of some items may all be shown together, beside the whole slate."""


class Exploration:
    """Knows how often items were shown and clicked, which are cold, and what their labels say.

    Counts and labels are what happened and what items are, and live; what was learned of labels
    has versions (see `Labels`).
    """

    def __init__(self, history: History, catalogue: Catalogue) -> None:
        self._history, self._items, self._catalogue = history, history.items, catalogue
        self.labels = Labels(history.max_items)
        self._reset()
        history.on_item_evicted.append(self._forget)
        self._rated: I32 = np.zeros(_N_FRESH + _N_WAITING, np.int32)
        self._value: F64 = np.zeros(len(self._rated))
        self._tie = np.zeros(len(self._rated), np.uint64)
        self._chosen: I32 = np.zeros(_MOST_SLOTS, np.int32)
        self._propensity: F64 = np.zeros(_MOST_SLOTS)

    def _reset(self) -> None:
        size = self._history.max_items
        self._is_known = np.zeros(size, np.uint8)
        self._shown: I32 = np.zeros(size, np.int32)
        self._taken: I32 = np.zeros(size, np.int32)
        # The same, without NumPy's own numbers, which are slow one by one.
        self._counts = self._is_known.data, self._shown.data, self._taken.data
        # Ordered sets of indices: the newest of the cold items, and all others.
        self._fresh: dict[int, None] = {}
        self._waiting: dict[int, None] = {}
        self._cold: I32 | None = None

    # -- what is known ------------------------------------------------------------------------

    def begin(self) -> None:
        """Take all items that there are for old ones: what was shown before, nobody knows."""
        for index in self._items.sorted_indices().tolist():
            self._is_known[index] = 1
            self.labels.put(index, self._catalogue.labels(index))

    def meet(self, index: int) -> None:
        """Take note of an item that is there: a new one is cold."""
        if self._counts[0][index]:
            return
        self._is_known[index] = 1
        self._fresh[index] = None
        if len(self._fresh) > _N_FRESH:
            oldest = next(iter(self._fresh))
            del self._fresh[oldest]
            self._waiting[oldest] = None
        self._cold = None

    def describe(self, index: int) -> None:
        """Take note that an item's categories or attributes may have changed."""
        self.labels.put(index, self._catalogue.labels(index))

    def show(self, index: int) -> None:
        """Count that an item was shown."""
        self._shown[index] += 1
        if self._shown[index] == MOST_SHOWN:
            self._leave(index)

    def count(self, number: int, items: list[int], taught: list[bool]) -> None:
        """Count events on items, by the number of the first, and whether they taught."""
        known, _, taken = self._counts
        for n_events, (item, is_taught) in enumerate(zip(items, taught), number):
            if not known[item]:
                self.meet(item)
            if n_events % _TURN_EVENTS == 0:
                self._turn()
            if is_taught:
                taken[item] += 1
                if taken[item] == MOST_TAKEN:
                    self._leave(item)

    def _turn(self) -> None:
        """Let the next of the waiting items be looked at."""
        if len(self._waiting) > _N_WAITING:
            first = next(iter(self._waiting))
            del self._waiting[first]
            self._waiting[first] = None
            self._cold = None

    def _leave(self, index: int) -> None:
        if index in self._fresh or index in self._waiting:
            self._fresh.pop(index, None)
            self._waiting.pop(index, None)
            self._cold = None

    def _forget(self, index: int, handle: int) -> None:
        self._leave(index)
        self._is_known[index] = self._shown[index] = self._taken[index] = 0
        self.labels.put(index, [])

    @property
    def cold(self) -> I32:
        """The cold items that slates look at now."""
        if self._cold is None:
            looked_at = chain(reversed(self._fresh), islice(self._waiting, _N_WAITING))
            self._cold = np.fromiter(looked_at, np.int32)
        return self._cold

    # -- slates -------------------------------------------------------------------------------

    def explore(
        self,
        best: Best,
        asked: Asked,
        version: int,
        *,
        share: float,
        seed: int,
        recommendation_id: str,
    ) -> list[float]:
        """Put cold items into some slots of what is shown; return how likely each was to be there.

        `asked` is what the slate was made from: it knows what is eligible. What explores takes the
        score of whose place it has, so that the order of scores is that of the slate.
        """
        n_slots, cold, pool = len(best.items) - N_SPARED, self.cold, asked.pool
        if n_slots <= 0 or not len(cold):
            return [1.0] * len(best.items)
        chance = _chance(seed, recommendation_id)
        propensity, chosen = self._propensity[:n_slots], self._chosen[:n_slots]
        buffers, wanted = pool.buffers, pool.allowed.wanted
        if kernels.exploring(
            chance, share, cold, buffers, wanted, pool.tick, best.places, propensity
        ):
            n = self._best(asked, version, n_slots)
            kernels.deal_cold(chance, share, self._rated, self._value, n, chosen, propensity)
            for place, item in enumerate(chosen.tolist(), N_SPARED):
                if item != MISS:
                    best.items[place], best.named[place] = item, [EXPLORATION]
        return [1.0] * N_SPARED + cast("list[float]", propensity.tolist())

    def explore_within(
        self,
        slate: list[Scored],
        asked: Asked,
        version: int,
        limits: Limits,
        *,
        share: float,
        seed: int,
        recommendation_id: str,
    ) -> list[Scored]:
        """Return a slate that explores where rules leave room, with what breaks none of them.

        All of it together: so what one slot shows never depends on another, and propensities stay
        exact.
        """
        if len(slate) <= N_SPARED or not len(self.cold):
            return slate
        mark, index = asked.pool.allowed.mark, self._items.index
        mark[[index[scored.item_id] for scored in slate]] = asked.pool.tick
        chance = _chance(seed, recommendation_id)
        places = [place for place in limits.open_places(slate) if place >= N_SPARED]
        n = self._best(asked, version, len(places))
        fits = limits.fitting(slate, self._rated[:n])
        n_fit = int(fits.sum())
        rated, value = self._rated[:n][fits], self._value[:n][fits]
        propensity, chosen = self._propensity[: len(places)], self._chosen[: len(places)]
        kernels.deal_cold(chance, share, rated, value, n_fit, chosen, propensity)
        shown = list(slate)
        for place, likely, item in zip(places, propensity.tolist(), chosen.tolist()):
            shown[place] = self._placed(slate[place], likely, item)
        return shown

    def _best(self, asked: Asked, version: int, n_slots: int) -> int:
        """Rate the cold items for a user, and put the best first; return how many these are."""
        (pool, profile), users = asked, self._history.users
        found: int = kernels.rate_best_cold(
            self.cold,
            pool.buffers,
            pool.allowed.wanted,
            pool.tick,
            self._shown,
            self._taken,
            self.labels.kindred,
            version,
            self.labels.all_live,
            profile.items,
            profile.weights,
            profile.n,
            _FLOOR,
            _PER_SLOT * n_slots,
            self._items.key,
            users.key[profile.user] if profile.user != MISS else _NOBODY,
            self._rated,
            self._value,
            self._tie,
        )
        return found

    def _placed(self, there: Scored, likely: float, chosen: int) -> Scored:
        if chosen == MISS:
            return replace(there, propensity=likely)
        item_id = str(self._items.ids[chosen])
        return replace(there, item_id=item_id, sources=[EXPLORATION], propensity=likely)

    # -- state --------------------------------------------------------------------------------

    def state(self) -> State:
        """Return what `load_state` continues from."""
        n = self._items.n_indices
        return {
            "known": self._is_known[:n],
            "shown": self._shown[:n],
            "taken": self._taken[:n],
            "fresh": list(self._fresh),
            "waiting": list(self._waiting),
            "labels": self.labels.state(n),
        }

    def load_state(self, state: State) -> None:
        """Become what `state` was taken from."""
        self._reset()
        n = len(state["known"])
        self._is_known[:n] = state["known"]
        self._shown[:n], self._taken[:n] = state["shown"], state["taken"]
        self._fresh = dict.fromkeys(int(index) for index in state["fresh"])
        self._waiting = dict.fromkeys(int(index) for index in state["waiting"])
        self.labels.load_state(state["labels"])

    def update_hash(self, order: I32, place: Any, sha: Any) -> None:
        """Feed all but the labels to a hashlib object: items in `order`, an index i as place[i]."""
        for array in (self._is_known, self._shown, self._taken):
            sha.update(array[order].tobytes())
        for queue in (self._fresh, self._waiting):
            sha.update(place[np.fromiter(queue, np.int64, len(queue))].tobytes() + b"|")


def _chance(seed: int, recommendation_id: str) -> int:
    """Return what all that is drawn for a list is hashed from."""
    digest = _begun(seed).copy()
    digest.update(recommendation_id.encode())
    return int.from_bytes(digest.digest(), "little")


@lru_cache(maxsize=8)
def _begun(seed: int) -> Any:
    return blake2b(f"explore {seed} ".encode(), digest_size=7)


def explored_places(slate: Iterable[Scored]) -> list[int]:
    """Return the places (from 0) of a slate that explored."""
    return [place for place, scored in enumerate(slate) if scored.sources == [EXPLORATION]]
