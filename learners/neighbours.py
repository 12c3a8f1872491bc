"""Rows of neighbours with weights: what co-visitation and sequence have in common."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from learners import fresh, kernels
from learners.base import SHADOW, RowPool, Source, remap_handles
from learners.candidates import Candidates
from learners.history import Profile
from learners.ids import PackedRows, State
from learners.kernels import I32, I64, MISS, Accumulator, Neighbours
from learners.lines import zeros_by_lines

_HASH_CHUNK = 1_024

# What is read of a row by itself, together; two of them are a cache line.
_HEAD = np.dtype(
    {
        "names": ["mass", "inv_norm", "size"],
        "formats": [np.float64, np.float64, np.int32],
        "offsets": [0, 8, 16],
        "itemsize": 32,
    }
)

SKETCH_PER_ITEM = 128
"""Counters of the sketch per item of capacity, 2 bytes each; up to the next power of two."""


class NeighbourLists(Source):
    """Keeps, per item, at most `max_neighbours` others with weights, and scores by their sums.

    A full row takes a newcomer only once a Count-Min sketch, shared by all rows, has counted more
    for it than the row's weakest neighbour has (decision 0013). The sketch is what learning goes
    by, so it has no versions: setting the shadow back empties it.
    """

    max_neighbours: int
    shrink: float
    halve_at: int

    # Whether a pair is counted both ways, and so normalised by both items.
    both_ways = True

    def _reserve(self) -> None:
        items = self.personal.max_items
        self.rows_per_event = 1 + max(self.personal.scored_history, self.look_back)
        self._pool = RowPool(2 * items + self.rows_per_event + 1, items)
        n, width = self._pool.n_slots, self.max_neighbours
        heads = zeros_by_lines(n, _HEAD)
        self.neighbours = Neighbours(
            handle=zeros_by_lines((n, width), np.int64),
            weight=zeros_by_lines((n, width), np.float32),
            size=heads["size"],
            mass=heads["mass"],
            inv_norm=heads["inv_norm"],
        )
        counters = 1 << (SKETCH_PER_ITEM * items - 1).bit_length()
        self.sketch = fresh.zeros(counters, np.uint16)
        self.sketch_place = np.zeros(1, np.int64)
        most = self.look_back * width
        # So large that hardly any two meet: whether they do cannot be guessed.
        bins = 1 << (8 * most - 1).bit_length()
        self.sums = Accumulator(
            key=np.zeros(bins, np.int64),
            sum=np.zeros(bins, np.float64),
            place=np.zeros(most, np.int32),
            touched=np.zeros(most, np.int32),
            value=np.zeros(most, np.float64),
            kept=np.zeros(most, np.int32),
            work=np.zeros(most, np.float64),
            bins=np.zeros(256, np.int32),
            tick=np.zeros(1, np.int64),
        )
        self._n_touched = 0
        self._version = SHADOW

    @property
    def rows(self) -> RowPool:
        """Return the pool of rows."""
        return self._pool

    @property
    def limit(self) -> float:
        """Return the mass at which a row is halved."""
        return float(self.halve_at or math.inf)

    def assign(self, target: int, source: int) -> int:
        """Make version `target` equal to `source`; a shadow set back forgets its sketch.

        By a new array, so whoever was lent the old one has to be lent this: to write zeros
        takes a tenth of a second.
        """
        if target == SHADOW:
            self.sketch = fresh.anew(self.sketch)
        return super().assign(target, source)

    # -- scores -------------------------------------------------------------------------------

    def prepare(self, version: int, profile: Profile) -> None:
        """Sum up the neighbours of the profile's items."""
        self._n_touched = kernels.neighbours_score(
            self.neighbours,
            self._pool.slots[version],
            self.personal.items.generation,
            self.personal.items.n_removed == 0,
            profile.items,
            profile.weights,
            self.n_used(profile),
            self.sums,
        )
        self._version = version

    def scores(self, version: int, profile: Profile) -> Accumulator:
        """Return what goes with a profile's items, each sum multiplied for the item itself."""
        self.prepare(version, profile)
        if self.both_ways:
            slots = self._pool.slots[version]
            kernels.damp_sums(self.sums, self._n_touched, self.neighbours.inv_norm, slots)
        return self.sums

    def nominate(self, pool: Candidates, most: int) -> None:
        """Name the items with the largest sums."""
        pool.n = kernels.nominate_best(
            self.sums,
            self._n_touched,
            self.neighbours.inv_norm,
            self._pool.slots[self._version],
            self._largest(),
            pool.allowed,
            pool.tick,
            pool.pooled,
            pool.item,
            pool.n,
            most,
        )

    def rate(self, pool: Candidates, column: int) -> None:
        """Write the sums of the pooled items."""
        kernels.read_sums(
            self.sums,
            self.neighbours.inv_norm,
            self._pool.slots[self._version],
            self._largest(),
            pool.item,
            pool.n,
            pool.raw[column],
        )

    def _largest(self) -> float:
        """Return the most that a sum is multiplied by for the item itself; 0 where it is not."""
        return float(kernels.largest_inverse_norm(self.shrink)) if self.both_ways else 0.0

    @property
    def look_back(self) -> int:
        """Return how many of a profile's items count at most."""
        return self.personal.scored_history

    def n_used(self, profile: Profile) -> int:
        """Return how many items of a profile count."""
        return min(profile.n, self.look_back)

    def contribution(self, version: int, history_item: int, weight: float, item: int) -> float:
        """Return what one item of the history adds to the score of another (both by index)."""
        slots, rows = self._pool.slots[version], self.neighbours
        slot = slots[history_item]
        shared = kernels.neighbour_weight(rows, slot, self.personal.items.handle(item))
        own = rows.inv_norm[slots[item]] if self.both_ways else 1.0
        return float(weight * shared * rows.inv_norm[slot] * own)

    # -- state --------------------------------------------------------------------------------

    def state(self) -> State:
        """Return the pool, with each row cut to its size, and what the sketch has counted."""
        used, rows = self._pool.n_used, self.neighbours
        size = rows.size[:used]
        return self._pool.state(self.personal.items.n_indices) | {
            "size": size,
            "mass": rows.mass[:used],
            "handle": PackedRows(rows.handle, size),
            "weight": PackedRows(rows.weight, size),
            "sketch_place": self.sketch_place,
            **self._sketch_state(),
        }

    def _sketch_state(self) -> State:
        """Return the sketch: its counters that are not 0, while these are few; else all."""
        counted = np.flatnonzero(self.sketch).astype(np.int32)
        if counted.nbytes + self.sketch.itemsize * len(counted) > self.sketch.nbytes // 2:
            return {"sketch": self.sketch}
        return {"sketch_at": counted, "sketch": self.sketch[counted]}

    def load_state(self, state: State, remap: I64 | None = None) -> None:
        """Take over rows; under `remap`, neighbours that no longer exist become stale."""
        self._reserve()
        self._pool.load_state(state, remap)
        used, rows = self._pool.n_used, self.neighbours
        rows.size[:used] = size = np.ascontiguousarray(state["size"])
        rows.mass[:used] = state["mass"]
        kernels.inverses(rows.mass, used, self.shrink, self.both_ways, rows.inv_norm)
        handles = np.asarray(state["handle"])
        handles = remap_handles(handles, remap, state.get("generation"), self.personal)
        kernels.unpack_rows(handles, size, rows.handle)
        kernels.unpack_rows(np.asarray(state["weight"]), size, rows.weight)
        self.sketch[state.get("sketch_at", slice(None))] = state["sketch"]
        self.sketch_place[:] = state["sketch_place"]

    def inherit(self, other: NeighbourLists) -> None:
        """Take over another's rows; of those that are too long here the heaviest neighbours."""
        state = other.state()
        size, weight = state["size"], np.asarray(state["weight"])
        row = np.repeat(np.arange(len(size)), size)
        by_weight = np.lexsort((-weight, row))
        place = np.arange(len(row)) - (np.cumsum(size) - size)[row]
        is_kept = np.zeros(len(row), np.bool_)
        is_kept[by_weight[place < self.max_neighbours]] = True
        state |= {"handle": np.asarray(state["handle"])[is_kept], "weight": weight[is_kept]}
        self.load_state(state | {"size": np.minimum(size, self.max_neighbours)})

    def update_hash(self, version: int, order: I32, place: I64, sha: Any) -> None:
        """Hash rows in the order of the items' ids, neighbours by their place in it."""
        generation = self.personal.items.generation
        rows = self.neighbours
        for begin in range(0, len(order), _HASH_CHUNK):
            slots = self._pool.slots[version][order[begin : begin + _HASH_CHUNK]]
            handles = rows.handle[slots]
            index = handles & int(kernels.INDEX_MASK)
            is_live = generation[index] == handles >> 32
            is_used = np.arange(self.max_neighbours) < rows.size[slots][:, None]
            named = np.where(is_live, place[index], MISS)
            for array in (rows.size[slots], rows.mass[slots], named[is_used]):
                sha.update(np.ascontiguousarray(array).tobytes())
            sha.update(rows.weight[slots][is_used].tobytes())

    def hash_learning(self, place: I64, sha: Any) -> None:
        """Hash what the sketch has counted."""
        counted = np.flatnonzero(self.sketch)
        for array in (counted, self.sketch[counted], self.sketch_place):
            sha.update(array.tobytes())
