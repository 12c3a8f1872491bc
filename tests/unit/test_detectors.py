from __future__ import annotations

import math
import random

import numpy as np
import pytest
from river.drift import ADWIN

from app.detectors import ADWIN_LIFE, Adwin, Drift, EDetector


def events_to_alarm(chance: random.Random, mean: float, threshold: float, limit: int) -> int | None:
    """Return after how many differences of -1 or 1 with some mean the alarm came, if it did."""
    detector = EDetector()
    for n in range(1, limit + 1):
        detector.update(1.0 if chance.random() < (1 + mean) / 2 else -1.0, 0.0)
        if detector.statistic >= threshold:
            return n
    return None


def test_false_alarms_are_as_rare_as_promised() -> None:
    """On 2,000 streams without harm, at most n/A of them alarm within n events."""
    chance = random.Random(1)
    alarms = [events_to_alarm(chance, 0.0, 500.0, 100) for _ in range(2_000)]
    share = sum(alarm is not None for alarm in alarms) / len(alarms)
    assert 0 < share <= 100 / 500


def test_the_mean_time_between_false_alarms_is_at_least_the_threshold() -> None:
    """Streams at the very edge of no harm run at least A events on average until they alarm."""
    chance = random.Random(2)
    times = [events_to_alarm(chance, 0.0, 100.0, 20_000) for _ in range(300)]
    assert None not in times
    assert sum(time or 0 for time in times) / len(times) >= 100


def test_a_margin_is_no_harm() -> None:
    """A difference that stays at the margin never alarms more than none would."""
    detector = EDetector()
    for _ in range(1_000):
        detector.update(0.05, 0.05)
    assert detector.statistic == pytest.approx(1_000)


@pytest.mark.parametrize(("harm", "law"), [(0.2, 732), (0.05, 4_922)])
def test_harm_is_found_within_the_law(harm: float, law: int) -> None:
    """At A = 5e6 and m = 0.005 the median delay is near what GATE.md measured on such losses."""
    chance = random.Random(3)
    delays = []
    for _ in range(7):
        detector, n = EDetector(), 0
        while detector.statistic < 5e6:
            n += 1
            ours, theirs = chance.random() < 0.5 + harm / 2, chance.random() < 0.5 - harm / 2
            detector.update(float(ours) - float(theirs), 0.005)
            assert n < 3 * law
        delays.append(n)
    assert sorted(delays)[3] < 1.5 * law


def test_the_worst_differences_stay_finite() -> None:
    """Losses at their bounds leave the statistic finite and not negative."""
    detector = EDetector()
    for _ in range(5_000):
        detector.update(-1.0, 0.5)
    assert detector.statistic >= 0
    for _ in range(1_000):
        detector.update(1.0, 0.0)
    assert math.isfinite(detector.statistic)


def test_harm_state_continues_exactly() -> None:
    """A detector made from a state has the same statistic after the same differences."""
    chance, detector, twin = random.Random(4), EDetector(), EDetector()
    for _ in range(100):
        detector.update(chance.uniform(-1, 1), 0.01)
    twin.load_state(detector.state())
    for _ in range(100):
        difference = chance.uniform(-1, 1)
        detector.update(difference, 0.01)
        twin.update(difference, 0.01)
        assert detector.statistic == twin.statistic


@pytest.mark.parametrize(
    "state", [[], [0.0] * 10, [0.0] * 12, [math.nan] * 11, [math.inf] * 11, [-1.0] * 11]
)
def test_a_damaged_harm_state_is_refused(state: list[float]) -> None:
    """What no detector could have said is refused, and changes nothing."""
    detector = EDetector()
    detector.update(0.5, 0.0)
    before = detector.state()
    with pytest.raises(ValueError, match="damaged"):
        detector.load_state(state)
    assert detector.state() == before


def test_drift_tells_before_and_after() -> None:
    """A loss that jumps is noticed within some hundred events, with the means on both sides."""
    chance, drift = random.Random(5), Drift(0.002)
    for _ in range(2_000):
        assert drift.update(float(chance.random() < 0.2)) is None
    changes = [drift.update(float(chance.random() < 0.6)) for _ in range(500)]
    found = [change for change in changes if change is not None]
    assert found
    before, after = found[0]
    assert 0.1 < before < after < 0.7
    assert drift.mean == pytest.approx(0.6, abs=0.15)


def test_a_steady_loss_is_no_drift() -> None:
    """At a strict significance a stationary loss is left alone."""
    chance, drift = random.Random(6), Drift(1e-8)
    assert all(drift.update(float(chance.random() < 0.4)) is None for _ in range(5_000))


@pytest.mark.parametrize("n", [0, 1, 333, 2_500, 9_999, 10_000, 15_000, 19_500, 20_001])
def test_drift_state_continues_exactly(n: int) -> None:
    """Fed again, the values give the same window, to the last bit, then and later."""
    chance, drift, twin = random.Random(n), Drift(0.01), Drift(0.5)
    for number in range(n):
        drift.update(chance.random() * (0.3 if number < n / 2 else 1.0))
    twin.load_state(drift.state())
    assert twin.mean == drift.mean
    for number in range(1_000):
        value = chance.random() * (0.9 if number < 500 else 0.1)
        assert twin.update(value) == drift.update(value)
        assert twin.mean == drift.mean


