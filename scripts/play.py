"""Plays a world into an engine, step by step, and keeps count of what a fault did to it."""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from app.engine import Engine
from app.events import VALID, Configure, Entry, Feedback, Impression, Record, UserUpsert
from app.exploration import explored_places
from app.recommend import Request
from app.settings import SEMANTICS, EngineSettings
from scripts.faults import N_ATTACKED, N_FAKES, Fault
from scripts.shop import Shop

BIN = 500
"""Steps that one point of a picture is the mean of."""
_CLICKS_SEEN_MS = 30_000
# Some feedback comes late: this share, by up to this long.
_LATE_SHARE, _LATE_MS = 0.05, 600_000
_LOOKED_AT = 10

CAUGHT = ("alarm", "promotion_refused", "ask")


@dataclass
class Tally:
    """What happened since the fault began. Counts are of events but for `n_steps` and slates."""

    began_at: int = 0
    n_steps: int = 0
    n_bad: int = 0
    n_bad_learned: int = 0
    n_bad_served: int = 0
    alarms: list[dict[str, Any]] = field(default_factory=list)
    kinds: dict[str, int] = field(default_factory=dict)
    bins: list[float] = field(default_factory=list)


class Play(ABC):
    """A world and an engine. `begin` starts a fault, `end` ends it; quality is of honest users."""

    def __init__(self, settings: EngineSettings, seed: int) -> None:
        self.engine = Engine(settings)
        self.fault: Fault | None = None
        self.tally = Tally()
        self.rng = np.random.default_rng([seed, 1])
        self._n_entries = 0
        self._pending: list[tuple[int, str]] = []
        self._quality: list[float] = []
        self._mend: Callable[[], None] | None = None
        self._n_fakes = 0
        self._apply([Configure(SEMANTICS, settings.model_dump())])

    # -- the fault ----------------------------------------------------------------------------

    def begin(self, fault: Fault, **settings: Any) -> None:
        """Start a fault, under other settings where it or the caller wants these."""
        self.tally = Tally(began_at=self.engine.n_events)
        self.rng = np.random.default_rng([len(fault.name), sum(fault.name.encode())])
        self._quality = []
        changes = fault.settings | settings
        if changes:
            self._reconfigure(changes)
        self.fault = fault
        self._mend = fault.plant(self.engine) if fault.plant else None

    def _reconfigure(self, changes: dict[str, Any]) -> None:
        wanted = EngineSettings(**(self.engine.configured.model_dump() | changes))
        # What no log may change: here it is the same engine from here on, guarded or not.
        if wanted.gate != self.engine.settings.gate:
            self.engine.configured = self.engine.settings = wanted
            self.engine.gate.use(wanted)
        else:
            record = Configure(SEMANTICS, wanted.model_dump(), reconfigure=True)
            self._apply([record])

    def end(self) -> None:
        """End the fault; what it did stays."""
        if self._mend is not None:
            self._mend()
        self.fault = None

    @property
    def is_over(self) -> bool:
        """Tell whether the world has no more steps."""
        return False

    @abstractmethod
    def step(self) -> None:
        """Let one honest thing happen, and whatever the fault adds to it."""

    def run(self, n_steps: int) -> Iterator[None]:
        """Take so many steps, yielding after each."""
        for _ in range(n_steps):
            if self.is_over:
                return
            self.step()
            self.tally.n_steps += 1
            yield

    def _note(self, quality: float) -> None:
        self._quality.append(quality)
        if len(self._quality) % BIN == 0:
            self.tally.bins.append(float(np.mean(self._quality[-BIN:])))

    def quality(self, n_last: int) -> float:
        """Return the mean quality of the last honest slates."""
        return float(np.mean(self._quality[-n_last:])) if self._quality else 0.0

    # -- entries ------------------------------------------------------------------------------

    def _apply(self, records: list[Record], *, are_bad: bool = False) -> None:
        self._n_entries += 1
        before = self.engine.n_events
        outcome = self.engine.apply(Entry(records), f"1-{self._n_entries}")
        if are_bad:
            self.tally.n_bad += len(records)
            number = before
            for record, result in zip(records, outcome.results, strict=True):
                number += result.status == "learned"
                if result.status == "learned" and result.reason is None:
                    self.tally.n_bad_learned += 1
                    self._pending.append((number, getattr(record, "item_id", "")))
        for decision in outcome.decisions:
            self._hear(decision.kind, decision.evidence)
        if self.engine.gate.is_following:
            self._serve()

    def _serve(self) -> None:
        self.tally.n_bad_served += len(self._pending)
        self._pending = []

    def _hear(self, kind: str, evidence: dict[str, Any]) -> None:
        self.tally.kinds[kind] = self.tally.kinds.get(kind, 0) + 1
        if kind in ("promote", "adopt"):
            self._serve()
        elif kind == "shadow_reset":
            self._pending = []
        elif kind == "rollback":
            begin, end = evidence["set_aside"] or [1, 0]
            suspects = self.engine.gate.data.suspects
            self._pending = [
                (number, item)
                for number, item in self._pending
                if not begin <= number <= end and item not in suspects
            ]
        if kind in CAUGHT or kind in ("rollback", "hold", "adopt"):
            after = self.engine.n_events - self.tally.began_at
            shown = {name: evidence[name] for name in ("detector", "item_id") if name in evidence}
            alarm = {"kind": kind, "after": after, "step": self.tally.n_steps}
            self.tally.alarms.append(alarm | shown)

    # -- fakes --------------------------------------------------------------------------------

    @property
    @abstractmethod
    def now_ms(self) -> int:
        """The world's time."""

    def _fake(self, user: str, item: str) -> Feedback:
        self._n_fakes += 1
        return Feedback(f"fake-{self._n_fakes}", user, item, "click", None, self.now_ms)

    def _attack(self, fault: Fault) -> None:
        """Let fakes do what they do beside one honest step."""
        if fault.spam and self.rng.random() < fault.spam / (1 - fault.spam):
            fake = self._fake(f"fake-{self.rng.integers(N_FAKES)}", self.target)
            self._apply([fake], are_bad=True)
        # A session has four clicks.
        if fault.push and self.rng.random() < fault.push / (1 - fault.push) / 4:
            user = f"fake-{self._n_fakes}"
            attacked = self.rng.permutation(self.attacked)[:2]
            order = [attacked[0], self.target, attacked[-1], self.target]
            self._apply([self._fake(user, str(item)) for item in order], are_bad=True)

    @property
    def target(self) -> str:
        """The item that fakes push: one that few know."""
        return self._ranked[-1]

    @property
    def attacked(self) -> list[str]:
        """The bestsellers beside which it is to be shown."""
        return self._ranked[:N_ATTACKED]

    @cached_property
    def _ranked(self) -> list[str]:
        return self._popularity()

    @abstractmethod
    def _popularity(self) -> list[str]:
        """Return items, the one that was clicked most first."""

    def exposure(self) -> float:
        """Return in which share of slates, right after an attacked item, the target is."""
        engine, users = self.engine, list(self.engine.recommender.latest_users(200))
        n, n_shown = 0, 0
        for user in users:
            user_id = str(engine.history.users.ids[user])
            if user_id.startswith("fake"):
                continue
            past = [str(had.item_id) for had in engine.history.had(user)][-10:]
            for item in self.attacked:
                request = Request(history=[*past, item], k=_LOOKED_AT, exclude=())
                shown = [scored.item_id for scored in engine.recommend(request).items]
                n, n_shown = n + 1, n_shown + (self.target in shown)
        return n_shown / max(n, 1)

    def report(self) -> dict[str, Any]:
        """Return what happened since the fault began."""
        return asdict(self.tally)


