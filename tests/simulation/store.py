"""A model of the store: what `app.store` promises, in memory, with what can go wrong.

`Server` is the one place where commands take effect, one at a time; `Client` is a replica's
`Store`. Between them requests are refused, lost, late or never answered, and the server can forget
its last changes, as a failover or a crash does. It refuses to know what the bytes mean.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from app.errors import Conflict, LogTrimmed, NotFound, NothingWritten, StoreUnavailable
from app.store import (
    BEGINNING,
    CLAIM_TTL_S,
    Cursor,
    SnapshotWriter,
    Store,
    StoredEntry,
    parse_cursor,
    quarantine_id,
)
from tests.factories import START_MS
from tests.simulation.loop import Owner, SimulatedLoop

# Seconds: one way over the network, one way on a bad moment, between two commands of a pipeline.
HOP_S, SLOW_HOP_S, GAP_S = 0.001, 0.3, 0.002
# An everysec server has at most its last two seconds to lose.
FORGETS_S = 2.0

Operation = Callable[[], Any]


@dataclass(frozen=True)
class Data:
    """All that a server knows at one moment. `whole` is the log as if it were never trimmed."""

    log: tuple[StoredEntry, ...] = ()
    whole: tuple[StoredEntry, ...] = ()
    floor: Cursor = BEGINNING
    snapshots: dict[str, tuple[dict[str, Any], list[bytes]]] = field(default_factory=dict)
    quarantine: dict[str, bytes] = field(default_factory=dict)
    claims: dict[str, float] = field(default_factory=dict)

    @property
    def last(self) -> Cursor:
        """Return the last cursor that was given out."""
        return self.whole[-1].cursor if self.whole else BEGINNING

    def has(self, cursor: Cursor) -> bool:
        """Tell whether an entry is there."""
        return any(entry.cursor == cursor for entry in reversed(self.log))


@dataclass
class Faults:
    """How often a request goes wrong, and how."""

    rate: float = 0.0
    slow: float = 0.02
    kinds: tuple[str, ...] = ("refused", "lost", "late", "hang", "cut")


class _Request:
    """Commands on their way, of one client."""

    def __init__(self, operations: Sequence[Operation], reply: asyncio.Future[list[Any]]) -> None:
        self.operations = list(operations)
        self.reply = reply
        self.replies: list[Any] = []
        self.fault: str | None = None
        self.hop_s = 0.0
        self.wait_until = 0.0

    def fail(self, message: str) -> None:
        """Break the connection it is on."""
        self.operations.clear()
        if not self.reply.done():
            self.reply.set_exception(ConnectionError(message))


class Server:
    """The one server: applies commands in the order they arrive, to immutable data."""

    def __init__(self, loop: SimulatedLoop, chance: random.Random, faults: Faults) -> None:
        self.data = Data()
        self.faults = faults
        self.written: list[StoredEntry] = []
        self.on_written: Callable[[StoredEntry], None] | None = None
        self.on_change: Callable[[], None] = lambda: None
        self._past: list[tuple[float, Data]] = [(0.0, self.data)]
        self._loop = loop
        self._chance = chance
        self._context = Owner("store").context()
        self._pending: list[_Request] = []
        self._blocked: list[_Request] = []
        self._down_until = 0.0
        self.cut_until: dict[Owner, float] = {}
        # Another one after each failover: a client that connects asks for it.
        self.number = 1

    # -- the network ----------------------------------------------------------------------------

    def send(
        self, owner: Owner, operations: Sequence[Operation], block_s: float
    ) -> asyncio.Future[list[Any]]:
        """Send commands; the future gets their replies, or a ConnectionError, or nothing."""
        request = _Request(operations, self._loop.create_future())
        request.fault = self._draw_fault(owner)
        request.hop_s = self._draw_hop()
        arrives_s = self._draw_hop()
        if request.fault == "late":
            arrives_s += self._chance.uniform(0.0, 4.0)
        request.wait_until = self._loop.time() + arrives_s + block_s if block_s else 0.0
        self._pending = [r for r in self._pending if r.operations or not r.reply.done()]
        self._pending.append(request)
        if request.fault == "refused":
            self._later(arrives_s, request.fail, "connection refused")
        elif request.fault != "hang":
            self._later(arrives_s, self._execute, request)
        return request.reply

    def _draw_fault(self, owner: Owner) -> str | None:
        if self.cut_until.get(owner, 0.0) > self._loop.time():
            return self._chance.choice(["refused", "hang"])
        if self._chance.random() < self.faults.rate:
            return self._chance.choice(self.faults.kinds)
        return None

    def _draw_hop(self) -> float:
        is_slow = self._chance.random() < self.faults.slow
        return self._chance.random() * (SLOW_HOP_S if is_slow else HOP_S)

    def _later(self, delay_s: float, call: Callable[..., Any], *args: Any) -> None:
        self._loop.call_later(delay_s, call, *args, context=self._context)

    def _execute(self, request: _Request) -> None:
        """Carry out commands, now and then with those of others in between; send the replies."""
        if not request.operations:
            return  # its connection broke on the way
        if self._loop.time() < self._down_until:
            request.fail("connection refused: the server is down")
            return
        while request.operations:
            if request.wait_until > self._loop.time() and self._parks(request):
                return
            request.replies.append(request.operations.pop(0)())
            if request.fault == "cut" and self._chance.random() < 0.5:
                request.fail("connection reset in the middle")
                return
            if request.operations and self._chance.random() < 0.2:
                self._later(self._chance.random() * GAP_S, self._execute, request)
                return
        if request.fault == "lost":
            self._later(request.hop_s, request.fail, "connection reset before the reply")
        else:
            self._later(request.hop_s, _reply, request)

    def _parks(self, request: _Request) -> bool:
        """Keep a read that blocks until there is something, or its time is up."""
        if request.operations[0]() or request.reply.done():
            request.wait_until = 0.0
            return False
        if request not in self._blocked:
            self._blocked.append(request)
            self._later(request.wait_until - self._loop.time(), self._unblock, request)
        return True

    def _unblock(self, request: _Request) -> None:
        if request in self._blocked:
            self._blocked.remove(request)
            request.wait_until = 0.0
            self._execute(request)

    # -- incidents ------------------------------------------------------------------------------

    def go_down(self, for_s: float, *, is_silent: bool) -> None:
        """Break every connection and refuse new ones for a while.

        Silently: whoever waits for a reply waits on, as on a machine that is gone.
        """
        self._down_until = self._loop.time() + for_s
        pending, self._pending, self._blocked = self._pending, [], []
        for request in pending:
            request.operations.clear()
            if not is_silent:
                request.fail("connection reset")

    def forget(self, n_changes: int) -> list[StoredEntry]:
        """Become what it was some changes ago; return the entries that are lost."""
        oldest = self._loop.time() - FORGETS_S
        before = [data for when, data in self._past[-1 - n_changes : -1] if when >= oldest]
        had = self.data.whole
        self.number += 1
        if before:
            self.data = before[0]
            self._past.append((self._loop.time(), self.data))
        self.on_change()
        return [entry for entry in had if entry not in self.data.whole]

    # -- commands -------------------------------------------------------------------------------

    def change(self, **changes: Any) -> None:
        """Go over to other data."""
        self.data = replace(self.data, **changes)
        self._past.append((self._loop.time(), self.data))
        self.on_change()
        for request in self._blocked:
            self._later(0.0, self._unblock_if_there, request)

    def _unblock_if_there(self, request: _Request) -> None:
        if request in self._blocked and request.operations[0]():
            self._unblock(request)

    def add(self, cursor: Cursor, payload: bytes, tag: str) -> Cursor:
        """XADD under a cursor that is after the last one."""
        entry = StoredEntry(cursor, payload, tag)
        self.written.append(entry)
        self.change(log=(*self.data.log, entry), whole=(*self.data.whole, entry))
        if self.on_written is not None:
            self.on_written(entry)
        return cursor

    def next_cursor(self) -> Cursor:
        """Return the cursor that XADD * gives: the clock's, or just after the last one."""
        last_ms, last_seq = parse_cursor(self.data.last)
        now_ms = START_MS + int(self._loop.time() * 1_000)
        return f"{now_ms}-0" if now_ms > last_ms else f"{last_ms}-{last_seq + 1}"


