"""The gate's statistics: a harm detector (e-detector) and River's ADWIN, kept without pickle."""

from __future__ import annotations

import math

import numpy as np
from river.drift import ADWIN

from learners.ids import State

_K = 10
_LAMBDAS = tuple(2.0**-k for k in range(1, _K + 1))

ADWIN_LIFE = 20_000
"""Updates after which ADWIN is made anew, so that a snapshot can keep all values it has seen."""


class HarmDetector:
    r"""Shiryaev-Roberts e-detector for a mean difference of losses above a margin.

    $M_k \leftarrow (M_k + 1/K)(1 + \lambda_k x)$ with $x = (D - m)/(1 + m)$ and
    $\lambda_k = 2^{-k}$; an alarm is due when $\sum_k M_k \ge A$. The mean time between false
    alarms is then at least $A$ events, whatever the dependence (Shin, Ramdas, Rinaldo 2022).
    """

    def __init__(self) -> None:
        self._m = [0.0] * _K

    @property
    def statistic(self) -> float:
        """Return the sum of the M_k."""
        total = 0.0
        for m in self._m:
            total += m
        return total

    def update(self, difference: float, margin: float) -> None:
        """Take one difference of losses, in [-1, 1]."""
        x = (difference - margin) / (1.0 + margin)
        for k, weight in enumerate(_LAMBDAS):
            self._m[k] = (self._m[k] + 1.0 / _K) * (1.0 + weight * x)

    def state(self) -> list[float]:
        """Return the M_k."""
        return list(self._m)

    def load_state(self, state: list[float]) -> None:
        """Take over M_k; raise ValueError if they could not have come from here."""
        values = [float(value) for value in state]
        if len(values) != _K or not all(math.isfinite(v) and v >= 0 for v in values):
            raise ValueError("a harm detector's state is damaged")
        self._m = values


class LossDrift:
    """River's ADWIN on a loss in [0, 1], made anew after 20,000 updates.

    River offers no way to store ADWIN but pickle; so the values since it was made are kept, and
    fed again on restore, which gives the same detector exactly.
    """

    def __init__(self, delta: float) -> None:
        self.delta = delta
        self._values: list[float] = []
        self._adwin = ADWIN(delta=delta)

    @property
    def mean(self) -> float:
        """Return the mean loss over ADWIN's present window."""
        return float(self._adwin.estimation)

    def update(self, value: float) -> tuple[float, float] | None:
        """Take one loss; return (mean before, mean after) where a change is detected."""
        if len(self._values) >= ADWIN_LIFE:
            self._values = []
            self._adwin = ADWIN(delta=self.delta)
        before = self.mean
        self._values.append(value)
        self._adwin.update(value)
        return (before, self.mean) if self._adwin.drift_detected else None

    def state(self) -> State:
        """Return the values since the detector was made."""
        return {"delta": self.delta, "values": np.array(self._values, np.float64)}

    def load_state(self, state: State) -> None:
        """Feed the values again; raise ValueError on values that are no losses."""
        values = np.asarray(state["values"], np.float64)
        if len(values) > ADWIN_LIFE or not np.all((values >= 0) & (values <= 1)):
            raise ValueError("a drift detector's state is damaged")
        self.__init__(float(state["delta"]))  # type: ignore[misc]
        for value in values.tolist():
            self.update(value)
