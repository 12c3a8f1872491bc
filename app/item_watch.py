"""Is one item clicked more than is expected of it? A detector for each item that is shown lately.

Rows are bounded: past MAX_WATCHED the item shown longest ago is watched no more.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

import numpy as np

from app.detectors import N_DETECTOR_BETS
from learners import kernels
from learners.ids import State
from learners.kernels import F64

MAX_WATCHED = 10_000
# Outcomes after which a blessing lets half of them be forgotten: an item's appeal changes.
_MOST_SHOWN = 10_000


class Suspect(NamedTuple):
    """An item whose clicks are beyond what is expected of it, and the numbers for it."""

    item_id: str
    evidence: dict[str, Any]


class ItemWatch:
    """E-detectors of (outcome - expectation - baseline), one for each of the items shown last."""

    def __init__(self) -> None:
        self._rows: OrderedDict[str, int] = OrderedDict()
        self.n_shown = np.zeros(MAX_WATCHED, np.int64)
        self.surplus = np.zeros(MAX_WATCHED)
        self.baseline = np.zeros(MAX_WATCHED)
        self.m = np.zeros((MAX_WATCHED, N_DETECTOR_BETS))

    def __len__(self) -> int:
        return len(self._rows)

    def update(
        self,
        items: list[str],
        expected: F64,
        clicked: F64,
        *,
        armed: int,
        margin: float,
        threshold: float,
    ) -> Suspect | None:
        """Take the outcomes of a slate; return the item that is the worst past the threshold."""
        rows = np.array([self._row(item) for item in items], np.int32)
        statistics = np.zeros(len(rows))
        kernels.watch_outcomes(
            rows,
            expected,
            clicked,
            self.n_shown,
            self.surplus,
            self.baseline,
            self.m,
            armed,
            margin,
            statistics,
        )
        worst = int(statistics.argmax())
        if statistics[worst] < threshold:
            return None
        return Suspect(items[worst], self._evidence(rows[worst], statistics[worst], threshold))

    def _row(self, item: str) -> int:
        row = self._rows.get(item)
        if row is not None:
            self._rows.move_to_end(item)
            return row
        row = len(self._rows)
        if row >= MAX_WATCHED:
            _, row = self._rows.popitem(last=False)
        self._rows[item] = row
        self._clear(row)
        return row

    def _clear(self, row: int | slice) -> None:
        for array in (self.n_shown, self.surplus, self.baseline, self.m):
            array[row] = 0

    def _evidence(self, row: int, statistic: float, threshold: float) -> dict[str, Any]:
        n = int(self.n_shown[row])
        return {
            "statistic": float(statistic),
            "threshold": threshold,
            "shown": n,
            "mean_clicked_minus_expected": float(self.surplus[row]) / n,
            "baseline": float(self.baseline[row]),
        }

    def forget(self, item: str) -> None:
        """Begin anew with one item."""
        row = self._rows.get(item)
        if row is not None:
            self._clear(row)

    def learn_anew(self) -> None:
        """Begin anew with every item: what each was clicked so far says nothing any more."""
        self._clear(slice(None))

    def quiet(self) -> None:
        """Let every detector start anew; what is known of the items stays."""
        self.m[:] = 0.0

    def bless(self, armed: int) -> None:
        """Take what each item was clicked so far as what is to be expected of it."""
        n = len(self._rows)
        kernels.baselines(self.n_shown[:n], self.surplus[:n], self.baseline[:n], armed, _MOST_SHOWN)

    _ARRAYS = ("n_shown", "surplus", "baseline", "m")

    def state(self) -> State:
        """Return what `load_state` continues from: rows in the order of their last showing."""
        rows = np.fromiter(self._rows.values(), np.int64, len(self._rows))
        arrays = {name: getattr(self, name)[rows] for name in self._ARRAYS}
        return {"items": list(self._rows), **arrays}

    def load_state(self, state: State) -> None:
        """Become the watch that `state` was taken from; raise ValueError if it is damaged."""
        n = len(state["items"])
        arrays = {name: np.asarray(state[name]) for name in self._ARRAYS}
        shapes = {name: (n, *getattr(self, name).shape[1:]) for name in self._ARRAYS}
        if n > MAX_WATCHED or any(array.shape != shapes[name] for name, array in arrays.items()):
            raise ValueError("the watch over the items is damaged: its lengths differ")
        if len(set(state["items"])) != n:
            raise ValueError("the watch over the items is damaged: it names one twice")
        is_sound = all(np.isfinite(array).all() for array in arrays.values())
        if not is_sound or (arrays["m"] < 0).any() or (arrays["n_shown"] < 0).any():
            raise ValueError("the watch over the items is damaged")
        self.__init__()  # type: ignore[misc]
        self._rows = OrderedDict((str(item), row) for row, item in enumerate(state["items"]))
        for name, array in arrays.items():
            getattr(self, name)[:n] = array
