"""How fast may an item come up? Each day it may teach as much as on all days before it together.

A push attack has to make an item from nothing; what honest people discover grows, too, but on an
established catalogue hardly ever so fast. Where items live for a day it is the other way round,
so the rule is off unless it is asked for. What is past it still counts for the user.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from app.events import DAY_MS
from learners.history import History
from learners.ids import State
from learners.kernels import I64, MISS


class Growth:
    """What every item has taught before its last day, and on it; by index, in days of event time.

    Nothing is refused on the log's first day, when nothing has taught before.
    """

    def __init__(self, history: History) -> None:
        self._items = history.items
        size = self._items.capacity
        self._before = np.zeros(size, np.int64)
        self._today = np.zeros(size, np.int64)
        self._day = np.zeros(size, np.int64)
        # The same, without NumPy's own numbers, which are slow one by one.
        self._counts = self._before.data, self._today.data, self._day.data
        self._first_ms: int | None = None
        history.on_item_evicted.append(self._forget)

    def _forget(self, index: int, handle: int) -> None:
        self._before[index] = self._today[index] = self._day[index] = 0

    def is_past(self, index: int, time_ms: int, least: int) -> bool:
        """Tell whether an item (or MISS) has taught what it may today: `least`, or all before."""
        if not least or index == MISS or self._first_ms is None:
            return False
        day = time_ms // DAY_MS
        if time_ms - self._first_ms < DAY_MS or day != self._day[index]:
            return False
        return bool(self._today[index] >= max(least, int(self._before[index])))

    def count(self, index: int, time_ms: int) -> None:
        """Take note that an item has taught. `time_ms` never goes back."""
        if self._first_ms is None:
            self._first_ms = time_ms
        before, today, days = self._counts
        day = time_ms // DAY_MS
        if day != days[index]:
            before[index] += today[index]
            today[index] = 0
            days[index] = day
        today[index] += 1

    def canonical(self) -> bytes:
        """Return the content in the order of the items' ids."""
        order = self._items.sorted_indices()
        counts = np.stack([self._before[order], self._today[order], self._day[order]])
        return counts.tobytes() + str(self._first_ms).encode()

    def state(self) -> State:
        """Return what `load_state` continues from."""
        known = np.flatnonzero(self._day + self._today)
        return {
            "index": known,
            "before": self._before[known],
            "today": self._today[known],
            "day": self._day[known],
            "first_ms": self._first_ms,
        }

    def load_state(self, state: State) -> None:
        """Become what `state` was taken from."""
        known: I64 = np.asarray(state["index"], np.int64)
        pairs: Any = (("before", self._before), ("today", self._today), ("day", self._day))
        for name, array in pairs:
            array[:] = 0
            array[known] = state[name]
        self._first_ms = state["first_ms"]
