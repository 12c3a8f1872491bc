"""The guard against getting slower: ratios of each release, and whether a run keeps to the last.

A machine may be twice as fast as another, or busy: what is kept is what something costs beside
something else in the same run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

FILE = Path(__file__).parents[1] / "docs" / "benchmarks.json"
LEARN_FLOOR = "learn: River BiasedMF learn_one"
# The same run twice differs by a tenth on a quiet machine, and by a fifth on a busy one.
TOLERANCE = 1.35

Ratios = dict[str, float]


def of(rows: dict[str, float], parts: dict[str, float]) -> Ratios:
    """Return what Sluice's rows cost beside the floor of their kind."""
    empty = next(us for name, us in rows.items() if "empty" in name)
    found = {name: us / empty for name, us in rows.items() if name.startswith("Sluice")}
    if LEARN_FLOOR in parts:
        ours = {name: us for name, us in parts.items() if "Sluice" in name}
        found |= {name: us / parts[LEARN_FLOOR] for name, us in ours.items()}
    return {name: round(ratio, 3) for name, ratio in found.items()}


def releases() -> list[dict[str, Any]]:
    """Return what was recorded, the oldest release first."""
    found: list[dict[str, Any]] = orjson.loads(FILE.read_bytes())["releases"]
    return found


def record(release: str, found: Ratios, machine: dict[str, Any]) -> None:
    """Write the ratios of a release into the file, in the place of what it had."""
    kept = [one for one in releases() if one["release"] != release]
    kept.append({"release": release, "machine": machine, "ratios": found})
    FILE.write_bytes(orjson.dumps({"releases": kept}, option=orjson.OPT_INDENT_2) + b"\n")


def worse(before: Ratios, found: Ratios, tolerance: float = TOLERANCE) -> list[str]:
    """Return the names of what costs more than it did, by more than chance may do."""
    return [n for n, ratio in found.items() if n in before and ratio > before[n] * tolerance]


def compare(found: Ratios) -> bool:
    """Print ratios beside those of the last release; tell whether none is worse."""
    last = releases()[-1]
    slower = worse(last["ratios"], found)
    table = Table(title=f"beside release {last['release']}; worse from x {TOLERANCE} on")
    for name in ("", "then", "now", "x"):
        table.add_column(name, justify="left" if not name else "right")
    for name, ratio in found.items():
        then = last["ratios"].get(name)
        shown = ["", ""] if then is None else [f"{then:.2f}", f"{ratio / then:.2f}"]
        style = "bold red" if name in slower else None
        table.add_row(name, shown[0], f"{ratio:.2f}", shown[1], style=style)
    Console(width=110).print(table)
    return not slower
