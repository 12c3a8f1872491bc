"""A few of the kills of `python -m tests.faults.replicas`."""

from __future__ import annotations

from pathlib import Path

from tests.faults.replicas import run


def test_replicas_come_and_go(tmp_path: Path) -> None:
    """Replicas killed in turn rejoin with the state of the others, of whom no request fails."""
    result = run(
        n_replicas=2, seconds=3, every_s=1, n_posters=4, seed=1, folder=tmp_path, show=False
    )
    assert result.n_kills > 0
    assert result.n_acknowledged > 0
    assert result.n_lists > 0
