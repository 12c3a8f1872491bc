"""The gate's statistics, twenty lines each: e-detectors, e-processes, and ADWIN.

None knows what it watches. Each keeps its state without pickle, and refuses one that is damaged.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence

import numpy as np

from learners import kernels
from learners.ids import State
from learners.kernels import F64

N_DETECTOR_BETS = 10
BETS = tuple(0.5**k for k in range(1, 13))
BOLD_BETS = (0.95, 0.9, 0.8, 0.65, *BETS)
"""For differences that are mostly far smaller than 1, such as the mean of a slate's clicks."""

ADWIN_LIFE = 20_000
"""Values after which ADWIN is replaced, so that a snapshot can keep all that it has seen."""

_LOOKS_EACH = kernels.ADWIN_LOOKS_EACH
_ADWIN_LEVELS = ADWIN_LIFE.bit_length()

# Far above any threshold; bets that went on winning would end at infinity, which is no number.
_MOST = 1e300


# What asks for more than any E is never proven, and there is no number for it.
_LEAST_ALPHA = 1e-301


def proof_at(alpha: float) -> float:
    """Return the statistic of an e-process that proves something with a chance of error."""
    return 1.0 / max(alpha, _LEAST_ALPHA)


def scaled(difference: float, margin: float) -> float:
    """Return (D - m) / (1 + m), in [-1, 1]; its mean is above 0 where that of D is above m."""
    return (difference - margin) / (1.0 + margin)


class EDetector:
    r"""Shiryaev-Roberts e-detector of a mean that has risen above a margin.

    $M_k \leftarrow (M_k + 1/K)(1 + \lambda_k x)$ with $x = (D - m)/(1 + m)$ and
    $\lambda_k = 2^{-k}$ for $k = 0 \dots K - 1$; an alarm is due when $\sum_k M_k \ge A$. The mean
    time between false alarms is then at least $A$ events, however they are distributed, as long as
    the mean of each, given those before it, is within the margin (Shin, Ramdas, Rinaldo 2022). A
    level that wanders around the margin for hundreds of events at a time is no such stream.
    """

    def __init__(self) -> None:
        # The M_k, and their sum: where it is one kernel that takes several differences.
        self.values: F64 = np.zeros(N_DETECTOR_BETS + 1)
        self._room: F64 = np.zeros(N_DETECTOR_BETS)

    @property
    def statistic(self) -> float:
        """Return the sum of the M_k."""
        return float(self.values[-1])

    def update(self, difference: float, margin: float) -> None:
        """Take one difference, in [-1, 1]."""
        self.values[-1] = kernels.detect(self.values[:-1], difference, margin)

    def n_below(self, threshold: float, margin: float, most: int) -> int:
        """Return how many differences it takes at least until the statistic is at a threshold.

        Or `most`, where it takes more.
        """
        return int(kernels.n_below(self.values, self._room, threshold, margin, most))

    def state(self) -> list[float]:
        """Return the M_k, and the statistic."""
        return [float(value) for value in self.values]

    def load_state(self, state: list[float]) -> None:
        """Take over M_k; raise ValueError if they could not have come from here."""
        self.values[:] = _checked(state, N_DETECTOR_BETS + 1, "an e-detector")


class Superiority:
    r"""Betting e-process for a mean above a margin; it may be looked at after every event.

    $E = \frac1K \sum_k \prod (1 + \lambda_k x)$, with $x$ as in `EDetector` and
    the bets $\lambda_k$: $2^{-k}$ for $k = 1 \dots 12$ (a bet of everything would not survive a
    loss), or bolder ones. Where each mean, given the past, is at most $m$, E ever reaches
    $1/\alpha$ with a chance of at most $\alpha$ (Ville's inequality; Waudby-Smith and Ramdas 2024).
    """

    def __init__(self, bets: tuple[float, ...] = BETS) -> None:
        self.n = 0
        self.total = 0.0
        self.bets = bets
        self._products = [1.0] * len(bets)

    @property
    def statistic(self) -> float:
        """Return E."""
        total = 0.0
        for product in self._products:
            total += product
        return total / len(self.bets)

    @property
    def mean(self) -> float:
        """Return the mean difference so far."""
        return self.total / self.n if self.n else 0.0

    def update(self, difference: float, margin: float) -> None:
        """Take one difference, in [-1, 1]; the margin may be negative."""
        self.n += 1
        self.total += difference
        x = scaled(difference, margin)
        for k, bet in enumerate(self.bets):
            self._products[k] = min(self._products[k] * (1.0 + bet * x), _MOST)

    def is_proven(self, alpha: float) -> bool:
        """Tell whether the mean is shown to be above the margin, and is above 0 so far."""
        return self.statistic >= proof_at(alpha) and self.mean > 0.0

    def evidence(self, alpha: float) -> dict[str, float]:
        """Return the numbers that a verdict can be computed from again."""
        shown = {"n": self.n, "mean": self.mean, "statistic": self.statistic}
        return shown | {"threshold": proof_at(alpha)}

    def state(self) -> State:
        """Return what `load_state` continues from."""
        return {"n": self.n, "total": self.total, "products": list(self._products)}

    def load_state(self, state: State) -> None:
        """Become the process that `state` was taken from; raise ValueError if it is damaged."""
        n, total = int(state["n"]), float(state["total"])
        bets = next((b for b in (BETS, BOLD_BETS) if len(b) == len(state["products"])), None)
        if n < 0 or not abs(total) <= n or bets is None:
            raise ValueError("an e-process's state is damaged")
        self.bets = bets
        self._products = _checked(state["products"], len(bets), "an e-process")
        self.n, self.total = n, total


