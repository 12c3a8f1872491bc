"""`sluice freshness`: say whether real time is worth it, on somebody's own data.

Runs the tiers, and pure delays of personal and shared state, side by side over a log of events,
and says how late each may be; what is wrong with the stream comes first.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table as RichTable

from app.errors import Conflict, InvalidRequest, NotFound, SluiceError
from app.events import Feedback, decode
from app.settings import load_settings
from scripts import messy
from scripts.cells import Cell, Lab, Run, grid, shown, tiers
from scripts.datasets import DataSet, of_log
from scripts.formats import Columns
from scripts.rebuild import Moment, opened_past, progress_bar
from scripts.replay import read_stream
from scripts.serve import fail
from scripts.verdicts import (
    DECIDING,
    METRICS,
    RULE,
    SEGMENTS,
    Table,
    Verdict,
    changed,
    decide,
    frontier,
    headline,
    judged_events,
    say,
    tabulate,
)

LEAST_EVENTS = 1_000
_MILLION = 1e6
# Columns of a table, should its figures need them.
_LONGEST = 1_000
_HAS_FORK = hasattr(os, "fork")

console = Console(stderr=True)


@dataclass(frozen=True)
class Terms:
    """What costs are counted in, and what a loss may be."""

    price_per_core_hour: float
    requests_per_event: float
    worth: float


def freshness(
    data: Annotated[
        Path | None, typer.Argument(help="a file, or a folder with one data set or archive")
    ] = None,
    from_log: Annotated[bool, typer.Option("--from-log", help="the service's own log")] = False,
    min_rating: Annotated[
        float | None, typer.Option(help="leave out ratings below this; 4 for MovieLens")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=LEAST_EVENTS, help="stop after so many events")
    ] = None,
    worth: Annotated[
        float, typer.Option(min=0, max=1, help="share of HR@20 that is not worth real time")
    ] = 0.01,
    price_per_core_hour: Annotated[
        float, typer.Option(min=0, help="what an hour of a core costs you")
    ] = 0.05,
    requests_per_event: Annotated[
        float, typer.Option(min=0, help="requests for each event, where costs are added up")
    ] = 1.0,
    folder: Annotated[
        Path, typer.Option(help="keeps what is done, so that an interrupted run goes on")
    ] = Path("freshness"),
    jobs: Annotated[
        int | None, typer.Option(min=1, help="runs at a time; none given: one a core")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="write all figures to a file")] = None,
    html: Annotated[
        Path | None, typer.Option(help="write a report with pictures, one file")
    ] = None,
    pictures: Annotated[Path | None, typer.Option(help="folder for the pictures (SVG)")] = None,
    user: Annotated[str | None, typer.Option(help="column of the user")] = None,
    item: Annotated[str | None, typer.Option(help="column of the item")] = None,
    time_: Annotated[str | None, typer.Option("--time", help="column of the time")] = None,
    type_: Annotated[str | None, typer.Option("--type", help="column of the type")] = None,
    value: Annotated[str | None, typer.Option(help="column of the value")] = None,
) -> None:
    """Say whether real time is worth it: quality and cost of every delay, on your own events."""
    given = {"user": user, "item": item, "time": time_, "type": type_, "value": value}
    named = {name: column for name, column in given.items() if column is not None}
    try:
        if not _HAS_FORK:
            raise InvalidRequest("this needs a system that can fork, such as Linux or macOS")
        settings = load_settings().engine()
        name = "the service's log" if data is None else data.name
        if data is None:
            if not from_log:
                raise InvalidRequest("name a data set; or the service's own log, by --from-log")
            stream = of_log(asyncio.run(_logged()))
        else:
            stream = read_stream(data, Columns(**named) if named else None, min_rating, limit)
        if len(stream) < LEAST_EVENTS:
            raise InvalidRequest(f"{name} has {len(stream)} events: {LEAST_EVENTS:,} are the least")
        lab = Lab(list(stream), stream.digest, settings, folder)
        runs = _run(lab, jobs or os.cpu_count() or 1)
        terms = Terms(price_per_core_hour, requests_per_event, worth)
        report = make_report(stream, lab, runs, terms) | {
            "data": name,
            "mess": messy.examine(stream, settings),
        }
        show(report)
        _write(report, json, html, pictures)
    except SluiceError as error:
        fail(error)
    except OSError as error:
        kept = "what was run is kept: name another place, and run this again"
        fail(Conflict(f"cannot write {error.filename}: {error.strerror}; {kept}"))


async def _logged() -> list[tuple[Feedback, int | None]]:
    """Return the feedback in the service's log, as far as that goes back, and when it arrived."""
    found: list[tuple[Feedback, int | None]] = []
    async with opened_past(Moment(None), load_settings()) as (past, at, bar):
        after = await past.oldest(at)
        if after is None:
            raise NotFound("the log has no beginning that is kept: give an archive of it as DATA")
        async for stored in past.entries(after, at):
            entry = decode(stored.payload)
            found += [(r, entry.arrival_ms) for r in entry.records if isinstance(r, Feedback)]
            bar.advance("reading", stored.cursor)
        bar.finish()
    return found


