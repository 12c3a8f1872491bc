"""External ids and the indices that stand for them in arrays, with generations and eviction."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learners.id_index import IdIndex
from learners.kernels import I32, I64, INDEX_MASK, MISS, U64, packed_rows

State = dict[str, Any]
"""Plain values and arrays by name, lent: to keep them while their owner goes on, copy them."""


class PackedRows:
    """The first `sizes[i]` values of each row i of `rows`, one row after the other, as one array.

    Packed when it is read (`np.asarray`), or a few rows at a time (`pack`).
    """

    def __init__(self, rows: NDArray[Any], sizes: NDArray[Any]) -> None:
        self.rows = rows[: len(sizes)]
        self.sizes = sizes
        self.width = rows.shape[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Return the type of the values."""
        return self.rows.dtype

    def pack(self, start: int, stop: int) -> NDArray[Any]:
        """Return the rows from `start` to before `stop`, packed."""
        return packed_rows(self.rows[start:stop], self.sizes[start:stop])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Return all of it, packed."""
        return np.asarray(self.pack(0, len(self.sizes)), dtype)


class PackedLists(PackedRows):
    """The same of lists that `read` gives, for rows from one to before another: of its columns one.

    Most lists have `width` values at most.
    """

    def __init__(
        self,
        read: Callable[[int, int], tuple[NDArray[Any], ...]],
        column: int,
        sizes: I64,
        width: int,
        dtype: Any,
    ) -> None:
        self.read = read
        self.column = column
        self.sizes = sizes
        self.width = width
        self._dtype: np.dtype[Any] = np.dtype(dtype)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Return the type of the values."""
        return self._dtype

    def pack(self, start: int, stop: int) -> NDArray[Any]:
        """Return the rows from `start` to before `stop`, packed."""
        return self.read(start, stop)[self.column]

    def __reduce__(self) -> tuple[Any, ...]:
        """Let a copy have the lists as they are now."""
        return Packed, (np.asarray(self), np.array(self.sizes), self.width)


class Packed(PackedRows):
    """The same of lists that are packed already."""

    def __init__(self, values: NDArray[Any], sizes: I64, width: int) -> None:
        self.rows = values
        self.sizes = sizes
        self.width = width
        self._starts = np.concatenate([[0], np.cumsum(sizes)])

    def pack(self, start: int, stop: int) -> NDArray[Any]:
        """Return the rows from `start` to before `stop`, packed."""
        stop = min(stop, len(self.sizes))
        return self.rows[self._starts[start] : self._starts[stop]]


def handle_of(index: int, generation: int) -> int:
    """Return the handle of an index in its generation (see `kernels`)."""
    return (generation << 32) | index


class Ids:
    """Maps external ids to indices, within a capacity; past it the id touched longest ago goes.

    `touch` must be called with ticks that only grow, so the order of the map is the order of
    eviction, and no two ids tie.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.ids: list[Hashable | None] = []
        self.index = IdIndex(self.ids, capacity)
        self.free: list[int] = []
        self.n_removed = 0
        self.generation = np.zeros(capacity, np.int32)
        self.touched = np.zeros(capacity, np.int64)
        # Ties in scores are broken by this: 64 bits of the id, the same in every process. 0 for an
        # index that nobody has.
        self.key = np.zeros(capacity, np.uint64)

    def __len__(self) -> int:
        return len(self.index)

    def __contains__(self, id_: Hashable) -> bool:
        return id_ in self.index

    @property
    def n_indices(self) -> int:
        """Return the number of indices ever in use: the length of what snapshots keep."""
        return len(self.ids)

    def get(self, id_: Hashable) -> int:
        """Return the index of an id, or MISS."""
        return self.index.find(id_)

    def names(self, indices: Iterable[int]) -> list[Hashable | None]:
        """Return the ids of indices."""
        return list(map(self.ids.__getitem__, indices))

    @property
    def n_free(self) -> int:
        """Return how many new ids need no other one to go."""
        return self.capacity - len(self.index)

    def is_full(self) -> bool:
        """Tell whether a new id needs another one to go."""
        return len(self.index) >= self.capacity

    def touch(self, id_: Hashable, tick: int) -> int:
        """Return the index of an id, creating it; it becomes the last to be evicted."""
        index = self.index.find(id_)
        if index == MISS:
            if self.free:
                index = self.free.pop()
                self.ids[index] = id_
            else:
                index = len(self.ids)
                self.ids.append(id_)
            self.key[index] = tie_key(id_)
            self.index.add(id_, index)
        else:
            self.index.renew(index)
        self.touched[index] = tick
        return index

    def oldest(self) -> Hashable:
        """Return the id touched longest ago."""
        return next(iter(self.index))

    def newest(self) -> Iterator[Hashable]:
        """Yield the ids, last touched first."""
        return (id_ for index in self.index.latest() if (id_ := self.ids[index]) is not None)

    def remove(self, id_: Hashable) -> int:
        """Forget an id; its handles are stale from now on. Return the index that is free again."""
        index = self.index.pop(id_)
        self.ids[index] = None
        self.key[index] = 0
        self.n_removed += 1
        self.generation[index] += 1
        self.free.append(index)
        return index

    def handle(self, index: int) -> int:
        """Return the handle of a live index."""
        return handle_of(index, int(self.generation[index]))

    def live(self, handle: int) -> int:
        """Return the index that a handle names, or MISS if it is stale."""
        index, generation = handle & int(INDEX_MASK), handle >> 32
        return index if self.generation[index] == generation else MISS

    def keys_of(self, handles: I64) -> U64:
        """Return the keys of what handles name, 0 for those that are stale."""
        index = handles & INDEX_MASK
        is_live = self.generation[index] == handles >> 32
        return np.where(is_live, self.key[index], np.uint64(0))

    def sorted_indices(self) -> I32:
        """Return the live indices in the order of their ids: what is hashed never sees indices."""
        by_id = sorted(self.index.items(), key=lambda pair: str(pair[0]))
        return np.array([index for _, index in by_id], np.int32)

    def state(self) -> State:
        """Return plain data from which `load_state` makes the same map."""
        n = self.n_indices
        return {
            "ids": self.ids,
            "free": self.free,
            "generation": self.generation[:n],
            "touched": self.touched[:n],
        }

    def load_state(self, state: State) -> None:
        """Become the map that `state` was taken from; the capacity must hold it."""
        self.__init__(self.capacity)  # type: ignore[misc]
        self.ids += state["ids"]
        self.free = [int(index) for index in state["free"]]
        n = len(self.ids)
        if n > self.capacity:
            raise ValueError(f"{n} ids do not fit a capacity of {self.capacity}")
        self.generation[:n] = state["generation"]
        self.n_removed = int(self.generation[:n].sum())
        self.touched[:n] = state["touched"]
        live = [index for index, id_ in enumerate(self.ids) if id_ is not None]
        for index in sorted(live, key=lambda index: int(self.touched[index])):
            self.index.add(self.ids[index], index)
            self.key[index] = tie_key(self.ids[index])


def tie_key(id_: Hashable) -> int:
    """Return 64 bits of an id, the same in every process, not all of them 0."""
    key = int.from_bytes(hashlib.blake2b(str(id_).encode(), digest_size=8).digest(), "little")
    return key or 1
