"""Work in a copy of this process."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from app import forked
from app.errors import CopyFailed

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not forked.CAN_FORK, reason="nothing can be forked here"),
]


async def test_it_sees_the_state_of_then() -> None:
    """What is changed after the copy was made is not in what it yields; large frames come whole."""
    state = bytearray(b"then" * 1_000_000)

    def work() -> Iterator[bytes]:
        yield b""
        yield bytes(state)

    frames = await forked.start(work)
    state[:4] = b"now!"
    assert [frame async for frame in frames] == [b"", b"then" * 1_000_000]


async def test_it_does_not_run_ahead_of_others() -> None:
    """A copy is made ahead of all others; neither it nor what it was made of runs so later."""

    def work() -> Iterator[bytes]:
        yield str(os.sched_getscheduler(0)).encode()

    [policy] = [frame async for frame in await forked.start(work)]
    assert int(policy) == os.SCHED_BATCH
    assert os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK == os.SCHED_OTHER


async def test_it_holds_nothing_open(tmp_path: Path) -> None:
    """Of what this process has open, the copy has stdin, stdout, stderr and its pipe."""

    def work() -> Iterator[bytes]:
        yield str(len(list(Path("/proc/self/fd").iterdir()))).encode()

    with (tmp_path / "open").open("wb"):
        [n] = [frame async for frame in await forked.start(work)]
    assert int(n) <= 5  # and the folder that lists them


@pytest.mark.parametrize("how", ["raises", "killed"])
async def test_one_that_fails_says_so(how: str) -> None:
    """A copy that ends before its work is done is an error, not a short answer."""

    def work() -> Iterator[bytes]:
        yield b"a"
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise ValueError(how)

    frames = await forked.start(work)
    with pytest.raises(CopyFailed):
        [frame async for frame in frames]


async def test_one_that_falls_silent_is_ended() -> None:
    """A copy that waits for what never comes, such as another thread's lock, is ended."""

    def work() -> Iterator[bytes]:
        yield str(os.getpid()).encode().ljust(100_000)  # more than is held back
        signal.pause()

    frames = await forked.start(work, silence_s=2)
    pid = int(await anext(frames))
    with pytest.raises(CopyFailed, match="silent for 2 s"):
        await anext(frames)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_one_that_nobody_listens_to_ends() -> None:
    """Whoever gives up the frames gives up the copy: it does not outlive them."""

    def work() -> Iterator[bytes]:
        yield str(os.getpid()).encode().ljust(100_000)  # more than is held back
        while True:
            yield bytes(100_000)

    frames = await forked.start(work)
    pid = int(await anext(frames))
    await frames.aclose()  # type: ignore[attr-defined]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
