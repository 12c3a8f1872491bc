"""Forgetting somebody exactly: the log is written anew as if they had never been here.

What everybody is served from was learned from their events, too. So the log is copied without
them, an engine learns from the copy what it would have learned, and both take the place of what
there was, while the service goes on. Then quarantine, archive and the store's files are cleared.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import orjson

from app import archive, events, snapshot
from app.archive import Archive
from app.engine import Engine, begun
from app.errors import Conflict, LogTrimmed, NotFound
from app.events import Command, Entry, Record
from app.keeper import read_snapshot
from app.settings import Settings
from app.snapshot import Chunks, Manifest
from app.store import BEGINNING, END, Cursor, Rewrite, Store, StoredEntry, following, parse_cursor
from learners.ids import State

logger = logging.getLogger(__name__)

PAGE = 256
# By then every replica has seen that the log is another, and writes nothing of the old one.
SETTLED_S = 3.0

OnProgress = Callable[[str, Cursor, Cursor], None]
"""Told what is being done, how far it is, and where it ends."""


@dataclass(frozen=True)
class Forgotten:
    """What forgetting did. Not exact: the log's beginning is gone, shared counts keep the user."""

    is_exact: bool
    n_records: int
    cursor: Cursor
    hashes: dict[str, str]


class _Start(NamedTuple):
    """What the engine is rebuilt from: the first entries, kept elsewhere than in the log."""

    is_exact: bool
    engine: Engine | None
    entries: Callable[[], Iterator[StoredEntry]]


def without(entry: Entry, user_id: str) -> Entry:
    """Return an entry without what is about a user. One that was all about them stays, empty."""
    kept = [record for record in entry.records if not is_about(record, user_id)]
    return Entry(kept, entry.arrival_ms, entry.version)


def is_about(record: Record, user_id: str) -> bool:
    """Tell whether a record names a user; of what could not be read, whether it may."""
    if isinstance(record, events.Malformed):
        return _names(record.excerpt, user_id) or _names(record.event_id or "", user_id)
    return getattr(record, "user_id", None) == user_id


def _names(text: str, user_id: str) -> bool:
    """Tell whether an id stands in a text by itself, and not in a longer word."""
    return re.search(rf"(?<![\w-]){re.escape(user_id)}(?![\w-])", text) is not None


