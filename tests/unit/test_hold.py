from __future__ import annotations

import copy
import math
import random
from typing import Any

import orjson
import pytest

from app.detectors import BETS
from app.drafts import Team
from app.gate_data import Clock
from app.hold import Arbiter, Hold, Verdict
from app.settings import EngineSettings
from tests.factories import make_settings
from tests.unit.watching import canonical

NUMBER = 7
START = Clock(event=1_000, learned=900, time_ms=5_000_000)
SETTINGS = make_settings(
    arbiter_credits=40,
    arbiter_alpha=1e-3,
    hold_events=10_000,
    hold_s=3_600,
    hold_quiet=500,
)


def hold(number: int = NUMBER, detector: str = "clicks_over", margin: float = 0.0) -> Hold:
    """Return a HOLD that begins."""
    return Hold(number, START.event, START.time_ms, detector, 0, START.event, margin=margin)


def held(margin: float = 0.1) -> Arbiter:
    """Return an arbiter whose HOLD has just begun."""
    arbiter = Arbiter()
    arbiter.begin(hold(margin=margin))
    return arbiter


def credit(arbiter: Arbiter, team: Team, n: int, number: int = NUMBER) -> None:
    """Give n credits to one side of a HOLD."""
    for _ in range(n):
        arbiter.credit(f"hold:{number}", team)


def later(events: int = 1, seconds: float = 0.0) -> Clock:
    """Return the clock, so much after HOLD has begun."""
    return Clock(START.event + events, START.learned, START.time_ms + round(seconds * 1_000))


def verdict(arbiter: Arbiter, now: Clock | None = None) -> Verdict | None:
    """Return the verdict, soon after HOLD has begun if nothing else is said."""
    return arbiter.verdict(now or later(), SETTINGS)


# -- credits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["hold:6", "hold:77", "hold:", "hold", "challenger:7", "7", "", "hold:7:b"]
)
def test_credits_of_another_hold_do_not_count(name: str) -> None:
    """Clicks on slates of an earlier HOLD, or of a challenger, leave the arbiter as it was."""
    arbiter = held()
    before = canonical(arbiter.state())
    for team in ("a", "b"):
        arbiter.credit(name, team)
    assert canonical(arbiter.state()) == before


def test_credits_outside_of_hold_do_not_count() -> None:
    """Neither before the first HOLD nor after its end is anything counted, or decided."""
    arbiter = Arbiter()
    credit(arbiter, "b", 100, number=0)
    assert arbiter.branch.n == 0
    arbiter = held()
    arbiter.end()
    credit(arbiter, "b", 100)
    arbiter.slate(heard_event=1)
    assert arbiter.branch.n == 0
    assert verdict(arbiter, later(10**6)) is None
    assert arbiter.elapsed(later(10**6), SETTINGS) == 0
    assert not arbiter.is_hopeless(later(10**6), SETTINGS)
    assert arbiter.evidence(later(), SETTINGS) == {}


def test_each_hold_begins_with_nothing_counted() -> None:
    """What was won in one HOLD is no proof in the next."""
    arbiter = held()
    credit(arbiter, "b", 60)
    arbiter.slate(heard_event=1)
    arbiter.end()
    arbiter.begin(hold(NUMBER + 1, "clicks_under"))
    fresh = Arbiter()
    fresh.begin(hold(NUMBER + 1, "clicks_under"))
    assert canonical(arbiter.state()) == canonical(fresh.state())


# -- verdicts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("team", "name"), [("b", "branch_better"), ("a", "anchor_better")])
def test_the_side_that_wins_nearly_all_is_proven_better(team: Team, name: str) -> None:
    """Nine of ten clicks for one side settle it as soon as there are credits enough."""
    arbiter = held()
    other: Team = "a" if team == "b" else "b"
    for n in range(100):
        credit(arbiter, other if n % 10 == 9 else team, 1)
        found = verdict(arbiter)
        if found is not None:
            break
    assert found is not None
    assert found.name == name
    assert n + 1 == SETTINGS.arbiter_credits


