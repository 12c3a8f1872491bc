"""What another policy would have been clicked: estimates from slates that were logged with chances.

Pure functions over arrays with one row per place that was shown. All of them assume that a click
depends on the user, the item and the place, not on the other items of the slate (Li et al. 2018,
the item-position model), so that each place counts for itself; and they can speak only of what the
log had a chance to show, which `support` measures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

LEVEL = 0.95
# Rates are learned from the users of the other fold, so that no estimate is judged by itself.
N_FOLDS = 2
# Clicks by which an item's rate is drawn towards that of its place.
_DAMPING = 5.0


@dataclass(frozen=True)
class Logged:
    """What was shown: a row for each place, the places of a slate in a row. All arrays are [rows].

    `user`, `slate` and `item` count from 0 without gaps, `place` from 0 at the top; `click` is 0 or
    1, and `propensity` in (0, 1] how likely the logging policy was to show this item here.
    """

    user: I64
    slate: I64
    place: I64
    item: I64
    click: F64
    propensity: F64

    @property
    def n_slates(self) -> int:
        """Return how many slates there are."""
        return int(self.slate[-1]) + 1

    @property
    def n_places(self) -> int:
        """Return how long the longest slate is."""
        return int(self.place.max()) + 1

    @property
    def n_items(self) -> int:
        """Return how many items were shown."""
        return int(self.item.max()) + 1


class Target(Protocol):
    """A policy to be evaluated, for every row of what was logged."""

    def chance(self, logged: Logged) -> F64:
        """Return how likely it is to show the item that was shown, at its place."""

    def expected(self, logged: Logged, rates: F64) -> F64:
        """Return the clicks that it has at each place, by `rates` [folds, items + 1, places]."""


class Lists(NamedTuple):
    """A policy that shows one certain item at each place.

    `shows` [rows] are the items, -1 for nothing; those that were never shown are `n_items` or more.
    """

    shows: I64

    def chance(self, logged: Logged) -> F64:
        """Return 1 where it shows what was shown, else 0."""
        found: F64 = (self.shows == logged.item).astype(np.float64)
        return found

    def expected(self, logged: Logged, rates: F64) -> F64:
        """Return the rates of the items that it shows; nothing is not clicked."""
        known = np.minimum(self.shows, logged.n_items)
        found = rates[fold_of(logged), known, logged.place]
        return np.where(self.shows < 0, 0.0, found)


class Shares(NamedTuple):
    """A policy that shows each item with a certain chance, whoever asks: [items + 1, places].

    The last one is for all the items that were never shown.
    """

    shares: F64

    def chance(self, logged: Logged) -> F64:
        """Return the share of the item that was shown."""
        found: F64 = self.shares[logged.item, logged.place]
        return found

    def expected(self, logged: Logged, rates: F64) -> F64:
        """Return the mean rate at each place."""
        means = np.einsum("ip,fip->fp", self.shares, rates)
        found: F64 = means[fold_of(logged), logged.place]
        return found


class Uniform(NamedTuple):
    """A policy that shows any one of the items that it may; how many these are is [rows]."""

    n_eligible: F64

    def chance(self, logged: Logged) -> F64:
        """Return one in so many."""
        return 1.0 / self.n_eligible

    def expected(self, logged: Logged, rates: F64) -> F64:
        """Return the rate of each place: an item that was never shown has it, and most were not."""
        found: F64 = rates[fold_of(logged), -1, logged.place]
        return found


def fold_of(logged: Logged) -> I64:
    """Return the fold of each row: that of its user."""
    return logged.user % N_FOLDS


# -- intervals --------------------------------------------------------------------------------


class Estimate(NamedTuple):
    """Clicks per slate, and half the width of the interval that holds the truth in 95 of 100."""

    value: float
    within: float


def per_slate(values: F64, logged: Logged) -> Estimate:
    r"""Return the mean over slates of the sums over their places, with an interval.

    One user's slates are alike, so users are what varies: with $S_u$ the sum of a user's deviations
    from the mean, $V = \frac{U}{U-1} \sum S_u^2 / n^2$ (Liang and Zeger 1986). Where a few clicks
    with great weights make up V, it is itself uncertain; so Student's t has as many degrees of
    freedom as users count in it, $(\sum S^2)^2 / \sum S^4$ (Kish 1965), less one.
    """
    n = logged.n_slates
    mean = float(values.sum()) / n
    is_first = np.diff(logged.slate, prepend=-1) > 0
    sums = np.bincount(logged.user, values) - mean * np.bincount(logged.user, is_first)
    n_users, total = len(sums), float((sums**2).sum())
    if n_users < 2 or total == 0.0:
        return Estimate(mean, math.inf)
    freedom = total**2 / float((sums**4).sum()) - 1.0
    variance = n_users / (n_users - 1) * total / n**2
    return Estimate(mean, student(freedom) * math.sqrt(variance))


def student(freedom: float) -> float:
    """Return how many standard errors hold `LEVEL` (Abramowitz and Stegun 26.7.5; from 2 on)."""
    z, v = NormalDist().inv_cdf((1.0 + LEVEL) / 2), max(2.0, freedom)
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / v + second / v**2 + third / v**3


# -- estimators -------------------------------------------------------------------------------


def weights(logged: Logged, target: Target, clip: float) -> F64:
    r"""Return how much each row counts: $w = \min(\pi(a) / q(a), M)$, with M the `clip`."""
    return np.minimum(target.chance(logged) / logged.propensity, clip)


def ips(logged: Logged, weight: F64) -> F64:
    r"""Return each row's part of inverse propensity scoring, $w c$ (Horvitz and Thompson 1952).

    Without a bias where all that the target shows had a chance, and nothing is clipped.
    """
    return weight * logged.click


def snips(logged: Logged, weight: F64) -> F64:
    r"""Return each row's part of self-normalised IPS (Swaminathan and Joachims 2015).

    At each place $v = \sum w c / \sum w$; what a row adds to the uncertainty of such a ratio is
    $w (c - v) / \bar w$, by the delta method, so its part is $v + w (c - v) / \bar w$.
    """
    shown = np.bincount(logged.place)
    mean = np.bincount(logged.place, weight) / shown
    clicked = np.bincount(logged.place, weight * logged.click) / shown
    is_known = mean > 0
    value = np.divide(clicked, mean, out=np.zeros_like(mean), where=is_known)
    scale = np.divide(weight, mean[logged.place], out=np.zeros_like(weight), where=weight > 0)
    return value[logged.place] + scale * (logged.click - value[logged.place])


def doubly_robust(logged: Logged, weight: F64, target: Target) -> F64:
    r"""Return each row's part of the doubly robust estimate (Dudik, Langford and Li 2011).

    $\hat r(\pi) + w (c - \hat r(a))$: what `click_rates` expect of the target, put right by what
    was seen. Where the log had no chance to show what the target shows, the rates alone speak.
    """
    rates = click_rates(logged)
    shown = rates[fold_of(logged), logged.item, logged.place]
    return target.expected(logged, rates) + weight * (logged.click - shown)


def click_rates(logged: Logged) -> F64:
    """Return how often an item is clicked at a place: [folds, items + 1, places].

    The rate of the place times how much more the item is clicked than its places are, drawn
    towards 1; each fold's from the users of the others. The last row is that of unknown items.
    """
    rates = np.zeros((N_FOLDS, logged.n_items + 1, logged.n_places))
    for fold in range(N_FOLDS):
        used = fold_of(logged) != fold
        place, item, click = logged.place[used], logged.item[used], logged.click[used]
        shown = np.bincount(place, minlength=logged.n_places)
        of_place = np.bincount(place, click, logged.n_places) / np.maximum(1, shown)
        expected = np.bincount(item, of_place[place], logged.n_items + 1)
        clicked = np.bincount(item, click, logged.n_items + 1)
        lift = (clicked + _DAMPING) / (expected + _DAMPING)
        rates[fold] = np.minimum(1.0, lift[:, None] * of_place)
    return rates


# -- all of it --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Evaluation:
    """The value of a policy by each estimator, and how far it can be believed.

    `differences` are to `against_estimates`: of another policy, or what was logged. `support` is
    the mean weight: the share of what the target shows that the log had a chance to show, 1 if all
    of it. `effective` are the rows that would say as much if all counted alike (Kish 1965),
    `clipped` the share of all weight that the clip took away, `n_clicks` the clicks that count.
    """

    estimates: dict[str, Estimate]
    differences: dict[str, Estimate]
    against_estimates: dict[str, Estimate]
    logged: Estimate
    support: Estimate
    support_by_place: list[float]
    effective: float
    clip: float
    clipped: float
    n_clicks: int


def evaluate(
    logged: Logged, target: Target, clip: float = math.inf, against: Target | None = None
) -> Evaluation:
    """Estimate what a policy is worth, against another one or (None) what was logged.

    A `clip` bounds how much a single click can count, at the price of a bias.
    """
    whole, weight = weights(logged, target, math.inf), weights(logged, target, clip)
    ours = parts(logged, target, clip)
    theirs = dict.fromkeys(ours, logged.click)
    if against is not None:
        theirs = parts(logged, against, clip)
    total, n_rows = float(whole.sum()), len(whole)
    support, within = per_slate(whole, logged)
    per_row = logged.n_slates / n_rows
    return Evaluation(
        estimates={name: per_slate(part, logged) for name, part in ours.items()},
        differences={name: per_slate(ours[name] - theirs[name], logged) for name in ours},
        against_estimates={name: per_slate(part, logged) for name, part in theirs.items()},
        logged=per_slate(logged.click, logged),
        support=Estimate(support * per_row, within * per_row if whole.std() else 0.0),
        support_by_place=(np.bincount(logged.place, whole) / np.bincount(logged.place)).tolist(),
        effective=float(weight.sum() ** 2 / (weight**2).sum()) if total else 0.0,
        clip=clip,
        clipped=1.0 - float(weight.sum()) / total if total else 0.0,
        n_clicks=int((logged.click * (weight > 0)).sum()),
    )


def parts(logged: Logged, target: Target, clip: float) -> dict[str, F64]:
    """Return each row's part of each estimate."""
    weight = weights(logged, target, clip)
    return {
        "ips": ips(logged, weight),
        "snips": snips(logged, weight),
        "dr": doubly_robust(logged, weight, target),
    }
