"""Is what is expected of a slate what comes of it? Predicted and observed clicks, by bins.

Over the last 5,000 to 10,000 slates, so that it follows what is served now.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from learners import kernels
from learners.ids import State
from learners.kernels import F64

EDGES: F64 = np.array([0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5])
"""Where a bin of predictions ends and the next begins: narrow where most clicks are expected."""

BLOCK_SLATES = 5_000
_N_BINS = len(EDGES) + 1


class Calibration:
    """Sums by bin of one version: places shown, clicks expected of them, clicks that came.

    Of the block of slates that is being filled, and of the one before it.
    """

    def __init__(self) -> None:
        self.n_slates = 0
        self.blocks: F64 = np.zeros((2, _N_BINS, 3), np.float64)

    def add(self, expected: F64, clicked: F64) -> None:
        """Take what was expected of each place of a slate, and what came of it."""
        if self.n_slates == BLOCK_SLATES:
            self.n_slates = 0
            self.blocks[1], self.blocks[0] = self.blocks[0], 0.0
        kernels.count_outcomes(EDGES, expected, clicked, self.blocks[0])
        self.n_slates += 1

    def rows(self) -> list[list[float]]:
        """Return [places, expected clicks, clicks] of each bin."""
        found: list[list[float]] = (self.blocks[0] + self.blocks[1]).tolist()
        return found

    @property
    def error(self) -> float | None:
        r"""Return the expected calibration error, $\sum_b n_b |\bar p_b - \bar y_b| / n$.

        Naeini, Cooper, Hauskrecht: Obtaining well calibrated probabilities (AAAI 2015). None
        before the first slate.
        """
        rows = self.rows()
        n = sum(row[0] for row in rows)
        return sum(abs(expected - came) for _, expected, came in rows) / n if n else None

    def view(self) -> dict[str, Any]:
        """Return the error, and of each bin that has places, both rates."""
        edges = [0.0, *EDGES.tolist(), 1.0]
        bins = [
            {
                "from": edges[at],
                "to": edges[at + 1],
                "places": int(n),
                "expected": expected / n,
                "clicked": came / n,
            }
            for at, (n, expected, came) in enumerate(self.rows())
            if n
        ]
        return {"error": self.error, "places": sum(row["places"] for row in bins), "bins": bins}

    def state(self) -> State:
        """Return what `load_state` continues from."""
        return {"n_slates": self.n_slates, "blocks": self.blocks.copy()}

    def load_state(self, state: State) -> None:
        """Become what `state` was taken from; raise ValueError if it is damaged."""
        blocks = np.asarray(state["blocks"], np.float64)
        if blocks.shape != self.blocks.shape or not np.isfinite(blocks).all() or (blocks < 0).any():
            raise ValueError("what was expected of slates, and came of them, is damaged")
        n_slates = int(state["n_slates"])
        if not 0 <= n_slates <= BLOCK_SLATES:
            raise ValueError(f"{n_slates} slates in a block of {BLOCK_SLATES}")
        self.n_slates, self.blocks[:] = n_slates, blocks

    def update_hash(self, sha: Any) -> None:
        """Feed all of it to a hashlib object."""
        sha.update(self.n_slates.to_bytes(8, "little") + self.blocks.tobytes())
