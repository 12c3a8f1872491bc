"""One picture for each fault of a drill: what is lost over time, and when alarms rang."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")

from matplotlib import pyplot as plt

from scripts.faults import Fault
from scripts.play import BIN

_SIZE = (9, 4)
_LOOKS: dict[str, dict[str, Any]] = {
    "clean": {"color": "#888888", "linestyle": ":"},
    "unguarded": {"color": "#c44536"},
    "guarded": {"color": "#197278", "linewidth": 2.0},
}
_MARKS = {
    "alarm": ("v", "#c44536"),
    "ask": ("o", "#e0a030"),
    "promotion_refused": ("s", "#e0a030"),
    "hold": ("D", "#772f1a"),
    "rollback": ("<", "#772f1a"),
    "adopt": (">", "#197278"),
}


def draw(
    path: Path,
    fault: Fault,
    clean: dict[str, Any],
    runs: list[dict[str, Any]],
    n_during: int,
    *,
    is_shop: bool,
) -> None:
    """Write an SVG: loss over steps, of the clean run and of one seed's guarded and unguarded run.

    The fault lasts for the first `n_during` steps.
    """
    figure, axes = plt.subplots(figsize=_SIZE, layout="constrained")
    if fault.turn is None:
        axes.axvspan(0, n_during, color="#f3e9dc", label="the fault")
    guarded: dict[str, Any] | None = None
    lines = {"clean": clean}
    for run in runs:
        lines["guarded" if run["is_guarded"] else "unguarded"] = run
        guarded = run if run["is_guarded"] else guarded
    for name in ("clean", "unguarded", "guarded"):
        if name in lines and not (fault.name == "clean" and name == "clean"):
            loss = [1.0 - quality for quality in lines[name]["bins"]]
            axes.plot([BIN * (n + 0.5) for n in range(len(loss))], loss, label=name, **_LOOKS[name])
    if guarded is not None:
        _mark(axes, guarded)
    axes.set_xlabel("views of a slate since the fault began" if is_shop else "events since then")
    axes.set_ylabel("clicks lost, of the best slate's" if is_shop else "1 - HR@20")
    axes.set_title(f"{fault.name}: {fault.says}", loc="left")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _mark(axes: Any, run: dict[str, Any]) -> None:
    bottom = axes.get_ylim()[0]
    for kind, (marker, colour) in _MARKS.items():
        steps = [alarm["step"] for alarm in run["alarms"] if alarm["kind"] == kind]
        if steps:
            axes.plot(
                steps,
                [bottom] * len(steps),
                marker,
                color=colour,
                label=kind.replace("_", " "),
                clip_on=False,
            )
