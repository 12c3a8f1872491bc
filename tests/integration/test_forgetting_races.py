"""Somebody is forgotten exactly while services, other commands and the server go on as they do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from app import archive, events, forgetting
from app.engine import Engine
from app.errors import StoreUnavailable
from app.events import Entry, Malformed, Record, UserMerge
from app.forgetting import Forgetting
from app.identity import is_named
from app.ingest import Ingest
from app.settings import Settings
from app.store import BEGINNING, Cursor, Rewrite, Store
from tests.factories import SMALL, click, mixed
from tests.integration.conftest import Eventually, OpenStore
from tests.integration.service import batches

pytestmark = pytest.mark.anyio

WHO = "u1"
LOG, SNAPSHOTS = "sluice:{test}:log", "sluice:{test}:snapshots"


@pytest.fixture
def url(start_external: Callable[..., str], valkey_server: Any) -> str:
    """A store that is nobody's own."""
    return start_external(valkey_server, "--appendonly", "yes")


@pytest.fixture(autouse=True)
def _settles_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forgetting, "SETTLED_S", 0.3)


def settings(url: str, **others: Any) -> Settings:
    """Return the settings of small replicas."""
    return Settings(**{**SMALL, "redis_url": url, "namespace": "test", **others})


@asynccontextmanager
async def running(store: Store, given: Settings, *, n: int = 200) -> AsyncIterator[Ingest]:
    """Follow a log of so many events, as a service does."""
    ingest = Ingest(store, given)
    await ingest.start()
    try:
        for batch in batches(mixed(n), 20):
            await ingest.submit(batch, arrival_ms=10**13)
        yield ingest
    finally:
        await ingest.stop()


class Interrupted(Forgetting):
    """A forgetting in which others have their turn: when all is learned, before each swap."""

    def __init__(self, store: Store, given: Settings, user_id: str = WHO) -> None:
        super().__init__(store, given, user_id)
        self.on_learned: Callable[[Rewrite], Awaitable[Any]] = _nothing
        self.on_copied: Callable[[Rewrite], Awaitable[Any]] = _nothing

    async def _write_snapshot(self, rewrite: Rewrite, engine: Engine) -> None:
        await super()._write_snapshot(rewrite, engine)
        await self.on_learned(rewrite)

    async def _copy(self, rewrite: Rewrite, after: Cursor) -> Cursor:
        last = await super()._copy(rewrite, after)
        await self.on_copied(rewrite)
        return last


async def _nothing(rewrite: Rewrite) -> None:
    pass


async def test_a_copy_that_the_server_has_evicted_takes_the_place_of_nothing(
    open_store: OpenStore, url: str
) -> None:
    """A server that is short of memory may drop what is to expire; the log stays."""
    store, other = await open_store(url), await open_store(url)
    async with running(store, settings(url)) as ingest:
        with redis.Redis.from_url(url) as raw:
            before = raw.xrange(LOG)

            async def evict(rewrite: Rewrite) -> None:
                raw.delete(rewrite._log)
                await ingest.submit(mixed(220)[200:], arrival_ms=10**13)

            doing = Interrupted(other, settings(url))
            doing.on_learned = evict
            with pytest.raises(StoreUnavailable, match="not whole"):
                await doing.run()
            assert raw.xrange(LOG)[: len(before)] == before
            assert not raw.keys("*:next:*")


async def test_a_log_that_is_trimmed_just_before_it_is_replaced(
    open_store: OpenStore, url: str
) -> None:
    """Services go on, and start, from the snapshot that there is, though it is from before that."""
    given = settings(url, snapshots_keep=1)
    store, other = await open_store(url), await open_store(url)
    async with running(store, given) as ingest:
        doing = Interrupted(other, given)

        async def go_on(rewrite: Rewrite) -> None:
            await ingest.submit(mixed(220)[200:], arrival_ms=10**13)
            doing.on_copied = trim

        async def trim(rewrite: Rewrite) -> None:
            doing.on_copied = _nothing
            await ingest.keeper.write()

        doing.on_learned = go_on
        done = await doing.run()
        assert [manifest["id"] for manifest in await other.list_snapshots()] == [done.cursor]
        assert await other.continues(done.cursor)
        await ingest.submit(mixed(240)[220:], arrival_ms=10**13)
        assert ingest.stopped is None
        hashes = ingest.engine.hashes()
    async with running(await open_store(url), given, n=0) as ingest:
        assert ingest.engine.hashes() == hashes
        await ingest.submit(mixed(260)[240:], arrival_ms=10**13)


