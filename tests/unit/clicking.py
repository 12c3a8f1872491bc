"""A shop whose slates and clicks are made up from a seed, in front of a small engine."""

from __future__ import annotations

import copy
import functools
import random
from typing import Any

from app.engine import Engine
from app.events import VALID, Feedback, Impression, UserUpsert
from app.settings import SEMANTICS
from tests.factories import START_MS, apply, click, configure, make_settings

NEVER = 10**9
# How likely a place is clicked.
CURVE = (0.35, 0.25, 0.2, 0.15, 0.1)

CALM: dict[str, Any] = {
    "warmup_events": 700,
    "promote_events": 50,
    "overlap_min": 0.0,
    "candidate_events": NEVER,
    "candidate_s": NEVER,
    "harm_alarm": 1e5,
    "item_armed": 50,
    "arbiter_share": 1.0,
    "arbiter_credits": 20,
    "trusted_history": 5,
    "hold_quiet": 150,
    "hold_events": 5_000,
    "relearn_events": 10_000,
    "teach_repeats": True,
}


class Shop:
    """Shows slates of five of 60 items to 40 users, a second each; each is answered, then logged.

    `flip` is the share of outcomes that are turned round; `spam` how often item i0 is clicked where
    it is shown (on every fourth slate, then); what is `lost` is not answered at all. The first
    `n_marked` users are marked as trusted, and no `flip` touches them unless it is `real`.
    """

    def __init__(
        self, seed: int = 1, *, n_marked: int = 0, semantics: int = SEMANTICS, **changes: Any
    ) -> None:
        settings = make_settings(**(CALM | changes))
        self.engine = Engine(settings)
        apply(self.engine, configure(settings, semantics=semantics))
        self.n_marked = n_marked
        for number in range(n_marked):
            apply(self.engine, UserUpsert(f"u{number}", {"trusted": True}))
        self.chance = random.Random(seed)
        self.n = 0

    def slate(
        self,
        *,
        flip: float = 0.0,
        spam: float | None = None,
        lost: bool = False,
        real: bool = False,
    ) -> None:
        """Show one slate, with its clicks in an entry before it."""
        chance, self.n = self.chance, self.n + 1
        number = chance.randrange(40)
        user, slate = f"u{number}", f"s{self.n}"
        flip = 0.0 if number < self.n_marked and not real else flip
        items = [f"i{n}" for n in chance.sample(range(1, 60), 5)]
        if spam is not None and self.n % 4 == 0:
            items[2] = "i0"
        clicks = []
        for item, p in zip(items, CURVE, strict=True):
            p = spam if spam is not None and item == "i0" else p
            is_clicked = chance.random() < p
            if is_clicked != (chance.random() < flip):
                clicks.append(self.answer(user, item, slate))
        scores = sorted((chance.uniform(0, 10) for _ in items), reverse=True)
        shown = Impression(slate, user, items, scores, START_MS + self.n * 1_000)
        if clicks and not lost:
            apply(self.engine, *clicks)
        apply(self.engine, shown)

    def answer(self, user: str, item: str, slate: str, **rest: Any) -> Feedback:
        """Return a click on a slate whose token was verified."""
        known = {"token": VALID, "recommendation_id": slate} | rest
        return click(user, item, event_id=f"{slate}/{user}/{item}", at_s=self.n, **known)

    def run(self, n: int, **fault: Any) -> Shop:
        """Show n slates."""
        for _ in range(n):
            self.slate(**fault)
        return self

    def until(self, kind: str, limit: int = 3_000, **fault: Any) -> int:
        """Show slates until something is decided; return how many that took."""
        n_before = self.kinds().count(kind)
        for n in range(1, limit + 1):
            self.slate(**fault)
            if self.kinds().count(kind) > n_before:
                return n
        raise AssertionError(f"no {kind} within {limit} slates: {self.kinds()[-5:]}")

    def kinds(self) -> list[str]:
        """Return the kinds of all decisions, in order."""
        return [decision.kind for decision in self.engine.gate.decisions]

    def evidence(self, kind: str) -> dict[str, Any]:
        """Return the numbers of the last decision of a kind."""
        decisions = self.engine.gate.decisions
        return next(d.evidence for d in reversed(decisions) if d.kind == kind)


def twin_of(shop: Shop) -> Shop:
    """Return a shop that goes on as another would, from a snapshot of it."""
    twin = copy.copy(shop)
    twin.chance = copy.deepcopy(shop.chance)
    twin.engine = Engine.from_state(copy.deepcopy(shop.engine.state()))
    return twin


def opened() -> Shop:
    """Return a shop whose gate is open, after 1,200 slates."""
    return twin_of(_opened())


def held(**changes: Any) -> Shop:
    """Return a shop whose gate is in HOLD: all clicks were turned round for a while."""
    return twin_of(_held(**changes))


@functools.cache
def _opened(**changes: Any) -> Shop:
    return Shop(**changes).run(1_200)


@functools.cache
def _held(**changes: Any) -> Shop:
    shop = twin_of(_opened(**changes))
    shop.until("hold", flip=1.0)
    return shop
