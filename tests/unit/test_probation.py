from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from app.commands import command
from app.gate import Gate
from app.gate_data import Clock, Losses
from tests.factories import make_settings
from tests.unit.watching import canonical

# What decides here are the defaults; only what else would happen is put off.
DEFAULTS: dict[str, Any] = {
    "warmup_events": 10,
    "candidate_events": 10**9,
    "candidate_s": 10**9,
    "ask_judged": 500,
    "probation_judged": 2_000,
    "hold_events": 50_000,
}
EVEN = (0.5, 0.5, 0.5)
HARM = (0.9, 0.9, 0.4)


class Shop:
    """A gate over versions without content; an event a second."""

    def __init__(self, **changes: Any) -> None:
        self.gate = Gate(make_settings(**(DEFAULTS | changes)), lambda target, source: 0)
        self.n = 0
        self.run(10, None)

    def run(
        self,
        n: int,
        losses: tuple[float, float, float] | None = EVEN,
        *,
        answers: bool = False,
    ) -> Shop:
        """Let n events pass, with losses of champion, shadow and anchor."""
        for _ in range(n):
            self.n += 1
            given = losses and Losses(*losses, in_top10=False, answers=answers)
            self.gate.after_event(Clock(self.n, self.n, self.n * 1_000), given)
            self.gate.take_relearn()
        return self

    def until(self, kind: str, losses: tuple[float, float, float], limit: int = 60_000) -> int:
        """Let events pass until something is decided; return how many that took."""
        n_before = self.kinds().count(kind)
        for n in range(1, limit + 1):
            self.run(1, losses)
            if self.kinds().count(kind) > n_before:
                return n
        raise AssertionError(f"no {kind} within {limit} events: {self.kinds()[-8:]}")

    def kinds(self) -> list[str]:
        """Return the kinds of all decisions, in order."""
        return [decision.kind for decision in self.gate.decisions]

    def wanted(self) -> int:
        """Return how many judged events the probation wants."""
        ask = next(d for d in reversed(self.gate.decisions) if d.kind == "ask")
        return int(ask.evidence["judged_wanted"])

    def spam(self, item: str) -> None:
        """Show an item beside others until it is suspected."""
        n_before = self.kinds().count("alarm")
        chance = np.random.default_rng(1)
        for n in range(2_000):
            clicked = (chance.random(3) < 0.1).astype(np.float64)
            clicked[1] = float(chance.random() < 0.9) if n > 120 else clicked[1]
            others = [f"x{chance.integers(500)}", item, f"y{chance.integers(500)}"]
            self.gate.after_slate(others, np.full(3, 0.1), clicked, 1_000)
            if self.kinds().count("alarm") > n_before:
                return
        raise AssertionError("nothing was suspected")


# -- how long --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shadow", [0.5, 0.49, 0.48])
def test_a_shadow_that_is_no_worse_passes_its_probation(shadow: float) -> None:
    """At the defaults a shadow as good as the champion, or better, is promoted in the end."""
    shop = Shop()
    shop.until("rollback", HARM)
    assert shop.gate.reason == "probation"
    shop.run(10_000, (0.5, shadow, 0.5))
    assert "shadow_reset" not in shop.kinds()
    assert shop.gate.data.state == "open"


def test_what_was_shown_is_no_evidence() -> None:
    """Clicks on what the champion shows make its order look better: they neither fail nor pass."""
    shop = Shop(probation_judged=1_000)
    shop.until("rollback", HARM)
    shop.run(5_000, (0.2, 0.6, 0.4), answers=True)
    assert shop.gate.reason == "probation"
    assert shop.until("ask_resolved", EVEN) == 1_000


def test_where_all_is_shown_a_question_still_ends() -> None:
    """After as many events as HOLD may last the shadow is taken for no worse."""
    shop = Shop(hold_events=3_000)
    shop.until("rollback", HARM)
    shop.run(2_999, (0.2, 0.6, 0.4), answers=True)
    assert shop.gate.data.state == "ask"
    shop.run(1, (0.2, 0.6, 0.4), answers=True)
    assert shop.kinds()[-1] == "ask_resolved"


def test_older_logs_take_it_for_evidence() -> None:
    """Before semantics version 9 the order that clicks were made by counts as the better one."""
    shop = Shop()
    shop.gate.follow(8)
    shop.until("rollback", HARM)
    shop.run(500, (0.2, 0.6, 0.4), answers=True)
    assert "shadow_reset" in shop.kinds()


def test_a_short_probation_is_passed() -> None:
    """One of 1,000 judged events is over after these, whatever the time."""
    shop = Shop(probation_judged=1_000, ask_s=1, ask_min_judged=1)
    shop.until("rollback", HARM)
    assert shop.wanted() == 1_000
    assert shop.until("ask_resolved", EVEN) == 1_000
    assert shop.gate.data.state == "open"


def test_each_alarm_of_a_day_doubles_the_probation() -> None:
    """After the second rollback within a day it is twice as long, after the third four times."""
    shop, found = Shop(probation_judged=200), []
    for _ in range(4):
        shop.until("rollback", HARM)
        found.append(shop.wanted())
        shop.until("ask_resolved", (0.5, 0.4, 0.5))
    assert found == [200, 400, 800, 1_600]
    shop.run(86_400, None)
    shop.until("rollback", HARM)
    assert shop.wanted() == 200, "a day later it is as at first"


