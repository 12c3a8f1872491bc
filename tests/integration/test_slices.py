"""When requests get their turn while the log is applied."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

import pytest

from app import events
from app.clock import Clock
from app.engine import Outcome
from app.events import Entry
from app.ingest import Ingest
from app.settings import Settings
from app.slices import SIZE
from app.store import Store
from tests.factories import SMALL, mixed

pytestmark = pytest.mark.anyio

N, N_EACH = 2_000, 10


async def test_small_entries_share_a_slice(
    open_store: Callable[..., Awaitable[Store]],
    start_external: Callable[..., str],
    valkey_server: Any,
) -> None:
    """However many small entries wait, requests get their turn after each slice of them."""
    url = start_external(valkey_server)
    settings = Settings(**{**SMALL, "redis_url": url, "namespace": "test", "slice_ms": 1.0})
    ticks = count()
    # Each look at the clock is 0.4 ms after the last one: a slice ends after three of them, before
    # each of which as many events as fit may have been learned together.
    clock = Clock(monotonic=lambda: next(ticks) * 0.0004)
    ingest = Ingest(await open_store(url), settings, clock=clock)
    turn, applied = count(), Counter[int]()
    now = 0
    ingest.on_outcome = lambda outcome, entry: applied.update({now: len(entry.records)})
    await ingest.start()
    sent = mixed(N)
    groups = [sent[at : at + N_EACH] for at in range(0, N, N_EACH)]
    entries = [events.encode(Entry([*group], 10**13)) for group in groups]
    appending = asyncio.create_task(
        ingest.store.append([(entry, f"x-{n}") for n, entry in enumerate(entries)])
    )
    try:
        async with asyncio.timeout(60):
            while applied.total() < N:
                now = next(turn)
                await asyncio.sleep(0)
        await appending
    finally:
        await ingest.stop()
    assert max(applied.values()) <= 3 * SIZE


async def test_each_turn_of_requests_is_told(
    open_store: Callable[..., Awaitable[Store]],
    start_external: Callable[..., str],
    valkey_server: Any,
) -> None:
    """Also within a large entry: what comes in then has not lain unread since it began."""
    url = start_external(valkey_server)
    settings = Settings(**{**SMALL, "redis_url": url, "namespace": "test", "slice_ms": 1.0})
    ticks = count()
    clock = Clock(monotonic=lambda: next(ticks) * 0.002)
    ingest = Ingest(await open_store(url), settings, clock=clock)
    await ingest.start()
    done: list[str] = []
    turns: list[bool] = []
    ingest.on_outcome = lambda outcome, entry: done.append(outcome.cursor)
    ingest.on_turn = lambda: turns.append(not done)
    try:
        await ingest.submit(mixed(N), arrival_ms=10**13)
    finally:
        await ingest.stop()
    assert sum(turns) > 1


@pytest.mark.parametrize(
    "bad", [b"{", b'{"records":[],"more":' + b"[" * 10_000], ids=["cut", "deep"]
)
async def test_all_before_what_cannot_be_read_is_applied(
    open_store: Callable[..., Awaitable[Store]],
    start_external: Callable[..., str],
    valkey_server: Any,
    eventually: Callable[[Callable[[], bool]], Awaitable[None]],
    bad: bytes,
) -> None:
    """An entry that nobody can read stops the log there, whatever was read with it."""
    url = start_external(valkey_server)
    settings = Settings(**{**SMALL, "redis_url": url, "namespace": "test"})
    ingest = Ingest(await open_store(url), settings)
    await ingest.start()
    told: list[str] = []
    ingest.on_outcome = lambda outcome, entry: told.append(outcome.cursor)
    good = [events.encode(Entry([event], 10**13)) for event in mixed(5)]
    try:
        payloads = [*good[:3], bad, *good[3:]]
        cursors = await ingest.store.append([(payload, "x") for payload in payloads])
        await eventually(lambda: ingest.stopped is not None)
    finally:
        await ingest.stop()
    assert told == cursors[:3]
    assert ingest.engine.cursor == cursors[2]
    assert f"stopped at log entry {cursors[3]}: " in str(ingest.stopped)


async def test_a_fault_of_who_is_told_stops_in_the_open(
    open_store: Callable[..., Awaitable[Store]],
    start_external: Callable[..., str],
    valkey_server: Any,
    eventually: Callable[[Callable[[], bool]], Awaitable[None]],
) -> None:
    """Should what is told of an outcome fail, that is what the service says that it stopped for."""
    url = start_external(valkey_server)
    settings = Settings(**{**SMALL, "redis_url": url, "namespace": "test"})
    ingest = Ingest(await open_store(url), settings)
    await ingest.start()

    def fail(outcome: Outcome, entry: Entry) -> None:
        raise ValueError("nobody can count this")

    ingest.on_outcome = fail
    try:
        entries = [events.encode(Entry([event], 10**13)) for event in mixed(3)]
        cursors = await ingest.store.append([(entry, "x") for entry in entries])
        await eventually(lambda: ingest.stopped is not None)
    finally:
        await ingest.stop()
    assert f"{cursors[-1]}: nobody can count this" in str(ingest.stopped)
