"""Somebody is forgotten exactly while the store's answers are lost."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app import archive, events, forgetting
from app.errors import ArchiveRefused, Conflict, StoreUnavailable
from app.events import Entry, UserMerge
from app.forgetting import Forgetting
from app.identity import is_named
from app.ingest import Ingest
from app.settings import Settings
from app.store import Store
from tests.factories import SMALL, click, mixed
from tests.faults.proxy import Moment, Proxy, Trap
from tests.faults.servers import Server
from tests.integration.service import batches, until

pytestmark = pytest.mark.anyio
WHO = "u1"


@pytest.fixture
def anyio_backend() -> str:
    """Run on asyncio."""
    return "asyncio"


@pytest.fixture
def server() -> Iterator[Server]:
    """A store with files of its own."""
    made = Server().start()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    """A store behind something that loses answers."""
    made = Proxy(server.socket)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(autouse=True)
def _settles_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forgetting, "SETTLED_S", 0.3)


def settings(proxy: Proxy, folder: Path) -> Settings:
    """Return those of a service and of whoever forgets."""
    own = {"redis_url": proxy.url, "namespace": "test", "archive_dir": str(folder)}
    return Settings(**{**SMALL, **own, "store_timeout_s": 5})


async def learn(url: str, settings: Settings) -> None:
    """Be a service for a while: afterwards there is a log, a snapshot, and what was set aside."""
    store = Store(url, settings)
    await store.open()
    ingest = Ingest(store, settings)
    await ingest.start()
    for batch in batches(mixed(200), 20):
        await ingest.submit(batch, arrival_ms=10**13)
    await ingest.stop()
    await store.close()


@pytest.mark.parametrize(
    ("step", "moment"),
    [
        ("EVAL log", "before"),
        ("EVAL log", "done"),
        ("GET epoch", "done"),
        ("EVAL quarantine", "done"),
        ("BGREWRITEAOF", "before"),
        ("BGREWRITEAOF", "done"),
        ("INFO", "before"),
    ],
)
async def test_an_answer_that_is_lost(
    server: Server, proxy: Proxy, tmp_path: Path, step: str, moment: Moment
) -> None:
    """Where the logs were swapped, it goes on from there; where not, nothing has changed."""
    given = settings(proxy, tmp_path)
    await learn(proxy.url, given)
    store = Store(proxy.url, given)
    await store.open()
    raw: Any = store._redis
    before = sorted(await raw.keys())
    trap = proxy.trap = Trap(step, moment, lambda: None)
    if (step, moment) == ("EVAL log", "before"):
        with pytest.raises(StoreUnavailable):
            await Forgetting(store, given, WHO).run()
        assert sorted(await raw.keys()) == before
    done = await Forgetting(store, given, WHO).run()
    assert trap.is_sprung.is_set()
    assert done.is_exact
    assert await store.find_epoch() == b"1"
    [snapshot] = await store.list_snapshots()
    assert snapshot["id"] == done.cursor
    records = await raw.hvals("sluice:{test}:snapshots")
    chunks = await raw.keys("sluice:{test}:snapshot:*")
    assert all(chunk.decode() in records[0].decode() for chunk in chunks)
    assert not [key for key in await raw.keys() if b":next:" in key]
    assert n_written(server) > 1
    await store.close()


async def test_a_server_that_has_lost_the_new_log_comes_in_between(
    server: Server, proxy: Proxy, tmp_path: Path
) -> None:
    """Nobody is told that the user is gone, and another time they are."""
    given = settings(proxy, tmp_path)
    await learn(proxy.url, given)
    before = tmp_path / "before"
    files = server.folder / "appendonlydir"
    shutil.copytree(files, before)

    def fall_back() -> None:
        server.kill()
        shutil.rmtree(files)
        shutil.copytree(before, files)
        server.start()

    proxy.trap = Trap("EVAL quarantine", "before", fall_back)
    store = Store(proxy.url, given)
    await store.open()
    with pytest.raises(Conflict, match="lost the log without 'u1'"):
        await Forgetting(store, given, WHO).run()
    await store.join_epoch()
    assert (await Forgetting(store, given, WHO).run()).is_exact
    await store.close()


async def test_what_is_left_is_told(
    proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a file of the archive cannot be read. Done again, it knows all ids there were."""
    given = settings(proxy, tmp_path)
    await learn(proxy.url, given)
    store = Store(proxy.url, given)
    await store.open()
    merge = Entry([UserMerge(WHO, "before-login")], 10**13)
    await store.append([(events.encode(merge), "")])

    def refuse(*_: Any) -> None:
        raise ArchiveRefused("it cannot be read")

    with monkeypatch.context() as patched:
        patched.setattr(archive, "rewrite", refuse)
        with pytest.raises(StoreUnavailable, match="do it again"):
            await Forgetting(store, given, WHO).run()
    assert await store.find_epoch() == b"1"
    again = Forgetting(store, given, WHO)
    await again.run()
    assert "before-login" in again._identity.ids
    assert await store.find_forgetting(WHO) is None
    await store.close()


async def test_files_that_are_being_written_anew_already(server: Server, proxy: Proxy) -> None:
    """They may have what has been deleted since: they are written once more."""
    store = Store(proxy.url, settings(proxy, server.folder))
    await store.open()
    with server.client() as raw:
        for i in range(20):
            raw.set(f"k{i}", "")
        raw.config_set("rdb-key-save-delay", 20_000)
        raw.bgrewriteaof()
        await store.compact()
    assert n_written(server) == 3
    await store.close()


def n_written(server: Server) -> int:
    """Return how often a server has written its file: anew, but for once."""
    [base] = server.folder.rglob("appendonly*.base.*")
    return int(base.name.split(".")[2])


async def test_what_a_service_holds_of_the_old_log_does_not_come_back(
    server: Server, proxy: Proxy, tmp_path: Path
) -> None:
    """The server has lost its last entry, and somebody was forgotten before a service returns.

    That says what is lost, and goes on with the new log.
    """
    await learn(server.url, settings(proxy, tmp_path))
    given = settings(proxy, tmp_path)
    store, other = Store(proxy.url, given), Store(server.url, given)
    await store.open()
    ingest = Ingest(store, given)
    await ingest.start()
    try:
        await ingest.submit([click(WHO, "i1")], arrival_ms=10**13)
        with proxy.broken("refuse"):
            server.kill()
            server.forget("XADD")
            server.start()
            await other.open()
            await Forgetting(other, given, WHO).run()
        await asyncio.to_thread(until, lambda: store.epoch == b"1" and ingest.is_store_up)
        assert ingest.n_restored == 0
        assert ingest.n_lost == 1
        with server.client() as raw:
            log = raw.xrange("sluice:{test}:log")
        assert not any(is_named(WHO, fields[b"e"].decode()) for _, fields in log)
        await ingest.submit(mixed(220)[200:], arrival_ms=10**13)
    finally:
        await ingest.stop()
        await store.close()
        await other.close()
