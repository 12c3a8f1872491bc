"""`python -m scripts.budget`: what lists suffer where more feedback comes than a budget pays.

The service runs with SLUICE_BUDGET_LEARNING, on another core than this; on a machine with other
work, both under `chrt -r 1`, or what is measured is who else wanted the core. First it says what an
event costs, and so how many a second the budget carries; then lists are asked for, alone and while
a multiple of that is posted by another process, by turns, at planned times (see `latency`). In the
end nothing comes any more until the service has caught up: then each acknowledged event must have
been admitted, once.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import aiohttp
import orjson
import typer
from rich.console import Console
from rich.table import Table

from scripts.latency import open_loop, session

PAID = ("receiving", "appending", "judging", "learning")
BATCH = 20
CONNECTIONS = 1_000


def budget(
    url: Annotated[str, typer.Option(help="a running service with a budget for learning")],
    times: Annotated[float, typer.Option(min=0.1, help="of what the budget carries")] = 5.0,
    users: Annotated[int, typer.Option(min=1, help="users that ask and click")] = 900,
    items: Annotated[int, typer.Option(min=1, help="items that are clicked")] = 1_000,
    gets_per_s: Annotated[float, typer.Option(min=1, help="lists a second")] = 100,
    seconds: Annotated[float, typer.Option(min=1, help="length of each phase")] = 20,
    rounds: Annotated[int, typer.Option(min=1, help="of a phase without and one with")] = 3,
    teach: Annotated[int, typer.Option(min=100, help="events to begin with")] = 5_000,
    json: Annotated[Path | None, typer.Option(help="write the figures to a file")] = None,
) -> None:
    """Print p99 of lists alone and under too much feedback, how late learning was, losses."""
    found = asyncio.run(_measure(url, times, users, items, gets_per_s, seconds, rounds, teach))
    table = Table("", "", title=f"{times:g} x what a budget of {found['budget']:g} cores carries")
    for name, value in found.items():
        table.add_row(name, f"{value:,.3f}" if isinstance(value, float) else str(value))
    Console().print(table)
    if json is not None:
        json.write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2))
    if found["lost"] or found["twice"]:
        raise SystemExit(1)


@dataclass
class Posted:
    """What was answered, and how many events were acknowledged."""

    statuses: Counter[int] = field(default_factory=Counter)
    n: int = 0

    def add(self, other: Posted) -> None:
        """Add what another one has posted."""
        self.statuses += other.statuses
        self.n += other.n


class _Service:
    """The service, and what it has acknowledged."""

    def __init__(self, client: aiohttp.ClientSession, users: int, items: int) -> None:
        self._client = client
        self.n_users, self.n_items = users, items
        self._numbers = count(time.time_ns())
        self.posted = Posted()

    async def get(self, number: int) -> int:
        """Ask for a list."""
        path = f"/v1/recommendations/{number % self.n_users + 1}"
        async with self._client.get(path) as response:
            await response.read()
            return response.status

    async def post(self, _: int) -> int:
        """Post some events that nobody has posted."""
        events = [self._event(next(self._numbers)) for _ in range(BATCH)]
        async with self._client.post("/v1/feedback", data=orjson.dumps(events)) as response:
            content = orjson.loads(await response.read())
            n = len(content["results"]) if response.status < 400 else 0
            self.posted.add(Posted(Counter([response.status]), n))
            return response.status

    def _event(self, number: int) -> dict[str, str]:
        return {
            "event_id": f"budget-{number}",
            "user_id": str(number * 7_919 % self.n_users + 1),
            "item_id": str(number * 104_729 % self.n_items + 1),
            "type": "click",
        }

    async def model(self) -> dict[str, Any]:
        """Return what the service says of itself."""
        async with self._client.get("/v1/model") as response:
            response.raise_for_status()
            model: dict[str, Any] = await response.json()
            return model

    async def catch_up(self) -> float:
        """Wait until the service is not behind; return how many seconds that took."""
        began = time.perf_counter()
        while (await self.model())["lag_s"] > 0:  # noqa: ASYNC110  another process's state
            await asyncio.sleep(0.2)
        return time.perf_counter() - began


async def _measure(
    url: str,
    times: float,
    users: int,
    items: int,
    gets_per_s: float,
    seconds: float,
    rounds: int,
    teach: int,
) -> dict[str, Any]:
    async with session(url, CONNECTIONS) as client:
        service = _Service(client, users, items)
        before = await service.model()
        share = before["cost"]["budget"]["learning"]
        if share is None:
            raise SystemExit("the service has no budget: start it with SLUICE_BUDGET_LEARNING=0.1")
        for number in range(teach // BATCH):
            await service.post(number)
        await service.catch_up()
        cost_s = await _cost_of_an_event(service, seconds, share)
        per_s = times * share / cost_s
        alone, under, lags, used = [], [], [], []
        for _ in range(rounds):
            alone.append(await open_loop(service.get, gets_per_s, seconds))
            paid, began = _paid(await service.model()), time.perf_counter()
            under.append(await _together(service, url, gets_per_s, per_s, seconds))
            model = await service.model()
            used.append((_paid(model) - paid) / (time.perf_counter() - began))
            lags.append(model["lag_s"])
            lags.append(await service.catch_up())
        after = await service.model()
    grown = {
        name: after["events"]["counts"].get(name, 0) - before["events"]["counts"].get(name, 0)
        for name in after["events"]["counts"]
    }
    n_admitted = after["events"]["admitted"] - before["events"]["admitted"]
    kinds = ("late", "quarantined")
    n_refused = sum(n for name, n in grown.items() if name.partition(":")[0] in kinds)
    p99 = [_median([each["p99_ms"] for each in phase]) for phase in (alone, under)]
    return {
        "budget": share,
        "cpu of an event, ms": cost_s * 1_000,
        "carried, events a second": share / cost_s,
        "posted, events a second": per_s,
        "answers": {str(status): n for status, n in sorted(service.posted.statuses.items())},
        "used of a core under it": [round(each, 3) for each in used],
        "GET p99 alone, ms": p99[0],
        "GET p99 under, ms": p99[1],
        "GET p99, under / alone": p99[1] / p99[0],
        "GETs left late by, p99 ms": max(each["late_p99_ms"] for each in alone + under),
        "GET errors": sum(each["errors"] for each in alone + under),
        "lag after each phase, s": [round(lag, 1) for lag in lags[::2]],
        "caught up within, s": [round(lag, 1) for lag in lags[1::2]],
        "judged of all": after["judging"]["share"],
        "acknowledged": service.posted.n,
        "admitted": n_admitted,
        "refused": n_refused,
        "lost": max(0, service.posted.n - n_admitted - n_refused),
        "twice": grown.get("duplicate", 0),
    }


async def _cost_of_an_event(service: _Service, seconds: float, share: float) -> float:
    """Return the CPU seconds that an event takes of the budget, at a rate that it carries."""
    before = _paid(await service.model())
    n_before = service.posted.n
    await open_loop(service.post, share * 1_000 / BATCH, seconds)
    spent = _paid(await service.model()) - before
    return spent / (service.posted.n - n_before)


def _paid(model: dict[str, Any]) -> float:
    """Return the CPU seconds so far of what the budget pays for."""
    stages = model["cost"]["stages"]
    return float(sum(stages[stage]["cpu_s"] for stage in PAID))


async def _together(
    service: _Service, url: str, gets_per_s: float, events_per_s: float, seconds: float
) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    with ProcessPoolExecutor(1, get_context("spawn")) as other:
        await loop.run_in_executor(other, int)  # it has begun
        kind = (service.n_users, service.n_items)
        posting = loop.run_in_executor(other, _post, url, kind, events_per_s / BATCH, seconds)
        gets = await open_loop(service.get, gets_per_s, seconds)
        service.posted.add(await posting)
    return gets


def _post(url: str, kind: tuple[int, int], per_s: float, seconds: float) -> Posted:
    async def post() -> Posted:
        async with session(url, CONNECTIONS) as client:
            service = _Service(client, *kind)
            await open_loop(service.post, per_s, seconds)
            return service.posted

    return asyncio.run(post())


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


if __name__ == "__main__":
    typer.run(budget)
