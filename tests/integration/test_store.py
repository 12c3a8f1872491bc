"""Log, snapshots and quarantine, in a real store."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.asyncio import ConnectionPool

from app.embedded import EmbeddedServer
from app.errors import (
    Conflict,
    InvalidRequest,
    LogTrimmed,
    NotFound,
    SettingsError,
    StoreUnavailable,
)
from app.settings import Settings
from app.store import BEGINNING, Store, following, parse_cursor, quarantine_id

pytestmark = pytest.mark.anyio

OpenStore = Callable[..., Awaitable[Store]]
StartServer = Callable[..., str]
PASSWORD = "correct-horse-battery"


# ── the log ─────────────────────────────────────────────────────────────────────────────────────


async def test_entries_come_back_in_order_with_their_tags(store: Store) -> None:
    """What is appended is read back byte for byte, in order, tags and all."""
    [first] = await store.append([(b"\x00\xff{}", "p1")])
    rest = await store.append([(b"b", "p2"), (b"", "")])

    entries = await store.read(BEGINNING, block_ms=0)

    assert entries == [(first, b"\x00\xff{}", "p1"), (rest[0], b"b", "p2"), (rest[1], b"", "")]
    assert await store.read(first, block_ms=0) == entries[1:]
    assert await store.read(BEGINNING, block_ms=0, count=1) == entries[:1]
    assert (await store.first_cursor(), await store.last_cursor()) == (first, rest[1])


async def test_groups_keep_their_order(store: Store) -> None:
    """Groups appended at the same time each stay in their own order, and cursors only grow."""
    groups = [[(b"%d-%d" % (group, i), "") for i in range(50)] for group in range(8)]

    cursors = await asyncio.gather(*(store.append(group) for group in groups))

    entries = await store.read(BEGINNING, block_ms=0, count=500)
    payloads = {cursor: payload for cursor, payload, _ in entries}
    assert len(payloads) == 400
    for group, ids in zip(groups, cursors, strict=True):
        assert ids == sorted(ids, key=parse_cursor)
        assert [payloads[cursor] for cursor in ids] == [payload for payload, _ in group]


async def test_who_is_behind_what_was_trimmed_may_still_append(store: Store) -> None:
    """What was trimmed is not lost: a replica that has read no further can write all the same."""
    cursors = await store.append([(b"%d" % i, "t") for i in range(3)])
    await store.trim(cursors[2])
    [cursor] = await store.append([(b"3", "t")], after=cursors[0])
    assert [e.cursor for e in await store.read(cursors[2], block_ms=0)] == [cursor]


async def test_a_log_that_lost_an_entry_takes_nothing_new(store: Store) -> None:
    """Nothing is appended after an entry that is gone; it can be given back under its cursor."""
    cursors = await store.append([(b"%d" % i, "t") for i in range(3)])
    entries = await store.read(BEGINNING, block_ms=0)
    assert await store.append([(b"3", "t")], after=cursors[2])
    await store.trim("99999999999999-0")
    with pytest.raises(StoreUnavailable, match=f"lost the entry {cursors[2]}; nothing was written"):
        await store.append([(b"4", "t")], after=cursors[2])
    assert await store.last_cursor() == BEGINNING
    with pytest.raises(StoreUnavailable, match="does not end at"):
        await store.append_again(entries, after=cursors[2])
    # The log knows that it went past these.
    assert await store.append_again(entries, after=BEGINNING) == 0
    later = [entry._replace(cursor=f"99999999999999-{i}") for i, entry in enumerate(entries)]
    assert await store.append_again(later, after=BEGINNING) == 3
    with pytest.raises(StoreUnavailable, match="does not end at"):
        await store.append_again(later, after=BEGINNING)
    assert await store.append_again(later, after=later[2].cursor) == 0
    assert await store.last_cursor() == later[2].cursor


async def test_an_empty_log(store: Store) -> None:
    """An empty log has a last cursor to start from, no first one, and nothing to read."""
    assert await store.append([]) == []
    assert await store.last_cursor() == BEGINNING
    assert await store.first_cursor() is None
    assert await store.read(BEGINNING, block_ms=0) == []
    assert await store.read(BEGINNING, block_ms=20) == []


async def test_a_blocked_reader_wakes_up(store: Store) -> None:
    """A reader that waits gets an entry as soon as it is appended, and the others go on."""
    await store.append([(b"a", "")])
    waiting = asyncio.create_task(store.read(await store.last_cursor(), block_ms=10_000))

    started = time.monotonic()
    [cursor] = await store.append([(b"b", "")])

    assert await waiting == [(cursor, b"b", "")]
    assert time.monotonic() - started < 5


async def test_a_cancelled_reader_leaves_no_reply_behind(store: Store) -> None:
    """After a read was cancelled the next one gets its own answer, not the old one's."""
    waiting = asyncio.create_task(store.read(BEGINNING, block_ms=10_000))
    await store.ping()
    waiting.cancel()
    await asyncio.wait([waiting])

    [cursor] = await store.append([(b"a", "")])

    assert await store.read(BEGINNING, block_ms=0) == [(cursor, b"a", "")]
    assert await store.read(cursor, block_ms=0) == []


