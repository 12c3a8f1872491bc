"""What the cells of `sluice freshness` say: quality with intervals, and how fresh is fresh enough.

Intervals are bootstrapped by user: somebody's events are alike, and count as one draw. All cells
share the draws, so that a difference between two of them is compared on the same users.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.events import DAY_MS, Feedback
from app.judge import DISCOUNTS
from app.settings import Delay
from scripts.cells import Run, shown

METRICS = ("hr_10", "hr_20", "dcg_20", "reward_10")
DECIDING = "hr_20"
SEGMENTS = {
    "all": "all judged events",
    "new users": "users with at most two events before",
    "known users": "users with more",
    "back after a day": "users with ten events before, the last one over a day ago",
    "new items": "items whose first event is less than a day old, or this one",
    "old items": "items that are older",
}
# Somebody's events are one draw: whose hits are all one user's, nothing is known of others.
_LEAST_USERS = 2
_N_DRAWS = 1_000
_DRAWS_AT_ONCE = 50

Floats = NDArray[np.float64]


class Estimate(NamedTuple):
    """A value, and the interval in which it is with 95 % confidence."""

    value: float
    low: float
    high: float

    def view(self) -> dict[str, float]:
        """Return it for JSON, rounded to what can be told apart."""
        return {name: float(f"{value:.6g}") for name, value in self._asdict().items()}


_UNKNOWN = Estimate(0.0, -1.0, 1.0)


class Judged(NamedTuple):
    """Which events were judged, whose they are, and to which segments they belong."""

    place: NDArray[np.int32]
    user: NDArray[np.int64]
    segments: dict[str, NDArray[np.bool_]]


def judged_events(stream: Sequence[Feedback], place: NDArray[np.int32]) -> Judged:
    """Return what is known of the judged events from the stream alone."""
    numbers: dict[str, int] = {}
    seen: dict[str, tuple[int, int]] = {}  # user -> events, time of the last
    since: dict[str, int] = {}
    wanted = set(place.tolist())
    rows = []
    for at, event in enumerate(stream):
        time_ms = event.time_ms or 0
        n, last_ms = seen.get(event.user_id, (0, time_ms))
        first_ms = since.setdefault(event.item_id, time_ms)
        if at in wanted:
            user = numbers.setdefault(event.user_id, len(numbers))
            is_back = n >= 10 and time_ms - last_ms > DAY_MS
            rows.append((user, n <= 2, is_back, time_ms - first_ms < DAY_MS))
        seen[event.user_id] = n + 1, time_ms
    known = np.array(rows, np.int64).reshape(-1, 4)
    of_new_user, of_returning, of_new_item = (known[:, column] == 1 for column in (1, 2, 3))
    everything = np.ones(len(known), np.bool_)
    masks = (everything, of_new_user, ~of_new_user, of_returning, of_new_item, ~of_new_item)
    return Judged(place, known[:, 0], dict(zip(SEGMENTS, masks, strict=True)))


def scores(run: Run) -> dict[str, Floats]:
    """Return what each judged event counts, by metric."""
    hit_10, hit_20 = ((run.rank >= 0) & (run.rank < most) for most in (20, 40))
    discounts = np.array(DISCOUNTS[:40])
    return {
        "hr_10": hit_10.astype(np.float64),
        "hr_20": hit_20.astype(np.float64),
        "dcg_20": np.where(hit_20, discounts[np.where(hit_20, run.rank, 0)], 0.0),
        "reward_10": hit_10 * run.reward.astype(np.float64),
    }


class Table(NamedTuple):
    """Each cell's figures by segment and metric, and what it loses against another cell there.

    A loss is a share of what the other cell has: 0.01 is one percent fewer hits. Where that has
    next to nothing, it may be anything: 0, in an interval from -1 to 1.
    """

    quality: dict[str, dict[str, dict[str, Estimate]]]
    loss: dict[str, dict[str, dict[str, Estimate]]]
    n: dict[str, int]


def tabulate(judged: Judged, runs: dict[str, Run], against: dict[str, str], seed: int = 1) -> Table:
    """Return the figures of all runs; `against` names for each the one that it is compared with."""
    n_users = int(judged.user.max(initial=-1)) + 1
    counts = {
        name: np.bincount(judged.user, mask, n_users) for name, mask in judged.segments.items()
    }
    sums = {
        cell: {
            segment: {
                metric: np.bincount(judged.user, values * mask, n_users)
                for metric, values in scores(run).items()
            }
            for segment, mask in judged.segments.items()
        }
        for cell, run in runs.items()
    }
    columns = [(cell, s, m) for cell in runs for s in judged.segments for m in METRICS]
    matrix = np.array([sums[cell][s][m] for cell, s, m in columns]).T
    divisors = np.array([counts[s] for s in judged.segments]).T
    drawn = _drawn(matrix, divisors, len(runs), seed)
    at = {column: number for number, column in enumerate(columns)}
    quality: dict[str, Any] = {}
    loss: dict[str, Any] = {}
    for (cell, segment, metric), number in at.items():
        means, base = drawn[:, number], drawn[:, at[against[cell], segment, metric]]
        quality.setdefault(cell, {}).setdefault(segment, {})[metric] = _estimate(means)
        with np.errstate(invalid="ignore", divide="ignore"):
            lost = np.where(base > 0, 1.0 - means / base, 0.0)
        is_known = np.count_nonzero(sums[against[cell]][segment][metric]) >= _LEAST_USERS
        estimate = _estimate(lost) if is_known else _UNKNOWN
        loss.setdefault(cell, {}).setdefault(segment, {})[metric] = estimate
    return Table(quality, loss, {name: int(mask.sum()) for name, mask in judged.segments.items()})


def _drawn(matrix: Floats, divisors: Floats, n_cells: int, seed: int) -> Floats:
    """Return the means of every column: of all users first, then of each draw of them."""
    rng = np.random.default_rng(seed)
    n_users = len(matrix)
    repeated = np.tile(np.repeat(np.arange(divisors.shape[1]), len(METRICS)), n_cells)
    rows = [_means(np.ones((1, n_users)), matrix, divisors, repeated)]
    for _ in range(_N_DRAWS // _DRAWS_AT_ONCE):
        picked = rng.integers(n_users, size=(_DRAWS_AT_ONCE, n_users))
        weights = np.array([np.bincount(row, minlength=n_users) for row in picked], np.float64)
        rows.append(_means(weights, matrix, divisors, repeated))
    return np.concatenate(rows)


def _means(weights: Floats, matrix: Floats, divisors: Floats, repeated: Any) -> Floats:
    n = (weights @ divisors)[:, repeated]
    means: Floats = np.divide(weights @ matrix, n, out=np.zeros_like(n), where=n > 0)
    return means


def _estimate(values: Floats) -> Estimate:
    """Return the first value, with the interval of the others."""
    low, high = np.percentile(values[1:], (2.5, 97.5))
    return Estimate(float(values[0]), float(low), float(high))


def changed(run: Run, other: Run) -> float:
    """Return which share of the first ten of a list is not on the other run's, on average."""
    shares = []
    for ours, theirs in zip(run.lists, other.lists, strict=True):
        mine, others = set(ours.tolist()) - {0}, set(theirs.tolist()) - {0}
        n = max(len(mine), len(others))
        if n:
            shares.append(1.0 - len(mine & others) / n)
    return float(np.mean(shares)) if shares else 0.0


