"""Forgetting somebody exactly: the log is written anew as if they had never been here.

What everybody is served from was learned from their events, too. So the log is copied without
them, an engine learns from the copy what it would have learned, and both take the place of what
there was, while the service goes on. Then quarantine, archive and the store's files are cleared.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import orjson

from app import archive, events, snapshot
from app.archive import Archive
from app.engine import Engine, begun
from app.errors import Conflict, LogTrimmed, NotFound, SluiceError, StoreUnavailable
from app.events import Command, Entry, Record, UserDelete
from app.identity import Identity, is_named
from app.keeper import read_engine, read_snapshot
from app.settings import Settings
from app.snapshot import Chunks, Manifest
from app.store import (
    BEGINNING,
    END,
    Cursor,
    Rewrite,
    Store,
    StoredEntry,
    following,
    insist,
    parse_cursor,
)
from learners.ids import State

logger = logging.getLogger(__name__)

PAGE = 256
# More than an entry has.
MAX_RECORDS = 2**31
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
        self._identity = Identity(user_id)
        self._on_progress = on_progress
        self._n_records = 0
        self._swapped_at = 0.0  # or later
        self._restored: set[str] = set()
        self._states: dict[str, tuple[Manifest, Chunks]] = {}

    async def run(self) -> Forgotten:
        """Do it, and return what was done.

        Nothing has changed where it raises, unless it says what is left to do.
        """
        rewrite = self._store.rewrite()
        try:
            await self._identify()
            last = await self._copy(rewrite, BEGINNING)
            start = await self._start()
            engine = await self._rebuild(rewrite, start)
            await self._write_snapshot(rewrite, engine)
            hashes, cursor = engine.hashes(), engine.cursor
            # The log, without the user, tells nobody any more which ids were theirs.
            await self._store.note_forgetting(self._user_id, self._identity.merges())
            self._swapped_at = time.monotonic()
            while not await rewrite.replace(last):
                last = await self._copy(rewrite, last)
                self._swapped_at = time.monotonic()
        except BaseException:
            if await rewrite.abandon():
                with contextlib.suppress(StoreUnavailable):
                    await self._store.end_forgetting(self._user_id)
            raise
        try:
            await self._clear()
            epoch = await insist(self._store.find_epoch)
        except (SluiceError, OSError) as error:
            raise StoreUnavailable(
                f"the log is without {self._user_id!r} by now, and all snapshots are; quarantine,"
                f" archive or the store's files may still have the user, as {error}: do it again"
            ) from None
        if int(epoch) < int(self._store.epoch):
            raise Conflict(
                f"the store has lost the log without {self._user_id!r}, and has the one from before"
                " again, as another server has taken its place: do it again"
            )
        return Forgotten(start.is_exact, self._n_records, cursor, hashes)

    # -- the log ------------------------------------------------------------------------------

    async def _identify(self) -> None:
        """Find out which ids were the user's, before they were merged."""
        if (noted := await self._store.find_forgetting(self._user_id)) is not None:
            self._identity.recall(noted)
        end = await self._store.last_cursor()
        first = await self._store.first_cursor() or BEGINNING
        while page := await self._store.read_between(first, END, count=PAGE):
            for stored in page:
                self._identity.note(stored.payload, parse_cursor(stored.cursor))
            first = following(page[-1].cursor)
            self._on_progress("looking for ids", page[-1].cursor, end)
        # Only then: what is trimmed from the log is in the archive before.
        await asyncio.to_thread(self._identify_archived)

    def _identify_archived(self) -> None:
        settings = self._settings
        if settings.archive_dir:
            for file in archive.files(Path(settings.archive_dir), settings.namespace):
                for stored in file.entries():
                    self._identity.note(stored.payload, parse_cursor(stored.cursor))

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
        entry, at = events.decode(stored.payload), parse_cursor(stored.cursor)
        if self._identity.note(stored.payload, at):
            raise Conflict(
                f"an id was merged into {self._user_id!r} meanwhile; nothing has changed: try again"
            )
        self._restored |= set(_restored_ids(entry))
        kept = self._identity.without(entry, at)
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
                engine = await read_engine(self._store, manifest["id"])
                engine.apply(Entry(self._deletions(manifest["id"])), engine.cursor)
                return _Start(False, engine, lambda: iter(()))
        raise NotFound("the log has been trimmed, and no snapshot is there from which it goes on")

    def _deletions(self, cursor: Cursor) -> list[Record]:
        """Return what makes a state as of a cursor forget the user, by every id of theirs."""
        at = (*parse_cursor(cursor), MAX_RECORDS)
        identity = self._identity
        return [UserDelete(id_) for id_ in identity.ids if identity.is_theirs(id_, at)]

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
        at = parse_cursor(stored.cursor)
        kept = self._identity.without(events.decode(stored.payload), at)
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
        await insist(self._clear_quarantine)
        await asyncio.sleep(SETTLED_S)
        settings = self._settings
        if settings.archive_dir:
            folder = Path(settings.archive_dir)
            await asyncio.to_thread(
                archive.rewrite, folder, settings.namespace, self._without_archived
            )
        await insist(self._clear_quarantine)
        await insist(lambda: self._store.sweep(lambda: time.monotonic() - self._swapped_at))
        await insist(lambda: self._store.end_forgetting(self._user_id))
        await insist(self._store.compact)

    async def _clear_quarantine(self) -> None:
        await self._store.rewrite_quarantine(self._is_others)

    def _without_archived(self, stored: StoredEntry) -> StoredEntry:
        entry = events.decode(stored.payload)
        kept = self._identity.without(entry, parse_cursor(stored.cursor))
        n = len(entry.records) - len(kept.records)
        return stored._replace(payload=events.encode(kept)) if n else stored

    def _is_others(self, data: bytes) -> bool:
        event, ids = orjson.loads(data)["event"], self._identity.ids
        if "user_id" in event:
            return event["user_id"] not in ids
        text = " ".join(str(value) for value in event.values())
        return not any(is_named(id_, text) for id_ in ids)


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
