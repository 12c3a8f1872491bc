"""The candidates of one request, and the buffers in which they are rated. No state: reused."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from learners import kernels
from learners.kernels import F64, I32, MISS, Filter
from learners.lines import zeros_by_lines

FEW_CLAUSES, FEW_VALUES = 130, 2_000
"""What there is room for from the beginning: two for each clause of a condition, and two on when an
item is available. Rules that hide may need more."""

_NO_LABELS = np.zeros(0, np.int32)


class Program(NamedTuple):
    """A condition on items' attributes and categories as kernels test it: see `kernels.meets`."""

    clauses: F64  # [clauses, 4]
    values: F64


ALWAYS = Program(np.zeros((0, 4)), np.zeros(0))
"""What every item meets."""


class Candidates:
    """A pool of items: what sources nominated, then what each source gave them.

    `item[:n]` are the pooled items, `raw[:, :n]` the sources' scores, `features[:, :n]` what a
    blend made of these, `total[:n]` the score that counts, `share[:n]` how likely a choice is.
    """

    def __init__(
        self,
        n_items: int,
        *,
        capacity: int,
        n_columns: int = 1,
        n_features: int = 0,
        hidden: kernels.U8 | None = None,
        labels: I32 | None = None,
        columns: F64 | None = None,
    ) -> None:
        self.item = np.zeros(capacity, np.int32)
        self.raw = np.zeros((n_columns, capacity), np.float64)
        self.features = np.zeros((n_features, capacity), np.float64)
        self.total = np.zeros(capacity, np.float64)
        self.share = np.zeros(capacity, np.float64)
        # Side by side, as they are read together.
        self._mark, self.pooled = zeros_by_lines((n_items, 2), np.int64).T
        self.tick = 0
        self.n = 0
        self._hidden = np.zeros(n_items, np.uint8) if hidden is None else hidden
        self._labels = np.zeros((1, 1), np.int32) if labels is None else labels
        self._columns = np.zeros((1, 1)) if columns is None else columns
        self._reserve(FEW_CLAUSES, FEW_VALUES)

    def _reserve(self, n_clauses: int, n_values: int) -> None:
        """Make room for the program of a request, where kernels look for it."""
        self._program = ALWAYS
        self._n_clauses = np.zeros(1, np.int64)
        self._clauses, self._values = np.zeros((n_clauses, 4)), np.zeros(n_values)
        self.allowed = Filter(
            mark=self._mark,
            hidden=self._hidden,
            labels=self._labels,
            wanted=_NO_LABELS,
            clauses=self._clauses[:0],
            values=self._values,
            columns=self._columns,
        )
        self.buffers = kernels.new_buffers(
            self.item,
            self.raw,
            self.features,
            self.total,
            self.share,
            self.pooled,
            self._mark,
            self._hidden,
            self._labels,
            self._clauses,
            self._values,
            self._columns,
            self._n_clauses,
        )

    def begin(self, wanted: I32 = _NO_LABELS, program: Program = ALWAYS) -> None:
        """Start a request: nothing is pooled, nothing excluded.

        An item needs one of the labels `wanted`, if there are any, and to meet a program.
        """
        self.tick += 1
        self.n = 0
        if wanted is not self.allowed.wanted or program is not self._program:
            self._allow(wanted, program)

    def _allow(self, wanted: I32, program: Program) -> None:
        n, n_values = len(program.clauses), len(program.values)
        if n > len(self._clauses) or n_values > len(self._values):
            self._reserve(max(2 * n, FEW_CLAUSES), max(2 * n_values, FEW_VALUES))
        self._program = program
        self._n_clauses[0] = n
        self._clauses[:n], self._values[:n_values] = program
        self.allowed = self.allowed._replace(wanted=wanted, clauses=self._clauses[:n])

    def restrict(self, program: Program) -> None:
        """Let nothing be pooled from now on but what meets a program."""
        self._allow(self.allowed.wanted, program)

    @property
    def program(self) -> Program:
        """Return what an item has to meet."""
        return self._program

    def begin_many(self, n: int) -> int:
        """Start n requests that a kernel answers one after the other; return the first's tick."""
        if self._program is not ALWAYS:
            self._allow(_NO_LABELS, ALWAYS)
        first = self.tick + 1
        self.tick += n
        return first

    def exclude(self, item: int) -> None:
        """Keep an item out of what is pooled from now on."""
        self.allowed.mark[item] = self.tick

    def is_eligible(self, item: int) -> bool:
        """Tell whether an item may be pooled."""
        return bool(kernels.is_eligible(self.allowed, self.tick, item))

    def eligible_of(self, items: I32) -> I32:
        """Return those of some items that may be pooled."""
        found = np.empty(len(items), np.int32)
        n = kernels.eligible_of(self.buffers, self.allowed.wanted, self.tick, items, found)
        return found[:n]

    def holds(self, item: int) -> bool:
        """Tell whether an item is pooled."""
        return bool(self.pooled[item] == self.tick)

    def add(self, items: Iterable[int]) -> None:
        """Pool these items, each once, whether eligible or not."""
        for item in items:
            if not self.holds(item):
                self.pooled[item] = self.tick
                self.item[self.n] = item
                self.n += 1

    def place(self, item: int) -> int:
        """Return where in the pool an item is, or MISS."""
        if item == MISS or not self.holds(item):
            return MISS
        return int(kernels.place_of(self.item, self.n, item))

    def rank_of(self, item: int) -> int:
        """Return twice the rank of an item (ties half), or MISS if it is not pooled."""
        place = self.place(item)
        return MISS if place == MISS else int(kernels.rank_of(self.total, self.n, place))
