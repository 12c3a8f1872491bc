from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest

from app.commands import after_restore, command
from app.detectors import Superiority
from app.gate import Gate
from app.gate_data import Clock, Decision, Losses, Refusal
from app.hold import Hold
from learners.base import ANCHOR, CANDIDATE, CHAMPION, N_VERSIONS, SHADOW
from tests.factories import make_settings

CALM: dict[str, Any] = {
    "warmup_events": 10,
    "promote_events": 10**6,
    "promote_s": 10**6,
    "candidate_events": 10**6,
    "candidate_s": 10**6,
    "candidate_min_events": 1,
    "bless_judged": 20,
    "harm_alarm": 1e6,
    "harm_margin": 0.0,
    "ask_alarm": 1e3,
    "ask_judged": 50,
    "ask_s": 10**6,
    "ask_min_judged": 5,
}
EVEN = (0.5, 0.5, 0.5)


class Shop:
    """A gate over versions that are mere labels: what the shadow was after which event."""

    def __init__(self, *, warm: bool = True, **changes: Any) -> None:
        self.content = ["empty"] * N_VERSIONS
        self.overlap = 1.0
        self.n_overlaps = 0
        self.gate = Gate(make_settings(**(CALM | changes)), self._assign)
        self.clock = Clock()
        if warm:
            self.run(self.gate.settings.warmup_events, None)

    def _assign(self, target: int, source: int) -> int:
        differed = self.content[target] != self.content[source]
        self.content[target] = self.content[source]
        return int(differed)

    def _overlap(self) -> float:
        self.n_overlaps += 1
        return self.overlap

    def run(
        self,
        n: int,
        losses: tuple[float, float, float] | None = EVEN,
        *,
        in_top10: bool = False,
        is_learned: bool = True,
        seconds: float = 1,
    ) -> list[Decision]:
        """Let n events pass (losses of champion, shadow, anchor); return what was decided."""
        n_before = self.gate.data.n_decisions
        for _ in range(n):
            was = self.clock
            time_ms = was.time_ms + round(seconds * 1_000)
            self.clock = Clock(was.event + 1, was.learned + is_learned, time_ms)
            self.content[SHADOW] = f"{self.content[SHADOW].partition('+')[0]}+{self.clock.event}"
            self.gate.after_event(self.clock, losses and Losses(*losses, in_top10))
            if self.gate.is_promotion_due:
                is_asked = self.gate.settings.overlap_min > 0
                self.gate.promote_if_alike(self._overlap() if is_asked else None)
        return self.gate.decisions[
            len(self.gate.decisions) - self.gate.data.n_decisions + n_before :
        ]

    def ask(self, name: str, *, force: bool = False) -> list[Decision]:
        """Give an operator's command; return what was decided."""
        n_before = len(self.gate.decisions)
        command(self.gate, name, "because", "tester", force=force, overlap=self.overlap)
        return self.gate.decisions[n_before:]

    def until(self, kind: str, losses: tuple[float, float, float], limit: int = 10_000) -> int:
        """Let events pass until something is decided; return how many that took."""
        for n in range(1, limit + 1):
            if kind in kinds(self.run(1, losses)):
                return n
        raise AssertionError(f"no {kind} within {limit} events")


def kinds(decisions: list[Decision]) -> list[str]:
    """Return the kinds of some decisions, in order."""
    return [decision.kind for decision in decisions]


def drifting(shop: Shop) -> None:
    """Let a blessed champion's loss jump, so that ADWIN asks."""
    shop.run(400, (0.1, 0.1, 0.1))
    shop.until("ask", (0.9, 0.9, 0.9))


# -- warm-up ---------------------------------------------------------------------------------------


def test_warming_serves_the_shadow_until_the_first_anchor() -> None:
    """The champion follows the shadow up to the warm-up's last event, then both others are made."""
    shop = Shop(warm=False)
    assert shop.run(9, None) == []
    assert (shop.gate.served, shop.gate.reason) == (SHADOW, "warming")
    assert kinds(shop.run(1, None)) == ["first_anchor"]
    assert (shop.gate.served, shop.gate.reason) == (CHAMPION, None)
    assert shop.content[CHAMPION] == shop.content[ANCHOR] == "empty+10"
    assert shop.gate.data.version == 1


def test_warming_counts_learned_events() -> None:
    """Events that teach nothing do not warm."""
    shop = Shop(warm=False)
    assert shop.run(50, None, is_learned=False) == []


