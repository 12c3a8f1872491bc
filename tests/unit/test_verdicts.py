from __future__ import annotations

import numpy as np
import pytest

from app.settings import Delay
from scripts.cells import Run
from scripts.verdicts import (
    Estimate,
    Verdict,
    changed,
    decide,
    frontier,
    headline,
    judged_events,
    say,
    tabulate,
)
from tests.factories import click

DAY_S = 86_400


def run_of(ranks: list[int], lists: list[list[int]] | None = None) -> Run:
    """Return a run in which these are the doubled ranks of the first events, each worth 1."""
    shown = np.array(lists if lists is not None else [], np.uint64).reshape(-1, 10)
    n = len(ranks)
    return Run(
        np.arange(n, dtype=np.int32), np.array(ranks, np.int32), np.ones(n, np.float32), shown, {}
    )


def losing(*losses: tuple[Delay, float, float]) -> list[tuple[Delay, Estimate]]:
    """Return (delay, loss) with the ends of their intervals."""
    return [(delay, Estimate((low + high) / 2, low, high)) for delay, low, high in losses]


def test_a_delay_that_costs_nothing_is_recommended() -> None:
    """Where no delay loses anything, nothing need ever move, and the headline says so."""
    verdict = decide(losing((10, -0.001, 0.002), (3_600, -0.002, 0.003), ("never", 0, 0.004)), 0.01)
    assert (verdict.delay, verdict.is_sure) == ("never", True)
    assert "need not move at all" in say("personal", verdict)
    assert headline(verdict, verdict).startswith("You do not need real time")


def test_a_delay_that_costs_much_is_refused() -> None:
    """Where the shortest delay is shown to lose too much, only live will do."""
    verdict = decide(losing((10, 0.07, 0.09), (3_600, 0.5, 0.52)), 0.01)
    assert (verdict.delay, verdict.is_sure) == (0, True)
    assert say("personal", verdict) == "personal state: live (worth +104.1% HR@20 over hourly)"
    shared = decide(losing((60, 0.0, 0.002), (600, 0.0, 0.004), (3_600, 0.02, 0.03)), 0.01)
    assert say("shared", shared) == "shared state: 10 min is enough (costs 0.20%)"
    assert headline(verdict, shared).startswith("You need real time for each user's own history")


def test_too_few_data_are_called_that() -> None:
    """Where the interval has the threshold in it, the advice is the safe one, and says why."""
    verdict = decide(losing((10, -0.05, 0.06), (60, -0.04, 0.07)), 0.01)
    assert (verdict.delay, verdict.is_sure) == (0, False)
    assert say("personal", verdict).endswith("the data are too few to say more")
    assert headline(verdict, verdict).startswith("These data are too few")


@pytest.mark.parametrize(("n_users", "rank"), [(0, 0), (1, 0), (30, -1)])
def test_nothing_is_concluded_from_nothing(n_users: int, rank: int) -> None:
    """Without a hit, or with those of one user, no delay is shown to cost nothing."""
    stream = [click(f"u{n % n_users}", f"i{n}", at_s=n) for n in range(60 if n_users else 0)]
    run = run_of([rank] * len(stream))
    judged = judged_events(stream, run.place)
    table = tabulate(judged, {"live": run, "late": run}, {"live": "live", "late": "live"})
    verdict = decide([(10, table.loss["late"]["all"]["hr_20"])], 0.01)
    assert (verdict.delay, verdict.is_sure) == (0, False)
    assert headline(verdict, verdict).startswith("These data are too few")


def test_a_headline_says_no_more_than_its_lines() -> None:
    """What is not shown to be too late, nor to be enough, is not called needed."""
    none = Estimate(0, 0, 0)
    maybe, slow, live = (
        Verdict(60, none, is_sure=False, worth=0.0, over=60),
        Verdict(600, none, is_sure=False, worth=0.0, over=600),
        Verdict(0, none, is_sure=True, worth=0.5, over=3_600),
    )
    for personal, shared in ((maybe, live), (maybe, slow), (slow, maybe)):
        assert headline(personal, shared).startswith("These data are too few")
    assert headline(slow, slow).startswith("You do not need real time")
    assert headline(live, maybe).startswith("You need real time for each user's own history, and")


def test_the_same_draws_compare_two_runs() -> None:
    """A run compared with itself loses nothing, with no interval around it; seeds repeat."""
    stream = [click(f"u{n % 9}", f"i{n}", at_s=n) for n in range(60)]
    chance = np.random.default_rng(3)
    one, two = (run_of(chance.integers(-1, 60, 60).tolist()) for _ in range(2))
    judged = judged_events(stream, one.place)
    against = {"one": "one", "two": "one"}
    table = tabulate(judged, {"one": one, "two": two}, against)
    assert table.loss["one"]["all"]["hr_20"] == (0.0, 0.0, 0.0)
    found = table.quality["two"]["all"]["hr_20"]
    assert found.value == pytest.approx(float(np.mean((two.rank >= 0) & (two.rank < 40))))
    assert found.low < found.value < found.high
    again = tabulate(judged, {"one": one, "two": two}, against)
    assert again == table


def test_a_difference_that_is_there_is_outside_its_interval_of_chance() -> None:
    """Half of the hits gone is a loss of half, and its interval does not reach zero."""
    stream = [click(f"u{n}", "i", at_s=n) for n in range(400)]
    one = run_of([0] * 400)
    two = run_of([0, -1] * 200)
    judged = judged_events(stream, one.place)
    table = tabulate(judged, {"one": one, "two": two}, {"one": "one", "two": "one"})
    loss = table.loss["two"]["all"]["hr_20"]
    assert loss.value == 0.5
    assert 0.4 < loss.low < 0.5 < loss.high < 0.6


def test_segments_are_of_the_stream() -> None:
    """Who is new, who is back and which item is new follow from the events before."""
    stream = [click("u", f"i{n}", at_s=n) for n in range(12)]
    stream += [click("u", "i0", at_s=3 * DAY_S), click("v", "i0", at_s=3 * DAY_S + 1)]
    judged = judged_events(stream, np.arange(len(stream), dtype=np.int32))
    found = {name: np.flatnonzero(mask).tolist() for name, mask in judged.segments.items()}
    assert found["new users"] == [0, 1, 2, 13]
    assert found["back after a day"] == [12]
    assert found["old items"] == [12, 13]
    assert sorted(found["new users"] + found["known users"]) == found["all"]


def test_how_much_of_a_list_changes() -> None:
    """Two of ten items that the other list does not have are a fifth; their order is none."""
    lists = [list(range(1, 11)), [0] * 10]
    others = [[12, 11, *range(8, 0, -1)], [0] * 10]
    assert changed(run_of([], lists), run_of([], others)) == pytest.approx(0.2)


def test_the_frontier_leaves_out_what_is_beaten() -> None:
    """On it is what nothing else is both cheaper and better than."""
    points = [("cheap", 1.0, 0.1), ("beaten", 2.0, 0.05), ("good", 3.0, 0.3), ("dear", 4.0, 0.3)]
    assert frontier(points) == ["cheap", "good"]


def test_a_verdict_that_is_late_for_one_kind_says_which() -> None:
    """The headline tells apart which of the two kinds of state has to be fresh."""
    live = Verdict(0, Estimate(0, 0, 0), is_sure=True, worth=0.5, over=3_600)
    slow = Verdict(600, Estimate(0, 0, 0), is_sure=True, worth=0.0, over=600)
    assert "what is learned of all should not" in headline(slow, live)
    assert headline(live, live).startswith("You need real time, for users'")
    assert headline(slow, slow) == "You do not need real time: a batch every 10 min is enough."
