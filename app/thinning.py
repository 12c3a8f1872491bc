"""Judges fewer events where learning takes more than its budget, and more again when there is room.

How many are judged decides what the gate and the combiner learn, so it is part of the state: a
replica that wants another part asks for it in the log, and all do it at the same place.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from typing import NamedTuple

from app.errors import SluiceError
from app.events import Thin
from app.ingest import Ingest
from app.store import Cursor, parse_cursor

logger = logging.getLogger(__name__)

LOOK_S = 1.0
AGAIN_S = 10.0
"""Least seconds between two changes, and what learning took is looked at for as long."""

BEHIND_S = 0.5
"""How far behind, by the budget, is too far; below, there may be room."""

ROOM = 0.8
"""What would be used with more judging, as a share of the budget, for more to be judged."""

_LEAST_S = 0.05
# A replica that has said nothing for so long is taken for gone.
_GONE_S = 10


class Sample(NamedTuple):
    """What learning and receiving had taken at a moment, and how far in the log that had come.

    All in seconds; `judging` is the part of `learning` that judges.
    """

    at: float
    log: float
    learning: float
    judging: float
    receiving: float


def needs(first: Sample, last: Sample) -> tuple[float, float]:
    """Return what share of a core is needed to keep up, and how much of that is for judging.

    By CPU for each second of the log, however long it took to apply it.
    """
    log = max(last.log - first.log, _LEAST_S)
    receiving = (last.receiving - first.receiving) / max(last.at - first.at, _LEAST_S)
    judging = (last.judging - first.judging) / log
    return (last.learning - first.learning) / log + receiving, judging


def part_that_fits(
    part: float, need: tuple[float, float], share: float, *, least: float, is_behind: bool
) -> float:
    """Return the part of the events to judge, in place of the one that is judged now.

    Behind: the largest of 1/2, 1/4, ... of it with which learning keeps to its share of a core, or
    the least there may be. Otherwise twice as much, if there is room for it, or what it is. What is
    less than there may be is doubled in any case.
    """
    whole, judging = need
    if part < least:  # from when less was allowed
        return min(1.0, 2 * part)
    if not is_behind:
        more = min(1.0, 2 * part)
        return more if whole + judging * (more / part - 1) <= ROOM * share else part
    found = part
    while found / 2 >= least:
        found /= 2
        if whole - judging * (1 - found / part) <= share:
            break
    return found


class Thinning:
    """Looks at what learning takes once a second, and asks for another part to be judged."""

    def __init__(self, ingest: Ingest, *, again_s: float = AGAIN_S) -> None:
        self._ingest = ingest
        self._again_s = again_s
        self._samples: deque[Sample] = deque()
        self._part = 1.0
        self._changed_s = -again_s
        self._asked: Cursor | None = None
        self._need = (0.0, 0.0)

    async def run(self) -> None:
        """Look once a second until cancelled.

        Also without a budget: whoever wanted less to be judged may be gone for good.
        """
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self.look()
            except SluiceError as error:  # in the log all the same, or not: asked again, if needed
                logger.warning("judging stays as it is for now: %s", error.message)

    async def look(self) -> None:
        """Take a sample, and ask for another part if it is time to."""
        sample, part = self._sample(), self._ingest.engine.thinned[0]
        if part != self._part:  # what was measured before was with another one
            self._part, self._changed_s = part, sample.at
            self._samples.clear()
        self._samples.append(sample)
        while sample.at - self._samples[0].at > self._again_s + LOOK_S:
            self._samples.popleft()
        wanted = self._wanted(sample)
        if wanted > part and not await self._may_restore():
            return
        if wanted != part:
            await self._ask(wanted)

    def _sample(self) -> Sample:
        ingest = self._ingest
        seconds = ingest.meter.seconds()
        judging, receiving = seconds["judging"], seconds["receiving"] + seconds["appending"]
        now, log = time.monotonic(), time.time() - ingest.lag_s
        return Sample(now, log, judging + seconds["learning"], judging, receiving)

    def _wanted(self, now: Sample) -> float:
        ingest, settings, first = self._ingest, self._ingest.settings, self._samples[0]
        # As it is set: that a budget is lifted, to come to an end soon, is no reason for more.
        share, is_seen = settings.budget_learning, now.at - first.at >= self._again_s
        if self._is_asked or now.at - self._changed_s < self._again_s:
            return self._part
        if share is None:
            return 1.0
        is_behind = ingest.lag_s >= BEHIND_S and ingest.budget.is_delaying
        if len(self._samples) < 2 or not (is_behind or (is_seen and ingest.lag_s < BEHIND_S)):
            return self._part
        if is_behind:  # what came of late is what there is too much of
            first = self._samples[-min(3, len(self._samples))]
        self._need = needs(first, now)
        return part_that_fits(
            self._part,
            self._need,
            share,
            least=settings.budget_least_judged,
            is_behind=is_behind,
        )

    @property
    def _is_asked(self) -> bool:
        """Tell whether something was asked for that is not applied here yet."""
        return self._asked is not None and parse_cursor(self._asked) > parse_cursor(
            self._ingest.engine.cursor
        )

    async def _may_restore(self) -> bool:
        """Tell whether more may be judged as far as others go: if it was us who wanted less.

        Or if whoever did is gone.
        """
        replica = self._ingest.engine.thinned[1]
        if replica == self._ingest.origin:
            return True
        announced = await self._ingest.store.list_announced()
        return all(name != replica or age_s > _GONE_S for name, age_s, _ in announced)

    async def _ask(self, part: float) -> None:
        share = self._ingest.settings.budget_learning
        why = "no replica with a budget wants less any more"
        if share is not None:
            why = f"learning needs {self._need[0]:.3f} of a core and may use {share:g}"
        record = Thin(part, self._part, why, self._ingest.origin)
        arrival_ms = time.time_ns() // 1_000_000
        self._changed_s = time.monotonic()
        self._asked = await self._ingest.submit_only([record], arrival_ms=arrival_ms)