async def test_a_cancelled_append_leaves_no_reply_behind(store: Store) -> None:
    """However far an append had come when it was given up, the next one gets its own cursor."""
    for turns in range(20):
        given_up = asyncio.create_task(store.append([(b"given up", "")]))
        for _ in range(turns):
            await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.gather(given_up, return_exceptions=True)

        [cursor] = await store.append([(b"%d" % turns, "kept")])

        [entry] = await store.read_between(cursor, following(cursor), count=1)
        assert entry == (cursor, b"%d" % turns, "kept")


async def test_a_reader_before_the_floor_is_told(store: Store) -> None:
    """A reader whose next entries may have been trimmed gets LogTrimmed, never a gap."""
    cursors = await store.append([(b"%d" % i, "") for i in range(5)])

    await store.trim(cursors[2])

    assert await store.first_cursor() == cursors[2]
    with pytest.raises(LogTrimmed, match=cursors[2]):
        await store.read(cursors[1], block_ms=0)
    with pytest.raises(LogTrimmed):
        await store.read(BEGINNING, block_ms=1_000)
    assert [c for c, _, _ in await store.read(cursors[2], block_ms=0)] == cursors[3:]


async def test_a_lost_entry_is_noticed(store: Store, raw: redis.Redis) -> None:
    """A reader that stands at an entry which the log lost is told, with newer ones there or not."""
    cursors = await store.append([(b"%d" % i, "") for i in range(3)])
    raw.xdel("sluice:{test}:log", cursors[1])
    with pytest.raises(LogTrimmed, match=cursors[1]):
        await store.read(cursors[1], block_ms=0)
    assert [c for c, _, _ in await store.read(cursors[0], block_ms=0)] == [cursors[2]]
    raw.xdel("sluice:{test}:log", cursors[2])
    with pytest.raises(LogTrimmed, match=cursors[2]):
        await store.read(cursors[2], block_ms=50)


async def test_only_a_snapshot_that_is_there_is_pinned(store: Store) -> None:
    """Who wants to restore what is gone hears of it before the command is in the log."""
    with pytest.raises(NotFound, match="5-0"):
        await store.pin_snapshot("5-0")


async def test_trimming_is_exact(store: Store) -> None:
    """All entries before the cursor go, the entry at the cursor and those after it stay."""
    cursors = await store.append([(b"%d" % i, "") for i in range(1_000)])

    await store.trim(cursors[777])

    assert len(await store.read(cursors[777], block_ms=0, count=1_000)) == 222
    assert await store.first_cursor() == cursors[777]