def test_a_drift_detector_is_never_without_a_past() -> None:
    """A snapshot never holds more than one life of values; a change at its end is noticed."""
    chance, drift = random.Random(8), Drift(0.002)
    for _ in range(ADWIN_LIFE):
        drift.update(float(chance.random() < 0.2))
    assert len(drift.state()["values"]) == ADWIN_LIFE
    drift.update(1.0)
    assert len(drift.state()["values"]) == ADWIN_LIFE // 2 + 1
    changes = [drift.update(float(chance.random() < 0.5)) for _ in range(500)]
    assert any(change is not None and change[0] < change[1] for change in changes)


@pytest.mark.parametrize(
    "values", [[1.1], [-0.1], [math.nan], [math.inf], [0.5] * (ADWIN_LIFE + 1)]
)
def test_a_damaged_drift_state_is_refused(values: list[float]) -> None:
    """Values that are no losses, or too many, are refused, and change nothing."""
    drift = Drift(0.002)
    drift.update(0.5)
    with pytest.raises(ValueError, match="damaged"):
        drift.load_state({"delta": 0.002, "values": np.array(values)})
    assert drift.mean == 0.5


@pytest.mark.parametrize("seed", range(20))
def test_no_alarm_rings_sooner_than_it_is_said(seed: int) -> None:
    """Until so many differences have come, the worst that there are cannot bring an alarm."""
    chance = random.Random(seed)
    margin, threshold = chance.choice([0.0, 0.005, 0.4]), 10 ** chance.uniform(1, 8)
    detector = EDetector()
    for _ in range(chance.randrange(60)):
        detector.update(chance.choice([1.0, 0.5, chance.uniform(-1, 1)]), margin)
        if detector.statistic >= threshold:
            detector = EDetector()
    for _ in range(detector.n_below(threshold, margin, 100) - 1):
        detector.update(1.0, margin)
        assert detector.statistic < threshold
    detector.update(1.0, margin)
    assert detector.statistic >= threshold


def test_no_more_is_said_of_an_alarm_than_is_asked() -> None:
    """From nothing, an alarm of five million is 25 of the worst differences away."""
    detector = EDetector()
    assert [detector.n_below(5e6, 0.0, most) for most in (1, 24, 25, 26, 100)] == [
        1,
        24,
        25,
        25,
        25,
    ]
    assert detector.statistic == 0


def test_a_drift_detector_says_when_it_looks() -> None:
    """Through its whole life, and that of the one that takes its place."""
    drift, chance = Drift(0.9), random.Random(1)
    for _ in range(3 * ADWIN_LIFE // 32):
        n_unlooked = drift.n_unlooked
        assert 0 <= n_unlooked < 32
        for _ in range(n_unlooked):
            assert drift.update(chance.random()) is None
        assert len(drift._values) % 32 == 31
        drift.update(chance.random())
        assert len(drift._values) % 32 == 0


def wandering(seed: int, n: int) -> list[float]:
    """Return values in [0, 1] of a mean that jumps now and then: hits, shares, or constants."""
    chance, mean = random.Random(seed), 0.5
    values = []
    for _ in range(n):
        mean = chance.random() if chance.random() < 0.002 else mean
        drawn = float(chance.random() < mean), mean * chance.random(), mean
        values.append(drawn[seed % 3])
    return values


@pytest.mark.parametrize("delta", [0.9, 0.05, 0.002, 1e-5])
@pytest.mark.parametrize("seed", range(6))
def test_adwin_is_rivers_to_the_bit(delta: float, seed: int) -> None:
    """The same means and the same changes, however many values it takes at a time."""
    ours, theirs, chance, n_changes = Adwin(delta), ADWIN(delta=delta), random.Random(seed), 0
    for start in range(0, 12_800, 32):
        values = wandering(seed, 12_800)[start : start + 32]
        cut = chance.randrange(1, 32)
        for value in values[:cut]:
            theirs.update(value)
        assert ours.take(np.array(values[:cut])) is None
        assert ours.mean == theirs.estimation
        for value in values[cut:]:
            before = theirs.estimation
            theirs.update(value)
        found = ours.take(np.array(values[cut:]))
        assert found == (before if theirs.drift_detected else None)
        assert ours.mean == theirs.estimation
        n_changes += theirs.drift_detected
    assert n_changes or seed % 3 == 2 or delta < 0.001


def test_a_drift_detector_that_is_replaced_has_seen_the_last_half() -> None:
    """As if a younger one had been there beside it from the middle of its life on."""
    values, drift = wandering(1, 3 * ADWIN_LIFE), Drift(0.05)
    elder, younger, found = ADWIN(delta=0.05), ADWIN(delta=0.05), []
    for n, value in enumerate(values):
        if n >= ADWIN_LIFE and n % (ADWIN_LIFE // 2) == 0:
            elder, younger = younger, ADWIN(delta=0.05)
        before = elder.estimation
        elder.update(value)
        if n >= ADWIN_LIFE // 2:
            younger.update(value)
        expected = (before, elder.estimation) if elder.drift_detected else None
        assert drift.update(value) == expected
        found.append(expected)
    assert sum(change is not None for change in found[ADWIN_LIFE:]) > 10


def test_a_drift_detector_takes_many_as_one_by_one() -> None:
    """Up to the next look, and through its whole life; so does one made from its state."""
    values, chance = wandering(4, 2 * ADWIN_LIFE + 1_000), random.Random(2)
    one, many, at = Drift(0.05), Drift(0.05), 0
    while at < len(values):
        some = values[at : at + chance.randint(1, many.n_unlooked + 1)]
        changes = [one.update(value) for value in some]
        assert many.extend(some) == changes[-1]
        assert not any(changes[:-1])
        at += len(some)
        if chance.random() < 0.01:
            assert many.mean == one.mean
            twin = Drift(0.5)
            twin.load_state(many.state())
            many = twin
