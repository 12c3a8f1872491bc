"""How long an event loop stands still while a large service writes its snapshots.

    python -m tests.benchmarks.snapshots --size 1000000 --snapshots 12

An engine with every row full, a real store, and an event loop as in the service, with a task that
is to be woken every millisecond. Between two snapshots 10,000 events are learned. Then the same
loop stands beside two busy processes, for as long, with nothing to do: what is late there is the
machine's. At the end another process restores the last snapshot, and says what that took.
"""

from __future__ import annotations

from app import lazily, room  # noqa: F401  before all others, as `sluice serve` has it

# isort: split

import argparse
import asyncio
import contextlib
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import uvloop
from numba import njit
from rich.console import Console
from rich.progress import track
from rich.table import Table

from app import collector, events, pages
from app.embedded import find_server
from app.engine import Engine
from app.events import Entry, Feedback
from app.keeper import Keeper, read_engine
from app.settings import Settings
from app.store import Cursor, Store
from learners.kernels import append_event
from tests.benchmarks.made import BATCH, START_MS, filled_engine

NAMESPACE = "snapshots"
N_BETWEEN = 10_000
N_HAD = 20


class Stall(NamedTuple):
    """A time in which nobody was woken: by the clock, and what of it we were at work, in ms."""

    ms: float
    cpu_ms: float


class Snapshot(NamedTuple):
    """One snapshot: the stalls while it was written, the longest first."""

    seconds: float
    is_whole: bool
    n_bytes: int
    stalls: list[Stall]


@njit
def _append_all(personal: Any, items: Any, had_length: int) -> None:
    for user in range(items.shape[0]):
        for at in range(items.shape[1]):
            append_event(personal, user, items[user, at], START_MS + at, 1.0, 0, had_length)


