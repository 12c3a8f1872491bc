"""`python -m scripts.visible`: how soon what one process is told shows in the lists of another.

Feedback comes in by an open loop; now and then one event more is posted, and as soon as it is
acknowledged a list of that user is asked for, at another process of the same log, of that place or
later (`min_cursor`). Timed from the acknowledgement, and from the posting.
"""

from __future__ import annotations

import asyncio
import time
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import aiohttp
import orjson
import typer
from rich.console import Console
from rich.table import Table

from scripts.latency import open_loop, session, summary

BATCH = 10
WAIT_MS = 10_000
N_USERS, N_ITEMS = 5_000, 1_000


def visible(
    url: Annotated[str, typer.Option(help="where feedback is posted")],
    other: Annotated[
        str | None, typer.Option(help="where lists are asked for: another process of its log")
    ] = None,
    events_per_s: Annotated[float, typer.Option(min=1, help="events a second, ten a POST")] = 500,
    probes_per_s: Annotated[float, typer.Option(min=0.1, help="events looked for a second")] = 20,
    seconds: Annotated[float, typer.Option(min=1, help="for how long")] = 60,
    json: Annotated[Path | None, typer.Option(help="write the figures to a file")] = None,
) -> None:
    """Print p50, p99 and the worst of the time until an event is in a list."""
    found = asyncio.run(_measure(url, other or url, events_per_s, probes_per_s, seconds))
    table = Table(title=f"{events_per_s:g} events/s besides, {seconds:g} s")
    for name in ("in a list after", "n", "p50 ms", "p99 ms", "worst ms"):
        table.add_column(name, justify="right")
    for name, taken in found.items():
        shown = [f"{taken[p]:.2f}" for p in ("p50_ms", "p99_ms", "worst_ms")]
        table.add_row(name, str(taken["n"]), *shown)
    Console().print(table)
    if json is not None:
        json.write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2))


async def _measure(
    url: str, other: str, events_per_s: float, probes_per_s: float, seconds: float
) -> dict[str, dict[str, Any]]:
    numbers = count(time.time_ns())
    acknowledged: list[float] = []
    posted: list[float] = []

    async def post(client: aiohttp.ClientSession, events: list[dict[str, str]]) -> str:
        async with client.post("/v1/feedback", data=orjson.dumps(events)) as response:
            response.raise_for_status()
            return str(orjson.loads(await response.read())["cursor"])

    async with session(url) as here, session(other) as there:

        async def load(_: int) -> int:
            await post(here, [_event(next(numbers)) for _ in range(BATCH)])
            return 200

        async def probe(_: int) -> int:
            event = _event(next(numbers))
            began = time.perf_counter()
            cursor = await post(here, [event])
            told = time.perf_counter()
            path = f"/v1/recommendations/{event['user_id']}"
            asked: dict[str, str | int] = {"min_cursor": cursor, "deadline_ms": WAIT_MS}
            async with there.get(path, params=asked) as response:
                response.raise_for_status()
                if orjson.loads(await response.read())["degraded"] is not None:
                    raise SystemExit(f"{other} is behind: no list within {WAIT_MS} ms")
            now = time.perf_counter()
            acknowledged.append(now - told)
            posted.append(now - began)
            return 200

        await open_loop(load, events_per_s / BATCH, 1.0)
        await asyncio.gather(
            open_loop(load, events_per_s / BATCH, seconds),
            open_loop(probe, probes_per_s, seconds),
        )
    return {"its acknowledgement": summary(acknowledged), "its posting": summary(posted)}


def _event(number: int) -> dict[str, str]:
    return {
        "event_id": f"visible-{number}",
        "user_id": str(number * 7_919 % N_USERS + 1),
        "item_id": str(number * 104_729 % N_ITEMS + 1),
        "type": "click",
    }


if __name__ == "__main__":
    typer.run(visible)
