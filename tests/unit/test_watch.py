from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from app.detectors import Drift
from app.gate_data import Losses
from app.watch import (
    CONCENTRATION,
    ITEM,
    LOSS,
    QUARANTINED,
    RATE,
    UNKNOWN,
    Alarm,
    Watch,
    is_bad_news,
)
from tests.unit.watching import SETTINGS, Traffic, canonical

# -- harm ------------------------------------------------------------------------------------------


def test_a_champion_worse_than_its_anchor_is_harm() -> None:
    """A loss higher by a third acts within some hundred events, with statistic and threshold."""
    found = Traffic().run(2_000, "judge", 0.6, 0.3)
    assert found is not None
    n, alarm = found
    assert n < 400
    assert (alarm.detector, alarm.acts, alarm.item_id) == ("harm", True, None)
    assert alarm.evidence["statistic"] >= alarm.evidence["threshold"] == 1e5
    assert alarm.evidence["margin"] == 0.005


@pytest.mark.parametrize(("champion", "anchor"), [(0.5, 0.5), (0.3, 0.6), (0.1, 0.1)])
def test_a_champion_no_worse_than_its_anchor_is_no_harm(champion: float, anchor: float) -> None:
    """Equal or better, however variable: nothing acts, nothing asks."""
    assert Traffic().run(5_000, "judge", champion, anchor) is None


def test_harm_behind_what_is_shown_is_heard_outside_of_it() -> None:
    """Where clicks go to whatever is on top, only events outside of both top 10 show the harm."""
    traffic = Traffic()
    for _ in range(3_000):
        alarm = traffic.watch.judged(Losses(0.0, 0.0, 0.5, in_top10=True))
        alarm = alarm or traffic.judge(0.8, 0.5)
        if alarm is not None:
            break
    assert alarm is not None
    assert (alarm.detector, alarm.acts) == ("harm_outside", True)


def test_what_both_show_is_no_evidence_outside_of_it() -> None:
    """An event that either version had in its top 10 leaves the second detector as it was."""
    watch = Watch(SETTINGS)
    for _ in range(50):
        watch.judged(Losses(0.4, 0.0, 0.0, in_top10=True))
    assert watch.harm["harm"].statistic > 50
    assert watch.harm["harm_outside"].statistic == 0


# -- clicks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "detector"), [(0.5, "clicks_over"), (0.0, "clicks_under"), (0.9, "clicks_over")]
)
def test_clicks_beyond_expectation_act(rate: float, detector: str) -> None:
    """More clicks than expected on everything, or none, is told from the other."""
    found = Traffic().run(3_000, "slate", rate)
    assert found is not None
    n, alarm = found
    assert n < 200
    assert (alarm.detector, alarm.acts, alarm.item_id) == (detector, True, None)
    assert alarm.evidence["margin"] == 0.03


@pytest.mark.parametrize("rate", [0.18, 0.2, 0.22])
def test_clicks_about_as_expected_are_left_alone(rate: float) -> None:
    """Within the margin of 0.03 nothing is said, in 10,000 slates."""
    assert Traffic().run(10_000, "slate", rate) is None


def test_an_item_under_attack_is_named() -> None:
    """Where clicks rain on one item the alarm names it, and not the clicks of all."""
    traffic = Traffic()
    assert traffic.run(500, "slate", 0.2, spam=0.2) is None
    found = traffic.run(2_000, "slate", 0.2, spam=0.9)
    assert found is not None
    n, alarm = found
    assert n < 100
    assert (alarm.detector, alarm.item_id, alarm.acts) == (ITEM, "i0", True)
    assert alarm.evidence["margin"] == 0.1
    assert {"statistic", "threshold", "shown", "baseline"} <= set(alarm.evidence)


def test_an_item_goes_before_all_clicks() -> None:
    """Where one slate sets off both alarms, the one that says more is raised."""
    traffic = Traffic()
    assert traffic.run(300, "slate", 0.2, spam=0.2) is None
    watch = traffic.watch
    watch.clicks["clicks_over"].load_state([9e4] * 10 + [9e5])
    assert not watch.items.update(
        ["i0"], np.zeros(1), np.ones(1), armed=1, margin=0.0, threshold=1e12
    )
    watch.items.m[:] = 9e4
    alarm = watch.slate(["i0"], np.array([0.2]), np.ones(1), 0)
    assert alarm is not None
    assert (alarm.detector, alarm.item_id) == (ITEM, "i0")


