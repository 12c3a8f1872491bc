"""What the engine's state holds in memory, by part.

Arrays are reserved at capacity and take memory page by page as they are written, so there are two
figures: `reserved` is what a part takes at its capacity, `held` what it has taken so far. Arrays
are exact; Python's own objects (ids, texts, attributes) are estimated from some of them.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from app.engine import Engine
from learners.base import RowPool

_STATM = Path("/proc/self/statm")
# Smaller arrays are taken for written: whether they are is not worth a system call.
_SMALL_BYTES = 2**20
# Of a long collection so many are looked at.
_SAMPLED, _LONG = 64, 256
_OURS = ("app.", "learners.")
_PLAIN = (str, bytes, int, float, np.generic)

_Array = np.ndarray[Any, Any]


class Part(NamedTuple):
    """Bytes of a part: those that it has taken, and those that are set aside for it."""

    held: int
    reserved: int


class Survey:
    """What each part of an engine consists of, as of now: made in a millisecond or two.

    Rows belong to all versions that share them: what `versions` has is the indices to them.
    """

    def __init__(self, engine: Engine) -> None:
        roots = _roots(engine)
        seen = {id(root) for part in roots.values() for root in part}
        self._parts = {name: _Walk(seen, part) for name, part in roots.items()}

    def arrays(self) -> dict[str, list[_Array]]:
        """Return the arrays of each part."""
        return {name: walk.arrays for name, walk in self._parts.items()}

    def count(self) -> dict[str, Part]:
        """Return the bytes of each part; for another thread, as it takes some milliseconds."""
        counted = {}
        for name, walk in self._parts.items():
            held = sum(_resident(array) for array in walk.arrays)
            reserved = sum(array.nbytes for array in walk.arrays)
            counted[name] = Part(round(walk.n_bytes) + held, round(walk.n_bytes) + reserved)
        return counted


def _roots(engine: Engine) -> dict[str, list[Any]]:
    history, catalogue, learner = engine.history, engine.catalogue, engine.learner
    pools = [p for s in learner.sources.values() for p in vars(s).values() if type(p) is RowPool]
    return {
        "versions": [pool.versions.slots for pool in pools],
        "users": [history, engine.ignored, catalogue.user_attributes],
        "items": [history.items, history.item_since, catalogue, engine.exploration, engine.growth],
        **{name: [source] for name, source in learner.sources.items()},
        "combiner": [learner],
        "challenger": [engine.challenges],
        "window": [engine.window],
        "gate": [
            *(engine.gate, engine.clicks, engine.answers),
            *(*engine.calibration.values(), *engine.prequential.values()),
        ],
        "event_ids": [engine.admission],
    }


class _Walk:
    """Finds what some objects hold, but for what was `seen` before: arrays, and other bytes."""

    def __init__(self, seen: set[int], roots: Iterable[Any]) -> None:
        self.arrays: list[_Array] = []
        self.n_bytes = 0.0
        self._seen = seen
        for root in roots:
            self._enter(root, 1.0)

    def _look(self, thing: Any, times: float) -> None:
        if thing is not None and id(thing) not in self._seen:
            self._seen.add(id(thing))
            self._enter(thing, times)

    def _enter(self, thing: Any, times: float) -> None:
        """Take a thing that stands for `times` as many."""
        if isinstance(thing, np.ndarray):
            if isinstance(thing.base, np.ndarray):  # a view, of what is counted for itself
                self._look(thing.base, times)
            else:
                self.arrays.append(thing)
        elif isinstance(thing, _PLAIN):
            self.n_bytes += times * sys.getsizeof(thing)
        elif isinstance(thing, Mapping | list | tuple | set | deque):
            self._enter_all(thing, times)
        elif type(thing).__module__.startswith(_OURS):
            for value in getattr(thing, "__dict__", {}).values():
                self._look(value, times)

    def _enter_all(self, things: Collection[Any], times: float) -> None:
        """Take a collection; a long one as if all in it were like the first ones."""
        self.n_bytes += times * sys.getsizeof(things)
        is_long = len(things) > _LONG
        looked_at = list(islice(things, _SAMPLED if is_long else _LONG))
        if is_long and isinstance(things, deque) and isinstance(looked_at[-1], _PLAIN):
            return  # a queue names again what a set has
        if isinstance(things, Mapping):
            looked_at += [things[key] for key in looked_at]
        for thing in looked_at:
            self._look(thing, times * len(things) / _SAMPLED if is_long else times)


def _resident(array: _Array) -> int:
    """Return how many bytes of an array are in memory; all, where the system does not say."""
    if sys.platform != "linux" or array.nbytes < _SMALL_BYTES:
        return array.nbytes
    start, end = array.ctypes.data, array.ctypes.data + array.nbytes
    first = start - start % mmap.PAGESIZE
    pages = np.empty(-(-(end - first) // mmap.PAGESIZE), np.uint8)
    length, found = ctypes.c_size_t(end - first), ctypes.c_void_p(pages.ctypes.data)
    if ctypes.CDLL(None).mincore(ctypes.c_void_p(first), length, found):
        return array.nbytes
    return min(array.nbytes, int(np.count_nonzero(pages & 1)) * mmap.PAGESIZE)


def resident_bytes() -> int | None:
    """Return the memory of this process; None where the system does not say (no Linux)."""
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None