@pytest.mark.parametrize("team", ["a", "b"])
def test_fewer_credits_than_asked_for_prove_nothing(team: Team) -> None:
    """However clear, 39 credits of 40 give no verdict; the 40th does."""
    arbiter = held()
    credit(arbiter, team, SETTINGS.arbiter_credits - 1)
    sure = arbiter.branch if team == "b" else arbiter.anchor
    assert sure.is_proven(SETTINGS.arbiter_alpha)
    assert verdict(arbiter) is None
    credit(arbiter, team, 1)
    assert verdict(arbiter) is not None


def test_equal_sides_are_never_told_apart() -> None:
    """Of 2,000 clicks that fall by turns, none proves anything."""
    arbiter = held()
    for _ in range(1_000):
        credit(arbiter, "a", 1)
        assert verdict(arbiter) is None
        credit(arbiter, "b", 1)
        assert verdict(arbiter) is None


def test_a_branch_no_better_is_hardly_ever_adopted() -> None:
    """At an alpha of 5 %, of 300 HOLDs between equals at most 5 % (and 3 sigma) adopt the branch.

    Each is looked at after every one of its 400 credits.
    """
    chance, loose = random.Random(1), make_settings(arbiter_credits=10, arbiter_alpha=0.05)
    n_adopted = 0
    for _ in range(300):
        arbiter = held()
        for _ in range(400):
            credit(arbiter, chance.choice(("a", "b")), 1)
            found = arbiter.verdict(later(), loose)
            if found is not None:
                n_adopted += found.name == "branch_better"
                break
    assert n_adopted <= 300 * 0.05 + 3 * (300 * 0.05 * 0.95) ** 0.5


@pytest.mark.parametrize("margin", [0.0, 0.1])
def test_a_branch_that_is_hardly_better_is_not_adopted(margin: float) -> None:
    """Of 60 that get 52.5 % of 4,000 clicks some are proven better, but none by 0.1.

    So does one that learned a fault of whose events most were honest, and newer than the anchor's.
    """
    chance, n_adopted = random.Random(2), 0
    for _ in range(60):
        arbiter = held(margin)
        for _ in range(4_000):
            team: Team = "b" if chance.random() < 0.525 else "a"
            credit(arbiter, team, 1)
            if arbiter.branch.is_proven(SETTINGS.arbiter_alpha):
                n_adopted += 1
                break
    assert (n_adopted > 3) if margin == 0.0 else (n_adopted == 0)


def test_the_margin_is_the_branchs_alone() -> None:
    """A branch that has to win by more needs more clicks; the anchor needs as many as before."""
    without, with_one = held(0.0), held(0.5)
    for arbiter in (without, with_one):
        for n in range(200):
            credit(arbiter, "a" if n % 5 == 0 else "b", 1)
    assert without.branch.statistic > 1e3 * with_one.branch.statistic
    assert without.anchor.statistic == with_one.anchor.statistic


def test_quiet_ends_hold_after_slates_without_the_alarm() -> None:
    """499 slates in a row without the alarm are not enough, the 500th is."""
    arbiter = held()
    for _ in range(SETTINGS.hold_quiet - 1):
        arbiter.slate()
        assert verdict(arbiter) is None
    arbiter.slate()
    found = verdict(arbiter)
    assert found is not None
    assert (found.name, found.evidence["slates_since_alarm"]) == ("quiet", 500)


def test_an_alarm_heard_again_begins_the_quiet_anew() -> None:
    """As long as the alarm comes back, quiet is not reached; how often it came is on record."""
    arbiter = held()
    for _ in range(3):
        for _ in range(SETTINGS.hold_quiet - 1):
            arbiter.slate()
        arbiter.slate(heard_event=1)
        assert verdict(arbiter) is None
    for _ in range(SETTINGS.hold_quiet):
        assert verdict(arbiter) is None
        arbiter.slate()
    found = verdict(arbiter)
    assert found is not None
    assert (found.name, found.evidence["alarms"], found.evidence["slates"]) == ("quiet", 4, 2_000)