def _run(lab: Lab, n_jobs: int) -> dict[str, tuple[Cell, Run]]:
    """Run all cells, but for those that are done, and return what came of each."""
    cells = [*grid(), *tiers()]
    n_missing = len(lab.missing(cells))
    if n_missing < len(cells):
        console.print(f"{len(cells) - n_missing} of {len(cells)} runs are done already")
    if n_missing:
        with progress_bar("{task.percentage:>3.0f} %") as progress:
            task = progress.add_task(f"{n_missing} runs", total=None)
            lab.run(
                cells,
                n_jobs,
                lambda done, total: progress.update(task, completed=done, total=total),
            )
    return {cell.name: (cell, lab.load(cell)) for cell in cells}


# -- the report ------------------------------------------------------------------------------------


def make_report(
    stream: DataSet, lab: Lab, found: dict[str, tuple[Cell, Run]], terms: Terms
) -> dict[str, Any]:
    """Return all figures and what follows from them, as plain data."""
    runs = {name: run for name, (_, run) in found.items()}
    cells = [cell for cell, _ in found.values()]
    against = {cell.name: "per_event" if cell.is_tier else "live" for cell in cells}
    judged = judged_events(lab.stream, runs["live"].place)
    table = tabulate(judged, runs, against)
    verdicts = {kind: _verdict(kind, cells, table, terms.worth) for kind in ("personal", "shared")}
    rows = [_row(cell, runs, table, against[cell.name], terms) for cell in cells]
    points = [
        (row["name"], row["cost"]["cpu_s"], row["quality"]["all"][DECIDING]["value"])
        for row in rows
        if row["kind"] == "tier"
    ]
    return {
        "events": len(stream),
        "judged": table.n,
        "users": int(judged.user.max(initial=-1)) + 1,
        "segments": SEGMENTS,
        "rule": RULE.format(worth=terms.worth),
        "terms": vars(terms),
        "headline": headline(verdicts["personal"], verdicts["shared"]),
        "advice": {kind: say(kind, verdict) for kind, verdict in verdicts.items()},
        "verdicts": {
            kind: verdict._asdict() | {"loss": verdict.loss.view()}
            for kind, verdict in verdicts.items()
        },
        "frontier": frontier(points),
        "cells": rows,
    }


def _verdict(kind: str, cells: list[Cell], table: Table, worth: float) -> Verdict:
    losses = [
        (cell.personal if kind == "personal" else cell.shared, cell.name)
        for cell in cells
        if cell.kind == kind
    ]
    return decide(
        [(d, table.loss[name]["all"][DECIDING]) for d, name in losses if d is not None], worth
    )


def _row(
    cell: Cell, runs: dict[str, Run], table: Table, other: str, terms: Terms
) -> dict[str, Any]:
    """Return a cell's figures."""
    run = runs[cell.name]

    def views(figures: Any) -> dict[str, Any]:
        return {
            segment: {metric: estimate.view() for metric, estimate in by_metric.items()}
            for segment, by_metric in figures[cell.name].items()
        }

    return {
        "name": cell.name,
        "kind": cell.kind,
        "personal": cell.personal,
        "shared": cell.shared,
        "against": other,
        "quality": views(table.quality),
        "loss": views(table.loss),
        "list_changed": round(changed(run, runs[other]), 6),
        "decisions": run.facts["decisions"],
        "cost": _cost(run.facts, terms),
    }


def _cost(facts: dict[str, Any], terms: Terms) -> dict[str, float]:
    """Return what a million events, and a million requests, cost: CPU seconds, and money."""
    event_s = facts["events_s"] / max(1, facts["events"])
    request_s = facts["requests_s"] / max(1, facts["requests"])
    cpu_s = _MILLION * (event_s + terms.requests_per_event * request_s)
    return {
        "cpu_s_per_million_events": _MILLION * event_s,
        "cpu_s_per_million_requests": _MILLION * request_s,
        "cpu_s": cpu_s,
        "money": cpu_s / 3_600 * terms.price_per_core_hour,
        "state_bytes": facts["state_bytes"],
    }


# -- the terminal ----------------------------------------------------------------------------------


