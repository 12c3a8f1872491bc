"""`python -m scripts.coldstart`: what exploration does for new items, and what it costs.

A world with many new items is played into the real engine, with tokens, with and without
exploration: the simulated shop, or MovieLens 100K, where films come when they were released, and a
film is "clicked" if it is in the list that its user would have been shown just before the rating.
All runs of a seed are the same until half of it is over; only then some explore.
"""

from __future__ import annotations

import itertools
import statistics
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Protocol

import msgspec
import orjson
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from app.engine import Engine
from app.events import VALID, Configure, Entry, Impression, ItemUpsert, Record
from app.exploration import explored_places
from app.recommend import Request
from app.serving import Slate
from app.settings import SEMANTICS, EngineSettings
from scripts.datasets import read
from scripts.play import ShopPlay
from scripts.shop import shop_with

YOUNG_EVENTS = 100
"""An item with fewer events than this is young."""
_K = 10


@dataclass
class Tally:
    """What was counted: slates, clicks on them; of these on young items, and on those of them that
    came later than the first; slots that explored, and clicks there.

    `shown` and `plain` are clicks to be expected of what was shown, and without exploration.
    """

    n_slates: int = 0
    n_clicks: int = 0
    n_young: int = 0
    n_new: int = 0
    n_explored: int = 0
    n_explored_clicks: int = 0
    shown: float = 0.0
    plain: float = 0.0

    def click(self, n_events: int, *, is_new: bool, is_explored: bool) -> None:
        """Count a click on an item that had so many events."""
        self.n_clicks += 1
        self.n_young += n_events < YOUNG_EVENTS
        self.n_new += is_new and n_events < YOUNG_EVENTS
        self.n_explored_clicks += is_explored

    def figures(self) -> dict[str, float]:
        """Return what the table shows, per slate or as shares."""
        n, n_clicks = max(self.n_slates, 1), max(self.n_clicks, 1)
        return {
            "clicks": self.n_clicks / n,
            "young": self.n_young / n_clicks,
            "new": self.n_new / n_clicks,
            "explored": self.n_explored / n,
            "explored_clicks": self.n_explored_clicks / max(self.n_explored, 1),
            "regret": (self.plain - self.shown) / n,
        }


class World(Protocol):
    """Something that can be played step by step."""

    found: Tally

    def step(self) -> None:
        """Let one thing happen."""

    def change(self, **settings: Any) -> None:
        """Go on under other settings."""


class NewItems(ShopPlay):
    """The simulated shop, in which items come with a category, often, and are counted."""

    def __init__(self, settings: EngineSettings, seed: int, per_item: int, browsing: float) -> None:
        shop = shop_with(seed, k=_K, views_per_item=per_item, browsing=browsing)
        super().__init__(settings, shop, seed)
        self._explored: set[int] = set()
        self.found = Tally()
        self._n_known = 0
        self._is_slate = False

    def step(self) -> None:
        """Put what is new into the catalogue, then let somebody come."""
        new = range(self._n_known, self.shop.n_items)
        self._n_known = self.shop.n_items
        if new:
            categories = self.shop.category
            self._apply([ItemUpsert(f"i{item}", [f"c{categories[item]}"]) for item in new])
        super().step()

    def change(self, **settings: Any) -> None:
        """Go on under other settings."""
        self._reconfigure(settings)

    def _answer(
        self, slate_id: str, slate: Slate, items: list[int], shopper: int, liking: Any
    ) -> None:
        explored = explored_places(slate.items)
        self._explored = {items[place] for place in explored}
        found, expected = self.found, self.shop.expected(liking, items)
        found.n_slates += 1
        found.n_explored += len(explored)
        found.shown += expected
        if explored:
            plain = self.engine.recommend(Request(f"u{shopper}", k=_K)).items
            expected = self.shop.expected(liking, [int(s.item_id[1:]) for s in plain])
        found.plain += expected
        self._is_slate = True
        super()._answer(slate_id, slate, items, shopper, liking)
        self._is_slate = False

    def _count(self, shopper: int, item: int) -> None:
        if self._is_slate:
            is_new = item >= self.shop.options.n_items
            is_explored = item in self._explored
            self.found.click(int(self._counts[item]), is_new=is_new, is_explored=is_explored)
        super()._count(shopper, item)


