"""Some of the kills of `python -m tests.faults.kills`, which goes on for as long as it is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.kills import Fsync, Where, run


@pytest.mark.parametrize(("where", "fsync"), [("embedded", "everysec"), ("external", "always")])
def test_random_kills(tmp_path: Path, where: Where, fsync: Fsync) -> None:
    """Killed at random, service and store lose nothing, double nothing, and agree with the log."""
    result = run(
        n_kills=6, n_posters=8, seed=1, where=where, fsync=fsync, folder=tmp_path, show=False
    )
    assert result.kills.total() == 6
    assert result.n_acknowledged > 0
