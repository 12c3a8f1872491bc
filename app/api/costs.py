"""What the service costs: CPU by stage and for what was done with it, memory by part, money a day.

Keeps counts of the last five minutes, ten seconds apart. Reads what others have measured, and
changes nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from app.api.metrics import Metrics
from app.cost import STAGES
from app.ingest import Ingest
from app.memory import Part, Survey, resident_bytes

WINDOW_S, POINT_S = 300.0, 10.0
MEMORY_S = 60.0
"""How often memory is surveyed: it takes some 5 ms, most of it in a thread of its own."""

HOURS_A_DAY = 24
_LISTS = "GET /v1/recommendations/{user_id}", "POST /v1/recommendations"
# What a stage's CPU is divided by; what is in none of them is there for all.
_UNITS = {
    "reads": "requests",
    "receiving": "received",
    "appending": "received",
    "judging": "applied",
    "learning": "applied",
    "snapshots": "applied",
}


# What the budget of learning pays for.
_PAID = "receiving", "appending", "judging", "learning"


class _Counts(NamedTuple):
    """What only goes up, at one moment: CPU seconds by stage, and what was done by unit."""

    at: float
    cpu_s: dict[str, float]
    done: dict[str, int]


class Costs:
    """Knows what this process costs, now and on average since its start."""

    def __init__(
        self, ingest: Ingest, metrics: Metrics, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._ingest = ingest
        self._metrics = metrics
        self._monotonic = monotonic
        self._price = ingest.settings.core_hour_price
        self._points = deque([self._count()], maxlen=round(WINDOW_S / POINT_S))
        self.memory: dict[str, Part] = Survey(ingest.engine).count()

    async def run(self) -> None:
        """Keep a point every ten seconds, and survey memory every minute, until cancelled."""
        surveyed = self._monotonic()
        while True:
            await asyncio.sleep(POINT_S)
            self.keep()
            if self._monotonic() - surveyed >= MEMORY_S:
                surveyed = self._monotonic()
                self.memory = await asyncio.to_thread(Survey(self._ingest.engine).count)

    def keep(self) -> None:
        """Keep a point: what is there now is what later figures are compared with."""
        self._points.append(self._count())

    def _count(self) -> _Counts:
        meter, times = self._ingest.meter, map(self._metrics.times, _LISTS)
        done = {
            "requests": sum(sum(each.statuses.values()) for each in times),
            "received": meter.n_received,
            "applied": meter.n_applied,
        }
        return _Counts(self._monotonic(), meter.seconds(), done)

    def view(self) -> dict[str, Any]:
        """Return all of it: CPU of late in cores, and CPU seconds for 1,000 events or requests."""
        then, now = self._points[0], self._count()
        spent = {stage: now.cpu_s[stage] - then.cpu_s[stage] for stage in STAGES}
        window_s = max(now.at - then.at, 1e-3)
        cores = sum(spent.values()) / window_s
        return {
            "window_s": window_s,
            "cpu": cores,
            "core_hour_price": self._price,
            "per_day": cores * HOURS_A_DAY * self._price,
            "stages": {
                stage: {
                    "cpu_s": now.cpu_s[stage],
                    "cpu": spent[stage] / window_s,
                    "unit": None if stage not in _UNITS else _named(_UNITS[stage]),
                    "per_1000": _per_1000(stage, spent, now.done, then.done),
                    "per_1000_since_start": _per_1000(stage, now.cpu_s, now.done, {}),
                }
                for stage in STAGES
            },
            "budget": self._budget(spent, window_s),
            "memory": {
                "process_bytes": resident_bytes(),
                "parts": {name: part._asdict() for name, part in self.memory.items()},
            },
        }

    def _budget(self, spent: dict[str, float], window_s: float) -> dict[str, Any]:
        """Return what learning may use and has used of late, and what is done to keep to it."""
        ingest = self._ingest
        return {
            "learning": ingest.settings.budget_learning,
            "used": sum(spent[stage] for stage in _PAID) / window_s,
            "is_delaying": ingest.is_delayed,
            "rested_s": ingest.budget.rested_s,
            "lag_s": ingest.lag_s,
            "thinned": ingest.engine.thinned[0],
            "judge_share": ingest.engine.judge_share,
        }


def _named(unit: str) -> str:
    return unit if unit == "requests" else "events"


def _per_1000(
    stage: str, cpu_s: dict[str, float], now: dict[str, int], then: dict[str, int]
) -> float | None:
    """Return a stage's CPU seconds for 1,000 of what it does; None where it has done nothing."""
    unit = _UNITS.get(stage)
    n = 0 if unit is None else now[unit] - then.get(unit, 0)
    return cpu_s[stage] / n * 1_000 if n else None
