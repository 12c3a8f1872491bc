"""The hot loops, compiled by Numba. Plain arrays in, plain arrays out; no allocation per catalogue.

Only + - * / and sqrt, in fixed order and without fast-math, so that the same log gives the same
bytes on every machine. Powers of two come from tables made with software decimals.

A *handle* is an int64: (generation << 32) | index. It outlives the item that it names: once the
index is given to another item its generation differs, and the handle scores nothing.
"""

from __future__ import annotations

import math
from decimal import Context, Decimal
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
U8 = NDArray[np.uint8]
U64 = NDArray[np.uint64]

INDEX_MASK = np.int64(0xFFFFFFFF)
BLOCK = 16
MISS = -1

_DECIMALS = Context(prec=30)
_FRACTIONS = 1024
# 2^(j/1024): software decimals, because libm's exp2 differs between processors.
_EXP2 = np.array(
    [
        float(_DECIMALS.exp(_DECIMALS.ln(Decimal(2)) * Decimal(j) / Decimal(_FRACTIONS)))
        for j in range(_FRACTIONS + 1)
    ]
)
_MIN_SHIFT = -1074
_POW2 = np.array([math.ldexp(1.0, shift) for shift in range(_MIN_SHIFT, 1024)])


class Pool(NamedTuple):
    """Row slots shared by versions. Slot 0 is the empty row: never written, never freed."""

    refs: I32  # [slots] how many versions hold the slot
    free: I32  # [slots] stack of freed slots
    marks: I64  # [n_free, high_water]: slots from high_water on were never used


class Neighbours(NamedTuple):
    """Rows of co-visitation."""

    handle: I64  # [slots, N]
    weight: F32  # [slots, N]
    size: I32  # [slots] neighbours in use
    mass: F64  # [slots] rewards of the item itself
    inv_norm: F64  # [slots] see inverse_norm


class Decayed(NamedTuple):
    """Rows of trending: weight in units of 2^epoch half-lives."""

    weight: F64  # [slots]
    epoch: I64  # [slots]


class Scratch(NamedTuple):
    """Buffers of one scoring thread; no state survives in them from one request to the next."""

    stamp: I64  # [items] request in which the item was last touched as a candidate
    mark: I64  # [items] request in which the item was last excluded
    score: F64  # [items, sources + 1]; the last column is the blended score
    candidate: I32  # [items] indices touched in this request


@njit(cache=True)
def is_live(handle: int, generation: I32) -> bool:
    """Tell whether a handle still names the item that it was made for."""
    return generation[handle & INDEX_MASK] == handle >> 32


# -- row pool ---------------------------------------------------------------------------------


@njit(cache=True)
def own_slot(pool: Pool, slots: I32, item: int) -> tuple[int, int]:
    """Return (old slot, slot that only this version holds) for an item; the caller copies the row.

    The two are equal when nothing is to be copied. The pool must have a free slot.
    """
    old = slots[item]
    if old != 0 and pool.refs[old] == 1:
        return old, old
    if pool.marks[0] > 0:
        pool.marks[0] -= 1
        new = pool.free[pool.marks[0]]
    else:
        new = np.int32(pool.marks[1])
        pool.marks[1] += 1
    if old != 0:
        pool.refs[old] -= 1
    pool.refs[new] = 1
    slots[item] = new
    return old, new


@njit(cache=True)
def release_slot(pool: Pool, slot: int) -> None:
    """Drop one reference; a slot that nobody holds goes to the free stack."""
    if slot == 0:
        return
    pool.refs[slot] -= 1
    if pool.refs[slot] == 0:
        pool.free[pool.marks[0]] = slot
        pool.marks[0] += 1


@njit(cache=True)
def assign_slots(pool: Pool, target: I32, source: I32, n_items: int) -> int:
    """Make one version hold what another holds; return how many rows differed."""
    n_changed = 0
    for item in range(n_items):
        if target[item] != source[item]:
            old = target[item]
            target[item] = source[item]
            if source[item] != 0:
                pool.refs[source[item]] += 1
            release_slot(pool, old)
            n_changed += 1
    return n_changed


@njit(cache=True, nogil=True)
def pack_rows(rows: Any, size: Any, packed: Any) -> None:
    """Write the first size[i] values of each row i one after the other into `packed`."""
    place = 0
    for row in range(len(size)):
        for j in range(size[row]):
            packed[place] = rows[row, j]
            place += 1


