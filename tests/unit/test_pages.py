"""Memory that is cheap to copy."""

from __future__ import annotations

import numpy as np

from app import pages


def test_what_is_there_stays() -> None:
    """Whatever page it lies on, memory holds what it held; a small process is left alone."""
    assert pages.collapse() == 0 or pages._resident() > pages._WORTH_IT
    texts = [f"text {n}" for n in range(400_000)]
    array = np.full(2**27, 7, np.int64)  # a gigabyte, so that it is worth it
    n_bytes = pages.collapse()
    assert n_bytes == 0 or n_bytes > array.nbytes
    assert texts == [f"text {n}" for n in range(400_000)]
    assert array.min() == array.max() == 7
