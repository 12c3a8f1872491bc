"""`python -m scripts.bench`: what a request costs, beside what HTTP alone and peers cost.

Every server runs in a process of its own, all pinned to one core; the client has another one. CPU
is the process's own (its store and the client are not in it), so that it holds on a busy machine,
too. The servers take turns in short rounds, and the median round counts: ratios within a run hold
better than figures.

With `--per-s` requests leave at a fixed rate, whatever became of those before, and latencies count
from the planned time, so that a stall is counted for everybody whom it holds up.

`--compare` holds a run's ratios against those of the last release, `--release` adds them.
"""

from __future__ import annotations

import asyncio
import os
import platform
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import orjson
import typer
from rich.console import Console
from rich.table import Table

from scripts import ratios
from scripts.bench_pictures import draw

ROOT = Path(__file__).parents[1]
START_S = 300.0
# Each user makes two or three visits before anything is measured. They ask by turns: what one asks
# for again and again is in the processor's caches, and its branches are known by heart.
N_USERS, N_ITEMS, LEARNED_FIRST = 250, 3_000, 5_000
BATCH = 100
# Of which so many are learned, too: half a million events, which takes half a minute.
MANY = 100_000

Make = Callable[[int], bytes]
_numbers = count()  # of events: one stream, whoever posts them


class Case(NamedTuple):
    """One row: requests of one kind to one server.

    `share`: how many of them for one GET; `per`: what CPU is counted by, the events of a POST.
    """

    name: str
    server: tuple[str, int]
    make: Make
    share: float = 1.0
    per: int = 1


class Figures(NamedTuple):
    """CPU of the server for one request, in microseconds; latencies where the rate was fixed."""

    cpu_us: float
    lowest_us: float
    highest_us: float
    p50_ms: float
    p99_ms: float
    worst_ms: float
    percentiles_ms: list[float]  # the 1st to the 100th


# -- requests ---------------------------------------------------------------------------------


def get(path: str) -> Make:
    """Return what makes the bytes of a GET; where a path ends with a slash, of users by turns."""
    users = [f"u{n}" for n in range(N_USERS)] if path.endswith("/") else [""]
    requests = [f"GET {path}{user} HTTP/1.1\r\nhost: bench\r\n\r\n".encode() for user in users]
    return lambda number: requests[number % len(requests)]


def post(n_events: int) -> Make:
    """Return what makes a POST of so many new events, of users who come back."""

    def make(_: int) -> bytes:
        events = [_event(next(_numbers)) for _ in range(n_events)]
        body = orjson.dumps(events[0] if n_events == 1 else events)
        head = "POST /v1/feedback HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
        return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body

    return make