async def test_a_seeded_log_begins_where_it_was_told(store: Store) -> None:
    """A seed stands at its very cursor; later entries follow it, earlier readers are refused."""
    await store.seed("1234-5", b"seed")
    [cursor] = await store.append([(b"next", "")])

    assert await store.first_cursor() == "1234-5"
    assert await store.read("1234-5", block_ms=0) == [(cursor, b"next", "")]
    with pytest.raises(LogTrimmed):
        await store.read(BEGINNING, block_ms=0)


async def test_only_an_empty_log_is_seeded(store: Store) -> None:
    """Seeding a log that has entries is a conflict and changes nothing."""
    [cursor] = await store.append([(b"a", "")])

    with pytest.raises(Conflict):
        await store.seed("1-1", b"seed")
    with pytest.raises(Conflict):
        await store.seed(f"{2**63}-0", b"seed")

    assert await store.read(BEGINNING, block_ms=0) == [(cursor, b"a", "")]


async def test_namespaces_do_not_see_each_other(store_url: str, open_store: OpenStore) -> None:
    """What is in one namespace is in no other."""
    one, two = [await open_store(store_url, namespace=name) for name in ("one", "two")]

    [cursor] = await one.append([(b"a", "")])
    await one.write_snapshot({"id": cursor}, [b"x"])
    await one.append_quarantine([("1-1", 0, b"q")])

    assert await two.last_cursor() == BEGINNING
    assert await two.list_snapshots() == []
    assert await two.list_quarantine(10) == []


async def test_a_snapshot_stands_in_its_log(store: Store, raw: Any) -> None:
    """Of an entry that the log has lost, or never had, there is no snapshot, nor a chunk."""
    await store.append([(b"a", "")])
    with pytest.raises(Conflict, match="no entry 1-1"):
        await store.write_snapshot({"id": "1-1"}, [b"x"])
    assert await store.list_snapshots() == []
    assert not raw.keys("*snapshot:*")


async def test_a_snapshot_does_not_come_after_its_entry_was_trimmed(store: Store) -> None:
    """One that took so long is no use to any start."""
    first, last = await store.append([(b"a", ""), (b"b", "")])
    assert await store.trim(last)
    with pytest.raises(Conflict, match="no entry"):
        await store.write_snapshot({"id": first}, [b"x"])
    assert await store.list_snapshots() == []


@pytest.mark.parametrize(
    "text",
    [
        *("", "-", "1", "1-", "-1", "1-2-3", "a-1", "1-*", " 1-1", "1_0-1", "1-+1", "²-1", "1-1\n"),
        *("+", "$", f"{2**64}-0", f"0-{2**64}", "1" * 5_000 + "-0"),
    ],
)
async def test_a_malformed_cursor_is_refused(text: str) -> None:
    """Whatever is not two numbers of 64 bits is the caller's mistake, with 422."""
    with pytest.raises(InvalidRequest):
        parse_cursor(text)


async def test_cursors_compare_as_numbers() -> None:
    """Cursors order by time, then by sequence, both as numbers."""
    assert parse_cursor("9-10") > parse_cursor("9-9")
    assert parse_cursor(f"{2**64 - 1}-0") > parse_cursor("9999999999999-0")


# ── snapshots ───────────────────────────────────────────────────────────────────────────────────


async def read(store: Store, snapshot_id: str) -> tuple[Any, list[bytes | None]]:
    """Return a snapshot's manifest and chunks."""
    manifest = await store.read_manifest(snapshot_id)
    return manifest, [chunk async for chunk in store.read_chunks(snapshot_id)]


async def test_a_snapshot_comes_back(store: Store) -> None:
    """A snapshot is read back as it was written; the list is in log order."""
    chunks = [os.urandom(1_000_000), b"", b"tail"]
    for snapshot_id in ("100-0", "9-0", "9-11", "9-2"):
        await store.write_snapshot({"id": snapshot_id, "n": 1.5}, chunks)

    assert await read(store, "9-2") == ({"id": "9-2", "n": 1.5}, chunks)
    listed = [manifest["id"] for manifest in await store.list_snapshots()]
    assert listed == ["9-0", "9-2", "9-11", "100-0"]


