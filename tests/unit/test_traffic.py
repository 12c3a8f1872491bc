from __future__ import annotations

import math
import random
from typing import Any

import orjson
import pytest

from app.traffic import Concentration, Rate

MINUTE_MS = 60_000
START_MS = 16_666_667 * MINUTE_MS


def minutes(rate: Rate, counts: list[int], first: int = 0) -> list[float]:
    """Let minutes with so many events each pass; return the values that came out."""
    values: list[float] = []
    for minute, count in enumerate(counts, first):
        for n in range(count):
            at_ms = START_MS + minute * MINUTE_MS + n * MINUTE_MS // count
            values += rate.add(at_ms)
    return values


# -- rate ------------------------------------------------------------------------------------------


def test_a_steady_rate_is_a_half() -> None:
    """Traffic that is as it always was has the value 1/2, minute by minute."""
    assert minutes(Rate(), [20] * 11) == pytest.approx([0.5] * 10)


@pytest.mark.parametrize(("count", "n_values"), [(9, 0), (10, 49), (11, 49)])
def test_a_rate_is_told_only_where_there_are_events_enough(count: int, n_values: int) -> None:
    """With a mean under ten events a minute nothing is yielded; from ten on, each minute."""
    assert len(minutes(Rate(), [count] * 50)) == n_values


def test_a_shop_that_fell_asleep_is_no_longer_told_of() -> None:
    """When the mean has sunk below ten a minute, values cease; they come back with the traffic."""
    rate = Rate()
    assert len(minutes(rate, [12] * 20)) == 19
    assert rate.mean >= 10
    minutes(rate, [2] * 20, first=20)
    assert minutes(rate, [2] * 20, first=40) == []
    minutes(rate, [40] * 200, first=60)
    assert minutes(rate, [40] * 2, first=260) != []


def test_more_events_are_over_a_half_and_fewer_under() -> None:
    """A minute of ten times the traffic comes near 1, one of a tenth near 0."""
    rate = Rate()
    minutes(rate, [50] * 1_000)
    more, fewer = minutes(rate, [500, 5, 50], first=1_000)[1:]
    assert more == pytest.approx(500 / 550, abs=0.01)
    assert fewer == pytest.approx(5 / 55, abs=0.01)


def test_silence_is_heard_minute_by_minute_up_to_an_hour() -> None:
    """Each silent minute is a 0; of a silence of days no more than an hour counts."""
    for silent, expected in ((3, 3), (59, 59), (60, 59), (10_000, 59)):
        rate = Rate()
        minutes(rate, [1_000] * 30)
        values = list(rate.add(START_MS + (30 + silent) * MINUTE_MS))
        assert values[0] == pytest.approx(0.5)
        assert values[1:] == [0.0] * expected


def test_the_first_event_says_nothing() -> None:
    """Before there was an event, time has not passed, whatever the clock shows."""
    assert list(Rate().add(START_MS)) == []


def test_rates_are_within_zero_and_one() -> None:
    """Whatever comes, a value is one that a drift detector may be fed with."""
    chance, rate, values = random.Random(1), Rate(), []
    at_ms = START_MS
    for _ in range(20_000):
        at_ms += int(chance.expovariate(1 / 500.0)) if chance.random() < 0.999 else 5_000_000
        values += list(rate.add(at_ms))
    assert len(values) > 100
    assert all(0.0 <= value < 1.0 for value in values)


def test_the_mean_forgets_after_a_day() -> None:
    """A level that lasts for some days becomes what is usual: 1/2 again."""
    rate = Rate()
    minutes(rate, [20] * 1_440)
    values = minutes(rate, [40] * 6_000, first=1_440)
    assert values[2] > 0.65
    assert values[-1] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("n", [0, 1, 60, 500])
def test_rate_state_continues_exactly(n: int) -> None:
    """A rate made from a state yields the same values, and has the same state, later."""
    chance, rate, twin = random.Random(n), Rate(), Rate()
    at_ms = START_MS
    for _ in range(n):
        at_ms += chance.randrange(6_000)
        list(rate.add(at_ms))
    twin.load_state(orjson.loads(orjson.dumps(rate.state())))
    for _ in range(500):
        assert orjson.dumps(twin.state()) == orjson.dumps(rate.state())
        at_ms += chance.randrange(6_000)
        assert list(twin.add(at_ms)) == list(rate.add(at_ms))


@pytest.mark.parametrize(
    "change", [{"count": -1}, {"n": -1}, {"mean": math.nan}, {"mean": -1.0}, {"mean": math.inf}]
)
def test_a_damaged_rate_is_refused(change: dict[str, Any]) -> None:
    """Counts below nothing, or a mean that is no number, are refused."""
    with pytest.raises(ValueError, match="damaged"):
        Rate().load_state(Rate().state() | change)


# -- concentration ---------------------------------------------------------------------------------


def test_the_concentration_of_one_item_is_whole() -> None:
    """Where every event names one item, each is certain to be among the last."""
    concentration = Concentration()
    assert concentration.add("a" for _ in range(300)) == [0.0] + [1.0] * 299


def test_items_never_named_before_have_none() -> None:
    """Where no two events name the same item there is no concentration, nor a memory of all."""
    concentration = Concentration()
    assert not any(concentration.add(f"i{n}" for n in range(2_000)))
    assert len(concentration.state()) == 256


@pytest.mark.parametrize("n_items", [2, 5, 20])
def test_concentration_is_the_sum_of_squared_shares(n_items: int) -> None:
    """Its mean is that of p squared over the items: 1/n where n items share all events."""
    chance, concentration = random.Random(n_items), Concentration()
    values = concentration.add(f"i{chance.randrange(n_items)}" for _ in range(5_000))
    assert sum(values[256:]) / len(values[256:]) == pytest.approx(1 / n_items, rel=0.05)


def test_one_item_that_takes_a_tenth_is_seen() -> None:
    """A tenth of the events on one item of a thousand raises the mean tenfold."""
    chance, concentration = random.Random(3), Concentration()

    def mean(spam: float, n: int = 4_000) -> float:
        drawn = ("x" if chance.random() < spam else chance.randrange(1_000) for _ in range(n))
        return sum(concentration.add(f"{item}" for item in drawn)) / n

    assert mean(0.0) < 0.002
    assert mean(0.1) > 0.009


def test_only_the_last_256_events_count() -> None:
    """What was named 257 events ago is forgotten, also when it came back in between."""
    concentration = Concentration()
    concentration.add(["a", *(f"i{n}" for n in range(255))])
    assert concentration.add(["a"]) == [1 / 256]
    concentration.add(f"j{n}" for n in range(255))
    assert concentration.add(["a"]) == [1 / 256]
    concentration.add(f"k{n}" for n in range(256))
    assert concentration.add(["a"]) == [0.0]


@pytest.mark.parametrize("n", [0, 1, 255, 256, 1_000])
def test_concentration_state_continues_exactly(n: int) -> None:
    """A concentration made from a state returns the same shares from then on."""
    chance, concentration, twin = random.Random(n), Concentration(), Concentration()
    concentration.add(f"i{chance.randrange(20)}" for _ in range(n))
    twin.load_state(orjson.loads(orjson.dumps(concentration.state())))
    for _ in range(600):
        item = f"i{chance.randrange(20)}"
        assert twin.add([item]) == concentration.add([item])
        assert twin.state() == concentration.state()


def test_a_concentration_of_too_many_is_refused() -> None:
    """A state of more events than are looked at is no state of this."""
    with pytest.raises(ValueError, match="damaged"):
        Concentration().load_state(["a"] * 257)
