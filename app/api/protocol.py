"""HTTP as uvicorn speaks it, but for two things.

Head and body of an answer go out together, as soon as it is complete: uvicorn writes them one by
one, and uvloop makes a system call of each, at the end of a turn. And what need not wait for a turn
of its own is answered as soon as all has been read (see `direct`).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Sequence
from typing import Any, cast

from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from app.api.arrivals import Arrivals
from app.api.direct import (
    Asked,
    Direct,
    Head,
    Posted,
    answer_asked,
    answer_posted,
    answer_unfinished,
    begin_asked,
    begin_posted,
    note_broken_off,
    refuse_directly,
)
from app.api.service import Service
from app.api.stream import ABORT
from app.cost import OTHER, READS, RECEIVING, Meter, Stage

# More than that is not held back, so that whoever writes without end is told to wait as before.
MAX_HELD_BYTES = 2**16

TOGETHER = 8
"""Lists that are made before the first of them is sent, at most."""
MOST_ASKED = 32
"""Lists that are asked for before the first of them is made, at most: behind all that a burst
brings in there may be no time left for any."""

_LISTS = b"/v1/recommendations"
_POSTED = b"/v1/feedback", b"/v1/impressions"


class SluiceProtocol(HttpToolsProtocol):
    """uvicorn's protocol, over a transport that gathers; it tells the service what is read."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Put the gathering transport in the place of the one given."""
        self._gathering = Gathering(transport, self.loop)
        self._service: Service | None = self.app_state.get("service")
        self._arrivals = Arrivals() if self._service is None else self._service.arrivals
        self._meter = Meter() if self._service is None else self._service.ingest.meter
        self._stage: Stage = OTHER
        self._handle = self.app
        self.app = self._begin
        super().connection_made(cast("asyncio.Transport", self._gathering))
        self._extensions: dict[str, dict[object, object]] = {ABORT: {"now": transport.abort}}

    def data_received(self, data: bytes) -> None:
        """Take note of when it came, first."""
        self._arrivals.read(self.loop)
        began = self._meter.begin_read()
        super().data_received(data)
        if began is not None:
            self._meter.end_read(self._stage, began)

    def on_message_begin(self) -> None:
        """Make ready for a request; what is made for one that goes the long way can wait."""
        before: Any = self.cycle
        if isinstance(before, Asked) and not before.response_complete:
            # It was in the same packet; this one is not to queue up behind it.
            _answer_asked(cast("Service", self._service))
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        # What was in the same packet before it may have been answered already.
        self._unset_keepalive_if_required()

    def _begin_long_way(self) -> None:
        """Do what uvicorn does where a request begins, given its head; the handler is to know when
        it came, and how to cut the connection off.
        """
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.headers, self.expect_100_continue = url, headers, expects
        self.scope["headers"] = headers
        self.scope["extensions"] = self._extensions
        self.scope["state"]["arrived"] = self._arrivals.arrived

    def on_headers_complete(self) -> None:
        """Answer at once what need not, or must not, wait; put everything else into the queue."""
        self._stage = _stage(self.url)
        if self._service is not None and self._is_plain():
            head = Head(self.parser.get_method(), self.url, self.headers)
            asked = begin_asked(self._service, head)
            if asked is not None:
                self.cycle = cast("Any", asked)
                if not self._service.asked:
                    self.loop.call_soon(_end_turn, self._service)
                self._service.asked.append((self, asked))
                if len(self._service.asked) == MOST_ASKED:
                    _answer_asked(self._service)
                return
            refusal = refuse_directly(self._service, head)
            if refusal is not None:
                self.cycle = refused = cast("Any", Direct(self.headers))
                self.complete(refused, refusal)
                return
            posted = begin_posted(self._service, head)
            if posted is not None:
                self.cycle = cast("Any", posted)
                return
        self._begin_long_way()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Begin to learn from feedback, once it is all there."""
        posted: Any = self.cycle
        if isinstance(posted, Posted) and not posted.response_complete:
            posted.more_body = False
            self._arrivals.n_waiting += 1
            self._start(self._learn(posted))
        else:
            super().on_message_complete()

    def shutdown(self) -> None:
        """Let a stop wait for a body that is on its way, as for everything that is not answered."""
        posted: Any = self.cycle
        if isinstance(posted, Posted) and posted.more_body:
            self._start(self._wait_for_rest(posted))
        super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """Count feedback that breaks off half-way."""
        posted: Any = self.cycle
        if isinstance(posted, Posted) and posted.more_body and self._service is not None:
            note_broken_off(self._service, posted)
        super().connection_lost(exc)

    async def _learn(self, posted: Posted) -> None:
        self._arrivals.n_waiting -= 1
        await self._meter.timed(RECEIVING, self._answer_posted(posted))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = self.loop.create_task(work)
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    async def _wait_for_rest(self, posted: Posted) -> None:
        come = posted.message_event = asyncio.Event()  # set with each part, and at the end
        try:
            while posted.more_body and not posted.disconnected:
                come.clear()
                await come.wait()
        except asyncio.CancelledError:  # the stop has waited for long enough
            if posted.more_body and not posted.disconnected:
                posted.more_body = False
                self.complete(posted, answer_unfinished(cast("Service", self._service), posted))

    async def _answer_posted(self, posted: Posted) -> None:
        self.complete(posted, await answer_posted(cast("Service", self._service), posted))

    def complete(self, request: Direct, response: Response) -> None:
        """Send the answer to a request."""
        request.response_complete = True
        if not self.transport.is_closing():
            self._send(response, () if request.keep_alive else ((b"connection", b"close"),))
            if not request.keep_alive:
                self.transport.close()
        super().on_response_complete()

    def _is_plain(self) -> bool:
        """Tell whether an answer may go out now, and the connection go on after it."""
        cycle: Any = self.cycle  # None before the first request
        is_free = cycle is None or cycle.response_complete
        return (
            is_free
            and not self.flow.write_paused  # else whoever does not read might ask without end
            and self.parser.should_keep_alive()
            and not self.expect_100_continue
            and self.parser.get_http_version() != "1.0"  # uvicorn closes it, whatever was asked
        )

    def _send(self, response: Response, more: Sequence[tuple[bytes, bytes]] = ()) -> None:
        parts = [STATUS_LINE[response.status_code]]
        for name, value in (*self.server_state.default_headers, *response.raw_headers, *more):
            parts += (name, b": ", value, b"\r\n")
        parts += (b"\r\n", bytes(response.body))
        self._gathering.send(b"".join(parts))

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._arrivals.n_waiting += 1
        super()._start_asgi_task(cycle, app)

    async def _begin(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._arrivals.n_waiting -= 1
        stage = _stage(scope.get("raw_path") or b"")
        await self._meter.timed(stage, self._handle(scope, receive, send))

    def on_response_complete(self) -> None:
        """Send the answer now, not when the turn is over."""
        self._gathering.flush()
        super().on_response_complete()


def _stage(url: bytes) -> Stage:
    """Return what a request is for, as CPU is charged."""
    if url.startswith(_LISTS):
        return READS
    return RECEIVING if url.startswith(_POSTED) else OTHER


def _end_turn(service: Service) -> None:
    """Answer who still waits for a list of this turn, and charge it: it is part of no reading."""
    meter = service.ingest.meter
    began = meter.begin_read()
    _answer_asked(service)
    if began is not None:
        meter.end_read(READS, began)


def _answer_asked(service: Service) -> None:
    """Make the lists that were asked for in this turn of the event loop so far, and send them.

    Between two system calls a list is made in two thirds of the time: these leave little of what it
    needs in the processor's caches.
    """
    all_asked = service.asked.copy()
    service.asked.clear()
    for first in range(0, len(all_asked), TOGETHER):
        made = [
            (protocol, asked, answer_asked(service, asked))
            for protocol, asked in all_asked[first : first + TOGETHER]
            if not asked.disconnected
        ]
        for protocol, asked, response in made:
            protocol.complete(asked, response)


class Gathering:
    """A transport that sends what is written within one turn of the loop at once."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: list[bytes] = []
        self._n_bytes = 0
        self._fd = -1
        if transport.get_extra_info("sslcontext") is None:
            self._fd = _descriptor(transport)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Hold data until the turn is over, or there is much of it."""
        if not self._held:
            self._loop.call_soon(self.flush)
        self._held.append(data)
        self._n_bytes += len(data)
        if self._n_bytes > MAX_HELD_BYTES:
            self.flush()

    def send(self, data: bytes) -> None:
        """Send data now, after what is held."""
        self._held.append(data)
        self.flush()

    def close(self) -> None:
        """Send what is held, and close."""
        self.flush()
        self._transport.close()

    def flush(self) -> None:
        """Send what is held: at once, where nothing waits to be sent before it."""
        if not self._held:
            return
        data = b"".join(self._held)
        self._held.clear()
        self._n_bytes = 0
        if self._fd >= 0 and not self._transport.get_write_buffer_size():
            data = data[self._sent(data) :]
        if data:
            self._transport.write(data)

    def _sent(self, data: bytes) -> int:
        """Send as much as the system takes now; whatever is wrong, the transport finds out."""
        if self._transport.is_closing():
            return 0
        try:
            return os.write(self._fd, data)
        except OSError:
            return 0


def _descriptor(transport: asyncio.Transport) -> int:
    socket = transport.get_extra_info("socket")
    return -1 if socket is None else int(socket.fileno())
