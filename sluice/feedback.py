"""Feedback: sent at once, or tracked and sent in batches by a thread (or task) of its own.

What is tracked waits in a bounded buffer until the service has answered for it; a batch that nobody
answered is sent again, as it was, with the same ids: the service learns each event once.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import httpx

from sluice import results
from sluice.errors import BufferFull, Closed, SluiceClientError
from sluice.events import Event, body_of
from sluice.results import Counts, Outcome
from sluice.retries import Attempts, Reply, Retries, content_of

logger = logging.getLogger("sluice.client")

# The service takes 10,000 events and 8 MiB; less is answered sooner.
MAX_BATCH, MAX_BATCH_BYTES = 10_000, 2**20
_TOO_MUCH = (413, 422)


@dataclass(frozen=True, slots=True)
class Batching:
    """How tracked events are sent: as soon as `batch` of them wait, or the first for `every_s`.

    At most `buffer` events wait; when there are so many, `when_full` says what `track` does: "drop"
    the new event and count it, "raise" BufferFull, or "block" until there is room. `ack`: "learned"
    waits until the service has learned them, "log" until they are durable. `on_outcome` is told
    what became of each event, in the thread that sends.
    """

    batch: int = 500
    every_s: float = 0.5
    buffer: int = 10_000
    when_full: Literal["drop", "raise", "block"] = "drop"
    ack: Literal["learned", "log"] = "learned"
    on_outcome: Callable[[Outcome], None] | None = None
    retries: Retries = field(default_factory=lambda: Retries(give_up_s=None))
    close_s: float = 5.0

    def __post_init__(self) -> None:
        if not 1 <= self.batch <= min(MAX_BATCH, self.buffer):
            raise ValueError(f"batch must be 1 to {MAX_BATCH}, at most buffer, not {self.batch}")


class _Pending(NamedTuple):
    event_id: str
    wired: bytes


class _Buffer:
    """The events that wait, those that are being sent among them, and what became of others."""

    def __init__(self, batching: Batching) -> None:
        self.batching = batching
        self.pending: deque[_Pending] = deque()
        self.n_sending = 0
        self.n_dropped = 0
        self.outcomes: Counter[str] = Counter()

    @property
    def n(self) -> int:
        return len(self.pending) + self.n_sending

    def is_full(self) -> bool:
        return self.n >= self.batching.buffer

    def is_batch_due(self) -> bool:
        return len(self.pending) >= self.batching.batch

    def refuse(self) -> None:
        """Do what is to be done with an event for which there is no room."""
        if self.batching.when_full == "raise":
            raise BufferFull(f"{self.n} events wait to be sent")
        if not self.n_dropped:
            logger.warning("the buffer is full: events are dropped from now on (see `counts`)")
        self.n_dropped += 1

    def take(self) -> list[_Pending]:
        """Take the next batch."""
        batch: list[_Pending] = []
        n_bytes = 0
        while self.pending and len(batch) < self.batching.batch:
            n_bytes += len(self.pending[0].wired) + 1
            if batch and n_bytes > MAX_BATCH_BYTES:
                break
            batch.append(self.pending.popleft())
        self.n_sending += len(batch)
        return batch

    def settle(self, found: Sequence[Outcome]) -> None:
        """Take note of what became of events that were being sent."""
        self.n_sending -= len(found)
        self.outcomes.update(outcome.status for outcome in found)

    def give_up(self) -> list[Outcome]:
        """Return what is left as unsent."""
        left = [Outcome(one.event_id, "unsent") for one in self.pending]
        self.pending.clear()
        self.outcomes.update(outcome.status for outcome in left)
        return left

    def counts(self) -> Counts:
        return Counts(self.n, self.n_dropped, dict(self.outcomes))

    def tell(self, found: Sequence[Outcome]) -> None:
        """Tell the application, whose mistakes are not to stop the sending."""
        if self.batching.on_outcome is None:
            return
        for outcome in found:
            try:
                self.batching.on_outcome(outcome)
            except Exception:
                logger.exception("on_outcome failed for event %s", outcome.event_id)


def _halves(part: list[_Pending], reply: Reply | None) -> list[list[_Pending]]:
    """Return a part in two, where the service would not take it whole."""
    is_refused = isinstance(reply, httpx.Response) and reply.status_code in _TOO_MUCH
    middle = len(part) // 2
    return [part[middle:], part[:middle]] if is_refused and middle else []


def _outcomes(part: list[_Pending], reply: Reply | None) -> list[Outcome]:
    """Return what became of a part; no reply at all: there was no time for one."""
    if reply is None:
        return [Outcome(one.event_id, "unsent") for one in part]
    try:
        return results.outcomes(content_of(reply))
    except SluiceClientError as error:
        why = str(error)
    except (ValueError, KeyError, TypeError) as error:  # something in between answered
        why = f"no answer of Sluice: {error!r}"
    logger.error("%d events were refused: %s", len(part), why)
    return [Outcome(one.event_id, "failed", why) for one in part]


Post = Callable[[bytes, str, Retries | None], Reply]
AsyncPost = Callable[[bytes, str, Retries | None], Awaitable[Reply]]
"""Sends a body with an `ack`; without retries, once."""


class Feedback:
    """Feedback of a Client. Safe to use from several threads, and after a fork."""

    def __init__(self, post: Post, batching: Batching) -> None:
        self._post = post
        self._batching = batching
        self._begin()
        _instances.add(self)

    def _begin(self) -> None:
        """Begin with an empty buffer; what a process that forked had is its own to send."""
        self._buffer = _Buffer(self._batching)
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._n_flushing = 0
        self._close_at: float | None = None

    def send(self, events: Iterable[Event]) -> list[Outcome]:
        """Send events now, and return what became of each.

        Tries again for as long as the client's `retries` say. Raises ServiceError or Unavailable;
        whether the events were learned is open then: sent again, they are not learned twice.
        """
        reply = self._post(body_of([event.wire() for event in events]), "learned", None)
        return results.outcomes(content_of(reply))

    def track(self, user_id: str, item_id: str, type: str, **rest: Any) -> str | None:  # noqa: A002
        """Let an event be sent in the background; return its id, or None if it was dropped.

        `rest` as for `Event`. Returns at once, but with `when_full="block"`. Raises Closed.
        """
        event = Event(user_id, item_id, type, **rest)
        pending = _Pending(event.event_id, event.wire())
        with self._changed:
            if self._close_at is not None:
                raise Closed("this client was closed; it takes no more events")
            if self._buffer.is_full() and not self._make_room():
                return None
            self._buffer.pending.append(pending)
            self._start()
            if len(self._buffer.pending) == 1 or self._buffer.is_batch_due():
                self._changed.notify_all()
        return event.event_id

    def _make_room(self) -> bool:
        if self._batching.when_full != "block":
            self._buffer.refuse()
            return False
        self._start()
        self._changed.wait_for(lambda: not self._buffer.is_full() or self._close_at is not None)
        if self._close_at is not None:
            raise Closed("this client was closed; it takes no more events")
        return True

    def flush(self, timeout_s: float | None = None) -> bool:
        """Send what waits now; return whether all was answered in time."""
        with self._changed:
            self._n_flushing += 1
            self._changed.notify_all()
            try:
                return self._changed.wait_for(lambda: not self._buffer.n, timeout_s)
            finally:
                self._n_flushing -= 1

    def close(self, timeout_s: float | None = None) -> None:
        """Send what waits, for so many seconds (`close_s`); the rest is `unsent`, and logged.

        A request that is under way is waited for.
        """
        with self._changed:
            if self._close_at is None:
                wait_s = self._batching.close_s if timeout_s is None else timeout_s
                self._close_at = time.monotonic() + wait_s
            self._changed.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        atexit.unregister(self.close)

    @property
    def counts(self) -> Counts:
        """Return how many events wait, and what became of the others."""
        with self._changed:
            return self._buffer.counts()

    # -- the thread that sends ----------------------------------------------------------------

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="sluice-feedback", daemon=True)
            self._thread.start()
            atexit.register(self.close)

    def _run(self) -> None:
        while batch := self._next():
            self._deliver(batch)
        with self._changed:
            left = self._buffer.give_up()
        if left:
            logger.warning("%d events were not sent before the client was closed", len(left))
            self._buffer.tell(left)

    def _next(self) -> list[_Pending]:
        """Wait for a batch; none: it is over."""
        buffer = self._buffer
        with self._changed:
            self._changed.wait_for(lambda: buffer.pending or self._close_at is not None)
            self._changed.wait_for(
                lambda: buffer.is_batch_due() or self._n_flushing or self._close_at is not None,
                self._batching.every_s,
            )
            return [] if self._has_to_end() else buffer.take()

    def _has_to_end(self) -> bool:
        return self._close_at is not None and time.monotonic() >= self._close_at

    def _deliver(self, batch: list[_Pending]) -> None:
        parts = [batch]
        while parts:
            part = parts.pop()
            reply = self._ask(part)
            if halves := _halves(part, reply):
                parts += halves
                continue
            found = _outcomes(part, reply)
            self._buffer.tell(found)
            with self._changed:
                self._buffer.settle(found)
                self._changed.notify_all()

    def _ask(self, part: list[_Pending]) -> Reply | None:
        """Send a part until it is answered; None if the client has to end before."""
        attempts = Attempts(self._batching.retries)
        body = body_of([one.wired for one in part])
        while not self._has_to_end():
            reply = self._post(body, self._batching.ack, Retries(give_up_s=0))
            wait_s = attempts.wait_after(reply)
            if wait_s is None:
                return reply
            until = time.monotonic() + wait_s
            with self._changed:
                while (left_s := until - time.monotonic()) > 0 and not self._has_to_end():
                    if self._close_at is not None:
                        left_s = min(left_s, max(0.0, self._close_at - time.monotonic()))
                    self._changed.wait(left_s)
        return None


_instances: weakref.WeakSet[Feedback] = weakref.WeakSet()


def _after_fork() -> None:
    for feedback in list(_instances):
        feedback._begin()


os.register_at_fork(after_in_child=_after_fork)


class AsyncFeedback:
    """Feedback of an AsyncClient: the same, by a task of the loop that it is first used in."""

    def __init__(self, post: AsyncPost, batching: Batching) -> None:
        self._post = post
        self._batching = batching
        self._buffer = _Buffer(batching)
        self._changed = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None
        self._n_flushing = 0
        self._is_closed = False

    async def send(self, events: Iterable[Event]) -> list[Outcome]:
        """Send events now, and return what became of each; see `Feedback.send`."""
        reply = await self._post(body_of([event.wire() for event in events]), "learned", None)
        return results.outcomes(content_of(reply))

    async def track(self, user_id: str, item_id: str, type: str, **rest: Any) -> str | None:  # noqa: A002
        """Let an event be sent in the background; see `Feedback.track`."""
        event = Event(user_id, item_id, type, **rest)
        pending = _Pending(event.event_id, event.wire())
        async with self._changed:
            if self._buffer.is_full() and self._batching.when_full == "block":
                self._start()
                await self._changed.wait_for(lambda: not self._buffer.is_full() or self._is_closed)
            if self._is_closed:
                raise Closed("this client was closed; it takes no more events")
            if self._buffer.is_full():
                self._buffer.refuse()
                return None
            self._buffer.pending.append(pending)
            self._start()
            if len(self._buffer.pending) == 1 or self._buffer.is_batch_due():
                self._changed.notify_all()
        return event.event_id

    async def flush(self, timeout_s: float | None = None) -> bool:
        """Send what waits now; return whether all was answered in time."""
        self._n_flushing += 1
        try:
            async with asyncio.timeout(timeout_s), self._changed:
                self._changed.notify_all()
                await self._changed.wait_for(lambda: not self._buffer.n)
        except TimeoutError:
            return False
        finally:
            self._n_flushing -= 1
        return True

    async def close(self, timeout_s: float | None = None) -> None:
        """Send what waits, for so many seconds (`close_s`); the rest is `unsent`, and logged."""
        if self._is_closed:
            return
        await self.flush(self._batching.close_s if timeout_s is None else timeout_s)
        async with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        left = self._buffer.give_up()
        if left:
            logger.warning("%d events were not sent before the client was closed", len(left))
            self._buffer.tell(left)

    @property
    def counts(self) -> Counts:
        """Return how many events wait, and what became of the others."""
        return self._buffer.counts()

    # -- the task that sends ------------------------------------------------------------------

    def _start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="sluice-feedback")

    async def _run(self) -> None:
        while True:
            await self._deliver(await self._next())

    async def _next(self) -> list[_Pending]:
        buffer = self._buffer
        async with self._changed:
            await self._changed.wait_for(lambda: buffer.pending)
            try:
                async with asyncio.timeout(self._batching.every_s):
                    await self._changed.wait_for(lambda: buffer.is_batch_due() or self._n_flushing)
            except TimeoutError:
                pass
            return buffer.take()

    async def _deliver(self, batch: list[_Pending]) -> None:
        parts = [batch]
        try:
            while parts:
                reply = await self._ask(parts[-1])
                part = parts.pop()
                if halves := _halves(part, reply):
                    parts += halves
                    continue
                found = _outcomes(part, reply)
                # Before anything is awaited: who closes the client may end us there.
                self._buffer.settle(found)
                self._buffer.tell(found)
                async with self._changed:
                    self._changed.notify_all()
        except asyncio.CancelledError:
            self._put_back(parts)
            raise

    def _put_back(self, parts: list[list[_Pending]]) -> None:
        """Let what was being sent wait again, as nothing is sent any more."""
        for part in parts:
            self._buffer.pending.extendleft(reversed(part))
            self._buffer.n_sending -= len(part)

    async def _ask(self, part: list[_Pending]) -> Reply:
        attempts = Attempts(self._batching.retries)
        body = body_of([one.wired for one in part])
        while True:
            reply = await self._post(body, self._batching.ack, Retries(give_up_s=0))
            wait_s = attempts.wait_after(reply)
            if wait_s is None:
                return reply
            await asyncio.sleep(wait_s)
