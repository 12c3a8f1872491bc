"""Replicas compare their states at the same places in the log."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from app import events
from app.errors import Conflict, Diverged, LogStopped
from app.events import DAY_MS, Command, Entry, Malformed
from app.ingest import Ingest
from app.keeper import read_engine
from app.settings import Settings
from app.snapshot import FORMAT, Dump
from app.store import Store
from tests.factories import SMALL, mixed
from tests.integration.service import batches

pytestmark = pytest.mark.anyio
Eventually = Callable[[Callable[[], bool]], Awaitable[None]]
OpenStore = Callable[..., Awaitable[Store]]
OFTEN = {"snapshot_events": 100, "snapshot_min_s": 0}


@pytest.fixture
def url(start_external: Callable[..., str], valkey_server: Any) -> str:
    """A store that is nobody's own."""
    return start_external(valkey_server, "--appendonly", "yes")


@asynccontextmanager
async def running(store: Store, url: str, **others: Any) -> AsyncIterator[Ingest]:
    """Follow the log, as a service does."""
    asked = {**SMALL, **OFTEN, "redis_url": url, "namespace": "test", **others}
    ingest = Ingest(store, Settings(**asked))
    await ingest.start()
    try:
        yield ingest
    finally:
        await ingest.stop()


async def learn(ingest: Ingest, start: int, stop: int) -> None:
    """Post events, in entries of 25."""
    for batch in batches(mixed(stop)[start:], 25):
        await ingest.submit(batch, arrival_ms=10**13)


async def test_like_states_agree(open_store: OpenStore, url: str, eventually: Eventually) -> None:
    """Replicas of one log find the same digest at every place, one of them after a restart."""
    first, second = await open_store(url), await open_store(url)
    async with running(first, url) as one, running(second, url) as two:
        await learn(one, 0, 400)
        await eventually(lambda: two.engine.cursor == one.engine.cursor)
    async with running(first, url) as one, running(second, url) as two:
        await learn(two, 400, 900)
        await eventually(lambda: two.engine.cursor == one.engine.cursor)
        assert one.engine.hashes() == two.engine.hashes()
    assert one.stopped is None
    assert two.stopped is None
    manifests = await first.list_snapshots()
    assert any(manifest["base"] is not None for manifest in manifests)


async def test_nothing_builds_on_what_an_older_program_wrote(
    open_store: OpenStore, url: str
) -> None:
    """After a snapshot of another format, which a replica not yet upgraded wrote, comes a whole."""
    store = await open_store(url)
    async with running(store, url) as ingest:
        await learn(ingest, 0, 50)
        async with ingest.whole() as engine:
            dump = Dump(engine.state())
            chunks = list(dump.chunks())
        older = dump.manifest(engine.cursor, format=FORMAT - 1)
        await store.write_snapshot(older, chunks)
        assert await ingest.keeper.write() == older
        await learn(ingest, 50, 75)
        assert (await ingest.keeper.write())["base"] is None
        await learn(ingest, 75, 90)
        assert (await ingest.keeper.write())["base"] is not None


async def test_snapshots_go_on_while_log_time_stands_still(open_store: OpenStore, url: str) -> None:
    """A store whose clock was an hour ahead gives one time to all of the next hour's entries."""
    asked = {**SMALL, "snapshot_events": 100, "snapshot_min_s": 60, "redis_url": url}
    is_due = Ingest(await open_store(url), Settings(**asked)).keeper.is_due
    assert not is_due(0, "1000-0")
    assert is_due(100, "3600000-0")
    assert not is_due(199, "3600000-99")
    assert is_due(200, "3600000-100")
    assert not is_due(300, "3601000-0")
    assert is_due(301, "3660000-0")


