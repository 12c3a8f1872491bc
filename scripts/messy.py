"""How messy a stream is, before anything is learned from it: where pipelines for real time break.

In the order of the file, which a log's is that in which events came. Admission, the service's own,
says what it would have kept out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.admission import Admission
from app.events import Feedback, format_time
from app.id_share import PLACEHOLDERS
from app.settings import EngineSettings
from scripts.datasets import DataSet

# A file in which so many events are older than the one so many places before is in another order
# than they came: by session, or shuffled. (One clock that is ahead does not make it so.)
_SHUFFLED, _PLACES = 0.2, 50
_LATE_S = (1, 10, 60, 600, 3_600, 86_400)
_HOUR_MS = 3_600_000
# Somebody with so many events, half of them within a second of the last one, is no person; nor is
# somebody who does as much in an hour as a person in a week.
_BOT_EVENTS, _BOT_GAP_MS, _BOT_HOURLY = 100, 1_000, 500
_FLOOD = 10.0
_GAP_INTERVALS, _LEAST_GAP_MS = 50.0, _HOUR_MS
_SHOWN = 5

Times = NDArray[np.int64]


def examine(data: DataSet, settings: EngineSettings) -> dict[str, Any]:
    """Return what is wrong with a stream, in numbers and with examples."""
    events = list(data.as_filed())
    times = np.array([event.time_ms or 0 for event in events], np.int64)
    is_shuffled = len(times) > _PLACES and _is_out_of_order(times)
    arriving = sorted(events, key=lambda event: event.time_ms or 0) if is_shuffled else events
    return {
        "events": len(events),
        "bad_lines": data.n_bad,
        "order": _order(times, is_shuffled=is_shuffled),
        "duplicates": _duplicates(events),
        "users": _users(arriving),
        "floods": _floods(times),
        "gaps": _gaps(times),
        "unknown": _unknown(events),
        "admission": _admission(arriving, settings),
    }


def _is_out_of_order(times: Times) -> bool:
    """Tell whether a file is in another order than its events came in."""
    return float(np.mean(times[_PLACES:] < times[:-_PLACES])) > _SHUFFLED


def _order(times: Times, *, is_shuffled: bool) -> dict[str, Any]:
    """Tell how many events came after a newer one, and by how much."""
    if not len(times):
        return {"is_shuffled": False, "late": 0, "by_s": {}}
    behind_s = (np.maximum.accumulate(times) - times) / 1_000
    late = behind_s[behind_s > 0]
    if is_shuffled:
        return {"is_shuffled": True, "late": len(late), "by_s": {}}
    by_s = {f"over {limit} s": int((late > limit).sum()) for limit in _LATE_S}
    quantiles = np.percentile(late, (50, 90, 99, 100)).tolist() if len(late) else [0.0] * 4
    named = dict(zip(("median_s", "p90_s", "p99_s", "most_s"), quantiles, strict=True))
    return {"is_shuffled": False, "late": len(late), "by_s": by_s, **named}


def _duplicates(events: list[Feedback]) -> dict[str, Any]:
    """Count events sent twice, and what people did twice: the first are no news, the second are."""
    ids = Counter(event.event_id for event in events)
    done = Counter((event.user_id, event.item_id, event.type) for event in events)
    return {
        "same_event": sum(n - 1 for n in ids.values()),
        "same_user_item_type": sum(n - 1 for n in done.values()),
    }


def _users(events: list[Feedback]) -> dict[str, Any]:
    """Find who acts faster, or more, than people do."""
    times: dict[str, list[int]] = {}
    for event in events:
        times.setdefault(event.user_id, []).append(event.time_ms or 0)
    bots: list[dict[str, Any]] = []
    for user, own in times.items():
        if len(own) < _BOT_EVENTS:
            continue
        at = np.sort(np.array(own, np.int64))
        gap_ms = float(np.median(np.diff(at)))
        hourly = int(np.bincount((at - at[0]) // _HOUR_MS).max())
        if gap_ms < _BOT_GAP_MS or hourly >= _BOT_HOURLY:
            bots.append({"user": user, "events": len(own), "median_gap_s": gap_ms / 1_000})
    bots.sort(key=lambda bot: (-bot["events"], bot["user"]))
    most = max(((len(own), user) for user, own in times.items()), default=(0, ""))
    return {
        "users": len(times),
        "bots": len(bots),
        "bot_events": sum(bot["events"] for bot in bots),
        "examples": bots[:_SHOWN],
        "largest_share": most[0] / max(1, len(events)),
        "largest_user": most[1],
    }


def _floods(times: Times) -> dict[str, Any]:
    """Find minutes with far more events than busy minutes have."""
    if not len(times):
        return {"minutes": 0, "events": 0, "examples": []}
    minutes, counts = np.unique(times // 60_000, return_counts=True)
    usual = max(float(np.percentile(counts, 95)), 10.0)
    found = np.flatnonzero(counts > _FLOOD * usual)
    order = found[np.argsort(-counts[found], kind="stable")][:_SHOWN]
    examples = [
        {"minute": format_time(int(minutes[at]) * 60_000), "events": int(counts[at])}
        for at in order
    ]
    return {"minutes": len(found), "events": int(counts[found].sum()), "examples": examples}


def _gaps(times: Times) -> dict[str, Any]:
    """Find silences that the rate of events does not explain."""
    ordered = np.sort(times)
    silences = np.diff(ordered)
    if not len(silences):
        return {"gaps": 0, "longest_s": 0.0, "examples": []}
    usual = max(_LEAST_GAP_MS, _GAP_INTERVALS * float(silences.mean()))
    found = np.flatnonzero(silences > usual)
    order = found[np.argsort(-silences[found], kind="stable")][:_SHOWN]
    examples = [
        {"from": format_time(int(ordered[at])), "seconds": int(silences[at]) // 1_000}
        for at in order
    ]
    return {
        "gaps": len(found),
        "longest_s": float(silences.max()) / 1_000,
        "examples": examples,
    }


def _unknown(events: list[Feedback]) -> dict[str, Any]:
    """Count ids that stand for none, and items of which nothing was known when they came."""

    def placeholders(ids: Iterator[str]) -> dict[str, int]:
        return dict(Counter(id_ for id_ in ids if id_.lower() in PLACEHOLDERS).most_common(_SHOWN))

    items = {event.item_id for event in events}
    return {
        "placeholder_users": placeholders(event.user_id for event in events),
        "placeholder_items": placeholders(event.item_id for event in events),
        "items": len(items),
        "first_events_share": len(items) / max(1, len(events)),
    }


def _admission(events: list[Feedback], settings: EngineSettings) -> dict[str, Any]:
    """Ask the gate's door: what would it have let in, and why not the rest."""
    admission = Admission(settings.model_copy(update={"tokens": "off"}))
    examples: dict[str, str] = {}
    for event in events:
        verdict = admission.decide(event, None)
        admission.count(verdict.status, verdict.reason)
        if verdict.status in ("late", "quarantined") and verdict.reason:
            examples.setdefault(verdict.reason, f"{event.event_id}: {verdict.message}")
    return {"counts": admission.counts, "examples": examples}


