"""When requests came in, and what there is time for.

The event loop reads from all connections that have something, then runs what waits, turn by turn.
What comes in meanwhile lies unread for as long as a turn takes. So a deadline is kept by keeping
turns short: what would make this one too long is answered with less, or not at all.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Literal

Rung = Literal["whole", "trending", "refuse"]
"""What there is time for: the whole list, what is trending, or a 503."""

# Of a deadline: how long the reading of a turn may take, as what comes in meanwhile is read in the
# next one; and when an answer must be on its way.
TURN, SENT = 0.4, 0.8
# How much of a turn may go into whole lists: less after a turn that refused, more after others.
LESS, MORE = 0.7, 0.02
# So many lists of a turn are made in any case: alone, even what is late holds up nobody.
FEW = 2
# Seconds that a whole list takes, before any was measured; and how fast the mean follows.
FIRST_COST_S, FOLLOWS = 0.0002, 1 / 32
# Timers of the event loop are as exact as a millisecond.
RESERVE_S = 0.001


class Arrivals:
    """One for each event loop: protocols tell it what they read, and ask it what there is time for.

    `arrived` is when what was read last came in, `n_waiting` how many requests were read and not
    begun.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.perf_counter,
        cpu_clock: Callable[[], float] = time.thread_time,
    ) -> None:
        self.now = clock
        self._cpu_clock = cpu_clock
        self._cpu = cpu_clock()
        self._turn_began = self.arrived = clock()
        self._is_reading = self._has_refused = False
        self._whole_share, self._n_asked = 1.0, 0
        self.n_waiting = 0
        self.cost_s = FIRST_COST_S

    def read(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take note that something was read, and of when it came, at the earliest.

        It lay unread only while the thread had something else to do since the last reading.
        """
        if self._is_reading:
            return
        now, cpu = self.now(), self._cpu_clock()
        self.arrived = now - min(cpu - self._cpu, now - self._turn_began)
        self._cpu, self._turn_began, self._is_reading = cpu, now, True
        share = self._whole_share
        self._whole_share = share * LESS if self._has_refused else min(1.0, share + MORE)
        self._has_refused, self._n_asked = False, 0
        loop.call_soon(self.end_reading)

    def look(self) -> None:
        """Take note that the loop has just looked for what has come: nothing older lies unread.

        Of a turn in which something was read, `read` knows that already.
        """
        if not self._is_reading:
            self._cpu, self._turn_began = self._cpu_clock(), self.now()

    def end_reading(self) -> None:
        """Take note that all has been read that there was."""
        self._is_reading = False

    def rung(self, deadline_s: float) -> Rung:
        """Return what there is time for, for a request that was read in this turn.

        `deadline_s` counts from its arrival.
        """
        spent = self.now() - self._turn_began
        limit = min(TURN * deadline_s, SENT * deadline_s - (self._turn_began - self.arrived))
        if spent + self.cost_s <= self._whole_share * limit:
            return "whole"
        self._n_asked += 1
        if spent <= limit or self._n_asked <= FEW:
            return "trending"
        self._has_refused = True
        return "refuse"

    def has_time(self, until: float) -> bool:
        """Tell whether there is time for a whole list until a moment."""
        return self.now() + self.cost_s <= until

    def time_to_wait(self, until: float) -> float:
        """Return for how many seconds a handler may wait, so that it answers until a moment."""
        return max(0.0, until - self.now() - self.cost_s - RESERVE_S)

    def note_cost(self, seconds: float) -> None:
        """Take note of what a whole list took; one that was interrupted counts as four at most."""
        self.cost_s += FOLLOWS * (min(seconds, 4 * self.cost_s) - self.cost_s)
