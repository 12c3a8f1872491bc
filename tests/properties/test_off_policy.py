"""Off-policy estimates against a truth that is known: 200 logs of a made-up shop."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

from scripts.off_policy import F64, I64, Evaluation, Lists, Logged, Shares, evaluate

N_GROUPS, N_ITEMS, N_PLACES = 4, 8, 3
N_RUNS, N_USERS = 200, 500
# How much a place is looked at.
LOOKS = 1.0 / (1.0 + 0.3 * np.arange(N_PLACES))

Generator = np.random.Generator


class Shop(NamedTuple):
    """What each group likes: the chance of a click at the first place [groups, items]."""

    liking: F64

    def value(self, chances: F64) -> float:
        """Return the clicks per slate of a policy [groups, places, items]: the truth."""
        clicks = np.einsum("gpi,gi,p->g", chances, self.liking, LOOKS)
        return float(clicks.mean())

    def log(self, random: Generator, chances: F64) -> tuple[Logged, I64]:
        """Show and log; users come more than once, and some click more. Return groups by row."""
        times = 1 + random.poisson(1.0, N_USERS)
        user = np.repeat(np.arange(N_USERS), times)
        group = np.repeat(random.integers(N_GROUPS, size=N_USERS), times)
        mood = np.repeat(2.0 * random.beta(2.0, 2.0, N_USERS), times)
        n = len(user)
        ladder = chances[group].cumsum(axis=2)
        item = (random.random((n, N_PLACES, 1)) > ladder).sum(axis=2).clip(max=N_ITEMS - 1)
        chance = self.liking[group[:, None], item] * LOOKS * mood[:, None]
        logged = Logged(
            user=np.repeat(user, N_PLACES),
            slate=np.repeat(np.arange(n), N_PLACES),
            place=np.tile(np.arange(N_PLACES), n),
            item=item.ravel(),
            click=(random.random((n, N_PLACES)) < chance).astype(float).ravel(),
            propensity=np.take_along_axis(chances[group], item[..., None], axis=2).ravel(),
        )
        return logged, np.repeat(group, N_PLACES)


def shop() -> Shop:
    """Return a shop where a slate of the best items gets some 0.4 clicks."""
    return Shop(0.02 + 0.25 * np.random.default_rng(3).random((N_GROUPS, N_ITEMS)) ** 2)


def showing(lists: I64, explored: float) -> F64:
    """Return the policy that shows a list, and with some chance any item in a place."""
    chances = np.full((N_GROUPS, N_PLACES, N_ITEMS), explored / N_ITEMS)
    groups, places = np.meshgrid(np.arange(N_GROUPS), np.arange(N_PLACES), indexing="ij")
    chances[groups, places, lists] += 1.0 - explored
    return chances


def best(liking: F64) -> I64:
    """Return the items that are liked most, best first: [groups, places]."""
    return np.argsort(-liking, axis=1)[:, :N_PLACES]


def lists_of(target: I64, logged: Logged, group: I64) -> Lists:
    """Return a policy that shows each group its list."""
    return Lists(target[group, logged.place])


def held(explored: float, seed: int = 1) -> dict[str, float]:
    """Return how often each estimator's interval holds the truth, in 200 logs."""
    random, made = np.random.default_rng(seed), shop()
    logging = showing(best(random.random(made.liking.shape)), explored)
    target = best(made.liking)
    truth = made.value(showing(target, 0.0))
    n_held = dict.fromkeys(("ips", "snips", "dr"), 0)
    for _ in range(N_RUNS):
        logged, group = made.log(random, logging)
        found = evaluate(logged, lists_of(target, logged, group))
        for name, estimate in found.estimates.items():
            n_held[name] += abs(estimate.value - truth) <= estimate.within
    return {name: n / N_RUNS for name, n in n_held.items()}


def test_intervals_hold_the_truth() -> None:
    """Where little is explored, each estimator's interval holds the truth in 95 % of 200 logs."""
    found = held(explored=0.2)
    assert min(found.values()) >= 0.95, found


@pytest.mark.parametrize("explored", [0.5, 1.0])
def test_intervals_are_no_wider_than_they_say(explored: float) -> None:
    """Where much is explored they hold it about as often: within the error of 200 logs."""
    for name, share in held(explored).items():
        assert 0.904 <= share <= 0.985, name


