"""Pictures of a benchmark's report: latencies, catalogue sizes, connections, events in a POST."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")

from matplotlib import pyplot as plt

_OURS, _FLOOR = "#197278", "#888888"
_SIZE = (7, 3.5)


def draw(folder: Path, report: dict[str, Any]) -> None:
    """Write what a report has figures for, each as an SVG."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures: dict[str, Callable[[Any, dict[str, Any]], None]] = {
        "latency": _latency,
        "catalogue": _catalogue,
    }
    if report["swept"]:
        pictures |= {"connections": _connections, "batches": _batches}
    # The same figures give the same bytes.
    with mpl.rc_context({"svg.hashsalt": "sluice"}):
        for name, picture in pictures.items():
            figure, axes = plt.subplots(figsize=_SIZE, layout="constrained")
            picture(axes, report)
            axes.grid(alpha=0.3)
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
            plt.close(figure)


def _latency(axes: Any, report: dict[str, Any]) -> None:
    for name, row in report["rows"].items():
        if "GET" in name or "empty" in name:
            color = None if "GET" in name else _FLOOR
            axes.plot(range(1, 101), row["percentiles_ms"], label=name, color=color)
    rate = report["per_s"]
    axes.set(xlabel="percentile of the requests", ylabel="ms", yscale="log")
    axes.set_title(f"{rate:g} requests a second, open loop" if rate else "eight connections")
    axes.legend(fontsize=7)


def _catalogue(axes: Any, report: dict[str, Any]) -> None:
    rows = report["rows"]
    floor = next(row["cpu_us"] for name, row in rows.items() if "empty" in name)
    full = re.compile(r"([\d,]+) items, every row full")
    found = {full.search(name): row["cpu_us"] / floor for name, row in rows.items()}
    sizes = {int(size[1].replace(",", "")): ratio for size, ratio in found.items() if size}
    axes.plot(list(sizes), list(sizes.values()), "o-", color=_OURS, label="GET, every row full")
    axes.axhline(1.0, color=_FLOOR, label="an empty route of FastAPI")
    top = 1.1 * max(1.0, *sizes.values())
    axes.set(xscale="log", xlabel="items", ylabel="CPU, times the empty route", ylim=(0, top))
    axes.legend(fontsize=8)


def _connections(axes: Any, report: dict[str, Any]) -> None:
    found = [one for one in report["swept"] if one["by"] == "connections"]
    axes.plot([one["n"] for one in found], [one["per_s"] for one in found], "o-", color=_OURS)
    axes.set(xscale="log", xlabel="connections", ylabel="GETs a second", ylim=(0, None))


def _batches(axes: Any, report: dict[str, Any]) -> None:
    found = [one for one in report["swept"] if one["by"] == "events"]
    axes.plot([one["n"] for one in found], [one["per_s"] for one in found], "o-", color=_OURS)
    axes.set(xscale="log", xlabel="events in a POST", ylabel="events a second", ylim=(0, None))
