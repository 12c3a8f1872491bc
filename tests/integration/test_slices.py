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
from app.events import Entry
from app.ingest import Ingest
from app.settings import Settings
from app.slices import SIZE
from app.store import Store
from tests.factories import SMALL, mixed

pytestmark = pytest.mark.anyio

N = 200


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
    now = [0]
    ingest.on_outcome = lambda outcome, entry: applied.update(now)
    await ingest.start()
    entries = [events.encode(Entry([event], 10**13)) for event in mixed(N)]
    appending = asyncio.create_task(
        ingest.store.append([(entry, f"x-{n}") for n, entry in enumerate(entries)])
    )
    try:
        async with asyncio.timeout(60):
            while applied.total() < N:
                now[0] = next(turn)
                await asyncio.sleep(0)
        await appending
    finally:
        await ingest.stop()
    assert max(applied.values()) <= 3 * SIZE
