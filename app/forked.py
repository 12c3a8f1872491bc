"""Runs something in a copy of this process, and hands over what it yields.

The copy is made by fork: it sees all memory as it was at that moment, at the cost of the pages
that either side writes afterwards. So a state of gigabytes is read at leisure while we go on.
A fork takes a time for each page, in which nothing else is done: so a large process is copied in
two halves, one after the other, and one copy asks the other for what it lacks.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from multiprocessing import Pipe
from pathlib import Path
from typing import Any, NoReturn

from numpy.typing import NDArray

from app import pages
from app.errors import CopyFailed

Work = Callable[[], Iterator[bytes]]
# Forking is safe where the copy runs only what is ours and ends by itself: not on macOS, whose
# system libraries forbid it.
CAN_FORK = sys.platform == "linux"
_LENGTH_BYTES = 4
_NICER = 5
_AFTER_OTHERS_S = 0.001
# To copy took all of our turn: on the same core, the copy's would come before we go on.
_SETTLING_S = 0.02
# Of two copies one waits for the other: both at once would leave no core to what they are made of.
_GO_ON = b"go on"
# A copy has none of our threads: a lock that one of them held is never released in it. It is then
# silent for ever; one at work on gigabytes, on a busy machine, is not for so long.
SILENCE_S = 300.0


class Helper:
    """A second copy, which answers what the first one asks: so neither needs all of the memory.

    `answer` yields what it has to say, in pieces. `its_own` are arrays that the first copy lacks,
    `others` those that the second does.
    """

    def __init__(
        self,
        answer: Callable[[bytes], Iterator[bytes]],
        its_own: Sequence[NDArray[Any]],
        others: Sequence[NDArray[Any]],
    ) -> None:
        self.its_own, self.others = its_own, others
        self._answer = answer
        self.asking, self.answering = Pipe()

    def ask(self, question: bytes) -> Iterator[bytes]:
        """Yield the answer, in the first copy."""
        self.asking.send_bytes(question)
        while piece := self.asking.recv_bytes():
            yield piece
            self.asking.send_bytes(_GO_ON)

    def serve(self) -> None:
        """Answer questions, in the second copy, for as long as there is a first one."""
        while True:
            try:
                question = self.answering.recv_bytes()
            except EOFError:
                return
            for piece in filter(None, self._answer(question)):
                self.answering.send_bytes(piece)
                self.answering.recv_bytes()
            self.answering.send_bytes(b"")

    def close(self) -> None:
        """Let go of what the two speak through: it is theirs now."""
        self.asking.close()
        self.answering.close()


async def start(
    work: Work,
    helper: Helper | None = None,
    *,
    silence_s: float = SILENCE_S,
    on_ended: Callable[[float], None] = lambda cpu_s: None,
) -> AsyncIterator[bytes]:
    """Begin work in a copy of this process; return what will yield the frames that it yields.

    Returns once the copy is made: whatever `work` reads may change from then on, and not before.
    With a `helper` there are two copies; others have their turn between. Where nothing can be
    forked, it returns when all of the work is done. Raises CopyFailed, here or there, also when the
    copy yields nothing for `silence_s`. `on_ended` is told what CPU seconds it took.
    """
    if not CAN_FORK:
        return _replay(await asyncio.to_thread(lambda: list(work())))
    read_end, write_end = os.pipe()
    pids: list[int] = []
    try:
        if helper is not None:
            await asyncio.sleep(_AFTER_OTHERS_S)  # to say who has what took some milliseconds
            await _copy(pids, helper.others, helper.serve, helper.answering.fileno())
        lacking, kept = ((), ()) if helper is None else (helper.its_own, (helper.asking.fileno(),))
        await _copy(pids, lacking, partial(_write_frames, work, write_end), write_end, *kept)
    except BaseException as error:
        os.close(read_end)
        await _ended(pids, kill=True)
        if isinstance(error, OSError):
            raise CopyFailed(f"cannot copy the process: {error}") from None
        raise
    finally:
        os.close(write_end)
        if helper is not None:
            helper.close()
    return _frames(read_end, pids, silence_s, on_ended)


async def _copy(
    pids: list[int], lacking: Sequence[NDArray[Any]], run: Callable[[], None], *kept: int
) -> None:
    """Have a copy that lacks some arrays run something, with some descriptors; add its number."""
    with pages.left_out(lacking):
        if lacking:
            await asyncio.sleep(_AFTER_OTHERS_S)  # to leave them out took half a millisecond
        pid = _fork()
        if pid == 0:
            _be_the_copy(run, kept)
        pids.append(pid)
        # Others have waited for the copy; what we touch now is slow at first. By a timer: what is
        # ready at once would go on before any of them.
        await asyncio.sleep(_AFTER_OTHERS_S)


async def _replay(frames: list[bytes]) -> AsyncIterator[bytes]:
    for frame in frames:
        yield frame


async def _frames(
    read_end: int, pids: list[int], silence_s: float, on_ended: Callable[[float], None]
) -> AsyncIterator[bytes]:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    pipe = os.fdopen(read_end, "rb", 0)
    transport: asyncio.ReadTransport | None = None
    is_whole = False
    try:  # cancelled even before the first frame, the copies have to be ended
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), pipe
        )
        while (frame := await _next_frame(reader, silence_s)) is not None:
            yield frame
        is_whole = True
    except asyncio.IncompleteReadError:
        pass
    except TimeoutError:
        raise CopyFailed(f"the copy of the process was silent for {silence_s:g} s") from None
    finally:
        if transport is not None:
            transport.close()
        codes, cpu_s = await _ended(pids, kill=not is_whole)
        on_ended(cpu_s)
    for code in filter(None, codes):
        raise CopyFailed(f"the copy of the process ended with {code}")


async def _ended(pids: list[int], *, kill: bool) -> tuple[list[int], float]:
    """Wait for copies to end; return their exit codes, and the CPU seconds that they took."""
    codes, cpu_s = [], 0.0
    for pid in pids:
        if kill:
            os.kill(pid, signal.SIGKILL)  # not reaped yet, so it is still this one's number
    for pid in pids:
        _, status, used = await asyncio.to_thread(os.wait4, pid, 0)
        codes.append(os.waitstatus_to_exitcode(status))
        cpu_s += used.ru_utime + used.ru_stime
    return codes, cpu_s


async def _next_frame(reader: asyncio.StreamReader, silence_s: float) -> bytes | None:
    async with asyncio.timeout(silence_s):
        header = await reader.read(_LENGTH_BYTES)
        if not header:
            return None
        header += await reader.readexactly(_LENGTH_BYTES - len(header))
        return await reader.readexactly(int.from_bytes(header, "little"))


def _fork() -> int:
    """Fork ahead of all others: whoever takes the core meanwhile has it for 4 ms or more.

    In real time where that is allowed, else as what works in batches: then the copy at least does
    not take it at once.
    """
    is_usual = os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK == os.SCHED_OTHER
    if is_usual and not _schedule(os.SCHED_FIFO, 1):
        _schedule(os.SCHED_BATCH, 0)
    pid = -1
    try:
        pid = os.fork()
    finally:
        if is_usual and pid:
            _schedule(os.SCHED_OTHER, 0)
    return pid


def _schedule(policy: int, priority: int) -> bool:
    """Let this thread, but none that it starts, run by a policy; tell whether that is allowed."""
    try:
        os.sched_setscheduler(0, policy | os.SCHED_RESET_ON_FORK, os.sched_param(priority))
    except PermissionError:
        return False
    return True


def _be_the_copy(run: Callable[[], None], kept: Sequence[int]) -> NoReturn:
    """Run it, with these descriptors, and end: nothing else of the process may go on here."""
    code = 1
    try:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        time.sleep(_SETTLING_S)
        gc.disable()  # a collection would write to every object, and so copy every page
        # Ctrl-C reaches the whole group; the one that we are copied from decides what it means.
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _close_all_but(kept)
        os.nice(_NICER)
        run()
        code = 0
    except ConnectionError:  # whom it was for is gone, or the copy that is to help
        pass
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


def _write_frames(work: Work, write_end: int) -> None:
    with os.fdopen(write_end, "wb") as out:
        for frame in work():
            out.write(len(frame).to_bytes(_LENGTH_BYTES, "little"))
            out.write(frame)


def _close_all_but(kept: Sequence[int]) -> None:
    """Close what was inherited: sockets and locks must be free when their owner dies."""
    for path in list(Path("/proc/self/fd").iterdir()):
        fd = int(path.name)
        if fd > 2 and fd not in kept:
            try:
                os.close(fd)
            except OSError:  # the one that listed them
                continue
