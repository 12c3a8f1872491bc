"""What time it is: the shell asks a Clock, so that a simulation can bring its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clock:
    """Seconds: `monotonic` to measure with, `wall` since 1970, to compare with the log's cursors.

    Timers are the event loop's; its own clock may stand still within one turn, this one does not.
    """

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
