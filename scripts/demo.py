"""Play a small invented shop into a running service, and watch a new shopper's list change.

Nothing here is real: the shop, its shoppers and their tastes are made up from a seed.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from random import Random
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

SHOP = {
    "tea": "Fogleaf, Old Pier Black, Quiet Oolong, Mint Parade, Lantern Chai, Snow Bud, "
    "Smoked Harbour, Roasted Barley, Rosehip Hour, Kettle Sampler",
    "bread": "Miller's Crust, Seeded Round, Rye Brick, Olive Twist, Potato Loaf, Sour Monday, "
    "Honey Braid, Walnut Wheel, Corn Slab, Starter Jar",
    "garden": "Bent Trowel, Tomato Seeds, Bee Hotel, Rain Gauge, Clay Pots, Moss Gloves, "
    "Hose Reel, Pruning Hook, Compost Fork, Bean Poles",
    "paper": "Dot Notebook, Wax Pencils, Fold Map, Letter Set, Ink Bottle, Brass Clips, "
    "Blotting Roll, Poster Tube, Stamp Tray, Desk Calendar",
    "trail": "Tin Lantern, Rope Bag, Trail Stove, Wool Socks, Ridge Poles, Rain Shell, "
    "Map Case, Camp Mug, Bivvy Sack, Trail Mix",
    "music": "Thumb Piano, Reed Box, Practice Pad, Tuning Fork, Song Cards, Shaker Egg, "
    "Spare Strings, Rosin Cake, Slide Whistle, Metronome",
}
N_SHOPPERS = 200
N_EVENTS = 3_000
BATCH = 100
SPAN_S = 3_000  # the shop's past: one event a second, the last one now
SHOWN = 8
CLICKS = 4


@dataclass(frozen=True)
class Item:
    """Something that the shop sells. `shelf` is its place among those of its category."""

    item_id: str
    name: str
    category: str
    shelf: int


def make_items() -> list[Item]:
    """Return the shop's items."""
    return [
        Item(f"demo-{name.lower().replace(' ', '-').replace(chr(39), '')}", name, category, shelf)
        for category, names in SHOP.items()
        for shelf, name in enumerate(names.split(", "))
    ]


def make_events(items: list[Item], run: str, *, seed: int, now: float) -> Iterator[dict[str, Any]]:
    """Yield feedback in the order of time; a shopper mostly stays near one place of one shelf."""
    random = Random(seed)
    shelves = {c: [item for item in items if item.category == c] for c in SHOP}
    tastes = [random.sample(sorted(SHOP), 2) for _ in range(N_SHOPPERS)]
    places = [random.randrange(10) for _ in range(N_SHOPPERS)]
    for index in range(N_EVENTS):
        shopper = random.randrange(N_SHOPPERS)
        first, second = tastes[shopper]
        category = random.choices([first, second, random.choice(sorted(SHOP))], [75, 18, 7])[0]
        places[shopper] = (places[shopper] + random.choice([-2, -1, 1, 1, 2, 5])) % 10
        types = ["click", "like", "add_to_cart", "purchase"]
        yield {
            "user_id": f"demo-{run}-{shopper}",
            "item_id": shelves[category][places[shopper]].item_id,
            "type": random.choices(types, [70, 15, 10, 5])[0],
            "timestamp": round(now - SPAN_S * (1 - (index + 1) / N_EVENTS), 3),
        }


class Shop:
    """A running service, as the demo sees it."""

    def __init__(self, client: httpx.Client, console: Console) -> None:
        self.client = client
        self.console = console
        self.items = {item.item_id: item for item in make_items()}

    def post(self, path: str, body: Any) -> Any:
        return self._answer(self.client.post(path, json=body))

    def recommend(self, user_id: str) -> list[dict[str, Any]]:
        """Return a user's slate, each item with why it is there."""
        query: list[tuple[str, str | int | float | bool | None]] = [
            ("k", SHOWN),
            ("explain", "true"),
        ]
        query += [("category", category) for category in SHOP]
        path = f"/v1/recommendations/{user_id}"
        slate = self._answer(self.client.get(path, params=query))
        return list(slate["items"])

    def label(self, item_id: str) -> str:
        """Show an item with its category; other items may be in the service too."""
        item = self.items.get(item_id)
        return f"{item.name} [dim]{item.category}[/dim]" if item else escape(item_id)

    def _answer(self, response: httpx.Response) -> Any:
        if response.is_success:
            return response.json()
        hint = " Set SLUICE_API_KEY to the service's key." if response.status_code == 401 else ""
        self.console.print(f"[red]{response.status_code}[/red] {escape(response.text[:500])}{hint}")
        raise typer.Exit(1)