# -- how fresh is fresh enough ---------------------------------------------------------------------


class Verdict(NamedTuple):
    """How late one kind of state may be, and whether the next longer delay is shown to be too much.

    `worth` is what being live gains over `over`, as a share of what `over` has.
    """

    delay: Delay
    loss: Estimate
    is_sure: bool
    worth: float
    over: Delay


RULE = (
    "The longest delay that loses less than {worth:.1%} of HR@20 against live: the upper end of the"
    " 95 % interval of its loss is under that."
)


def decide(losses: Sequence[tuple[Delay, Estimate]], threshold: float) -> Verdict:
    """Return how late state may be, from the losses of delays, the shortest first.

    It is sure of that if the next longer one is shown to be too much.
    """
    best: tuple[Delay, Estimate] = 0, Estimate(0.0, 0.0, 0.0)
    follower: Estimate | None = None
    for delay, loss in losses:
        if loss.high < threshold:
            best, follower = (delay, loss), None
        elif follower is None:
            follower = loss
    is_sure = follower is None or follower.low > threshold
    over, lost = _compared(losses, best[0])
    return Verdict(*best, is_sure, worth=lost / (1.0 - lost) if lost < 1.0 else 0.0, over=over)


def _compared(losses: Sequence[tuple[Delay, Estimate]], best: Delay) -> tuple[Delay, float]:
    """Return the delay that live is compared with: an hour, or what is too long already."""
    if best == 0:
        known = dict(losses)
        over: Delay = 3_600 if 3_600 in known else losses[-1][0]
        return over, known[over].value
    return best, dict(losses)[best].value


def say(kind: str, verdict: Verdict) -> str:
    """Return the advice for one kind of state in a line."""
    if verdict.delay == 0:
        hourly = "hourly" if verdict.over == 3_600 else shown(verdict.over)
        text = f"{kind} state: live (worth {verdict.worth:+.1%} HR@20 over {hourly})"
    elif verdict.delay == "never":
        text = f"{kind} state: need not move at all ({_costs(verdict.loss)})"
    else:
        text = f"{kind} state: {shown(verdict.delay)} is enough ({_costs(verdict.loss)})"
    return text if verdict.is_sure else text + "; the data are too few to say more"


def _costs(loss: Estimate) -> str:
    if loss.value <= 0:
        return "costs nothing that shows"
    return f"costs {loss.value:.2%}"


def headline(personal: Verdict, shared: Verdict) -> str:
    """Answer the question that the whole run is for."""
    late = {kind: _seconds(v.delay) for kind, v in (("personal", personal), ("shared", shared))}
    if _is_open(personal, 600) or _is_open(shared, 60 if late["personal"] < 600 else 600):
        return "These data are too few to say whether you need real time."
    if min(late.values()) >= 86_400:
        return "You do not need real time: a nightly batch is enough."
    if min(late.values()) >= 600:
        return f"You do not need real time: a batch every {shown_s(min(late.values()))} is enough."
    if late["personal"] >= 600:
        return "Users' own histories may wait; what is learned of all should not."
    if late["shared"] >= 60:
        return "You need real time for each user's own history, and not for what is learned of all."
    return "You need real time, for users' histories and for what is learned of all."


def _is_open(verdict: Verdict, late_s: float) -> bool:
    """Tell whether it was shown neither that state may be so late, nor that it may not."""
    return _seconds(verdict.delay) < late_s and not verdict.is_sure


def _seconds(delay: Delay) -> float:
    return float("inf") if delay == "never" else float(delay)


def shown_s(seconds: float) -> str:
    """Return seconds for people."""
    return shown(int(seconds))


def frontier(points: Iterable[tuple[str, float, float]]) -> list[str]:
    """Return which of (name, cost, quality) no other is both cheaper and better than."""
    best, names = -1.0, []
    for name, _, quality in sorted(points, key=lambda point: (point[1], -point[2])):
        if quality > best:
            best = quality
            names.append(name)
    return names
