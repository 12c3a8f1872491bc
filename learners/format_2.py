"""Users' histories as snapshots of format 2 have them: read into the lists that those of now have.

There handles were kept instead of items, rings in the order of their places, and had-sets in linked
blocks, as they lay in memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from learners.ids import Ids, State
from learners.kernels import I32, I64, INDEX_MASK, MISS


def of_format_2(state: State, items: Ids, history_length: int) -> State:
    """Return a history's state as it is now; handles mean what they do to `items`."""
    had = _had(state)
    had["had_item"] = _items(had.pop("handle"), items)
    for name in ("had_time", "had_type"):
        had[name][had["had_item"] == MISS] = 0
    as_of = state.get("as_of", {})
    if as_of:
        as_of = as_of | _rings(as_of, items, history_length)
    return state | had | _rings(state, items, history_length) | {"as_of": as_of}


def _items(handles: Any, items: Ids) -> I32:
    index = np.asarray(handles) & INDEX_MASK
    is_live = items.generation[index] == np.asarray(handles) >> 32
    return np.where(is_live, index, MISS).astype(np.int32)


def _rings(state: State, items: Ids, length: int) -> State:
    """Return the rings from their oldest event on: event n was at the place n % length."""
    n_events = np.asarray(state["n_events"])
    sizes = np.minimum(n_events, length)
    within, start = _numbered(sizes)
    oldest = np.where(n_events > length, n_events % length, 0)
    at = start + (within + np.repeat(oldest, sizes)) % np.repeat(sizes, sizes)
    return {
        "ring_item": _items(np.asarray(state["ring_handle"])[at], items),
        "ring_time": np.asarray(state["ring_time"])[at],
        "ring_reward": np.asarray(state["ring_reward"])[at],
    }


def _had(state: State) -> State:
    """Follow the blocks of all users side by side, an item at a time."""
    names = {"handle": "block_handle", "had_time": "block_time", "had_type": "block_type"}
    blocks = {name: np.asarray(state[of]) for name, of in names.items()}
    block, at = np.asarray(state["had_first"]), np.asarray(state["had_start"])
    counts, following = np.asarray(state["had_count"]).astype(np.int64), state["next_block"]
    starts = np.cumsum(counts) - counts
    found = {name: np.zeros(int(counts.sum()), of.dtype) for name, of in blocks.items()}
    for n in range(int(counts.max(initial=0))):
        left = counts > n
        block, at, counts, starts = block[left], at[left], counts[left], starts[left]
        for name, of in blocks.items():
            found[name][starts + n] = of[block, at]
        is_last = at + 1 == blocks["handle"].shape[1]
        block = np.where(is_last, np.asarray(following)[block], block)
        at = np.where(is_last, 0, at + 1)
    return found


def _numbered(sizes: I64) -> tuple[I64, I64]:
    """Return for each value of packed lists its place in its list, and where that begins."""
    start = np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.arange(len(start)) - start, start
