"""An event loop under one seed: virtual time, and any order of what is ready.

A timer costs no waiting: when nothing is ready, time jumps to the next one. Everything runs for a
process (`OWNER`, carried by the context): what belongs to a dead one is dropped, as a SIGKILL does,
and what belongs to one that stands still waits.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import random
from asyncio.base_events import BaseEventLoop
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, TypeVar, TypeVarTuple

from tests.factories import START_MS

# A history takes some 1,000 steps; one that goes round in circles takes any number.
MOST_STEPS = 40_000
# What a thread takes to get its turn, at most.
THREAD_S = 0.02

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Owner:
    """Whose code runs: a process of the simulation, which can die or stand still."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_alive = True
        self.paused_until = 0.0
        self.steps_left = -1
        self.on_last_step: Callable[[], None] | None = None

    def takes_step(self) -> bool:
        """Tell whether it lives to take another step."""
        if self.steps_left == 0 and self.on_last_step is not None:
            self.on_last_step()
        self.steps_left -= 1
        return self.is_alive

    def context(self) -> contextvars.Context:
        """Return a context in which everything belongs to it."""
        context = contextvars.Context()
        context.run(OWNER.set, self)
        return context


OWNER: contextvars.ContextVar[Owner] = contextvars.ContextVar("owner")

_NOBODY = contextvars.Context()


class Livelock(AssertionError):
    """A history takes more steps than any that ends."""


class SimulatedLoop(BaseEventLoop):
    """Runs one handle at a time; `shuffle` is how often it is not the one that waits longest.

    `glance_s` is what goes by, at most, between two looks at a clock: work takes time.
    """

    # Of the base class, whose stubs keep them to themselves.
    _ready: Any
    _scheduled: list[asyncio.TimerHandle]

    def __init__(self, chance: random.Random, shuffle: float, glance_s: float) -> None:
        super().__init__()
        self.n_steps = 0
        self.faults: list[str] = []
        # All of them: one whose process is dead has nobody else to hold it.
        self._tasks: list[asyncio.Task[Any]] = []
        self._now = 0.0
        self._chance = chance
        self._shuffle = shuffle
        self._glance_s = glance_s
        self.set_exception_handler(self._note_fault)
        self.set_task_factory(self._make_task)

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self._now

    def glance(self) -> float:
        """Return the time, as a clock that is read while work goes on: it has gone on, too."""
        self._now += self._chance.random() * self._glance_s
        return self._now

    def wall(self) -> float:
        """Return the virtual time since 1970."""
        return START_MS / 1_000 + self._now

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """Run a function in one go, a while later: a thread that gets its turn."""
        done: asyncio.Future[T] = self.create_future()
        self.call_later(self._chance.random() * THREAD_S, _run, done, func, args)
        return done

    def close(self) -> None:
        """Drop all that is not done, as the end of a process would."""
        for task in self._tasks:
            if not task.done():
                _drop(task)
        super().close()

    def _make_task(
        self, loop: asyncio.AbstractEventLoop, work: Any, context: Any = None
    ) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, context=context)
        self._tasks.append(task)
        return task

    def _note_fault(self, loop: asyncio.AbstractEventLoop, about: dict[str, Any]) -> None:
        self.faults.append(f"{about['message']}: {about.get('exception')!r}")

    def _run_once(self) -> None:
        self.n_steps += 1
        if self.n_steps > MOST_STEPS:
            raise Livelock(f"more than {MOST_STEPS} steps")
        self._wake_timers()
        handle = self._pick()
        owner = handle._context.get(OWNER, None)
        if handle.cancelled() or (owner is not None and not owner.is_alive):
            return
        if owner is not None and owner.paused_until > self._now:
            self.call_at(owner.paused_until, self._ready.append, handle, context=_NOBODY)
        elif owner is None or owner.takes_step():
            handle._run()

    def _wake_timers(self) -> None:
        if not self._ready:
            if not self._scheduled:
                raise Livelock("everything waits, and no timer is set")
            self._now = max(self._now, self._scheduled[0].when())
        while self._scheduled and self._scheduled[0].when() <= self._now:
            self._ready.append(heapq.heappop(self._scheduled))

    def _pick(self) -> Any:
        if len(self._ready) > 1 and self._chance.random() < self._shuffle:
            self._ready.rotate(-self._chance.randrange(len(self._ready)))
        return self._ready.popleft()

    def _write_to_self(self) -> None:
        """Wake nobody: there is no other thread."""

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Leave it in the heap: it is skipped when its time comes."""


def _run(done: asyncio.Future[Any], func: Callable[..., Any], args: tuple[Any, ...]) -> None:
    if done.cancelled():
        return
    try:
        done.set_result(func(*args))
    except Exception as error:
        done.set_exception(error)


def _drop(task: asyncio.Task[Any]) -> None:
    """End a task that will never run again, so that nothing is left for the garbage collector."""
    coroutine: Any = task.get_coro()
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    for _ in range(10):  # a coroutine that awaits while it is closed takes another try
        try:
            coroutine.close()
        except RuntimeError:
            continue
        return
