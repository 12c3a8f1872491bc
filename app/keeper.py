"""Snapshots over time: when one is due, which are kept, and how far the log may be trimmed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from app import snapshot
from app.engine import Engine
from app.errors import NotFound, SluiceError, SnapshotRefused
from app.events import DAY_MS
from app.settings import SEMANTICS, Settings
from app.store import BEGINNING, Cursor, Store, parse_cursor
from learners.ids import State

logger = logging.getLogger(__name__)

WholeEngine = Callable[[], AbstractAsyncContextManager[Engine]]


async def read_snapshot(store: Store, snapshot_id: str) -> State:
    """Return a snapshot's state; raise NotFound or SnapshotRefused."""
    manifest, chunks = await store.read_snapshot(snapshot_id)
    return await asyncio.to_thread(snapshot.load, manifest, chunks)


class Keeper:
    """Writes snapshots in the background and trims the log behind the oldest one kept.

    `whole` lends the engine between two entries, with all that it set aside written.
    """

    def __init__(self, store: Store, settings: Settings, whole: WholeEngine) -> None:
        self.refused: list[str] = []
        self._refused_ids: set[str] = set()
        self._store = store
        self._settings = settings
        self._whole = whole
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._n_events = 0
        self._cursor = BEGINNING
        self._when = time.monotonic()

    async def restore_newest(self) -> Engine | None:
        """Return the engine of the newest snapshot that verifies, and note those that do not."""
        self.refused = []
        self._refused_ids = set()
        for manifest in reversed(await self._store.list_snapshots()):
            try:
                engine = Engine.from_state(await read_snapshot(self._store, manifest["id"]))
            except (SnapshotRefused, NotFound, ValueError, KeyError, TypeError) as error:
                self.refused.append(str(error))
                self._refused_ids.add(manifest["id"])
                logger.error("refused at start: %s; trying the next older one", error)
                continue
            self._note(engine.n_events, engine.cursor)
            logger.info("restored snapshot %s (%d events)", manifest["id"], engine.n_events)
            return engine
        return None

    def _note(self, n_events: int, cursor: Cursor) -> None:
        self._n_events, self._cursor = n_events, cursor
        self._when = time.monotonic()

    def write_if_due(self, n_events: int, cursor: Cursor) -> None:
        """Begin a snapshot in the background if enough events came, or anything in a while."""
        settings = self._settings
        n_new, age_s = n_events - self._n_events, time.monotonic() - self._when
        has_news = cursor != self._cursor
        is_due = n_new >= settings.snapshot_events or (has_news and age_s >= settings.snapshot_s)
        is_running = self._task is not None and not self._task.done()
        if is_due and age_s >= settings.snapshot_min_s and not is_running:
            self._task = asyncio.create_task(self._write_quietly())

    async def finish(self, cursor: Cursor) -> None:
        """Wait for a snapshot that is being written, and write a last one if there is news."""
        if self._task is not None:
            await self._task
        if cursor != self._cursor:
            await self._write_quietly()

    async def _write_quietly(self) -> None:
        self._when = time.monotonic()  # one that fails is not tried again at once, either
        try:
            await self.write()
        except SluiceError as error:
            logger.warning("no snapshot now: %s", error.message)
        except Exception:  # a snapshot that fails must not end the service
            logger.exception("no snapshot now, by a fault of ours")

    async def write(self) -> dict[str, Any]:
        """Write a snapshot of the present state and return its manifest."""
        async with self._lock:
            async with self._whole() as engine:
                # In a thread: learning waits for the copy, requests do not.
                state = await asyncio.to_thread(engine.state)
                cursor, restored = engine.cursor, dict(engine.restored)
            manifest, chunks = await asyncio.to_thread(snapshot.dump, state, cursor)
            if cursor in self._refused_ids:  # where a damaged one stands, there is a good one now
                await self._store.delete_snapshot(cursor)
                self._refused_ids.discard(cursor)
            await self._store.write_snapshot(manifest, chunks)
            self._note(manifest["n_events"], cursor)
            logger.info("snapshot %s: %d events", cursor, manifest["n_events"])
            await self._forget_old(restored)
            return manifest

    async def _forget_old(self, restored: dict[str, str]) -> None:
        """Keep the newest, and those that a command in the log restores; trim the log."""
        # One of a newer program is not ours to delete; one that is damaged is.
        ids = [
            manifest["id"]
            for manifest in await self._store.list_snapshots()
            if manifest.get("format", snapshot.FORMAT) == snapshot.FORMAT
            and manifest.get("semantics", SEMANTICS) == SEMANTICS
        ]
        good = [snapshot_id for snapshot_id in ids if snapshot_id not in self._refused_ids]
        kept = good[-self._settings.snapshots_keep :]
        oldest = parse_cursor(kept[0])
        still_named = {id_ for id_, command in restored.items() if parse_cursor(command) >= oldest}
        await self._store.trim(kept[0])
        kept_ms = round(self._settings.quarantine_days * DAY_MS)
        await self._store.trim_quarantine(time.time_ns() // 1_000_000 - kept_ms)
        for snapshot_id in ids:
            if snapshot_id in kept or snapshot_id in still_named:
                continue
            # One that was pinned for a command which may be further on in the log than we are.
            if not await self._store.is_pinned(snapshot_id):
                await self._store.delete_snapshot(snapshot_id)
