"""Runs something in a copy of this process, and hands over what it yields.

The copy is made by fork: it sees all memory as it was at that moment, at the cost of the pages
that either side writes afterwards. So a state of gigabytes is read at leisure while we go on.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import NoReturn

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
# A copy has none of our threads: a lock that one of them held is never released in it. It is then
# silent for ever; one at work on gigabytes, on a busy machine, is not for so long.
SILENCE_S = 300.0


async def start(
    work: Work,
    *,
    silence_s: float = SILENCE_S,
    on_ended: Callable[[float], None] = lambda cpu_s: None,
) -> AsyncIterator[bytes]:
    """Begin work in a copy of this process; return what will yield the frames that it yields.

    Returns once the copy is made: whatever `work` reads may change from then on. Where nothing
    can be forked, it returns when all of the work is done. Raises CopyFailed, here or there, also
    when the copy yields nothing for `silence_s`. `on_ended` is told what CPU seconds it took.
    """
    if not CAN_FORK:
        return _replay(await asyncio.to_thread(lambda: list(work())))
    read_end, write_end = os.pipe()
    try:
        pid = _fork()
    except OSError as error:
        os.close(read_end)
        os.close(write_end)
        raise CopyFailed(f"cannot copy the process: {error}") from None
    if pid == 0:
        _be_the_copy(work, write_end)
    os.close(write_end)
    # Others have waited for the copy; what we touch now is slow at first. By a timer: what is
    # ready at once would go on before any of them.
    await asyncio.sleep(_AFTER_OTHERS_S)
    return _frames(read_end, pid, silence_s, on_ended)


async def _replay(frames: list[bytes]) -> AsyncIterator[bytes]:
    for frame in frames:
        yield frame


async def _frames(
    read_end: int, pid: int, silence_s: float, on_ended: Callable[[float], None]
) -> AsyncIterator[bytes]:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    pipe = os.fdopen(read_end, "rb", 0)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    is_whole = False
    try:
        while (frame := await _next_frame(reader, silence_s)) is not None:
            yield frame
        is_whole = True
    except asyncio.IncompleteReadError:
        pass
    except TimeoutError:
        raise CopyFailed(f"the copy of the process was silent for {silence_s:g} s") from None
    finally:
        transport.close()
        if not is_whole:
            os.kill(pid, signal.SIGKILL)  # not reaped yet, so it is still this one's number
        _, status, used = await asyncio.to_thread(os.wait4, pid, 0)
        on_ended(used.ru_utime + used.ru_stime)
    if status != 0:
        raise CopyFailed(f"the copy of the process ended with {os.waitstatus_to_exitcode(status)}")


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


def _be_the_copy(work: Work, write_end: int) -> NoReturn:
    """Do the work, write it into the pipe, and end: nothing else of the process may go on here."""
    code = 1
    try:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        time.sleep(_SETTLING_S)
        gc.disable()  # a collection would write to every object, and so copy every page
        # Ctrl-C reaches the whole group; the one that we are copied from decides what it means.
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _close_all_but(write_end)
        os.nice(_NICER)
        with os.fdopen(write_end, "wb") as out:
            for frame in work():
                out.write(len(frame).to_bytes(_LENGTH_BYTES, "little"))
                out.write(frame)
        code = 0
    except BrokenPipeError:  # whom it was for is gone
        pass
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


def _close_all_but(kept: int) -> None:
    """Close what was inherited: sockets and locks must be free when their owner dies."""
    for path in list(Path("/proc/self/fd").iterdir()):
        fd = int(path.name)
        if fd > 2 and fd != kept:
            try:
                os.close(fd)
            except OSError:  # the one that listed them
                continue
