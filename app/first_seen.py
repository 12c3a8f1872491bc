"""When items came, by event time, and which of them are the newest."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from learners.history import History
from learners.ids import State
from learners.kernels import F64, I32, I64


class _Newest(NamedTuple):
    """Items that came since a time, newest first, as of so many changes.

    `before` are the times when each did, negative, so that they are in order.
    """

    n_changes: int
    since_ms: int
    items: I32
    before: I64


class FirstSeen:
    """An item came when it was first seen, or, where it says so, when it became available."""

    def __init__(self, history: History) -> None:
        self.history = history
        # [items] Unix ms; 0 for an item that was there before times were kept.
        self.first_ms: I64 = np.zeros(history.max_items, np.int64)
        self.since_ms: I64 = np.zeros(history.max_items, np.int64)
        self._n_changes = 0
        self._newest = _Newest(-1, 0, np.zeros(0, np.int32), np.zeros(0, np.int64))
        history.on_item_evicted.append(self._leave)

    def note(self, index: int, now_ms: int) -> None:
        """Note that an item is there for the first time."""
        self.first_ms[index] = self.since_ms[index] = now_ms
        self._n_changes += 1

    def publish(self, index: int, time_ms: int | None) -> None:
        """Take an item to have come when it became available; None: when it was first seen."""
        since_ms = self.first_ms[index] if time_ms is None else time_ms
        if self.since_ms[index] != since_ms:
            self.since_ms[index] = since_ms
            self._n_changes += 1

    def _leave(self, index: int, handle: int) -> None:
        self.first_ms[index] = self.since_ms[index] = 0
        self._n_changes += 1

    def newest(self, since_ms: int) -> I32:
        """Return the items that came at a time or later, the newest first."""
        kept = self._newest
        if kept.n_changes != self._n_changes or since_ms < kept.since_ms:
            kept = self._newest = self._find(since_ms)
        return kept.items[: kept.before.searchsorted(-since_ms, side="right")]

    def _find(self, since_ms: int) -> _Newest:
        ids = self.history.items
        times, key = self.since_ms[: ids.n_indices], ids.key[: ids.n_indices]
        items = np.flatnonzero((times >= since_ms) & (key > 0)).astype(np.int32)
        items = items[np.lexsort((key[items], -times[items]))]
        return _Newest(self._n_changes, since_ms, items, -times[items])

    def state(self) -> State:
        """Return plain data from which `load_state` makes the same, but for what is published."""
        return {"first_ms": self.first_ms[: self.history.items.n_indices]}

    def load_state(self, state: State, published: F64 | None) -> None:
        """Become what `state` was taken from; `published` are times of items, NaN for none."""
        first_ms = state.get("first_ms", ())
        self.first_ms[:] = 0
        self.first_ms[: len(first_ms)] = first_ms
        self.since_ms[:] = self.first_ms
        if published is not None:
            known = np.flatnonzero(published[: self.history.items.n_indices] >= 0)
            self.since_ms[known] = published[known]
        self._n_changes += 1