def large_engine(size: int) -> Engine:
    """Return an engine of so many items and users, each row full and each user with 20 events."""
    room_for = {"max_items": size * 6 // 5, "max_users": size}
    free = {"id_share": 1.0, "cap_user": 0, "cap_user_item": 0}
    engine = filled_engine(size, **room_for, **free, gate="on")
    history, rng = engine.history, np.random.default_rng(5)
    history.categories.labels[:] = 0  # those of `filled_engine` are nobody's names
    for number in range(size):
        history.touch_user(f"u{number}", size + number)
    items = rng.zipf(1.2, (size, N_HAD)) * 7_919 % size
    _append_all(history.arrays, items.astype(np.int64), history.had_length)
    own = rng.normal(0.0, 0.05, (size, engine.learner.n_factors))
    engine.learner.factors.users.live[:size] = own.astype(np.float32)
    return engine


class Watch:
    """Notes how late it is woken by the event loop, while it is asked to."""

    def __init__(self) -> None:
        self.stalls: list[Stall] | None = None

    async def run(self) -> None:
        """Look for ever."""
        woken, cpu, was_asked = time.perf_counter(), time.thread_time(), False
        while True:
            await asyncio.sleep(0.001)
            now, used = time.perf_counter(), time.thread_time()
            if self.stalls is not None and was_asked:
                self.stalls.append(Stall((now - woken) * 1e3, (used - cpu) * 1e3))
            woken, cpu, was_asked = now, used, self.stalls is not None


@contextlib.contextmanager
def store_server() -> Iterator[str]:
    """Run a store of the test's own, which keeps nothing on disk; its URL."""
    with tempfile.TemporaryDirectory(prefix="sluice-") as folder:
        socket = Path(folder) / "socket"
        options = ["--port", "0", "--save", "", "--appendonly", "no", "--dir", folder]
        command = [str(find_server()), *options, "--unixsocket", str(socket)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
            try:
                while not socket.exists():
                    time.sleep(0.05)
                yield f"unix://{socket}"
            finally:
                server.kill()


async def write_all(engine: Engine, url: str, n: int) -> tuple[list[Snapshot], Cursor]:
    """Write snapshots, with events between; return them, and the last one's id."""
    settings = Settings(namespace=NAMESPACE)
    store = Store(url, settings)
    await store.open()
    await asyncio.to_thread(pages.collapse)  # as in the service, before anybody is answered
    lock, watch, found = asyncio.Lock(), Watch(), []

    @contextlib.asynccontextmanager
    async def whole() -> AsyncIterator[Engine]:
        async with lock:
            yield engine

    keeper = Keeper(store, settings, whole, on_diverged=lambda error: sys.exit(str(error)))
    task = asyncio.create_task(watch.run())
    chance = random.Random(1)
    for number in track(range(n), "snapshots"):
        learn(engine, number, chance)
        [cursor] = await store.append([(events.encode(Entry([])), "bench")])
        engine.cursor = cursor
        await asyncio.sleep(0.5)
        watch.stalls, began = [], time.perf_counter()
        manifest = await keeper.write()
        seconds, stalls = time.perf_counter() - began, sorted(watch.stalls, reverse=True)
        watch.stalls = None
        is_whole = manifest["base"] is None
        found.append(Snapshot(seconds, is_whole, manifest["bytes"], stalls))
    task.cancel()
    await store.close()
    return found, engine.cursor


async def watch_idle(seconds: float) -> list[Stall]:
    """Return the stalls of a loop that has nothing to do."""
    watch, found = Watch(), list[Stall]()
    watch.stalls = found
    task = asyncio.create_task(watch.run())
    await asyncio.sleep(seconds)
    task.cancel()
    return found


def stalls_of_the_machine(seconds: float) -> list[Stall]:
    """Return an idle loop's stalls beside two busy processes, as patient as copies are."""
    busy = "import os; os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0)); os.nice(5)"
    command = [sys.executable, "-c", f"{busy}\nwhile True: pass"]
    others = [subprocess.Popen(command) for _ in range(2)]
    try:
        return sorted(uvloop.run(watch_idle(seconds)), reverse=True)
    finally:
        for other in others:
            other.kill()
            other.wait()


def learn(engine: Engine, number: int, chance: random.Random) -> None:
    """Learn events of users and items that are had more or less often."""
    n_users, made = len(engine.history.users), []
    for at in range(N_BETWEEN):
        user, item = (min(int(chance.paretovariate(0.5)), n_users) - 1 for _ in range(2))
        time_ms = START_MS + (number * N_BETWEEN + at) * 100
        made.append(Feedback(f"{number}-{at}", f"u{user}", f"i{item}", "click", time_ms=time_ms))
    for start in range(0, N_BETWEEN, BATCH):
        engine.apply(
            Entry(list(made[start : start + BATCH])), f"2-{number * N_BETWEEN + start + 1}"
        )


async def restore(url: str, snapshot_id: str) -> None:
    """Restore a snapshot in this process, and print what that took."""
    store = Store(url, Settings(namespace=NAMESPACE))
    await store.open()
    began, cpu = time.perf_counter(), time.process_time()
    engine = await read_engine(store, snapshot_id)
    seconds, used = time.perf_counter() - began, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    Console().print(
        f"restored {engine.n_events:,} events: {seconds:.1f} s, {used:.1f} s of CPU;"
        f" {peak:.1f} GiB at the peak"
    )
    await store.close()


def show(found: list[Snapshot]) -> None:
    """Print a row for each snapshot, and what is in the middle."""
    table = Table(title="longest stalls, ms (of them CPU)")
    for name in ("", "MiB", "s", "longest", "second", "third", "over 10 ms"):
        table.add_column(name, justify="right")
    for one in found:
        longest = [f"{stall.ms:.1f} ({stall.cpu_ms:.1f})" for stall in one.stalls[:3]]
        over = sum(stall.ms > 10 for stall in one.stalls)
        kind = "whole" if one.is_whole else "changes"
        size, seconds = f"{one.n_bytes / 2**20:,.0f}", f"{one.seconds:.1f}"
        table.add_row(kind, size, seconds, *longest, str(over))
    Console().print(table)
    longest_ms = sorted(one.stalls[0].ms for one in found)
    Console().print(
        f"longest: {np.median(longest_ms):.1f} ms in the median, {longest_ms[-1]:.1f} at most"
    )


def main() -> None:
    """Measure, as told by the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Formatter)
    parser.add_argument("--size", type=int, default=100_000, help="items, and users")
    parser.add_argument("--snapshots", type=int, default=12)
    parser.add_argument("--restore", nargs=2, metavar=("URL", "ID"), help="restore one, no more")
    given = parser.parse_args()
    if given.restore:
        uvloop.run(restore(*given.restore))
        return
    engine = large_engine(given.size)
    with store_server() as url, collector.calmed():
        found, last = uvloop.run(write_all(engine, url, given.snapshots))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        show(found)
        idle_s = sum(one.seconds for one in found)
        idle = stalls_of_the_machine(idle_s)
        late = ", ".join(f"{stall.ms:.1f}" for stall in idle if stall.ms > 10) or "none"
        Console().print(
            f"in {idle_s:.0f} s beside two busy processes, no snapshot: {late} over 10 ms"
        )
        Console().print(f"the service: {peak:.1f} GiB at the peak")
        del engine
        command = [sys.executable, "-m", "tests.benchmarks.snapshots", "--restore", url, last]
        subprocess.run(command, check=True)


class _Formatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    pass


if __name__ == "__main__":
    main()
