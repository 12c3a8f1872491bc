"""Prequential quality: how the versions ranked each event before anyone learned from it.

Ranks come doubled (ties count half), so that they are whole numbers; MISS is no rank at all.
"""

from __future__ import annotations

import math
from decimal import Context, Decimal
from typing import Any

import numpy as np

from learners.ids import State
from learners.kernels import MISS

DEEPEST = 100
"""Rank past which a loss is 1."""

_RECENT = 1_000
_DECIMALS = Context(prec=30)


def _discount(doubled: int) -> float:
    rank = Decimal(doubled) / 2 + 2
    return float(_DECIMALS.ln(Decimal(2)) / _DECIMALS.ln(rank))


# 1 / log2(rank + 2), made with software decimals: libm's log2 differs between processors.
DISCOUNTS = tuple(_discount(doubled) for doubled in range(2 * DEEPEST + 1))


def loss_of(doubled_rank: int) -> float:
    """Return 1 - 1/log2(rank + 2), or 1 beyond rank 100."""
    if doubled_rank == MISS or doubled_rank > 2 * DEEPEST:
        return 1.0
    return 1.0 - DISCOUNTS[doubled_rank]


class Prequential:
    """Sums of HR@10, HR@20, MRR@20 and DCG@20 over all judged events, and the last 1,000 of them.

    The mean reward counts what an event was worth where its item was in the version's first ten.
    """

    def __init__(self) -> None:
        self.n = 0
        self.hits_10 = 0
        self.hits_20 = 0
        self.mrr = 0.0
        self.dcg = 0.0
        self.reward = 0.0
        self.recent = np.full(_RECENT, MISS, np.int64)
        self.recent_reward = np.zeros(_RECENT)

    def add(self, doubled_rank: int, reward: float) -> None:
        """Take the rank of one judged event, and what it was worth."""
        place = self.n % _RECENT
        self.recent[place] = doubled_rank
        self.recent_reward[place] = reward
        self.n += 1
        if doubled_rank != MISS and doubled_rank < 40:
            if doubled_rank < 20:
                self.hits_10 += 1
                self.reward += reward
            self.hits_20 += 1
            self.mrr += 2.0 / (doubled_rank + 2.0)
            self.dcg += DISCOUNTS[doubled_rank]

    def view(self) -> dict[str, Any]:
        """Return the means over all judged events, and over the last 1,000."""
        return self._means() | {"recent": self._recent_view()}

    def _means(self) -> dict[str, Any]:
        n = max(self.n, 1)
        return {
            "judged": self.n,
            "hr_10": self.hits_10 / n,
            "hr_20": self.hits_20 / n,
            "mrr_20": self.mrr / n,
            "dcg_20": self.dcg / n,
            "reward_10": self.reward / n,
        }

    def _recent_view(self) -> dict[str, Any]:
        n = min(self.n, _RECENT)
        last, ranks = Prequential(), self.recent[:n]
        listed = ranks[(ranks != MISS) & (ranks < 40)]
        for doubled_rank, count in enumerate(np.bincount(listed, minlength=40).tolist()):
            last.hits_10 += count if doubled_rank < 20 else 0
            last.hits_20 += count
            last.mrr += count * 2.0 / (doubled_rank + 2.0)
            last.dcg += count * DISCOUNTS[doubled_rank]
        in_top10 = (ranks != MISS) & (ranks < 20)
        last.n, last.reward = n, math.fsum(self.recent_reward[:n][in_top10].tolist())
        return last._means()

    def state(self) -> State:
        """Return what `load_state` continues from."""
        n = min(self.n, _RECENT)
        return {
            "sums": [self.n, self.hits_10, self.hits_20, self.mrr, self.dcg, self.reward],
            "recent": self.recent[:n].copy(),
            "recent_reward": self.recent_reward[:n].copy(),
        }

    def load_state(self, state: State) -> None:
        """Become the sums that `state` was taken from."""
        n, hits_10, hits_20, mrr, dcg, reward = state["sums"]
        self.n, self.hits_10, self.hits_20 = int(n), int(hits_10), int(hits_20)
        self.mrr, self.dcg, self.reward = float(mrr), float(dcg), float(reward)
        self.recent[: len(state["recent"])] = state["recent"]
        self.recent_reward[: len(state["recent_reward"])] = state["recent_reward"]
