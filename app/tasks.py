"""Ends tasks, for certain."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

# Long enough for a task that tidies up after itself: a command or two to the store.
AGAIN_S = 2.0


async def end(*tasks: asyncio.Task[Any], holding: asyncio.Lock | None = None) -> None:
    """Cancel tasks, `holding` a lock that they must not have then; return when they have ended.

    What a task waits for may swallow its cancellation, as `asyncio.wait_for` does in Python 3.11
    where that is done at the same moment (in redis-py, while it connects). Such a task goes on as
    if nothing had been asked of it; so it is asked again.
    """
    left = set(tasks)
    while left:
        async with holding or contextlib.nullcontext():
            for task in left:
                task.cancel()
        _, left = await asyncio.wait(left, timeout=AGAIN_S)
    await asyncio.gather(*tasks, return_exceptions=True)  # or each error would be called unseen