@pytest.mark.parametrize(
    ("before", "at"),
    [(later(9_999), later(10_000)), (later(1, 3_599.999), later(1, 3_600))],
    ids=["events", "time"],
)
def test_hold_max_ends_hold_by_events_or_by_time(before: Clock, at: Clock) -> None:
    """HOLD ends with its last event or second, whichever comes first, and not one before."""
    arbiter = held()
    assert verdict(arbiter, before) is None
    found = verdict(arbiter, at)
    assert found is not None
    assert (found.name, arbiter.elapsed(at, SETTINGS)) == ("hold_max", 1.0)


def test_a_proof_goes_before_the_end() -> None:
    """A branch proven better is adopted, though HOLD would be over, and quiet, too."""
    arbiter = held()
    for _ in range(SETTINGS.hold_quiet):
        arbiter.slate()
    credit(arbiter, "b", 60)
    found = verdict(arbiter, later(10_000))
    assert found is not None
    assert found.name == "branch_better"


# -- trusted users ---------------------------------------------------------------------------------


def heard(others: float = 0.05) -> Arbiter:
    """Return an arbiter that knows by how much more all others click."""
    arbiter = held()
    for _ in range(200):
        arbiter.hear(others, 0.03, is_marked=False)
    return arbiter


def shown(arbiter: Arbiter, surplus: float, n: int) -> list[bool]:
    """Let trusted users click by so much more than is expected; return when a fault is found."""
    found = []
    for _ in range(n):
        arbiter.hear(surplus, 0.03, is_marked=True)
        found.append(arbiter.finds_fault(SETTINGS))
    return found


def test_trusted_users_who_click_so_too_end_hold() -> None:
    """What is heard of everybody, and of them, too, has changed; it is no fault."""
    arbiter = heard()
    assert not any(shown(arbiter, 0.2, 200))
    found = verdict(arbiter)
    assert found is not None
    assert found.name == "trusted_agree"
    assert found.evidence["trusted_statistic"] >= found.evidence["threshold"]


def test_who_is_about_as_the_alarm_rings_is_not_heard() -> None:
    """They helped it to ring: until 100 slates of others have been shown nothing counts."""
    arbiter = held()
    shown(arbiter, 0.8, 60)
    for _ in range(99):
        arbiter.hear(0.05, 0.03, is_marked=False)
    shown(arbiter, 0.8, 60)
    assert arbiter.witnesses.agreement.n == 0
    arbiter.hear(0.05, 0.03, is_marked=False)
    shown(arbiter, 0.8, SETTINGS.arbiter_credits - 1)
    assert arbiter.witnesses.agreement.is_proven(SETTINGS.arbiter_alpha)
    assert verdict(arbiter) is None, "few slates prove no change, however clear"
    shown(arbiter, 0.8, 1)
    found = verdict(arbiter)
    assert found is not None
    assert found.name == "trusted_agree"


def test_trusted_users_who_do_not_click_so_prove_a_fault() -> None:
    """It is said once; the branch is not adopted any more, and is set aside at HOLD's end."""
    arbiter = heard()
    found = shown(arbiter, -0.05, 300)
    assert sum(found) == 1
    assert 100 < found.index(True) < 150
    assert verdict(arbiter) is None, "while it goes on, the anchor is served"
    credit(arbiter, "b", 60)
    assert arbiter.branch.is_proven(SETTINGS.arbiter_alpha)
    assert verdict(arbiter) is None
    ends = verdict(arbiter, later(10_000))
    assert ends is not None
    assert ends.name == "trusted_disagree"
    assert ends.evidence["disagreement_statistic"] >= ends.evidence["threshold"]
    assert not arbiter.is_hopeless(later(9_000), SETTINGS)


def test_a_fault_that_is_past_is_set_aside_by_itself() -> None:
    """Once the alarm is silent it is known when the fault was; the rest is learned again."""
    arbiter = heard()
    shown(arbiter, -0.05, 300)
    for _ in range(SETTINGS.hold_quiet):
        arbiter.slate()
    found = verdict(arbiter, later(10_000))
    assert found is not None
    assert found.name == "quiet"


