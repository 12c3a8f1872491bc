"""Prequential quality: how the versions ranked each event before anyone learned from it.

Ranks come doubled (ties count half), so that they are whole numbers; MISS is no rank at all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from decimal import Context, Decimal
from typing import Any

import numpy as np

from learners import kernels
from learners.ids import State
from learners.kernels import F64, MISS, Figures

DEEPEST = 100
"""Rank past which a loss is 1."""

_RECENT = 1_000
_DECIMALS = Context(prec=30)


def _discount(doubled: int) -> float:
    rank = Decimal(doubled) / 2 + 2
    return float(_DECIMALS.ln(Decimal(2)) / _DECIMALS.ln(rank))


# 1 / log2(rank + 2), made with software decimals: libm's log2 differs between processors.
DISCOUNTS = tuple(_discount(doubled) for doubled in range(2 * DEEPEST + 1))
DISCOUNTS_TABLE: F64 = np.array(DISCOUNTS)


def loss_of(doubled_rank: int) -> float:
    """Return 1 - 1/log2(rank + 2), or 1 beyond rank 100."""
    return float(kernels.loss_of(DISCOUNTS_TABLE, doubled_rank))


class Prequential:
    """Sums of HR@10, HR@20, MRR@20 and DCG@20 over all judged events, and the last 1,000 of them.

    The mean reward counts what an event was worth where its item was in the version's first ten.
    """

    def __init__(self) -> None:
        self.figures = Figures(
            np.zeros(3, np.int64),
            np.zeros(3),
            np.full(_RECENT, MISS, np.int64),
            np.zeros(_RECENT),
        )

    @property
    def n(self) -> int:
        """Return the number of judged events."""
        return int(self.figures.counts[0])

    @property
    def hits_20(self) -> int:
        """Return how many of them were in the first twenty."""
        return int(self.figures.counts[2])

    def add(self, doubled_rank: int, reward: float) -> None:
        """Take the rank of one judged event, and what it was worth."""
        kernels.note_rank(self.figures, DISCOUNTS_TABLE, doubled_rank, reward)

    def view(self) -> dict[str, Any]:
        """Return the means over all judged events, and over the last 1,000."""
        return _means(*self._sums()) | {"recent": self._recent_view()}

    def _sums(self) -> tuple[list[int], list[float]]:
        return self.figures.counts.tolist(), self.figures.sums.tolist()

    def _recent_view(self) -> dict[str, Any]:
        n, mrr, dcg = min(self.n, _RECENT), 0.0, 0.0
        ranks, rewards = self.figures.recent[:n], self.figures.recent_reward[:n]
        counts = np.bincount(ranks[(ranks != MISS) & (ranks < 40)], minlength=40).tolist()
        for doubled_rank, count in enumerate(counts):
            mrr += count * 2.0 / (doubled_rank + 2.0)
            dcg += count * DISCOUNTS[doubled_rank]
        reward = math.fsum(rewards[(ranks != MISS) & (ranks < 20)].tolist())
        return _means([n, sum(counts[:20]), sum(counts)], [mrr, dcg, reward])

    def state(self) -> State:
        """Return what `load_state` continues from."""
        counts, sums = self._sums()
        n = min(self.n, _RECENT)
        return {
            "sums": [*counts, *sums],
            "recent": self.figures.recent[:n].copy(),
            "recent_reward": self.figures.recent_reward[:n].copy(),
        }

    def load_state(self, state: State) -> None:
        """Become the sums that `state` was taken from."""
        figures = self.figures
        figures.counts[:], figures.sums[:] = state["sums"][:3], state["sums"][3:]
        figures.recent[: len(state["recent"])] = state["recent"]
        figures.recent_reward[: len(state["recent_reward"])] = state["recent_reward"]


_SECONDS = 64
"""So many are counted at a time: clocks differ, and some events come a little late."""


class Pace:
    """How many events come in a second of event time, and which part of them is judged for that.

    To compare versions takes some thousands of judged events, however many there are: past
    `judge_per_s`, more of them would only cost more.

    An event counts in its own second: that of the watermark lasts as long as one clock is ahead.
    """

    def __init__(self) -> None:
        self._seconds = [0] * _SECONDS
        self._counts = [0] * _SECONDS
        # Of the second of the last event, or of the one before that, if there were more.
        self._n = 0

    def count(
        self, times_ms: Iterable[int], watermarks_ms: Iterable[int], most: int
    ) -> list[float]:
        """Count events, and return the `part` of each; watermarks are as of after it.

        One that is later than by a minute counts as of the watermark.
        """
        seconds, counts, parts = self._seconds, self._counts, []
        for time_ms, watermark_ms in zip(times_ms, watermarks_ms, strict=True):
            second = time_ms // 1_000
            if time_ms < watermark_ms and second <= watermark_ms // 1_000 - _SECONDS:
                second = watermark_ms // 1_000
            place, before = second % _SECONDS, (second - 1) % _SECONDS
            if second != seconds[place]:
                seconds[place], counts[place] = second, 0
            n = counts[place] = counts[place] + 1
            if seconds[before] == second - 1 and counts[before] > n:
                n = counts[before]
            parts.append(most / n if 0 < most < n else 1.0)
            self._n = n
        return parts

    def part(self, most: int) -> float:
        """Return the part to be judged so that it is about `most` a second; 0 is no limit.

        By the second before; in the first second of a burst, by what has come of it so far.
        """
        return most / self._n if 0 < most < self._n else 1.0

    def copy(self) -> Pace:
        """Return another one that goes on from here."""
        copy = Pace()
        copy._seconds, copy._counts, copy._n = self._seconds.copy(), self._counts.copy(), self._n
        return copy

    def state(self) -> list[list[int]]:
        """Return what `load_state` continues from."""
        return [self._seconds.copy(), self._counts.copy(), [self._n]]

    def load_state(self, state: list[list[int]]) -> None:
        """Become what `state` was taken from; raise ValueError if it is damaged."""
        seconds, counts, (n,) = ([int(value) for value in values] for values in state)
        if not len(seconds) == len(counts) == _SECONDS:
            raise ValueError("the pace of events is damaged")
        self._seconds, self._counts, self._n = seconds, counts, n


def _means(counts: list[int], sums: list[float]) -> dict[str, Any]:
    (judged, hits_10, hits_20), (mrr, dcg, reward), n = counts, sums, max(counts[0], 1)
    return {
        "judged": judged,
        "hr_10": hits_10 / n,
        "hr_20": hits_20 / n,
        "mrr_20": mrr / n,
        "dcg_20": dcg / n,
        "reward_10": reward / n,
    }