def test_a_gate_that_is_off_decides_nothing() -> None:
    """Off, the shadow is served for ever, and nothing is measured."""
    shop = Shop(gate="off", promote_events=1)
    assert shop.run(100, (1.0, 0.0, 0.0)) == []
    assert (shop.gate.served, shop.gate.reason) == (SHADOW, "off")
    with pytest.raises(Refusal, match="off"):
        shop.ask("rollback")


# -- promotion -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "seconds", "expected"),
    [
        ({"promote_events": 30}, 0.0, 30),
        ({"promote_s": 60}, 10.0, 6),
        ({"promote_s": 600}, 700.0, 1),
        ({"promote_s": 600}, 100.0, 6),
    ],
)
def test_promotion_is_due_by_count_or_by_time(
    changes: dict[str, Any], seconds: float, expected: int
) -> None:
    """A promotion comes after so many events, or so much event time with so many, each time."""
    shop = Shop(**changes)
    for _ in range(3):
        assert shop.run(expected - 1, seconds=seconds) == []
        (promotion,) = shop.run(1, seconds=seconds)
        assert promotion.kind == "promote"
        assert promotion.evidence["events"] == expected
        assert promotion.evidence["overlap"] == 1.0
        assert promotion.evidence["rows"] == 1
        assert shop.content[CHAMPION] == shop.content[SHADOW]
        assert shop.gate.data.champion.event == shop.clock.event


def test_events_that_were_not_judged_count_for_promotion() -> None:
    """Cadences count admitted events, judged or not, learned or not."""
    shop = Shop(promote_events=30)
    assert shop.run(29, None, is_learned=False) == []
    assert kinds(shop.run(1, None, is_learned=False)) == ["promote"]


def test_unlike_slates_refuse_a_promotion() -> None:
    """With too little overlap the champion stays, and the refusal says the numbers and asks."""
    shop = Shop(promote_events=30)
    shop.overlap = 0.39
    refused, asked = shop.run(30)
    assert (refused.kind, asked.kind, asked.reason) == ("promotion_refused", "ask", "overlap")
    assert refused.evidence["overlap"] == 0.39
    assert refused.evidence["threshold"] == 0.4
    assert (shop.gate.data.state, shop.gate.reason) == ("ask", "overlap")
    assert shop.content[CHAMPION] == "empty+10"


def test_without_a_threshold_nothing_is_compared() -> None:
    """overlap_min = 0 turns the check off, and its cost."""
    shop = Shop(promote_events=30, overlap_min=0)
    shop.overlap = 0.0
    (promotion,) = shop.run(30)
    assert promotion.evidence["overlap"] is None
    assert shop.n_overlaps == 0


# -- ASK -------------------------------------------------------------------------------------------


def test_ask_promotes_nothing_and_ends_unless_the_shadow_is_worse() -> None:
    """While it asks the champion stays; a shadow that is no worse opens the gate again."""
    shop = Shop(promote_events=30, ask_judged=50)
    shop.overlap = 0.35
    shop.run(30)
    shop.overlap = 1.0
    assert shop.run(49) == []
    assert shop.content[CHAMPION] == "empty+10"
    resolved, promoted = shop.run(1)
    assert (resolved.kind, promoted.kind) == ("ask_resolved", "promote")
    assert resolved.evidence["judged"] == 50
    assert resolved.evidence["mean_shadow_minus_champion"] == 0.0


def test_ask_ends_by_time_with_fewer_judged() -> None:
    """After `ask_s` the few judged events that it needs at least are enough."""
    shop = blessed(ask_s=300, ask_judged=100, ask_min_judged=40)
    drifting(shop)
    trial = shop.gate.data.ask_trial
    assert trial is not None
    n_missing = 40 - trial.n
    assert "ask_resolved" not in kinds(shop.run(n_missing - 1, (0.9, 0.9, 0.9), seconds=1_000))
    assert "ask_resolved" in kinds(shop.run(1, (0.9, 0.9, 0.9), seconds=1_000))


def test_a_refused_promotion_takes_the_longer_look() -> None:
    """What was refused for its slates is promoted after `ask_judged`, however late it is."""
    shop = Shop(promote_events=30, ask_s=300, ask_min_judged=5, ask_judged=50)
    shop.overlap = 0.35
    shop.run(30)
    assert shop.run(49, seconds=1_000) == []
    assert kinds(shop.run(1, seconds=1_000)) == ["ask_resolved", "promote"]


