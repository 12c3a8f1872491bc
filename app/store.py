"""The store: log, snapshots and quarantine in one namespace of a Redis or Valkey.

With `guides` and `store_client` all that imports redis. It moves bytes and refuses to know what is
in them; it never sends an append twice, and whatever goes wrong on the way comes out as
StoreUnavailable. One namespace is one hash tag, hence one primary: where that is, it asks anew
after every failure.

    sluice:{<namespace>}:log              stream   entries: e = payload, t = tag; no TTL, trimmed
    sluice:{<namespace>}:log:floor        string   cursor below which the log has been trimmed
    sluice:{<namespace>}:epoch            string   how often the log has been rewritten
    sluice:{<namespace>}:log:next:<epoch>:<token>,
    sluice:{<namespace>}:snapshots:next:<epoch>:<token>
                                          as log and snapshots, which they may replace; expire
    sluice:{<namespace>}:snapshots        hash     id -> manifest; a snapshot exists once it is here
    sluice:{<namespace>}:snapshot:<id>:<writer>:<i>
                                          string   chunk; expires unless its manifest was written
    sluice:{<namespace>}:claim:<id>       string   somebody is writing this snapshot; expires
    sluice:{<namespace>}:pin:<id>         string   a command may restore this snapshot; expires
    sluice:{<namespace>}:forgetting:<id>  string   who else that was, until all is gone; expires
    sluice:{<namespace>}:quarantine       stream   records: e = payload; a number of them
    sluice:{<namespace>}:replicas         hash     name -> seconds (the server's), what it says
    sluice:{<namespace>}:probe            string   written at open to test the fsync promise
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import orjson
from redis.exceptions import ConnectionError as NotConnected
from redis.exceptions import RedisError, WatchError

from app import store_scripts as lua
from app.errors import (
    Conflict,
    InvalidRequest,
    LogRewritten,
    LogTrimmed,
    NotFound,
    NothingWritten,
    SettingsError,
    SnapshotRefused,
    StoreUnavailable,
)
from app.guides import Guides
from app.settings import Settings
from app.store_client import Command, connect, exchange, parse_url, raise_first, secrets_of
from app.store_url import Place, show

# A chunk whose writer died before its manifest goes by itself; writing takes seconds.
UNFINISHED_CHUNK_TTL_S = 3_600
# Renewed while it is written; replaying the log into it takes longer than writing.
UNFINISHED_REWRITE_TTL_S = 86_400
# A claim is renewed while its writer lives. Short, as whoever comes after a dead one waits for it;
# where it ends too early, two write one snapshot, which does no harm.
CLAIM_TTL_S = 5
PROBE_TTL_S = 60
# A replica that has not been heard of for so long is no longer listed anywhere.
FORGOTTEN_S = 60
# By then whoever was killed while forgetting somebody has been told to do it again.
FORGETTING_TTL_S = 30 * 86_400
# Longer than any replica may lag behind a command that it has not seen yet.
PIN_TTL_S = 86_400
# A quarantined record's place in its entry takes the last five digits of its id's sequence.
QUARANTINE_STRIDE = 100_000
MIN_SERVER = (6, 2)
# The server gives up on an fsync before the client gives up on the server.
FSYNC_WAIT_SHARE = 0.8
# An old primary that the sentinels have given up, and that still takes writes, is left after so
# long: by all of us before any of us writes to the new one (PEERS_S in `ingest`).
LOOK_AGAIN_S = 0.5
# Redis's own default is half a minute until a primary counts as down.
START_WAIT_S = 60.0

T = TypeVar("T")
RETRY_S = 0.2

Cursor = str
"""`<ms>-<seq>`, the position of a log entry; BEGINNING is before the first, END after the last."""
BEGINNING: Cursor = "0-0"
MAX_SEQ = 2**64 - 1
END: Cursor = f"{MAX_SEQ}-{MAX_SEQ}"

logger = logging.getLogger(__name__)

# For which a script looks in one go: others wait meanwhile.
CURSORS_AT_ONCE = 1_000
# Not \d, which knows digits that are not ASCII.
_CURSOR = re.compile("([0-9]{1,20})-([0-9]{1,20})")
_IS_CLOSED = "the handler is closed"
_RUN_ID = re.compile(rb"run_id:(\w+)")


class StoredEntry(NamedTuple):
    """An entry as the log keeps it."""

    cursor: Cursor
    payload: bytes
    tag: str


def parse_cursor(text: str) -> tuple[int, int]:
    """Return a cursor as numbers, which compare as the log is ordered."""
    return _known_cursor(text) if len(text) <= _MOST_DIGITS else _parse_cursor(text)


def _parse_cursor(text: str) -> tuple[int, int]:
    if found := _CURSOR.fullmatch(text):
        ms, seq = int(found[1]), int(found[2])
        if ms < 2**64 and seq < 2**64:
            return ms, seq
    raise InvalidRequest(f"cursor {text[:64]!r} is not of the form <milliseconds>-<sequence>")


# Whatever comes is asked about several times in a row.
_known_cursor = lru_cache(maxsize=256)(_parse_cursor)
_MOST_DIGITS = 41


def following(cursor: Cursor) -> Cursor:
    """Return the next cursor that there could be."""
    ms, seq = parse_cursor(cursor)
    return f"{ms}-{seq + 1}" if seq < MAX_SEQ else f"{ms + 1}-0"


class Store:
    """One namespace of one server. Every method raises StoreUnavailable when it does not answer.

    `url` is settings.redis_url or the embedded server's; the `fsync` promise is checked, and if
    need be enforced, only where settings.redis_url says that the server is not ours.

    `is_new` says that the server is another than before, and may have lost what the old one had:
    nothing is appended until `admit`.
    """

    def __init__(self, url: str, settings: Settings) -> None:
        # With its password, if it has one: to connect with, not to show.
        self.url = url
        self.is_new = False
        self._timeout_s = settings.store_timeout_s
        self._settings = settings
        self._waits_for_fsync = False
        prefix = f"sluice:{{{settings.namespace}}}"
        self._prefix = prefix
        self._log = f"{prefix}:log"
        self._floor = f"{prefix}:log:floor"
        self._epoch_key = f"{prefix}:epoch"
        self._forgetting = f"{prefix}:forgetting"
        # Which log is read and appended to: another one has another epoch.
        self.epoch = b"0"
        self._manifests = f"{prefix}:snapshots"
        self._chunks = f"{prefix}:snapshot"
        self._claims = f"{prefix}:claim"
        self._pins = f"{prefix}:pin"
        self._quarantine = f"{prefix}:quarantine"
        self._replicas = f"{prefix}:replicas"
        self._probe = f"{prefix}:probe"
        address, self._options = parse_url(url)
        self._secrets = secrets_of(address, self._options)
        # The clients of the server that we stand before. Until it is found there are none.
        self._redis: Any = None
        self._reader: Any = None
        self._place: Place | None = None
        self._run_id: str | None = None
        self._is_suspect = True
        self._found_at = 0.0
        self._finding = asyncio.Lock()
        self._guides: Guides | None = None
        if address.guides:
            self._guides = Guides(address, self._options, self._log, self._timeout_s)
            self._where = str(self._guides)
        else:
            place = (self._options.get("host", "localhost"), self._options.get("port", 6379))
            self._where = self._options.get("path") or show(place)

    async def open(self) -> None:
        """Check that the server answers, is 6.2 or newer, and keeps the promises of durability.

        Waits a minute for a failover that is on. Raises SettingsError, with what to change, when it
        cannot keep them.
        """
        await self._wait_for_primary()
        await self._check_server()
        await self.join_epoch()

    async def close(self) -> None:
        """Close the connections."""
        for client in (self._redis, self._reader):
            if client is not None:
                await client.aclose()
        if self._guides:
            await self._guides.close()

    async def join_epoch(self) -> None:
        """Read and append to the log that there is now, if it is another since we opened it."""
        self.epoch = await self.find_epoch()

    async def find_epoch(self) -> bytes:
        """Return the epoch of the log that there is now; whoever follows it sets `epoch`."""
        found: bytes | None = await self._ask("GET", self._epoch_key)
        return found or b"0"

    async def ping(self) -> None:
        """Return when the server answers."""
        await self._ask("PING")

    @property
    def primary(self) -> object:
        """What tells the server that we stand before from all others, and from its last life."""
        return self._redis

    async def admit(self, primary: object) -> None:
        """Let appends in again, at a server that is new: it has to keep the promises, too.

        Raises StoreUnavailable where that is not `primary` any more: yet another one may lack what
        this one had.
        """
        try:
            await self._check_server()
        except SettingsError as error:
            raise StoreUnavailable(error.message) from None
        if self.primary is not primary:
            raise StoreUnavailable(f"the store at {self._where} is another server once more")
        self.is_new = False

    # -- finding the server -------------------------------------------------------------------

    async def _wait_for_primary(self) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + START_WAIT_S
        is_told = False
        while True:
            try:
                # Not a PING: a cluster without a quorum answers that, and has no key.
                await self._ask("EXISTS", self._log)
                return
            except StoreUnavailable as error:
                if self._guides is None or loop.time() > deadline:
                    raise
                if not is_told:
                    logger.warning(
                        "%s; waiting up to %g s for a primary", error.message, START_WAIT_S
                    )
                is_told = True
                await asyncio.sleep(RETRY_S)

    async def _find(self) -> None:
        """Stand before the primary, wherever it is now; raise ConnectionError if there is none."""
        async with self._finding:
            if self._is_suspect:  # else another task has found it meanwhile
                await self._look()

    async def _look_again(self) -> None:
        """Doubt now and then a server that answers: the sentinels may have given it up.

        Nobody else waits for that.
        """
        age_s = asyncio.get_running_loop().time() - self._found_at
        if self._settings.redis_url and age_s > LOOK_AGAIN_S:
            async with self._finding:
                await self._look()

    async def _look(self) -> None:
        place = await self._ask_guides()
        options = self._options
        if place is not None:
            options = options | {"host": place[0], "port": place[1]}
            self._where = show(place)
        info = await self._look_at(options)
        if info.get("role", "master") != "master":
            self._run_id = None  # it may come back with another's log
            raise NotConnected("it is read only, a replica; waiting for a primary")
        await self._stand_before(place, options, info.get("run_id"))
        self._found_at = asyncio.get_running_loop().time()
        self._is_suspect = False

    async def _ask_guides(self) -> Place | None:
        if self._guides is None:
            return None
        try:
            return await self._guides.primary()
        except NotConnected:
            # The one that we know may be all right, and says itself whether it is a primary.
            if self._place is None:
                raise
            return self._place

    async def _look_at(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return what the server says that a new connection leads to."""
        scout = connect(options, self._timeout_s, self._timeout_s)
        try:
            return await self._info(scout)
        finally:
            await scout.aclose()

    async def _stand_before(
        self, place: Place | None, options: dict[str, Any], run_id: str | None
    ) -> None:
        if self._redis is not None:
            if (place, run_id) == (self._place, self._run_id):
                return
            self.is_new = True
            logger.warning("the store at %s is another server, or was restarted", self._where)
        old = (self._redis, self._reader)
        self._place, self._run_id = place, run_id
        options = options | {"redis_connect_func": self._greet}
        # Deadlines are those of `_asking` alone: one for each write to a socket would take a task.
        self._redis = connect(options, None, self._timeout_s)
        self._reader = connect(options, None, self._timeout_s)  # which a read may block
        for client in old:
            if client is not None:
                # Whoever waits for an answer there hears at once that none will come.
                await client.aclose()

    async def _greet(self, connection: Any) -> None:
        """Refuse a connection to another server than we stand before.

        Connections are opened again without a word; what one leads to now may have lost entries.
        """
        await connection.on_connect()
        await connection.send_command("INFO", "server")
        found = _RUN_ID.search(await connection.read_response())
        if (found[1].decode() if found else None) != self._run_id:
            raise NotConnected("another server answers in its place")

    async def _info(self, client: Any) -> dict[str, Any]:
        pipe = client.pipeline(transaction=False)
        pipe.execute_command("INFO", "server")
        pipe.execute_command("INFO", "replication")
        server, replication = raise_first(await pipe.execute(raise_on_error=False))
        return {**server, **replication}

    # -- the log ------------------------------------------------------------------------------

    async def append(
        self, payloads: Sequence[tuple[bytes, str]], *, after: Cursor = BEGINNING
    ) -> list[Cursor]:
        """Append one entry for each (payload, tag), durably; return their cursors.

        Nothing is written to a log that has lost the entry `after`, which the caller has read: it
        may have forgotten others, too, and what is appended now would shut them out for good. (One
        that was trimmed behind a snapshot is not lost.)
        When it raises, but for NothingWritten, the outcome is unknown: any of the entries may be in
        the log. It never sends them again; a caller who does must use the same event ids.
        """
        if not payloads:
            return []
        fields = [field for pair in payloads for field in pair]
        # Check and append are one step of the server. Nothing less will do: a connection is opened
        # again without a word, perhaps to a server that has just come back with less.
        keys = (self._log, self._epoch_key, self._floor)
        append = ("EVAL", lua.APPEND, len(keys), *keys, after, self.epoch, *fields)
        async with self._asking():
            if self.is_new:
                raise NothingWritten(
                    f"the store at {self._where} is another server than before: nothing is written"
                    " until what it lost is given back; try again in a second"
                )
            replies = await self._durably([append], self._settings.wait_replicas)
        cursors = replies[0]
        if not isinstance(cursors, list) or len(cursors) != len(payloads):
            raise StoreUnavailable(f"the store at {self._where} answered an append with nonsense")
        return [cursor.decode() for cursor in cursors]

    async def append_again(self, entries: Sequence[StoredEntry], *, after: Cursor) -> int:
        """Append entries that the log has lost, under their own cursors; return how many it took.

        It takes none that it has gone past once, as a log that was cut by hand has. Raises
        StoreUnavailable, with nothing written, where `after` is not its last entry any more:
        another replica was faster, or it has lost more; LogRewritten where the log is a later one.
        """
        fields = [field for e in entries for field in (e.cursor, e.payload, e.tag)]
        keys = (self._log, self._epoch_key)
        again = ("EVAL", lua.APPEND_AGAIN, len(keys), *keys, after, self.epoch, *fields)
        async with self._asking():
            # Without waiting for replicas: after a failover there may be none for a while, and the
            # next append waits until they have these entries, too.
            [n_taken] = await self._durably([again], 0)
        if n_taken < 0:
            raise LogRewritten("the log has been rewritten, without somebody who was forgotten")
        return int(n_taken)

    async def _durably(self, commands: list[tuple[Any, ...]], n_replicas: int) -> list[Any]:
        """Return the replies to commands that append, once what was promised has confirmed them."""
        wait = self._wait_command(n_replicas)
        replies = raise_first(await exchange(self._redis, [*commands, *wait]))
        if wait:
            self._check_waited(replies.pop(), n_replicas)
        return replies

    def _wait_command(self, n_replicas: int) -> list[tuple[Any, ...]]:
        timeout_ms = int(self._timeout_s * FSYNC_WAIT_SHARE * 1_000)
        if self._waits_for_fsync:
            return [("WAITAOF", 1, n_replicas, timeout_ms)]
        return [("WAIT", n_replicas, timeout_ms)] if n_replicas else []

    def _check_waited(self, reply: Any, n_replicas: int) -> None:
        n_disks, n_copies = reply if self._waits_for_fsync else (1, reply)
        if n_disks < 1:
            raise StoreUnavailable(
                f"the store at {self._where} did not confirm that the events are on disk:"
                " give it appendfsync always, or set a longer SLUICE_STORE_TIMEOUT_S"
            )
        if n_copies < n_replicas:
            raise StoreUnavailable(
                f"the store at {self._where}: {n_copies} of {n_replicas} replicas confirmed the"
                f" events within {self._timeout_s * FSYNC_WAIT_SHARE:g} s: connect its replicas, or"
                " lower SLUICE_WAIT_REPLICAS"
            )

    async def read(self, after: Cursor, *, block_ms: int, count: int = 64) -> list[StoredEntry]:
        """Return up to `count` entries after a cursor, oldest first.

        With none there it waits up to `block_ms` (0: not at all) and may return []. One reader at
        a time. Raises LogTrimmed when entries after the cursor may be gone, LogRewritten when the
        log is another one now.
        """
        parse_cursor(after)
        block = ("BLOCK", block_ms) if block_ms else ()
        async with self._asking(block_ms / 1_000):
            await self._look_again()
            commands: list[Command] = [
                ("XREAD", "COUNT", count, *block, "STREAMS", self._log, after),
                # Where the reader stands, after the entries: what is trimmed or lost in between is
                # then noticed, not missed. Trimming keeps the entry at its cursor, so it must be
                # there.
                ("XRANGE", self._log, after, after, "COUNT", 1),
                ("MGET", self._floor, self._epoch_key),
            ]
            streams, here, told = raise_first(await exchange(self._reader, commands))
        floor, epoch = told
        if (epoch or b"0") != self.epoch:
            raise LogRewritten("the log has been rewritten, without somebody who was forgotten")
        if floor and parse_cursor(floor.decode()) > parse_cursor(after):
            raise LogTrimmed(f"the log begins at {floor.decode()}; the reader stands at {after}")
        if not here and after != BEGINNING:
            raise LogTrimmed(f"the log has lost the entry {after}, at which the reader stands")
        return [_as_sent(*entry) for _, entries in streams or () for entry in entries]

    async def read_between(self, first: Cursor, before: Cursor, *, count: int) -> list[StoredEntry]:
        """Return up to `count` entries from a cursor on and before another, oldest first.

        Raises LogTrimmed when entries from `first` on may be gone.
        """
        parse_cursor(first)
        parse_cursor(before)
        entries, floor = await self._ask_all(
            [("XRANGE", self._log, first, f"({before}", "COUNT", count), ("GET", self._floor)]
        )
        # The floor is set before the log is trimmed, and read here after the entries.
        if floor and parse_cursor(floor.decode()) > parse_cursor(first):
            raise LogTrimmed(f"the log begins at {floor.decode()}, after {first}")
        return [_stored(*entry) for entry in entries]

    async def missing(self, cursors: Sequence[Cursor]) -> list[Cursor]:
        """Return those of these cursors, each after the floor, that the log does not have."""
        floor = await self._ask("GET", self._floor)
        begin = parse_cursor(floor.decode()) if floor else (0, 0)
        asked = [cursor for cursor in cursors if parse_cursor(cursor) > begin]
        found: list[Cursor] = []
        for start in range(0, len(asked), CURSORS_AT_ONCE):
            part = asked[start : start + CURSORS_AT_ONCE]
            found += [c.decode() for c in await self._ask("EVAL", lua.MISSING, 1, self._log, *part)]
        return found

    async def continues(self, cursor: Cursor) -> bool:
        """Tell whether the log goes on from a cursor: its entry is there, none after it gone."""
        here = await self._ask("XRANGE", self._log, cursor, cursor, "COUNT", 1)
        floor = await self._ask("GET", self._floor)
        return bool(here) and not (floor and parse_cursor(floor.decode()) > parse_cursor(cursor))

    async def last_cursor(self) -> Cursor:
        """Return the cursor of the last entry, BEGINNING for an empty log."""
        entries = await self._ask("XREVRANGE", self._log, "+", "-", "COUNT", 1)
        return entries[0][0].decode() if entries else BEGINNING

    async def first_cursor(self) -> Cursor | None:
        """Return the cursor of the first entry that is still there."""
        entries = await self._ask("XRANGE", self._log, "-", "+", "COUNT", 1)
        return entries[0][0].decode() if entries else None

    async def trim(self, before: Cursor, *, snapshot_id: str | None = None) -> bool:
        """Drop the entries before a cursor; the entry at the cursor stays. Tell whether it did.

        With a snapshot, only while that is there: a failover may have lost it a moment ago.
        """
        parse_cursor(before)
        keys = (self._floor, self._log, self._manifests)
        return bool(await self._ask("EVAL", lua.TRIM, len(keys), *keys, before, snapshot_id or ""))

    async def seed(self, cursor: Cursor, payload: bytes) -> None:
        """Begin an empty log with an entry at this very cursor, which becomes its floor.

        Raises Conflict when there is a log already.
        """
        parse_cursor(cursor)
        taken = Conflict(f"namespace {self._settings.namespace!r} has a log already")
        async with self._asking(), self._redis.pipeline() as pipe:
            await pipe.watch(self._log)
            if await pipe.exists(self._log):
                raise taken
            pipe.multi()
            pipe.execute_command("XADD", self._log, cursor, "e", payload, "t", "")
            pipe.execute_command("SET", self._floor, cursor)
            try:
                raise_first(await pipe.execute(raise_on_error=False))
            except WatchError:
                raise taken from None

    async def claim_snapshot(self, snapshot_id: str) -> bool:
        """Tell whether it is for us to write a snapshot: there is none, and nobody is writing it.

        Every replica comes by the same places in the log. A claim ends by itself.
        """
        parse_cursor(snapshot_id)
        claim = f"{self._claims}:{snapshot_id}"
        if await self.has_snapshot(snapshot_id):
            return False
        return bool(await self._ask("SET", claim, "", "NX", "EX", CLAIM_TTL_S))

    async def renew_claim(self, snapshot_id: str) -> None:
        """Say that it is still being written."""
        await self._ask("EXPIRE", f"{self._claims}:{snapshot_id}", CLAIM_TTL_S)

    async def is_claimed(self, snapshot_id: str) -> bool:
        """Tell whether somebody is writing a snapshot."""
        return bool(await self._ask("EXISTS", f"{self._claims}:{snapshot_id}"))

    async def end_claim(self, snapshot_id: str) -> None:
        """Say that it is written, or let others write it."""
        await self._ask("UNLINK", f"{self._claims}:{snapshot_id}")

    async def has_snapshot(self, snapshot_id: str) -> bool:
        """Tell whether there is a snapshot, good or not."""
        return bool(await self._ask("HEXISTS", self._manifests, snapshot_id))

    def snapshot_writer(self, snapshot_id: str) -> SnapshotWriter:
        """Return what takes the chunks of a snapshot, and then its manifest."""
        parse_cursor(snapshot_id)
        # Several may write one snapshot at the same time: each has chunks of its own.
        return SnapshotWriter(self, snapshot_id, self._manifests)

    def rewrite(self) -> Rewrite:
        """Return an empty log that may take the place of this one."""
        return Rewrite(self)

    async def write_snapshot(self, manifest: dict[str, Any], chunks: Iterable[bytes]) -> None:
        """Write a snapshot, whole or not at all; nothing if `manifest["id"]` is there already."""
        if await self.has_snapshot(manifest["id"]):
            return
        writer = self.snapshot_writer(manifest["id"])
        try:
            for chunk in chunks:
                await writer.add(chunk)
        except StoreUnavailable:
            await writer.abandon()
            raise
        await writer.finish(manifest)

    async def list_snapshots(self) -> list[dict[str, Any]]:
        """Return the manifests, oldest first; of one that cannot be read there is only the id."""
        records = await self._ask("HGETALL", self._manifests)
        manifests = []
        for name, record in records.items():
            found = _read_record(name.decode(), record)
            manifests.append({"id": name.decode()} if found is None else found[0])
        return sorted(manifests, key=lambda manifest: parse_cursor(manifest["id"]))

    async def read_chunks(self, snapshot_id: str) -> AsyncIterator[bytes | None]:
        """Yield the chunks of a snapshot, None for one that is missing; raises NotFound."""
        # One by one: a reply of a hundred megabytes would hold up every other client.
        for key in (await self._find_snapshot(snapshot_id))[1]:
            yield await self._ask("GET", key)

    async def read_manifest(self, snapshot_id: str) -> dict[str, Any]:
        """Return a manifest; raise NotFound, or SnapshotRefused where it cannot be read."""
        return (await self._find_snapshot(snapshot_id))[0]

    async def _find_snapshot(self, snapshot_id: str) -> tuple[dict[str, Any], list[str]]:
        record = await self._ask("HGET", self._manifests, snapshot_id)
        if record is None:
            raise NotFound(f"there is no snapshot {snapshot_id[:64]!r}")
        found = _read_record(snapshot_id, record)
        if found is None:
            raise SnapshotRefused(f"snapshot {snapshot_id}: its manifest cannot be read")
        return found

    async def delete_snapshot(
        self, snapshot_id: str, *, even_pinned: bool = True, epoch: bytes | None = None
    ) -> bool:
        """Delete a snapshot of the log of an epoch (ours), if it is there; tell whether it is gone.

        It is not where it is pinned, or where there is another log by now.
        """
        names = (self._manifests, f"{self._pins}:{snapshot_id}", self._epoch_key)
        values = (snapshot_id, int(even_pinned), self.epoch if epoch is None else epoch)
        while True:
            record = await self._ask("HGET", self._manifests, snapshot_id)
            found = _read_record(snapshot_id, record) if record else None
            keys = (*names, *(found[1] if found is not None else ()))
            done = await self._ask("EVAL", lua.DELETE, len(keys), *keys, *values, record or b"")
            if done >= 0:
                return bool(done)

    async def note_forgetting(self, user_id: str, note: bytes) -> None:
        """Keep what is known of somebody who is being forgotten, for whoever has to do it again."""
        await self._ask("SET", f"{self._forgetting}:{user_id}", note, "EX", FORGETTING_TTL_S)

    async def find_forgetting(self, user_id: str) -> bytes | None:
        """Return what was known of somebody whose forgetting did not come to its end."""
        found: bytes | None = await self._ask("GET", f"{self._forgetting}:{user_id}")
        return found

    async def end_forgetting(self, user_id: str) -> None:
        """Keep nothing of somebody any more."""
        await self._ask("UNLINK", f"{self._forgetting}:{user_id}")

    async def sweep(self, age_s: Callable[[], float]) -> None:
        """Delete what was left of the logs before this one by processes that died.

        That is what was to take their place, and chunks: those that no manifest names, though they
        stay, and those written before this log was there, which is `age_s` old by now at most.
        """
        found, cursor = set[bytes](), 0
        while True:
            cursor, keys = await self._ask("SCAN", cursor, "MATCH", f"{self._prefix}:*")
            chunks = [key for key in keys if key.startswith(self._chunks.encode() + b":")]
            ttls_ms = await self._ask_all([("PTTL", key) for key in chunks]) if chunks else []
            age_ms = age_s() * 1_000
            found |= {key for key, ttl in zip(chunks, ttls_ms) if _is_older(ttl, age_ms)}
            found |= {key for key in keys if self._is_of_older(key)}
            if not cursor:
                break
        records = await self._ask("HGETALL", self._manifests)
        named = [_read_record(name.decode(), record) for name, record in records.items()]
        found -= {key.encode() for one in named if one is not None for key in one[1]}
        for key in found:
            await self._ask("UNLINK", key)

    def _is_of_older(self, key: bytes) -> bool:
        """Tell whether a key is what was to replace a log before ours, or its snapshots."""
        for name in (self._log, self._manifests):
            epoch = key.removeprefix(f"{name}:next:".encode()).partition(b":")[0]
            if key.startswith(f"{name}:next:".encode()) and epoch.isdigit():
                return int(epoch) < int(self.epoch)
        return False

    async def pin_snapshot(self, snapshot_id: str) -> None:
        """Keep a snapshot from being deleted until a command that restores it is applied.

        Raises NotFound if it is gone already.
        """
        await self._ask("SET", f"{self._pins}:{snapshot_id}", "", "EX", PIN_TTL_S)
        if not await self._ask("HEXISTS", self._manifests, snapshot_id):
            raise NotFound(f"there is no snapshot {snapshot_id[:64]!r}")

    async def announce(self, name: str, about: bytes) -> None:
        """Say that a replica is there; those that have not said so for long are dropped."""
        await self._ask("EVAL", lua.ANNOUNCE, 1, self._replicas, name, about, FORGOTTEN_S)

    async def withdraw(self, name: str) -> None:
        """Say that a replica has gone."""
        await self._ask("HDEL", self._replicas, name)

    async def list_announced(self) -> list[tuple[str, float, bytes]]:
        """Return (name, seconds since it said so, what it said) of every replica."""
        (s, us), found = await self._ask_all([("TIME",), ("HGETALL", self._replicas)])
        now_s = int(s) + int(us) / 1e6
        told = [(name.decode(), *value.split(b" ", 1)) for name, value in found.items()]
        return [(name, max(0.0, now_s - float(at)), about) for name, at, about in told]

    async def append_quarantine(self, records: Sequence[tuple[Cursor, int, bytes]]) -> None:
        """Keep records (log cursor, index in the entry, payload), each once whoever else does it.

        They must come in log order, and again after a StoreUnavailable: a later one that has been
        written shuts out all before it. Raises LogRewritten when the log is another one now.
        """
        if not records:
            return
        ids = [quarantine_id(cursor, index) for cursor, index, _ in records]
        fields = [field for id_, record in zip(ids, records) for field in (id_, record[2])]
        values = (self.epoch, self._settings.quarantine_keep, *fields)
        keys = (self._quarantine, self._epoch_key)
        if not await self._ask("EVAL", lua.QUARANTINE, len(keys), *keys, *values):
            raise LogRewritten("the log has been rewritten, without somebody who was forgotten")

    async def rewrite_quarantine(self, is_kept: Callable[[bytes], bool]) -> None:
        """Leave out the records whose payload is not to be kept.

        The stream is written anew: of an entry that is deleted, a server keeps the bytes.
        """
        copy = f"{self._quarantine}:next:{secrets.token_hex(8)}"
        last, n_kept, is_first = BEGINNING, 0, True
        while True:
            entries = await self._ask("XRANGE", self._quarantine, f"({last}", "+", "COUNT", 1_000)
            kept = [(record_id, f[b"e"]) for record_id, f in entries if is_kept(f[b"e"])]
            commands = [("XADD", copy, record_id, "e", data) for record_id, data in kept]
            await self._ask_all([*commands, ("EXPIRE", copy, UNFINISHED_CHUNK_TTL_S)])
            last, n_kept = entries[-1][0].decode() if entries else last, n_kept + len(kept)
            if not entries and (is_first or await self._replace_quarantine(copy, last, n_kept)):
                return
            is_first = False

    async def _replace_quarantine(self, copy: str, last: str, n_kept: int) -> bool:
        swap = ("EVAL", lua.SWAP_QUARANTINE, 2, self._quarantine, copy, last, n_kept)
        return bool(await self._ask(*swap))

    async def compact(self) -> None:
        """Let the server write its files anew, without what was deleted, and wait for it.

        One that forbids it does so by itself some time.
        """
        info = await self._writing_done()
        name, status = (
            ("BGREWRITEAOF", "aof_last_bgrewrite_status")
            if info.get("aof_enabled")
            else ("BGSAVE", "rdb_last_bgsave_status")
        )
        while True:
            async with self._asking():
                [reply] = await self._replies([(name,)])
            info = await self._writing_done()
            if not isinstance(reply, RedisError):
                break
            if "progress" not in str(reply) and "active" not in str(reply):
                return
        if info.get(status) != "ok":
            raise StoreUnavailable(f"the store at {self._where} could not write its files anew")

    async def _writing_done(self) -> dict[str, Any]:
        """Return what the server says of its files, once it is not writing them anew."""
        going_on = ("aof_rewrite_in_progress", "aof_rewrite_scheduled", "rdb_bgsave_in_progress")
        while True:
            info: dict[str, Any] = await self._ask("INFO", "persistence")
            if not any(info.get(name) for name in going_on):
                return info
            await asyncio.sleep(RETRY_S)

    async def list_quarantine(self, n: int, before: str | None = None) -> list[tuple[str, bytes]]:
        """Return up to `n` records (id, payload), newest first, older than the id `before`."""
        if before is not None and parse_cursor(before) == (0, 0):
            return []  # nothing is before it, and the server refuses to look
        end = "+" if before is None else f"({before}"
        entries = await self._ask("XREVRANGE", self._quarantine, end, "-", "COUNT", n)
        return [(record_id.decode(), fields[b"e"]) for record_id, fields in entries]

    async def get_quarantined(self, record_id: str) -> bytes:
        """Return one record; raise NotFound if there is none, or no more."""
        parse_cursor(record_id)
        entries = await self._ask("XRANGE", self._quarantine, record_id, record_id)
        if not entries:
            raise NotFound(f"there is no quarantined event {record_id}")
        payload: bytes = entries[0][1][b"e"]
        return payload

    async def trim_quarantine(self, before_ms: int) -> None:
        """Forget the records of entries that came before a time."""
        await self._ask("XTRIM", self._quarantine, "MINID", "=", f"{max(0, before_ms)}-0")

    async def _ask(self, *command: Any) -> Any:
        async with self._asking():
            return await self._redis.execute_command(*command)

    async def _ask_all(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        async with self._asking():
            return raise_first(await self._replies(commands))

    async def _replies(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Return the reply to each command, in one round trip; a refusal is a reply, too."""
        pipe = self._redis.pipeline(transaction=False)
        for command in commands:
            pipe.execute_command(*command)
        # redis-py's own raise_on_error puts the command, payload and all, into its message.
        replies: list[Any] = await pipe.execute(raise_on_error=False)
        return replies

    @asynccontextmanager
    async def _asking(self, extra_s: float = 0.0) -> AsyncIterator[None]:
        """Turn whatever goes wrong, or takes too long, into StoreUnavailable."""
        try:
            async with asyncio.timeout(self._timeout_s + extra_s):
                if self._is_suspect:
                    await self._find()
                yield
        except TimeoutError:
            problem = f"no answer within {self._timeout_s:g} s"
        except (RedisError, OSError) as error:
            problem = str(error) or type(error).__name__
        except RuntimeError as error:
            # How uvloop says that a connection was reset just before something was written to it.
            if _IS_CLOSED not in str(error):
                raise
            problem = "the connection was reset"
        else:
            return
        self._is_suspect = True
        # None: the cause may show what we leave out; odd servers quote an AUTH they do not know.
        message = f"the store at {self._where}: {self._without_password(problem)}"
        raise StoreUnavailable(message) from None

    def _without_password(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    # -- what the server promises -------------------------------------------------------------

    async def _check_server(self) -> None:
        async with self._asking():
            info = await self._info(self._redis)
        version = str(info["redis_version"])
        if tuple(int(part) for part in version.split(".")[:2]) < MIN_SERVER:
            raise SettingsError(
                f"SLUICE_REDIS_URL: the server at {self._where} is Redis {version};"
                " Redis 6.2 or newer, or Valkey, is needed"
            )
        if self._settings.redis_url:
            self._waits_for_fsync = False
            await self._check_fsync()
            self._check_replicas(info)

    def _check_replicas(self, info: dict[str, Any]) -> None:
        n_wanted, n_there = self._settings.wait_replicas, info.get("connected_slaves", 0)
        if n_there < n_wanted:
            logger.warning(
                "the store at %s has %d connected replicas, and SLUICE_WAIT_REPLICAS is %d:"
                " feedback is refused until there are enough",
                self._where,
                n_there,
                n_wanted,
            )

    async def _check_fsync(self) -> None:
        async with self._asking():
            [reply] = await self._replies([("CONFIG GET", "*append*")])
        # A managed server may forbid CONFIG.
        known = {} if isinstance(reply, RedisError) else reply
        is_off = known.get("appendonly") == "no"
        if self._settings.fsync == "everysec":
            if is_off:
                logger.warning(
                    "the store at %s has appendonly no: acknowledged events are lost when it"
                    " restarts",
                    self._where,
                )
            return
        # Or it answers without an fsync for as long as it writes its files anew.
        is_always = known.get("no-appendfsync-on-rewrite") != "yes"
        is_always &= known.get("appendfsync") == "always"
        is_never = is_off or known.get("appendfsync") == "no"
        # Also asked of one that always does: until its first file is whole, it keeps nothing.
        can_wait = None if is_never else await self._can_wait_for_fsync()
        if is_never or not (is_always if can_wait is None else can_wait):
            raise SettingsError(
                f"SLUICE_FSYNC=always: the store at {self._where} does not keep that promise:"
                " run it with appendonly yes, appendfsync always and no-appendfsync-on-rewrite no,"
                " wait until it has written its files, or set SLUICE_FSYNC=everysec"
            )
        # WAIT would say that a replica has it in memory; WAITAOF, that it is on its disk.
        is_asked = not is_always or self._settings.wait_replicas > 0
        self._waits_for_fsync = bool(can_wait) and is_asked
        if not is_always:
            logger.info("the store at %s does not always fsync: WAITAOF it is", self._where)

    async def _can_wait_for_fsync(self) -> bool | None:
        """Tell whether the server confirms that a write is on disk; None if it never does."""
        timeout_ms = int(self._timeout_s * FSYNC_WAIT_SHARE * 1_000)
        async with self._asking():
            probe = ("SET", self._probe, "", "EX", PROBE_TTL_S)
            written, waited = await self._replies([probe, ("WAITAOF", 1, 0, timeout_ms)])
            raise_first([written])
        return None if isinstance(waited, RedisError) else waited[0] >= 1


def _stored(cursor: bytes, fields: dict[bytes, bytes]) -> StoredEntry:
    return StoredEntry(cursor.decode(), fields[b"e"], fields[b"t"].decode())


def _as_sent(cursor: bytes, fields: list[bytes]) -> StoredEntry:
    found = dict(zip(fields[::2], fields[1::2]))
    return StoredEntry(cursor.decode(), found[b"e"], found[b"t"].decode())


class SnapshotWriter:
    """Writes one snapshot: chunks in order, and then the manifest, with which it exists."""

    def __init__(self, store: Store, snapshot_id: str, manifests: str, *, ttl_s: int = 0) -> None:
        self._store = store
        self._manifests = manifests
        self._ttl_s = ttl_s
        self._id = snapshot_id
        self._record = b""
        self._epoch = store.epoch
        # Several may write one snapshot at the same time: each has chunks of its own.
        self._prefix = f"{store._chunks}:{snapshot_id}:{secrets.token_hex(4)}"
        self.keys: list[str] = []

    async def add(self, chunk: bytes) -> None:
        """Write the next chunk; it goes by itself unless a manifest follows."""
        key = f"{self._prefix}:{len(self.keys)}"
        self.keys.append(key)
        await self._store._ask("SET", key, chunk, "EX", UNFINISHED_CHUNK_TTL_S)

    async def finish(self, manifest: dict[str, Any]) -> bool:
        """Make it exist, and tell whether it does: the first manifest under an id wins.

        Raises Conflict where the log that it is of has been replaced, or what it builds on is gone.
        """
        record = self._record = orjson.dumps({"manifest": manifest, "chunks": self.keys})
        store = self._store
        keys = (store._epoch_key, self._manifests, store._log, *self.keys)
        values = (self._epoch, manifest["id"], record, self._ttl_s, manifest.get("base") or "")
        done = await self._store._ask("EVAL", lua.FINISH, len(keys), *keys, *values)
        if done != 1:
            await self.abandon()
        if done == -1:
            raise Conflict(
                f"the log has been replaced, or has no entry {manifest['id']} any more, or what the"
                " snapshot builds on is gone, since it was begun"
            )
        return bool(done)

    async def abandon(self) -> None:
        """Take back what was written, unless it is a snapshot; what cannot be reached expires."""
        if self.keys:
            keys = (self._manifests, *self.keys)
            with contextlib.suppress(StoreUnavailable):
                await self._store._ask(
                    "EVAL", lua.TAKE_BACK, len(keys), *keys, self._id, self._record
                )


async def insist(step: Callable[[], Awaitable[T]]) -> T:
    """Do what may be done twice, again and again until the store answers, within a minute."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + START_WAIT_S
    while True:
        try:
            return await step()
        except StoreUnavailable:
            if loop.time() > deadline:
                raise
        await asyncio.sleep(RETRY_S)


class Rewrite:
    """A log in the making, beside the one of a store, which it may replace with its snapshot.

    What is left of one that was not finished expires.
    """

    def __init__(self, store: Store) -> None:
        token = f"{int(store.epoch)}:{secrets.token_hex(8)}"
        self._store = store
        self._epoch = store.epoch
        self._log = f"{store._log}:next:{token}"
        self._manifests = f"{store._manifests}:next:{token}"
        self._writer: SnapshotWriter | None = None

    async def add(self, entries: Sequence[StoredEntry]) -> None:
        """Append entries under their own cursors."""
        xadd, ttl = ("XADD", self._log), ("EXPIRE", self._log, UNFINISHED_REWRITE_TTL_S)
        commands = [(*xadd, e.cursor, "e", e.payload, "t", e.tag) for e in entries]
        await self._store._ask_all([*commands, ttl])

    async def read(self, after: Cursor, *, count: int) -> list[StoredEntry]:
        """Return up to `count` of its entries after a cursor, oldest first."""
        found = await self._store._ask("XRANGE", self._log, f"({after}", "+", "COUNT", count)
        return [_stored(*entry) for entry in found]

    def snapshot_writer(self, snapshot_id: str) -> SnapshotWriter:
        """Return what takes the one snapshot that comes with it."""
        self._writer = SnapshotWriter(
            self._store, snapshot_id, self._manifests, ttl_s=UNFINISHED_REWRITE_TTL_S
        )
        return self._writer

    async def replace(self, last: Cursor) -> bool:
        """Take the log's place, its snapshots' too; tell whether it did.

        It does not if the log has gone on after `last`, or somebody has just written a snapshot.
        Every replica then reads the new one.
        """
        store = self._store
        records = await store._ask("HGETALL", store._manifests)
        found = [_read_record(name.decode(), record) for name, record in records.items()]
        old = [key for one in found if one is not None for key in one[1]]
        own = self._writer.keys if self._writer else []
        names = (self._log, store._manifests, self._manifests, store._epoch_key, store._floor)
        keys = (store._log, *names, *own, *old)
        values = (self._epoch, last, len(own), *records)
        try:
            if not await store._ask("EVAL", lua.SWAP, len(keys), *keys, *values):
                return False
        except StoreUnavailable:
            if not await self._has_replaced():
                raise
        # Not asked for: whatever came in between, an answer that is lost must not look like none.
        store.epoch = self._next_epoch
        return True

    @property
    def _next_epoch(self) -> bytes:
        return b"%d" % (int(self._epoch) + 1)

    async def _has_replaced(self) -> bool:
        """Tell whether this is the log by now: where the answer to that was lost."""
        commands = [("EXISTS", self._log), ("GET", self._store._epoch_key)]
        try:
            is_there, epoch = await insist(lambda: self._store._ask_all(commands))
        except StoreUnavailable as error:
            raise StoreUnavailable(
                f"nobody can tell whether the log was replaced, as {error}: do it again"
            ) from None
        return not is_there and epoch == self._next_epoch

    async def abandon(self) -> bool:
        """Leave the log as it is, and tell whether it is what it was.

        Where nobody could tell whether it was replaced, it stays so.
        """
        keys = [self._log, self._manifests, *(self._writer.keys if self._writer else ())]
        with contextlib.suppress(StoreUnavailable):
            return bool(await self._store._ask("EVAL", lua.ABANDON, len(keys), *keys))
        return False


def quarantine_id(cursor: Cursor, index: int) -> str:
    """Return the id of the quarantined record at an index of an entry: the same for everybody."""
    if not 0 <= index < QUARANTINE_STRIDE:
        raise ValueError(f"index {index} is not below {QUARANTINE_STRIDE}")
    ms, seq = parse_cursor(cursor)
    return f"{ms}-{seq * QUARANTINE_STRIDE + index}"


def _read_record(snapshot_id: str, record: bytes) -> tuple[dict[str, Any], list[str]] | None:
    """Return a snapshot's manifest and the keys of its chunks; None if it is not as we write it."""
    try:
        found = orjson.loads(record)
        manifest, keys = found["manifest"], found["chunks"]
    except (ValueError, KeyError, TypeError):
        return None
    is_ours = isinstance(manifest, dict) and isinstance(keys, list)
    if is_ours and manifest.get("id") == snapshot_id and all(isinstance(k, str) for k in keys):
        return manifest, keys
    return None


def _is_older(ttl_ms: int, age_ms: float) -> bool:
    """Tell by how long it will be there whether a chunk is older; that stays counts as such."""
    if ttl_ms < 0:
        return ttl_ms == -1
    whole_s = (
        UNFINISHED_CHUNK_TTL_S
        if ttl_ms <= UNFINISHED_CHUNK_TTL_S * 1_000
        else UNFINISHED_REWRITE_TTL_S
    )
    return whole_s * 1_000 - ttl_ms > age_ms
