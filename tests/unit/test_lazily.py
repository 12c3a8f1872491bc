"""What is loaded at its first use."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = r"""
from app import lazily
import app.main

maps = open("/proc/self/maps").read().splitlines()
print(sum("/scipy/" in line for line in maps))

from river import drift

detector = drift.KSWIN(seed=1)
for at in range(300):
    detector.update(float(at > 200))
print(detector.drift_detected or detector.p_value < 0.05)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what is mapped")
def test_what_river_does_not_need_here_is_not_loaded_until_it_is_asked_for() -> None:
    """A service has next to nothing of SciPy; a part of River that needs it finds it."""
    told = subprocess.check_output([sys.executable, "-c", SCRIPT], text=True)
    n_mapped, noticed = told.split()
    assert int(n_mapped) < 50
    assert noticed == "True"