async def test_a_snapshot_in_the_making_is_not_there(store: Store, raw: Any) -> None:
    """Chunks without a manifest are no snapshot, and go by themselves."""

    class Dies(Exception):
        pass

    def chunks() -> Any:
        yield b"a"
        raise Dies

    class Chunks(list[bytes]):
        def __iter__(self) -> Any:
            return chunks()

    with pytest.raises(Dies):
        await store.write_snapshot({"id": "5-0"}, Chunks([b"a", b"b"]))

    assert await store.list_snapshots() == []
    with pytest.raises(NotFound):
        await read(store, "5-0")
    [left] = raw.keys("sluice:{test}:snapshot:*")
    assert 0 < raw.ttl(left) <= 3_600


async def test_a_finished_snapshot_does_not_expire(store: Store, raw: Any) -> None:
    """Once the manifest is there, the chunks stay."""
    await store.write_snapshot({"id": "5-0"}, [b"a", b"b"])

    assert [raw.ttl(key) for key in raw.keys("sluice:{test}:snapshot:*")] == [-1, -1]


async def test_a_missing_chunk_is_none(store: Store, raw: Any) -> None:
    """A chunk that was lost is None in its place, so that the snapshot can be refused."""
    await store.write_snapshot({"id": "5-0"}, [b"a", b"b", b"c"])
    [key] = [key for key in raw.keys("sluice:{test}:snapshot:*") if key.endswith(b":1")]
    raw.delete(key)

    assert await read(store, "5-0") == ({"id": "5-0"}, [b"a", None, b"c"])


async def test_the_first_manifest_wins(store: Store, raw: Any) -> None:
    """Replicas that write one snapshot at the same time leave one, whole, and nothing else."""
    await asyncio.gather(
        *(store.write_snapshot({"id": "5-0"}, [b"%d" % i] * 3) for i in range(5)),
    )
    await store.write_snapshot({"id": "5-0"}, [b"late"])

    _, chunks = await read(store, "5-0")
    assert len(chunks) == 3
    assert len(set(chunks)) == 1
    assert len(raw.keys("sluice:{test}:snapshot:*")) == 3


async def test_a_deleted_snapshot_leaves_nothing(store: Store, raw: Any) -> None:
    """Deleting takes the manifest and every chunk; deleting again is no error."""
    await store.write_snapshot({"id": "5-0"}, [b"a", b"b"])
    await store.write_snapshot({"id": "6-0"}, [])

    for snapshot_id in ("5-0", "6-0", "5-0", "7-0"):
        await store.delete_snapshot(snapshot_id)

    assert await store.list_snapshots() == []
    assert raw.keys("sluice:*") == []


# ── quarantine ──────────────────────────────────────────────────────────────────────────────────


async def test_quarantine_is_written_once(store: Store) -> None:
    """However many replicas and replays write them, each record is there once."""
    records = [("7-0", 0, b"a"), ("7-0", 3, b"b"), ("7-1", 0, b"c"), ("8-0", 99_999, b"d")]

    for end in (2, 4, 3, 4):
        await store.append_quarantine(records[:end])
    await store.append_quarantine([])

    expected = [(quarantine_id(cursor, index), payload) for cursor, index, payload in records]
    assert await store.list_quarantine(10) == expected[::-1]