def show(report: dict[str, Any]) -> None:
    """Print the report."""
    out = Console()
    out.print(f"\n[bold]{escape(report['data'])}[/]: {report['events']:,} events, how messy?")
    for remark in messy.remarks(report["mess"]):
        out.print(f"  {remark}", highlight=False, markup=False)
    for table in (_quality_table(report), _segment_table(report), _cost_table(report)):
        _print_whole(out, table)
    out.print(f"[bold]{report['headline']}[/]")
    for advice in report["advice"].values():
        out.print(f"  {advice}", highlight=False)
    out.print(f"Rule: {report['rule']}", style="dim", highlight=False)


def _print_whole(out: Console, table: RichTable) -> None:
    """Print a table; where figures need more columns than there are, the lines are longer."""
    width, most = out.width, out.options.update(max_width=_LONGEST)
    out.width = max(width, Measurement.get(out, most, table).maximum)
    out.print(table)
    out.width = width


def _quality_table(report: dict[str, Any]) -> RichTable:
    lost, changed = "HR@20\nlost", "list\nchanged"
    names = ("late", "HR@10", "HR@20", "DCG@20", "reward", lost, "95 %", changed)
    table = _table(f"pure delays, {report['judged']['all']:,} judged events", names)
    for row in report["cells"]:
        if row["kind"] != "tier":
            figures = [f"{row['quality']['all'][metric]['value']:.4f}" for metric in METRICS]
            changed = f"{row['list_changed']:.1%}"
            table.add_row(row["name"], *figures, *_loss(row, "all"), changed)
    return table


def _table(title: str, names: Iterable[str]) -> RichTable:
    """Return a table that a terminal of 80 columns has room for: the first column is text."""
    table = RichTable(
        title=title, box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0)
    )
    for number, name in enumerate(names):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    return table


def _loss(row: dict[str, Any], segment: str) -> tuple[str, str]:
    loss = row["loss"][segment][DECIDING]
    value, low, high = (100 * loss[name] for name in ("value", "low", "high"))
    return f"{value:.2f}%", f"{low:.2f} to {high:.2f}"


def loss_text(row: dict[str, Any], segment: str) -> str:
    """Return a loss with its interval, for people."""
    value, interval = _loss(row, segment)
    return f"{value.removesuffix('%')} % ({interval})"


def _segment_table(report: dict[str, Any]) -> RichTable:
    judged = report["judged"]
    heads = [f"{name.replace(' ', chr(10))}\n{judged[name]:,}" for name in report["segments"]]
    table = _table("HR@20 by segment", ("late", *heads))
    for row in report["cells"]:
        by_segment = [row["quality"][s][DECIDING]["value"] for s in report["segments"]]
        table.add_row(row["name"], *(f"{value:.4f}" for value in by_segment))
    return table


def _cost_table(report: dict[str, Any]) -> RichTable:
    terms = report["terms"]
    price, per = terms["price_per_core_hour"], terms["requests_per_event"]
    title = (
        "the tiers, with the gate; * is on the frontier\n"
        f"CPU s a million; money at {price:g} an hour, {per:g} requests an event"
    )
    changed, mib = "list\nchanged", "state,\nMB"
    names = (
        "tier",
        "HR@20",
        "HR@20\nlost",
        changed,
        "events\nCPU s",
        "requests\nCPU s",
        "money",
        mib,
    )
    table = _table(title, names)
    for row in report["cells"]:
        if row["kind"] == "tier":
            cost = row["cost"]
            table.add_row(
                row["name"] + (" *" if row["name"] in report["frontier"] else ""),
                f"{row['quality']['all'][DECIDING]['value']:.4f}",
                _loss(row, "all")[0],
                f"{row['list_changed']:.1%}",
                f"{cost['cpu_s_per_million_events']:,.0f}",
                f"{cost['cpu_s_per_million_requests']:,.0f}",
                f"{cost['money']:.4f}",
                f"{cost['state_bytes'] / 2**20:,.1f}",
            )
    return table


def _write(
    report: dict[str, Any], json: Path | None, html: Path | None, pictures: Path | None
) -> None:
    if json is not None:
        json.write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2))
    if html is not None or pictures is not None:
        _draw(report, html, pictures)


def _draw(report: dict[str, Any], html: Path | None, pictures: Path | None) -> None:
    from scripts.freshness_pictures import draw, page  # matplotlib takes a second to load

    drawn = draw(report)
    if pictures is not None:
        pictures.mkdir(parents=True, exist_ok=True)
        for name, svg in drawn.items():
            (pictures / f"{name}.svg").write_text(svg)
    if html is not None:
        html.write_text(page(report, drawn))


def delays_of(report: dict[str, Any], kind: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the cells of one kind of delay, live first, each with the delay for people."""
    rows = [row for row in report["cells"] if row["kind"] in ("live", kind)]
    return [(shown(row["shared" if kind == "shared" else "personal"]), row) for row in rows]
