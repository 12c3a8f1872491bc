"""Room for Python's objects."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = r"""
import gc, re
from app import lazily, room
import app.main

maps = re.findall(r"(\w+)-(\w+) rw.p", open("/proc/self/maps").read())
at = id(room._KEPT[9])
[(start, end)] = [m for a, b in maps if (m := (int(a, 16), int(b, 16)))[0] <= at < m[1]]
tracked = gc.get_objects()
print(end - start, sum(start <= id(thing) < end for thing in tracked), len(tracked))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what lies where")
def test_what_is_imported_lies_in_one_place() -> None:
    """Nearly all objects are in the room that was made for them, which is one piece of memory."""
    told = subprocess.check_output([sys.executable, "-c", SCRIPT], text=True)
    n_bytes, n_inside, n = map(int, told.split())
    assert n_bytes >= 60 * 2**20
    assert n_inside > 0.8 * n
