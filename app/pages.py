"""Makes this process cheap to copy: a fork copies an entry for every page of memory, so few.

Arrays lie on pages of 2 MiB by themselves, Python's own objects on pages of 4 KiB. Linux 6.1 and
newer can be asked to collapse these; where it cannot, a copy takes longer, and that is all.
"""

from __future__ import annotations

import ctypes
import re
import resource
import sys
from pathlib import Path

_HUGE = 2 * 2**20
# A smaller process is copied in a few milliseconds as it is.
_WORTH_IT = 2**30
# linux/mman.h: make these huge pages now. Not "from now on" (MADV_HUGEPAGE): each new one would
# wait until the system has moved others out of its way, 10 to 40 ms at a time.
_MADV_COLLAPSE = 25
# Memory that may be written, is nobody else's, and of no file, or the heap.
_OURS = re.compile(r"([0-9a-f]+)-([0-9a-f]+) rw.p \S+ \S+ 0\s*(?:\[heap\])?")


def collapse() -> int:
    """Move small pages of a large process into huge ones; return how many bytes were asked to be.

    Takes a second for each 600 MB the first time, in which other threads run.
    """
    if sys.platform != "linux" or _resident() < _WORTH_IT:
        return 0
    libc, n_bytes = ctypes.CDLL(None), 0
    for line in Path("/proc/self/maps").read_text().splitlines():
        found = _OURS.fullmatch(line)
        if found is None:
            continue
        first = -(-int(found[1], 16) // _HUGE) * _HUGE
        size = int(found[2], 16) // _HUGE * _HUGE - first
        if size > 0:
            libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(size), _MADV_COLLAPSE)
            n_bytes += size
    return n_bytes


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()
