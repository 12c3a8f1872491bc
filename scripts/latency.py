"""`python -m scripts.latency`: how long requests take, with and without feedback coming in.

Open loop: requests leave at their planned times, whatever became of those before, and are timed
from the plan, so that a stall is counted for everybody whom it would have held up. A client that
cannot keep its own plan measures itself: how late requests left is in the table, too.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import aiohttp
import orjson
import typer
from rich.console import Console
from rich.table import Table

Send = Callable[[int], Awaitable[int]]


def latency(
    url: Annotated[str, typer.Option(help="a running service that knows some users")],
    users: Annotated[int, typer.Option(min=1, help="users named 1, 2, ... asked for")] = 900,
    gets_per_s: Annotated[float, typer.Option(min=1, help="GETs a second")] = 100,
    events_per_s: Annotated[float, typer.Option(min=1, help="events a second, one a POST")] = 200,
    seconds: Annotated[float, typer.Option(min=1, help="length of each phase")] = 30,
    json: Annotated[Path | None, typer.Option(help="write the figures to a file")] = None,
) -> None:
    """Print p50, p99 and the worst of GET alone, GET under feedback, and POST."""
    figures = asyncio.run(_measure(url, users, gets_per_s, events_per_s, seconds))
    table = Table(title=f"{gets_per_s:g} GETs/s; {events_per_s:g} events/s; {seconds:g} s each")
    for name in ("", "n", "errors", "p50 ms", "p99 ms", "worst ms", "left late by"):
        table.add_column(name, justify="right")
    for name, found in figures.items():
        shown = [f"{found[p]:.2f}" for p in ("p50_ms", "p99_ms", "worst_ms")]
        late = f"{found['late_p99_ms']:.2f}"
        table.add_row(name, str(found["n"]), str(found["errors"]), *shown, late)
    Console().print(table)
    ratio = figures["GET under feedback"]["p99_ms"] / figures["GET alone"]["p99_ms"]
    Console().print(f"GET p99 under feedback / alone: {ratio:.2f}")
    if json is not None:
        json.write_bytes(orjson.dumps(figures | {"p99_ratio": ratio}, option=orjson.OPT_INDENT_2))


async def _measure(
    url: str, users: int, gets_per_s: float, events_per_s: float, seconds: float
) -> dict[str, dict[str, Any]]:
    async with session(url) as client:
        unique = count(time.time_ns())

        async def get(number: int) -> int:
            async with client.get(f"/v1/recommendations/{number % users + 1}") as response:
                await response.read()
                return response.status

        async def post(number: int) -> int:
            event = {
                "event_id": f"latency-{next(unique)}",
                "user_id": str(number * 7919 % users + 1),
                "item_id": str(number * 104_729 % 1_000 + 1),
                "type": "click",
            }
            async with client.post("/v1/feedback", data=orjson.dumps(event)) as response:
                await response.read()
                return response.status

        await open_loop(get, gets_per_s, 1.0)
        alone = await open_loop(get, gets_per_s, seconds)
        under, posts = await asyncio.gather(
            open_loop(get, gets_per_s, seconds), open_loop(post, events_per_s, seconds)
        )
    return {"GET alone": alone, "GET under feedback": under, "POST": posts}


def session(url: str, connections: int = 64) -> aiohttp.ClientSession:
    """Return a client of a service, with the key in SLUICE_API_KEY if there is one."""
    key = os.environ.get("SLUICE_API_KEY")
    headers = {} if key is None else {"X-API-Key": key}
    connector = aiohttp.TCPConnector(limit=connections)
    return aiohttp.ClientSession(url, headers=headers, connector=connector)


async def open_loop(send: Send, per_s: float, seconds: float) -> dict[str, Any]:
    """Send so many a second, at their planned times; return how long they took from these."""
    begin = time.perf_counter()
    taken: list[float] = []
    late: list[float] = []
    n_errors = 0

    async def one(number: int, planned: float) -> None:
        nonlocal n_errors
        late.append(time.perf_counter() - planned)
        try:
            n_errors += await send(number) >= 400
        except aiohttp.ClientError:
            n_errors += 1
        taken.append(time.perf_counter() - planned)

    async with asyncio.TaskGroup() as group:
        for number in range(int(per_s * seconds)):
            planned = begin + number / per_s
            await asyncio.sleep(max(0.0, planned - time.perf_counter()))
            group.create_task(one(number, planned))
    return {**summary(taken), "errors": n_errors, "late_p99_ms": summary(late)["p99_ms"]}


def summary(seconds: list[float]) -> dict[str, Any]:
    """Return how many, the median, the 99th percentile and the worst, in ms."""
    ms = [taken * 1_000 for taken in sorted(seconds)]
    n = len(ms)
    return {"n": n, "p50_ms": ms[n // 2], "p99_ms": ms[int(n * 0.99)], "worst_ms": ms[-1]}


if __name__ == "__main__":
    typer.run(latency)