@njit(cache=True, nogil=True)
def unpack_rows(packed: Any, size: Any, rows: Any) -> None:
    """Undo `pack_rows`."""
    place = 0
    for row in range(len(size)):
        for j in range(size[row]):
            rows[row, j] = packed[place]
            place += 1


# -- personal state ---------------------------------------------------------------------------


@njit(cache=True)
def profile_of(
    ring_handle: I64,
    ring_reward: F32,
    n_events: int,
    length: int,
    generation: I32,
    items: I32,
    weights: F64,
) -> int:
    """Write the last positive items (newest first) and their weights 1/recency rank; return n."""
    capacity = len(ring_handle)
    n = 0
    for back in range(min(n_events, capacity)):
        if n == length:
            break
        place = (n_events - 1 - back) % capacity
        if ring_reward[place] > 0.0 and is_live(ring_handle[place], generation):
            items[n] = ring_handle[place] & INDEX_MASK
            weights[n] = 1.0 / (n + 1)
            n += 1
    return n


@njit(cache=True)
def find_had(
    first: int, start: int, count: int, next_block: I32, block_handle: I64, handle: int
) -> int:
    """Return the place (block * BLOCK + offset) of a handle in a had-set, or MISS."""
    block, offset = first, start
    for _ in range(count):
        if block_handle[block, offset] == handle:
            return block * BLOCK + offset
        offset += 1
        if offset == BLOCK:
            block, offset = next_block[block], 0
    return MISS


@njit(cache=True)
def mark_had(
    first: int,
    start: int,
    count: int,
    next_block: I32,
    block_handle: I64,
    generation: I32,
    mark: I64,
    tick: int,
) -> None:
    """Exclude every live item of a had-set from the request `tick`."""
    block, offset = first, start
    for _ in range(count):
        handle = block_handle[block, offset]
        if is_live(handle, generation):
            mark[handle & INDEX_MASK] = tick
        offset += 1
        if offset == BLOCK:
            block, offset = next_block[block], 0


# -- co-visitation ----------------------------------------------------------------------------


@njit(cache=True)
def inverse_norm(mass: float, shrink: float) -> float:
    """Return 1 / sqrt(mass + shrink), 0 where both are 0."""
    total = mass + shrink
    return 1.0 / np.sqrt(total) if total > 0.0 else 0.0


@njit(cache=True)
def _own_neighbours(pool: Pool, rows: Neighbours, slots: I32, item: int, shrink: float) -> int:
    old, slot = own_slot(pool, slots, item)
    if old != slot:
        n = rows.size[old]
        rows.size[slot] = n
        rows.mass[slot] = rows.mass[old]
        # Not the empty row's: an item can be a neighbour before it has rewards of its own.
        rows.inv_norm[slot] = inverse_norm(rows.mass[slot], shrink)
        for j in range(n):
            rows.handle[slot, j] = rows.handle[old, j]
            rows.weight[slot, j] = rows.weight[old, j]
    return slot


@njit(cache=True)
def _add_neighbour(
    rows: Neighbours, slot: int, handle: Any, amount: float, generation: I32
) -> None:
    """Add to a neighbour's weight; a full row gives up a stale neighbour, else the weakest."""
    n = rows.size[slot]
    weakest, least = 0, np.float32(np.inf)
    for j in range(n):
        if rows.handle[slot, j] == handle:
            rows.weight[slot, j] += np.float32(amount)
            return
        weight = rows.weight[slot, j]
        if weight < least:
            weakest, least = j, weight
    if n < rows.handle.shape[1]:
        rows.size[slot] = n + 1
        weakest = n
    else:
        for j in range(n):
            if not is_live(rows.handle[slot, j], generation):
                weakest = j
                break
    rows.handle[slot, weakest] = handle
    rows.weight[slot, weakest] = np.float32(amount)


@njit(cache=True)
def covisit_learn(
    pool: Pool,
    rows: Neighbours,
    slots: I32,
    generation: I32,
    item: int,
    reward: float,
    items: I32,
    weights: F64,
    n: int,
    shrink: float,
) -> None:
    """Count an item together with each item of the profile, both ways, weighted by recency."""
    own = _own_neighbours(pool, rows, slots, item, shrink)
    handle = (np.int64(generation[item]) << 32) | item
    for r in range(n):
        other = items[r]
        if other == item:
            continue
        amount = reward * weights[r]
        theirs = (np.int64(generation[other]) << 32) | other
        _add_neighbour(rows, own, theirs, amount, generation)
        slot = _own_neighbours(pool, rows, slots, other, shrink)
        _add_neighbour(rows, slot, handle, amount, generation)
    rows.mass[own] += reward
    rows.inv_norm[own] = inverse_norm(rows.mass[own], shrink)