def test_ask_does_not_end_on_events_that_were_not_judged() -> None:
    """A question needs answers: unjudged events are none."""
    shop = Shop(promote_events=30, ask_s=1, ask_min_judged=5)
    shop.overlap = 0.35
    shop.run(30)
    assert shop.run(500, None) == []


def test_a_question_answered_is_not_asked_again_at_once() -> None:
    """A shadow that differs, but was shown no worse, reaches the champion in the end."""
    shop = Shop(promote_events=30, ask_judged=50)
    shop.overlap = 0.3
    shop.run(1_000, (0.5, 0.4, 0.5))
    assert shop.content[CHAMPION] != "empty+10", "refused for ever, however good the shadow is"


def test_ask_returns_a_worse_shadow_to_the_champion() -> None:
    """A shadow shown worse is set back, and the window that it learned is named."""
    shop = Shop(promote_events=30, ask_judged=10**6)
    shop.overlap = 0.35
    shop.run(30)
    shop.overlap = 1.0
    shop.until("shadow_reset", (0.2, 0.9, 0.2), limit=100)
    reset = next(d for d in shop.gate.decisions if d.kind == "shadow_reset")
    assert shop.content[SHADOW] == shop.content[CHAMPION] == "empty+10"
    assert reset.evidence["set_aside"] == [11, shop.clock.event]
    assert reset.evidence["statistic"] >= reset.evidence["threshold"] == 1e3
    assert shop.gate.data.state == "open"


# -- candidates and blessing -----------------------------------------------------------------------


def test_a_blessing_needs_evidence() -> None:
    """A candidate that is no worse than the anchor over its judged events becomes the anchor."""
    shop = Shop(promote_events=10, candidate_events=100, bless_judged=20)
    shop.run(100)
    assert "candidate" in kinds(shop.gate.decisions)
    put_aside = shop.content[CANDIDATE]
    decisions = shop.run(20, (0.4, 0.4, 0.5))
    bless = next(d for d in decisions if d.kind == "bless")
    assert bless.evidence["judged"] == 20
    assert bless.evidence["mean_champion_minus_anchor"] == pytest.approx(-0.1)
    assert shop.content[ANCHOR] == put_aside
    assert shop.gate.data.anchor.event == int(put_aside.partition("+")[2])
    assert shop.gate.data.n_blessings == 1


def test_a_worse_candidate_is_dropped() -> None:
    """A candidate over whose time the champion did worse than the anchor is no anchor."""
    shop = Shop(candidate_events=100, bless_judged=20)
    shop.run(100)
    dropped = shop.run(20, (0.51, 0.51, 0.5))[-1]
    assert dropped.kind == "candidate_dropped"
    assert dropped.evidence["mean_champion_minus_anchor"] == pytest.approx(0.01)
    assert shop.content[ANCHOR] == "empty+10"
    assert not shop.gate.data.is_blessed


@pytest.mark.parametrize(
    ("changes", "seconds", "expected"),
    [
        ({"candidate_events": 40}, 0.0, 40),
        ({"candidate_s": 3_600, "candidate_min_events": 9}, 1_000.0, 9),
        ({"candidate_s": 3_600, "candidate_min_events": 2}, 1_000.0, 4),
    ],
)
def test_candidates_come_by_count_or_by_time(
    changes: dict[str, Any], seconds: float, expected: int
) -> None:
    """A champion is put aside after so many learned events, or so much time with so many."""
    shop = Shop(**changes)
    assert shop.run(expected - 1, None, seconds=seconds) == []
    assert kinds(shop.run(1, None, seconds=seconds)) == ["candidate"]
    assert kinds(shop.run(5 * expected, None, seconds=seconds)) == [], "one candidate at a time"


def test_a_question_drops_the_candidate() -> None:
    """Whatever alarmed, what was put aside meanwhile is not blessed."""
    shop = Shop(candidate_events=20, promote_events=30, bless_judged=100)
    shop.overlap = 0.1
    shop.run(30)
    assert kinds(shop.gate.decisions)[-4:] == [
        "candidate", "promotion_refused", "candidate_dropped", "ask"
    ]  # fmt: skip
    assert shop.gate.data.candidate_trial is None


# -- harm ------------------------------------------------------------------------------------------


