"""A replica goes over to a log that was rewritten, whatever fails or happens on the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis

from app.errors import Conflict
from app.forgetting import Forgetting
from app.forked import Work
from app.ingest import Ingest
from app.keeper import StartCopy
from app.settings import Settings
from app.store import BEGINNING, Store
from tests.factories import SMALL, mixed
from tests.integration.service import batches

pytestmark = pytest.mark.anyio
Eventually = Callable[[Callable[[], bool]], Awaitable[None]]
OpenStore = Callable[..., Awaitable[Store]]

WHO = "u1"
KEYS = "log", "snapshots", "epoch"
LOG, SNAPSHOTS, EPOCH = (f"sluice:{{test}}:{name}" for name in KEYS)


@pytest.fixture
def url(start_external: Callable[..., str], valkey_server: Any) -> str:
    """A store that is nobody's own."""
    return start_external(valkey_server, "--appendonly", "yes")


def settings(url: str) -> Settings:
    """Return the settings of small replicas."""
    return Settings(**{**SMALL, "redis_url": url, "namespace": "test"})


@asynccontextmanager
async def running(
    store: Store, url: str, start_copy: StartCopy | None = None
) -> AsyncIterator[Ingest]:
    """Follow the log, as a service does."""
    ingest = Ingest(store, settings(url), start_copy=start_copy)
    await ingest.start()
    try:
        for batch in batches(mixed(200), 20):
            await ingest.submit(batch, arrival_ms=10**13)
        yield ingest
    finally:
        await ingest.stop()


async def prepare(store: Store, url: str, *, n_behind: int = 0) -> tuple[str, str]:
    """Prepare a log without somebody; return the keys of it and of its snapshot.

    The snapshot leaves out so many of the last entries.
    """
    forgetting, rewrite = Forgetting(store, settings(url), WHO), store.rewrite()
    await forgetting._identify()
    await forgetting._copy(rewrite, BEGINNING)
    engine, entries = None, await rewrite.read(BEGINNING, count=1_000)
    for stored in entries[: len(entries) - n_behind]:
        engine = await forgetting._apply(engine, stored)
    assert engine is not None
    await forgetting._write_snapshot(rewrite, engine)
    return rewrite._log, rewrite._manifests


def knows(ingest: Ingest) -> bool:
    """Tell whether a replica knows who is to be forgotten."""
    return WHO in ingest.engine.history.users


async def test_nobody_goes_on_with_the_old_state_in_the_new_log(
    open_store: OpenStore, url: str, eventually: Eventually
) -> None:
    """While the new log's snapshot cannot be read, nothing of that log is applied or written."""
    store, other = await open_store(url), await open_store(url)
    async with running(store, url) as ingest:
        log, snapshots = await prepare(other, url)
        with redis.Redis.from_url(url) as raw:
            # No await in between: the replica sees the new log with snapshots that are none.
            raw.rename(log, LOG)
            raw.set(SNAPSHOTS, "no hash")
            raw.set(EPOCH, 1)
            raw.config_resetstat()
            await eventually(lambda: int(calls(raw)["failed_calls"]) > 1)
            assert store.epoch == b"0"
            raw.rename(snapshots, SNAPSHOTS)
        await eventually(lambda: not knows(ingest))
        assert ingest.stopped is None
        await ingest.submit(mixed(220)[200:], arrival_ms=10**13)


def calls(raw: Any) -> dict[str, Any]:
    """Return what the server says of the reading of snapshots."""
    return dict(raw.info("commandstats").get("cmdstat_hgetall", {"failed_calls": 0}))


@pytest.mark.parametrize("n_behind", [0, 1])
async def test_no_snapshot_of_the_old_log_comes_into_the_new(
    open_store: OpenStore, url: str, eventually: Eventually, n_behind: int
) -> None:
    """One that was begun before is neither written nor taken for what the new one should be."""
    store, other = await open_store(url), await open_store(url)
    is_copying, go_on = asyncio.Event(), asyncio.Event()

    async def copy(work: Work) -> AsyncIterator[bytes]:
        frames = list(work())
        is_copying.set()
        await go_on.wait()
        return each(frames)

    async with running(store, url, copy) as ingest:
        log, snapshots = await prepare(other, url, n_behind=n_behind)
        writing = asyncio.create_task(ingest.keeper.write())
        await is_copying.wait()
        with redis.Redis.from_url(url) as raw:
            raw.rename(log, LOG)
            raw.rename(snapshots, SNAPSHOTS)
            raw.set(EPOCH, 1)
            await eventually(lambda: store.epoch == b"1")
            there = raw.hkeys(SNAPSHOTS)
            go_on.set()
            with pytest.raises(Conflict, match="the log has been re"):
                await writing
            assert raw.hkeys(SNAPSHOTS) == there
        assert ingest.stopped is None


async def each(frames: list[bytes]) -> AsyncIterator[bytes]:
    """Yield them one by one."""
    for frame in frames:
        yield frame


class Watched(Store):
    """A store that does something once its snapshots have been listed."""

    def __init__(self, url: str, settings: Settings) -> None:
        super().__init__(url, settings)
        self.on_listed: Callable[[], Any] = lambda: None

    async def list_snapshots(self) -> list[dict[str, Any]]:
        """Return the manifests."""
        found = await super().list_snapshots()
        self.on_listed()
        return found


async def test_rewritten_once_more_while_it_is_read(
    open_store: OpenStore, url: str, eventually: Eventually
) -> None:
    """Where many are forgotten one after the other, a replica goes over to the last log."""
    store, other = Watched(url, settings(url)), await open_store(url)
    await store.open()
    async with running(store, url) as ingest:
        log, snapshots = await prepare(other, url)
        with redis.Redis.from_url(url) as raw:
            store.on_listed = lambda: raw.set(EPOCH, 2)
            raw.rename(log, LOG)
            raw.rename(snapshots, SNAPSHOTS)
            raw.set(EPOCH, 1)
            await eventually(lambda: store.epoch == b"2" or ingest.stopped is not None)
        assert ingest.stopped is None
        assert not knows(ingest)
        await ingest.submit(mixed(220)[200:], arrival_ms=10**13)
    await store.close()