async def test_quarantine_is_paged(store: Store) -> None:
    """Pages are newest first, and the next one begins after the last record seen."""
    await store.append_quarantine([("7-0", i, b"%d" % i) for i in range(10)])

    pages = [await store.list_quarantine(4)]
    while page := await store.list_quarantine(4, pages[-1][-1][0]):
        pages.append(page)

    assert [len(page) for page in pages] == [4, 4, 2]
    assert [payload for page in pages for _, payload in page] == [b"%d" % i for i in range(10)][
        ::-1
    ]
    with pytest.raises(InvalidRequest):
        await store.list_quarantine(4, "(1-1")


# ── when the store fails ────────────────────────────────────────────────────────────────────────


async def test_a_killed_store_is_reported_quickly(
    server: EmbeddedServer, open_store: OpenStore
) -> None:
    """With the store gone every call fails within 3 s; with it back, every call works again."""
    store = await open_store(server.url)
    await asyncio.gather(*(store.append([(b"a", "")]) for _ in range(8)))
    last = await store.last_cursor()
    reading = asyncio.create_task(store.read(last, block_ms=10_000))
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)

    started = time.monotonic()
    calls = (store.ping(), store.append([(b"b", "")]), store.last_cursor(), reading)
    errors = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(error, StoreUnavailable) for error in errors), errors
    assert time.monotonic() - started < 3

    await server.ensure_running()
    assert isinstance(await _error(store.append([(b"c", "")])), StoreUnavailable)
    assert store.is_new
    await store.admit(store.primary)
    # As many at once as there were connections: every one of those is stale.
    cursors = await asyncio.gather(*(store.append([(b"c", "")]) for _ in range(8)))
    assert len(await store.read(last, block_ms=0)) == len(cursors)


class Resetting(ConnectionPool):
    """Connections that are reset when they have just been found to be all right."""

    async def get_connection(self, *args: Any, **options: Any) -> Any:
        """Return one that is closed, and does not know it."""
        connection: Any = await super().get_connection(*args, **options)  # type: ignore[no-untyped-call]
        connection._writer.transport.abort()
        for _ in range(3):
            await asyncio.sleep(0)
        return connection


@pytest.mark.parametrize(
    "anyio_backend", [("asyncio", {"use_uvloop": True}), ("asyncio", {"use_uvloop": False})]
)
async def test_a_connection_that_was_reset_is_an_outage(
    start_external: StartServer, valkey_server: Path, open_store: OpenStore
) -> None:
    """Whatever the event loop makes of it, a reset just before a command is no fault of ours."""
    store = await open_store(start_external(valkey_server))
    store._redis.connection_pool.__class__ = Resetting
    assert isinstance(await _error(store.append([(b"a", "")])), StoreUnavailable)
    store._redis.connection_pool.__class__ = ConnectionPool
    assert await store.append([(b"a", "")])


async def test_a_silent_store_is_reported(server: EmbeddedServer, open_store: OpenStore) -> None:
    """A store that accepts connections but does not answer is given up after store_timeout_s."""
    store = await open_store(server.url, store_timeout_s=0.3)
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)
    try:
        started = time.monotonic()
        calls = (store.ping(), store.append([(b"b", "")]), store.read("0-0", block_ms=200))
        errors = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(error, StoreUnavailable) for error in errors), errors
        assert time.monotonic() - started < 2
    finally:
        os.kill(server.pid, signal.SIGCONT)


async def test_a_full_store_refuses(store: Store, raw: Any) -> None:
    """A store out of memory refuses an append with its own words, and keeps what it has."""
    await store.append([(b"a", "")])
    raw.config_set("maxmemory", 1)

    with pytest.raises(StoreUnavailable, match="maxmemory"):
        await store.append([(b"b", ""), (b"c", "")])
    with pytest.raises(StoreUnavailable, match="maxmemory"):
        await store.append_quarantine([("1-1", 0, b"q")])

    assert len(await store.read(BEGINNING, block_ms=0)) == 1


