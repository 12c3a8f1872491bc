"""What a replica has appended, and a failover left out of the log, is written anew."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import redis

from app import events
from app.events import Entry
from app.forked import Work
from app.ingest import Ingest
from app.settings import Settings
from app.store import Store
from tests.factories import SMALL, click, mixed

pytestmark = pytest.mark.anyio
Eventually = Callable[[Callable[[], bool]], Awaitable[None]]
LOG = "sluice:{test}:log"


class Copies:
    """Copies of the process, which hold up learning for as long as is wanted."""

    def __init__(self) -> None:
        self.is_held, self.go_on = asyncio.Event(), asyncio.Event()
        self.go_on.set()

    async def start(self, work: Work) -> AsyncIterator[bytes]:
        """Make one; return what yields its frames."""
        frames = list(work())
        if not self.go_on.is_set():
            self.is_held.set()
            await self.go_on.wait()
        return _each(frames)


async def _each(frames: list[bytes]) -> AsyncIterator[bytes]:
    for frame in frames:
        yield frame


@pytest.mark.parametrize("with_read", [False, True])
async def test_left_out_by_a_server_that_others_write_to_already(
    open_store: Callable[..., Awaitable[Store]],
    start_external: Callable[..., str],
    valkey_server: Any,
    eventually: Eventually,
    *,
    with_read: bool,
) -> None:
    """An acknowledged event is in the log again, also where something that was read is lost, too.

    The reader sees at once that the server is new and what others have written there.
    """
    url = start_external(valkey_server)
    often = {"snapshot_events": 1, "snapshot_min_s": 0}
    settings = Settings(**{**SMALL, **often, "redis_url": url, "namespace": "test"})
    store, copies = await open_store(url, redis_url=url), Copies()
    ingest = Ingest(store, settings, start_copy=copies.start)
    await ingest.start()
    try:
        await ingest.submit(mixed(50), arrival_ms=10**13)
        await ingest.keeper.write()
        await eventually(lambda: ingest.keeper._task is not None and ingest.keeper._task.done())
        copies.go_on.clear()
        await ingest.submit(mixed(60)[50:], arrival_ms=10**13)
        await copies.is_held.wait()
        mine = await ingest.submit_only([click("me", "i1", event_id="mine")], arrival_ms=10**13)
        theirs = events.encode(Entry([click("other", "i1", event_id="theirs")], 10**13))
        with redis.Redis.from_url(url) as raw:
            lost = [mine, ingest.engine.cursor] if with_read else [mine]
            assert raw.xdel(LOG, *lost) == len(lost)
            raw.xadd(LOG, {"e": theirs, "t": "other-1"})
        store._run_id = "the server of before"
        store._found_at = 0.0
        copies.go_on.set()
        await eventually(lambda: "other" in ingest.engine.history.users)
        await eventually(lambda: "me" in ingest.engine.history.users)
        assert ingest.stopped is None
    finally:
        copies.go_on.set()
        await ingest.stop()