# -- drift -----------------------------------------------------------------------------------------


def test_a_loss_that_rises_asks() -> None:
    """A loss of champion and anchor alike that jumps is drift, with the means on both sides."""
    traffic = Traffic()
    assert traffic.run(2_000, "judge", 0.2, 0.2) is None
    found = traffic.run(1_000, "judge", 0.7, 0.7)
    assert found is not None
    alarm = found[1]
    assert (alarm.detector, alarm.acts) == (LOSS, False)
    assert alarm.evidence["mean_before"] < alarm.evidence["mean_after"]
    assert alarm.evidence["delta"] == 0.002
    assert is_bad_news(alarm)


def test_quarantine_that_grows_asks() -> None:
    """From one event in fifty refused to one in four, ADWIN notices; steady, it does not."""
    chance, watch = random.Random(2), Watch(SETTINGS)

    def first(share: float, n: int) -> Alarm | None:
        decided = (watch.decided(is_quarantined=chance.random() < share) for _ in range(n))
        return next((alarm for alarm in decided if alarm is not None), None)

    assert first(0.02, 5_000) is None
    alarm = first(0.25, 1_000)
    assert alarm is not None
    assert (alarm.detector, alarm.acts, is_bad_news(alarm)) == (QUARANTINED, False, True)


@pytest.mark.parametrize(
    ("change", "detector"),
    [
        ({"known": 0.5}, UNKNOWN),
        ({"n_items": 2}, CONCENTRATION),
        ({"a_second": 0.1}, RATE),
        ({"a_second": 20.0}, RATE),
    ],
    ids=["unknown", "concentration", "fewer", "more"],
)
def test_traffic_that_changes_asks(change: dict[str, Any], detector: str) -> None:
    """Unknown items, few items, a rate that falls or rises: each is noticed by its own series."""
    traffic = Traffic()
    assert traffic.run(18_000, "admit") is None  # five hours
    if "a_second" in change:
        traffic.n = round(traffic.n * change["a_second"])  # the clock goes on, at another pace
    found = traffic.run(80_000, "admit", **change)
    assert found is not None
    alarm = found[1]
    assert (alarm.detector, alarm.acts, is_bad_news(alarm)) == (detector, False, True)


def test_steady_traffic_asks_nothing() -> None:
    """In 20,000 events of one kind no series alarms at the significance of traffic."""
    assert Traffic(seed=3).run(20_000, "admit") is None


@pytest.mark.parametrize(
    ("detector", "before", "after", "is_bad"),
    [
        (LOSS, 0.2, 0.4, True),
        (LOSS, 0.4, 0.2, False),
        (QUARANTINED, 0.4, 0.2, False),
        (UNKNOWN, 0.4, 0.2, False),
        (CONCENTRATION, 0.4, 0.2, False),
        (CONCENTRATION, 0.2, 0.4, True),
        (RATE, 0.5, 0.1, True),
        (RATE, 0.1, 0.5, True),
    ],
)
def test_bad_news(detector: str, before: float, after: float, *, is_bad: bool) -> None:
    """A loss or a share that falls is good news; a rate is bad news in both directions."""
    evidence = {"mean_before": before, "mean_after": after}
    assert is_bad_news(Alarm(detector, evidence, acts=False)) == is_bad


def test_what_a_snapshot_says_of_failures_stays() -> None:
    """River's ADWIN, which stood here once, could fail; how often it did is no secret."""
    drift, twin = Drift(0.002), Drift(0.5)
    for _ in range(96):
        drift.update(0.25)
    twin.load_state(drift.state() | {"n_failures": 1})
    for n in range(1_000):
        value = 0.1 if n < 500 else 0.9
        assert drift.update(value) == twin.update(value)
    assert canonical(twin.state()) == canonical(drift.state() | {"n_failures": 1})