async def test_a_read_only_store_refuses(store: Store, raw: Any) -> None:
    """A primary that was made a replica refuses an append, and then counts as unavailable."""
    raw.execute_command("REPLICAOF", "127.0.0.1", "1")

    with pytest.raises(StoreUnavailable, match="read only"):
        await store.append([(b"b", "")])
    with pytest.raises(StoreUnavailable, match="a replica; waiting for a primary"):
        await store.read(BEGINNING, block_ms=0)

    raw.execute_command("REPLICAOF", "NO", "ONE")
    assert await store.read(BEGINNING, block_ms=0) == []
    assert store.is_new  # as a replica it may have got another's log


async def test_errors_do_not_quote_payloads(store: Store, raw: Any) -> None:
    """An error says what the store said, and nothing of the events."""
    raw.set("sluice:{test}:log", "no stream")

    with pytest.raises(StoreUnavailable, match="WRONGTYPE") as caught:
        await store.append([(b"private", "")])

    assert "private" not in str(caught.value)


# ── settings ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost",
        "localhost:6379",
        "redis://localhost:port",
        f"redis://:{PASSWORD}/@localhost",
        f"redis://:{PASSWORD}@localhost?no_such_option=1",
    ],
)
async def test_a_wrong_url_is_refused(url: str) -> None:
    """A URL that is none is a matter of settings, and is not quoted: it may hold a password."""
    with pytest.raises(SettingsError, match="SLUICE_REDIS_URL") as caught:
        Store(url, Settings())

    assert PASSWORD not in str(caught.value)


async def test_no_password_in_an_error(
    redis_server: Path, start_external: StartServer, open_store: OpenStore
) -> None:
    """Neither a refused connection nor a refused password shows the password."""
    url = start_external(redis_server, "--requirepass", "another")
    for bad in (f"redis://:{PASSWORD}@127.0.0.1:1/0", f"{url}?password={PASSWORD}", url):
        with pytest.raises(StoreUnavailable) as caught:
            await open_store(bad, redis_url=bad)
        assert PASSWORD not in str(caught.value)
        assert caught.value.__suppress_context__

    store = await open_store(f"{url}?password=another", redis_url=url)
    await store.append([(b"a", "")])


async def test_an_external_store_that_always_syncs(
    redis_server: Path, start_external: StartServer, open_store: OpenStore
) -> None:
    """fsync=always is content with a server that has appendfsync always."""
    url = start_external(redis_server, "--appendonly", "yes", "--appendfsync", "always")

    store = await open_store(url, redis_url=url, fsync="always")

    assert len(await store.append([(b"a", ""), (b"b", "")])) == 2


async def test_an_external_store_that_can_wait_for_the_disk(
    valkey_server: Path, start_external: StartServer, open_store: OpenStore
) -> None:
    """fsync=always waits for the disk with WAITAOF where appendfsync is everysec."""
    url = start_external(valkey_server, "--appendonly", "yes", "--appendfsync", "everysec")

    store = await open_store(url, redis_url=url, fsync="always", store_timeout_s=5)
    cursors = await store.append([(b"a", ""), (b"b", "")])

    assert [c for c, _, _ in await store.read(BEGINNING, block_ms=0)] == cursors


async def test_an_append_that_is_not_on_disk_is_not_acknowledged(
    valkey_server: Path, start_external: StartServer, open_store: OpenStore
) -> None:
    """When the disk does not confirm in time, an append fails though the server has the entry."""
    url = start_external(valkey_server, "--appendonly", "yes", "--appendfsync", "everysec")
    store = await open_store(url, redis_url=url, fsync="always", store_timeout_s=2)
    with redis.Redis.from_url(url) as client:
        client.config_set("appendfsync", "no")

    with pytest.raises(StoreUnavailable, match="on disk"):
        await store.append([(b"a", "")])


