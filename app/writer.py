"""Group commit: whatever came in during one round trip to the store goes out with the next one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

from app.errors import NothingWritten, StoreUnavailable, TooManyRequests
from app.store import Cursor, Store, StoredEntry

MAX_PENDING_BYTES = 64 * 2**20


class _Append(NamedTuple):
    payload: bytes
    tag: str
    appended: asyncio.Future[Cursor]


class Writer:
    """Appends entries in the order they came; never sends one twice.

    `on_failure` is told when the store does not answer, `on_appended` what it has taken, before
    anybody else hears of it; `end` says what the log must have.
    """

    def __init__(
        self,
        store: Store,
        *,
        on_failure: Callable[[], None],
        on_appended: Callable[[Sequence[StoredEntry]], None],
        end: Callable[[], Cursor],
    ) -> None:
        self._store = store
        self._on_failure = on_failure
        self._on_appended = on_appended
        self._end = end
        self._queue: asyncio.Queue[_Append] = asyncio.Queue()
        self._n_pending_bytes = 0

    def put(self, payload: bytes, tag: str) -> asyncio.Future[Cursor]:
        """Return what will be the entry's cursor, once that is durable.

        Raises TooManyRequests. The future has NothingWritten, or StoreUnavailable where the outcome
        is unknown.
        """
        if self._n_pending_bytes + len(payload) > MAX_PENDING_BYTES:
            raise TooManyRequests("too much is waiting to be written; try again in a second")
        self._n_pending_bytes += len(payload)
        appended: asyncio.Future[Cursor] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait(_Append(payload, tag, appended))
        return appended

    async def append(self, payload: bytes, tag: str) -> Cursor:
        """Return the entry's cursor once it is durable; raises what `put` says."""
        return await self.put(payload, tag)

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            batch = [await self._queue.get()]
            await asyncio.sleep(0)  # for those who are about to: a write for each costs more
            while not self._queue.empty():
                batch.append(self._queue.get_nowait())
            try:
                cursors = await self._store.append(
                    [(a.payload, a.tag) for a in batch], after=self._end()
                )
            except StoreUnavailable as error:
                self._n_pending_bytes -= sum(len(a.payload) for a in batch)
                self._on_failure()
                for append in batch:
                    if not append.appended.done():
                        append.appended.set_exception(_failure(error))
                continue
            self._n_pending_bytes -= sum(len(a.payload) for a in batch)
            pairs = zip(batch, cursors, strict=True)
            self._on_appended([StoredEntry(at, a.payload, a.tag) for a, at in pairs])
            for append, cursor in zip(batch, cursors, strict=True):
                if not append.appended.done():
                    append.appended.set_result(cursor)


def _failure(error: StoreUnavailable) -> StoreUnavailable:
    """Return what one who waits is told: an error for each, as a raised one keeps its frames."""
    if isinstance(error, NothingWritten):
        return NothingWritten(error.message)
    return StoreUnavailable(
        f"{error.message}; what was sent may be in the log all the same:"
        " send it again with the same event ids"
    )
