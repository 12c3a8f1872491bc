"""Which index an external id has, and in which order ids were touched: in 16 bytes for each id.

A dictionary that keeps an order takes some 125, as much as half of a user's history.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, MutableSequence
from typing import Any

import numpy as np

from learners.kernels import I32, MISS

_NONE = 0  # in all arrays an index stands as the number after it, so MISS as this


class IdIndex:
    """Finds the indices of ids in `ids`, which stand where somebody else has put them.

    A hash table with open addressing, at most half full, and a ring of neighbours in the order of
    the last touch, which begins and ends at number 0. Both are reserved at capacity: they never
    grow. Where in the table an id is depends on the process, and nothing on that.
    """

    def __init__(self, ids: MutableSequence[Hashable | None], capacity: int) -> None:
        self._ids = ids
        self._mask = (1 << (2 * capacity - 1).bit_length()) - 1
        self._n = 0
        self._slots = np.zeros(self._mask + 1, np.int32)
        self._older: I32 = np.zeros(capacity + 1, np.int32)
        self._newer: I32 = np.zeros(capacity + 1, np.int32)
        self._look()

    def _look(self) -> None:
        # Single numbers are read in half the time by way of a view.
        self._slot, self._before = self._slots.data, self._older.data
        self._after = self._newer.data

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy is made from; it looks at arrays of its own."""
        views = ("_slot", "_before", "_after")
        return {name: value for name, value in self.__dict__.items() if name not in views}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Become a copy."""
        self.__dict__.update(state)
        self._look()

    @property
    def neighbours(self) -> tuple[I32, I32]:
        """Return the ring's two arrays, for `kernels.renew`: who is before and after a number."""
        return self._older, self._newer

    # -- reading ------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self._n

    def __contains__(self, id_: Hashable) -> bool:
        return self.find(id_) != MISS

    def __getitem__(self, id_: Hashable) -> int:
        index = self.find(id_)
        if index == MISS:
            raise KeyError(id_)
        return index

    def find(self, id_: Hashable) -> int:
        """Return the index of an id, or MISS."""
        number: int = self._slot[self._place(id_)]
        return number - 1

    def find_all(self, ids: Iterable[Hashable]) -> list[int]:
        """Return the index of each of some ids, or MISS."""
        slot, mask, known, found = self._slot, self._mask, self._ids, []
        for id_ in ids:
            at = hash(id_) & mask
            while (number := slot[at]) != _NONE and known[number - 1] != id_:
                at = (at + 1) & mask
            found.append(number - 1)
        return found

    def get(self, id_: Hashable) -> int | None:
        """Return the index of an id, or None."""
        index = self.find(id_)
        return None if index == MISS else index

    def _place(self, id_: Hashable) -> int:
        """Return the slot that an id has, or would have."""
        slot, mask, ids = self._slot, self._mask, self._ids
        at = hash(id_) & mask
        while (number := slot[at]) != _NONE and ids[number - 1] != id_:
            at = (at + 1) & mask
        return at

    def values(self) -> Iterator[int]:
        """Yield the indices, that of the id touched longest ago first."""
        number = self._after[_NONE]
        while number != _NONE:
            yield number - 1
            number = self._after[number]

    def latest(self) -> Iterator[int]:
        """Yield the indices, that of the id touched last first."""
        number = self._before[_NONE]
        while number != _NONE:
            yield number - 1
            number = self._before[number]

    def __iter__(self) -> Iterator[Hashable]:
        return (id_ for id_, _ in self.items())

    def items(self) -> Iterator[tuple[Hashable, int]]:
        """Yield ids and indices, the id touched longest ago first."""
        for index in self.values():
            if (id_ := self._ids[index]) is not None:
                yield id_, index

    # -- writing ------------------------------------------------------------------------------

    def add(self, id_: Hashable, index: int) -> None:
        """Take an id that is not there yet, as the last touched."""
        self._slot[self._place(id_)] = index + 1
        self._append(index + 1)
        self._n += 1

    def renew(self, index: int) -> None:
        """Make an id the last touched."""
        self._unlink(index + 1)
        self._append(index + 1)

    def pop(self, id_: Hashable) -> int:
        """Forget an id, which `ids` has still; return its index."""
        at = self._place(id_)
        number: int = self._slot[at]
        if number == _NONE:
            raise KeyError(id_)
        self._empty(at)
        self._unlink(number)
        self._n -= 1
        return number - 1

    def _empty(self, hole: int) -> None:
        """Empty a slot, and move those up that are behind it and would not be found any more."""
        slot, mask, at = self._slot, self._mask, hole
        while (number := slot[at := (at + 1) & mask]) != _NONE:
            home = hash(self._ids[number - 1]) & mask
            if (at - home) & mask >= (at - hole) & mask:
                slot[hole] = number
                hole = at
        slot[hole] = _NONE

    def _append(self, number: int) -> None:
        last = self._before[_NONE]
        self._after[last] = self._before[_NONE] = number
        self._before[number], self._after[number] = last, _NONE

    def _unlink(self, number: int) -> None:
        before, after = self._before[number], self._after[number]
        self._after[before], self._before[after] = after, before