def _checked(values: list[float], n: int, whose: str) -> list[float]:
    found = [float(value) for value in values]
    if len(found) != n or not all(math.isfinite(v) and v >= 0 for v in found):
        raise ValueError(f"{whose}'s state is damaged")
    return found


class Adwin:
    """ADWIN over values in [0, 1]: the mean of a window that shrinks where it has changed.

    Of two parts of the window, the means must differ by less than a bound of which the chance to be
    passed is `delta`, wherever it is cut; else what is oldest goes. That is looked at with every
    32nd value since it began, or found a change. The window is kept as sums of 1, 2, 4 ... values,
    up to five of each (Bifet and Gavaldà 2007). Its numbers are those of River's ADWIN, to the bit,
    which takes one value at a time.
    """

    def __init__(self, delta: float) -> None:
        self.delta = delta
        shape = _ADWIN_LEVELS, kernels.ADWIN_SUMS + 1
        self._window = np.zeros(len(kernels.ADWIN_FIELDS))
        self._of = np.zeros(shape), np.zeros(shape), np.zeros(_ADWIN_LEVELS, np.int64)

    @property
    def mean(self) -> float:
        """Return the mean of the window."""
        n, total, *_ = self._window.tolist()
        return total / n if n else 0.0

    def take(self, values: F64) -> float | None:
        """Take values; return the mean before the last, if a change is found with that."""
        before = kernels.adwin_take(self._window, *self._of, values, self.delta)
        return None if before < 0.0 else float(before)


class Drift:
    """ADWIN, begun anew after 20,000 values with the last 10,000: a change then is not missed.

    The values since it was made are kept, and taken again on restore, which gives the same detector
    exactly. Until it looks at one, they are only noted, and it takes all of them at once.
    """

    def __init__(self, delta: float) -> None:
        self.delta = delta
        # How often River's ADWIN had failed, where a snapshot says so: this one does not.
        self.n_failures = 0
        self._begin([])

    def _begin(self, values: Iterable[float]) -> None:
        self._values = array("d", values)
        self._n_fed = 0
        self._adwin = Adwin(self.delta)

    @property
    def n_unlooked(self) -> int:
        """Return how many values it can be given before it looks at any: 0 if at the next one."""
        n = len(self._values)
        if n >= ADWIN_LIFE:
            n -= ADWIN_LIFE // 2
        return _LOOKS_EACH - 1 - n % _LOOKS_EACH

    @property
    def mean(self) -> float:
        """Return the mean over ADWIN's present window."""
        self._feed()
        return self._adwin.mean

    def update(self, value: float) -> tuple[float, float] | None:
        """Take one value; return (mean before, mean after) where a change is detected."""
        return self.extend([value])

    def extend(self, values: Sequence[float]) -> tuple[float, float] | None:
        """Take several, of which only the last may be looked at; return as `update` does."""
        if len(self._values) >= ADWIN_LIFE:
            self._begin(self._values[ADWIN_LIFE // 2 :])
        self._values.extend(values)
        return None if len(self._values) % _LOOKS_EACH else self._feed()

    def _feed(self) -> tuple[float, float] | None:
        """Let ADWIN have what it has not seen yet; return what it says to the last value."""
        # Of a copy: an array that somebody looks at cannot grow.
        unfed, self._n_fed = np.frombuffer(self._values[self._n_fed :]), len(self._values)
        before = self._adwin.take(unfed) if len(unfed) else None
        return None if before is None else (before, self._adwin.mean)

    def state(self) -> State:
        """Return the values since the detector was made."""
        return {
            "delta": self.delta,
            "n_failures": self.n_failures,
            "values": np.array(self._values, np.float64),
        }

    def load_state(self, state: State) -> None:
        """Take the values again; raise ValueError on values that are none."""
        values, delta = np.asarray(state["values"], np.float64), float(state["delta"])
        is_list = values.ndim == 1 and len(values) <= ADWIN_LIFE
        if not is_list or not np.all((values >= 0) & (values <= 1)):
            raise ValueError("a drift detector's state is damaged")
        if not 0.0 < delta < 1.0:
            raise ValueError("a drift detector's significance is damaged")
        self.delta, self.n_failures = delta, int(state["n_failures"])
        self._begin(values.tolist())
        self._feed()
