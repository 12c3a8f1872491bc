"""What is to happen in one history, all of it drawn from one seed."""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass
from typing import Any

from app.events import Feedback
from app.settings import Settings
from tests.factories import SMALL, START_MS
from tests.simulation.store import Faults

N_USERS, N_ITEMS = 6, 12
# Share of the batches that are sent once more when they are acknowledged.
REPEATED = 0.1

Batch = tuple[Feedback, ...]


@dataclass(frozen=True)
class Incident:
    """Something that happens to a replica, or to the store, at a time."""

    at_s: float
    kind: str
    replica: int = 0
    for_s: float = 0.0
    n_changes: int = 0
    n_steps: int = 0
    is_silent: bool = False


@dataclass(frozen=True)
class Plan:
    """One history before it happens. `is_forgetful`: the store may lose its last changes."""

    seed: int
    n_replicas: int
    is_forgetful: bool
    batches: tuple[tuple[Batch, ...], ...]
    busy_s: float
    shuffle: float
    glance_s: float
    faults: Faults
    incidents: tuple[Incident, ...]
    settings: Settings


def make_plan(
    seed: int, *, is_forgetful: bool | None = None, n_replicas: int | None = None
) -> Plan:
    """Draw a plan. Some are quiet but for one thing, so that nothing hides what it does."""
    chance = random.Random(f"plan/{seed}")
    forgetful = chance.random() < 0.3 if is_forgetful is None else is_forgetful
    n_replicas = n_replicas or chance.choice([1, 2, 2, 3])
    busy_s = chance.choice([0.1, 0.5, 2.0, 5.0]) * chance.uniform(1, 2)
    rate = chance.choice([0.0, 0.01, 0.05, 0.15])
    kinds = chance.choice([Faults.kinds, ("refused",), ("lost",), ("late",), ("hang",), ("cut",)])
    return Plan(
        seed=seed,
        n_replicas=n_replicas,
        is_forgetful=forgetful,
        batches=_draw_batches(chance),
        busy_s=busy_s,
        shuffle=chance.choice([0.0, 0.1, 0.5, 1.0]),
        glance_s=chance.choice([0.0001, 0.002, 0.01]),
        faults=Faults(rate, chance.choice([0.0, 0.02, 0.2]), kinds),
        incidents=_draw_incidents(chance, n_replicas, busy_s, is_forgetful=forgetful),
        settings=_make_settings(
            snapshot_events=chance.choice([3, 8, 1_000]),
            snapshot_s=chance.choice([1, 600]),
            snapshot_min_s=chance.choice([0.0, 0.5]),
            snapshots_keep=chance.choice([1, 1, 2, 3]),
            store_timeout_s=chance.choice([0.5, 2.0]),
            feedback_timeout_s=chance.choice([1.0, 4.0]),
        ),
    )


@functools.cache
def _base_settings() -> Settings:
    small: dict[str, Any] = SMALL | {"max_items": 100, "max_users": 100, "relearn_events": 100}
    return Settings(**small, deadline_ms=500, slice_ms=1.0)


def _make_settings(**changes: Any) -> Settings:
    """Return settings that are not validated once more: it would take longer than a history."""
    return _base_settings().model_copy(update=changes)


def _draw_batches(chance: random.Random) -> tuple[tuple[Batch, ...], ...]:
    """Return what each client sends: requests of one event, or of a few."""
    n_events, n_clients = chance.randrange(6, 26), chance.randrange(1, 6)
    most, nonsense = chance.choice([1, 3, 8]), chance.choice([0.0, 0.05, 0.3])
    batches: list[list[Batch]] = [[] for _ in range(n_clients)]
    number = 0
    while number < n_events:
        size = min(chance.randint(1, most), n_events - number)
        events = [_draw_event(chance, number + i, nonsense) for i in range(size)]
        if chance.random() < 0.1:
            events.append(events[0])  # the same one twice in a request
        chance.choice(batches).append(tuple(events))
        number += size
    return tuple(tuple(own) for own in batches if own)


def _draw_event(chance: random.Random, number: int, nonsense: float) -> Feedback:
    user, item = f"u{chance.randrange(N_USERS)}", f"i{chance.randrange(N_ITEMS)}"
    type_ = "nonsense" if chance.random() < nonsense else chance.choice(["click", "view"])
    return Feedback(f"e{number}", user, item, type_, time_ms=START_MS - 60_000 + number * 1_000)


# What may happen, and how often beside each other.
_KINDS = {
    "kill": 4,
    "stop": 1,
    "pause": 2,
    "cut": 2,
    "down": 2,
    "snapshot": 2,
    "last snapshot": 1,
    "hashes": 1,
    "crowd": 1,
}


def _draw_incidents(
    chance: random.Random, n_replicas: int, busy_s: float, *, is_forgetful: bool
) -> tuple[Incident, ...]:
    kinds = [chance.choice(list(_KINDS))] if chance.random() < 0.3 else list(_KINDS)
    weights = [_KINDS[kind] for kind in kinds]
    drawn = chance.choices(kinds, weights, k=chance.randrange(6))
    if is_forgetful:
        drawn += ["forget"] * chance.randint(1, 2)
    incidents = [
        Incident(
            at_s=chance.uniform(0.02, busy_s),
            kind=kind,
            replica=chance.randrange(n_replicas),
            for_s=chance.choice([0.0, chance.uniform(0.0, 1.0), chance.uniform(0.0, 8.0)]),
            n_changes=chance.randint(1, 6),
            n_steps=chance.randrange(100),
            is_silent=chance.random() < 0.5,
        )
        for kind in drawn
    ]
    return tuple(sorted(incidents, key=lambda incident: incident.at_s))
