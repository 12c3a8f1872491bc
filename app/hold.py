"""HOLD: was it a fault or drift? An arbiter between the anchor and the branch under suspicion.

The stream itself cannot say: a branch that learned corrupt labels is better at corrupt labels. So
the two fill a share of trusted users' slates by turns, and the clicks on these are counted. And
where it was clicks that rang, it is looked at whether trusted users click so, too: if so, the world
has changed, and if they are shown not to, it is a fault, however long it goes on.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

from app.detectors import BOLD_BETS, Superiority, proof_at
from app.drafts import Team
from app.gate_data import Clock
from app.settings import EngineSettings
from app.witnesses import Witnesses
from learners.ids import State

# Of the longest HOLD, the part after which it is said that credits come too slowly for a proof.
_TOLD_AFTER = 0.1


End = Literal[
    "branch_better", "anchor_better", "trusted_agree", "quiet", "trusted_disagree", "hold_max"
]


class Verdict(NamedTuple):
    """How HOLD ends, and the numbers for it."""

    name: End
    evidence: dict[str, Any]


@dataclass
class Hold:
    """One HOLD: by which detector, and what came since.

    What is wrong is taken to have begun at event `since`, and to have been there at `heard_event`
    at last. The branch has to win by more than `margin`, whatever is set since HOLD began.
    `suspects` are the items by which it came here, where these did; `is_fault` is said once it is
    proven that trusted users do not click so.
    """

    number: int
    event: int
    time_ms: int
    detector: str
    since: int
    heard_event: int
    slates: int = 0
    heard_at: int = 0
    n_heard: int = 0
    is_told: bool = False
    is_fault: bool = False
    margin: float = 0.0
    suspects: list[str] = field(default_factory=list)


class Arbiter:
    """Counts what HOLD is decided by. `hold` is None outside of HOLD."""

    def __init__(self) -> None:
        self.hold: Hold | None = None
        self.branch = Superiority()
        self.anchor = Superiority()
        self.witnesses = Witnesses()

    def begin(self, hold: Hold, bets: tuple[float, ...] = BOLD_BETS) -> None:
        """Begin a HOLD with nothing counted; `bets` are on whether trusted users click so, too."""
        self.branch, self.anchor = Superiority(), Superiority()
        self.witnesses.begin(bets)
        self.hold = hold

    def end(self) -> None:
        """Forget the HOLD."""
        self.hold = None

    def credit(self, name: str, team: Team) -> None:
        """Count a trusted click on a slate that both filled; those of another HOLD do not count.

        The branch has to win by more than the margin, the anchor at all.
        """
        if self.hold is not None and name == f"hold:{self.hold.number}":
            win = 1.0 if team == "b" else -1.0
            self.branch.update(win, self.hold.margin)
            self.anchor.update(-win, 0.0)

    def slate(self, heard_event: int | None = None) -> None:
        """Count a judged slate; the alarm that led here came again at `heard_event`, if it did."""
        if self.hold is not None:
            self.hold.slates += 1
            if heard_event is not None:
                self.hold.heard_event = heard_event
                self.hold.heard_at = self.hold.slates
                self.hold.n_heard += 1

    def hear(self, surplus: float, margin: float, *, is_marked: bool) -> None:
        """Take by how much more than expected a slate was clicked; see `Witnesses`."""
        if self.hold is None:
            self.witnesses.learn(surplus, is_marked=is_marked)
        else:
            self.witnesses.hear(surplus, self._sign, margin, is_marked=is_marked)

    def hear_marked(self, surplus: float, margin: float) -> None:
        """Do the same as before semantics version 10: whose user is not marked was not heard."""
        if self.hold is not None:
            self.witnesses.agreement.update(self._sign * surplus, margin)

    @property
    def _sign(self) -> float:
        """Return whether the alarm says more or less."""
        detector = "" if self.hold is None else self.hold.detector
        return {"clicks_over": 1.0, "clicks_under": -1.0}.get(detector, 0.0)

    def verdict(self, now: Clock, settings: EngineSettings) -> Verdict | None:
        """Return how HOLD ends, if it does now."""
        hold, alpha = self.hold, settings.arbiter_alpha
        if hold is None:
            return None
        has_credits = self.branch.n >= settings.arbiter_credits
        is_over = self.elapsed(now, settings) >= 1.0
        ends: dict[End, bool] = {
            # One that learned a fault may be better all the same: it is newer.
            "branch_better": has_credits and self.branch.is_proven(alpha) and not hold.is_fault,
            "anchor_better": has_credits and self.anchor.is_proven(alpha),
            "trusted_agree": self._have_agreed(settings),
            "quiet": hold.slates - hold.heard_at >= settings.hold_quiet,
            "trusted_disagree": is_over and hold.is_fault,
            "hold_max": is_over,
        }
        name = next((name for name, is_so in ends.items() if is_so), None)
        return None if name is None else Verdict(name, self.evidence(now, settings))

    def _have_agreed(self, settings: EngineSettings) -> bool:
        witnesses = self.witnesses
        are_enough = witnesses.agreement.n >= settings.arbiter_credits
        is_old = not witnesses.n_others  # before semantics version 10 any number was
        return (are_enough or is_old) and witnesses.agreement.is_proven(settings.arbiter_alpha)

    def elapsed(self, now: Clock, settings: EngineSettings) -> float:
        """Return how much of the longest HOLD is over: 1 at its end."""
        if self.hold is None:
            return 0.0
        by_events = (now.event - self.hold.event) / settings.hold_events
        by_time = (now.time_ms - self.hold.time_ms) / (settings.hold_s * 1_000)
        return max(by_events, by_time)

    def finds_fault(self, settings: EngineSettings) -> bool:
        """Tell, once, that trusted users are proven not to click as the alarm says."""
        if self.hold is None or self.hold.is_fault:
            return False
        # Clicks that are as expected are no agreement: a mean of 0 is a proof, too.
        self.hold.is_fault = self.witnesses.disagreement.statistic >= proof_at(
            settings.arbiter_alpha
        )
        return self.hold.is_fault

    def is_hopeless(self, now: Clock, settings: EngineSettings) -> bool:
        """Tell, once, that credits come too slowly for a proof before HOLD must end."""
        elapsed = self.elapsed(now, settings)
        if self.hold is None or self.hold.is_told or elapsed < _TOLD_AFTER:
            return False
        if self.hold.is_fault:  # it needs no credits
            return False
        self.hold.is_told = self.branch.n < elapsed * settings.arbiter_credits
        return self.hold.is_told

    def evidence(self, now: Clock, settings: EngineSettings) -> dict[str, Any]:
        """Return the numbers that the verdict can be computed from again."""
        hold = self.hold
        if hold is None:
            return {}
        n = self.branch.n
        wins = round((n + self.branch.total) / 2)
        return {
            "credits": n,
            "branch_wins": wins,
            "anchor_wins": n - wins,
            "branch_statistic": self.branch.statistic,
            "anchor_statistic": self.anchor.statistic,
            **self.witnesses.evidence(),
            "threshold": proof_at(settings.arbiter_alpha),
            **({"margin": hold.margin} if hold.margin else {}),
            "events": now.event - hold.event,
            "slates": hold.slates,
            "slates_since_alarm": hold.slates - hold.heard_at,
            "alarms": hold.n_heard + 1,
        }

    def state(self) -> State:
        """Return what `load_state` continues from."""
        hold = None if self.hold is None else asdict(self.hold)
        if hold is not None:  # without what is never set before semantics version 10
            since_10 = ("is_fault", "margin", "suspects")
            hold = {name: v for name, v in hold.items() if v or name not in since_10}
        tests = {"branch": self.branch.state(), "anchor": self.anchor.state()}
        return {"hold": hold, **tests, **self.witnesses.state()}

    def load_state(self, state: State) -> None:
        """Become the arbiter that `state` was taken from; raise ValueError if it is damaged."""
        self.hold = None if state["hold"] is None else Hold(**state["hold"])
        self.branch.load_state(state["branch"])
        self.anchor.load_state(state["anchor"])
        self.witnesses.load_state(state)
