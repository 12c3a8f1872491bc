"""A store of somebody else's: a server that tests start, kill, and start again on its files."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import redis

from app.embedded import find_server


def free_port() -> int:
    """Return a port for a service that clients shall find again after its restart."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


class Server:
    """A server on a unix socket, with an append-only file in a folder of its own."""

    def __init__(self, *options: str, binary: Path | None = None, fsync: str = "everysec") -> None:
        # Short, and private: a socket's path has little room.
        self.folder = Path(tempfile.mkdtemp(prefix="sluice-test-"))
        self.socket = self.folder / "s"
        persistent = ("--appendonly", "yes", "--appendfsync", fsync, "--save", "")
        where = ("--port", "0", "--unixsocket", str(self.socket), "--dir", str(self.folder))
        self._command = [str(binary or find_server()), *where, *persistent, *options]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where to reach it, past any proxy."""
        return f"unix://{self.socket}"

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> Server:
        """Start it and wait until it answers."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while not self._answers():
            assert self._process.poll() is None, "the server did not start"
            assert time.monotonic() < deadline, "the server did not start in time"
            time.sleep(0.01)
        return self

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def forget(self, command: str) -> None:
        """Cut its file off at the last command of a kind, as if it had died before it wrote that.

        It must have been killed.
        """
        [file] = self.folder.rglob("appendonlydir/*.incr.aof")
        written = file.read_bytes()
        found = written.rindex(f"\r\n{command}\r\n".encode())
        os.truncate(file, written.rindex(b"*", 0, found))

    def client(self) -> Any:
        """Return a plain client, to look and act behind the service's back."""
        return redis.Redis.from_url(self.url)

    def close(self) -> None:
        """End it, and forget its files."""
        if self._process is not None:
            self.kill()
        shutil.rmtree(self.folder)

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False