def test_harm_rolls_everything_back_to_the_anchor() -> None:
    """Alarm, rollback and probation follow each other, with their numbers; the anchor serves."""
    shop = Shop(promote_events=50, candidate_events=60, bless_judged=10**6)
    shop.run(65)
    version = shop.gate.data.version
    n = shop.until("rollback", (0.9, 0.9, 0.5), limit=200)
    assert n < 100
    dropped, alarm, rollback, ask = shop.gate.decisions[-4:]
    assert kinds([dropped, alarm, rollback, ask]) == [
        "candidate_dropped", "alarm", "rollback", "ask"
    ]  # fmt: skip
    assert alarm.evidence["detector"] == "harm"
    assert alarm.evidence["statistic"] >= alarm.evidence["threshold"] == 1e6
    assert rollback.evidence["learned_again"] == [[11, shop.clock.event]]
    assert shop.content[SHADOW] == shop.content[CHAMPION] == shop.content[ANCHOR] == "empty+10"
    assert (shop.gate.data.state, shop.gate.reason) == ("ask", "probation")
    assert shop.gate.data.candidate_trial is None
    assert shop.gate.data.version > version
    assert all(d.statistic == 0 for d in shop.gate.watch.harm.values())
    job = shop.gate.take_relearn()
    assert job is not None
    assert job.windows == [[11, shop.clock.event]]
    assert shop.gate.take_relearn() is None


def test_harm_is_seen_behind_exposure() -> None:
    """Clicks that go to whatever is shown hide harm from one detector, not from the other."""
    shop = Shop()
    for _ in range(400):
        shop.run(1, (0.0, 0.0, 0.4), in_top10=True)
        shop.run(1, (0.9, 0.9, 0.6))
        if "rollback" in kinds(shop.gate.decisions):
            break
    assert shop.gate.decisions[-2].kind == "rollback"
    assert shop.gate.decisions[-2].reason == "harm_outside"


@pytest.mark.parametrize("mode", ["freeze", "shadow_only"])
def test_harm_acts_in_every_mode(mode: str) -> None:
    """A frozen gate, too, returns the champion to the anchor."""
    shop = Shop(promote_events=20)
    shop.run(20)
    shop.ask(mode)
    shop.until("rollback", (0.9, 0.9, 0.5), limit=200)
    assert shop.content[CHAMPION] == "empty+10"


def test_no_harm_no_alarm() -> None:
    """A champion that is better than its anchor is left alone, and never rolled back."""
    shop = Shop(promote_events=10)
    shop.run(2_000, (0.4, 0.4, 0.5))
    assert set(kinds(shop.gate.decisions)) == {"first_anchor", "promote"}


# -- drift -----------------------------------------------------------------------------------------


def blessed(**changes: Any) -> Shop:
    """Return a shop whose anchor is blessed."""
    shop = Shop(candidate_events=20, bless_judged=20, **changes)
    shop.run(60, (0.1, 0.1, 0.1))
    assert shop.gate.data.is_blessed
    return shop


def test_drift_upward_asks() -> None:
    """A loss that rises after the first blessing asks, with the means on both sides."""
    shop = blessed(promote_events=10, ask_judged=500)
    drifting(shop)
    alarm = next(d for d in shop.gate.decisions if d.kind == "alarm")
    assert alarm.evidence["detector"] == "loss"
    assert alarm.evidence["mean_before"] < alarm.evidence["mean_after"]
    assert (shop.gate.data.state, shop.gate.reason) == ("ask", "loss")
    before = shop.content[CHAMPION]
    assert "promote" not in kinds(shop.run(400, (0.9, 0.9, 0.9)))
    assert shop.content[CHAMPION] == before
    assert "ask_resolved" in kinds(shop.run(101, (0.9, 0.9, 0.9)))


def test_drift_downward_asks_nothing() -> None:
    """A loss that falls is learning at work: noted, and left alone."""
    shop = blessed()
    shop.run(400, (0.9, 0.9, 0.9))
    shop.run(600, (0.5, 0.5, 0.5))
    last = [decision.kind for decision in shop.gate.decisions if decision.kind != "bless"]
    n_asked = last.count("ask")
    shop.until("drift", (0.1, 0.1, 0.1))
    assert kinds(shop.gate.decisions).count("ask") == n_asked


def test_drift_is_not_armed_before_a_blessing() -> None:
    """Before the first blessing there is nothing to compare with."""
    shop = Shop()
    shop.run(400, (0.1, 0.1, 0.1))
    assert shop.run(400, (0.9, 0.9, 0.9)) == []


# -- operators -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "mode"), [("freeze", "frozen"), ("shadow_only", "shadow_only")])
def test_modes_hold_promotion_until_resume(name: str, mode: str) -> None:
    """Frozen or shadow-only, nothing is promoted nor put aside; resumed, it is at once."""
    shop = Shop(promote_events=30, candidate_events=30)
    (changed,) = shop.ask(name)
    assert (changed.kind, changed.asked_by, changed.reason) == (name, "tester", "because")
    assert shop.gate.data.mode == mode
    assert shop.run(100) == []
    (resumed,) = shop.ask("resume")
    assert resumed.evidence["mode_was"] == mode
    assert "promote" in kinds(shop.run(1))


