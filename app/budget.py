"""How much of a core learning may use: how long it rests between two slices.

What is received and written to the log is paid first, as it is never delayed: reading the log and
applying it gets what is left, but never less than a fourth, or it might stand still for ever.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from app.cost import Meter

BURST_S = 1.0
"""What was not used in the last second may be used at once."""

LEAST_LEFT = 0.25
# Timers are as exact as a millisecond: a debt that is smaller is paid with the next one.
_LEAST_REST_S, _MOST_REST_S = 0.001, 0.1
# Who has rested is taken to be delayed, until it has gone on for so long without.
_LATELY_S = 1.0


class Budget:
    """Seconds of CPU that learning may use, and has used. `share` is of one core; None: no limit.

    `begin` starts the account: what was used before, such as catching up at a start, is not in it.
    """

    def __init__(
        self,
        share: float | None,
        meter: Meter,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.share = share
        self.rested_s = 0.0
        self._meter = meter
        self._monotonic = monotonic
        self._left_s = 0.0
        self._went_on_s = _LATELY_S
        self._marks = (0.0, 0.0, 0.0)

    def begin(self) -> None:
        """Start the account, with nothing used and nothing saved."""
        self._left_s = 0.0
        self._marks = self._now()

    def lift(self) -> None:
        """Let learning have all that it needs from here on."""
        self.share = None

    @property
    def is_delaying(self) -> bool:
        """Tell whether learning had to rest in the last second in which it could go on.

        While it stands still for another reason, such as a snapshot, it is as late as before.
        """
        return self.share is not None and self._went_on_s < _LATELY_S

    def rest_s(self) -> float:
        """Return for how long learning has to rest now; to be asked again after that."""
        if self.share is None:
            return 0.0
        now = self._now()
        passed, learned, received = (b - a for a, b in zip(self._marks, now))
        self._marks = now
        earned = max(self.share * passed - received, LEAST_LEFT * self.share * passed)
        self._left_s = min(self._left_s + earned - learned, self.share * BURST_S)
        if -self._left_s < self.share * _LEAST_REST_S:
            self._went_on_s += min(passed, _MOST_REST_S)
            return 0.0
        rest_s = min(-self._left_s / self.share, _MOST_REST_S)
        self.rested_s += rest_s
        self._went_on_s = 0.0
        return rest_s

    def _now(self) -> tuple[float, float, float]:
        return self._monotonic(), self._meter.learning_s(), self._meter.receiving_s()
