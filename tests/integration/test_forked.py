"""Work in a copy of this process."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from app import forked, keeper, snapshot
from app.engine import Engine
from app.errors import CopyFailed
from app.events import Command, Entry, encode
from app.forked import Helper
from app.keeper import Keeper
from app.settings import Settings
from app.snapshot import Base
from app.store import Store
from tests.factories import apply, busy_log, feed, make_engine, mixed

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


async def begun(engine: Engine, base: Base | None, helper: Helper | None) -> AsyncIterator[bytes]:
    """Begin a snapshot in one or two copies; return its frames."""
    return await forked.start(
        lambda: keeper.serialised(engine, "7-0", base, helper, is_ours=True, more={}), helper
    )


@pytest.mark.parametrize("has_base", [False, True])
async def test_two_copies_write_what_one_does(has_base: bool) -> None:
    """Each has half of the arrays, reads none that it lacks, and the snapshot is the same bytes."""
    engine = feed(make_engine(max_items=100_000, max_neighbours=100), busy_log(400))
    change = {"max_neighbours": 60}
    apply(engine, Command("start_challenger", "made up", "tester", changes=change))
    assert engine.challenges.running is not None
    base = None
    if has_base:
        manifest, _ = snapshot.dump(engine.state(), "6-0")
        prints = snapshot.pack_prints(snapshot.Dump(engine.state()).prints)
        base = Base(manifest, list(prints))
        feed(engine, mixed(100))
    whole = [frame async for frame in await begun(engine, base, None)]
    helper = keeper.helper_of(engine)
    assert max(array.nbytes for array in helper.its_own) > 2**27
    assert max(array.nbytes for array in helper.others) > 2**25
    halves = await begun(engine, base, helper)
    feed(engine, mixed(200))
    assert [frame async for frame in halves] == whole


async def test_a_copy_lacks_what_it_is_to_lack() -> None:
    """An array that is the other copy's is not there; the next copy, of one, has it again."""
    array = np.ones(2**23, np.int64)
    helper = Helper(lambda question: iter([b"%d" % array[int(question)]]), [array], [])

    def work() -> Iterator[bytes]:
        yield b"".join(helper.ask(b"4194304")).ljust(100_000)  # more than is held back
        yield b"%d" % array[2**22]

    frames = await forked.start(work, helper)
    assert int(await anext(frames)) == 1
    with pytest.raises(CopyFailed, match="ended with -11"):
        await anext(frames)

    def again() -> Iterator[bytes]:
        yield b"%d" % array[2**22]

    assert [frame async for frame in await forked.start(again)] == [b"1"]


@pytest.mark.parametrize("how", ["raises", "killed"])
async def test_a_helper_that_fails_is_an_error(how: str) -> None:
    """Where one of two copies ends before its time, the work has failed; none stays behind."""

    def answer(question: bytes) -> Iterator[bytes]:
        yield str(os.getpid()).encode()
        if question == b"fail" and how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if question == b"fail":
            raise ValueError(how)

    helper = Helper(answer, [], [])

    def work() -> Iterator[bytes]:
        [pid] = helper.ask(b"who are you?")
        yield pid.ljust(100_000)  # more than is held back
        yield from helper.ask(b"fail")

    frames = await forked.start(work, helper)
    pid = int(await anext(frames))
    with pytest.raises(CopyFailed):
        [frame async for frame in frames]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_helper_ends_with_the_one_it_helps() -> None:
    """Whoever gives up the frames gives up both copies."""
    helper = Helper(lambda question: iter([str(os.getpid()).encode()]), [], [])

    def work() -> Iterator[bytes]:
        while True:
            [pid] = helper.ask(b"?")
            yield pid.ljust(100_000)

    frames = await forked.start(work, helper)
    pid = int(await anext(frames))
    await frames.aclose()  # type: ignore[attr-defined]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def children() -> set[int]:
    """Return the copies of this process that are at work."""
    lists = Path("/proc/self/task").glob("*/children")
    return {int(pid) for found in lists for pid in found.read_text().split()}


async def test_a_service_goes_back_to_one_copy(
    store: Store, eventually: Callable[[Callable[[], bool]], Awaitable[None]]
) -> None:
    """A snapshot in two copies is read as any; after one that failed they are made in one."""
    engine, lock = feed(make_engine(max_items=50_000), busy_log(400)), asyncio.Lock()

    @asynccontextmanager
    async def whole() -> AsyncIterator[Engine]:
        async with lock:
            yield engine

    before = children()
    kept = Keeper(store, Settings(namespace="test"), whole, on_diverged=print, in_two=lambda: True)

    async def write(n_copies: int) -> asyncio.Task[snapshot.Manifest]:
        [engine.cursor] = await store.append([(encode(Entry([])), "tag")])
        task = asyncio.create_task(kept.write())
        await eventually(lambda: len(children() - before) == n_copies)
        return task

    manifest = await (await write(2))
    restored = await keeper.read_engine(store, manifest["id"])
    assert restored.hashes() == engine.hashes()
    task = await write(2)
    os.kill(min(children() - before), signal.SIGKILL)
    with pytest.raises(CopyFailed):
        await task
    task = await write(1)
    await eventually(task.done)
    assert (await task)["digest"] == snapshot.Dump(engine.state()).digest


async def test_who_does_not_even_wait_for_the_first_frame_leaves_no_copy() -> None:
    """A copy ends, and is taken note of, also where the reading is cancelled as it begins."""
    ended: list[float] = []

    def work() -> Iterator[bytes]:
        while True:
            yield b"frame"

    frames = await forked.start(work, on_ended=ended.append)
    reading: asyncio.Task[bytes] = asyncio.create_task(anext(frames))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert len(ended) == 1
