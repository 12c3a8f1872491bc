"""A snapshot that a command is to restore stays there until it has."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from app.errors import NotFound
from app.ingest import Ingest
from app.settings import Settings
from app.store import Cursor, Store
from tests.factories import SMALL, mixed

pytestmark = pytest.mark.anyio


class Pinning(Store):
    """A store in which somebody pins a snapshot while the log is trimmed."""

    wanted: str | None = None

    async def trim(self, before: Cursor, *, snapshot_id: str | None = None) -> bool:
        """Trim the log."""
        is_done = await super().trim(before, snapshot_id=snapshot_id)
        if self.wanted is not None:
            await self.pin_snapshot(self.wanted)
        return is_done


async def test_pinned_while_the_old_ones_are_looked_at(
    start_external: Callable[..., str], valkey_server: Any
) -> None:
    """One that is pinned just before it would be deleted is kept, with all that it builds on."""
    url = start_external(valkey_server)
    settings = Settings(**{**SMALL, "redis_url": url, "namespace": "test", "snapshots_keep": 3})
    store = Pinning(url, settings)
    await store.open()
    ingest = Ingest(store, settings)
    await ingest.start()
    ids: list[str] = []
    try:
        for n in range(7):
            await ingest.submit(mixed(10 * n + 10)[10 * n :], arrival_ms=10**13)
            if n == 4:  # the next one but one deletes this one's oldest
                store.wanted = ids[1]
            ids.append((await ingest.keeper.write())["id"])
            there = {manifest["id"]: manifest["base"] for manifest in await store.list_snapshots()}
            assert {base for base in there.values() if base is not None} <= there.keys()
    finally:
        await ingest.stop()
        await store.close()
    assert ids[1] in there
    assert len(there) < len(ids)


async def test_pinned_or_deleted_and_never_both(store: Store) -> None:
    """Whoever pins a snapshot while it is deleted is told that it is gone, or it is not."""
    for n in range(1, 21):
        snapshot_id = f"{n}-0"
        await store.write_snapshot({"id": snapshot_id}, [b"a"])
        pinned, is_gone = await asyncio.gather(
            store.pin_snapshot(snapshot_id),
            store.delete_snapshot(snapshot_id, even_pinned=False),
            return_exceptions=True,
        )
        assert is_gone == isinstance(pinned, NotFound)
        assert await store.has_snapshot(snapshot_id) != is_gone
        assert await store.delete_snapshot(snapshot_id)
