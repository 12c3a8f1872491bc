"""A TCP proxy between a service and its store that breaks the connection in every way it can.

It knows the protocol, so it can do something at a certain command, or to a certain reply, rather
than at some byte: lose the reply to an append that arrived, or call back as a command goes by.
"""

from __future__ import annotations

import asyncio
import random
import socket
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Fault = Literal[
    "none",
    "refuse",  # nobody listens; what was connected is cut
    "cut",  # each connection is cut at its next command, which does not arrive
    "stall",  # connections are accepted, and nothing goes through until the fault is over
    "slow",  # each reply takes 50 ms
    "late",  # each reply takes longer than anybody waits
    "trickle",  # replies come a few bytes at a time
    "lose",  # commands arrive, replies do not: whoever appends cannot know
    "half",  # commands arrive, replies are cut in the middle, and the connection with them
    "garbage",  # random bytes instead of each reply
    "wrong",  # a well-formed reply, to another question
]
Moment = Literal["before", "done", "told"]

SLOW_S = 0.05
LATE_S = 3.0


@dataclass
class Trap:
    """What springs as the n-th of some commands passes.

    `before`: the command does not arrive. `done`: it has been answered, which nobody hears of.
    `told`: the service has the answer.
    """

    step: str
    moment: Moment
    spring: Callable[[], None]
    n: int = 1
    is_sprung: threading.Event = field(default_factory=threading.Event)