def _reply(request: _Request) -> None:
    if not request.reply.done():
        request.reply.set_result(request.replies)


class Client(Store):
    """A replica's way to the server, with the interface of the real one."""

    def __init__(self, server: Server, owner: Owner, timeout_s: float) -> None:
        self.server = server
        self.owner = owner
        self.is_new = False
        self.epoch = b"0"
        self._timeout_s = timeout_s
        self._number = server.number

    async def find_epoch(self) -> bytes:
        """Find the log that there is: no history rewrites it."""
        await self._send(lambda: None)
        return b"0"

    @property
    def primary(self) -> object:
        """What tells the server that was found last from those before."""
        return self._number

    async def admit(self, primary: object) -> None:
        """Let appends in again at a new server, if it is the one that is meant."""
        await self._send(lambda: None)
        if self._number != primary:
            raise StoreUnavailable("the store is another server once more")
        self.is_new = False

    async def _send(self, *operations: Operation, block_s: float = 0.0) -> list[Any]:
        if self._number != self.server.number:  # a new connection greets whom it finds
            self._number, self.is_new = self.server.number, True
        try:
            async with asyncio.timeout(self._timeout_s + block_s):
                return await self.server.send(self.owner, operations, block_s)
        except TimeoutError:
            raise StoreUnavailable("the store: no answer") from None
        except ConnectionError as error:
            raise StoreUnavailable(f"the store: {error}") from None

    # -- the log --------------------------------------------------------------------------------

    async def append(
        self, payloads: Sequence[tuple[bytes, str]], *, after: Cursor = BEGINNING
    ) -> list[Cursor]:
        """Append in one step, if the log still has the entry `after`, or was trimmed there."""
        if not payloads:
            return []
        server, number = self.server, self._number

        def append() -> list[Cursor] | None:
            data = server.data
            is_trimmed = parse_cursor(after) < parse_cursor(data.floor) and data.has(data.floor)
            if after != BEGINNING and not data.has(after) and not is_trimmed:
                return None
            return [server.add(server.next_cursor(), *pair) for pair in payloads]

        if self.is_new or number != server.number:
            self.is_new, self._number = True, server.number
            raise NothingWritten("the store is another server than before; nothing is written")
        [cursors] = await self._send(append)
        if cursors is None:
            raise StoreUnavailable(f"the log has lost the entry {after}; nothing was written")
        return list(cursors)

    async def append_again(self, entries: Sequence[StoredEntry], *, after: Cursor) -> int:
        """Append entries under their own cursors, if the log ends at `after`."""
        server = self.server

        def again() -> int | None:
            if (server.data.log[-1].cursor if server.data.log else BEGINNING) != after:
                return None
            new = [e for e in entries if parse_cursor(e.cursor) > parse_cursor(server.data.last)]
            for entry in new:
                server.add(*entry)
            return len(new)

        [n_taken] = await self._send(again)
        if n_taken is None:
            raise StoreUnavailable(f"the log does not end at {after} any more")
        return int(n_taken)

    async def read(self, after: Cursor, *, block_ms: int, count: int = 64) -> list[StoredEntry]:
        """Return entries after a cursor; look at the place of the reader only then."""
        server, wanted = self.server, parse_cursor(after)

        def entries() -> list[StoredEntry]:
            if server.data.log and server.data.log[-1].cursor == after:
                return []  # as for most reads, which wait
            return [e for e in server.data.log if parse_cursor(e.cursor) > wanted][:count]

        found, here, floor = await self._send(
            entries,
            lambda: server.data.has(after),
            lambda: server.data.floor,
            block_s=block_ms / 1_000,
        )
        self.check_place(after, floor, is_there=here)
        return list(found)

    def check_place(self, after: Cursor, floor: Cursor, *, is_there: bool) -> None:
        """Raise LogTrimmed when entries after a cursor may be gone."""
        if parse_cursor(floor) > parse_cursor(after):
            raise LogTrimmed(f"the log begins at {floor}; the reader stands at {after}")
        if not is_there and after != BEGINNING:
            raise LogTrimmed(f"the log has lost the entry {after}, at which the reader stands")

    async def missing(self, cursors: Sequence[Cursor]) -> list[Cursor]:
        """Return those of these cursors, each after the floor, that the log does not have."""
        [data] = await self._send(lambda: self.server.data)
        floor = parse_cursor(data.floor)
        return [c for c in cursors if parse_cursor(c) > floor and not data.has(c)]

    async def continues(self, cursor: Cursor) -> bool:
        """Tell whether the log goes on from a cursor."""
        is_there, floor = await self._send(
            lambda: self.server.data.has(cursor), lambda: self.server.data.floor
        )
        return bool(is_there) and parse_cursor(floor) <= parse_cursor(cursor)

    async def last_cursor(self) -> Cursor:
        """Return the cursor of the last entry."""
        log = lambda: self.server.data.log  # noqa: E731
        [entries] = await self._send(log)
        return entries[-1].cursor if entries else BEGINNING

    async def first_cursor(self) -> Cursor | None:
        """Return the cursor of the first entry that is still there."""
        [entries] = await self._send(lambda: self.server.data.log)
        return entries[0].cursor if entries else None

    async def trim(self, before: Cursor, *, snapshot_id: str | None = None) -> bool:
        """Set the floor and drop what is before it, if the snapshot is there."""
        server, least = self.server, parse_cursor(before)

        def drop() -> bool:
            if snapshot_id is not None and snapshot_id not in server.data.snapshots:
                return False
            if least < parse_cursor(server.data.floor):
                return False
            kept = tuple(e for e in server.data.log if parse_cursor(e.cursor) >= least)
            server.change(floor=before, log=kept)
            return True

        [is_done] = await self._send(drop)
        return bool(is_done)

    # -- snapshots ------------------------------------------------------------------------------

    async def claim_snapshot(self, snapshot_id: str) -> bool:
        """Tell whether it is for this replica to write a snapshot."""
        if await self.has_snapshot(snapshot_id):
            return False
        server = self.server

        def claim() -> bool:
            now = asyncio.get_running_loop().time()
            if server.data.claims.get(snapshot_id, 0.0) > now:
                return False
            server.change(claims=server.data.claims | {snapshot_id: now + CLAIM_TTL_S})
            return True

        [is_ours] = await self._send(claim)
        return bool(is_ours)

    async def renew_claim(self, snapshot_id: str) -> None:
        """Say that it is still being written."""
        server = self.server

        def renew() -> None:
            if snapshot_id in server.data.claims:
                until = asyncio.get_running_loop().time() + CLAIM_TTL_S
                server.change(claims=server.data.claims | {snapshot_id: until})

        await self._send(renew)

    async def is_claimed(self, snapshot_id: str) -> bool:
        """Tell whether somebody is writing a snapshot."""
        [until] = await self._send(lambda: self.server.data.claims.get(snapshot_id, 0.0))
        return float(until) > asyncio.get_running_loop().time()

    async def end_claim(self, snapshot_id: str) -> None:
        """Let others write it."""
        server = self.server
        await self._send(
            lambda: server.change(
                claims={id_: u for id_, u in server.data.claims.items() if id_ != snapshot_id}
            )
        )

    async def has_snapshot(self, snapshot_id: str) -> bool:
        """Tell whether there is a snapshot."""
        [is_there] = await self._send(lambda: snapshot_id in self.server.data.snapshots)
        return bool(is_there)

    def snapshot_writer(self, snapshot_id: str) -> SnapshotWriter:
        """Return what writes a snapshot."""
        return Writing(self)

    async def read_manifest(self, snapshot_id: str) -> dict[str, Any]:
        """Return a manifest."""
        [found] = await self._send(lambda: self.server.data.snapshots.get(snapshot_id))
        if found is None:
            raise NotFound(f"there is no snapshot {snapshot_id!r}")
        return dict(found[0])

    async def list_snapshots(self) -> list[dict[str, Any]]:
        """Return the manifests, oldest first."""
        [found] = await self._send(lambda: self.server.data.snapshots)
        return sorted((m for m, _ in found.values()), key=lambda m: parse_cursor(m["id"]))

    async def read_chunks(self, snapshot_id: str) -> AsyncIterator[bytes | None]:
        """Yield the chunks of a snapshot, None for one that was deleted meanwhile."""
        snapshots = lambda: self.server.data.snapshots.get(snapshot_id)  # noqa: E731
        [found] = await self._send(snapshots)
        if found is None:
            raise NotFound(f"there is no snapshot {snapshot_id!r}")
        for chunk in found[1]:
            [again] = await self._send(snapshots)
            yield chunk if again is not None else None

    async def delete_snapshot(
        self, snapshot_id: str, *, even_pinned: bool = True, epoch: bytes | None = None
    ) -> bool:
        """Delete a snapshot; nothing is pinned: no history restores."""
        server = self.server

        def delete() -> None:
            kept = {id_: s for id_, s in server.data.snapshots.items() if id_ != snapshot_id}
            server.change(snapshots=kept)

        await self._send(delete)
        return True

    # -- quarantine -----------------------------------------------------------------------------

    async def append_quarantine(self, records: Sequence[tuple[Cursor, int, bytes]]) -> None:
        """Keep records in the order of their ids; one that comes too late is taken for there."""
        server = self.server

        def put() -> None:
            kept = dict(server.data.quarantine)
            for cursor, index, data in records:
                id_ = quarantine_id(cursor, index)
                if not kept or parse_cursor(id_) > parse_cursor(next(reversed(kept))):
                    kept[id_] = data
            server.change(quarantine=kept)

        await self._send(put)

    async def trim_quarantine(self, before_ms: int) -> None:
        """Forget nothing: no history lasts for days."""
        await self._send(lambda: None)


class Writing(SnapshotWriter):
    """Writes one snapshot: nobody sees its chunks before the manifest."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._chunks: list[bytes] = []

    async def add(self, chunk: bytes) -> None:
        """Write the next chunk."""
        await self._client._send(lambda: None)
        self._chunks.append(chunk)

    async def finish(self, manifest: dict[str, Any]) -> bool:
        """Make it exist, unless there is one under its id; tell whether it does by us."""
        server, snapshot_id = self._client.server, manifest["id"]

        def put() -> bool | None:
            if server.data.log and not server.data.has(snapshot_id):
                return None
            if snapshot_id in server.data.snapshots:
                return False
            one = {snapshot_id: (manifest, self._chunks)}
            server.change(snapshots=one | server.data.snapshots)
            return True

        [is_first] = await self._client._send(put)
        if is_first is None:
            raise Conflict(f"the log has no entry {snapshot_id}")
        return bool(is_first)

    async def abandon(self) -> None:
        """Take back what nobody sees."""