def test_what_is_within_the_margin_proves_no_change() -> None:
    """Trusted users whose clicks are as expected, or hardly more, never speak for a change.

    As expected is a proof against it; just at the margin they prove neither.
    """
    for surplus, is_fault in ((0.0, True), (0.03, False)):
        arbiter = heard()
        assert any(shown(arbiter, surplus, 3_000)) == is_fault
        assert not arbiter.witnesses.agreement.is_proven(SETTINGS.arbiter_alpha)


@pytest.mark.parametrize(("others", "is_fault"), [(0.3, True), (0.1, False)])
def test_trusted_users_are_compared_with_everybody(others: float, is_fault: bool) -> None:
    """They agree if they go at least half as far as all others, and beyond the margin."""
    arbiter = heard(others)
    assert any(shown(arbiter, 0.1, 1_500)) == is_fault
    assert arbiter.witnesses.agreement.is_proven(SETTINGS.arbiter_alpha) != is_fault
    evidence = arbiter.evidence(later(), SETTINGS)
    assert (evidence["other_slates"], evidence["other_surplus"]) == (200, pytest.approx(others))


@pytest.mark.parametrize(("now", "is_fault"), [(0.2, True), (0.35, False)])
def test_marked_users_are_compared_with_what_is_usual_for_them(now: float, is_fault: bool) -> None:
    """Who always clicks more than others does not agree with an alarm that says so of all."""
    arbiter = Arbiter()
    for _ in range(3_000):
        arbiter.hear(0.2, 0.03, is_marked=True)
        arbiter.hear(-0.02, 0.03, is_marked=False)
    arbiter.begin(hold())
    for _ in range(200):
        arbiter.hear(0.15, 0.03, is_marked=False)
    assert any(shown(arbiter, now, 600)) == is_fault
    assert arbiter.witnesses.agreement.is_proven(SETTINGS.arbiter_alpha) != is_fault
    evidence = arbiter.evidence(later(), SETTINGS)
    assert evidence["usual_marked"] == pytest.approx(0.2, abs=0.02)
    assert evidence["trusted_surplus"] == pytest.approx(now - evidence["usual_marked"])
    assert evidence["other_surplus"] == pytest.approx(0.15 - evidence["usual_others"])


def test_who_only_clicks_as_they_did_is_no_evidence_of_a_fault_of_items() -> None:
    """Where single items led to HOLD there is no direction to agree with."""
    arbiter = Arbiter()
    arbiter.begin(hold(detector="item"))
    assert not any(shown(arbiter, -0.2, 300))
    assert arbiter.witnesses.disagreement.n == 0


def test_a_fault_that_was_found_survives() -> None:
    """The arbiter goes on from its state; in older logs it has the state that it had."""
    arbiter = heard()
    shown(arbiter, -0.05, 300)
    twin = Arbiter()
    twin.load_state(orjson.loads(orjson.dumps(arbiter.state())))
    assert canonical(twin.state()) == canonical(arbiter.state())
    assert twin.hold is not None
    assert twin.hold.is_fault
    just_begun = held()
    restored = Arbiter()
    restored.load_state(just_begun.state())
    for one in (just_begun, restored):
        for is_marked in (False, True):
            for _ in range(150):
                one.hear(0.1, 0.03, is_marked=is_marked)
    assert canonical(restored.state()) == canonical(just_begun.state())
    older = held()
    for _ in range(300):
        older.hear_marked(-0.05, 0.03)
    assert set(older.state()) == {"hold", "branch", "anchor", "agreement"}
    assert "is_fault" not in older.state()["hold"]
    ends = verdict(older, later(10_000))
    assert ends is not None
    assert ends.name == "hold_max"
    assert "disagreement_statistic" not in ends.evidence


# -- no proof to be had ----------------------------------------------------------------------------


def test_a_hopeless_hold_is_told_once() -> None:
    """When a tenth of HOLD has brought no tenth of the credits, that is said, and not again."""
    arbiter = held()
    credit(arbiter, "b", 3)
    assert not arbiter.is_hopeless(later(999), SETTINGS)
    assert arbiter.is_hopeless(later(1_000), SETTINGS)
    assert not arbiter.is_hopeless(later(1_001), SETTINGS)
    assert not arbiter.is_hopeless(later(9_999), SETTINGS)