def test_estimates_have_no_bias() -> None:
    """Over 200 logs the mean of each estimate is the truth, within the error of that mean."""
    random, made = np.random.default_rng(2), shop()
    target = best(made.liking)
    logging = showing(best(random.random(made.liking.shape)), 0.5)
    truth = made.value(showing(target, 0.0))
    values: dict[str, list[float]] = {"ips": [], "snips": [], "dr": []}
    for _ in range(N_RUNS):
        logged, group = made.log(random, logging)
        found = evaluate(logged, lists_of(target, logged, group))
        for name, estimate in found.estimates.items():
            values[name].append(estimate.value)
    for name, of_runs in values.items():
        error = np.std(of_runs) / N_RUNS**0.5
        assert abs(np.mean(of_runs) - truth) < 3 * error, name


def test_a_difference_is_surer_than_its_sides() -> None:
    """Policies compared on the same slates: the interval holds their difference, and is narrow."""
    random, made = np.random.default_rng(3), shop()
    target = best(made.liking)
    other = target.copy()
    other[:, 2] = np.argsort(-made.liking, axis=1)[:, N_PLACES]
    logging = showing(target, 0.5)
    truth = made.value(showing(target, 0.0)) - made.value(showing(other, 0.0))
    n_held, narrower = 0, []
    for _ in range(N_RUNS):
        logged, group = made.log(random, logging)
        ours, theirs = (lists_of(lists, logged, group) for lists in (target, other))
        found = evaluate(logged, ours, against=theirs)
        difference = found.differences["dr"]
        n_held += abs(difference.value - truth) <= difference.within
        sides = found.estimates["dr"].within + found.against_estimates["dr"].within
        narrower.append(difference.within / sides)
    assert np.mean(narrower) < 0.75
    assert n_held >= 0.904 * N_RUNS


# -- one log -----------------------------------------------------------------------------------


def one_log(explored: float = 0.5) -> tuple[Shop, Logged, I64]:
    """Return a shop, a log of it in which the first items are shown, and the groups of its rows."""
    made = shop()
    logging = showing(np.tile(np.arange(N_PLACES), (N_GROUPS, 1)), explored)
    return made, *made.log(np.random.default_rng(4), logging)


def test_what_was_logged_is_worth_what_was_clicked() -> None:
    """A policy that shows what the log showed, by chance as it did, has its very clicks."""
    _, logged, _ = one_log(1.0)
    shares = np.vstack([np.full((N_ITEMS, N_PLACES), 1 / N_ITEMS), np.zeros((1, N_PLACES))])
    found = evaluate(logged, Shares(shares))
    for name in ("ips", "snips"):
        assert found.estimates[name].value == pytest.approx(found.logged.value)
        assert found.differences[name].value == pytest.approx(0, abs=1e-12)
    assert found.support.value == pytest.approx(1.0)
    assert found.effective == pytest.approx(len(logged.user))


def test_support_tells_what_could_not_be_shown() -> None:
    """Where a policy shows what the log had no chance to show, the support falls by that share."""
    made, logged, group = one_log(explored=1e-9)
    target = np.tile([0, 1, 5], (N_GROUPS, 1))
    found = evaluate(logged, lists_of(target, logged, group))
    assert found.support.value == pytest.approx(2 / 3)
    assert found.support_by_place == pytest.approx([1, 1, 0])
    # By the rates alone, DR takes the third place for what that place is clicked.
    guess = float(found.logged.value - made.liking[:, :2].mean(axis=0) @ LOOKS[:2])
    first_two = found.estimates["ips"].value
    assert found.estimates["dr"].value == pytest.approx(first_two + guess, abs=0.05)


def test_a_clip_is_reported() -> None:
    """No weight is above the clip, and the share of weight that it took away is told."""
    made, logged, group = one_log(0.2)
    target = lists_of(best(made.liking), logged, group)
    whole, clipped = evaluate(logged, target), evaluate(logged, target, clip=5.0)
    assert whole.clipped == 0
    assert 0.5 < clipped.clipped < 1
    assert clipped.estimates["ips"].value < whole.estimates["ips"].value
    assert clipped.effective > whole.effective


def test_without_a_click_nothing_is_certain() -> None:
    """No click that counts, or a single user, gives no interval that could be believed."""
    _, logged, group = one_log()
    none = logged.__class__(**(vars(logged) | {"click": np.zeros(len(logged.click))}))
    found: Evaluation = evaluate(none, lists_of(np.zeros((4, 3), np.int64), none, group))
    assert found.estimates["ips"].within == np.inf
    alone = logged.__class__(**(vars(logged) | {"user": np.zeros(len(logged.user), np.int64)}))
    assert evaluate(alone, Shares(np.zeros((9, 3)))).logged.within == np.inf
