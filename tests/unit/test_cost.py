"""CPU is charged to the stage that it was for, and none of it twice."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from app.cost import APPENDING, EVERY, LEARNING, OTHER, READS, STAGES, Meter
from app.memory import Survey
from tests.factories import feed, make_engine, sessions
from tests.integration.service import ROOT

pytestmark = pytest.mark.anyio


class Cpu:
    """A CPU clock that goes on only where a test says that something works."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Return the seconds worked so far."""
        return self.now

    def work(self, seconds: float) -> None:
        """Work for so long."""
        self.now += seconds


@pytest.fixture
def cpu() -> Cpu:
    """A clock at 0."""
    return Cpu()


@pytest.fixture
def meter(cpu: Cpu) -> Meter:
    """A meter by that clock."""
    return Meter(cpu, cpu, cpu)


async def test_each_step_is_charged_to_its_own_stage(cpu: Cpu, meter: Meter) -> None:
    """Of two tasks that take turns, each pays for its steps, and nobody for what is in between."""

    async def work(seconds: float) -> None:
        for _ in range(3):
            cpu.work(seconds)
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        group.create_task(meter.timed(LEARNING, work(1.0)))
        group.create_task(meter.timed(APPENDING, work(0.25)))
        group.create_task(work(8.0))
    seconds = meter.seconds()
    assert seconds["judging"] + seconds[LEARNING] == 3.0
    assert seconds[APPENDING] == 0.75
    assert seconds[OTHER] == 24.0


async def test_waiting_for_a_core_is_not_charged() -> None:
    """Where steps take twice as long by the clock as they work, half of their time is charged."""
    cpu, clock = Cpu(), Cpu()
    meter = Meter(cpu, cpu, clock)

    async def work() -> None:
        for _ in range(20_000):
            cpu.work(0.001)
            clock.work(0.002)
            await asyncio.sleep(0)

    await meter.timed(APPENDING, work())
    assert meter.seconds()[APPENDING] == pytest.approx(20.0, rel=0.01)


async def test_work_within_work_is_charged_once(cpu: Cpu, meter: Meter) -> None:
    """What a stage does in another one's name is the other's; errors and results come through."""

    async def inner() -> str:
        cpu.work(2.0)
        await asyncio.sleep(0)
        raise ValueError("as planned")

    async def outer() -> str:
        cpu.work(1.0)
        with suppress(ValueError):
            await meter.timed("snapshots", inner())
        cpu.work(4.0)
        return "done"

    assert await meter.timed(APPENDING, outer()) == "done"
    seconds = meter.seconds()
    assert (seconds[APPENDING], seconds["snapshots"]) == (5.0, 2.0)


