from __future__ import annotations

import math
import random

import pytest

from app.judge import Pace, Prequential, loss_of
from learners.kernels import MISS


def ranks(n: int, seed: int = 1) -> list[int]:
    """Return some doubled ranks, near and far, halves and misses."""
    chance = random.Random(seed)
    return [chance.choice([MISS, chance.randrange(50), chance.randrange(300)]) for _ in range(n)]


def worth(doubled_rank: int) -> float:
    """Return a reward for an event, another one for each rank."""
    return doubled_rank % 7 / 7


def by_hand(doubled: list[int]) -> dict[str, float]:
    """Return the metrics of some doubled ranks, by their definitions."""
    found = [d / 2 for d in doubled if d != MISS]
    return {
        "judged": len(doubled),
        "hr_10": sum(r < 10 for r in found) / len(doubled),
        "hr_20": sum(r < 20 for r in found) / len(doubled),
        "mrr_20": sum(1 / (r + 1) for r in found if r < 20) / len(doubled),
        "dcg_20": sum(1 / math.log2(r + 2) for r in found if r < 20) / len(doubled),
        "reward_10": sum(worth(d) for d in doubled if d != MISS and d < 20) / len(doubled),
    }


def test_metrics_are_their_definitions() -> None:
    """Over all events and over the last 1,000, the means are those of a direct computation."""
    doubled, judge = ranks(2_345), Prequential()
    for rank in doubled:
        judge.add(rank, worth(rank))
    view = judge.view()
    recent = view.pop("recent")
    assert view == pytest.approx(by_hand(doubled))
    assert recent == pytest.approx(by_hand(doubled[-1_000:]))


def test_nothing_judged_is_zero() -> None:
    """Before the first event every mean is 0, not an error."""
    view = Prequential().view()
    recent = view.pop("recent")
    assert set(view.values()) == set(recent.values()) == {0}


@pytest.mark.parametrize("doubled", range(201))
def test_loss_is_its_formula(doubled: int) -> None:
    """Down to rank 100 the loss is 1 - 1/log2(rank + 2)."""
    assert loss_of(doubled) == pytest.approx(1 - 1 / math.log2(doubled / 2 + 2))


@pytest.mark.parametrize("doubled", [MISS, 201, 10_000])
def test_loss_beyond_the_deepest_rank_is_one(doubled: int) -> None:
    """No rank, and a rank past 100, cost all."""
    assert loss_of(doubled) == 1.0


def test_loss_grows_with_the_rank_within_bounds() -> None:
    """A better rank never costs more, and every loss is in [0, 1]."""
    losses = [loss_of(doubled) for doubled in range(300)]
    assert losses[0] == 0.0
    assert losses == sorted(losses)
    assert losses[-1] == 1.0


@pytest.mark.parametrize("n", [0, 1, 999, 1_000, 1_001, 2_345])
def test_state_continues_identically(n: int) -> None:
    """Sums made from a state go on as the original's do, to the last bit."""
    judge, twin = Prequential(), Prequential()
    for rank in ranks(n):
        judge.add(rank, worth(rank))
    twin.load_state(judge.state())
    assert twin.view() == judge.view()
    for rank in ranks(700, seed=2):
        judge.add(rank, worth(rank))
        twin.add(rank, worth(rank))
    assert twin.view() == judge.view()


def parts(per_second: list[int], most: int) -> list[list[float]]:
    """Return the part that is judged at each event of each second, of so many."""
    pace, found = Pace(), list[list[float]]()
    for second, n in enumerate(per_second):
        found.append([])
        for event in range(n):
            time_ms = 1_700_000_000_000 + second * 1_000 + event * 1_000 // n
            found[-1] += pace.count([time_ms], [time_ms], most)
    return found


def test_where_few_come_all_are_judged() -> None:
    """Up to so many a second; and of any number where there is no limit."""
    assert {part for second in parts([100, 1, 100, 0, 99], 100) for part in second} == {1.0}
    assert {part for second in parts([5_000, 5_000], 0) for part in second} == {1.0}


def test_of_many_as_many_are_judged_as_are_wanted() -> None:
    """From the second second on; in the first, some more; after a silence it begins anew."""
    first, second, third, _, after = parts([4_000, 4_000, 1_000, 0, 50], 100)
    assert 100 < sum(first) < 100 * (1 + math.log(40)) + 1
    assert sum(second) == pytest.approx(100)
    assert set(third) == {100 / 4_000}
    assert set(after) == {1.0}


def judged_per_s(rate: int, *, ahead_s: int, each_s: int, most: int) -> float:
    """Return how many are judged a second, where one clock of many is ahead now and then."""
    pace, watermark_ms, found = Pace(), 0, list[float]()
    for number in range(rate * 120):
        time_ms = 1_700_000_000_000 + number * 1_000 // rate
        if number % (rate * each_s) == 0:
            watermark_ms = max(watermark_ms, time_ms + ahead_s * 1_000)
            pace.count([time_ms + ahead_s * 1_000], [watermark_ms], most)
        watermark_ms = max(watermark_ms, time_ms)
        found += pace.count([time_ms], [watermark_ms], most)
    return sum(found[rate:]) / 119


@pytest.mark.parametrize(("ahead_s", "each_s"), [(5, 5), (5, 10), (60, 60)])
def test_one_clock_that_is_ahead_changes_nothing(ahead_s: int, each_s: int) -> None:
    """Where few come all are judged, and of many as many as are wanted."""
    assert judged_per_s(90, ahead_s=ahead_s, each_s=each_s, most=100) == 90
    many = judged_per_s(400, ahead_s=ahead_s, each_s=each_s, most=100)
    assert many == pytest.approx(100, rel=0.01)


@pytest.mark.parametrize("late_s", [64, 120, 3_600])
def test_what_is_late_by_more_than_a_minute_counts_as_of_now(late_s: int) -> None:
    """No more are judged where half of what comes has waited somewhere."""
    pace, found = Pace(), list[float]()
    for number in range(60_000):
        now_ms = 1_700_000_000_000 + number
        for time_ms in (now_ms, now_ms - late_s * 1_000):
            found += pace.count([time_ms], [now_ms], 100)
    assert sum(found[2_000:]) == pytest.approx(59 * 100, rel=0.01)


def test_a_pace_goes_on_from_its_state() -> None:
    """What comes next is judged as if nothing had been in between."""
    one, other = Pace(), Pace()
    for number in range(700):
        one.count([number * 3], [number * 3], 50)
    other.load_state(one.state())
    for number in range(700, 2_000):
        [part] = one.count([number * 3], [number * 3], 50)
        assert other.count([number * 3], [number * 3], 50) == [part]
        assert one.part(50) == part <= 1
    assert one.state() == other.state()


def test_a_pace_counts_many_as_one_by_one() -> None:
    """Also those that are late, or of the next second; a copy counts for itself."""
    chance, now_ms = random.Random(1), 1_700_000_000_000
    many, one = Pace(), Pace()
    for _ in range(200):
        times_ms, watermarks_ms = [], []
        for _ in range(chance.randrange(40)):
            now_ms += chance.choice([0, 1, 30, 700])
            watermarks_ms.append(now_ms)
            times_ms.append(now_ms - chance.choice([0, 0, 5, 900, 63_500, 64_500, 10**6]))
        before, copy = many.state(), many.copy()
        parts = [one.count([t], [w], 3)[0] for t, w in zip(times_ms, watermarks_ms, strict=True)]
        assert copy.count(times_ms, watermarks_ms, 3) == parts
        assert many.state() == before
        assert many.count(times_ms, watermarks_ms, 3) == parts
        assert many.state() == copy.state() == one.state()
