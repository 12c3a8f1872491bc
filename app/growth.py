"""How fast may an item come up? Each day it may teach as much as on all days before it together.

A push attack has to make an item from nothing; what honest people discover grows, too, but on an
established catalogue hardly ever so fast. Where items live for a day it is the other way round,
so the rule is off unless it is asked for. What is past it still counts for the user.
"""

from __future__ import annotations

import numpy as np

from app.events import DAY_MS
from learners import kernels
from learners.history import History
from learners.ids import State
from learners.kernels import I64, MISS, Taught


class Growth:
    """What every item has taught before its last day, and on it; by index, in days of event time.

    Nothing is refused on the log's first day, when nothing has taught before.
    """

    def __init__(self, history: History) -> None:
        self._items = history.items
        size = self._items.capacity
        self.taught = Taught(
            before=np.zeros(size, np.int64),
            today=np.zeros(size, np.int64),
            day=np.zeros(size, np.int64),
            first_ms=np.full(1, MISS, np.int64),
        )
        history.on_item_evicted.append(self._forget)

    def _forget(self, index: int, handle: int) -> None:
        self.taught.before[index] = self.taught.today[index] = self.taught.day[index] = 0

    def is_past(self, index: int, time_ms: int, least: int) -> bool:
        """Tell whether an item (or MISS) has taught what it may today: `least`, or all before."""
        if not least or index == MISS or self._first_ms is None:
            return False
        day = time_ms // DAY_MS
        if time_ms - self._first_ms < DAY_MS or day != self.taught.day[index]:
            return False
        return bool(self.taught.today[index] >= max(least, int(self.taught.before[index])))

    def count(self, index: int, time_ms: int) -> None:
        """Take note that an item has taught. `time_ms` never goes back."""
        kernels.count_taught(self.taught, index, time_ms)

    @property
    def _first_ms(self) -> int | None:
        first_ms = int(self.taught.first_ms[0])
        return None if first_ms == MISS else first_ms

    def canonical(self) -> bytes:
        """Return the content in the order of the items' ids."""
        order = self._items.sorted_indices()
        taught = self.taught
        counts = np.stack([taught.before[order], taught.today[order], taught.day[order]])
        return counts.tobytes() + str(self._first_ms).encode()

    def state(self) -> State:
        """Return what `load_state` continues from."""
        known = np.flatnonzero(self.taught.day + self.taught.today)
        return {
            "index": known,
            "before": self.taught.before[known],
            "today": self.taught.today[known],
            "day": self.taught.day[known],
            "first_ms": self._first_ms,
        }

    def load_state(self, state: State) -> None:
        """Become what `state` was taken from."""
        known: I64 = np.asarray(state["index"], np.int64)
        for name in ("before", "today", "day"):
            array = getattr(self.taught, name)
            array[:] = 0
            array[known] = state[name]
        self.taught.first_ms[0] = MISS if state["first_ms"] is None else state["first_ms"]