class ShopPlay(Play):
    """The simulated shop, with tokens: slates, clicks on them, impressions, and what is browsed."""

    def __init__(self, settings: EngineSettings, shop: Shop, seed: int) -> None:
        super().__init__(settings, seed)
        self.shop = shop
        self._late: list[tuple[int, int, Feedback]] = []
        self._shown: list[tuple[int, int, Impression]] = []
        self._counts = np.zeros(len(shop.tastes), np.int64)
        self._marked: set[str] = set()

    @property
    def now_ms(self) -> int:
        """The shop's time."""
        return self.shop.time_ms

    def begin(self, fault: Fault, **settings: Any) -> None:
        """Start a fault; where it is a turn of the world, that happens now."""
        super().begin(fault, **settings)
        if fault.turn is not None:
            fault.turn(self.shop)

    def _popularity(self) -> list[str]:
        known = self._counts[: self.shop.options.n_items]
        return [f"i{item}" for item in np.argsort(-known, kind="stable")]

    def step(self) -> None:
        """Let somebody look at a slate, click, and perhaps browse."""
        shop, view = self.shop, self.shop.next_view()
        user_id, liking = view.user_id, shop.liking(view.shopper)
        if shop.is_trusted(view.shopper) and user_id not in self._marked:
            self._marked.add(user_id)
            self._apply([UserUpsert(user_id, {"trusted": True})])
        slate_id = f"s{shop.n_views}"
        slate = self.engine.recommend(Request(user_id, k=shop.options.k), slate_id)
        items = [int(scored.item_id[1:]) for scored in slate.items]
        best = shop.best(liking, shop.options.k)
        if items:
            self._note(shop.expected(liking, items) / best)
        self._answer(slate_id, slate, items, view.shopper, liking)
        if shop.rng.random() < shop.options.browsing or not items:
            item = shop.browse(liking)
            self._send(
                Feedback(f"b{shop.n_views}", user_id, f"i{item}", "click", None, self.now_ms)
            )
            self._count(view.shopper, item)
        is_known = user_id in self.engine.history.users
        if is_known and items and slate.draft is None:
            shown = Impression(
                slate_id,
                user_id,
                [scored.item_id for scored in slate.items],
                [scored.score for scored in slate.items],
                self.now_ms,
                [scored.propensity for scored in slate.items],
                explored_places(slate.items),
            )
            heapq.heappush(self._shown, (self.now_ms + _CLICKS_SEEN_MS, shop.n_views, shown))
        if self.fault is not None:
            self._attack(self.fault)
        self._catch_up()

    def _answer(
        self, slate_id: str, slate: Any, items: list[int], shopper: int, liking: Any
    ) -> None:
        shop, fault = self.shop, self.fault
        truly = heard = shop.clicks(liking, items)
        if fault is not None and fault.clicks is not None and not shop.is_trusted(shopper):
            heard = fault.clicks(self.rng, truly)
        for place in np.flatnonzero(truly):
            self._count(shopper, items[place])
        for place in np.flatnonzero(heard):
            draft = slate.draft and slate.draft.mark(place)
            event = Feedback(
                f"{slate_id}-{place}",
                f"u{shopper}",
                f"i{items[place]}",
                "click",
                time_ms=self.now_ms,
                recommendation_id=slate_id,
                token=VALID,
                draft=draft,
            )
            self._send(event, is_bad=not truly[place])

    def _count(self, shopper: int, item: int) -> None:
        self.shop.take(shopper, item)
        if self.fault is None:
            self._counts[item] += 1

    def _send(self, event: Feedback, *, is_bad: bool = False) -> None:
        if not is_bad and self.shop.rng.random() < _LATE_SHARE:
            due = self.now_ms + int(self.shop.rng.random() * _LATE_MS)
            heapq.heappush(self._late, (due, self._n_entries, event))
        else:
            self._apply([event], are_bad=is_bad)

    def _catch_up(self) -> None:
        while self._late and self._late[0][0] <= self.now_ms:
            self._apply([heapq.heappop(self._late)[2]])
        while self._shown and self._shown[0][0] <= self.now_ms:
            self._apply([heapq.heappop(self._shown)[2]])


class StreamPlay(Play):
    """Somebody's own events, oldest first. Quality is HR@20 of what is served, over honest ones."""

    def __init__(self, settings: EngineSettings, events: list[Feedback], seed: int) -> None:
        super().__init__(settings, seed)
        self._events = events
        self._at = 0
        self._now_ms = 0
        self._counts: dict[str, int] = {}

    @property
    def now_ms(self) -> int:
        """The time of the last event."""
        return self._now_ms

    @property
    def is_over(self) -> bool:
        """Tell whether the stream has ended."""
        return self._at == len(self._events)

    def _popularity(self) -> list[str]:
        return sorted(self._counts, key=lambda item: (-self._counts[item], item))

    def step(self) -> None:
        """Apply the next event."""
        event = self._events[self._at]
        self._at += 1
        self._now_ms = event.time_ms or self._now_ms
        if self.fault is None:
            self._counts[event.item_id] = self._counts.get(event.item_id, 0) + 1
        judge = self.engine.prequential["champion"]
        n, hits = judge.n, judge.hits_20
        self._apply([event])
        if judge.n > n:
            self._note(float(judge.hits_20 - hits))
        if self.fault is not None:
            self._attack(self.fault)
