"""Ending tasks."""

from __future__ import annotations

import asyncio

from app import tasks


async def deaf(heard: list[str], n_swallowed: int) -> None:
    """Wait for ever, and go on after so many cancellations."""
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            heard.append("cancelled")
            if len(heard) > n_swallowed:
                raise


def test_a_swallowed_cancellation_is_asked_for_again() -> None:
    """A task that goes on after it was cancelled, as within wait_for of Python 3.11, still ends."""

    async def run() -> list[str]:
        heard: list[str] = []
        task = asyncio.create_task(deaf(heard, n_swallowed=1))
        await asyncio.sleep(0)
        await tasks.end(task)
        assert task.cancelled()
        return heard

    assert asyncio.run(run()) == ["cancelled", "cancelled"]


def test_nothing_is_cancelled_while_another_holds_the_lock() -> None:
    """What must not be cut in the middle has the lock, and is cancelled when it gives it back."""

    async def run() -> bool:
        lock, entered = asyncio.Lock(), asyncio.Event()
        finished: list[bool] = []

        async def work() -> None:
            async with lock:
                entered.set()
                for _ in range(10):
                    await asyncio.sleep(0)
                finished.append(True)
            await asyncio.Event().wait()

        task = asyncio.create_task(work())
        await entered.wait()
        await tasks.end(task, holding=lock)
        return finished == [True] and task.cancelled()

    assert asyncio.run(run())


def test_an_error_of_a_task_that_ends_is_nobodys() -> None:
    """A task that has failed, or fails while it ends, does not fail whoever ends it."""

    async def run() -> None:
        async def fail() -> None:
            raise ValueError("a test")

        await tasks.end(asyncio.create_task(fail()))
        await tasks.end()

    asyncio.run(run())
