"""Server-sent events for whoever watches: a sample a second, and decisions as they happen.

Nothing is queued for anybody. A sample is made once for all, and who is slow gets the newest one
next; decisions are read from the gate's own record, so none is left out. Nobody listening costs
nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from bisect import bisect_right
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app import tasks
from app.api.samples import Samples, decision_view
from app.errors import TooManyRequests
from app.gate_data import Decision
from app.ingest import Ingest

ABORT = "sluice.abort"
"""An extension of the scope: its function `now` cuts the connection off, whatever is to go."""

MAX_LISTENERS = 32
TICK_S = 1.0
HEARTBEAT_S = 15.0
"""Proxies close what is silent for longer than a minute, as a rule."""
SLOW_S = 5.0
"""Whoever takes no byte for so long is dropped; the browser comes back by itself."""
LIFE_S = 3_600.0
"""A stream ends then and is opened anew, so that a key that was replaced counts."""
RETRY_MS = 2_000


class Stream:
    """Tells listeners what is going on; `stopping` ends them all."""

    def __init__(self, ingest: Ingest, samples: Samples, stopping: asyncio.Event) -> None:
        self.n_listeners = 0
        self._ingest = ingest
        self._samples = samples
        self._stopping = stopping
        self._news = asyncio.Event()
        self._frame = b""

    async def run(self) -> None:
        """Take a sample a second while somebody listens, until the service stops."""
        while not self._stopping.is_set():
            self._samples.tick()
            self._observe()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):
                    await self._stopping.wait()
        self.wake()

    def wake(self) -> None:
        """Let every listener look for news."""
        self._news.set()
        self._news = asyncio.Event()

    def _observe(self) -> None:
        if self.n_listeners:
            self._frame = frame("metrics", self._samples.take())
            self.wake()

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Take one of the places there are; raise TooManyRequests where none is left."""
        if self.n_listeners >= MAX_LISTENERS:
            raise TooManyRequests(f"{MAX_LISTENERS} listen to this process already")
        self.n_listeners += 1
        try:
            yield
        finally:
            self.n_listeners -= 1

    async def frames(
        self, since: int | None, *, metrics: bool = True
    ) -> AsyncGenerator[bytes, None]:
        """Yield what a listener is to be sent: decisions after the one numbered `since`.

        None: those that are made from now on.
        """
        last = self._newest if since is None else min(since, self._newest)
        sent = b""
        yield b"retry: %d\n\n" % RETRY_MS
        if metrics:
            yield frame("history", self._samples.history())
            self._observe()
        while not self._stopping.is_set():
            news = self._news
            for decision in self._after(last):
                last = decision.number
                yield frame("decision", decision_view(decision), id_=last)
            if metrics and self._frame is not sent:
                sent = self._frame
                yield sent
            if not await _within(news.wait(), HEARTBEAT_S):
                yield b": still here\n\n"
            last = min(last, self._newest)  # a log written anew counts from where it is

    @property
    def _newest(self) -> int:
        decisions = self._ingest.engine.gate.decisions
        return decisions[-1].number if decisions else 0

    def _after(self, number: int) -> list[Decision]:
        decisions = self._ingest.engine.gate.decisions
        return decisions[bisect_right(decisions, number, key=lambda d: d.number) :]


async def _within(work: Any, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await work
    except TimeoutError:
        return False
    return True


def frame(event: str, content: Any, *, id_: int | None = None) -> bytes:
    """Return one server-sent event; JSON has no line breaks."""
    head = b"" if id_ is None else b"id: %d\n" % id_
    return head + b"event: %s\ndata: %s\n\n" % (event.encode(), orjson.dumps(content))


class EventStream(Response):
    """Sends frames until there are no more, the client hangs up, or is too slow to take one."""

    media_type = "text/event-stream"

    def __init__(
        self, stream: Stream, since: int | None, *, metrics: bool, slow_s: float = SLOW_S
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._stream = stream
        self._frames = stream.frames(since, metrics=metrics)
        self._slow_s = slow_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, for as long as it lasts."""
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        with self._stream.place():
            await send(start)
            sending = asyncio.create_task(self._send_all(scope, send))
            hanging_up = asyncio.create_task(_hung_up(receive))
            try:
                await asyncio.wait(
                    {sending, hanging_up}, timeout=LIFE_S, return_when=asyncio.FIRST_COMPLETED
                )
            finally:
                await tasks.end(sending, hanging_up)
                await self._frames.aclose()
            await self._end(scope, send)

    async def _send_all(self, scope: Scope, send: Send) -> None:
        async for body in self._frames:
            part = {"type": "http.response.body", "body": body, "more_body": True}
            if not await _within(send(part), self._slow_s):
                return

    async def _end(self, scope: Scope, send: Send) -> None:
        """End the answer; cut off who does not even take that."""
        if not await _within(send({"type": "http.response.body", "body": b""}), self._slow_s):
            abort = scope.get("extensions", {}).get(ABORT)
            if abort is not None:
                abort["now"]()


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
