"""`python -m scripts.overload`: whether deadlines are kept when more comes in than can be answered.

A service of its own runs on one core, the client on another one. First a closed loop finds what the
service carries; then requests leave at a multiple of that, at their planned times, whatever became
of those before, and latencies count from the plan.

Late as the service sees it is from its own metrics. Of what the client sees, a part is the client's
own: how late requests left it is in the table, too, and for how long the service waited for a core
that others had.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter, deque
from pathlib import Path
from typing import Annotated, Any

import httpx
import orjson
import typer
import uvloop
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

from scripts.bench import serving, teach

CARRIED_N, CARRIED_CONNECTIONS = 20_000, 32
TICK_S = 0.0005


def overload(
    deadline_ms: Annotated[int, typer.Option(min=1, help="of each request")] = 5,
    times: Annotated[float, typer.Option(min=0.1, help="of what the service carries")] = 2.0,
    seconds: Annotated[float, typer.Option(min=0.1, help="of overload")] = 10.0,
    connections: Annotated[int, typer.Option(min=1, help="open at most")] = 256,
    realtime: Annotated[
        bool, typer.Option("--realtime", help="let the service have its core alone: needs root")
    ] = False,
    json: Annotated[Path | None, typer.Option(help="write the figures to a file")] = None,
) -> None:
    """Print what became of requests under overload."""
    ours, theirs = sorted(os.sched_getaffinity(0))[:2]
    with serving("sluice", 0, theirs) as (pid, port):
        os.sched_setaffinity(0, {ours})
        teach((pid, port))
        if realtime:
            os.sched_setscheduler(pid, os.SCHED_RR, os.sched_param(1))
        carried = uvloop.run(_closed_loop(port, CARRIED_N))
        before, waited = _counts(port), _run_delay_s(pid)
        found = uvloop.run(_open_loop(port, carried * times, seconds, deadline_ms, connections))
        found |= _of_service(before, _counts(port))
        found |= {
            "carried_per_s": carried,
            "waited_for_core": (_run_delay_s(pid) - waited) / seconds,
        }
    _print(found, f"{times:g} x {carried:,.0f} requests/s, deadline {deadline_ms} ms")
    if json is not None:
        json.write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2))


class _Connection(asyncio.Protocol):
    """One connection, one request at a time; tells the load what was answered."""

    def __init__(self, load: _Load) -> None:
        self._load = load
        self._received = b""
        self.planned = self.sent = 0.0
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Be free."""
        self.transport = transport  # type: ignore[assignment]

    def send(self, request: bytes, planned: float) -> None:
        """Send a request."""
        self.planned, self.sent = planned, time.perf_counter()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Take a piece of an answer."""
        self._received = self._received + data if self._received else data
        head, end, body = self._received.partition(b"\r\n\r\n")
        length = head.partition(b"content-length: ")[2].partition(b"\r\n")[0]
        if end and len(body) >= int(length):
            self._received = b""
            self._load.answered(self, head)


class _Load:
    """What is to be sent, over which connections, and what became of it."""

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.free: deque[_Connection] = deque()
        self._all: list[_Connection] = []
        self.backlog: deque[float] = deque()
        self.outcomes: Counter[str] = Counter()
        self.taken: list[float] = []
        self.since_sent: list[float] = []
        self.left_late: list[float] = []
        self.is_closed_loop = False

    async def connect(self, port: int, n: int) -> None:
        """Open connections."""
        loop = asyncio.get_running_loop()
        for _ in range(n):
            _, connection = await loop.create_connection(
                lambda: _Connection(self), "127.0.0.1", port
            )
            self.free.append(connection)
            self._all.append(connection)

    def close(self) -> None:
        """Close all connections."""
        for connection in self._all:
            connection.transport.abort()

    def ask(self, planned: float) -> None:
        """Send a request, or let it wait until a connection is free."""
        if not self.free:
            self.backlog.append(planned)
            return
        connection = self.free.popleft()
        connection.send(self.request, planned)
        self.left_late.append(connection.sent - planned)

    def answered(self, connection: _Connection, head: bytes) -> None:
        """Take note of an answer; its connection is free."""
        now = time.perf_counter()
        self.taken.append(now - connection.planned)
        self.since_sent.append(now - connection.sent)
        status = head[9:12]
        kind = "degraded" if b"x-degraded" in head else "full"
        self.outcomes["refused" if status == b"503" else kind] += 1
        self.free.append(connection)
        if self.backlog:
            self.ask(self.backlog.popleft())
        elif self.is_closed_loop:
            self.ask(time.perf_counter())


def _request(deadline_ms: int) -> bytes:
    path = f"/v1/recommendations/u0?deadline_ms={deadline_ms}"
    return f"GET {path} HTTP/1.1\r\nhost: overload\r\n\r\n".encode()


async def _closed_loop(port: int, n: int) -> float:
    """Return how many requests a second are answered, as fast as they can be."""
    load = _Load(_request(60_000))
    load.is_closed_loop = True
    await load.connect(port, CARRIED_CONNECTIONS)
    begin = time.perf_counter()
    for _ in range(CARRIED_CONNECTIONS):
        load.ask(begin)
    while len(load.taken) < n:  # noqa: ASYNC110  waking up for each answer would cost too much
        await asyncio.sleep(0.01)
    rate = len(load.taken) / (time.perf_counter() - begin)
    load.is_closed_loop = False
    load.close()
    return rate


async def _open_loop(
    port: int, per_s: float, seconds: float, deadline_ms: int, connections: int
) -> dict[str, Any]:
    load = _Load(_request(deadline_ms))
    await load.connect(port, connections)
    begin, n, n_all = time.perf_counter(), 0, int(per_s * seconds)
    while n < n_all:
        due = min(n_all, int((time.perf_counter() - begin) * per_s) + 1)
        for number in range(n, due):
            load.ask(begin + number / per_s)
        n = due
        await asyncio.sleep(TICK_S)
    until = time.perf_counter() + 5
    while len(load.taken) < n_all and time.perf_counter() < until:  # noqa: ASYNC110  the same
        await asyncio.sleep(0.01)
    load.close()
    taken, left = sorted(load.taken), sorted(load.left_late)
    shares = {name: load.outcomes[name] / n_all for name in ("full", "degraded", "refused")}
    return {
        "n": n_all,
        "unanswered": n_all - len(taken),
        **shares,
        "late_for_client": sum(t > deadline_ms / 1_000 for t in taken) / n_all,
        "late_since_sent": sum(t > deadline_ms / 1_000 for t in load.since_sent) / n_all,
        "p50_ms": taken[len(taken) // 2] * 1_000,
        "p99_ms": taken[int(len(taken) * 0.99)] * 1_000,
        "p999_ms": taken[int(len(taken) * 0.999)] * 1_000,
        "left_late_p99_ms": left[int(len(left) * 0.99)] * 1_000,
    }


def _counts(port: int) -> dict[str, float]:
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
    return {
        "/".join([sample.name, *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith(("sluice_deadlines", "sluice_degraded", "sluice_refused"))
    }


def _of_service(before: dict[str, float], after: dict[str, float]) -> dict[str, Any]:
    grown = Counter({name: after[name] - before.get(name, 0) for name in after})
    late, kept = (grown[f"sluice_deadlines_total/{what}"] for what in ("late", "kept"))
    return {"late_for_service": late / max(late + kept, 1)}


def _run_delay_s(pid: int) -> float:
    """Return for how long the process's main thread has waited for a core."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9


def _print(found: dict[str, Any], title: str) -> None:
    table = Table("", "", title=title)
    for name, value in found.items():
        is_share = name in _SHARES
        table.add_row(name, f"{value:.3%}" if is_share else f"{value:,.2f}")
    Console().print(table)


_SHARES = {
    *("full", "degraded", "refused"),
    *("late_for_client", "late_since_sent", "late_for_service", "waited_for_core"),
}

if __name__ == "__main__":
    typer.run(overload)