def _event(number: int) -> dict[str, Any]:
    # Visits of eight to one topic of fifty items; a multiplicative hash stands for chance.
    visit, chance = number // 8 * 2_654_435_761 % 2**32, number * 2_246_822_519 % 2**32
    topic, rank = visit % (N_ITEMS // 50), int((chance / 2**32) ** 3 * 50)
    return {
        "event_id": f"e{number}",
        "user_id": f"u{number // 8 % N_USERS}",
        "item_id": f"i{topic * 50 + rank}",
        "type": "click",
    }


def cases(sizes: list[int]) -> list[Case]:
    """Return all rows, floors first."""
    path, learned = "/v1/recommendations/", f"GET, {N_ITEMS:,} items as they were learned"
    ours = [
        Case(f"Sluice: GET, {n:,} items, every row full", ("sluice", n), get(path)) for n in sizes
    ]
    return [
        Case("bare ASGI, ten items as orjson", ("bare", 0), get("/bare")),
        Case("FastAPI, empty, ten items as orjson", ("fastapi", 0), get("/orjson/u0")),
        Case("FastAPI, response model", ("fastapi", 0), get("/model/u0")),
        Case(f"Sluice: {learned}", ("sluice", 0), get(path)),
        Case(f"Sluice: GET, {MANY:,} items as they were learned", ("learned", MANY), get(path)),
        *ours,
        Case("Sluice: POST of one event, learned", ("sluice", 0), post(1), 0.5),
        Case(f"Sluice: POST of {BATCH} events, each", ("sluice", 0), post(BATCH), 0.02, BATCH),
    ]


# -- servers ----------------------------------------------------------------------------------


@contextmanager
def serving(name: str, n_items: int, core: int) -> Iterator[tuple[int, int]]:
    """Run a server on a core; yield its process id and its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {n: v for n, v in os.environ.items() if not n.startswith("SLUICE_")}
    arguments = (name, str(port), str(n_items))
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.servers", *arguments], cwd=ROOT, env=env
    )
    try:
        deadline = time.monotonic() + START_S
        while not _answers(port):
            if server.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the server {name} does not answer: see above")
            time.sleep(0.1)
        os.sched_setaffinity(server.pid, {core})  # only now: its store may run anywhere
        yield server.pid, port
    finally:
        server.kill()  # a last snapshot of a million items would take its time
        server.wait()


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def cpu_ns(pid: int) -> int:
    """Return the CPU time of a process's threads so far."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks)


# -- the client -------------------------------------------------------------------------------


class Client(asyncio.Protocol):
    """One connection: one request at a time."""

    def __init__(self) -> None:
        self._received = b""
        self._answered: asyncio.Future[bytes] | None = None

    def data_received(self, data: bytes) -> None:
        """Take a piece of the answer."""
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        length = head.partition(b"content-length: ")[2].partition(b"\r\n")[0]
        if end and len(body) >= int(length) and self._answered is not None:
            self._received = b""
            self._answered.set_result(head)

    def connection_lost(self, error: Exception | None) -> None:
        """Tell whoever waits."""
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(error or ConnectionError("the server hung up"))

    async def ask(self, transport: asyncio.Transport, request: bytes) -> None:
        """Send a request and wait for its answer, which must be a 200."""
        self._answered = asyncio.get_running_loop().create_future()
        transport.write(request)
        head = await self._answered
        if b" 200 " not in head.partition(b"\r\n")[0]:
            raise SystemExit(f"not answered by a 200: {head.decode()}")


async def load(port: int, make: Make, n: int, *, connections: int, per_s: float) -> list[float]:
    """Send n requests, as fast as they are answered or at a fixed rate; return latencies in s."""
    loop = asyncio.get_running_loop()
    opened = [await loop.create_connection(Client, "127.0.0.1", port) for _ in range(connections)]
    numbers, taken = iter(range(n)), []
    begin = time.perf_counter()

    async def work(transport: asyncio.Transport, client: Client) -> None:
        for number in numbers:
            request = make(number)
            planned = time.perf_counter()
            if per_s:
                planned = begin + number / per_s
                await asyncio.sleep(planned - time.perf_counter())
            await client.ask(transport, request)
            taken.append(time.perf_counter() - planned)
        transport.abort()

    await asyncio.gather(*(work(*connection) for connection in opened))
    return sorted(taken)


def measure(
    case: Case, pid: int, port: int, n: int, *, connections: int, per_s: float
) -> tuple[float, list[float]]:
    """Return CPU in us for one request (or event), and the latencies."""
    n = max(int(n * case.share), 10)
    before = cpu_ns(pid)
    taken = asyncio.run(load(port, case.make, n, connections=connections, per_s=per_s * case.share))
    return (cpu_ns(pid) - before) / 1_000 / n / case.per, taken


# -- the command ------------------------------------------------------------------------------


def bench(
    items: Annotated[list[int] | None, typer.Option(help="catalogues for GET; repeats")] = None,
    requests: Annotated[int, typer.Option(min=10, help="GETs in a round")] = 2_000,
    rounds: Annotated[int, typer.Option(min=1)] = 7,
    connections: Annotated[int, typer.Option(min=1)] = 8,
    per_s: Annotated[float, typer.Option(min=0, help="GETs a second; 0: as fast as can be")] = 0,
    parts: Annotated[bool, typer.Option(help="what is in process, and peers, too")] = True,
    sweep: Annotated[bool, typer.Option(help="by connections and events in a POST, too")] = False,
    json: Annotated[Path | None, typer.Option(help="write the figures to a file")] = None,
    pictures: Annotated[Path | None, typer.Option(help="draw them into a folder")] = None,
    compare: Annotated[
        bool, typer.Option(help="fail where a ratio is worse than released")
    ] = False,
    release: Annotated[str | None, typer.Option(help="record the ratios of this release")] = None,
) -> None:
    """Print what a request costs: bare, with FastAPI, and ours; and what its parts do."""
    ours, theirs = sorted(os.sched_getaffinity(0))[:2]
    sizes = items or [10_000, 100_000, 1_000_000]
    in_process = _parts(sizes, theirs) if parts else {}
    rows = cases(sizes)
    with ExitStack() as stack:
        servers = {
            server: stack.enter_context(serving(*server, theirs))
            for server in dict.fromkeys(case.server for case in rows)
        }
        os.sched_setaffinity(0, {ours})
        teach(servers["sluice", 0])
        figures = _measured(rows, servers, requests, rounds, connections, per_s)
        swept = _swept(servers["sluice", 0], requests) if sweep else []
    _print(figures, in_process, per_s)
    cpu_us = {name: found.cpu_us for name, found in figures.items()}
    report: dict[str, Any] = {
        "machine": _machine(),
        "per_s": per_s,
        "rows": {name: found._asdict() for name, found in figures.items()},
        "parts": in_process,
        "swept": swept,
        "ratios": ratios.of(cpu_us, in_process),
    }
    if json is not None:
        json.write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2))
    if pictures is not None:
        draw(pictures, report)
    if release is not None:
        ratios.record(release, report["ratios"], report["machine"])
    if compare and not ratios.compare(report["ratios"]):
        raise typer.Exit(1)


