"""Replicas with different budgets agree on how many events are judged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from app.ingest import Ingest
from app.settings import Settings
from app.store import Store
from app.thinning import Thinning
from tests.factories import SMALL, sessions
from tests.integration.service import batches

pytestmark = pytest.mark.anyio
Eventually = Callable[[Callable[[], bool]], Awaitable[None]]
OpenStore = Callable[..., Awaitable[Store]]


@pytest.fixture
def url(start_external: Callable[..., str], valkey_server: Any) -> str:
    """A store that is nobody's own."""
    return start_external(valkey_server)


@asynccontextmanager
async def running(store: Store, url: str, **settings: Any) -> AsyncIterator[Ingest]:
    """Follow the log, as a service does."""
    own = {"redis_url": url, "namespace": "test", "id_share": 1.0}
    ingest = Ingest(store, Settings(**{**SMALL, **own, **settings}))
    await ingest.start()
    try:
        yield ingest
    finally:
        await ingest.stop()


async def look(
    watching: list[Thinning], until: Callable[[], bool], announced: tuple[Store, str] | None = None
) -> None:
    """Let replicas look at what learning takes until something holds; one says that it is there."""
    async with asyncio.timeout(60):
        while not until():
            if announced is not None:
                await announced[0].announce(announced[1], b"{}")
            for each in watching:
                await each.look()
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("share", [1.0, None])
async def test_the_one_with_the_least_room_decides(
    open_store: OpenStore, url: str, eventually: Eventually, share: float | None
) -> None:
    """A replica over its budget has less judged by all; one that has room leaves that as it is.

    Unless the first one is gone: then more is judged again, at once where there is no budget.
    """
    first, second = await open_store(url), await open_store(url)
    async with (
        running(first, url, budget_learning=0.1, budget_least_judged=0.5) as tight,
        running(second, url, budget_learning=share) as roomy,
    ):
        there = first, tight.origin
        both = [Thinning(tight, again_s=0.1), Thinning(roomy, again_s=0.1)]
        for batch in batches(sessions(2_000, n_users=40), 50):
            await roomy.submit(batch, arrival_ms=10**13)
        await look(both, lambda: roomy.engine.thinned[0] < 1, there)
        assert roomy.engine.thinned == (0.5, tight.origin)
        await look(both[1:], lambda: not tight.is_delayed and tight.lag_s == 0, there)
        cursor, looks = roomy.engine.cursor, iter(range(50))
        await look(both[1:], lambda: next(looks, None) is None, there)
        assert await second.last_cursor() == cursor
        await first.withdraw(tight.origin)
        await look(both[1:], lambda: roomy.engine.thinned[0] == 1)
        await eventually(lambda: tight.engine.cursor == roomy.engine.cursor)
        assert tight.engine.hashes() == roomy.engine.hashes()
        kinds = [d.evidence["part"] for d in tight.engine.gate.decisions if d.kind == "thin"]
        assert kinds == [[1.0, 0.5], [0.5, 1.0]]
