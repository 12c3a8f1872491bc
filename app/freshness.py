"""How long personal and shared state wait until they are served: the tiers, in event time.

A delay is the length of a batch. Batches begin at the multiples of their length since 1970, so that
all replicas, and all runs, cut at the same places; what came in one is served from the next one's
first event on.
"""

from __future__ import annotations

from typing import NamedTuple

from app.settings import Delay, EngineSettings

# No time reaches it, so that no batch ends.
_NEVER_MS = 2**62
_DEFAULTS: dict[str, tuple[Delay, Delay]] = {
    "per_event": (0, 0),
    "micro_batch": (10, 10),
    "two_tier": (0, 600),
    "batch": (86_400, 86_400),
    "frozen": ("never", "never"),
}


class Freshness(NamedTuple):
    """The length of a batch of personal and of shared state in ms; 0 where it does not wait."""

    personal_ms: int
    shared_ms: int

    @property
    def is_static(self) -> bool:
        """Tell whether shared state stays as it is, so that nothing need be taught."""
        return self.shared_ms == _NEVER_MS

    def view(self) -> dict[str, Delay]:
        """Return both delays in seconds, as settings have them."""
        return {"personal_s": _in_s(self.personal_ms), "shared_s": _in_s(self.shared_ms)}


def freshness_of(settings: EngineSettings) -> Freshness:
    """Return what a tier means, with the delays that were set for it."""
    personal, shared = _DEFAULTS[settings.freshness]
    if settings.freshness_personal_s is not None:
        personal = settings.freshness_personal_s
    if settings.freshness_shared_s is not None:
        shared = settings.freshness_shared_s
    return Freshness(_in_ms(personal), _in_ms(shared))


def is_over(began_ms: int, now_ms: int, length_ms: int) -> bool:
    """Tell whether a batch that was going on at one time has ended by another."""
    return began_ms // length_ms != now_ms // length_ms


def _in_ms(delay: Delay) -> int:
    return _NEVER_MS if delay == "never" else delay * 1_000


def _in_s(delay_ms: int) -> Delay:
    return "never" if delay_ms == _NEVER_MS else delay_ms // 1_000
