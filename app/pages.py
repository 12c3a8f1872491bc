"""Makes this process cheap to copy: a fork copies an entry for every page of memory, so few.

Arrays lie on pages of 2 MiB by themselves, Python's own objects on pages of 4 KiB. Linux 6.1 and
newer can be asked to collapse these; where it cannot, a copy takes longer, and that is all.
"""

from __future__ import annotations

import contextlib
import ctypes
import re
import resource
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

_HUGE = 2 * 2**20
# A smaller process is copied in a few milliseconds as it is; half a gigabyte of small pages in 25.
_WORTH_IT = 2**28
# A copy of so much is better made in two, each of half of the arrays.
_WORTH_TWO = 2**31
# Of smaller arrays, each takes longer to leave out than to copy.
_WORTH_LEAVING = 2**24
# linux/mman.h: make a huge page of what is there, now; or in future, when there is something.
_MADV_COLLAPSE, _MADV_HUGEPAGE = 25, 14
# Leave it out of the copies of this process; have it in them again.
_MADV_DONTFORK, _MADV_DOFORK = 10, 11
_WALKED = Path("/proc/self/smaps_rollup")
# What malloc keeps in front of a large array: NumPy asks for huge pages from behind it on.
_HEADER = 8_192
# Memory that may be written, is nobody else's, and of no file, or the heap.
_OURS = re.compile(r"([0-9a-f]+)-([0-9a-f]+) rw.p \S+ \S+ 0\s*(?:\[heap\])?")


def collapse() -> int:
    """Move small pages of a large process into huge ones; return how many bytes were asked to be.

    Takes a second for each 600 MB the first time, in which other threads run.
    """
    if sys.platform != "linux" or _resident() < _WORTH_IT:
        return 0
    libc, n_bytes = ctypes.CDLL(None), 0
    for start, end in _regions():
        # Asked for the same, arrays and what is between them become one region, with fewer ends
        # that fill no huge page. Only of these: where there is nothing yet, each new huge page
        # would wait until the system has moved others out of its way, 10 to 40 ms at a time.
        if end - start <= _HEADER:
            _advise(libc, start, end - start, _MADV_HUGEPAGE)
    for start, end in _regions():
        # One by one: the first that cannot be collapsed is the end of a call.
        for at in range(-(-start // _HUGE) * _HUGE, end // _HUGE * _HUGE, _HUGE):
            _advise(libc, at, _HUGE, _MADV_COLLAPSE)
            n_bytes += _HUGE
    with contextlib.suppress(OSError):
        _WALKED.read_bytes()  # to say how much lies where, it looks at every page, as a copy does
    return n_bytes


def is_worth_two() -> bool:
    """Tell whether copying this process takes so long that two copies of half are better."""
    return sys.platform == "linux" and _resident() >= _WORTH_TWO


@contextlib.contextmanager
def left_out(arrays: Iterable[NDArray[Any]]) -> Iterator[None]:
    """Within, copies of this process do not have these arrays, but for what shares a huge page.

    Whoever reads one in such a copy dies of it. Small ones they have all the same.
    """
    libc = ctypes.CDLL(None)
    inner = [_whole_pages(array) for array in arrays if array.nbytes >= _WORTH_LEAVING]
    try:
        for start, end in inner:
            _advise(libc, start, end - start, _MADV_DONTFORK)
        yield
    finally:
        for start, end in inner:
            _advise(libc, start, end - start, _MADV_DOFORK)


def _whole_pages(array: NDArray[Any]) -> tuple[int, int]:
    """Return from where to where an array fills huge pages."""
    start = -(-array.ctypes.data // _HUGE) * _HUGE
    end = (array.ctypes.data + array.nbytes) // _HUGE * _HUGE
    return start, max(start, end)


def _regions() -> list[tuple[int, int]]:
    """Return from where to where the process's own memory lies."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:  # then nothing is collapsed, and a copy takes longer
        return []
    found = [match for match in map(_OURS.fullmatch, lines) if match is not None]
    return [(int(match[1], 16), int(match[2], 16)) for match in found]


def _advise(libc: ctypes.CDLL, start: int, size: int, advice: int) -> None:
    libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), advice)


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()
