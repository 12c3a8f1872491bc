"""Small engines, events and streams for tests: all by seed, all with small numbers."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from app.engine import Engine, Outcome
from app.events import (
    Command,
    Configure,
    Entry,
    Feedback,
    ItemDelete,
    ItemUpsert,
    Malformed,
    Record,
    UserDelete,
    UserUpsert,
)
from app.settings import SEMANTICS, EngineSettings
from learners.ids import PackedRows, State

START_MS = 1_000_000_000_000

SMALL: dict[str, Any] = {
    "max_items": 200,
    "max_users": 200,
    "max_neighbours": 20,
    "history_length": 16,
    "scored_history": 8,
    "had_length": 40,
    "covisit_shrink": 5.0,
    "dedupe_window": 50_000,
    "warmup_events": 200,
    "promote_events": 50,
    "candidate_events": 400,
    "bless_judged": 50,
    "ask_judged": 50,
    "probation_judged": 50,
    "relearn_events": 1_000,
    # What a list has does not depend on its id, so that tests can compare lists.
    "explore_share": 0.0,
}

EVICTING: dict[str, Any] = {"max_items": 100, "max_users": 100, "overlap_histories": 10}


def make_settings(**changes: Any) -> EngineSettings:
    """Return engine settings with small capacities and short cadences."""
    return EngineSettings(**(SMALL | changes))


def make_engine(**changes: Any) -> Engine:
    """Return a small engine whose log has begun."""
    settings = make_settings(**changes)
    engine = Engine(settings)
    apply(engine, configure(settings))
    return engine


def configure(
    settings: EngineSettings, *, semantics: int = SEMANTICS, reconfigure: bool = False
) -> Configure:
    """Return the first record of a log."""
    return Configure(semantics, settings.model_dump(mode="json"), reconfigure)


def apply(
    engine: Engine, *records: Record, arrival_ms: int | None = None, snapshot: State | None = None
) -> Outcome:
    """Apply one entry made of some records; its cursor follows the engine's."""
    number = int(engine.cursor.partition("-")[0]) + 1
    return engine.apply(Entry(list(records), arrival_ms), f"{number}-0", snapshot)


def feed(engine: Engine, events: Sequence[Record], *, group: int = 1) -> Engine:
    """Apply records, `group` to an entry."""
    for start in range(0, len(events), group):
        apply(engine, *events[start : start + group])
    return engine


def command(engine: Engine, name: Any, *, force: bool = False) -> str | None:
    """Give an operator's command; return why it was refused, or None."""
    outcome = apply(engine, Command(name, "a test asks", "tester", force))
    return outcome.results[0].reason


def restore(engine: Engine, snapshot: State) -> Outcome:
    """Apply an operator's restore of a state taken earlier."""
    return apply(
        engine, Command("restore", "a test asks", "tester", snapshot_id="s"), snapshot=snapshot
    )


def click(
    user: object, item: object, *, event_id: str | None = None, at_s: float = 0, **rest: Any
) -> Feedback:
    """Return one positive event, `at_s` seconds after the start of time."""
    time_ms = START_MS + round(at_s * 1_000)
    event_id = f"{user}/{item}/{time_ms}" if event_id is None else event_id
    return Feedback(
        event_id, f"{user}", f"{item}", rest.pop("type", "click"), time_ms=time_ms, **rest
    )


def upsert(item: object, *categories: str, **rest: Any) -> ItemUpsert:
    """Return a catalogue entry."""
    return ItemUpsert(f"{item}", list(categories), **rest)


def sessions(
    n_events: int,
    *,
    seed: int = 1,
    n_groups: int = 15,
    group_size: int = 10,
    length: int = 5,
    n_users: int | None = None,
    start: int = 0,
) -> list[Feedback]:
    """Return visits with a strong structure: each walks along neighbouring items of one group.

    Without `n_users` every visit is a new user's. One event a second, numbered from `start`.
    """
    chance = random.Random(seed)
    events: list[Feedback] = []
    visit = 0
    while len(events) < n_events:
        visit += 1
        user = f"s{start}-{visit}" if n_users is None else f"u{chance.randrange(n_users)}"
        group, first = chance.randrange(n_groups), chance.randrange(group_size)
        for step in range(length):
            number = start + len(events)
            item = f"g{group:02d}i{(first + step) % group_size}"
            events.append(click(user, item, event_id=f"e{number}", at_s=number))
    return events[:n_events]


def mixed(n_events: int, *, seed: int = 1, n_users: int = 60, n_items: int = 150) -> list[Feedback]:
    """Return events of every kind: several types, ratings, times out of order, repeated ids."""
    chance = random.Random(seed)
    events = []
    for number in range(n_events):
        type_ = chance.choice(["click", "view", "purchase", "skip", "dislike", "rating"])
        event = click(
            f"u{chance.randrange(n_users)}",
            f"i{int(n_items * chance.random() ** 2)}",
            event_id=f"e{number if chance.random() < 0.95 else chance.randrange(number + 1)}",
            at_s=number * 5 + chance.randrange(-90_000, 60),
            type=type_,
            value=float(chance.randint(0, 5)) if type_ == "rating" else None,
        )
        events.append(event)
    return events


def busy_log(n_events: int, seed: int = 1) -> list[Record]:
    """Return a log with something of everything: all kinds of events, catalogue, commands."""
    chance = random.Random(seed)
    records: list[Record] = []
    events = mixed(n_events // 2, seed=seed) + sessions(
        n_events - n_events // 2, seed=seed, n_users=120, start=10_000
    )
    for number, event in enumerate(events):
        records.append(event)
        item, user, draw = f"i{chance.randrange(150)}", f"u{chance.randrange(60)}", chance.random()
        if draw < 0.02:
            attributes = {"price": number % 50, "brand": f"b{number % 7}", f"a{number % 4}": True}
            is_hidden = chance.random() < 0.3
            records.append(upsert(item, f"c{number % 3}", attributes=attributes, hidden=is_hidden))
        elif draw < 0.04:
            records.append(UserUpsert(user, {"n": number}))
        elif draw < 0.05:
            records.append(ItemDelete(item) if draw < 0.045 else UserDelete(user))
        elif draw < 0.06:
            records.append(Malformed("schema", "made up"))
        elif draw < 0.07:
            name: Any = chance.choice(["promote", "rollback", "freeze", "resume", "resume"])
            records.append(Command(name, "made up", "tester"))
    return records


def replace_item(events: Iterable[Feedback], items: dict[str, str]) -> list[Feedback]:
    """Return the events with their items renamed."""
    return [
        Feedback(e.event_id, e.user_id, items[e.item_id], e.type, e.value, e.time_ms)
        for e in events
    ]


def fingerprint(state: object) -> bytes:
    """Return bytes that tell every value of a state and of its arrays, and their order."""
    if isinstance(state, dict):
        return b"{" + b"".join(fingerprint(pair) for pair in state.items()) + b"}"
    if isinstance(state, list | tuple):
        return b"[" + b"".join(map(fingerprint, state)) + b"]"
    if isinstance(state, np.ndarray | PackedRows):
        state = np.asarray(state)
        return f"{state.dtype}{state.shape}".encode() + state.tobytes()
    return repr(state).encode()