@njit(cache=True)
def covisit_score(
    rows: Neighbours,
    slots: I32,
    generation: I32,
    items: I32,
    weights: F64,
    n: int,
    scratch: Scratch,
    tick: int,
    n_candidates: int,
    column: int,
) -> int:
    """Add sum_h w_h c(h, j) / sqrt((n_h + s)(n_j + s)) to each neighbour j; return the new n."""
    for r in range(n):
        slot = slots[items[r]]
        factor = weights[r] * rows.inv_norm[slot]
        for j in range(rows.size[slot]):
            handle = rows.handle[slot, j]
            if not is_live(handle, generation):
                continue
            other = handle & INDEX_MASK
            if scratch.stamp[other] != tick:
                scratch.stamp[other] = tick
                scratch.score[other, :] = 0.0
                scratch.candidate[n_candidates] = other
                n_candidates += 1
            scratch.score[other, column] += factor * rows.weight[slot, j]
    for c in range(n_candidates):
        other = scratch.candidate[c]
        scratch.score[other, column] *= rows.inv_norm[slots[other]]
    return n_candidates


@njit(cache=True)
def neighbour_weight(rows: Neighbours, slot: int, handle: int) -> float:
    """Return the stored weight of one neighbour, 0 if it is not in the row."""
    for j in range(rows.size[slot]):
        if rows.handle[slot, j] == handle:
            return rows.weight[slot, j]
    return 0.0


# -- trending ---------------------------------------------------------------------------------


@njit(cache=True)
def exp2_fraction(fraction: float) -> float:
    """Return 2^fraction for a fraction in [0, 1), by linear interpolation (error under 6e-8)."""
    place = fraction * _FRACTIONS
    j = int(place)
    return _EXP2[j] + (_EXP2[j + 1] - _EXP2[j]) * (place - j)


@njit(cache=True)
def shift(value: float, by: int) -> float:
    """Return value * 2^by, exactly where the result is a normal number; 0 far below."""
    if by < _MIN_SHIFT:
        return 0.0
    return value * _POW2[by - _MIN_SHIFT]


@njit(cache=True)
def _decayed(rows: Decayed, slot: int, epoch: int) -> float:
    return shift(rows.weight[slot], rows.epoch[slot] - epoch)


@njit(cache=True)
def trending_learn(
    pool: Pool,
    rows: Decayed,
    slots: I32,
    generation: I32,
    key: U64,
    top: I64,
    top_size: I64,
    item: int,
    reward: float,
    time_ms: int,
    half_life_ms: int,
) -> None:
    """Add one event to an item's decayed weight and keep the sorted list of the heaviest exact.

    All weights decay alike, so their order changes only where one grows: the list stays exact, but
    for a place that an evicted item left, which the next event outside of the list takes.
    """
    old, slot = own_slot(pool, slots, item)
    epoch = time_ms // half_life_ms
    gain = reward * exp2_fraction((time_ms - epoch * half_life_ms) / half_life_ms)
    row_epoch, weight = rows.epoch[old], rows.weight[old]
    if old == 0 or epoch > row_epoch:
        weight = 0.0 if old == 0 else shift(weight, row_epoch - epoch)
        row_epoch = epoch
    rows.epoch[slot] = row_epoch
    rows.weight[slot] = weight + shift(gain, epoch - row_epoch)

    handle = (np.int64(generation[item]) << 32) | item
    n = top_size[0]
    place = 0
    while place < n and top[place] != handle:
        place += 1
    if place == n:
        if n < len(top):
            top_size[0] = n + 1
        else:
            place = n - 1
            if not _is_heavier(rows, slots, key, item, top[place] & INDEX_MASK):
                return
        top[place] = handle
    while place > 0 and _is_heavier(rows, slots, key, item, top[place - 1] & INDEX_MASK):
        top[place] = top[place - 1]
        place -= 1
        top[place] = handle


@njit(cache=True)
def _is_heavier(rows: Decayed, slots: I32, key: U64, item: int, other: int) -> bool:
    epoch = max(rows.epoch[slots[item]], rows.epoch[slots[other]])
    mine, theirs = _decayed(rows, slots[item], epoch), _decayed(rows, slots[other], epoch)
    if mine != theirs:
        return mine > theirs
    return key[item] < key[other]


