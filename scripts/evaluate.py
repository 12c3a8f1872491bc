"""`sluice evaluate`: what another policy would have been clicked, from what was shown and clicked.

Of the service's own log, where slates are logged with the chances of what was explored; or of a
file in the format of the Open Bandit data set. Nothing is served, nothing is changed.
"""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.table import Table

from app.errors import InvalidRequest, SluiceError
from app.settings import load_settings
from scripts.off_policy import LEVEL, Evaluation, Logged
from scripts.off_policy import evaluate as estimate
from scripts.open_bandit import OpenBanditLog, policy_of, random_policy, read_log
from scripts.outputs import check_outputs
from scripts.rebuild import Moment, opened_past, progress_bar
from scripts.serve import fail
from scripts.slates import POLICIES, Slates, replayed_slates

ESTIMATORS = {
    "ips": "inverse propensity (IPS)",
    "snips": "self-normalised (SNIPS)",
    "dr": "doubly robust (DR)",
}
# What the sentence says is by this one: it errs least where a log says little of a policy.
BEST = "dr"
# A chance below one in so many is an accident: it says nothing, and would drown all the rest.
CLIP = 1_000.0
# Share of what a policy shows that must have had a chance: where it is less, no interval knows how
# wrong the rest is, and there is no verdict.
SUPPORTED = 0.95
# Below these the interval itself is uncertain.
FEW_CLICKS, FEW_ROWS = 30, 100


def evaluate(
    data: Annotated[
        Path | None,
        typer.Argument(help="an Open Bandit log (CSV); with --from-log, a folder with an archive"),
    ] = None,
    policy: Annotated[
        str,
        typer.Option(
            help=f"what to estimate: {', '.join(POLICIES)}; of an Open Bandit log: random, or the"
            " policy of another such log (a file)"
        ),
    ] = "challenger",
    from_log: Annotated[
        bool, typer.Option("--from-log", help="the service's own log, or its archive")
    ] = False,
    settings: Annotated[
        str | None,
        typer.Option(
            metavar="JSON", help='the policy of a service with other settings: {"n_factors": 16}'
        ),
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="CURSOR|TIME", help="with --from-log: as far as then")
    ] = None,
    clip: Annotated[
        float, typer.Option(min=1, help="the most that a click may count, against outliers")
    ] = CLIP,
    json: Annotated[Path | None, typer.Option(help="write the result to a file")] = None,
) -> None:
    """Estimate the clicks per slate of a policy that was not served (IPS, SNIPS, doubly robust).

    Needs slates of which something was left to chance: of Sluice's own, by exploration.
    """
    try:
        check_outputs(json)
        if from_log:
            result = _of_log(Moment(until, archive=data), policy, _changes(settings), clip)
        elif data is None or settings is not None or until is not None:
            raise InvalidRequest(
                "name an Open Bandit log; or the service's own log, with --from-log, to which"
                " --settings and --until belong"
            )
        else:
            result = _of_file(data, policy, clip)
    except SluiceError as error:
        fail(error)
    _show(result)
    if json is not None:
        json.write_bytes(orjson.dumps(result, option=orjson.OPT_INDENT_2))


