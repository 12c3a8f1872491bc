from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from app.detectors import Drift
from app.gate_data import Losses
from app.watch import CONCENTRATION, LOSS, QUARANTINED, RATE, UNKNOWN, Watch
from tests.factories import make_settings
from tests.unit.watching import SETTINGS, Traffic, canonical


def busy(n: int, seed: int = 1) -> Traffic:
    """Return traffic of every kind that has run for a while without an alarm's being heeded."""
    traffic = Traffic(seed=seed)
    for _ in range(n):
        step(traffic)
    return traffic


def step(traffic: Traffic) -> list[Any]:
    """Let one thing of every kind happen; return all that was raised."""
    return [
        traffic.judge(0.45, 0.4, in_top10=0.3),
        traffic.slate(0.2, spam=0.35),
        traffic.admit(a_second=0.5),
        traffic.watch.decided(is_quarantined=traffic.chance.random() < 0.05),
    ]


# -- restart and settings --------------------------------------------------------------------------


def test_restart_forgets_what_compares_versions() -> None:
    """After a restart harm, clicks, items and loss stand at nothing; signs of traffic go on."""
    watch = busy(400).watch
    before = watch.state()
    watch.restart()
    after = watch.state()
    assert all(d == [0.0] * 11 for d in after["detectors"].values())
    assert not after["items"]["m"].any()
    assert watch.drift[LOSS].mean == 0.0
    for name in (QUARANTINED, UNKNOWN, RATE, CONCENTRATION):
        assert canonical(after["drift"][name]) == canonical(before["drift"][name])
    for name in ("rate", "concentration"):
        assert after[name] == before[name]
    for name in ("items", "n_shown", "surplus", "baseline"):
        assert canonical(after["items"][name]) == canonical(before["items"][name])


def test_after_a_restart_harm_has_to_be_shown_anew() -> None:
    """An alarm is not raised again by what raised it; the same harm takes as long as before."""
    traffic = Traffic()
    first = traffic.run(2_000, "judge", 0.6, 0.3)
    assert traffic.watch.judged(Losses(0.5, 0.5, 0.5, in_top10=False)) is not None
    traffic.watch.restart()
    assert traffic.watch.judged(Losses(0.5, 0.5, 0.5, in_top10=False)) is None
    second = traffic.run(2_000, "judge", 0.6, 0.3)
    assert first is not None
    assert second is not None
    assert second[0] > first[0] / 3


def test_other_significances_start_their_detectors_anew() -> None:
    """A changed `adwin_delta` renews the loss alone, `traffic_delta` the others; else nothing."""
    watch = busy(200).watch
    before = canonical(watch.state())
    watch.use(make_settings(harm_alarm=99.0))
    assert watch.settings.harm_alarm == 99.0
    watch.use(SETTINGS)
    renewed = {name for name, d in watch.drift.items() if not len(d.state()["values"])}
    # The small settings' significance of traffic is another.
    assert renewed == {QUARANTINED, UNKNOWN, RATE, CONCENTRATION}
    assert canonical(watch.state()) != before
    watch.use(make_settings(adwin_delta=0.5, traffic_delta=SETTINGS.traffic_delta))
    assert watch.drift[LOSS].state()["delta"] == 0.5
    assert not len(watch.drift[LOSS].state()["values"])


def test_other_thresholds_keep_what_was_counted() -> None:
    """A lower `harm_alarm` is in force at once, for what has been counted under the old one."""
    watch = Watch(SETTINGS)
    for _ in range(60):
        assert watch.judged(Losses(0.5, 0.5, 0.4, in_top10=True)) is None
    watch.use(SETTINGS.model_copy(update={"harm_alarm": 10.0}))
    alarm = watch.judged(Losses(0.5, 0.5, 0.5, in_top10=True))
    assert alarm is not None
    assert (alarm.detector, alarm.evidence["threshold"]) == ("harm", 10.0)


# -- what is shown ---------------------------------------------------------------------------------


