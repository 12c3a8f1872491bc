"""Bugs that the simulation has to find, planted by subclasses: none of them is in the product."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from app.clock import Clock
from app.engine import Engine, Outcome
from app.errors import StoreUnavailable
from app.events import Entry, Record
from app.ingest import Ingest
from app.settings import Settings
from app.store import BEGINNING, Cursor
from learners.ids import State
from tests.simulation.loop import Owner
from tests.simulation.store import Client
from tests.simulation.world import Parts, make_ingest, start_copy


class AcknowledgesBeforeAppend(Ingest):
    """Answers ack=log when the entry is on its way to the store."""

    async def submit_only(self, records: Sequence[Record], *, arrival_ms: int) -> Cursor:
        """Append in the background."""
        append = self._put(records, arrival_ms, self._next_tag())
        self._tasks.append(asyncio.create_task(_ignoring_outages(append)))
        return self.engine.cursor


async def _ignoring_outages(append: Any) -> None:
    with contextlib.suppress(StoreUnavailable):
        await append


class ForgetsIds(Ingest):
    """Has no memory of event ids."""

    async def _in_slices(
        self, entries: Sequence[tuple[Entry, Cursor]], state: State | None, done: list[Outcome]
    ) -> None:
        self.engine.admission._ids.clear()
        await super()._in_slices(entries, state, done)


class NamesSnapshotsTooLate(Ingest):
    """Names a snapshot by the end of the log, which may not be applied yet."""

    @asynccontextmanager
    async def whole(self) -> AsyncIterator[Engine]:
        """Lend an engine that is said to be further than it is."""
        async with super().whole() as engine:
            applied = engine.cursor
            engine.cursor = await self.store.last_cursor()
            try:
                yield engine
            finally:
                engine.cursor = applied


class LosesQuarantine(Ingest):
    """Tries only once to write what is set aside."""

    async def _flush_quarantine(self) -> None:
        batch, self._unwritten_quarantine = self._unwritten_quarantine, []
        if batch:
            await self.store.append_quarantine(batch)


class KeepsTheTail(Ingest):
    """Never gives back what the store has forgotten."""

    async def _restore_tail(self, *, also_unread: bool) -> None:
        return None


class ReadsTooEarly(Ingest):
    """Answers a read that waits for a cursor without waiting."""

    async def wait_for(self, cursor: Cursor, timeout_s: float) -> bool:
        """Say that it is here."""
        return True


class SendsAppendsTwice(Client):
    """Sends an append again when it fails, as a client library does by default."""

    async def append(
        self, payloads: Sequence[tuple[bytes, str]], *, after: Cursor = BEGINNING
    ) -> list[Cursor]:
        """Try two times."""
        try:
            return await super().append(payloads, after=after)
        except StoreUnavailable:
            return await super().append(payloads, after=after)


class AppendsToAnyLog(Client):
    """Does not ask whether the log, or the server, is the one that it was."""

    async def append(
        self, payloads: Sequence[tuple[bytes, str]], *, after: Cursor = BEGINNING
    ) -> list[Cursor]:
        """Append after whatever there is."""
        self.is_new, self._number = False, self.server.number
        return await super().append(payloads)


class TrimsTooFar(Client):
    """Trims the log up to its end."""

    async def trim(self, before: Cursor, *, snapshot_id: str | None = None) -> bool:
        """Trim more than asked for."""
        return await super().trim(max(before, self.server.data.last), snapshot_id=snapshot_id)


class TrustsItsPlace(Client):
    """Reads on from a cursor without looking whether the log still has it."""

    def check_place(self, after: Cursor, floor: Cursor, *, is_there: bool) -> None:
        """See nothing wrong."""


def _ingest(kind: type[Ingest]) -> Parts:
    def make(store: Client, settings: Settings, clock: Clock) -> Ingest:
        return kind(store, settings, clock=clock, start_copy=start_copy)

    return Parts(ingest=make)


def _client(kind: type[Client]) -> Parts:
    def make(server: Any, owner: Owner, timeout_s: float) -> Client:
        return kind(server, owner, timeout_s)

    return Parts(make_ingest, make)


# Each with whether it takes a store that forgets to see it, and how many replicas (None: any).
PLANTED: dict[str, tuple[Parts, bool, int | None]] = {
    "acknowledged before it is appended": (_ingest(AcknowledgesBeforeAppend), False, None),
    "no memory of event ids": (_ingest(ForgetsIds), False, None),
    "a snapshot under a later cursor than its content": (_ingest(NamesSnapshotsTooLate), False, 2),
    "quarantined events written at most once": (_ingest(LosesQuarantine), False, 1),
    "reads that do not wait": (_ingest(ReadsTooEarly), False, None),
    "appends sent twice": (_client(SendsAppendsTwice), False, None),
    "the log trimmed too far": (_client(TrimsTooFar), False, None),
    "the log not given back": (_ingest(KeepsTheTail), True, None),
    "appends to a log that has lost entries": (_client(AppendsToAnyLog), True, None),
    "reads on where the log has lost entries": (_client(TrustsItsPlace), True, None),
}
