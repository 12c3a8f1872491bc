"""Large arrays of zeros that are soon there, soon written, and given back a piece at a time.

`np.zeros` asks malloc, which hands out what was freed before and then has to write the zeros, and
it asks for pages of 2 MiB, each of which is written as a whole when something of it is. For a
table that is written all over, each of the first events then takes up to 20 ms. These lie on pages
of 4 KiB until somebody collapses them.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Not shared: a copy of the process has what was there when it was made.
_OURS_ALONE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
# So much is given back in less than a millisecond, whatever pages it lies on.
_PIECE = 2**22

_given_up: list[mmap.mmap] = []


def zeros(n: int, dtype: type[np.generic]) -> NDArray[Any]:
    """Return `n` zeros, 1 or more, in memory of their own."""
    return np.frombuffer(mmap.mmap(-1, n * np.dtype(dtype).itemsize, flags=_OURS_ALONE), dtype)


def anew(array: NDArray[Any]) -> NDArray[Any]:
    """Return as many zeros as `array` has numbers, and give up what `zeros` made it of.

    Nobody may read or write the old one from now on.
    """
    view: Any = array.base
    _given_up.append(view.obj)
    return zeros(len(array), array.dtype.type)


def give_back() -> Iterator[None]:
    """Give back the memory of what was given up, pausing after each piece."""
    while _given_up:
        memory = _given_up.pop()
        for start in range(0, len(memory), _PIECE):
            memory.madvise(mmap.MADV_DONTNEED, start, min(_PIECE, len(memory) - start))
            yield
