"""Strings in columns as codes, and which items have each of them."""

from __future__ import annotations

import numpy as np

from learners import kernels
from learners.ids import State
from learners.kernels import F64, I32


class Strings:
    """Codes, from 1 on, of the strings of each row of values; a code that no item has goes.

    The items of a code are linked, so that they are found without looking at any other.
    """

    def __init__(self, n_rows: int, n_items: int) -> None:
        # [rows, items] the items of one code, linked both ways; index + 1, 0 at the ends.
        self._after: I32 = np.zeros((n_rows, n_items), np.int32)
        self._before: I32 = np.zeros((n_rows, n_items), np.int32)
        self.reset()

    def reset(self) -> None:
        """Forget all of them."""
        # By code: the row and the string; how many items have it; one of these, plus 1.
        self._texts: list[tuple[int, str] | None] = [None]
        self._counts = [0]
        self._firsts = [0]
        self._free: list[int] = []
        self._codes: dict[tuple[int, str], int] = {}
        # How often a code was given out or taken back: what was looked up before may be wrong.
        self.n_changed = 0

    def __len__(self) -> int:
        return len(self._codes)

    def code(self, row: int, text: str) -> int:
        """Return the code of a string, 0 if no item has it."""
        return self._codes.get((row, text), 0)

    def count(self, code: int) -> int:
        """Return how many items have a string."""
        return self._counts[code]

    def items(self, row: int, code: int) -> I32:
        """Return the items that have a string, the one that got it last first."""
        found = np.empty(self._counts[code], np.int32)
        kernels.follow_links(self._after[row], self._firsts[code], found)
        return found

    def put(self, row: int, item: int, text: str) -> int:
        """Let an item that has none have a string; return the code."""
        code = self._codes.get((row, text)) or self._new(row, text)
        first = self._firsts[code]
        self._after[row, item] = first
        if first:
            self._before[row, first - 1] = item + 1
        self._before[row, item] = 0
        self._firsts[code] = item + 1
        self._counts[code] += 1
        return code

    def take(self, row: int, item: int, code: int) -> None:
        """Take an item's string."""
        before, after = int(self._before[row, item]), int(self._after[row, item])
        if before:
            self._after[row, before - 1] = after
        else:
            self._firsts[code] = after
        if after:
            self._before[row, after - 1] = before
        self._counts[code] -= 1
        if not self._counts[code]:
            self._drop(code)

    def _new(self, row: int, text: str) -> int:
        if self._free:
            code = self._free.pop()
            self._texts[code] = (row, text)
        else:
            code = len(self._texts)
            self._texts.append((row, text))
            self._counts.append(0)
            self._firsts.append(0)
        self._codes[row, text] = code
        self.n_changed += 1
        return code

    def _drop(self, code: int) -> None:
        text = self._texts[code]
        if text is not None:
            del self._codes[text]
        self._texts[code] = None
        self._free.append(code)
        self.n_changed += 1

    def state(self) -> State:
        """Return plain data from which, with the values, `load_state` makes the same codes."""
        return {"texts": self._texts, "free": self._free}

    def load_state(self, state: State, values: F64, rows: list[int]) -> None:
        """Become what `state` was taken from; `values` has codes in these rows, and NaN."""
        n_changed = self.n_changed + 1
        self.reset()
        self.n_changed = n_changed
        self._texts = [None if text is None else (text[0], text[1]) for text in state["texts"]]
        self._codes = {text: code for code, text in enumerate(self._texts) if text is not None}
        self._counts, self._firsts = [0] * len(self._texts), [0] * len(self._texts)
        self._free = [int(code) for code in state["free"]]
        for row in rows:
            for item in np.flatnonzero(values[row] == values[row]).tolist():
                text = self._texts[int(values[row, item])]
                if text is None or text[0] != row:
                    raise ValueError(f"item {item} has a string in column {row} that is not there")
                self.put(row, item, text[1])
