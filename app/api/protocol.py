"""HTTP as uvicorn speaks it, but for one thing: head and body of an answer go out together.

uvicorn writes them one by one, and uvloop makes a system call of each: a quarter of what a small
answer costs.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# More than that is not held back, so that whoever writes without end is told to wait as before.
MAX_HELD_BYTES = 2**16

ABORT = "sluice.abort"
"""An extension of the scope: its function `now` cuts the connection off, whatever is to go."""


class GatheringProtocol(HttpToolsProtocol):
    """uvicorn's protocol, over a transport that gathers."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Put the gathering transport in the place of the one given."""
        gathering: Any = Gathering(transport, self.loop)
        super().connection_made(gathering)
        self._extensions: dict[str, dict[object, object]] = {ABORT: {"now": transport.abort}}

    def on_message_begin(self) -> None:
        """Begin a request whose handler may cut the connection off."""
        super().on_message_begin()
        self.scope["extensions"] = self._extensions


class Gathering:
    """A transport that sends what is written within one turn of the loop at once."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: list[bytes] = []
        self._n_bytes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Hold data until the turn is over, or there is much of it."""
        if not self._held:
            self._loop.call_soon(self._send)
        self._held.append(data)
        self._n_bytes += len(data)
        if self._n_bytes > MAX_HELD_BYTES:
            self._send()

    def close(self) -> None:
        """Send what is held, and close."""
        self._send()
        self._transport.close()

    def _send(self) -> None:
        if self._held:
            self._transport.write(b"".join(self._held))
            self._held.clear()
            self._n_bytes = 0