@pytest.mark.parametrize(("semantics", "found"), [(9, (3, 800)), (10, (1, 200))])
def test_alarms_of_another_day_do_not_lengthen_the_next_probation(
    semantics: int, found: tuple[int, int]
) -> None:
    """A shadow shown worse days later begins a probation that says how many came in this day."""
    shop = Shop(probation_judged=200, hold_events=10**9)
    shop.gate.follow(semantics)
    for _ in range(3):
        shop.until("rollback", HARM)
    shop.run(86_401, None)
    shop.until("shadow_reset", (0.4, 0.8, 0.4))
    evidence = shop.gate.decisions[-1].evidence
    assert shop.kinds()[-1] == "ask"
    assert (evidence["alarms_in_a_day"], evidence["judged_wanted"]) == found


def test_a_probation_is_no_longer_than_hold() -> None:
    """However many alarms came, no probation is longer than the longest HOLD."""
    shop = Shop(probation_judged=200, hold_events=500)
    for _ in range(3):
        shop.until("rollback", HARM)
        wanted = shop.wanted()
        shop.until("ask_resolved", (0.5, 0.4, 0.5))
    assert wanted == 500


def test_a_shadow_shown_worse_in_probation_begins_another() -> None:
    """It is set back to the champion, and looked at from the beginning."""
    shop = Shop()
    shop.until("rollback", HARM)
    assert shop.until("shadow_reset", (0.4, 0.8, 0.4)) < 200
    assert shop.kinds()[-2:] == ["shadow_reset", "ask"]
    assert shop.gate.reason == "probation"
    assert shop.gate.data.ask_trial is not None
    assert shop.gate.data.ask_trial.n == 0


def test_nothing_is_promoted_on_probation() -> None:
    """While it lasts no promotion is due."""
    shop = Shop(probation_judged=900)
    shop.until("rollback", HARM)
    for _ in range(899):
        assert not shop.run(1).gate.is_promotion_due
    assert shop.run(1).gate.is_promotion_due


# -- suspects --------------------------------------------------------------------------------------


def test_a_suspect_rolls_back_and_is_left_out() -> None:
    """One item clicked beyond expectation: the anchor again, and all else is learned again."""
    shop = Shop(calibration_margin=0.5).run(500)
    shop.spam("a")
    assert shop.kinds()[-3:] == ["alarm", "rollback", "ask"]
    assert shop.gate.is_suspect("a")
    job = shop.gate.take_relearn()
    assert job is not None
    assert (job.windows, job.without, job.then_promote) == ([[11, 510]], ["a"], False)


def test_many_suspects_are_no_attack_on_an_item() -> None:
    """The third within a day enters HOLD, and none is suspected any more."""
    shop = Shop(calibration_margin=0.5).run(500)
    for item in ("a", "b", "c"):
        shop.spam(item)
        shop.gate.take_relearn()
    assert shop.gate.data.state == "hold"
    assert shop.kinds()[-2:] == ["alarm", "hold"]
    assert shop.gate.describe()["suspects"] == []
    assert not any(shop.gate.is_suspect(item) for item in "abc")


@pytest.mark.parametrize(("semantics", "without"), [(9, []), (10, ["a", "b", "c"])])
def test_what_led_to_hold_is_not_learned_when_it_is_past(
    semantics: int, without: list[str]
) -> None:
    """Clicks on three suspects came before HOLD began, so they are in no window set aside."""
    shop = Shop(calibration_margin=0.5, hold_quiet=100)
    shop.gate.follow(semantics)
    shop.run(500)
    for item in ("a", "b", "c"):
        shop.spam(item)
        shop.run(10)
    assert shop.gate.data.state == "hold"
    fresh = Gate(shop.gate.settings, lambda target, source: 0)
    fresh.load_state(shop.gate.state())
    assert fresh.arbiter.state() == shop.gate.arbiter.state()
    for n in range(100):
        shop.gate.after_slate([f"z{n}"], np.full(1, 0.1), np.zeros(1), 1_000)
    now = Clock(shop.n + 1, shop.n + 1, (shop.n + 1) * 1_000)
    shop.gate.after_event(now, None)
    assert [d.reason for d in shop.gate.decisions if d.kind == "rollback"][-1] == "quiet"
    job = shop.gate.take_relearn()
    assert job is not None
    assert job.windows[0] == [11, 529]
    assert job.without == without


def test_an_item_may_be_suspected_for_ever() -> None:
    """However long a suspect may not teach, the state can be hashed, and be in a snapshot."""
    shop = Shop(calibration_margin=0.5, suspect_s=10**17).run(500)
    shop.spam("a")
    assert shop.gate.describe()["suspects"] == ["a"]
    assert canonical(shop.gate.state()["data"])


def test_suspects_of_another_day_do_not_count() -> None:
    """Two suspects of yesterday and one of today are an attack on one item."""
    shop = Shop(calibration_margin=0.5).run(500)
    for item in ("a", "b"):
        shop.spam(item)
    shop.run(86_401, None)
    shop.spam("c")
    assert shop.kinds()[-3:] == ["alarm", "rollback", "ask"]
    assert shop.gate.describe()["suspects"] == ["c"]


# -- an operator's mode in HOLD --------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["freeze", "shadow_only"])
def test_a_branch_proven_better_waits_for_resume(mode: str) -> None:
    """Where nothing may be promoted HOLD goes on, and the branch is adopted at once on resume."""
    shop = Shop().run(100)
    for _ in range(40):
        shop.gate.after_slate(["a"] * 20, np.zeros(20), np.ones(20), 1_000)
    hold = shop.gate.arbiter.hold
    assert hold is not None
    for _ in range(120):
        shop.gate.credit(f"hold:{hold.number}:b")
    command(shop.gate, mode, "because", "tester", force=False)
    shop.run(100)
    assert shop.gate.data.state == "hold"
    command(shop.gate, "resume", "because", "tester", force=False)
    shop.run(1)
    assert shop.kinds()[-2:] == ["resume", "adopt"]
