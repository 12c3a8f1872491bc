"""A network between a client and a service that is cut now and then, whatever is on its way."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tests.faults.servers import free_port

PIECE = 4_096


class Network:
    """Listens on a port of its own, in a thread of its own, and carries bytes to a service's port.

    `cut` ends every connection that there is; `down` and `deaf` do more, for a while.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self.port = free_port()
        self._is_deaf = False
        self._listener: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._do(self._listen())

    @property
    def url(self) -> str:
        """Where a client finds the service."""
        return f"http://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Cut every connection."""
        self._do(self._cut())

    @contextmanager
    def down(self) -> Iterator[None]:
        """Be gone for a while: nobody can connect."""
        self._do(self._leave())
        try:
            yield
        finally:
            self._do(self._listen())

    @contextmanager
    def deaf(self) -> Iterator[None]:
        """Let requests arrive and no answers, for a while; then cut."""
        self._is_deaf = True
        try:
            yield
        finally:
            self._is_deaf = False
            self.cut()

    def close(self) -> None:
        """Cut everything and end."""
        self._do(self._leave())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _do(self, what: Any) -> None:
        asyncio.run_coroutine_threadsafe(what, self._loop).result(10)

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", self.port)

    async def _leave(self) -> None:
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
        with suppress(OSError):
            try:
                there, to_service = await asyncio.open_connection("127.0.0.1", self._target)
                try:
                    ways = [
                        asyncio.ensure_future(self._pump(reader, to_service, is_answer=False)),
                        asyncio.ensure_future(self._pump(there, writer, is_answer=True)),
                    ]
                    try:
                        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                    finally:
                        for way in ways:
                            way.cancel()
                        await asyncio.gather(*ways, return_exceptions=True)
                finally:
                    to_service.close()
            finally:
                writer.close()

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, is_answer: bool
    ) -> None:
        while piece := await source.read(PIECE):
            if not (is_answer and self._is_deaf):
                sink.write(piece)
                await sink.drain()