def _parts(sizes: list[int], core: int) -> dict[str, float]:
    """Return what learning and recommending cost in process, in us, from a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.parts", *map(str, sizes)]
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    all_cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})  # which a child inherits
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | one_thread, stdout=subprocess.PIPE, check=True
        )
    finally:
        os.sched_setaffinity(0, all_cores)
    found: dict[str, float] = orjson.loads(done.stdout)
    return found


def _measured(
    rows: list[Case],
    servers: dict[tuple[str, int], tuple[int, int]],
    requests: int,
    rounds: int,
    connections: int,
    per_s: float,
) -> dict[str, Figures]:
    """Let the rows take turns, and return the figures of each; the first round warms up."""
    found: dict[str, list[tuple[float, list[float]]]] = {case.name: [] for case in rows}
    for _ in range(rounds + 1):
        for case in rows:
            one = measure(
                case, *servers[case.server], requests, connections=connections, per_s=per_s
            )
            found[case.name].append(one)
    return {name: _figures(rounds_[1:]) for name, rounds_ in found.items()}


def _swept(server: tuple[int, int], requests: int) -> list[dict[str, Any]]:
    """Return what comes through by connections (GET), and by events in a POST."""
    path, found = "/v1/recommendations/", []
    kinds: list[tuple[str, int, Case]] = [
        ("connections", n, Case("", ("", 0), get(path))) for n in (1, 2, 4, 8, 16, 32, 64)
    ]
    kinds += [
        ("events", n, Case("", ("", 0), post(n), 4 / (3 + n), n)) for n in (1, 3, 10, 30, 100, 300)
    ]
    for kind, n, case in kinds:
        wide = n if kind == "connections" else 8
        begin = time.perf_counter()
        cpu_us, taken = measure(case, *server, requests, connections=wide, per_s=0)
        per_s = len(taken) * case.per / (time.perf_counter() - begin)
        p99_ms = taken[int(len(taken) * 0.99)] * 1_000
        found.append({"by": kind, "n": n, "cpu_us": cpu_us, "per_s": per_s, "p99_ms": p99_ms})
    return found


def teach(server: tuple[int, int]) -> None:
    """Let the service that takes feedback know users and items, and leave warm-up."""
    measure(Case("", ("", 0), post(500)), *server, LEARNED_FIRST // 500, connections=1, per_s=0)


def _figures(rounds: list[tuple[float, list[float]]]) -> Figures:
    cpu = [one for one, _ in rounds]
    taken = sorted(t for _, each in rounds for t in each)
    last = len(taken) - 1
    at = [taken[min(len(taken) * q // 100, last)] * 1_000 for q in range(1, 101)]
    return Figures(statistics.median(cpu), min(cpu), max(cpu), at[49], at[98], at[99], at)


def _machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }


def _print(figures: dict[str, Figures], parts: dict[str, float], per_s: float) -> None:
    machine = _machine()
    about = f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}"
    table = Table(title=f"{about}; {f'{per_s:g} requests/s' if per_s else 'closed loop'}")
    for name in ("", "CPU us", "lowest", "highest", "x", "p50 ms", "p99 ms", "worst ms"):
        table.add_column(name, justify="left" if not name else "right")
    floor = next(found.cpu_us for name, found in figures.items() if "empty" in name)
    for name, (*cpu, p50, p99, worst, _) in figures.items():
        shown = [f"{us:.1f}" for us in cpu] + [f"{cpu[0] / floor:.2f}"]
        table.add_row(name, *shown, *(f"{ms:.2f}" for ms in (p50, p99, worst)))
    table.add_section()
    for name, us in parts.items():
        first = next(one for one in parts if one.partition(":")[0] == name.partition(":")[0])
        table.add_row(name, f"{us:.1f}", "", "", f"{us / parts[first]:.2f}")
    table.caption = (
        "x: times an empty FastAPI route; times River's learn_one; times the first slate"
    )
    Console(width=130).print(table)


if __name__ == "__main__":
    typer.run(bench)