def remarks(found: dict[str, Any]) -> list[str]:
    """Return what is to be known about a stream, a sentence each, the worst first."""
    order, n = found["order"], max(1, found["events"])
    said = []
    if order["is_shuffled"]:
        said.append(
            "The file is not in the order in which events came: how late they were, it does not"
            " say. Everything else is judged in the order of time."
        )
    elif order["late"]:
        said.append(
            f"{order['late'] / n:.2%} of the events came after a newer one: half of these by up to"
            f" {order['median_s']:,.0f} s, one in a hundred by over {order['p99_s']:,.0f} s."
        )
    else:
        said.append("No event came after a newer one.")
    said += _remarks_on_content(found, n)
    counts = found["admission"]["counts"]
    refused = {name: k for name, k in counts.items() if name.partition(":")[0] in _REFUSED}
    if refused:
        each = ", ".join(f"{name.partition(':')[2] or name} {k:,}" for name, k in refused.items())
        said.append(
            f"The gate's door would have kept out {sum(refused.values()):,} events: {each}."
        )
    else:
        said.append("The gate's door would have let everything in.")
    return said


_REFUSED = ("late", "quarantined")


def _remarks_on_content(found: dict[str, Any], n: int) -> Iterator[str]:
    if found["bad_lines"]:
        yield f"{found['bad_lines']:,} lines cannot be read."
    twice = found["duplicates"]
    if twice["same_event"]:
        yield f"{twice['same_event']:,} events are there twice; they are learned once."
    if twice["same_user_item_type"] > twice["same_event"]:
        share = twice["same_user_item_type"] / n
        yield f"{share:.1%} of the events repeat what their user did with that item before."
    users = found["users"]
    if users["bots"]:
        share = users["bot_events"] / n
        yield (
            f"{users['bots']:,} users act as no person does, or send many events at once; they have"
            f" {share:.1%} of the events."
        )
    if users["largest_share"] > 0.02:
        largest, share = users["largest_user"], users["largest_share"]
        yield f"One user, {largest!r}, has {share:.1%} of the events."
    if found["floods"]["minutes"]:
        yield f"{found['floods']['minutes']:,} minutes have over ten times what busy ones have."
    gaps = found["gaps"]
    if gaps["gaps"]:
        longest = gaps["examples"][0]
        yield (
            f"{gaps['gaps']:,} silences the rate does not explain; the longest from"
            f" {longest['from']} on, {longest['seconds'] / 3_600:,.1f} h."
        )
    for what in ("users", "items"):
        ids = found["unknown"][f"placeholder_{what}"]
        if ids:
            yield f"Ids that stand for nobody, as {what}: {', '.join(ids)}."
