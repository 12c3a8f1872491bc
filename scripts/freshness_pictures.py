"""Pictures of `sluice freshness`, and its report as one page that asks no other host."""

from __future__ import annotations

import io
from html import escape
from typing import Any

import matplotlib as mpl

mpl.use("svg")

from matplotlib import pyplot as plt

from scripts.freshness import delays_of, loss_text
from scripts.messy import remarks
from scripts.verdicts import DECIDING, METRICS

_SIZE = (8, 3.8)
_COLOURS = {"shared": "#197278", "personal": "#c44536", "both": "#772f1a"}
_SAYS = {
    "shared": "shared state late, personal live",
    "personal": "personal state late, shared live",
    "both": "both late",
}
_NAMES = dict(zip(METRICS, ("HR@10", "HR@20", "DCG@20", "reward"), strict=True))


def draw(report: dict[str, Any]) -> dict[str, str]:
    """Return the pictures by name, as SVG."""
    return {
        "quality": _quality(report),
        "segments": _segments(report),
        "cost": _cost(report),
        "lists": _lists(report),
    }


def _drawn(figure: Any) -> str:
    text = io.StringIO()
    # Text stays text, to be searched and read aloud; the same report draws the same bytes.
    with mpl.rc_context({"svg.hashsalt": "sluice", "svg.fonttype": "none"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    plt.close(figure)
    svg = text.getvalue()
    return svg[svg.index("<svg") :]


def _tidy(axes: Any, title: str) -> None:
    axes.set_title(title, loc="left")
    axes.spines[["top", "right"]].set_visible(False)


def _quality(report: dict[str, Any]) -> str:
    """Draw quality against delay, with intervals, for each kind of state."""
    figure, axes = plt.subplots(figsize=_SIZE, layout="constrained")
    for kind, colour in _COLOURS.items():
        rows = delays_of(report, kind)
        found = [row["quality"]["all"][DECIDING] for _, row in rows]
        places = list(range(len(rows)))
        axes.plot(places, [f["value"] for f in found], "o-", color=colour, label=_SAYS[kind])
        low, high = ([f[end] for f in found] for end in ("low", "high"))
        axes.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.set_xticks(places, [delay for delay, _ in rows])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("late by")
    axes.set_ylabel("HR@20")
    axes.legend(frameon=False)
    _tidy(axes, "quality against delay (shaded: 95 %)")
    return _drawn(figure)


def _segments(report: dict[str, Any]) -> str:
    """Draw what each segment loses, by delay."""
    figure, both = plt.subplots(1, 2, figsize=(8, 4.2), layout="constrained", sharey=True)
    names = [name for name in report["segments"] if report["judged"][name]]
    for axes, kind in zip(both, ("personal", "shared"), strict=True):
        rows = delays_of(report, kind)
        for segment in names:
            lost = [100 * row["loss"][segment][DECIDING]["value"] for _, row in rows]
            width = 2.5 if segment == "all" else 1.2
            axes.plot(range(len(rows)), lost, "o-", markersize=3, linewidth=width, label=segment)
        axes.set_xticks(range(len(rows)), [delay for delay, _ in rows], rotation=45)
        axes.axhline(100 * report["terms"]["worth"], color="#888888", linestyle=":")
        _tidy(axes, f"{kind} state late")
    both[0].set_ylabel("HR@20 lost, %")
    both[1].legend(frameon=False, fontsize="small")
    return _drawn(figure)


def _cost(report: dict[str, Any]) -> str:
    """Draw cost against quality of the tiers, with the frontier."""
    figure, axes = plt.subplots(figsize=_SIZE, layout="constrained")
    rows = [row for row in report["cells"] if row["kind"] == "tier"]
    at = {
        row["name"]: (row["cost"]["money"], row["quality"]["all"][DECIDING]["value"])
        for row in rows
    }
    edge = sorted(at[name] for name in report["frontier"])
    axes.step([x for x, _ in edge], [y for _, y in edge], where="post", color="#197278", alpha=0.6)
    for name, (x, y) in at.items():
        axes.plot(x, y, "o", color="#197278" if name in report["frontier"] else "#888888")
        axes.annotate(name, (x, y), xytext=(5, 4), textcoords="offset points", fontsize="small")
    axes.set_ylim(bottom=0)
    axes.margins(x=0.15)
    axes.set_xlabel("money for a million events and their requests")
    axes.set_ylabel("HR@20")
    _tidy(axes, "cost against quality of the tiers, and the frontier")
    return _drawn(figure)


def _lists(report: dict[str, Any]) -> str:
    """Draw how much of a list is not what live would show."""
    figure, axes = plt.subplots(figsize=_SIZE, layout="constrained")
    for kind, colour in _COLOURS.items():
        rows = delays_of(report, kind)
        shares = [100 * row["list_changed"] for _, row in rows]
        axes.plot(range(len(rows)), shares, "o-", color=colour, label=_SAYS[kind])
        axes.set_xticks(range(len(rows)), [delay for delay, _ in rows])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("late by")
    axes.set_ylabel("of the first ten, %")
    axes.legend(frameon=False)
    _tidy(axes, "how much of a list is not what live would show")
    return _drawn(figure)


# -- the page --------------------------------------------------------------------------------------

_STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid #8884 }
th:first-child, td:first-child { text-align: left }
svg { width: 100%; height: auto; background: #fff; border-radius: 4px }
.advice { font-size: 1.2rem } .dim { opacity: .7 }
"""
_ALTS = {
    "quality": "HR@20 against the delay of personal, shared and both kinds of state",
    "segments": "HR@20 lost by delay, for new and known users, new and old items",
    "cost": "cost of the tiers against their HR@20, with the frontier",
    "lists": "share of a list that is not what live would show, by delay",
}


def page(report: dict[str, Any], pictures: dict[str, str]) -> str:
    """Return the report as HTML, with its style and pictures in it."""
    title = f"Do you need real time? {report['data']}"
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><main>",
        f"<h1>{escape(title)}</h1>",
        f'<p class="advice"><strong>{escape(report["headline"])}</strong></p>',
        _list(report["advice"].values()),
        f'<p class="dim">Rule: {escape(report["rule"])}</p>',
        f"<h2>The stream: {report['events']:,} events</h2>",
        _list(remarks(report["mess"])),
        "<h2>Pure delays</h2>",
        _figure("quality", pictures),
        _table(("late", *_NAMES.values(), "loss of HR@20 (95 %)", "list changed"), _delays(report)),
        "<h2>By segment</h2>",
        _figure("segments", pictures),
        _list(
            f"{name}: {says} ({report['judged'][name]:,})" for name, says in _segments_of(report)
        ),
        _table(("late", *report["segments"]), _by_segment(report)),
        "<h2>The tiers, with the gate</h2>",
        _figure("cost", pictures),
        _table(_COST_HEAD, _costs(report)),
        "<h2>How much of each list changes</h2>",
        _figure("lists", pictures),
        "</main></body></html>",
    ]
    return "\n".join(parts)


def _segments_of(report: dict[str, Any]) -> list[tuple[str, str]]:
    return list(report["segments"].items())


def _list(lines: Any) -> str:
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _figure(name: str, pictures: dict[str, str]) -> str:
    svg = pictures[name].replace("<svg", f'<svg role="img" aria-label="{_ALTS[name]}"', 1)
    return f"<figure>{svg}</figure>"


def _table(head: Any, rows: list[list[str]]) -> str:
    cells = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>"


def _delays(report: dict[str, Any]) -> list[list[str]]:
    return [
        [
            row["name"],
            *(f"{row['quality']['all'][metric]['value']:.4f}" for metric in METRICS),
            loss_text(row, "all"),
            f"{row['list_changed']:.1%}",
        ]
        for row in report["cells"]
        if row["kind"] != "tier"
    ]


def _by_segment(report: dict[str, Any]) -> list[list[str]]:
    return [
        [row["name"]] + [f"{row['quality'][s][DECIDING]['value']:.4f}" for s in report["segments"]]
        for row in report["cells"]
    ]


_COST_HEAD = (
    *("tier", "HR@20", "loss (95 %)", "list changed", "CPU s a million events"),
    *("CPU s a million requests", "money", "state, MB", "on the frontier"),
)


def _costs(report: dict[str, Any]) -> list[list[str]]:
    return [
        [
            row["name"],
            f"{row['quality']['all'][DECIDING]['value']:.4f}",
            loss_text(row, "all"),
            f"{row['list_changed']:.1%}",
            f"{row['cost']['cpu_s_per_million_events']:,.0f}",
            f"{row['cost']['cpu_s_per_million_requests']:,.0f}",
            f"{row['cost']['money']:.4f}",
            f"{row['cost']['state_bytes'] / 2**20:,.1f}",
            "yes" if row["name"] in report["frontier"] else "",
        ]
        for row in report["cells"]
        if row["kind"] == "tier"
    ]