async def test_a_server_that_does_not_sync_while_it_writes_its_files_is_waited_for(
    valkey_server: Path, start_external: StartServer, open_store: OpenStore
) -> None:
    """With no-appendfsync-on-rewrite, appendfsync always is no promise: the disk has to confirm."""
    aof = ("--appendonly", "yes", "--appendfsync", "always", "--no-appendfsync-on-rewrite", "yes")
    url = start_external(valkey_server, *aof)
    store = await open_store(url, redis_url=url, fsync="always", store_timeout_s=2)
    assert await store.append([(b"a", "")])
    with redis.Redis.from_url(url) as client:
        client.config_set("rdb-key-save-delay", 60_000_000)
        client.bgsave()
        with pytest.raises(StoreUnavailable, match="on disk"):
            await store.append([(b"b", "")])


async def test_a_server_whose_first_file_is_not_whole_keeps_no_promise(
    valkey_server: Path, start_external: StartServer, open_store: OpenStore
) -> None:
    """Until then it would lose all, whatever its settings say, as after a full synchronisation."""
    url = start_external(valkey_server, "--appendonly", "no", "--appendfsync", "always")
    with redis.Redis.from_url(url) as client:
        client.set("one that takes a while", "to write")
        client.config_set("rdb-key-save-delay", 60_000_000)
        client.config_set("appendonly", "yes")
        with pytest.raises(SettingsError, match="wait until it has written its files"):
            await open_store(url, redis_url=url, fsync="always", store_timeout_s=1)


async def test_an_external_store_that_forbids_config(
    valkey_server: Path, start_external: StartServer, open_store: OpenStore
) -> None:
    """fsync=always tries WAITAOF where CONFIG is forbidden."""
    user = ("--user", "app", "on", f">{PASSWORD}", "~*", "&*", "+@all", "-config")
    url = start_external(valkey_server, "--appendonly", "yes", "--appendfsync", "everysec", *user)
    url += f"?username=app&password={PASSWORD}"

    store = await open_store(url, redis_url=url, fsync="always", store_timeout_s=5)

    assert len(await store.append([(b"a", "")])) == 1


@pytest.mark.parametrize(
    "options",
    [
        ("--appendonly", "no"),
        ("--appendonly", "yes", "--appendfsync", "no"),
        ("--appendfsync", "always", "--no-appendfsync-on-rewrite", "yes", "--appendonly", "yes"),
        ("--appendonly", "yes", "--appendfsync", "everysec"),
        ("--appendonly", "yes", "--rename-command", "CONFIG", ""),
    ],
)
async def test_an_external_store_without_the_promise(
    redis_server: Path,
    start_external: StartServer,
    open_store: OpenStore,
    options: tuple[str, ...],
) -> None:
    """fsync=always refuses a server that cannot promise it, and says what to change."""
    url = start_external(redis_server, *options)

    if options[-1] in ("everysec", "yes") and await _has_waitaof(await open_store(url)):
        pytest.skip("this redis-server has WAITAOF, so it can promise it")
    with pytest.raises(SettingsError, match="appendfsync always"):
        await open_store(url, redis_url=url, fsync="always")


async def test_a_store_without_persistence_is_remarked(
    redis_server: Path,
    start_external: StartServer,
    open_store: OpenStore,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Under everysec, a server that keeps nothing is used, with a warning."""
    url = start_external(redis_server, "--appendonly", "no")

    await open_store(url, redis_url=url)

    assert "appendonly no" in caplog.text


async def _error(call: Awaitable[Any]) -> BaseException | None:
    try:
        await call
    except Exception as error:
        return error
    return None


async def _has_waitaof(store: Store) -> bool:
    return bool(await store._can_wait_for_fsync())


async def test_what_was_trimmed_is_never_trimmed_less(store: Store) -> None:
    """Whoever comes late with an older snapshot does not make what was trimmed look lost."""
    cursors = await store.append([(b"a", ""), (b"b", ""), (b"c", "")])
    assert await store.trim(cursors[2])
    assert not await store.trim(cursors[1])
    assert await store.missing(cursors) == []
    assert await store.trim(cursors[2])
