"""A replica that was held up: what the log went on without, and where a snapshot leads past."""

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
from app.store import Cursor, Store
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


class Overtaken(Store):
    """A store where something happens between its answer to where the log ends, and our hearing."""

    async def happen(self) -> None:
        """Do nothing yet."""

    async def last_cursor(self) -> Cursor:
        """Return the cursor of what was the last entry."""
        found = await super().last_cursor()
        await self.happen()
        return found


async def test_what_is_appended_while_a_replica_comes_back_is_appended_once(
    start_external: Callable[..., str], valkey_server: Any, eventually: Eventually
) -> None:
    """An append that arrives while the log is asked where it ends is not taken for lost."""
    url = start_external(valkey_server)
    settings = Settings(**{**SMALL, "redis_url": url, "namespace": "test"})
    store = Overtaken(url, settings)
    await store.open()
    ingest, n_asked = Ingest(store, settings), 0

    async def happen() -> None:
        nonlocal n_asked
        n_asked += 1  # the first time it is what it may have to give back that it asks for
        if n_asked == 2:
            payload = events.encode(Entry([click("me", "i1", event_id="mine")], 10**13))
            await ingest._writer.append(payload, "x-1")

    await ingest.start()
    try:
        await ingest.submit(mixed(10), arrival_ms=10**13)
        store.happen = happen  # type: ignore[method-assign]
        ingest.is_store_up = False  # as after an append that was not answered in time
        await eventually(lambda: ingest.is_store_up and "me" in ingest.engine.history.users)
        await ingest.submit(mixed(20)[10:], arrival_ms=10**13)
        with redis.Redis.from_url(url) as raw:
            tags = [fields[b"t"] for _, fields in raw.xrange(LOG)]
        assert tags.count(b"x-1") == 1
    finally:
        await ingest.stop()
        await store.close()


async def test_who_waits_for_a_place_is_told_when_a_snapshot_leads_past_it(
    open_store: Callable[..., Awaitable[Store]],
    start_external: Callable[..., str],
    valkey_server: Any,
    eventually: Eventually,
) -> None:
    """A replica that goes on from a snapshot is as far as that, though it applied nothing more."""
    url = start_external(valkey_server)
    often = {"snapshot_events": 10, "snapshot_min_s": 0}
    settings = Settings(**{**SMALL, "redis_url": url, "namespace": "test"})
    copies = Copies()
    one = Ingest(await open_store(url), settings)
    two = Ingest(await open_store(url), settings.model_copy(update=often), start_copy=copies.start)
    await one.start()
    await two.start()
    try:
        copies.go_on.clear()
        await one.submit(mixed(20), arrival_ms=10**13)
        await copies.is_held.wait()
        for n in range(2, 5):
            last = await one.submit(mixed(n * 10 + 10)[n * 10 :], arrival_ms=10**13)
        await one.keeper.write()
        assert await one.store.trim(last.cursor)
        waiting = asyncio.create_task(two.wait_for(last.cursor, 20.0))
        copies.go_on.set()
        await eventually(lambda: two.engine.cursor == last.cursor)
        assert await asyncio.wait_for(waiting, 1.0)
    finally:
        copies.go_on.set()
        await two.stop()
        await one.stop()
