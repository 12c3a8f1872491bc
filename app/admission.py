"""May this event teach? Decides per event, in a fixed order, and remembers what it admitted.

Order: schema, duplicate, token, future, late, caps, id share. A duplicate is one even when it is
late by now. An event that an operator released from quarantine passes all but the first two.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import accumulate
from typing import Literal, NamedTuple

import numpy as np

from app.caps import Cap, Caps, counted_by
from app.events import VALID, Event, Feedback, Malformed, digest_of, user_digests
from app.id_share import IdShare
from app.settings import EngineSettings
from learners.ids import State

Status = Literal["learned", "duplicate", "late", "quarantined"]
_DIGEST_BYTES = 16
_NEVER = 2**62

# What is wrong with an event's recommendation id, by the verdict on it (see `tokens`).
TOKEN_FLAWS = {
    "malformed": "its recommendation_id is none of this service",
    "signature": "its recommendation_id is not signed with a key of this service",
    "expired": "its recommendation_id is too old, or from the future",
    "user": "its recommendation_id was made for another user",
    "item": "its recommendation_id is of a slate without this item",
}


GROWTH, REPEAT, FROZEN = "growth", "repeat", "frozen"


class Verdict(NamedTuple):
    """What became of an event; `time_ms` and `reward` count only where it was learned.

    Learned with a reason (GROWTH, REPEAT, FROZEN), it counts for its user alone.
    """

    status: Status
    reason: str | None = None
    message: str | None = None
    time_ms: int = 0
    reward: float = 0.0


class Run:
    """Events in a row that are admitted, by columns.

    `keys` are what they are known by, `watermarks_ms` as of after each, `caps` what they count for,
    `judged` and `paced` tell which are judged, and which count for promotions.
    """

    __slots__ = (
        *("events", "user_ids", "item_ids", "user_keys", "keys", "rewards", "times_ms"),
        *("watermarks_ms", "judged", "paced", "caps"),
    )

    def __init__(
        self,
        events: Sequence[Feedback],
        keys: list[bytes],
        rewards: list[float],
        times_ms: list[int],
        watermarks_ms: list[int],
    ) -> None:
        self.events = list(events)
        self.user_ids = [event.user_id for event in events]
        self.item_ids = [event.item_id for event in events]
        self.user_keys = user_digests(self.user_ids)
        self.keys, self.rewards = keys, rewards
        self.times_ms, self.watermarks_ms = times_ms, watermarks_ms
        self.judged: list[bool] = []
        self.paced: list[bool] = []
        self.caps: Sequence[Cap] = ()

    @property
    def n(self) -> int:
        """Return how many events there are."""
        return len(self.events)

    def cut(self, n: int) -> None:
        """Let only the first n remain."""
        if n < len(self.events):
            for name in self.__slots__[:-1]:
                del getattr(self, name)[n:]
            for cap in self.caps:
                del cap.keys[n:]


class RewardError(ValueError):
    """An event's type or value cannot be turned into a reward."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Admission:
    """The idempotency window, the watermark, caps, and counters of what was refused and why."""

    def __init__(self, settings: EngineSettings) -> None:
        self.settings = settings
        self.watermark_ms = 0
        self.counts: dict[str, int] = {}
        self._caps = Caps()
        self.shares = IdShare()
        self._ids: set[bytes] = set()
        self._order: deque[bytes] = deque()
        # Of the event in hand: what it is known by (a digest, the same everywhere), and which caps
        # it counts for.
        self.key = b""
        self._counted_by: list[Cap] = []
        self._user_keys: list[bytes] = []

    def decide(
        self, event: Event, arrival_ms: int | None, *, barred: tuple[str, str] | None = None
    ) -> Verdict:
        """Judge one event, and remember it if it is admitted.

        `barred` is a reason and a message where its item may not be taught, whatever it says.
        """
        if isinstance(event, Malformed):
            return Verdict("quarantined", event.reason, event.message)
        verdict = self._decide(event, arrival_ms)
        if verdict.status == "learned":
            if barred is None:
                self.watermark_ms = max(self.watermark_ms, verdict.time_ms)
                self._count(self._counted_by, self._user_keys)
                self._remember([self.key])
            else:
                verdict = Verdict("quarantined", *barred)
        return verdict

    def plain(
        self,
        events: Sequence[Feedback],
        arrivals_ms: Sequence[int | None],
        ends_ms: int,
        until_ms: int,
    ) -> Run:
        """Return those at the beginning of some events that `decide` would surely admit.

        Up to one of `ends_ms` or later, or the one by which the watermark is at `until_ms`. Nothing
        is remembered of them: see `admit`.
        """
        settings, newest_ms, ids = self.settings, self.watermark_ms, self._ids
        late_ms, ahead_ms = settings.lateness_s * 1_000, settings.future_s * 1_000
        ends_ms = min(ends_ms, self._caps.ends_ms(newest_ms, settings))
        checks_tokens = settings.tokens != "off"
        keys = [digest_of(event.event_id) for event in events]
        times_ms = [
            event.time_ms if event.time_ms is not None else _NEVER if arrived is None else arrived
            for event, arrived in zip(events, arrivals_ms)
        ]
        watermarks_ms = list(accumulate(times_ms, max, initial=newest_ms))
        rewards = _rewards_of(events, settings)
        odd = [
            event.released
            or key in ids
            or before_ms >= until_ms
            or not before_ms - late_ms <= time_ms < ends_ms
            or (arrived is not None and time_ms > arrived + ahead_ms)
            or (checks_tokens and flaw_of_token(event, settings) is not None)
            for event, key, arrived, time_ms, before_ms, _ in zip(
                events, keys, arrivals_ms, times_ms, watermarks_ms, rewards
            )
        ]
        n = min(odd.index(True) if True in odd else len(odd), _n_different(keys))
        run = Run(events[:n], keys[:n], rewards[:n], times_ms[:n], watermarks_ms[1 : n + 1])
        if n:
            run.caps = counted_by(run.events, run.user_keys, settings)
            n = self.shares.n_passing(run.user_ids, run.user_keys, settings.id_share)
            run.cut(self._caps.n_passing(run.caps, n))
        return run

    def admit(self, run: Run) -> None:
        """Remember events that are admitted."""
        self.key, self.watermark_ms = run.keys[-1], run.watermarks_ms[-1]
        self._count(run.caps, run.user_keys)
        self._remember(run.keys)

    def count(self, status: Status, reason: str | None, n: int = 1) -> None:
        """Count what became of n events, by status and reason."""
        label = status if reason is None else f"{status}:{reason}"
        self.counts[label] = self.counts.get(label, 0) + n

    def _decide(  # noqa: PLR0911  one return for each verdict
        self, event: Feedback, arrival_ms: int | None
    ) -> Verdict:
        settings = self.settings
        try:
            reward = reward_of(event, settings)
        except RewardError as error:
            return Verdict("quarantined", error.reason, str(error))
        self.key = digest_of(event.event_id)
        if self.key in self._ids:
            return Verdict("duplicate")
        self._user_keys = user_digests([event.user_id])
        self._counted_by = counted_by([event], self._user_keys, settings)
        if event.released:
            return self._accepted(event, arrival_ms, reward)
        flaw = None if settings.tokens == "off" else flaw_of_token(event, settings)
        if flaw is not None:
            return Verdict("quarantined", "token", flaw)
        time_ms = event.time_ms if event.time_ms is not None else arrival_ms
        if time_ms is None:
            return Verdict("quarantined", "schema", "no timestamp, and no arrival time either")
        ahead_s = settings.future_s
        if arrival_ms is not None and time_ms > arrival_ms + ahead_s * 1_000:
            return Verdict("quarantined", "future", f"over {ahead_s} s ahead of its arrival")
        newest_ms = self.watermark_ms
        if time_ms < newest_ms - settings.lateness_s * 1_000:
            behind_s = (newest_ms - time_ms) // 1_000
            return Verdict("late", "late", f"{behind_s} s behind the newest event")
        cap = self._caps.refuse(self._counted_by, max(time_ms, newest_ms), settings)
        if cap is not None:
            window_s, most = settings.cap_window_s, getattr(settings, cap)
            return Verdict("quarantined", cap, f"over {most} events in {window_s} s")
        swallows = self.shares.refuse(event.user_id, settings.id_share)
        if swallows is not None:
            self.shares.count(self._user_keys, is_refused=True)
            return Verdict("quarantined", "id_share", swallows)
        return Verdict("learned", None, None, time_ms, reward)

    def _accepted(self, event: Feedback, arrival_ms: int | None, reward: float) -> Verdict:
        """Accept a released event; one of another time is as of the nearest that is accepted."""
        newest_ms = self.watermark_ms if arrival_ms is None else arrival_ms
        time_ms = newest_ms if event.time_ms is None else min(event.time_ms, newest_ms)
        oldest_ms = self.watermark_ms - self.settings.lateness_s * 1_000
        return Verdict("learned", time_ms=max(time_ms, oldest_ms), reward=reward)

    def _count(self, caps: Sequence[Cap], user_keys: Sequence[bytes]) -> None:
        self._caps.count(caps, self.watermark_ms, self.settings)
        self.shares.count(user_keys)

    def _remember(self, keys: Sequence[bytes]) -> None:
        ids, order = self._ids, self._order
        ids.update(keys)
        order.extend(keys)
        while len(order) > self.settings.dedupe_window:
            ids.discard(order.popleft())

    def window(self) -> bytes:
        """Return the remembered ids (128 bits each), oldest first."""
        return b"".join(self._order)

    def canonical(self) -> bytes:
        """Return the window, and what caps and shares have counted: what is hashed."""
        return self.window() + self._caps.canonical() + self.shares.canonical()

    def state(self) -> State:
        """Return what `load_state` continues from."""
        ids = np.frombuffer(self.window(), np.uint8)
        return {
            "ids": ids,
            "watermark_ms": self.watermark_ms,
            "counts": dict(self.counts),
            "caps": self._caps.state(),
            "shares": self.shares.state(),
        }

    def load_state(self, state: State) -> None:
        """Become the admission that `state` was taken from."""
        self.watermark_ms = int(state["watermark_ms"])
        self.counts = {str(label): int(count) for label, count in state["counts"].items()}
        packed = np.asarray(state["ids"], np.uint8).tobytes()
        starts = range(0, len(packed), _DIGEST_BYTES)
        self._order = deque(packed[start : start + _DIGEST_BYTES] for start in starts)
        self._ids = set(self._order)
        self._caps.load_state(state["caps"])
        self.shares.load_state(state["shares"])