class Released:
    """MovieLens 100K by release date: films, with their genres, are there from that day on."""

    def __init__(self, settings: EngineSettings, folder: Path) -> None:
        self.found = Tally()
        self._engine = Engine(settings)
        self._cursor = itertools.count(1)
        self._apply(Configure(SEMANTICS, settings.model_dump()))
        self._events = iter(read(folder))
        self._due = films(folder)
        self._n_events: dict[str, int] = {}
        self._old: set[str] = set()

    def change(self, **settings: Any) -> None:
        """Go on under other settings."""
        wanted = EngineSettings(**(self._engine.configured.model_dump() | settings))
        self._apply(Configure(SEMANTICS, wanted.model_dump(), reconfigure=True))

    def _apply(self, *records: Record) -> None:
        self._engine.apply(Entry(list(records)), f"{next(self._cursor)}-0")

    def step(self) -> None:
        """Let one person be shown a list and rate a film."""
        event = next(self._events)
        self._release(event.time_ms or 0)
        request, slate_id = Request(event.user_id, k=_K), f"s{event.event_id}"
        slate = self._engine.recommend(request, slate_id).items
        ids, explored = [scored.item_id for scored in slate], explored_places(slate)
        plain = self._engine.recommend(request).items if explored else slate
        is_hit = event.item_id in ids
        self._note(event.item_id, ids, explored)
        self.found.shown += is_hit
        self.found.plain += event.item_id in [scored.item_id for scored in plain]
        is_known = event.user_id in self._engine.history.users
        if is_hit:
            event = msgspec.structs.replace(event, recommendation_id=slate_id, token=VALID)
        self._apply(event)
        if is_known and slate:
            scores, likely = [s.score for s in slate], [s.propensity for s in slate]
            shown = Impression(slate_id, event.user_id, ids, scores, event.time_ms or 0)
            self._apply(msgspec.structs.replace(shown, propensities=likely, explored=explored))

    def _release(self, now_ms: int) -> None:
        is_first = not self._n_events
        while self._due and self._due[-1][0] <= now_ms:
            _, item_id, genres = self._due.pop()
            self._apply(ItemUpsert(item_id, genres))
            if is_first:
                self._old.add(item_id)

    def _note(self, item: str, ids: list[str], explored: list[int]) -> None:
        n, found = self._n_events.get(item, 0), self.found
        self._n_events[item] = n + 1
        found.n_slates += 1
        found.n_explored += len(explored)
        if item in ids:
            is_explored = ids.index(item) in explored
            found.click(n, is_new=item not in self._old, is_explored=is_explored)


def films(folder: Path) -> list[tuple[int, str, list[str]]]:
    """Return (release in Unix ms, id, genres) of MovieLens 100K's films, the latest first."""
    names = (folder / "u.genre").read_text().split("\n")
    genres = [name.partition("|")[0] for name in names if name]
    found = []
    for line in (folder / "u.item").read_text("latin-1").splitlines():
        item_id, _, released, _, _, *flags = line.split("|")
        time_ms = 0
        if released:
            moment = datetime.strptime(released, "%d-%b-%Y").replace(tzinfo=UTC)
            time_ms = max(0, round(moment.timestamp() * 1_000))
        found.append((time_ms, item_id, [genres[n] for n, flag in enumerate(flags) if flag == "1"]))
    return sorted(found, reverse=True)


# -- the command ------------------------------------------------------------------------------


def coldstart(
    views: Annotated[int, typer.Option(min=1_000, help="slates shown in the shop")] = 20_000,
    per_item: Annotated[int, typer.Option(min=1, help="views from new item to new item")] = 40,
    browsing: Annotated[
        float, typer.Option(min=0, max=1, help="views after which an item is found without us")
    ] = 0.1,
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    share: Annotated[
        list[float] | None, typer.Option(min=0, max=1, help="of slots that explore; repeats")
    ] = None,
    ignored: Annotated[float | None, typer.Option(help="SLUICE_IGNORED_WEIGHT")] = None,
    data: Annotated[
        Path | None, typer.Option(help="the folder of MovieLens 100K, in the place of a shop")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="write the figures to a file")] = None,
) -> None:
    """Print who gets clicks without exploration and with it, and what that costs."""
    rows: dict[float, list[dict[str, float]]] = {}
    changes = {} if ignored is None else {"ignored_weight": ignored}
    settings = EngineSettings(tokens="check", explore_share=0.0)
    for one in share or [0.0, 0.05]:
        rows[one] = []
        for seed in range(1, (seeds if data is None else 1) + 1):
            world: World
            if data is None:
                world, n_steps = NewItems(settings, seed, per_item, browsing), views
            else:
                world, n_steps = Released(settings, data), len(read(data))
            title = f"share {one:g}, seed {seed}"
            rows[one].append(play(world, n_steps, title, explore_share=one, **changes))
    _print(rows)
    if json is not None:
        json.write_bytes(orjson.dumps({str(one): found for one, found in rows.items()}))


def play(world: World, n_steps: int, title: str, **settings: Any) -> dict[str, float]:
    """Play a world, from its middle on under other settings; return the figures of that half."""
    middle = n_steps // 2
    for number in track(range(n_steps), title, console=Console(stderr=True)):
        if number == middle:
            world.change(**settings)
            world.found = Tally()
        world.step()
    return world.found.figures()


def _print(rows: dict[float, list[dict[str, float]]]) -> None:
    table = Table(title="means over the seeds; clicks and regret are per slate")
    table.add_column("share")
    names = list(next(iter(rows.values()))[0])
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    for one, found in rows.items():
        means = (statistics.mean(figures[name] for figures in found) for name in names)
        table.add_row(f"{one:g}", *(f"{mean:.4f}" for mean in means))
    Console(width=120).print(table)


if __name__ == "__main__":
    typer.run(coldstart)
