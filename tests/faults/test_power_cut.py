"""One round each of `python -m tests.faults.power_cut`, which cuts the power as often as told."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.mounts import skip_without_loop_devices
from tests.faults.power_cut import Fsync, is_as_promised, power_cut


@pytest.mark.parametrize("fsync", ["everysec", "always"])
def test_a_power_cut(tmp_path: Path, fsync: Fsync) -> None:
    """At `always` nothing acknowledged is lost, at `everysec` the last two seconds at most."""
    skip_without_loop_devices()
    found = power_cut(fsync=fsync, n_posters=4, load_s=1.5, seed=1, folder=tmp_path)
    assert found.n_acknowledged > 0
    assert is_as_promised(fsync, found), found