async def test_snapshots_are_due_at_the_same_places_however_entries_are_read(
    open_store: OpenStore, url: str, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who applies small entries together stops where one who applies each by itself does."""
    first, second = await open_store(url), await open_store(url)
    read = second.read
    monkeypatch.setattr(second, "read", lambda after, **how: read(after, **{**how, "count": 1}))
    asked = {"snapshot_events": 20}
    async with running(first, url, **asked) as one, running(second, url, **asked) as two:
        found: dict[Ingest, list[str]] = {one: [], two: []}

        def note(ingest: Ingest) -> Callable[[], Awaitable[None]]:
            async def begin() -> None:
                found[ingest].append(ingest.engine.cursor)

            return begin

        for ingest in (one, two):
            monkeypatch.setattr(ingest.keeper, "begin", note(ingest))
        entries = [events.encode(Entry(list(batch), 10**13)) for batch in batches(mixed(300), 3)]
        await first.append([(entry, f"x-{n}") for n, entry in enumerate(entries)])
        last = await first.last_cursor()
        await eventually(lambda: one.engine.cursor == last == two.engine.cursor)
        assert len(found[two]) > 10
        assert found[one] == found[two]


async def test_a_clock_of_ours_that_is_ahead_empties_no_quarantine(
    open_store: OpenStore, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How long a record has been there is told by the clock that numbered it: the store's."""
    store = await open_store(url)
    async with running(store, url) as ingest:
        await ingest.submit([Malformed("schema", "no item", "e", "{}")], arrival_ms=10**13)
        ahead = time.time_ns() + 400 * DAY_MS * 10**6
        monkeypatch.setattr("time.time_ns", lambda: ahead)
        await ingest.keeper.write()
        assert len(await store.list_quarantine(10)) == 1


async def test_nothing_builds_on_what_has_been_deleted_meanwhile(
    open_store: OpenStore, url: str
) -> None:
    """A snapshot whose base others drop while it is made does not come about: the next is whole."""
    store = await open_store(url)
    async with running(store, url) as ingest:
        await learn(ingest, 0, 50)
        base = await ingest.keeper.write()
        await learn(ingest, 50, 75)
        job = await ingest.keeper._copy()
        assert await store.delete_snapshot(base["id"])
        with pytest.raises(Conflict, match="builds on is gone"):
            await ingest.keeper._finish(job)
        assert await store.list_snapshots() == []
        made = await ingest.keeper.write()
        assert made["base"] is None
        assert (await read_engine(store, made["id"])).cursor == ingest.engine.cursor


async def test_another_state_takes_itself_out(
    open_store: OpenStore, url: str, eventually: Eventually
) -> None:
    """A replica whose state is not that of its peers stops, and says so; the others go on."""
    first, second = await open_store(url), await open_store(url)
    async with running(first, url) as one, running(second, url) as two:
        await learn(one, 0, 50)
        await eventually(lambda: two.engine.cursor == one.engine.cursor)
        two.engine.history.kind_reward += 0.25  # as a bad bit in memory would
        n = 50
        while one.stopped is None and two.stopped is None and n < 2_000:
            with suppress(LogStopped):
                await learn(one, n, n + 50)
            n += 50
        stopped, other = (one, two) if two.stopped is None else (two, one)
        assert "differs from that of snapshot" in str(stopped.stopped)
        assert other.stopped is None
        await learn(other, n, n + 50)


async def test_another_state_takes_itself_out_also_when_a_snapshot_is_asked_for(
    open_store: OpenStore, url: str, eventually: Eventually
) -> None:
    """Whoever asked is told, and it is what the replica does: it stops."""
    first, second = await open_store(url), await open_store(url)
    async with running(first, url) as one, running(second, url) as two:
        await learn(one, 0, 50)
        await eventually(lambda: two.engine.cursor == one.engine.cursor)
        two.engine.history.kind_reward += 0.25
        await one.keeper.write()
        with pytest.raises(Diverged, match="stops learning"):
            await two.keeper.write()
        assert "differs from that of snapshot" in str(two.stopped)


async def test_a_restore_that_was_refused_can_be_replayed_too(
    open_store: OpenStore, url: str
) -> None:
    """Whoever replays the command needs its snapshot, whatever came of it: that is kept so long."""
    store = await open_store(url)
    async with running(store, url, snapshots_keep=2, snapshot_events=10_000) as ingest:

        async def command(name: str, **others: Any) -> None:
            asked = Command(name, "a test", "operator", **others)  # type: ignore[arg-type]
            await ingest.submit([asked], arrival_ms=10**13)

        await learn(ingest, 0, 600)
        named = (await ingest.keeper.write())["id"]
        await command("start_challenger", changes={"max_neighbours": 9})
        await command("adopt", force=True)
        older = (await ingest.keeper.write())["id"]
        await command("restore", snapshot_id=named)
        assert ingest.engine.gate.decisions[-1].kind == "restore_refused"
        newest = (await ingest.keeper.write())["id"]
        assert [m["id"] for m in await store.list_snapshots()] == [named, older, newest]
        await store.delete_snapshot(newest)
    async with running(store, url, snapshots_keep=2, snapshot_events=10_000) as again:
        assert again.engine.hashes() == ingest.engine.hashes()
        await learn(again, 600, 625)
