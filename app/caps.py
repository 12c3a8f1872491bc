"""How much one user, one user on one item, or one source on one item may teach in a window.

Floods are cut off, not judged: what is past a cap is quarantined, whatever it says. Counts are of
admitted events, by windows of event time that follow each other; ids are kept as digests alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np

from app.events import Feedback, digest, pair_digests
from app.settings import EngineSettings
from learners.ids import State

MAX_COUNTED = 1_000_000
"""Counters at most; past it a new window begins early, so a flood of new ids costs no memory."""

_DIGEST_BYTES = 16


class Cap(NamedTuple):
    """A cap's name, how many events it lets pass, and what each of some events is counted by.

    That is a digest; None where the cap is not about an event.
    """

    reason: str
    most: int
    keys: list[bytes | None]


class Caps:
    """Counters of the present window. `refuse` and `n_passing` ask, `count` remembers.

    Caps of 0 are off.

    Both go by what events count for (see `counted_by`), in their order.
    """

    def __init__(self) -> None:
        self._window = 0
        self._counts: dict[bytes, int] = {}

    def refuse(self, caps: Sequence[Cap], now_ms: int, settings: EngineSettings) -> str | None:
        """Return the cap that an event is past, or None. `now_ms` never goes back."""
        if _window(now_ms, settings) != self._window:
            return None
        counts = self._counts
        for reason, most, (key,) in caps:
            if key is not None and counts.get(key, 0) >= most:
                return reason
        return None

    def n_passing(self, caps: Sequence[Cap], n: int) -> int:
        """Return how many of n events of this window surely pass, from the first on."""
        counts = self._counts
        if len(counts) + n * len(caps) > MAX_COUNTED:
            return 0
        for _, most, keys in caps:
            if _most_of(keys[:n], counts) <= most:
                continue
            counted: dict[bytes, int] = {}
            for place in range(n):
                key = keys[place]
                if key is None:
                    continue
                count = counted.get(key) or counts.get(key, 0)
                if count >= most:
                    n = place
                    break
                counted[key] = count + 1
        return n

    def ends_ms(self, now_ms: int, settings: EngineSettings) -> int:
        """Return when the window that is counted is over: 0, if it is another one now."""
        is_over = _window(now_ms, settings) != self._window
        return 0 if is_over else (self._window + 1) * settings.cap_window_s * 1_000

    def count(self, caps: Sequence[Cap], now_ms: int, settings: EngineSettings) -> None:
        """Count admitted events of one window."""
        window = _window(now_ms, settings)
        if window != self._window:
            self._window, self._counts = window, {}
        counts = self._counts
        for of_event in zip(*(cap.keys for cap in caps)):
            for key in of_event:
                if key is not None:
                    counts[key] = counts.get(key, 0) + 1
        if len(counts) > MAX_COUNTED:
            self._counts = {}

    def canonical(self) -> bytes:
        """Return the content in an order that does not depend on how it came about."""
        counts = sorted(self._counts.items())
        return b"".join(key + n.to_bytes(8, "little") for key, n in [(b"", self._window), *counts])

    def state(self) -> State:
        """Return what `load_state` continues from."""
        return {
            "window": self._window,
            "keys": np.frombuffer(b"".join(self._counts), np.uint8),
            "counts": np.array(list(self._counts.values()), np.int64),
        }

    def load_state(self, state: State) -> None:
        """Become the counters that `state` was taken from."""
        packed = np.asarray(state["keys"], np.uint8).tobytes()
        starts = range(0, len(packed), _DIGEST_BYTES)
        keys = [packed[start : start + _DIGEST_BYTES] for start in starts]
        counts = np.asarray(state["counts"], np.int64).tolist()
        self._window, self._counts = int(state["window"]), dict(zip(keys, counts, strict=True))


def _window(now_ms: int, settings: EngineSettings) -> int:
    return now_ms // (settings.cap_window_s * 1_000)


def _most_of(keys: Sequence[bytes | None], counts: Mapping[Any, int]) -> int:
    """Return how often at most a key is counted once all of some have been counted, too."""
    n_repeated = len(keys) - len(set(keys))
    return max(map(counts.get, keys, repeat(0)), default=0) + n_repeated + 1


def counted_by(
    events: Sequence[Feedback], user_keys: Sequence[bytes], settings: EngineSettings
) -> list[Cap]:
    """Return which caps some events count for; `user_keys` are the digests of their users."""
    caps = []
    if settings.cap_user:
        caps.append(Cap("cap_user", settings.cap_user, [*user_keys]))
    if settings.cap_user_item:
        keys = pair_digests((event.user_id, event.item_id) for event in events)
        caps.append(Cap("cap_user_item", settings.cap_user_item, [*keys]))
    if settings.cap_source_item:
        of_sources = [_source_digest(event) for event in events]
        caps.append(Cap("cap_source_item", settings.cap_source_item, of_sources))
    return caps


def _source_digest(event: Feedback) -> bytes | None:
    return None if event.source is None else digest(("source", event.source, event.item_id))
