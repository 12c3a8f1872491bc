"""The answer to the last command of a snapshot is lost."""

from __future__ import annotations

import pytest

from app.errors import StoreUnavailable
from app.settings import Settings
from app.store import Store
from tests.faults.proxy import Moment, Proxy, Trap
from tests.faults.servers import Server

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """Run on asyncio."""
    return "asyncio"


@pytest.mark.parametrize("moment", ["before", "done"])
async def test_a_snapshot_that_nobody_knows_to_be_there_is_whole_or_not_there(
    moment: Moment,
) -> None:
    """Whoever wrote it takes back what it wrote only if there is no manifest of it."""
    server = Server().start()
    proxy = Proxy(server.socket)
    store = Store(proxy.url, Settings(redis_url=proxy.url, namespace="test", store_timeout_s=5))
    try:
        await store.open()
        [cursor] = await store.append([(b"a", "")])
        trap = proxy.trap = Trap("EVAL epoch", moment, lambda: None)
        writer = store.snapshot_writer(cursor)
        await writer.add(b"chunk")
        with pytest.raises(StoreUnavailable):
            await writer.finish({"id": cursor})
        await writer.abandon()  # as all do who write one
        assert trap.is_sprung.is_set()
        is_there = await store.has_snapshot(cursor)
        assert is_there == (moment == "done")
        if is_there:
            assert [chunk async for chunk in store.read_chunks(cursor)] == [b"chunk"]
        else:
            with server.client() as raw:
                assert not raw.keys("*snapshot*")
    finally:
        await store.close()
        proxy.close()
        server.close()
