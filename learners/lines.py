"""Arrays of zeros laid out for caches: a miss costs more than the arithmetic on what it brings."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

LINE = 64
"""Bytes that a processor fetches at once."""


def zeros_by_lines(shape: int | tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Return zeros that begin where a cache line does, which numpy's own hardly ever do."""
    dtype = np.dtype(dtype)
    n_bytes = math.prod(shape if isinstance(shape, tuple) else (shape,)) * dtype.itemsize
    room = np.zeros(n_bytes + LINE, np.uint8)
    begin = -room.ctypes.data % LINE
    aligned: NDArray[Any] = room[begin : begin + n_bytes].view(dtype).reshape(shape)
    return aligned