class Forgetting:
    """Rewrites one log without one user. `run` may be called while services follow it."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        user_id: str,
        on_progress: OnProgress = lambda what, at, end: None,
    ) -> None:
        self._store = store
        self._settings = settings
        self._user_id = user_id
        self._on_progress = on_progress
        self._n_records = 0
        self._restored: set[str] = set()
        self._states: dict[str, tuple[Manifest, Chunks]] = {}

    async def run(self) -> Forgotten:
        """Do it, and return what was done. Nothing has changed where it raises."""
        rewrite = self._store.rewrite()
        try:
            last = await self._copy(rewrite, BEGINNING)
            start = await self._start()
            engine = await self._rebuild(rewrite, start)
            await self._write_snapshot(rewrite, engine)
            hashes, cursor = engine.hashes(), engine.cursor
            while not await rewrite.replace(last):
                last = await self._copy(rewrite, last)
        except BaseException:
            await rewrite.abandon()
            raise
        await self._clear()
        return Forgotten(start.is_exact, self._n_records, cursor, hashes)

    # -- the log ------------------------------------------------------------------------------

    async def _copy(self, rewrite: Rewrite, after: Cursor) -> Cursor:
        """Copy what the log has after a cursor, without the user; return the last cursor."""
        end = await self._store.last_cursor()
        first = after
        if after == BEGINNING:
            first = await self._store.first_cursor() or BEGINNING
        else:
            first = following(after)
        while page := await self._store.read_between(first, END, count=PAGE):
            await rewrite.add([self._filtered(stored) for stored in page])
            after = page[-1].cursor
            first = following(after)
            self._on_progress("copying the log", after, end)
        return after

    def _filtered(self, stored: StoredEntry) -> StoredEntry:
        entry = events.decode(stored.payload)
        self._restored |= set(_restored_ids(entry))
        kept = without(entry, self._user_id)
        n = len(entry.records) - len(kept.records)
        self._n_records += n
        return stored._replace(payload=events.encode(kept)) if n else stored

    async def _start(self) -> _Start:
        """Return what comes before the copy: nothing, the archive, or the oldest snapshot."""
        try:
            await self._store.read_between(BEGINNING, END, count=1)
            return _Start(True, None, lambda: iter(()))
        except LogTrimmed:
            pass
        first = await self._store.first_cursor()
        if first is None:
            raise NotFound("the log is empty")
        files, upcoming = await asyncio.to_thread(self._archived, first)
        if upcoming is not None and parse_cursor(upcoming) >= parse_cursor(first):

            def archived() -> Iterator[StoredEntry]:
                for file in files:
                    for stored in file.entries():
                        if parse_cursor(stored.cursor) < parse_cursor(first):
                            self._restored |= set(_restored_ids(events.decode(stored.payload)))
                            yield stored

            return _Start(True, None, archived)
        for manifest in await self._store.list_snapshots():
            if parse_cursor(manifest["id"]) >= parse_cursor(first):
                engine = Engine.from_state(await read_snapshot(self._store, manifest["id"]))
                forget = Entry([events.UserDelete(self._user_id)])
                engine.apply(forget, engine.cursor)
                return _Start(False, engine, lambda: iter(()))
        raise NotFound("the log has been trimmed, and no snapshot is there from which it goes on")

    def _archived(self, first: Cursor) -> tuple[list[archive.ArchiveFile], Cursor | None]:
        settings = self._settings
        if not settings.archive_dir:
            return [], None
        return Archive(Path(settings.archive_dir), settings.namespace).chain(BEGINNING, first)

    # -- the engine ---------------------------------------------------------------------------

    async def _rebuild(self, rewrite: Rewrite, start: _Start) -> Engine:
        engine = start.engine
        end = await self._store.last_cursor()
        for stored in start.entries():
            engine = await self._apply(engine, self._filtered_again(stored))
            self._on_progress("learning again", engine.cursor, end)
        at = BEGINNING if engine is None else engine.cursor
        async for stored in _all(rewrite, at):
            engine = await self._apply(engine, stored)
            self._on_progress("learning again", engine.cursor, end)
        if engine is None:
            raise NotFound("the log is empty")
        return engine

    def _filtered_again(self, stored: StoredEntry) -> StoredEntry:
        kept = without(events.decode(stored.payload), self._user_id)
        return stored._replace(payload=events.encode(kept))

    async def _apply(self, engine: Engine | None, stored: StoredEntry) -> Engine:
        entry = events.decode(stored.payload)
        engine = engine or begun(entry)
        state: State | None = None
        for snapshot_id in _restored_ids(entry):
            state = await self._state_at(snapshot_id)
        engine.apply(entry, stored.cursor, state)
        # What a command further on puts back must be as it would have been, too.
        if stored.cursor in self._restored:
            self._states[stored.cursor] = snapshot.dump(engine.state(), stored.cursor)
        return engine

    async def _state_at(self, snapshot_id: str) -> State:
        if snapshot_id in self._states:
            return snapshot.load([self._states[snapshot_id]])
        return await read_snapshot(self._store, snapshot_id)  # from before what is left of the log

    async def _write_snapshot(self, rewrite: Rewrite, engine: Engine) -> None:
        writer = rewrite.snapshot_writer(engine.cursor)
        manifest, chunks = await asyncio.to_thread(snapshot.dump, engine.state(), engine.cursor)
        try:
            for chunk in chunks:
                await writer.add(chunk)
            if not await writer.finish(manifest):
                raise Conflict("there is a snapshot already")
        except BaseException:
            await writer.abandon()
            raise

    # -- everywhere else ----------------------------------------------------------------------

    async def _clear(self) -> None:
        """Delete what quarantine, archive and the store's own files have of the user."""
        await self._store.rewrite_quarantine(self._is_others)
        settings = self._settings
        if settings.archive_dir:
            folder = Path(settings.archive_dir)
            await asyncio.to_thread(
                archive.rewrite, folder, settings.namespace, self._without_archived
            )
        await asyncio.sleep(SETTLED_S)
        await self._store.rewrite_quarantine(self._is_others)
        await self._store.compact()

    def _without_archived(self, stored: StoredEntry) -> StoredEntry:
        kept = without(entry := events.decode(stored.payload), self._user_id)
        n = len(entry.records) - len(kept.records)
        return stored._replace(payload=events.encode(kept)) if n else stored

    def _is_others(self, data: bytes) -> bool:
        event = orjson.loads(data)["event"]
        if "user_id" in event:
            return bool(event["user_id"] != self._user_id)
        return not any(_names(str(value), self._user_id) for value in event.values())


def _restored_ids(entry: Entry) -> list[str]:
    """Return the snapshots that an entry's commands put back."""
    return [
        record.snapshot_id
        for record in entry.records
        if isinstance(record, Command) and record.name == "restore" and record.snapshot_id
    ]


async def _all(rewrite: Rewrite, after: Cursor) -> AsyncIterator[StoredEntry]:
    while page := await rewrite.read(after, count=PAGE):
        for stored in page:
            yield stored
        after = page[-1].cursor
