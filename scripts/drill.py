"""`sluice drill`: make everything go wrong that the gate is for, and show what it does about it.

Each fault begins in a shop (or a data set) that has been running for a while, lasts, and ends. The
same is played without a guard, from the same moment on, and without the fault.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from app.errors import InvalidRequest, SluiceError
from app.settings import EngineSettings, Settings, load_settings
from scripts.datasets import read
from scripts.exact import EXACT, ExactResult
from scripts.faults import FAULTS, Fault
from scripts.outputs import check_outputs
from scripts.play import BIN, Play, ShopPlay, StreamPlay
from scripts.serve import fail
from scripts.shop import shop_with

# Of all steps: before the fault, during it; the rest is after it.
_BEFORE, _DURING = 0.5, 0.25
# What counts as "after recovery": the last part of what follows the fault.
_RECOVERED = 0.5
# Fork copies the played-in engine for nothing; where there is none, there is no drill.
_HAS_FORK = hasattr(os, "fork")

console = Console(stderr=True)


@dataclass(frozen=True)
class Job:
    """One run from where the world has been played in: a fault, guarded or not."""

    fault: Fault
    is_guarded: bool


@dataclass(frozen=True)
class Plan:
    """How long each part lasts, in steps."""

    before: int
    during: int
    after: int


def drill(
    fault: Annotated[
        list[str] | None, typer.Option(help="play this one alone; may be given several times")
    ] = None,
    events: Annotated[
        int,
        typer.Option(min=4_000, help="views of a slate: half before the fault, a quarter in it"),
    ] = 40_000,
    before: Annotated[
        int | None,
        typer.Option(min=2_000, help="views before the fault; none given: half of --events"),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=1_000, help="shops to play each fault in")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="the first of them")] = 1,
    beta: Annotated[
        float, typer.Option(min=0, max=1, help="share of clicks on the first place, come what may")
    ] = 0.0,
    trusted: Annotated[
        float, typer.Option(min=0, max=1, help="share of users whom no fault touches")
    ] = 0.05,
    data: Annotated[
        Path | None, typer.Option(help="play the faults into this data set instead of a shop")
    ] = None,
    min_rating: Annotated[float | None, typer.Option(help="with --data: as for replay")] = None,
    pictures: Annotated[
        Path | None, typer.Option(help="folder for a picture of each fault (SVG)")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="write all figures to a file")] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="runs at a time; none given: one a core")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="name the faults, and stop")] = False,
) -> None:
    """Play faults into the real engine and print what caught each, after how long, at what cost."""
    if list_:
        _list()
        return
    try:
        if not _HAS_FORK:
            raise InvalidRequest("the drill needs a system that can fork, such as Linux or macOS")
        if before is not None and data is not None:
            raise InvalidRequest("--before is for the shop: a data set begins where it begins")
        settings = _settings(load_settings(), is_shop=data is None)
        stream = None if data is None else list(read(data, min_rating=min_rating))
        if stream is not None and len(stream) < 4_000:
            raise InvalidRequest(f"{data} holds {len(stream)} events: 4,000 are the least")
        chosen = _chosen(fault, is_shop=stream is None)
        n_steps = events if stream is None else len(stream)
        check_outputs(json, pictures)
    except SluiceError as error:
        fail(error)
    parts = [round(n_steps * share) for share in (_BEFORE, _DURING, 1 - _BEFORE - _DURING)]
    plan = Plan(before or parts[0], *parts[1:])
    options = {"beta": beta, "trusted": trusted}
    found: list[dict[str, Any]] = []
    exact: list[ExactResult] = []
    n_jobs = jobs or os.cpu_count() or 1
    begin = time.perf_counter()
    with _progress() as progress:
        for number in range(seed, seed + (seeds if stream is None else 1)):

            def make(number: int = number) -> Play:
                if stream is not None:
                    return StreamPlay(settings, stream, number)
                return ShopPlay(settings, shop_with(number, **options), number)

            results, checks = _play_seed(make, chosen, plan, number, n_jobs, progress)
            found += results
            exact += checks
    rows = summarise(found, chosen)
    report = {
        "steps": sum(vars(plan).values()),
        "plan": vars(plan),
        "world": options if stream is None else {"data": str(data)},
        "seconds": time.perf_counter() - begin,
        "exact": [result._asdict() for result in exact],
        "faults": rows,
        "runs": found,
    }
    show(report, is_shop=stream is None)
    if json is not None:
        json.write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2))
    if pictures is not None:
        _draw(pictures, found, chosen, plan, is_shop=stream is None)


def _list() -> None:
    table = Table("fault", "what goes wrong", title="faults of the drill")
    for check in EXACT:
        table.add_row(check.name, check.says)
    table.add_section()
    for one in FAULTS:
        table.add_row(one.name, one.says + (" (shop only)" if one.needs_shop else ""))
    Console().print(table)


def _settings(given: Settings, *, is_shop: bool) -> EngineSettings:
    """Return the engine's settings as they are set, but for what the drill needs.

    In the shop tokens are on, and whose clicks may decide in HOLD is marked: theirs are few slates,
    so a fifth of them is drafted.
    """
    needed: dict[str, Any] = {"gate": "on"}
    if is_shop:
        needed |= {"tokens": "check", "trusted": "marked", "arbiter_share": 0.2}
    settings = EngineSettings(**(given.engine().model_dump() | needed))
    if settings.rewards.get("click", 0.0) <= 0:
        raise InvalidRequest(
            "the drill clicks: rewards (SLUICE_REWARDS) must have a positive click"
        )
    return settings


def _chosen(names: list[str] | None, *, is_shop: bool) -> list[Fault]:
    known = {fault.name: fault for fault in FAULTS}
    if names:
        unknown = sorted(set(names) - set(known))
        if unknown:
            shown = ", ".join(unknown)
            raise InvalidRequest(f"there is no fault {shown}; `sluice drill --list` names them")
        if not is_shop and any(known[name].needs_shop for name in names):
            raise InvalidRequest(
                "a data set does not say what was not clicked: play that without --data"
            )
        chosen = [fault for fault in FAULTS if fault.name in {"clean", *names}]
    else:
        chosen = [fault for fault in FAULTS if is_shop or not fault.needs_shop]
    return chosen


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )


# -- playing ----------------------------------------------------------------------------------


class _Stage:
    """What a forked run finds: the world that was played in, and where it says how far it is."""

    world: Play
    plan: Plan
    work: list[Job]
    steps: Any


def _play_seed(
    make: Callable[[], Play],
    chosen: list[Fault],
    plan: Plan,
    seed: int,
    n_jobs: int,
    progress: Progress,
) -> tuple[list[dict[str, Any]], list[ExactResult]]:
    """Play one world in, then let every job go on from there in a process of its own."""
    context = multiprocessing.get_context("fork")
    _Stage.world, _Stage.plan, _Stage.steps = make(), plan, context.Value("q", 0)
    task = progress.add_task(f"seed {seed}: before any fault", total=plan.before)
    for _ in _Stage.world.run(plan.before):
        progress.advance(task)
    _Stage.work = [Job(fault, is_guarded) for fault in chosen for is_guarded in (True, False)]
    task = progress.add_task(
        f"seed {seed}: {len(chosen)} faults", total=len(_Stage.work) * (plan.during + plan.after)
    )
    with context.Pool(n_jobs, _leave_interrupts, maxtasksperchild=1) as pool:
        checks = pool.map_async(_check, range(len(EXACT)), chunksize=1)
        results = pool.map_async(_play, range(len(_Stage.work)), chunksize=1)
        while not (results.ready() and checks.ready()):
            time.sleep(0.2)
            progress.update(task, completed=_Stage.steps.value)
        return [run | {"seed": seed} for run in results.get()], checks.get()


def _leave_interrupts() -> None:
    """Leave Ctrl-C to who waits for this process, and ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _check(index: int) -> ExactResult:
    return EXACT[index].run(_Stage.world.engine, _Stage.world.now_ms)


