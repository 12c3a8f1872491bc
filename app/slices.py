"""Events that one kernel judges and learns: what it needs to know of them, and what it finds out.

What is called again and again for single events costs more than the work: Python's steps, each
call, and what these drive out of the processor's caches.
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct
from typing import Any, NamedTuple

import numpy as np

from app.admission import Run
from app.detectors import EDetector
from app.events import Feedback
from app.gate_data import Losses, Quiet
from app.growth import Growth
from app.judge import DISCOUNTS_TABLE, Prequential
from app.recommend import Recommender
from app.window import Window
from learners import kernels
from learners.base import SHADOW
from learners.blend import MOST
from learners.history import History, Profile
from learners.kernels import (
    ANSWERS,
    I64,
    IS_ANSWER,
    IS_COMPARED,
    IS_IN_TOP,
    IS_JUDGED,
    IS_LIMITED,
    IS_NEW_ITEM,
    REWARD,
)

SIZE = 64
"""Events that are learned together at most where requests wait for it: half a millisecond if all of
them were judged (so there are fewer), one where many thousands come in a second, two with long
histories.
"""
TURN = Quiet(events=SIZE, judged=16)
WHOLE = Quiet(events=256, judged=64)
"""The same where nobody waits: the more, the less each takes."""

# An event as a row of numbers, in the order of `kernels.USER` and those that follow it.
_ROW = Struct(f"<{REWARD}qd")
_ALONE: I64 = np.array([SHADOW])
_NOTHING = np.zeros(0, np.int32)


class Stride:
    """How many events are looked at together, by how it went so far: what had to be left is looked
    at again. It changes nothing but how long that takes.

    As many again where all went well; where none did, none at all for the next few.
    """

    def __init__(self) -> None:
        self._size = WHOLE.events
        self._n_failed = 0
        self._rest = 0

    @property
    def is_resting(self) -> bool:
        """Tell whether `next` would say that none is to be looked at."""
        return self._rest > 0

    def next(self, most: int) -> int:
        """Return how many to look at, of so many at most."""
        if self._rest:
            self._rest -= 1
            return 0
        return min(self._size, most)

    def note(self, n: int, n_joined: int, *, is_over: bool = False) -> None:
        """Take note of how many of n have been joined; `is_over` where there may be no more.

        Else what comes next is odd, and to be taken by itself.
        """
        if n_joined < min(n, 2) and not is_over:  # that costs more than to take them by themselves
            self._n_failed += 1
            self._rest = min(2**self._n_failed, SIZE) - 1
            if self._n_failed > 1:  # else it was but the event behind those that went well
                self._size = max(self._size // 2, 2)
            return
        self._n_failed = 0
        if n_joined < n:
            self._size, self._rest = max(2 * n_joined, 2), int(not is_over)
        elif n >= self._size:
            self._size = min(2 * self._size, WHOLE.events)


class Teaching(NamedTuple):
    """How a slice is learned: by which versions it is ranked, and what is compared.

    `asks` where the detector of ASK listens, too, also to answers if it `asks_answers`.
    """

    versions: I64
    is_compared: bool
    asks: bool
    asks_answers: bool
    harm: EDetector
    outside: EDetector
    asked: EDetector
    margin: float
    exclude_had: bool
    teach_repeats: bool
    kindred: Any
    knows_labels: bool


class Slice:
    """Some events in a row. `begin`, `add` them, `learn`; then ask what was found of each."""

    def __init__(
        self,
        history: History,
        window: Window,
        growth: Growth,
        prequential: Mapping[str, Prequential],
    ) -> None:
        self.events: list[Feedback] = []
        # By index whose they are and on what, and what they are worth.
        self.users: list[int] = []
        self.items: list[int] = []
        self.rewards: list[float] = []
        self.n_judged = self.n_paced = 0
        self.limit: str | None = None
        # As of the last one that was added.
        self.watermark_ms = 0
        self._history = history
        self._profile = Profile(history.history_length)
        self._whole = np.zeros((WHOLE.events, REWARD + 1), np.int64)
        self._rows = self._whole.data.cast("B")
        self._losses = np.zeros((WHOLE.events, 3))
        self._found = np.zeros(WHOLE.events, np.uint8)
        users, items = history.users, history.items
        self._books = kernels.new_books(
            *users.index.neighbours,
            users.touched,
            users.generation,
            history.user_since,
            *items.index.neighbours,
            items.touched,
            window.kept,
            growth.taught,
            *(prequential[name].figures for name in ("champion", "shadow", "anchor")),
            DISCOUNTS_TABLE,
            self._whole,
            self._whole.view(np.float64),
            np.zeros((WHOLE.events, 3), np.int64),
            self._losses,
            self._found,
        )
        self._begin = 0, 0, 0

    def begin(self, number: int, seq: int, tick: int) -> None:
        """Begin with an event: its number, which one the window makes it, and its tick."""
        for column in (self.events, self.users, self.items, self.rewards):
            column.clear()
        self.n_judged = self.n_paced = 0
        self._begin = number, seq, tick

    def is_within(self, quiet: Quiet) -> bool:
        """Tell whether there may be more, as far as it depends on how many there are."""
        n, n_judged, n_paced, _ = quiet
        return len(self.events) < n and self.n_judged < n_judged and self.n_paced < n_paced

    def add(
        self,
        run: Run,
        *,
        users: list[int],
        items: list[int],
        types: list[int],
        befores: list[int],
        known: list[bool],
        limit: str | None = None,
    ) -> None:
        """Add events; `befores` as `Window.follow` says, `known` where their items had been there,
        `limit` is why they may teach nobody.
        """
        self.limit, at = limit, len(self.events) * _ROW.size
        is_limited = (limit is not None) * IS_LIMITED
        hows = [
            is_limited
            | is_judged * IS_JUDGED
            | (not is_known) * IS_NEW_ITEM
            | (event.recommendation_id is not None) * IS_ANSWER
            for event, is_judged, is_known in zip(run.events, run.judged, known)
        ]
        times = run.times_ms, run.watermarks_ms
        for row in zip(users, items, types, *times, hows, befores, run.rewards, strict=True):
            _ROW.pack_into(self._rows, at, *row)
            at += _ROW.size
        self.events += run.events
        self.users += users
        self.items += items
        self.rewards += run.rewards
        self.n_judged += sum(run.judged)
        self.n_paced += sum(run.paced)
        self.watermark_ms = run.watermarks_ms[-1]

    def learn(self, recommender: Recommender, how: Teaching) -> int:
        """Judge and learn all of them, in their order; return how many taught something good."""
        history, profile, n = self._history, self._profile, len(self.events)
        blend, pool = recommender.blend, recommender.pool
        n_learned, n_rooms = kernels.learn_events(
            history.arrays,
            blend.shared,
            pool.buffers,
            how.kindred,
            self._books,
            how.harm.values,
            how.outside.values,
            how.asked.values,
            how.versions,
            _ALONE,
            n,
            *self._begin,
            profile.items,
            profile.weights,
            profile.times,
            profile.refused,
            pool.begin_many(n),
            MOST,
            _NOTHING,
            history.items.n_removed == 0,
            how.exclude_had,
            history.had_length,
            how.teach_repeats,
            how.is_compared,
            how.asks,
            how.asks_answers,
            how.knows_labels,
            how.margin,
        )
        history.n_rooms += n_rooms
        return int(n_learned)

    def found(self) -> list[int]:
        """Return what was found of each event, as bits: IS_REPEAT where it teaches its user alone.

        Then it is as the one before it, and repeats are not taught.
        """
        found: list[int] = self._found[: len(self.events)].tolist()
        return found

    def compared(self, found: list[int]) -> list[Losses]:
        """Return the losses of the events that were compared, given what was found."""
        return [
            Losses(champion, shadow, anchor, bool(bits & IS_IN_TOP), bool(bits & ANSWERS))
            for bits, (champion, shadow, anchor) in zip(found, self._losses[: len(found)].tolist())
            if bits & IS_COMPARED
        ]
