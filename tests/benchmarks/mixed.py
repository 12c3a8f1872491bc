"""How long an event loop stands still while everything goes on at once.

    python -m tests.benchmarks.mixed --minutes 10

A default service, in whose event loop a task looks how late it is woken, every millisecond. Open
loop, on another core: 100 POSTs of 4 events, 200 lists and 10 of similar items a second, and
/metrics twice a second; a snapshot every 20,000 events.
"""

from __future__ import annotations

from app import lazily, room  # noqa: F401  before all others, as `sluice serve` has it

# isort: split

import argparse
import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import uvicorn
from rich.console import Console
from rich.table import Table

from app.api.protocol import SluiceProtocol
from app.main import create_app
from app.settings import Settings
from scripts.latency import session
from tests.benchmarks.made import N_ITEMS, N_USERS, stream
from tests.benchmarks.snapshots import Watch

N_BEFORE, PER_POST, SNAPSHOT_EVENTS = 20_000, 4, 20_000
START_S = 300.0
SHOWN = 10

Ask = Callable[[aiohttp.ClientSession, int], Any]


# -- the service ------------------------------------------------------------------------------


def serve(port: int, folder: Path) -> None:
    """Serve until told to stop; then leave the stalls in the folder."""
    app = create_app(Settings(data_dir=folder / "data", snapshot_events=SNAPSHOT_EVENTS))
    started: Any = app.router.lifespan_context
    watch = Watch()

    @asynccontextmanager
    async def watched(app: Any) -> AsyncIterator[Any]:
        async with started(app) as state:
            task = asyncio.create_task(watch.run())
            watch.stalls = []
            yield state
            task.cancel()
            found = sorted(watch.stalls, reverse=True)
            report = [list(stall) for stall in found[:1_000]]
            (folder / "stalls.json").write_bytes(orjson.dumps(report))

    app.router.lifespan_context = watched
    uvicorn.run(app, port=port, log_level="warning", access_log=False, http=SluiceProtocol)


# -- the client -------------------------------------------------------------------------------


def asks(n_events: int) -> dict[str, tuple[float, Ask]]:
    """Return by name how often a second something is asked, and how."""
    events = iter(stream(N_BEFORE + n_events))

    def body(n: int) -> list[dict[str, Any]]:
        taken = [next(events) for _ in range(n)]
        return [
            {"event_id": e.event_id, "user_id": e.user_id, "item_id": e.item_id, "type": e.type}
            for e in taken
        ]

    async def post(client: aiohttp.ClientSession, number: int, n: int = PER_POST) -> int:
        async with client.post("/v1/feedback", json=body(n)) as answer:
            await answer.read()
            return answer.status

    def get(path: Callable[[int], str]) -> Ask:
        async def ask(client: aiohttp.ClientSession, number: int) -> int:
            async with client.get(path(number)) as answer:
                await answer.read()
                return answer.status

        return ask

    async def teach(client: aiohttp.ClientSession, number: int) -> int:
        return await post(client, number, 500)

    return {
        "teach": (0.0, teach),
        "POST": (100.0, post),
        "list": (200.0, get(lambda n: f"/v1/recommendations/u{n * 7 % N_USERS}")),
        "similar": (10.0, get(lambda n: f"/v1/items/i{n * 7 % N_ITEMS}/similar")),
        "metrics": (2.0, get(lambda n: "/metrics")),
    }


async def load(url: str, seconds: float) -> dict[str, list[float]]:
    """Ask everything at its rate, from its planned times; return latencies in ms by name."""
    found: dict[str, list[float]] = {}
    async with session(url) as client:
        kinds = asks(int(seconds * 100 * PER_POST) + 100 * PER_POST)
        _, teach = kinds.pop("teach")
        for number in range(N_BEFORE // 500):
            if await teach(client, number) != 200:
                raise SystemExit("the service does not learn")
        begin = time.perf_counter()

        async def one(name: str, ask: Ask, number: int, planned: float) -> None:
            status = await ask(client, number)
            if status not in (200, 404):
                raise SystemExit(f"{name}: answered with {status}")
            found[name].append((time.perf_counter() - planned) * 1e3)

        async def kind(name: str, per_s: float, ask: Ask) -> None:
            found[name] = []
            async with asyncio.TaskGroup() as group:
                for number in range(int(seconds * per_s)):
                    planned = begin + number / per_s
                    await asyncio.sleep(planned - time.perf_counter())
                    group.create_task(one(name, ask, number, planned))

        async with asyncio.TaskGroup() as group:
            for name, (per_s, ask) in kinds.items():
                group.create_task(kind(name, per_s, ask))
    return found


def free_port() -> int:
    """Return a port that nobody listens to."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def serving(folder: Path, port: int, core: int) -> subprocess.Popen[bytes]:
    """Start the service; return its process once it answers, on a core of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.mixed", "--serve", str(port), str(folder)]
    env = {n: v for n, v in os.environ.items() if not n.startswith("SLUICE_")}
    server = subprocess.Popen(command, env=env)
    deadline = time.monotonic() + START_S
    while True:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            os.sched_setaffinity(server.pid, {core})  # only now: its store may run anywhere
            return server
        if server.poll() is not None or time.monotonic() > deadline:
            raise SystemExit("the service does not start: see above")
        time.sleep(0.1)


def percentiles(latencies: list[float]) -> Iterator[str]:
    """Yield how many there are, p50, p99, p99.9 and the worst."""
    taken = sorted(latencies)
    yield str(len(taken))
    for share in (0.5, 0.99, 0.999, 1.0):
        yield f"{taken[min(int(len(taken) * share), len(taken) - 1)]:.1f}"


def main() -> None:
    """Run it, and print the longest stalls, and how long answers took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--serve", nargs=2, metavar=("PORT", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(int(given.serve[0]), Path(given.serve[1]))
        return
    ours, theirs = sorted(os.sched_getaffinity(0))[:2]
    with tempfile.TemporaryDirectory(prefix="sluice-mixed-") as name:
        folder, port = Path(name), free_port()
        server = serving(folder, port, theirs)
        try:
            os.sched_setaffinity(0, {ours})
            found = asyncio.run(load(f"http://127.0.0.1:{port}", given.minutes * 60))
            server.send_signal(signal.SIGTERM)
            server.wait(60)
            stalls = orjson.loads((folder / "stalls.json").read_bytes())
        finally:
            if server.poll() is None:
                server.kill()
                server.wait()
    console = Console()
    table = Table(title=f"{given.minutes:g} minutes")
    for column in ("", "n", "p50 ms", "p99 ms", "p99.9 ms", "worst ms"):
        table.add_column(column, justify="right")
    for kind, latencies in found.items():
        table.add_row(kind, *percentiles(latencies))
    console.print(table)
    shown = ", ".join(f"{ms:.1f} ({cpu:.1f})" for ms, cpu in stalls[:SHOWN])
    console.print(f"longest stalls, ms (of them at work): {shown}")


if __name__ == "__main__":
    main()