def _play(number: int) -> dict[str, Any]:
    """Play one job to its end; runs in a forked process, which no other job uses."""
    world, plan, job = _Stage.world, _Stage.plan, _Stage.work[number]
    world.begin(job.fault, **({} if job.is_guarded else {"gate": "off"}))
    _go_on(world, plan.during)
    during = world.quality(plan.during)
    world.end()
    exposure = world.exposure() if job.fault.push else None
    _go_on(world, plan.after)
    return world.report() | {
        "fault": job.fault.name,
        "is_guarded": job.is_guarded,
        "quality_during": during,
        "quality_after": world.quality(round(plan.after * _RECOVERED)),
        "exposure": exposure,
        "state": world.engine.gate.data.state,
        "events": world.engine.n_events - world.tally.began_at,
    }


def _go_on(world: Play, n_steps: int) -> None:
    for number, _ in enumerate(world.run(n_steps), start=1):
        if number % BIN == 0:
            with _Stage.steps.get_lock():
                _Stage.steps.value += BIN


# -- what came of it ----------------------------------------------------------------------------


def summarise(runs: list[dict[str, Any]], chosen: Iterable[Fault]) -> list[dict[str, Any]]:
    """Return one row for each fault: medians over the seeds."""
    rows = []
    for fault in chosen:
        mine = [run for run in runs if run["fault"] == fault.name]
        guarded = [run for run in mine if run["is_guarded"]]
        bare = [run for run in mine if not run["is_guarded"]]
        clean = [run for run in runs if run["fault"] == "clean" and run["is_guarded"]]
        caught = [_first(run, "alarm", "promotion_refused", "ask") for run in guarded]
        acted = [_first(run, "rollback", "hold", "shadow_reset") for run in guarded]
        rows.append(
            {
                "fault": fault.name,
                "says": fault.says,
                "asked": fault.asked,
                "seeds": len(guarded),
                "caught_by": _names(caught),
                "caught": sum(alarm is not None for alarm in caught),
                "caught_after": _median(alarm["after"] for alarm in caught if alarm),
                "acted_after": _median(alarm["after"] for alarm in acted if alarm),
                "bad": _median(run["n_bad"] for run in guarded),
                "bad_learned": _median(run["n_bad_learned"] for run in guarded),
                "bad_served": _median(run["n_bad_served"] for run in guarded),
                "bad_served_unguarded": _median(run["n_bad_served"] for run in bare),
                "exposure": _median(r["exposure"] for r in guarded if r["exposure"] is not None),
                "exposure_unguarded": _median(
                    r["exposure"] for r in bare if r["exposure"] is not None
                ),
                "clean_during": _median(run["quality_during"] for run in clean),
                "unguarded_during": _median(run["quality_during"] for run in bare),
                "guarded_during": _median(run["quality_during"] for run in guarded),
                "clean_after": _median(run["quality_after"] for run in clean),
                "unguarded_after": _median(run["quality_after"] for run in bare),
                "guarded_after": _median(run["quality_after"] for run in guarded),
                "kinds": _kinds(guarded),
            }
        )
    return rows