async def test_the_old_ones_are_deleted_while_the_log_is_replaced(
    open_store: OpenStore, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new log's snapshot stays, though there was one of its name, which was to go."""
    given = settings(url, snapshots_keep=1)
    store, other = await open_store(url), await open_store(url)
    async with running(store, given) as ingest:
        await ingest.keeper.write()
        doing = Interrupted(other, given)
        is_trimming, go_on = asyncio.Event(), asyncio.Event()
        writing: list[asyncio.Task[Any]] = []

        async def keep(*_: Any) -> bool:
            is_trimming.set()
            return await go_on.wait()

        async def write(rewrite: Rewrite) -> None:
            await ingest.submit(mixed(220)[200:], arrival_ms=10**13)
            monkeypatch.setattr(archive, "keep", keep)
            writing.append(asyncio.create_task(ingest.keeper.write()))
            await is_trimming.wait()

        doing.on_learned = write
        done = await doing.run()
        go_on.set()
        await writing[0]
        assert [manifest["id"] for manifest in await other.list_snapshots()] == [done.cursor]


async def test_what_was_set_aside_of_the_old_log_is_not_written_any_more(
    open_store: OpenStore, url: str, eventually: Eventually
) -> None:
    """Not even by a service that has been at one entry, or out of reach, for all of that time."""
    given = settings(url)
    store, other = await open_store(url), await open_store(url)
    async with running(store, given) as ingest:
        odd = Malformed("schema", "no item", "e", f"{{'user_id': '{WHO}'}}")
        async with ingest.whole():
            await other.append([(events.encode(Entry([odd], 10**13)), "")])
            await asyncio.sleep(0.5)  # by now it is read, and waits to be applied
            await Forgetting(other, given, WHO).run()
        await eventually(lambda: store.epoch == b"1")
        await ingest.submit(mixed(220)[200:], arrival_ms=10**13)
        for _, payload in await other.list_quarantine(1_000):
            assert not is_named(WHO, payload.decode())


@pytest.mark.parametrize("step", ["_after", "_first"])
async def test_a_file_of_the_archive_that_is_written_meanwhile(
    open_store: OpenStore,
    url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    eventually: Eventually,
    step: str,
) -> None:
    """It is given up if it is of the old log, and written of the new one the next time."""
    given = settings(url, archive_dir=str(tmp_path))
    store, other = await open_store(url), await open_store(url)
    is_on, go_on = asyncio.Event(), asyncio.Event()
    usual = getattr(archive._Keeping, step)

    async def held_up(*args: Any) -> Any:
        found = await usual(*args)
        is_on.set()
        await go_on.wait()
        return found

    async with running(store, given) as ingest:
        monkeypatch.setattr(archive._Keeping, step, held_up)
        keeping = asyncio.create_task(archive.keep(store, given, ingest.engine.cursor))
        await is_on.wait()
        await Forgetting(other, given, WHO).run()
        go_on.set()
        assert not await keeping
        assert not archive.files(tmp_path)
        await eventually(lambda: store.epoch == b"1")
        assert await archive.keep(store, given, ingest.engine.cursor)
        kept = [entry for file in archive.files(tmp_path) for entry in file.entries()]
        assert kept
        assert not any(is_named(WHO, entry.payload.decode()) for entry in kept)


async def test_what_is_archived_while_the_ids_are_looked_for(
    open_store: OpenStore, url: str, tmp_path: Path
) -> None:
    """All ids that were merged into the user are found, though the log is trimmed meanwhile."""
    given = settings(url, archive_dir=str(tmp_path), snapshots_keep=1)
    store, other = await open_store(url), await open_store(url)
    async with running(store, given) as ingest:
        merge: list[Record] = [click("before-login", "i1"), UserMerge(WHO, "before-login")]
        await ingest.submit(merge, arrival_ms=10**13)
        await ingest.submit(mixed(220)[200:], arrival_ms=10**13)
        doing, loop = Forgetting(other, given, WHO), asyncio.get_running_loop()
        usual = doing._identify_archived

        def identify() -> None:
            usual()
            asyncio.run_coroutine_threadsafe(ingest.keeper.write(), loop).result(20)

        doing._identify_archived = identify  # type: ignore[method-assign]
        await doing.run()
        kept = [entry for file in archive.files(tmp_path) for entry in file.entries()]
        assert kept
        assert not any(is_named("before-login", entry.payload.decode()) for entry in kept)


async def test_what_others_left_who_were_killed(open_store: OpenStore, url: str) -> None:
    """Nothing is there of the old log: of another forgetting, of snapshots half written or deleted.

    What is written of the new one meanwhile stays.
    """
    given = settings(url)
    store, other, third = await open_store(url), await open_store(url), await open_store(url)
    async with running(store, given):
        killed = Interrupted(other, given, "u2")
        left = other.rewrite()
        await killed._identify()
        await killed._copy(left, BEGINNING)
        engine = await killed._rebuild(left, await killed._start())
        await killed._write_snapshot(left, engine)
        await other.snapshot_writer("1-1").add(b"half")
        with redis.Redis.from_url(url) as raw:
            raw.set("sluice:{test}:snapshot:1-1:unnamed:0", b"left")
            assert all(raw.ttl(key) > 0 for key in raw.keys("*:next:*"))
            await asyncio.sleep(0.1)
            doing = Forgetting(third, given, WHO)
            usual = third.compact

            async def clear() -> None:
                await third.snapshot_writer("1-2").add(b"new")
                await third.rewrite().add(await third.read(BEGINNING, block_ms=0, count=1))
                await third.sweep(lambda: 0.3)
                await usual()

            third.compact = clear  # type: ignore[method-assign]
            await doing.run()
            [record] = raw.hvals(SNAPSHOTS)
            chunks = [key for key in raw.keys("sluice:{test}:snapshot:*") if key not in record]
            assert [raw.get(key) for key in chunks] == [b"new"]
            assert [key.split(b":")[4] for key in raw.keys("*:next:*")] == [b"1"]
            assert all(raw.ttl(key) == -1 for key in raw.keys("*:snapshot:*") if key in record)


async def test_quarantine_is_emptied_while_it_is_written_anew(
    open_store: OpenStore, url: str
) -> None:
    """That ends, though what was there has become too old meanwhile."""
    store, other = await open_store(url), await open_store(url)
    await store.append_quarantine([("1-0", i, b"%d" % i) for i in range(3)])
    looked: list[bytes] = []

    def is_kept(payload: bytes) -> bool:
        if not looked:
            with redis.Redis.from_url(url) as raw:
                raw.xtrim("sluice:{test}:quarantine", maxlen=0, approximate=False)
        looked.append(payload)
        return True

    async with asyncio.timeout(5):
        await other.rewrite_quarantine(is_kept)
    assert await other.list_quarantine(10) == []
    await store.append_quarantine([("2-0", 0, b"3")])
    assert [payload for _, payload in await other.list_quarantine(10)] == [b"3"]