def _changes(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        changes = orjson.loads(text)
    except ValueError as error:
        raise InvalidRequest(f"--settings is no JSON: {error}") from None
    if not isinstance(changes, dict) or not changes:
        raise InvalidRequest('--settings must be an object, such as {"covisit_shrink": 5}')
    return changes


# -- where the slates come from ---------------------------------------------------------------


def _of_log(
    moment: Moment, policy: str, changes: dict[str, Any] | None, clip: float
) -> dict[str, Any]:
    if policy not in POLICIES:
        raise InvalidRequest(f"there is no policy {policy!r}: it is one of {', '.join(POLICIES)}")
    slates = asyncio.run(_slates(moment, policy, changes))
    is_served = policy == "served" and changes is None
    found = estimate(slates.logged, slates.target, clip, None if is_served else slates.served)
    about = {
        "policy": _named(policy, changes),
        "against": "what was logged" if is_served else _named("served"),
        "clicks_per": "slate",
        "since": slates.since,
        "until": slates.until,
        "unusable": slates.unusable,
    }
    return about | _numbers(found, slates.logged)


def _named(policy: str, changes: dict[str, Any] | None = None) -> str:
    """Return what a policy is called, in a sentence that begins with "served"."""
    if changes is not None:
        return f"with {orjson.dumps(changes).decode()}"
    names = {"served": "as it was, nothing explored", "random": "at random"}
    return names.get(policy, f"the {policy}")


async def _slates(moment: Moment, policy: str, changes: dict[str, Any] | None) -> Slates:
    async with opened_past(moment, load_settings()) as (past, at, shown):
        found = await replayed_slates(past, at, policy, changes, shown.advance)
        shown.finish()
        return found


def _of_file(path: Path, policy: str, clip: float) -> dict[str, Any]:
    table = _read(path)
    target = random_policy(table) if policy == "random" else policy_of(_read(Path(policy)), table)
    about = {
        "policy": _named(policy) if policy == "random" else f"as in {Path(policy).name}",
        "against": "what was logged",
        "clicks_per": "item shown",
    }
    return about | _numbers(estimate(table.logged, target, clip), table.logged)


def _read(path: Path) -> OpenBanditLog:
    if not path.is_file():
        raise InvalidRequest(f"there is no file {path}")
    with progress_bar("{task.percentage:>3.0f} %") as bar:
        task = bar.add_task(f"reading {path.name}", total=path.stat().st_size)
        return read_log(path, lambda n: bar.advance(task, n))


# -- what is said -----------------------------------------------------------------------------


def _numbers(found: Evaluation, logged: Logged) -> dict[str, Any]:
    """Return an evaluation as JSON has it; an interval that nobody knows is null there."""
    counts = {"n_slates": logged.n_slates, "n_users": int(logged.user.max()) + 1}
    numbers = {
        name: {n: e._asdict() for n, e in value.items()} if isinstance(value, dict) else value
        for name, value in vars(found).items()
    }
    for name in ("logged", "support"):
        numbers[name] = getattr(found, name)._asdict()
    result = counts | numbers
    return result | {"level": LEVEL}


def _show(result: dict[str, Any]) -> None:
    table = Table(title=f"clicks per {result['clicks_per']}, {result['n_slates']:,} of them")
    for name in ("estimator", result["policy"], result["against"], "difference"):
        table.add_column(name, justify="left" if name == "estimator" else "right")
    for name, title in ESTIMATORS.items():
        sides = (result[side][name] for side in ("estimates", "against_estimates", "differences"))
        table.add_row(title, *(_shown(**side) for side in sides))
    out = Console()
    out.print(table)
    for line in (_sentence(result), *_caveats(result)):
        out.print(line, highlight=False)


def _shown(value: float, within: float, sign: str = "") -> str:
    """Return an estimate with as many digits as its interval leaves sense in."""
    if not math.isfinite(within) or within <= 0:
        return f"{value:{sign}.4f} ± ?"
    digits = max(2, 1 - math.floor(math.log10(within)))
    return f"{value:{sign}.{digits}f} ± {within:.{digits}f}"


def _sentence(result: dict[str, Any]) -> str:
    """Say in words what was found, by the estimator that errs least."""
    ours, theirs, difference = (
        result[side][BEST] for side in ("estimates", "against_estimates", "differences")
    )
    if not _is_supported(result):
        verdict = "which says little, as much of it could not have been shown"
    elif abs(difference["value"]) <= difference["within"]:
        verdict = "no difference shown"
    else:
        verdict = "more" if difference["value"] > 0 else "fewer"
    return (
        f"Served {result['policy']}, clicks per {result['clicks_per']} would be {_shown(**ours)}"
        f" against {_shown(**theirs)}: {_shown(**difference, sign='+')}, {verdict}"
        f" ({LEVEL:.0%} intervals)."
    )


def _is_supported(result: dict[str, Any]) -> bool:
    """Tell whether the log had a chance to show nearly all that the policy shows."""
    support = result["support"]
    return bool(support["value"] + support["within"] >= SUPPORTED)


def _caveats(result: dict[str, Any]) -> list[str]:
    """Say what the numbers rest on, and what they cannot know."""
    unknown = 1.0 - result["support"]["value"]
    said = [
        "A click is taken to depend on user, item and place, not on the rest of the slate.",
        f"It rests on {result['n_clicks']:,} clicks; the weights are worth"
        f" {result['effective']:,.0f} places that count alike, none counts more than"
        f" {result['clip']:,.0f} (that cut {result['clipped']:.1%} of all weight).",
    ]
    if result["n_clicks"] < FEW_CLICKS or result["effective"] < FEW_ROWS:
        said.append("That is too little to go by: wait for more slates, or explore more.")
    if not _is_supported(result):
        places = [
            str(place)
            for place, share in enumerate(result["support_by_place"], start=1)
            if share < 1.0 - unknown / 2
        ]
        said.append(
            f"Of what it would show, {unknown:.0%} (at places {', '.join(places)}) could not have"
            " been shown: IPS takes that for no clicks, SNIPS for as good as the rest, DR guesses"
            " by how often item and place are clicked."
        )
    said += [
        f"Left out: {n:,} slates, {why}." for why, n in result.get("unusable", {}).items() if n
    ]
    return said


if __name__ == "__main__":
    typer.run(evaluate)