def _first(run: dict[str, Any], *kinds: str) -> dict[str, Any] | None:
    return next((alarm for alarm in run["alarms"] if alarm["kind"] in kinds), None)


def _names(alarms: list[dict[str, Any] | None]) -> list[str]:
    return sorted({alarm.get("detector", "overlap") for alarm in alarms if alarm is not None})


def _median(values: Iterable[float]) -> float | None:
    found = list(values)
    return statistics.median(found) if found else None


def _kinds(runs: list[dict[str, Any]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for run in runs:
        for kind, n in run["kinds"].items():
            total[kind] = total.get(kind, 0) + n
    return total


def show(report: dict[str, Any], *, is_shop: bool) -> None:
    """Print the tables."""
    out = Console()
    checks = Table(title="exact faults: the model must not move by a byte")
    for name in ("fault", "what goes wrong", "must", "seen"):
        checks.add_column(name)
    for result in report["exact"]:
        style = None if result["is_passed"] else "red"
        checks.add_row(result["name"], result["says"], result["must"], result["seen"], style=style)
    out.print(checks)
    what = "clicks of the best slate" if is_shop else "HR@20"
    caught = _table("statistical faults", ("fault", "asked", "caught by"), _COUNTS)
    quality = _table(f"quality: {what}", ("fault",), ("clean", "bare", "guarded") * 2)
    for row in report["faults"]:
        cells = _cells(row)
        caught.add_row(*cells[: 3 + len(_COUNTS)])
        quality.add_row(cells[0], *cells[3 + len(_COUNTS) :])
    out.print(caught)
    out.print(
        "after, acted: events from the fault's start until the first alarm, and until something was"
        " undone. bad, learned, served: corrupt events that came, that taught, that reached what is"
        " served; bare: that would have, without a guard.",
        style="dim",
    )
    out.print(quality)
    out.print("The first three are during the fault, the last three after it.", style="dim")


_COUNTS = ("after", "acted", "bad", "learned", "served", "bare")


def _table(title: str, texts: Iterable[str], numbers: Iterable[str]) -> Table:
    table = Table(title=title)
    for name in texts:
        table.add_column(name)
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def _cells(row: dict[str, Any]) -> list[str]:
    caught = ", ".join(row["caught_by"]) or "-"
    if 0 < row["caught"] < row["seeds"]:
        caught += f" ({row['caught']} of {row['seeds']})"
    if row["exposure"] is not None:
        caught += f"; target in {row['exposure']:.0%} (unguarded {row['exposure_unguarded']:.0%})"
    names = ("caught_after", "acted_after", "bad", "bad_learned", "bad_served")
    counts = [row[name] for name in (*names, "bad_served_unguarded")]
    return [
        row["fault"],
        row["asked"],
        caught,
        *("-" if n is None else f"{n:,.0f}" for n in counts),
        *(
            "-" if row[name] is None else f"{row[name]:.3f}"
            for name in (
                *("clean_during", "unguarded_during", "guarded_during"),
                *("clean_after", "unguarded_after", "guarded_after"),
            )
        ),
    ]


def _draw(
    folder: Path, runs: list[dict[str, Any]], chosen: list[Fault], plan: Plan, *, is_shop: bool
) -> None:
    from scripts.pictures import draw  # matplotlib takes a second to load

    folder.mkdir(parents=True, exist_ok=True)
    clean = next(r for r in runs if r["fault"] == "clean" and r["is_guarded"])
    for fault in chosen:
        mine = [r for r in runs if r["fault"] == fault.name and r["seed"] == clean["seed"]]
        draw(folder / f"{fault.name}.svg", fault, clean, mine, plan.during, is_shop=is_shop)
    console.print(f"pictures: {folder}/", highlight=False)
