"""Streams and states of realistic size for the benchmarks, made from a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

import numpy as np
from msgspec.structs import replace

from app.engine import Engine
from app.events import Configure, Entry, Feedback, ItemUpsert
from app.settings import SEMANTICS, EngineSettings
from learners.base import N_VERSIONS, RowPool

Benchmark = Any  # pytest-benchmark's fixture: its `pedantic` has no types

START_MS = 1_700_000_000_000
N_USERS = 1_000
N_ITEMS = 3_000
PER_TOPIC = 50
N_TOPICS = N_ITEMS // PER_TOPIC
VISIT = 8
BATCH = 500


def stream(
    n_events: int, *, seed: int = 1, n_users: int = N_USERS, n_topics: int = N_TOPICS
) -> list[Feedback]:
    """Return visits of eight clicks, mostly within one topic, its items falling off as 1/rank.

    One event every 2 s; in 40,000 events one of 1,000 users makes five visits on average.
    """
    chance = random.Random(seed)
    weights = list(accumulate(1.0 / (rank + 1) for rank in range(PER_TOPIC)))
    events: list[Feedback] = []
    while len(events) < n_events:
        user, topic = chance.randrange(n_users), chance.randrange(n_topics)
        for _ in range(VISIT):
            here = topic if chance.random() < 0.8 else chance.randrange(n_topics)
            [rank] = chance.choices(range(PER_TOPIC), cum_weights=weights)
            number = len(events)
            events.append(
                Feedback(
                    event_id=f"e{number}",
                    user_id=f"u{user}",
                    item_id=f"i{here * PER_TOPIC + rank}",
                    type="click",
                    time_ms=START_MS + number * 2_000,
                )
            )
    return events[:n_events]


def entries(events: list[Feedback], size: int = BATCH) -> Iterator[tuple[Entry, str]]:
    """Yield log entries of `size` events with their cursors."""
    for start in range(0, len(events), size):
        yield Entry(list(events[start : start + size])), f"1-{start + 1}"


def new_engine(**changes: object) -> Engine:
    """Return an engine with default settings but for the changes; its log has begun."""
    settings = EngineSettings.model_validate(changes)
    engine = Engine(settings)
    engine.apply(Entry([Configure(SEMANTICS, settings.model_dump())]), "0-1")
    return engine


def filled_engine(n_items: int, n_users: int = 1, /, **changes: object) -> Engine:
    """Return an engine that serves "u0", "u1" ... with 20 items each, and every row full.

    The rows are written straight into the arrays, as if they had been learned: neighbours are
    random, so a request meets nearly as many different candidates as there can be, its worst case.
    """
    usual: dict[str, object] = {"max_items": n_items, "max_users": 1_000, "gate": "off"}
    engine = new_engine(**(usual | changes))
    for tick in range(n_items):
        engine.history.touch_item(f"i{tick}", tick)
    for number in range(n_users):
        user = engine.history.touch_user(f"u{number}", number)
        for item in range(0, 20 * 97, 97):
            had = (item + number * 7_919) % n_items
            engine.history.append(user, had, time_ms=START_MS, reward=1.0)
    rng, learner, own = np.random.default_rng(1), engine.learner, slice(1, n_items + 1)
    for lists in (learner.covisit, learner.sequence):
        rows, shape = lists.neighbours, (n_items, lists.max_neighbours)
        rows.handle[own] = rng.integers(0, n_items, shape)
        rows.weight[own] = rng.random(shape, np.float32)
        rows.size[own] = lists.max_neighbours
        rows.mass[own] = 50.0
        rows.inv_norm[own] = 1.0 / np.sqrt(50.0 + lists.shrink)
    learner.factors.factors[own] = rng.random((n_items, 2 * learner.n_factors), np.float32) - 0.5
    # Two categories of a hundred each, for what a request reads of them.
    engine.history.categories.labels[:n_items, :2] = rng.integers(1, 101, (n_items, 2))
    trending = learner.trending
    trending.decayed.weight[own] = rng.random((n_items, trending.n_columns))
    for version in range(N_VERSIONS):
        trending.top[version][:] = rng.integers(0, n_items, trending.top[version].shape)
        trending.top_size[version][:] = trending.n_top
    for source in learner.sources.values():
        hold_all(source.rows, n_items)
    return engine


def learned_engine(n_items: int, n_events: int = 500_000) -> Engine:
    """Return an engine that has learned so many events, 20,000 a second, on so many items.

    Of users who made three visits on average; "u0" and those after it are among them.
    """
    engine = new_engine(max_items=n_items, max_users=n_events)
    n_users, n_topics = n_events // (3 * VISIT), n_items // PER_TOPIC
    events = [
        replace(event, time_ms=START_MS + number // 20)
        for number, event in enumerate(stream(n_events, n_users=n_users, n_topics=n_topics))
    ]
    for entry, cursor in entries(events):
        engine.apply(entry, cursor)
    return engine


def shelved_engine(n_items: int, n_rare: int) -> tuple[Engine, set[str]]:
    """Return `filled_engine` with prices and brands, and the items that are dear and of a rare one.

    These lie anywhere in the catalogue; no source names many of them.
    """
    engine = filled_engine(n_items)
    rare = set(random.Random(1).sample(range(n_items), n_rare))
    for item in range(n_items):
        price = 5_000.0 + item if item in rare else float(item % 1_000)
        brand = "rare" if item in rare else f"brand {item % 500}"
        change = ItemUpsert(f"i{item}", attributes={"price": price, "brand": brand})
        engine.catalogue.upsert(item, change)
    return engine, {f"i{item}" for item in rare}


def hold_all(rows: RowPool, n_items: int) -> None:
    """Give every item a row of its own, held by all versions."""
    for slots in rows.slots:
        slots[:n_items] = np.arange(1, n_items + 1)
    rows.pool.refs[1 : n_items + 1] = N_VERSIONS
    rows.pool.marks[1] = n_items + 1


def twenty_rules() -> list[dict[str, Any]]:
    """Return rules of every kind, about the items that `describe` has described."""
    rules: list[dict[str, Any]] = [
        *({"kind": "boost", "by": 0.1, "where": {"brand": f"b{n}"}} for n in range(6)),
        *({"kind": "bury", "by": 0.2, "where": {"price": {"min": 90 + n}}} for n in range(4)),
        {"kind": "boost", "by": 0.3, "where": {"categories": "c3"}, "users": {"segment": "vip"}},
        {"kind": "bury", "by": 0.5, "after": {"type": "purchase", "days": 7}},
        {"kind": "hide", "where": {"stock": 0}},
        {"kind": "hide", "where": {"brand": "b7", "price": {"max": 5}}},
        {"kind": "pin", "item": "i17", "position": 2},
        {"kind": "pin", "item": "i18", "position": 5},
        {"kind": "cap", "per": "categories", "most": 3},
        {"kind": "cap", "per": "brand", "most": 4},
        {"kind": "cap", "where": {"price": {"min": 80}}, "most": 2},
        {"kind": "quota", "least": 1, "younger_than_h": 48},
    ]
    return [rule | {"name": f"r{n}"} for n, rule in enumerate(rules)]


def describe(engine: Engine, n_items: int) -> None:
    """Give items categories and attributes, and let a thousandth of them be new."""
    engine.history.categories.labels[:] = 0  # those of `filled_engine` are nobody's names
    upserts = [
        ItemUpsert(
            f"i{n}",
            [f"c{n % 50}", f"c{n * 7 % 90}"],
            {"brand": f"b{n * 13 % 40}", "price": float(n * 31 % 100), "stock": n % 20},
        )
        for n in range(n_items)
    ]
    engine.apply(Entry(list(upserts)), "9-1")
    first_seen, now_ms = engine.catalogue.first_seen, engine.admission.watermark_ms
    for item in range(1, n_items, 1_000):
        first_seen.note(item, now_ms)