@njit(cache=True)
def trending_drop(top: I64, top_size: I64, handle: int) -> None:
    """Take an item off the list of the heaviest."""
    n = top_size[0]
    kept = 0
    for place in range(n):
        if top[place] != handle:
            top[kept] = top[place]
            kept += 1
    top_size[0] = kept


@njit(cache=True)
def trending_score(
    rows: Decayed,
    slots: I32,
    top: I64,
    n_top: int,
    scratch: Scratch,
    tick: int,
    n_candidates: int,
    column: int,
) -> int:
    """Write the weight of each item of the list, in units of the heaviest's epoch."""
    if n_top == 0:
        return n_candidates
    epoch = rows.epoch[slots[top[0] & INDEX_MASK]]
    for place in range(n_top):
        item = top[place] & INDEX_MASK
        if scratch.stamp[item] != tick:
            scratch.stamp[item] = tick
            scratch.score[item, :] = 0.0
            scratch.candidate[n_candidates] = item
            n_candidates += 1
        scratch.score[item, column] = _decayed(rows, slots[item], epoch)
    return n_candidates


# -- blend, rank, select ----------------------------------------------------------------------


@njit(cache=True)
def blend_scores(scratch: Scratch, n_candidates: int, source_weights: F64) -> None:
    """Write sum_s w_s score_s / max(score_s) into the last column."""
    n_sources = len(source_weights)
    for s in range(n_sources):
        largest = 0.0
        for c in range(n_candidates):
            largest = max(largest, scratch.score[scratch.candidate[c], s])
        if largest > 0.0:
            factor = source_weights[s] / largest
            for c in range(n_candidates):
                item = scratch.candidate[c]
                scratch.score[item, s] *= factor
                scratch.score[item, n_sources] += scratch.score[item, s]


@njit(cache=True)
def rank_of(
    scratch: Scratch, n_candidates: int, tick: int, mark_tick: int, hidden: U8, item: int
) -> int:
    """Return twice the rank of an item among the eligible candidates (ties half), or MISS."""
    if scratch.stamp[item] != tick or hidden[item]:
        return MISS
    last = scratch.score.shape[1] - 1
    own = scratch.score[item, last]
    doubled = 0
    for c in range(n_candidates):
        other = scratch.candidate[c]
        if other == item or scratch.mark[other] == mark_tick or hidden[other]:
            continue
        score = scratch.score[other, last]
        if score > own:
            doubled += 2
        elif score == own:
            doubled += 1
    return doubled


@njit(cache=True)
def select_top(
    scratch: Scratch, n_candidates: int, mark_tick: int, hidden: U8, key: U64, best: I32, k: int
) -> int:
    """Write the k best eligible candidates, best first, ties by the id's key; return how many."""
    last = scratch.score.shape[1] - 1
    n = 0
    for c in range(n_candidates):
        item = scratch.candidate[c]
        if scratch.mark[item] == mark_tick or hidden[item]:
            continue
        score = scratch.score[item, last]
        if n == k:
            worst = scratch.score[best[n - 1], last]
            if score < worst or (score == worst and key[item] > key[best[n - 1]]):
                continue
            n -= 1
        place = n
        while place > 0:
            other = scratch.score[best[place - 1], last]
            if other > score or (other == score and key[best[place - 1]] < key[item]):
                break
            best[place] = best[place - 1]
            place -= 1
        best[place] = item
        n += 1
    return n


@njit(cache=True)
def mark_outside(
    scratch: Scratch, n_candidates: int, mark_tick: int, labels: I32, wanted: I32
) -> None:
    """Exclude the candidates that carry none of the wanted labels. labels: [items, labels each]."""
    for c in range(n_candidates):
        item = scratch.candidate[c]
        found = False
        for j in range(labels.shape[1]):
            for w in range(len(wanted)):
                if labels[item, j] == wanted[w]:
                    found = True
        if not found:
            scratch.mark[item] = mark_tick


def packed_rows(rows: NDArray[Any], size: NDArray[Any]) -> NDArray[Any]:
    """Return the first size[i] values of each row i in one array; other threads run meanwhile."""
    packed = np.empty(int(size.sum()), rows.dtype)
    pack_rows(rows, size, packed)
    return packed
