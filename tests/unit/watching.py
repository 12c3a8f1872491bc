"""A watch with what comes in at it, made from a seed, for the tests of the gate's statistics."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import orjson

from app.gate_data import Losses
from app.watch import Alarm, Watch
from tests.factories import START_MS, make_settings

SETTINGS = make_settings(
    harm_alarm=1e5,
    harm_margin=0.005,
    calibration_margin=0.03,
    item_margin=0.1,
    item_armed=100,
    adwin_delta=0.002,
    traffic_delta=1e-4,
)
PLACES = 5


def canonical(state: Any) -> bytes:
    """Return the bytes that are hashed of a state."""
    return orjson.dumps(state, option=orjson.OPT_SORT_KEYS | orjson.OPT_SERIALIZE_NUMPY)


class Traffic:
    """Feeds a watch from a seed; `run` stops at the first alarm, and tells after how much."""

    def __init__(self, watch: Watch | None = None, seed: int = 1) -> None:
        self.watch = watch or Watch(SETTINGS)
        self.chance = random.Random(seed)
        self.n = 0

    def judge(self, champion: float, anchor: float, *, in_top10: float = 0.0) -> Alarm | None:
        """Let a judged event have losses of 0 or 1 with such means."""
        ours, theirs = self.chance.random() < champion, self.chance.random() < anchor
        shown = self.chance.random() < in_top10
        return self.watch.judged(Losses(float(ours), 0.5, float(theirs), shown))

    def slate(self, rate: float, expected: float = 0.2, *, spam: float = 0.0) -> Alarm | None:
        """Let a slate of five of 200 items be clicked at a rate; item 0 on it is spammed."""
        items = self.chance.sample(range(1, 200), PLACES - 1)
        rates = [max(rate, spam)] + [rate] * (PLACES - 1)
        clicked = np.array([float(self.chance.random() < p) for p in rates])
        names = [f"i{item}" for item in [0 if spam else self.chance.randrange(200), *items]]
        return self.watch.slate(names, np.full(PLACES, expected), clicked, 0)

    def admit(self, *, n_items: int = 100, a_second: float = 1.0, known: float = 0.95) -> Any:
        """Let an event be admitted."""
        self.n += 1
        time_ms = START_MS + round(self.n * 1_000 / a_second)
        item, is_known = f"i{self.chance.randrange(n_items)}", self.chance.random() < known
        return self.watch.admitted(item, time_ms, is_known=is_known)

    def run(self, n: int, step: str, *given: Any, **options: Any) -> tuple[int, Alarm] | None:
        """Take n steps, or as many as it takes until an alarm."""
        for count in range(1, n + 1):
            alarm = getattr(self, step)(*given, **options)
            if alarm is not None:
                return count, alarm
        return None
