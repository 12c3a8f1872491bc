"""The loops of rules over candidates, compiled by Numba: what they change, and what they let stand.

Only + - * / in fixed order, as in `learners.kernels`. Nothing of that file is called from here:
Numba would not notice that it has changed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from learners.kernels import F64, I32, I64, U8

NOBODY = -1
"""Instead of a cap: none is broken."""

EVERYTHING, NOTHING, CATEGORIES = -1, -2, -3
"""By what a cap counts that counts by no column: NOTHING, where an attribute is unknown."""


# -- events of the user -----------------------------------------------------------------------


@njit(cache=True)
def note_labels(items: I32, labels: I32, mark: I64, tick: int) -> None:
    """Write `tick` for each label of some items."""
    for item in items:
        for j in range(labels.shape[1]):
            if labels[item, j] == 0:
                break
            mark[labels[item, j]] = tick


@njit(cache=True)
def keep_carriers(matching: U8, items: I32, labels: I32, mark: I64, tick: int) -> None:
    """Let a rule match no more than the items with a label that `note_labels` has marked."""
    for c in range(len(items)):
        if matching[c]:
            matching[c] = 0
            for j in range(labels.shape[1]):
                if labels[items[c], j] == 0:
                    break
                if mark[labels[items[c], j]] == tick:
                    matching[c] = 1
                    break


# -- scores -----------------------------------------------------------------------------------


@njit(cache=True)
def spread_of(total: F64, n: int) -> float:
    """Return by how much the best of n totals is over the worst; 1 where they are all alike."""
    if n == 0:
        return 1.0
    low = high = total[0]
    for c in range(1, n):
        low, high = min(low, total[c]), max(high, total[c])
    return high - low if high > low else 1.0


@njit(cache=True)
def move(matching: U8, shares: F64, total: F64) -> tuple[I64, float]:
    """Add to the totals of what each rule matches ([rules, candidates]) its share of the spread.

    Return how many it moved, and the spread.
    """
    moved, spread = np.zeros(len(shares), np.int64), spread_of(total, matching.shape[1])
    for r in range(len(shares)):
        change = shares[r] * spread
        for c in range(matching.shape[1]):
            if matching[r, c]:
                total[c] += change
                moved[r] += 1
    return moved, spread


@njit(cache=True)
def rank(total: F64, item: I32, key: Any, hidden: U8, n: int) -> I32:
    """Return the places of those of n candidates that are not hidden, best first.

    Ties go by the id's key. A heap sort: all of them are wanted in order.
    """
    places, m = np.empty(n, np.int32), 0
    for c in range(n):
        if not hidden[c]:
            places[m] = c
            m += 1
    for root in range(m // 2 - 1, -1, -1):
        _sift(total, item, key, places, root, m)
    for end in range(m - 1, 0, -1):
        places[0], places[end] = places[end], places[0]
        _sift(total, item, key, places, 0, end)
    return places[:m]


@njit(cache=True)
def _is_worse(total: F64, item: I32, key: Any, one: int, other: int) -> bool:
    if total[one] == total[other]:
        return bool(key[item[one]] > key[item[other]])
    return bool(total[one] < total[other])


@njit(cache=True)
def _sift(total: F64, item: I32, key: Any, places: I32, root: int, end: int) -> None:
    """Let the worst of a heap come up."""
    while True:
        child = 2 * root + 1
        if child >= end:
            return
        if child + 1 < end and _is_worse(total, item, key, places[child + 1], places[child]):
            child += 1
        if not _is_worse(total, item, key, places[child], places[root]):
            return
        places[root], places[child] = places[child], places[root]
        root = child


# -- places -----------------------------------------------------------------------------------

# Caps come as a tuple of arrays, with a row for each cap: how many it lets in, by what it counts,
# to which items it applies, the items' values (NaN: not counted), and their categories; then
# what is shown so far, by category, and by value: the values, how many of each, how many values.


@njit(cache=True)
def _broken(caps: Any, items: I32, at: int) -> int:
    """Return the first cap that one more item would break, or NOBODY."""
    most, rows, applies, values, labels, counts, seen, n_of_seen, n_seen = caps
    for cap in range(len(most)):
        if not applies[cap, at]:
            continue
        if most[cap] == 0:
            return cap
        if rows[cap] == CATEGORIES:
            for j in range(labels.shape[1]):
                label = labels[items[at], j]
                if label == 0:
                    break
                if counts[cap, label] >= most[cap]:
                    return cap
            continue
        for s in range(n_seen[cap]):
            if seen[cap, s] == values[cap, at]:
                if n_of_seen[cap, s] >= most[cap]:
                    return cap
                break
    return NOBODY


@njit(cache=True)
def _count(caps: Any, items: I32, at: int) -> None:
    """Count an item that is shown."""
    most, rows, applies, values, labels, counts, seen, n_of_seen, n_seen = caps
    for cap in range(len(most)):
        if not applies[cap, at]:
            continue
        if rows[cap] == CATEGORIES:
            for j in range(labels.shape[1]):
                if labels[items[at], j] == 0:
                    break
                counts[cap, labels[items[at], j]] += 1
            continue
        value = values[cap, at]
        s = 0
        while s < n_seen[cap] and seen[cap, s] != value:
            s += 1
        if s == n_seen[cap]:
            if np.isnan(value):
                continue
            seen[cap, s], n_of_seen[cap, s] = value, 0
            n_seen[cap] += 1
        n_of_seen[cap, s] += 1


@njit(cache=True)
def _forget(caps: Any, items: I32, taken: U8) -> None:
    """Count nothing any more."""
    labels, counts, n_seen = caps[4], caps[5], caps[8]
    n_seen[:] = 0
    for at in range(len(items)):
        if taken[at]:
            for cap in range(counts.shape[0]):
                for j in range(labels.shape[1]):
                    counts[cap, labels[items[at], j]] = 0


@njit(cache=True)
def _choose(
    items: I32, k: int, pins: I32, fresh: U8, least: I64, caps: Any, taken: U8, turned: I64
) -> int:
    """Take at most k items: pins, then what quotas want, then the best; return how many.

    With `least` empty, quotas want nothing.
    """
    n = 0
    for at in pins:
        if n < k and at >= 0 and not taken[at] and _broken(caps, items, at) == NOBODY:
            _count(caps, items, at)
            taken[at] = 1
            n += 1
    for q in range(len(least)):
        have = 0
        for at in range(len(items)):
            have += taken[at] and fresh[q, at]
        for at in range(len(items)):
            if have >= least[q] or n == k:
                break
            if fresh[q, at] and not taken[at] and _broken(caps, items, at) == NOBODY:
                _count(caps, items, at)
                taken[at] = 1
                n, have = n + 1, have + 1
    turned[:] = 0
    for at in range(len(items)):
        if n == k:
            break
        if not taken[at]:
            cap = _broken(caps, items, at)
            if cap != NOBODY:
                turned[cap] += 1
                continue
            _count(caps, items, at)
            taken[at] = 1
            n += 1
    return n


@njit(cache=True)
def _n_unmet(fresh: U8, least: I64, taken: U8, n: int) -> int:
    """Return how many quotas have fewer than they want in a slate of n."""
    unmet = 0
    for q in range(len(least)):
        have = 0
        for at in range(len(taken)):
            have += taken[at] and fresh[q, at]
        unmet += have < min(least[q], n)
    return unmet


@njit(cache=True)
def arrange(
    items: I32,
    k: int,
    matching: U8,
    pinned: I32,
    positions: I32,
    least: I64,
    since_ms: I64,
    horizons_ms: I64,
    most: I64,
    rows: I32,
    columns: F64,
    labels: I32,
    counts: I32,
    turned: I64,
) -> tuple[I32, I32, int]:
    """Choose at most k of some items, given best first, and put them in order, by all rules.

    `matching` says by rows what caps, and then quotas, are about. `pinned` are items (MISS for an
    unknown one) for the `positions`, which ascend. A quota wants what came (`since_ms`, of all
    items) at its horizon or later. A cap counts by its row of `columns`, or by `CATEGORIES`,
    `NOTHING` or `EVERYTHING`. `counts` ([caps, labels]) are zeros, and left so; `turned` gets how
    many items each cap kept out. Return the chosen places among the items, in the slate's order;
    for each whether it is a pin (1 and on: which) or was brought in by a quota (-1 and down), else
    0; and how many quotas have less than they want.
    """
    n_caps, n_items = len(most), len(items)
    pins = np.full(len(pinned), -1, np.int32)
    for p in range(len(pinned)):
        for at in range(n_items if positions[p] <= k else 0):
            if items[at] == pinned[p]:
                pins[p] = at
    fresh = matching[n_caps:]
    for q in range(len(least)):
        for at in range(n_items):
            fresh[q, at] &= since_ms[items[at]] >= horizons_ms[q]
    values = np.zeros((n_caps, n_items))
    for cap in range(n_caps):
        if rows[cap] >= 0:
            for at in range(n_items):
                values[cap, at] = columns[rows[cap], items[at]]
        elif rows[cap] == NOTHING:
            values[cap] = np.nan
    caps = (
        most,
        rows,
        matching[:n_caps],
        values,
        labels,
        counts,
        np.empty((n_caps, k)),
        np.zeros((n_caps, k), np.int64),
        np.zeros(n_caps, np.int64),
    )
    taken, best = np.zeros(n_items, np.uint8), np.zeros(n_items, np.uint8)
    # A quota changes nothing in a slate that meets it anyway.
    n = _choose(items, k, pins, fresh, least[:0], caps, best, turned)
    _forget(caps, items, best)
    taken[:] = best
    unmet = _n_unmet(fresh, least, taken, k)
    if unmet:
        taken[:] = 0
        n = _choose(items, k, pins, fresh, least, caps, taken, turned)
        _forget(caps, items, taken)
        unmet = _n_unmet(fresh, least, taken, k)
    slate, by = np.empty(n, np.int32), np.zeros(n, np.int32)
    is_pinned, shown, left = np.zeros(n_items, np.uint8), np.empty(len(pins), np.int32), 0
    for p in range(len(pins)):
        if pins[p] >= 0 and taken[pins[p]] and not is_pinned[pins[p]]:
            is_pinned[pins[p]] = 1
            shown[left] = p
            left += 1
    at = p = 0
    for place in range(n):
        # A pin whose place is beyond the end comes last.
        if p < left and (positions[shown[p]] <= place + 1 or left - p == n - place):
            slate[place], by[place] = pins[shown[p]], shown[p] + 1
            p += 1
            continue
        while not taken[at] or is_pinned[at]:
            at += 1
        slate[place] = at
        for q in range(len(least)):
            if fresh[q, at] and not best[at]:
                by[place] = -1 - q
                break
        at += 1
    return slate, by, unmet
