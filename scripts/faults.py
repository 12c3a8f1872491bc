"""The catalogue of what can go wrong, as `sluice drill` plays it; see docs/gate.md.

A fault is a set of hooks: into what people click, into who comes, into the program itself, or into
the world. Whoever plays it calls those that there are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from app.engine import Engine
from learners import kernels
from learners.base import SHADOW
from learners.history import Profile
from scripts.shop import Bools, Shop

Rng = np.random.Generator
Clicks = Callable[[Rng, Bools], Bools]

N_FAKES = 50
"""Users that a click spammer has."""
N_ATTACKED = 5
"""Bestsellers beside which a push attack wants its item to be shown."""


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong. `asked` is what GATE.md asks for, in words for the table.

    `clicks` changes which places of a slate were clicked, as the service hears of it; `spam` and
    `push` are shares of the traffic that are fake; `plant` breaks the engine, and returns how to
    mend it if that is more than waiting; `turn` changes the world for good. `settings` hold from
    the fault's start on.
    """

    name: str
    says: str
    asked: str
    clicks: Clicks | None = None
    spam: float = 0.0
    push: float = 0.0
    plant: Callable[[Engine], Callable[[], None] | None] | None = None
    turn: Callable[[Shop], None] | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def needs_shop(self) -> bool:
        """Tell whether it can be played in the simulated shop alone: it needs to see non-clicks."""
        return self.clicks is not None or self.turn is not None


# -- labels -----------------------------------------------------------------------------------


def flipped(share: float) -> Clicks:
    """Let a tracker report the opposite of a share of what it saw."""
    return lambda rng, clicked: np.where(rng.random(len(clicked)) < share, ~clicked, clicked)


def always(share: float) -> Clicks:
    """Let a tracker report a click for a share of what was shown, whatever it saw."""
    return lambda rng, clicked: clicked | (rng.random(len(clicked)) < share)


def lost(share: float) -> Clicks:
    """Let a share of the clicks never arrive."""
    return lambda rng, clicked: clicked & (rng.random(len(clicked)) >= share)


# -- the program ------------------------------------------------------------------------------


def wipe(engine: Engine) -> None:
    """Lose all that the shadow has learned."""
    for source in engine.learner.sources.values():
        slots = source.rows.slots[SHADOW]
        for item in range(engine.history.items.n_indices):
            kernels.release_slot(source.rows.pool, slots[item])
            slots[item] = 0
    engine.learner.trending.top_size[SHADOW][:] = 0


def permute(engine: Engine) -> None:
    """Give every item's rows to another item, as a restore with wrong indices would."""
    n = engine.history.items.n_indices
    order = np.random.default_rng(5).permutation(n)
    for source in engine.learner.sources.values():
        slots = source.rows.slots[SHADOW]
        slots[:n] = slots[:n][order]


def _look_on() -> None:
    """Take no note of anything."""


def wrong_sign(engine: Engine) -> Callable[[], None]:
    """Learn every event as its opposite, until the bug is mended."""
    learner = engine.learner
    learn, take = learner.learn, learner.take

    def learn_opposite(profile: Profile, item: int, reward: float, time_ms: int) -> None:
        learn(profile, item, -reward, time_ms)

    def take_opposite(
        profile: Profile, user: int, item: int, *, is_taught: bool, **event: Any
    ) -> bool:
        if is_taught:
            if not learner.has_room():
                return False
            learn_opposite(profile, item, event["reward"], event["time_ms"])
        return take(profile, user, item, is_taught=False, **event)

    learner.learn, learner.take = learn_opposite, take_opposite  # type: ignore[method-assign]
    engine.on_judge = _look_on  # so that each event is learned by itself, step by step

    def mend() -> None:
        learner.learn, learner.take = learn, take  # type: ignore[method-assign]
        engine.on_judge = None

    return mend


# -- the catalogue ----------------------------------------------------------------------------

_UNCHECKED = {"overlap_min": 0.0}
_LIMITED = {"growth_least": 10}

FAULTS = (
    Fault("clean", "nothing goes wrong", "no harm alarm"),
    Fault("flip-20", "20 % of outcomes flipped", "1,500", flipped(0.2)),
    Fault("flip-50", "50 % of outcomes flipped", "250", flipped(0.5)),
    Fault("flip-100", "all outcomes flipped", "100", flipped(1.0)),
    Fault("always-20", "20 % of what is shown counts as clicked", "600", always(0.2)),
    Fault("always-50", "50 % of what is shown counts as clicked", "150", always(0.5)),
    Fault("lost-50", "half of the clicks never arrive", "800", lost(0.5)),
    Fault("lost-100", "no click on a slate arrives", "250", lost(1.0)),
    Fault("spam-2", "50 fake users click one item: 2 % of traffic", "150 learned", spam=0.02),
    Fault("spam-10", "50 fake users click one item: 10 % of traffic", "1,500", spam=0.10),
    Fault("spam-30", "50 fake users click one item: 30 % of traffic", "300", spam=0.30),
    Fault("push-1", "1 % fake sessions push one item", "in 8 % of slates", push=0.01),
    Fault("push-3", "3 % fake sessions push one item", "in 20 % of slates", push=0.03),
    Fault("push-5", "5 % fake sessions push one item", "in 30 % of slates", push=0.05),
    Fault("push-1-limited", "the same, growth rule on", "8 %", push=0.01, settings=_LIMITED),
    Fault("push-3-limited", "the same, growth rule on", "20 %", push=0.03, settings=_LIMITED),
    Fault("push-5-limited", "the same, growth rule on", "30 %", push=0.05, settings=_LIMITED),
    Fault("wipe", "the shadow forgets everything", "promotion refused", plant=wipe),
    Fault("wipe-unchecked", "the same, no overlap check", "300", plant=wipe, settings=_UNCHECKED),
    Fault("permute", "the shadow's rows are shuffled", "promotion refused", plant=permute),
    Fault(
        "permute-unchecked", "the same, no overlap check", "300", plant=permute, settings=_UNCHECKED
    ),
    Fault("wrong-sign", "learning has a bug: the wrong sign", "loss + 0.03", plant=wrong_sign),
    Fault(
        "swap", "half of the items swap tastes, for real", "followed", turn=lambda s: s.swap(0.5)
    ),
    Fault("cool", "everybody clicks less, for real", "followed", turn=lambda s: s.cool(1.0)),
)
"""In the order of the table. What comes after "clean" is compared with it."""