def test_promote_by_hand() -> None:
    """An operator may promote before it is due; the record names them."""
    shop = Shop()
    shop.run(5)
    (promotion,) = shop.ask("promote")
    assert (promotion.kind, promotion.asked_by) == ("promote", "tester")
    assert shop.content[CHAMPION] == shop.content[SHADOW]


def test_promote_by_hand_is_refused_unless_forced() -> None:
    """In ASK, frozen, warming, or with unlike slates, an operator must insist."""
    shop = Shop(promote_events=30)
    shop.overlap = 0.1
    with pytest.raises(Refusal, match=r"overlap@10 is 0\.100"):
        shop.ask("promote")
    shop.run(30)
    with pytest.raises(Refusal, match="the gate is ask"):
        shop.ask("promote")
    assert kinds(shop.ask("promote", force=True)) == ["ask_resolved", "promote"]
    assert shop.gate.data.state == "open"
    shop.ask("freeze")
    with pytest.raises(Refusal, match="the mode frozen"):
        shop.ask("promote")
    with pytest.raises(Refusal, match="warming"):
        Shop(warm=False).ask("promote", force=True)


def test_a_refusal_changes_nothing() -> None:
    """What is refused leaves neither record nor trace."""
    shop = Shop(promote_events=30)
    shop.overlap = 0.1
    shop.run(30)
    before = copy.deepcopy((shop.gate.state(), shop.content))
    with pytest.raises(Refusal):
        shop.ask("promote")
    assert (repr(shop.gate.state()), shop.content) == (repr(before[0]), before[1])


def test_rollback_by_hand() -> None:
    """An operator may return to the anchor at any time, with one refusal: when there is none."""
    with pytest.raises(Refusal, match="warming"):
        Shop(warm=False).ask("rollback")
    shop = Shop(promote_events=20, candidate_events=15, bless_judged=100)
    shop.run(20)
    decisions = shop.ask("rollback")
    assert decisions[-1].kind == "rollback"
    assert decisions[-1].asked_by == "tester"
    assert decisions[-1].evidence["champion_was"]["event"] == 30
    assert shop.content[SHADOW] == shop.content[CHAMPION] == "empty+10"
    assert "candidate_dropped" in kinds(decisions), "what became of the candidate is on record"


def test_decisions_are_numbered_and_carry_the_anchors_age() -> None:
    """Each decision has its number, event and time, and how old the anchor was."""
    shop = Shop(promote_events=10)
    shop.run(25)
    assert [d.number for d in shop.gate.decisions] == [1, 2, 3]
    last = shop.gate.decisions[-1]
    assert (last.event, last.time_ms) == (30, 30_000)
    assert (last.evidence["anchor_age_events"], last.evidence["anchor_age_s"]) == (20, 20)


def test_detectors_are_shown_with_threshold_and_arming() -> None:
    """Each detector tells its statistic, its threshold, and whether it counts yet."""
    shown = {d["name"]: d for d in Shop(warm=False).gate.detectors()}
    assert not any(d["armed"] for d in shown.values())
    shown = {d["name"]: d for d in Shop().gate.detectors()}
    armed = {"harm", "harm_outside", "clicks_over", "clicks_under", "item"}
    assert {name for name, d in shown.items() if d["armed"]} == armed
    shop = blessed(promote_events=10, ask_judged=500)
    drifting(shop)
    shown = {d["name"]: d for d in shop.gate.detectors()}
    assert all(d["armed"] for d in shown.values())
    assert (shown["harm"]["threshold"], shown["ask"]["threshold"]) == (1e6, 1e3)


# -- state -----------------------------------------------------------------------------------------

PHASES: list[tuple[int, tuple[float, float, float], float]] = [
    (45, EVEN, 1.0),
    (60, (0.4, 0.4, 0.5), 0.2),
    (100, (0.4, 0.6, 0.5), 1.0),
    (70, (0.9, 0.9, 0.4), 1.0),
    (60, (0.3, 0.3, 0.5), 0.9),
]
LIVELY: dict[str, Any] = {"promote_events": 20, "candidate_events": 30, "bless_judged": 15}


