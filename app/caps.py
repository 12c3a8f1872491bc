"""How much one user, one user on one item, or one source on one item may teach in a window.

Floods are cut off, not judged: what is past a cap is quarantined, whatever it says. Counts are of
admitted events, by windows of event time that follow each other; ids are kept as digests alone.
"""

from __future__ import annotations

import numpy as np

from app.events import Feedback, digest, user_digest
from app.settings import EngineSettings
from learners.ids import State

MAX_COUNTED = 1_000_000
"""Counters at most; past it a new window begins early, so a flood of new ids costs no memory."""

_DIGEST_BYTES = 16

Cap = tuple[str, int, bytes]
"""The name of a cap, how many events it lets pass, and the digest that these are counted by."""


class Caps:
    """Counters of the present window. `refuse` asks, `count` remembers; caps of 0 are off.

    Both go by what an event counts for (see `counted_by`).
    """

    def __init__(self) -> None:
        self._window = 0
        self._counts: dict[bytes, int] = {}

    def refuse(self, caps: list[Cap], now_ms: int, settings: EngineSettings) -> str | None:
        """Return the cap that an event is past, or None. `now_ms` never goes back."""
        if _window(now_ms, settings) != self._window:
            return None
        counts = self._counts
        for reason, most, key in caps:
            if counts.get(key, 0) >= most:
                return reason
        return None

    def count(self, caps: list[Cap], now_ms: int, settings: EngineSettings) -> None:
        """Count an admitted event."""
        window = _window(now_ms, settings)
        if window != self._window:
            self._window, self._counts = window, {}
        counts = self._counts
        for _, _, key in caps:
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


def counted_by(event: Feedback, settings: EngineSettings) -> list[Cap]:
    """Return which caps an event counts for: name, most, and what it is counted by."""
    user, item, source = event.user_id, event.item_id, event.source
    caps = []
    if settings.cap_user:
        caps.append(("cap_user", settings.cap_user, user_digest(user)))
    if settings.cap_user_item:
        caps.append(("cap_user_item", settings.cap_user_item, user_digest(user, item)))
    if settings.cap_source_item and source is not None:
        key = digest(("source", source, item))
        caps.append(("cap_source_item", settings.cap_source_item, key))
    return caps
