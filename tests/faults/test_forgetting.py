"""Somebody is forgotten exactly while the store's answers are lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.errors import StoreUnavailable
from app.forgetting import Forgetting
from app.ingest import Ingest
from app.settings import Settings
from app.store import Store
from tests.factories import SMALL, mixed
from tests.faults.proxy import Moment, Proxy, Trap
from tests.faults.servers import Server
from tests.integration.service import batches

pytestmark = pytest.mark.anyio
WHO = "u1"


@pytest.fixture
def anyio_backend() -> str:
    """Run on asyncio."""
    return "asyncio"


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """A store behind something that loses answers."""
    server = Server().start()
    made = Proxy(server.socket)
    try:
        yield made
    finally:
        made.close()
        server.close()


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
        ("EVAL quarantine", "done"),
        ("BGREWRITEAOF", "done"),
        ("INFO", "before"),
    ],
)
async def test_an_answer_that_is_lost(
    proxy: Proxy, tmp_path: Path, step: str, moment: Moment
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
    await store.close()
