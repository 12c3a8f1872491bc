"""Compiles every kernel, or loads it from Numba's cache, before there is a request to wait for it.

A kernel that is loaded at its first use holds up everybody for 20 to 250 ms; one that was never
compiled, for seconds. So a small engine is led through all that an engine may come to do.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from app import snapshot
from app.conditions import parse
from app.engine import Engine
from app.events import (
    VALID,
    Command,
    Configure,
    Entry,
    Feedback,
    Impression,
    ItemDelete,
    ItemUpsert,
    Record,
    Rules,
    UserDelete,
    UserMerge,
    UserUpsert,
)
from app.recommend import Request
from app.settings import SEMANTICS, EngineSettings

_N_ITEMS, _N_EVENTS, _N_SLATES = 20, 200, 5
_RULES: list[dict[str, Any]] = [
    {"name": "hide", "kind": "hide", "where": {"stock": 0}},
    {"name": "boost", "kind": "boost", "where": {"brand": "b1", "price": {"max": 9}}, "by": 0.2},
    {"name": "bury", "kind": "bury", "after": {"type": "click", "days": 7}, "by": 0.1},
    {"name": "cap", "kind": "cap", "per": "categories", "most": 3},
    {"name": "cap-too", "kind": "cap", "per": "brand", "most": 4},
    {"name": "quota", "kind": "quota", "least": 1, "younger_than_h": 24},
    {"name": "pin", "kind": "pin", "item": "i3", "position": 1, "users": {"plan": "gold"}},
]
_FILTERS: tuple[dict[str, Any], ...] = (
    {"categories": "c1"},
    {"categories": {"all": ["c1"], "none": ["c2"]}, "price": {"min": 2, "max": 12}},
    {"brand": ["b1", "b2"], "stock": {"not": [0]}},
)
# What is searched for in the whole catalogue; the second has a value that one item has.
_SEARCHES: tuple[dict[str, Any], ...] = ({"price": {"min": 13}}, {"brand": f"b{_N_ITEMS - 1}"})


def warm_up() -> None:
    """Do everything once. Takes a minute the first time, and then a second."""
    for judge_share in (1.0, 0.5):
        settings = EngineSettings(
            max_items=100,
            max_users=100,
            had_length=5,
            warmup_events=20,
            promote_events=5,
            judge_share=judge_share,
            explore_share=1.0,
            tokens="check",
        )
        engine = Engine(settings)
        _Tour(engine).go(settings)


class _Tour:
    """Leads one engine through its life."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._n_entries = 0

    def go(self, settings: EngineSettings) -> None:
        """Learn, serve, go back, and come out of a snapshot."""
        self._apply(Configure(SEMANTICS, settings.model_dump()))
        self._apply(*map(_item, range(_N_ITEMS)), UserUpsert("u1", {"plan": "gold"}))
        self._apply(*map(_event, range(_N_EVENTS - 20)))
        self._engine.on_judge = lambda: None  # whoever looks on sees each event by itself
        self._apply(*map(_event, range(_N_EVENTS - 20, _N_EVENTS)))
        self._engine.on_judge = None
        self._ask()
        self._apply(Rules(_RULES, "start"), ItemUpsert("i3", ["c1", "c9"]))
        self._answer()
        self._ask()
        self._apply(Command("rollback", "warm-up", "start", force=True))
        self._apply(Command("requeue", "warm-up", "start"))
        self._apply(Command("start_challenger", "warm-up", "start", changes={"n_factors": 4}))
        self._apply(*map(_event, range(_N_EVENTS, _N_EVENTS + 20)))
        self._apply(UserMerge("u1", "u2"), UserDelete("u3"), ItemDelete("i2"))
        history = self._engine.history
        history.evict_item("i1")
        history.sweep.look_through(history.ring)
        history.as_of.begin()
        self._apply(*map(_event, range(_N_EVENTS + 20, _N_EVENTS + 40)))
        twin = Engine.from_state(
            snapshot.load([snapshot.dump(self._engine.state(), self._engine.cursor)])
        )
        twin.hashes()

    def _apply(self, *records: Record) -> None:
        self._n_entries += 1
        self._engine.apply(Entry(list(records)), f"0-{self._n_entries}")

    def _ask(self) -> None:
        engine = self._engine
        for user_id in ("u1", "nobody"):
            engine.recommend(Request(user_id, explain=True, categories=["none"]))
            engine.recommend(Request(user_id, k=5), "s")
            engine.recommend(Request(user_id, k=5, candidates=["i5", "i7"]))
            for asked in _FILTERS:
                engine.recommend(Request(user_id, k=5, filter=parse(asked)), "s")
            for item_id in ("i5", "i19"):
                engine.explain(Request(user_id, k=1, filter=parse({"categories": "c1"})), item_id)
        engine.recommend(Request(k=5, history=["i3", "i4"]), "s")
        engine.recommend(Request("u1", k=5, in_haste=True))
        engine.similar("i3", 5)
        for wanted in _SEARCHES:
            engine.catalogue.columns.select(parse(wanted))
            engine.catalogue.columns.among(parse(wanted))

    def _answer(self) -> None:
        """Show slates and hear of clicks on them, so that these are what is watched."""
        shown, scores = [f"i{n}" for n in range(10)], [1.0 - n / 10 for n in range(10)]
        for n in range(_N_SLATES):
            slate_id, time_ms = f"s{n}", (_N_EVENTS + n) * 1_000
            self._apply(
                Feedback(f"c{n}", "u1", shown[0], "click", None, time_ms, None, slate_id, VALID),
                Impression(slate_id, "u1", shown, scores, time_ms),
            )
        # What the gate does with outcomes once it has seen enough of them.
        watch = self._engine.gate.watch
        watch.slate(shown, np.full(10, 0.1), np.zeros(10), 1)
        watch.items.bless(1)


def _item(n: int) -> ItemUpsert:
    attributes: dict[str, str | int | float | bool | None] = {
        "brand": f"b{n % 3 if n < _N_ITEMS - 1 else n}",
        "price": n,
        "stock": n % 5,
    }
    return ItemUpsert(f"i{n}", [f"c{n % 4}"], attributes)


def _event(n: int) -> Feedback:
    kind = "skip" if n % 17 == 16 else "click"
    user = f"u{n % 7 + n // _N_EVENTS}"
    return Feedback(f"e{n}", user, f"i{n * n % 13}", kind, None, n * 1_000)