def _rewards_of(events: Sequence[Feedback], settings: EngineSettings) -> list[float]:
    """Return the rewards of events, up to one that has none."""
    rewards: list[float] = []
    try:
        for event in events:
            rewards.append(reward_of(event, settings))  # noqa: PERF401  those before an error count
    except RewardError:
        pass
    return rewards


def _n_different(keys: Sequence[bytes]) -> int:
    """Return how many come before one that was there already."""
    if len(set(keys)) == len(keys):
        return len(keys)
    return next(n for n, key in enumerate(keys) if key in keys[:n])


def flaw_of_token(event: Feedback, settings: EngineSettings) -> str | None:
    """Return why an event may not teach by its recommendation id, or the lack of one; else None."""
    if settings.tokens == "off" or event.released or event.token == VALID:
        return None
    if event.token is not None:
        return TOKEN_FLAWS.get(event.token, f"its recommendation_id is judged {event.token!r}")
    if event.recommendation_id is not None:
        return "its recommendation_id was not verified by the process that took it"
    return None if settings.tokens == "check" else "it has no recommendation_id"


def reward_of(event: Feedback, settings: EngineSettings) -> float:
    """Return the reward in -1..1 that an event teaches; raise RewardError if it has none.

    A rating from `rating_positive` on is worth the whole reward; below it falls to minus that at
    the bottom of the scale.
    """
    reward = settings.rewards.get(event.type)
    if reward is None:
        known = ", ".join(settings.rewards)
        raise RewardError("unknown_type", f"type {event.type!r} is none of: {known}")
    if event.type != "rating":
        return reward
    low, high = settings.rating_scale
    if event.value is None or not low <= event.value <= high:
        raise RewardError("reward", f"a rating needs a value of {low:g} to {high:g}")
    if event.value >= settings.rating_positive:
        return reward
    return -reward * (settings.rating_positive - event.value) / (settings.rating_positive - low)