class Proxy:
    """Listens on a TCP port of its own, in a thread of its own, for a server on a unix socket.

    `fault` is what it does, to every connection or at one kind of step; `trap` is what it waits
    for, `steps` what has gone by; `on_step` is called before a command is let through.
    """

    def __init__(self, target: Path, *, seed: int = 1) -> None:
        self.fault: Fault = "none"
        self._only: str | None = None
        self.trap: Trap | None = None
        self.steps: Counter[str] = Counter()
        self.on_step: Callable[[str], None] = lambda _: None
        self._target = target
        self._chance = random.Random(seed)
        # Bound and never listening: it keeps the port ours while nobody listens there.
        self._port_holder = _bound(0)
        self.port: int = self._port_holder.getsockname()[1]
        self._listener: asyncio.Server | None = None
        self._flows = asyncio.Event()
        self._flows.set()
        self._connections: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._do(self._listen())

    @property
    def url(self) -> str:
        """Where a service finds it."""
        return f"redis://127.0.0.1:{self.port}"

    @contextmanager
    def broken(self, fault: Fault, *, only: str | None = None) -> Iterator[None]:
        """Do this for a while to every connection, or to one kind of step and its replies."""
        self._do(self._begin(fault, only))
        try:
            yield
        finally:
            self._do(self._end())

    def cut(self) -> None:
        """Cut every connection that there is."""
        self._do(self._cut())

    def close(self) -> None:
        """Cut everything and end."""
        self._do(self._refuse())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        self._port_holder.close()

    def _do(self, what: Any) -> None:
        asyncio.run_coroutine_threadsafe(what, self._loop).result(10)

    async def _begin(self, fault: Fault, only: str | None) -> None:
        self.fault, self._only = fault, only
        if fault == "stall":
            self._flows.clear()
        if fault == "refuse":
            await self._refuse()

    async def _end(self) -> None:
        if self.fault == "refuse":
            await self._listen()
        self.fault = "none"
        self._flows.set()

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(self._accept, sock=_bound(self.port))

    async def _refuse(self) -> None:
        if self._listener is not None:
            self._listener.close()
        await self._cut()

    async def _cut(self) -> None:
        connections = list(self._connections)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = self._loop.create_task(self._carry(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, EOFError):
            try:
                from_store, to_store = await asyncio.open_unix_connection(self._target)
                try:
                    asked: asyncio.Queue[str] = asyncio.Queue()
                    await _first(
                        self._commands(reader, to_store, asked),
                        self._replies(from_store, writer, asked),
                    )
                finally:
                    to_store.close()
            finally:
                writer.close()

    async def _commands(
        self, reader: asyncio.StreamReader, to_store: asyncio.StreamWriter, asked: Any
    ) -> None:
        while True:
            raw, step = await read_command(reader)
            fault = await self._fault_at(step)
            self.on_step(step)
            if fault == "cut" or self._springs(step, "before"):
                return
            self.steps[step] += 1
            asked.put_nowait(step)
            to_store.write(raw)
            await to_store.drain()

    async def _replies(
        self, from_store: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: Any
    ) -> None:
        while True:
            step = await asked.get()
            reply = await read_reply(from_store)
            if self._springs(step, "done") or not await self._answer(step, reply, writer):
                return
            if self._springs(step, "told"):
                return

    async def _fault_at(self, step: str) -> Fault:
        """Return the fault of a step, once it is no stall."""
        if self._only in (None, step):
            await self._flows.wait()
        return self.fault if self._only in (None, step) else "none"

    async def _answer(self, step: str, reply: bytes, writer: asyncio.StreamWriter) -> bool:
        """Pass a reply on, or what the fault makes of it; return whether the connection goes on."""
        fault = await self._fault_at(step)
        if fault in ("slow", "late"):
            await asyncio.sleep(SLOW_S if fault == "slow" else LATE_S)
        elif fault == "lose":
            return True
        elif fault == "half":
            reply = reply[: len(reply) // 2]
        elif fault == "garbage":
            reply = self._chance.randbytes(self._chance.randint(1, 200))
        elif fault == "wrong":
            reply = self._chance.choice([b":7\r\n", b"*0\r\n", b"$-1\r\n", b"+OK\r\n"])
        n_bytes = 7 if fault == "trickle" else max(len(reply), 1)
        for start in range(0, len(reply), n_bytes):
            writer.write(reply[start : start + n_bytes])
            await writer.drain()
            await asyncio.sleep(0)
        return fault != "half"

    def _springs(self, step: str, moment: Moment) -> bool:
        trap = self.trap
        if trap is None or (trap.step, trap.moment) != (step, moment):
            return False
        trap.n -= 1
        if trap.n > 0:
            return False
        self.trap = None
        trap.spring()
        trap.is_sprung.set()
        return True


async def read_command(reader: asyncio.StreamReader) -> tuple[bytes, str]:
    """Return a command as it came, and which step it is."""
    parts = [await _line(reader)]
    words = []
    for _ in range(int(parts[0][1:])):
        size = await _line(reader)
        word = await reader.readexactly(int(size[1:]) + 2)
        parts += [size, word]
        words.append(word[:-2])
    return b"".join(parts), step_of(words)


def step_of(words: list[bytes]) -> str:
    """Name a command by itself and the kind of its first key, as in `SET log:floor`."""
    name = words[0].decode().upper()
    for word in words[1:]:
        if word.startswith(b"sluice:{"):
            kind = [part for part in word.decode().split(":")[2:] if part.isalpha()]
            return f"{name} {':'.join(kind[:2])}"
    return name


async def read_reply(reader: asyncio.StreamReader) -> bytes:
    """Return a reply as it came, whole (protocol 2)."""
    line = await _line(reader)
    size = int(line[1:]) if line[:1] in b"$*" else -1
    if line[:1] == b"$" and size >= 0:
        return line + await reader.readexactly(size + 2)
    parts = [await read_reply(reader) for _ in range(size)] if line[:1] == b"*" else []
    return line + b"".join(parts)


async def _line(reader: asyncio.StreamReader) -> bytes:
    line = await reader.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    return line


async def _first(*ways: Awaitable[None]) -> None:
    """Run these until one of them ends."""
    tasks = [asyncio.ensure_future(way) for way in ways]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        if not task.cancelled():
            task.result()


def _bound(port: int) -> socket.socket:
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("127.0.0.1", port))
    return bound