@pytest.mark.parametrize("is_armed", [False, True])
@pytest.mark.parametrize("is_blessed", [False, True])
def test_the_view_says_what_is_armed(*, is_armed: bool, is_blessed: bool) -> None:
    """Harm alarms are armed from the first anchor on, drift alarms from the first blessing on."""
    watch = busy(300).watch
    shown = {d["name"]: d for d in watch.view(is_armed=is_armed, is_blessed=is_blessed)}
    acting = ["harm", "harm_outside", "clicks_over", "clicks_under", "item"]
    asking = [f"adwin_{name}" for name in (LOSS, QUARANTINED, UNKNOWN, RATE, CONCENTRATION)]
    assert list(shown) == acting + asking
    assert all(shown[name]["armed"] == is_armed for name in acting)
    assert all(shown[name]["armed"] == (is_armed and is_blessed) for name in asking)
    assert {shown[name]["threshold"] for name in acting} == {SETTINGS.harm_alarm}
    assert shown["harm"]["statistic"] == watch.harm["harm"].statistic
    assert shown["item"]["statistic"] == watch.items.m.sum(axis=1).max() > 0
    assert shown["item"]["watched"] == len(watch.items) > 190


# -- state -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 90, 700])
def test_state_continues_exactly(n: int) -> None:
    """A watch made from a state raises the same alarms, and has the same state bit for bit."""
    traffic = busy(n, seed=n)
    twin = Traffic(Watch(SETTINGS))
    twin.watch.load_state(traffic.watch.state())
    twin.n = traffic.n
    twin.chance.setstate(traffic.chance.getstate())
    assert canonical(twin.watch.state()) == canonical(traffic.watch.state())
    for _ in range(500):
        assert step(twin) == step(traffic)
    assert canonical(twin.watch.state()) == canonical(traffic.watch.state())


def test_a_state_is_a_copy() -> None:
    """What was taken as a state does not change while the watch goes on."""
    traffic = busy(200)
    state = traffic.watch.state()
    before = canonical(state)
    for _ in range(50):
        step(traffic)
    traffic.watch.restart()
    assert canonical(state) == before


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("detectors", {"harm": [math.nan] * 11}),
        ("detectors", {"clicks_under": [0.0] * 3}),
        ("drift", {LOSS: {"delta": 0.002, "n_failures": 0, "values": np.array([2.0])}}),
        ("drift", {RATE: {"delta": 2.0, "n_failures": 0, "values": np.array([])}}),
        ("items", {"n_shown": np.array([1, 2])}),
        ("rate", {"mean": math.nan}),
    ],
)
def test_a_damaged_state_is_refused(part: str, change: dict[str, Any]) -> None:
    """Whichever part is damaged, the whole is refused."""
    state = busy(50).watch.state()
    with pytest.raises(ValueError, match="damaged"):
        Watch(SETTINGS).load_state(state | {part: state[part] | change})


@pytest.mark.parametrize(
    "change",
    [
        {"values": np.array([0.5, math.nan])},
        {"values": np.array([-1e-9])},
        {"values": b"\x00\xff\x13"},
        {"values": ["half"]},
        {"delta": 0.0},
        {"delta": 1.0},
        {"delta": math.nan},
        {"n_failures": "many"},
    ],
)
def test_a_damaged_drift_state_is_refused(change: dict[str, Any]) -> None:
    """Bytes, texts, values and significances that are none raise ValueError; nothing changes."""
    drift = Drift(0.002)
    for n in range(100):
        drift.update(n / 100)
    before = canonical(drift.state())
    with pytest.raises(ValueError, match=r"damaged|convert|invalid"):
        drift.load_state(drift.state() | change)
    assert canonical(drift.state()) == before


def test_a_drift_state_of_another_shape_is_refused() -> None:
    """A table is no list of values."""
    drift = Drift(0.002)
    with pytest.raises(ValueError, match="damaged"):
        drift.load_state(drift.state() | {"values": np.full((3, 2), 0.5)})