def test_a_hold_with_credits_enough_is_not_hopeless() -> None:
    """Credits that come as fast as they must are hopeful, until they cease to."""
    arbiter = held()
    credit(arbiter, "b", 4)
    assert not arbiter.is_hopeless(later(1_000), SETTINGS)
    assert arbiter.is_hopeless(later(1_001), SETTINGS)


# -- evidence and state ----------------------------------------------------------------------------


def e_value(n_won: int, n_lost: int, margin: float = 0.0) -> float:
    """Return the betting e-process of so many wins and losses: the order does not matter."""
    win = (1 - margin) / (1 + margin)
    bets = [0.5**k for k in range(1, len(BETS) + 1)]
    return sum((1 + bet * win) ** n_won * (1 - bet) ** n_lost for bet in bets) / len(BETS)


def recomputed(evidence: dict[str, Any], settings: EngineSettings) -> str | None:
    """Return the verdict of some evidence, from the wins alone."""
    branch, anchor = evidence["branch_wins"], evidence["anchor_wins"]
    if branch + anchor < settings.arbiter_credits:
        return None
    if e_value(branch, anchor, evidence["margin"]) >= evidence["threshold"] and branch > anchor:
        return "branch_better"
    is_worse = e_value(anchor, branch) >= evidence["threshold"] and anchor > branch
    return "anchor_better" if is_worse else None


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_the_evidence_is_enough_to_recompute_the_verdict(p: float) -> None:
    """From wins and losses alone, in whatever order, follow both statistics and the verdict."""
    chance, arbiter, found = random.Random(round(p * 10)), held(), None
    while found is None and arbiter.branch.n < 300:
        credit(arbiter, "b" if chance.random() < p else "a", 1)
        found = verdict(arbiter)
        shown = arbiter.evidence(later(), SETTINGS)
        wins, losses = shown["branch_wins"], shown["anchor_wins"]
        assert wins + losses == shown["credits"] == arbiter.branch.n
        assert shown["branch_statistic"] == pytest.approx(
            e_value(wins, losses, shown["margin"]), rel=1e-9
        )
        assert shown["anchor_statistic"] == pytest.approx(e_value(losses, wins), rel=1e-9)
        assert recomputed(shown, SETTINGS) == (found and found.name)
    assert (found is None) == (p == 0.5)
    assert found is None or found.evidence == arbiter.evidence(later(), SETTINGS)


def test_the_least_alpha_has_a_threshold() -> None:
    """What asks for more than any statistic can be is never proven, and is written as a number."""
    settings, arbiter = make_settings(arbiter_alpha=5e-324, arbiter_credits=1), held()
    credit(arbiter, "b", 5_000)
    assert arbiter.verdict(later(), settings) is None
    threshold = arbiter.evidence(later(), settings)["threshold"]
    assert arbiter.branch.statistic < threshold < math.inf


@pytest.mark.parametrize("n", [0, 1, 17, 90])
def test_state_continues_exactly(n: int) -> None:
    """An arbiter made from a state has the same state and verdict, then and later."""
    chance, arbiter, twin = random.Random(n), held(), Arbiter()

    def step(one: Arbiter, draw: float) -> None:
        credit(one, "b" if draw < 0.6 else "a", 1)
        one.slate(heard_event=7 if draw < 0.05 else None)
        one.is_hopeless(later(1_500), SETTINGS)

    for _ in range(n):
        step(arbiter, chance.random())
    twin.load_state(orjson.loads(canonical(arbiter.state())))
    for _ in range(60):
        assert canonical(twin.state()) == canonical(arbiter.state())
        assert verdict(twin) == verdict(arbiter)
        draw = chance.random()
        step(arbiter, draw)
        step(twin, draw)


def test_a_state_is_a_copy() -> None:
    """What was taken as a state does not change while HOLD goes on; no HOLD has a state, too."""
    arbiter = held()
    state = arbiter.state()
    before = copy.deepcopy(state)
    credit(arbiter, "b", 5)
    arbiter.slate(heard_event=1)
    assert state == before
    empty = Arbiter()
    arbiter.load_state(empty.state())
    assert arbiter.hold is None
