"""Sees to it that no cell of an item that is gone is taken for one of an item to come.

A cell has an item's index, and of its generation only the bits that are left (see `kernels`). So
before a generation comes back that there may still be cells of, all cells are looked through, and
those of items that are gone told that they are of nothing. Little by little: with 1,000,000 users
it takes half a second in all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from learners import kernels
from learners.kernels import I32, U32

if TYPE_CHECKING:
    from learners.history import History


class Sweep:
    """Looks through all cells each time that one index has had half as many items as bits tell.

    That are 128 with 10,000,000 items, and 16,384 with 100,000. It is done after half of those that
    are left: a part with each item that goes.
    """

    def __init__(self, history: History) -> None:
        self._history = history
        # [items] All cells that are not GONE are of these generations, or later ones.
        self._known: I32 = np.zeros(history.max_items, np.int32)
        # The same once this sweep is done: what there was when it began.
        self._began: I32 | None = None
        self._left: list[U32] = []
        self._n_rows = 0

    def begin_anew(self) -> None:
        """Take note that there are no cells but those of items as they are now."""
        items = self._history.items
        self._known[: items.n_indices] = items.generation[: items.n_indices]
        self._began, self._left = None, []

    def go_on(self, index: int) -> None:
        """Take note that the item of an index is gone; begin a sweep if it is time, or go on."""
        history = self._history
        generation, n_bits = history.items.generation, 32 - history.item_bits
        if self._began is None:
            if generation[index] - self._known[index] < 2 ** (n_bits - 1):
                return
            self._began = generation[: history.items.n_indices].copy()
            # Rows that are taken or written from now on have no older cells.
            self._left = history.rows_of_cells()
            self._n_rows = (sum(map(len, self._left)) >> (n_bits - 2)) + 1
        n = self._n_rows
        while n and self._left:
            rows = self._left.pop()
            self.look_through(rows[:n])
            if n < len(rows):
                self._left.append(rows[n:])
            n -= min(n, len(rows))
        if not self._left:
            self._known[: len(self._began)] = self._began
            self._began = None

    def look_through(self, rows: U32) -> None:
        """Mark the cells in some rows whose item is gone; to do so changes nothing."""
        history = self._history
        kernels.forget_gone(rows, history.items.generation, history.item_bits)
