"""The state as it was at a cursor: the newest snapshot from before it, and the log from there.

Where the log has been trimmed, the archive goes on. Nothing is written, so it works beside a
running service; and since the state is a function of the log, what comes out is exactly what was.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable

from app import events
from app.archive import Archive, ArchiveFile
from app.engine import Engine, begun
from app.errors import (
    InvalidRequest,
    LogTrimmed,
    NotFound,
    SnapshotRefused,
    StoreUnavailable,
)
from app.events import Command, Entry, format_time, parse_time
from app.keeper import read_engine, read_snapshot
from app.store import BEGINNING, END, MAX_SEQ, Cursor, Store, StoredEntry, following, parse_cursor
from learners.ids import State

READ_COUNT = 64

logger = logging.getLogger(__name__)

OnEntry = Callable[[Engine], None]
"""Told after each entry that was applied."""


class Past:
    """The past of one log, as far as it is kept: in the store, in the archive, or in both.

    With `from_beginning` no snapshot is used: what comes out then proves what snapshots hold.
    """

    def __init__(
        self,
        store: Store | None,
        archive: Archive | None,
        *,
        from_beginning: bool = False,
    ) -> None:
        self.on_entry: OnEntry = lambda engine: None
        # Of the last engine: the snapshot that it came from, and the events that this one had.
        self.begun_at, self.n_before = BEGINNING, 0
        self._store = store
        self._archive = archive
        self._from_beginning = from_beginning

    # -- what there is ------------------------------------------------------------------------

    async def moment(self, text: str | None) -> Cursor:
        """Return the cursor that a text means: itself, the last one until a time, or the end.

        Raises InvalidRequest for other texts, and NotFound for what is still to come.
        """
        last = await self._last()
        if text is None:
            return last
        try:
            parse_cursor(text)
            return text
        except InvalidRequest:
            pass
        try:
            time_ms = parse_time(text)
        except ValueError:
            raise InvalidRequest(
                f"{text[:64]!r} is neither a cursor (<milliseconds>-<sequence>)"
                " nor a time (RFC 3339, with a time zone)"
            ) from None
        if time_ms > time.time() * 1_000:
            raise NotFound(f"{text} is still to come")
        return min(f"{time_ms}-{MAX_SEQ}", last, key=parse_cursor)

    async def check(self, at: Cursor) -> None:
        """Raise NotFound if the state at a cursor cannot be had any more, or cannot yet."""
        last = await self._last()
        if parse_cursor(at) > parse_cursor(last):
            raise NotFound(f"there is no {_shown(at)} yet: the log ends at {_shown(last)}")
        newest = next(iter(await self._snapshots(at)), None)
        if newest is not None and (newest == at or await self._goes_on(newest, at)):
            return
        beginning = await self._beginning(at)
        if beginning is None or parse_cursor(at) < parse_cursor(beginning):
            raise NotFound(await self._why_not(at, beginning))

    async def _goes_on(self, snapshot_id: str, at: Cursor) -> bool:
        """Tell whether what came after a snapshot is kept: one may be older than the log."""
        try:
            if self._store is not None:
                await self._store.read_between(snapshot_id, END, count=1)
                return True
        except LogTrimmed:
            pass
        if self._archive is None:
            return False
        _, upcoming = await asyncio.to_thread(self._archive.chain, snapshot_id, at)
        return upcoming is not None

    async def _last(self) -> Cursor:
        """Return the last cursor; the log's, or with nothing but an archive, the archive's."""
        if self._store is not None:
            return await self._store.last_cursor()
        return BEGINNING if self._archive is None else self._archive.last

    async def _snapshots(self, at: Cursor) -> list[str]:
        """Return the snapshots until a cursor that may be used, the newest first."""
        if self._store is None or self._from_beginning:
            return []
        ids: list[str] = [manifest["id"] for manifest in await self._store.list_snapshots()]
        return [id_ for id_ in reversed(ids) if parse_cursor(id_) <= parse_cursor(at)]

    async def _beginning(self, at: Cursor) -> Cursor | None:
        """Return the cursor of the first entry that there ever was, if it is kept."""
        archive = self._archive
        try:
            if self._store is not None:
                found = await self._store.read_between(BEGINNING, END, count=1)
                return found[0].cursor if found else None
        except LogTrimmed:
            pass
        return None if archive is None else await asyncio.to_thread(archive.beginning, at)

    async def oldest(self, at: Cursor) -> Cursor | None:
        """Return where what is kept begins: BEGINNING, or the oldest snapshot that is continued.

        None if there is neither until a cursor.
        """
        if await self._beginning(at) is not None:
            return BEGINNING
        for snapshot_id in reversed(await self._snapshots(at)):
            if await self._goes_on(snapshot_id, at):
                return snapshot_id
        return None

    async def _why_not(self, at: Cursor, beginning: Cursor | None) -> str:
        """Say from where on states can be had."""
        first = None if self._store is None else await self._store.first_cursor()
        snapshots = await self._snapshots(END)
        going_on = [id_ for id_ in snapshots if parse_cursor(id_) >= parse_cursor(first or END)]
        oldest = beginning or (going_on[-1] if going_on else None)
        if oldest is not None:
            return f"the state at {_shown(at)} is not kept; the oldest that is, is {_shown(oldest)}"
        begins = "" if first is None else f": the log begins at {_shown(first)}"
        where = "" if self._archive is None else ", and the archive does not have its beginning"
        return (
            f"the state at {_shown(at)} cannot be had from the beginning of the log{begins}{where}"
        )

    # -- the state ----------------------------------------------------------------------------

    async def engine_at(self, at: Cursor) -> Engine:
        """Return the engine as it was when the last entry until a cursor had been applied.

        Raises NotFound where that is not kept.
        """
        await self.check(at)
        engine = await self._from_snapshot(at)
        if engine is not None:
            self.begun_at, self.n_before = engine.cursor, engine.n_events
        async for stored in self.entries(self.begun_at, at):
            entry = events.decode(stored.payload)
            engine = engine or begun(entry)
            engine.apply(entry, stored.cursor, await self.restored(entry))
            self.on_entry(engine)
        if engine is None:
            raise NotFound(f"the log has nothing until {_shown(at)}")
        return engine

    async def _from_snapshot(self, at: Cursor) -> Engine | None:
        """Return the engine of the newest snapshot until a cursor that verifies."""
        for snapshot_id in await self._snapshots(at):
            try:
                return await read_engine(self._usable_store(snapshot_id), snapshot_id)
            except (SnapshotRefused, NotFound, ValueError, KeyError, TypeError) as error:
                logger.warning("refused: %s; trying the next older one", error)
        return None

    def _usable_store(self, snapshot_id: str) -> Store:
        if self._store is None or self._from_beginning:
            raise NotFound(f"snapshot {snapshot_id} is not to be used")
        return self._store

    async def restored(self, entry: Entry) -> State | None:
        """Return the state that a restore command of the entry names: if need be, from the log."""
        for record in entry.records:
            if isinstance(record, Command) and record.name == "restore" and record.snapshot_id:
                try:
                    return await read_snapshot(
                        self._usable_store(record.snapshot_id), record.snapshot_id
                    )
                except (NotFound, SnapshotRefused):
                    past = Past(self._store, self._archive, from_beginning=self._from_beginning)
                    return (await past.engine_at(record.snapshot_id)).state()
        return None

    # -- entries ------------------------------------------------------------------------------

    async def entries(self, after: Cursor, until: Cursor) -> AsyncIterator[StoredEntry]:
        """Yield the entries after a cursor, as far as another one, from wherever they are kept."""
        here = after
        while parse_cursor(here) < parse_cursor(until):
            page: list[StoredEntry] = []
            try:
                page = await self._page(here)
            except LogTrimmed as error:
                found = self._archived(here, until, str(error))
            else:
                found = _each(page)
            is_over = True
            async for stored in found:
                if parse_cursor(stored.cursor) > parse_cursor(until):
                    return
                here, is_over = stored.cursor, False
                yield stored
            if is_over:
                return

    async def _page(self, after: Cursor, count: int = READ_COUNT) -> list[StoredEntry]:
        """Read on; where many large entries are too much for one deadline, fewer at a time."""
        if self._store is None:
            raise LogTrimmed("there is no log but the archive")
        while True:
            try:
                return await self._store.read(after, block_ms=0, count=count)
            except StoreUnavailable:
                if count == 1:
                    raise
                count //= 2

    async def _archived(self, after: Cursor, until: Cursor, why: str) -> AsyncIterator[StoredEntry]:
        """Yield what is archived after a cursor, and the entry with which the log goes on."""
        files: list[ArchiveFile] = []
        upcoming = None
        if self._archive is not None:
            files, upcoming = await asyncio.to_thread(self._archive.chain, after, until)
        if upcoming is None:
            raise NotFound(f"what came after {_shown(after)} is not kept: {why}")
        for file in files:
            for stored in file.entries():
                if parse_cursor(stored.cursor) > parse_cursor(after):
                    after = stored.cursor
                    yield stored
        if parse_cursor(upcoming) > parse_cursor(until):
            return
        going_on: list[StoredEntry] = []
        try:
            if self._store is not None:
                end = following(upcoming)
                going_on = await self._store.read_between(upcoming, end, count=1)
        except LogTrimmed as error:
            if files:
                return  # perhaps it has been trimmed just now, and is archived
            why = error.message
        if not going_on:
            raise NotFound(
                f"what came after {_shown(after)} is not kept: {why}, and the archive has a gap"
                " there"
            )
        for stored in going_on:
            yield stored


async def _each(page: list[StoredEntry]) -> AsyncIterator[StoredEntry]:
    for stored in page:
        yield stored


def _shown(cursor: Cursor) -> str:
    """Return a cursor for people: with its time."""
    if cursor == BEGINNING:
        return "the beginning"
    ms, seq = parse_cursor(cursor)
    if ms > events.MAX_TIME_MS:
        return cursor
    return format_time(ms) if seq == MAX_SEQ else f"{cursor} ({format_time(ms)})"
