"""Some of the faults of `python -m tests.faults.client_kills`, which has as many as it is told."""

from __future__ import annotations

from pathlib import Path

from tests.faults.client_kills import FAULTS, run


def test_what_the_client_acknowledged_is_learned_once(tmp_path: Path) -> None:
    """Whoever is killed and wherever the network is cut, each event is learned exactly once."""
    result = run(n_events=600, n_faults=len(FAULTS), seed=1, folder=tmp_path)
    assert set(result.faults) == set(FAULTS)
    assert result.n_acknowledged == 600
    assert result.n_admitted == 601  # and the one with which the log began