def fill(shop: Shop, run: str, seed: int) -> None:
    """Put the catalogue and the shop's past into the service."""
    shop.post(
        "/v1/items",
        [
            {"item_id": i.item_id, "categories": [i.category], "attributes": {"name": i.name}}
            for i in shop.items.values()
        ],
    )
    events = list(make_events(make_items(), run, seed=seed, now=time.time()))
    counts: dict[str, int] = {}
    with Progress(console=shop.console) as progress:
        task = progress.add_task(f"{N_EVENTS:,} events of {N_SHOPPERS} shoppers", total=N_EVENTS)
        for start in range(0, N_EVENTS, BATCH):
            answer = shop.post("/v1/feedback", events[start : start + BATCH])
            for status, n_events in answer["counts"].items():
                counts[status] = counts.get(status, 0) + n_events
            progress.advance(task, BATCH)
    shop.console.print(", ".join(f"{n:,} {status}" for status, n in counts.items() if n))


def stroll(shop: Shop, run: str, seed: int) -> None:
    """Let a new shopper click four times, and show the list before and after each click."""
    random = Random(seed)
    user_id = f"demo-{run}-new"
    wanted = random.choice(sorted(SHOP))
    shop.console.print(f"\nA new shopper, [b]{user_id}[/b], comes in for {wanted}.")
    clicked: set[str] = set()
    before = shop.recommend(user_id)
    for _ in range(CLICKS):
        shelf = [i for i in shop.items.values() if i.category == wanted]
        listed = [row["item_id"] for row in before]
        left = [i.item_id for i in shelf if i.item_id not in clicked]
        choice = next((i for i in listed if i in left), None) or random.choice(left)
        clicked.add(choice)
        shop.post("/v1/feedback", {"user_id": user_id, "item_id": choice, "type": "click"})
        after = shop.recommend(user_id)
        shop.console.print(compare(shop, choice, before, after))
        before = after


def compare(
    shop: Shop, clicked: str, before: list[dict[str, Any]], after: list[dict[str, Any]]
) -> Table:
    """Return a table of two slates, what is new in green."""
    table = Table(title=f"clicks {shop.label(clicked)}", title_justify="left")
    for heading in ("", "before", "after", "because of"):
        table.add_column(heading)
    known = {row["item_id"] for row in before}
    nothing: dict[str, Any] = {"item_id": "", "sources": []}
    for position, (old, new) in enumerate(zip_longest(before, after, fillvalue=nothing), 1):
        label = shop.label(new["item_id"])
        reasons = [shop.label(why["because"]) for why in (new.get("why") or [])[:2]]
        table.add_row(
            str(position),
            shop.label(old["item_id"]),
            label if new["item_id"] in known else f"[green]{label}[/green]",
            ", ".join(reasons or new["sources"]),
        )
    return table


def demo(
    url: Annotated[str, typer.Option(help="Where the service is.")] = "http://127.0.0.1:8000",
    seed: Annotated[int, typer.Option(help="Makes the shoppers and their tastes.")] = 1,
) -> None:
    """Play a small invented shop into a running service, and watch a new shopper's list change."""
    console = Console()
    run = secrets.token_hex(3)
    key = os.environ.get("SLUICE_API_KEY")
    headers = {"X-API-Key": key} if key else {}
    try:
        with httpx.Client(base_url=url, headers=headers, timeout=30) as client:
            shop = Shop(client, console)
            fill(shop, run, seed)
            stroll(shop, run, seed)
    except httpx.TransportError as error:
        console.print(f"[red]No service answers at {url}[/red] ({escape(str(error))}).")
        console.print("Start one with [b]make run[/b] in another terminal, then try again.")
        raise typer.Exit(1) from None
    console.print("\nWhat to look at next:")
    for path, what in (
        ("/v1/model", "the gate, and the three versions it stands between"),
        ("/v1/decisions", "what it promoted, and on which evidence"),
        (f"/v1/users/demo-{run}-new/history", "the new shopper's history"),
        ("/openapi.json", "everything else"),
    ):
        console.print(f"  curl {url}{path}   [dim]{what}[/dim]", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    typer.run(demo)