@pytest.mark.parametrize("at", [0, 5, 30, 60, 75, 110, 150, 210, 260, 300])
def test_state_continues_identically(at: int) -> None:
    """A gate made from any state decides as the original does from then on."""
    shop, twin = Shop(**LIVELY), Shop(**LIVELY)
    phases = [(losses, overlap) for n, losses, overlap in PHASES for _ in range(n)]
    for losses, shop.overlap in phases[:at]:
        shop.run(1, losses)
    twin.gate.load_state(copy.deepcopy(shop.gate.state()))
    twin.content, twin.clock = list(shop.content), shop.clock
    for losses, overlap in phases[at:]:
        shop.overlap = twin.overlap = overlap
        assert shop.run(1, losses) == twin.run(1, losses)
        assert shop.content == twin.content
    assert repr(shop.gate.state()) == repr(twin.gate.state())
    happened = {"promote", "candidate", "bless", "promotion_refused", "ask", "rollback"}
    assert happened <= set(kinds(shop.gate.decisions))


def test_a_restore_keeps_the_record() -> None:
    """Into a running gate comes the statistics' state; mode, numbers and decisions stay."""
    old = Shop(**LIVELY)
    old.run(40, (0.7, 0.7, 0.5))
    saved = copy.deepcopy(old.gate.state())
    shop = Shop(**LIVELY)
    shop.run(60)
    shop.ask("freeze")
    before = list(shop.gate.decisions)
    version, number = shop.gate.data.version, shop.gate.data.n_decisions
    shop.gate.load_state(saved, keep_record=True)
    after_restore(shop.gate, "s-1", "why", "tester", 0.9, 0)
    assert shop.gate.decisions[:-1] == before
    last = shop.gate.decisions[-1]
    assert (last.kind, last.number, last.evidence["overlap"]) == ("restore", number + 1, 0.9)
    assert (shop.gate.data.mode, shop.gate.data.version) == ("frozen", version + 1)
    assert shop.gate.watch.harm["harm"].statistic == old.gate.watch.harm["harm"].statistic > 0
    assert shop.gate.now == shop.clock


def test_a_restore_that_serves_something_else_asks() -> None:
    """After a restore the overlap with what served before is checked like a promotion's."""
    shop = Shop(**LIVELY)
    shop.run(5)
    shop.gate.load_state(copy.deepcopy(shop.gate.state()), keep_record=True)
    after_restore(shop.gate, "s-1", "why", "tester", 0.2, 0)
    assert (shop.gate.data.state, shop.gate.reason) == ("ask", "overlap")


@pytest.mark.parametrize("semantics", [9, 10])
def test_single_items_are_learned_anew_where_the_world_has_changed(semantics: int) -> None:
    """What they were clicked before a change that was adopted is no longer held against them.

    Until semantics version 10 it was: what came to be liked was under suspicion long after. And a
    branch had to be better than the anchor, by however little.
    """
    shop = Shop(arbiter_credits=10, item_armed=5)
    margin = 0.0 if semantics < 10 else shop.gate.settings.arbiter_margin
    shop.gate.follow(semantics)
    items = shop.gate.watch.items
    for _ in range(50):
        items.update(
            ["x"], np.array([0.1]), np.array([0.0]), armed=5, margin=0.1, threshold=math.inf
        )
    shop.gate.data.state = "hold"
    shop.gate.arbiter.begin(Hold(3, 0, 0, "clicks_under", 0, 0, margin=margin))
    for _ in range(30):
        shop.gate.credit("hold:3:b")
    sure = shop.gate.arbiter.branch.statistic
    assert "adopt" in kinds(shop.run(1))
    assert int(items.n_shown.sum()) == (50 if semantics < 10 else 0)
    evidence = shop.gate.decisions[-1].evidence
    assert evidence["branch_statistic"] == sure
    assert evidence.get("margin", 0.0) == margin
    even = Superiority()
    for _ in range(30):
        even.update(1.0, margin)
    assert sure == even.statistic


@pytest.mark.parametrize(("semantics", "said"), [(9, [30, 90]), (10, [51, 90])])
def test_a_rollback_says_what_it_has_set_aside(semantics: int, said: list[int]) -> None:
    """What the anchor knows is not set aside, however long the fault may have been there."""
    shop = Shop()
    shop.run(90)
    shop.gate.follow(semantics)
    shop.gate.data.anchor.event = 50
    shop.gate.roll_back("quiet", "gate", {}, aside=[30, 90])
    assert shop.gate.data.set_aside == [[51, 90]]
    assert shop.gate.decisions[-1].evidence["set_aside"] == said