async def test_a_cancelled_task_is_charged_for_tidying_up(cpu: Cpu, meter: Meter) -> None:
    """A cancellation reaches what is timed, and what it does then counts."""

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            cpu.work(1.5)

    task = asyncio.create_task(meter.timed(APPENDING, work()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert meter.seconds()[APPENDING] == 1.5


async def test_a_thread_is_charged(meter: Meter, cpu: Cpu) -> None:
    """Work in a thread is its stage's."""
    await meter.in_thread("snapshots", lambda: cpu.work(3.0))
    assert meter.seconds()["snapshots"] == 3.0


def test_requests_measured_now_and_then_stand_for_all(cpu: Cpu, meter: Meter) -> None:
    """Of like requests one in EVERY is measured, and the sum is that of all."""
    for _ in range(1_000 * EVERY):
        began = meter.begin_read()
        cpu.work(0.001)
        if began is not None:
            meter.end_read(READS, began)
    assert meter.seconds()[READS] == pytest.approx(1_000 * EVERY * 0.001, rel=0.01)


def test_requests_that_take_turns_are_measured_alike(cpu: Cpu, meter: Meter) -> None:
    """Where lists and feedback are read by turns, each is charged for what it takes."""
    for n in range(4_000):
        began = meter.begin_read()
        cpu.work(0.001 if n % 2 else 0.003)
        if began is not None:
            meter.end_read(READS if n % 2 else APPENDING, began)
    seconds = meter.seconds()
    assert seconds[READS] == pytest.approx(2.0, rel=0.05)
    assert seconds[APPENDING] == pytest.approx(6.0, rel=0.05)


async def test_judging_is_told_apart_by_samples(cpu: Cpu, meter: Meter) -> None:
    """Where a fourth of applying an event is judging it, a fourth of the CPU is shown as that."""
    engine = make_engine()
    for event in sessions(50):
        watched: list[object] = []

        def judge(event: object = event, watched: list[object] = watched) -> None:
            cpu.work(1.0)
            mark = watched[0]
            assert callable(mark)
            mark()
            cpu.work(1.0)
            mark()
            cpu.work(2.0)

        meter.sample(judge, watched.append)
        assert watched[1:] == [None]
    assert engine.on_judge is None
    assert meter.judging_share == pytest.approx(0.25, abs=0.001)

    async def apply() -> None:
        cpu.work(100.0)

    await meter.timed(LEARNING, apply())
    assert meter.seconds()["judging"] == pytest.approx(25.0, rel=0.01)


def test_the_engine_tells_when_it_judges() -> None:
    """Each event that is learned is marked twice, as judging begins and as it ends."""
    engine = make_engine()
    marks: list[int] = []
    engine.on_judge = lambda: marks.append(engine.n_events)
    feed(engine, sessions(20))
    assert marks == [n for n in range(20) for _ in range(2)]


def test_no_stage_ever_goes_down(cpu: Cpu, meter: Meter) -> None:
    """A sample that stands for too much takes nothing back of what was shown before."""

    def shown() -> Iterator[dict[str, float]]:
        for n in range(40):
            began = meter.begin_read()
            cpu.work(0.5 if n % EVERY == 1 else 0.01)
            if began is not None:
                meter.end_read(READS, began)
            yield meter.seconds()

    before = dict.fromkeys(STAGES, 0.0)
    for now in shown():
        assert all(now[stage] >= before[stage] for stage in STAGES)
        before = now


def test_memory_is_told_by_part() -> None:
    """A part that is used holds more than before, none holds more than is reserved for it."""
    engine = make_engine(max_users=1_000_000)
    empty = Survey(engine).count()
    feed(engine, sessions(3_000, n_users=150), group=100)
    full = Survey(engine).count()
    assert set(full) >= {"users", "items", "covisit", "sequence", "factors", "trending", "window"}
    assert all(part.held <= part.reserved for part in full.values())
    for name in ("users", "items", "event_ids"):
        assert full[name].held > empty[name].held, name
    # Of memory that a process has used before, malloc may give pages that are there already.
    assert full["users"].held < full["users"].reserved


# In a process of its own: malloc may give memory that was freed before, and write zeros into it.
RESIDENT = """
from app.memory import _resident
from tests.factories import make_engine
history = make_engine(max_users=1_000_000).history
rows = [history.ring, history.past]
for own in history.user_rows:
    rows += [own.live, own.past]
assert len(rows) > 2
for array in rows:
    assert _resident(array) < array.nbytes / 10, (_resident(array), array.nbytes)
"""


def test_rows_that_nobody_has_take_no_memory() -> None:
    """What learners and history keep of users is reserved for all of them, and not written."""
    subprocess.run([sys.executable, "-c", RESIDENT], check=True, cwd=ROOT)


def test_memory_counts_every_array_once() -> None:
    """What is reserved is the sum of all arrays of the learner's sources and the histories."""
    engine = make_engine()
    reserved = Survey(engine).count()
    rings: list[np.ndarray[Any, Any]] = [engine.history.ring, engine.history.past]
    assert reserved["users"].reserved >= sum(array.nbytes for array in rings)
    source = vars(engine.learner.sources["factors"])
    least = sum(value.nbytes for value in source.values() if isinstance(value, np.ndarray))
    assert least <= reserved["factors"].reserved < 3 * least + 2**16
