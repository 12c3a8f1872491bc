"""`python -m scripts.variety ml-100k`: what it costs to cap each category (genre) in every slate.

Before every tenth event is learned, its user is asked for, without a rule and with the cap; a hit
is when what the user then had is among what is shown. Both go through the engine that serves.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from app.engine import Engine
from app.errors import InvalidRequest
from app.events import Configure, Entry, Feedback, ItemUpsert
from app.recommend import Request
from app.rulebook import Rulebook
from app.rules import read_rules
from app.settings import SEMANTICS, EngineSettings
from scripts.datasets import read
from scripts.rebuild import progress_bar

CAP = "cap"


def variety(
    folder: Annotated[Path, typer.Argument(help="MovieLens 100K: u.data, u.item, u.genre")],
    most: Annotated[list[int], typer.Option(help="the cap; repeats")] = [3],  # noqa: B006
    k: Annotated[int, typer.Option(min=1, max=200, help="length of the slates")] = 20,
    every: Annotated[int, typer.Option(min=1, help="ask before every so manieth event")] = 10,
    limit: Annotated[int | None, typer.Option(min=1, help="stop after so many events")] = None,
) -> None:
    """Print the hit rate of slates without and with a cap per genre, and how varied they are."""
    stream = read(folder, min_rating=4, limit=limit)
    engine = new_engine(genres(folder))
    books = [None, *(capped(engine, cap) for cap in most)]
    begin = time.perf_counter()
    with progress_bar("{task.completed}/{task.total}") as progress:
        task = progress.add_task("asking and learning", total=len(stream))
        totals = [Total() for _ in books]
        for number, event in enumerate(stream, start=1):
            if number % every == 0:
                ask(engine, event, books, totals, k)
            engine.apply(Entry([event]), f"2-{number}")
            progress.advance(task)
    n, seconds = totals[0].n, time.perf_counter() - begin
    typer.echo(f"{n:,} events of {len(stream):,} judged, in {seconds:.0f} s; slates of {k}")
    for cap, total in zip(["no cap", *(f"cap of {cap}" for cap in most)], totals, strict=True):
        typer.echo(
            f"{cap:10} HR@{k} {total.hits / n:.4f}  genres in a slate {total.n_genres / n:.1f},"
            f" most of one {total.n_most / n:.1f}, items {total.n_items / n:.2f}"
        )


class Total:
    """What was seen of many slates."""

    def __init__(self) -> None:
        self.n = self.hits = self.n_items = self.n_genres = self.n_most = 0


def genres(folder: Path) -> dict[str, list[str]]:
    """Return the genres of each film; raise InvalidRequest where the files are not there."""
    try:
        names = (folder / "u.genre").read_text("latin-1").split()
        lines = (folder / "u.item").read_text("latin-1").splitlines()
    except OSError as error:
        raise InvalidRequest(f"{folder} is no folder with MovieLens 100K: {error}") from None
    kinds = [name.partition("|")[0] for name in names]
    found = {}
    for line in lines:
        film, *_, flags = line.split("|", 5)
        carried = flags.split("|")[-len(kinds) :]
        found[film] = [kind for kind, flag in zip(kinds, carried) if flag == "1"]
    return found


def new_engine(categories: dict[str, list[str]]) -> Engine:
    """Return an engine whose items have these categories."""
    settings = EngineSettings()
    engine = Engine(settings)
    engine.apply(Entry([Configure(SEMANTICS, settings.model_dump())]), "0-1")
    upserts: list[ItemUpsert] = [ItemUpsert(item, names) for item, names in categories.items()]
    engine.apply(Entry([*upserts]), "1-1")
    return engine


def capped(engine: Engine, most: int) -> Rulebook:
    """Return the rule that lets in so many of each category."""
    rule = {"name": CAP, "kind": "cap", "per": "categories", "most": most}
    return engine.make_rulebook(read_rules({"rules": [rule]}))


def ask(
    engine: Engine,
    event: Feedback,
    books: Sequence[Rulebook | None],
    totals: Sequence[Total],
    k: int,
) -> None:
    """Ask for the slates that an event's user would be shown, unless the item is known as had."""
    history = engine.history
    user, item = history.users.get(event.user_id), history.items.get(event.item_id)
    if item < 0 or (user >= 0 and history.has_had(user, item)):
        return
    for book, total in zip(books, totals, strict=True):
        slate = engine.slate_under(book, Request(event.user_id, k))
        shown = [scored.item_id for scored in slate]
        counts = list(_counts(engine, shown).values())
        total.n += 1
        total.hits += event.item_id in shown
        total.n_items += len(shown)
        total.n_genres += len(counts)
        total.n_most += max(counts, default=0)


def _counts(engine: Engine, shown: Sequence[str]) -> dict[str, int]:
    items, of = engine.history.items, engine.history.categories.of
    return Counter(name for item_id in shown for name in of(items.get(item_id)))


if __name__ == "__main__":
    typer.run(variety)
