"""Is what the shadow learned safe to serve? Statistics, states and verdicts; no learner in sight.

The gate is told of each admitted event and of how the versions ranked it. It acts through one
callable, `assign`, which makes one version of the shared state equal to another; where a promotion
is due it has to be told how much the slates of champion and shadow overlap. Every act is a
`Decision` with its numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from app.detectors import Drift, EDetector
from app.gate_data import Clock, Decision, GateData, Losses, Mode, Rival, Trial, Version, load_data
from app.settings import EngineSettings
from learners.base import ANCHOR, CANDIDATE, CHAMPION, SHADOW
from learners.ids import State

MAX_DECISIONS = 10_000


class Refusal(Exception):
    """An operator asked for what the gate's state forbids."""


class Gate:
    """States, cadences and alarms over three versions of the shared state."""

    def __init__(
        self,
        settings: EngineSettings,
        assign: Callable[[int, int], int],
    ) -> None:
        self.settings = settings
        self._assign = assign
        self.data = GateData()
        self.now = Clock()
        self.decisions: list[Decision] = []
        self.harm = EDetector()
        self.harm_outside = EDetector()
        self.ask_harm = EDetector()
        self.drift = Drift(settings.adwin_delta)

    def use(self, settings: EngineSettings) -> None:
        """Go on under other settings; a drift detector of another significance starts anew."""
        self.settings = settings
        if settings.adwin_delta != self.drift.delta:
            self.drift = Drift(settings.adwin_delta)

    # -- what is served -----------------------------------------------------------------------

    @property
    def is_following(self) -> bool:
        """Tell whether the champion follows the shadow event by event."""
        return self.settings.gate == "off" or not self.data.has_anchor

    @property
    def served(self) -> int:
        """Return the version that recommendations come from."""
        return SHADOW if self.is_following else CHAMPION

    @property
    def reason(self) -> str | None:
        """Say in a word why the state is what it is."""
        if self.settings.gate == "off":
            return "off"
        if not self.data.has_anchor:
            return "warming"
        return self.data.ask_trial.reason if self.data.ask_trial else None

    @property
    def rival(self) -> Rival | None:
        """Return the version that fills slates by turns with the one served, if one does."""
        if self.data.state != "hold":
            return None
        name = f"hold:{self.data.n_decisions}"
        return Rival(SHADOW, self.settings.arbiter_share, name)

    # -- events -------------------------------------------------------------------------------

    def after_event(self, now: Clock, losses: Losses | None) -> None:
        """Take note of one admitted event, judged or not, and act on what is due.

        All but a promotion: see `is_promotion_due`.
        """
        self.now = now
        if self.settings.gate == "off":
            return
        if not self.data.has_anchor:
            if now.learned >= self.settings.warmup_events:
                self._make_first_anchor()
            return
        if losses is not None and self._watch(losses):
            return
        if self.data.ask_trial is not None:
            self._try_to_leave_ask(self.data.ask_trial)
        if self.data.state == "open" and self.data.mode == "normal":
            self._put_candidate_aside_if_due()

    def _make_first_anchor(self) -> None:
        self._assign(CHAMPION, SHADOW)
        self._assign(ANCHOR, SHADOW)
        data = self.data
        data.has_anchor = True
        data.version += 1
        data.champion = self._here()
        data.anchor = self._here()
        data.promoted = data.put_aside = self.now
        self.record("first_anchor", "warm-up is over", {"learned": self.now.learned})

    def _here(self) -> Version:
        return Version(self.now.event, self.now.time_ms)

    def _watch(self, losses: Losses) -> bool:
        """Feed every detector; return True when an alarm replaced what is served."""
        difference = losses.champion - losses.anchor
        margin, threshold = self.settings.harm_margin, self.settings.harm_alarm
        self.harm.update(difference, margin)
        if not losses.in_top10:
            self.harm_outside.update(difference, margin)
        for name, detector in (("harm", self.harm), ("harm_outside", self.harm_outside)):
            if detector.statistic >= threshold:
                self._hold(name, {name: detector.statistic, "threshold": threshold})
                return True
        self._watch_drift(losses.champion)
        if self.data.candidate_trial is not None:
            self._try_candidate(self.data.candidate_trial, difference)
        if self.data.ask_trial is not None:
            self.data.ask_trial.n += 1
            self.data.ask_trial.total += losses.shadow - losses.champion
            self.ask_harm.update(losses.shadow - losses.champion, margin)
        return False

    # -- promotion ----------------------------------------------------------------------------

    @property
    def is_promotion_due(self) -> bool:
        """Tell whether `promote_if_alike` is to be called before the next event."""
        if self.is_following or self.data.state != "open" or self.data.mode != "normal":
            return False
        settings, last = self.settings, self.data.promoted
        n = self.now.event - last.event
        elapsed_ms = self.now.time_ms - last.time_ms
        return n >= settings.promote_events or (n >= 1 and elapsed_ms >= settings.promote_s * 1_000)

    def promote_if_alike(self, overlap: float | None) -> None:
        """Promote, unless the slates of champion and shadow overlap too little (None: unasked)."""
        if overlap is not None and overlap < self.settings.overlap_min:
            evidence = {"overlap": overlap, "threshold": self.settings.overlap_min}
            self.record("promotion_refused", "slates differ too much", evidence)
            self._ask("overlap", evidence)
        else:
            self._promote("cadence", "gate", overlap)

    def _promote(self, reason: str, asked_by: str, overlap: float | None) -> None:
        evidence = {
            "overlap": overlap,
            "events": self.now.event - self.data.promoted.event,
            "rows": self._assign(CHAMPION, SHADOW),
        }
        self.data.version += 1
        self.data.champion = self._here()
        self.data.promoted = self.now
        self.record("promote", reason, evidence, asked_by)

    # -- blessing -----------------------------------------------------------------------------

    def _put_candidate_aside_if_due(self) -> None:
        settings, last = self.settings, self.data.put_aside
        n = self.now.learned - last.learned
        elapsed_ms = self.now.time_ms - last.time_ms
        is_due = n >= settings.candidate_events or (
            elapsed_ms >= settings.candidate_s * 1_000 and n >= settings.candidate_min_events
        )
        if self.data.candidate_trial is None and is_due:
            self._assign(CANDIDATE, CHAMPION)
            self.data.candidate = self.data.champion
            self.data.candidate_trial = Trial(self.now.event, self.now.time_ms)
            self.data.put_aside = self.now
            self.record("candidate", "the champion is put aside", {"learned": n})

    def _try_candidate(self, trial: Trial, difference: float) -> None:
        trial.n += 1
        trial.total += difference
        if trial.n < self.settings.bless_judged:
            return
        evidence = {"judged": trial.n, "mean_champion_minus_anchor": trial.total / trial.n}
        self.data.candidate_trial = None
        if trial.total <= 0:
            self._assign(ANCHOR, CANDIDATE)
            self.data.anchor = self.data.candidate
            self.data.is_blessed = True
            self.data.n_blessings += 1
            self.record("bless", "no worse than the anchor, no alarm", evidence)
        else:
            self._assign(CANDIDATE, ANCHOR)
            self.record("candidate_dropped", "worse than the anchor", evidence)

    def _drop_candidate(self, why: str) -> None:
        trial, self.data.candidate_trial = self.data.candidate_trial, None
        if trial is not None:
            self._assign(CANDIDATE, ANCHOR)  # its own rows are needed no more
            self.record("candidate_dropped", why, {"judged": trial.n})

    # -- alarms -------------------------------------------------------------------------------

    def _watch_drift(self, loss: float) -> None:
        change = self.drift.update(loss)
        if change is None or not self.data.is_blessed:
            return
        before, after = change
        evidence = {"mean_before": before, "mean_after": after, "delta": self.settings.adwin_delta}
        # A loss that falls is learning at work, and asks nothing.
        if after <= before:
            self.record("drift", "the champion's loss fell", evidence)
        elif self.data.state == "open":
            self.record("alarm", "the champion's loss rose", evidence | {"detector": "adwin"})
            self._ask("drift", evidence)

    def _ask(self, reason: str, evidence: dict[str, Any]) -> None:
        self._drop_candidate("an alarm came first")
        self.data.state = "ask"
        self.data.ask_trial = Trial(self.now.event, self.now.time_ms, reason)
        self.ask_harm = EDetector()
        self.record("ask", reason, evidence)

    def _try_to_leave_ask(self, trial: Trial) -> None:
        settings, threshold = self.settings, self.settings.ask_alarm
        mean = trial.total / trial.n if trial.n else 0.0
        evidence = {
            "judged": trial.n,
            "mean_shadow_minus_champion": mean,
            "statistic": self.ask_harm.statistic,
            "threshold": threshold,
        }
        if self.ask_harm.statistic >= threshold:
            window = {"set_aside": [self.data.champion.event + 1, self.now.event]}
            self._assign(SHADOW, CHAMPION)
            self._open("shadow_reset", "the shadow is shown worse", evidence | window)
            return
        elapsed_ms = self.now.time_ms - trial.time_ms
        # What was refused for its slates is promoted at the end: that takes the longer look.
        may_be_short = trial.reason != "overlap" and elapsed_ms >= settings.ask_s * 1_000
        if trial.n >= (settings.ask_min_judged if may_be_short else settings.ask_judged):
            self._open("ask_resolved", "the shadow is not shown worse", evidence)
            if trial.reason == "overlap" and self.data.mode == "normal":
                # The slates still differ; asking the same again would starve the champion.
                self._promote("not shown worse in ASK", "gate", None)

    def _open(self, kind: str, reason: str, evidence: dict[str, Any]) -> None:
        self.data.state = "open"
        self.data.ask_trial = None
        self.record(kind, reason, evidence)

    def _hold(self, reason: str, evidence: dict[str, Any]) -> None:
        """Answer a harm alarm: without an arbiter, HOLD rolls back at once."""
        self._drop_candidate("an alarm came first")
        self.record("alarm", "the champion is shown worse than the anchor", evidence)
        self.data.state = "hold"
        self.record("hold", reason, {"champion_was": asdict(self.data.champion)})
        self._roll_back(reason, "gate", evidence)

    def _roll_back(self, reason: str, asked_by: str, evidence: dict[str, Any]) -> None:
        self._drop_candidate("a rollback came first")
        data = self.data
        data.ask_trial = None
        rows = self._assign(CHAMPION, ANCHOR)
        self._assign(SHADOW, ANCHOR)
        window = [data.anchor.event + 1, self.now.event]
        data.version += 1
        data.champion = data.anchor
        data.promoted = data.put_aside = self.now
        data.state = "open"
        self._reset_detectors()
        evidence = evidence | {"rows": rows, "set_aside": window}
        self.record("rollback", reason, evidence, asked_by)

    def _reset_detectors(self) -> None:
        self.harm, self.harm_outside, self.ask_harm = (EDetector() for _ in range(3))
        self.drift = Drift(self.settings.adwin_delta)

    # -- operators ----------------------------------------------------------------------------

    def command(
        self, name: str, reason: str, asked_by: str, *, force: bool, overlap: float = 1.0
    ) -> None:
        """Do what an operator asks; raise Refusal where the state forbids it.

        `overlap` of champion and shadow counts for a promotion alone.
        """
        if name == "promote":
            self._promote_by_hand(reason, asked_by, force=force, overlap=overlap)
        elif name == "rollback":
            self._require_anchor("roll back to")
            self._roll_back(reason, asked_by, {"champion_was": asdict(self.data.champion)})
        else:
            modes: dict[str, Mode] = {"freeze": "frozen", "resume": "normal"}
            was, self.data.mode = self.data.mode, modes.get(name, "shadow_only")
            self.record(name, reason, {"mode_was": was}, asked_by)

    def _require_anchor(self, what: str) -> None:
        if self.is_following:
            raise Refusal(f"there is no anchor to {what}: the gate is {self.reason}")

    def _promote_by_hand(self, reason: str, asked_by: str, *, force: bool, overlap: float) -> None:
        self._require_anchor("promote past")
        if not force and (self.data.state != "open" or self.data.mode != "normal"):
            raise Refusal(
                f"the gate is {self.data.state} and the mode {self.data.mode};"
                ' promote with "force": true if you know better'
            )
        if not force and overlap < self.settings.overlap_min:
            raise Refusal(
                f"overlap@10 is {overlap:.3f}, below {self.settings.overlap_min};"
                ' promote with "force": true if you know better'
            )
        if self.data.ask_trial is not None:
            self._open("ask_resolved", "promoted by force", {"judged": self.data.ask_trial.n})
        self._promote(reason, asked_by, overlap)

    def after_restore(self, snapshot_id: str, reason: str, asked_by: str, overlap: float) -> None:
        """Go on after the versions were replaced by a snapshot's."""
        self.data.version += 1
        self.data.promoted = self.data.put_aside = self.now
        self.data.candidate_trial = None
        evidence = {"snapshot": snapshot_id, "overlap": overlap}
        self.record("restore", reason, evidence, asked_by)
        if (
            self.data.state == "open"
            and overlap < self.settings.overlap_min
            and not (self.is_following)
        ):
            self._ask("overlap", evidence | {"threshold": self.settings.overlap_min})

    def record(
        self, kind: str, reason: str, evidence: dict[str, Any], asked_by: str = "gate"
    ) -> None:
        """Keep a decision, with its numbers and the anchor's age."""
        self.data.n_decisions += 1
        age = {
            "anchor_age_events": self.now.event - self.data.anchor.event,
            "anchor_age_s": (self.now.time_ms - self.data.anchor.time_ms) // 1_000,
        }
        decision = Decision(
            number=self.data.n_decisions,
            kind=kind,
            event=self.now.event,
            time_ms=self.now.time_ms,
            asked_by=asked_by,
            reason=reason,
            evidence=evidence | (age if self.data.has_anchor else {}),
        )
        self.decisions.append(decision)
        del self.decisions[:-MAX_DECISIONS]

    # -- state --------------------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """Return state, mode, reason and since when, and what was decided last."""
        opened = ("first_anchor", "ask_resolved", "shadow_reset", "rollback", "restore")
        ask = self.data.ask_trial
        since = ask.event if ask else 0
        if ask is None:
            since = next((d.event for d in reversed(self.decisions) if d.kind in opened), 0)
        return {
            "state": self.data.state,
            "mode": self.data.mode,
            "reason": self.reason,
            "since_event": since,
            "version": self.data.version,
            "blessings": self.data.n_blessings,
            "decisions": self.data.n_decisions,
        }

    def detectors(self) -> list[dict[str, Any]]:
        """Return each detector's statistic, threshold, and whether it is armed."""
        armed = not self.is_following
        threshold = self.settings.harm_alarm
        return [
            _shown("harm", self.harm.statistic, threshold, is_armed=armed),
            _shown("harm_outside", self.harm_outside.statistic, threshold, is_armed=armed),
            _shown(
                "ask",
                self.ask_harm.statistic,
                self.settings.ask_alarm,
                is_armed=self.data.ask_trial is not None,
            ),
            _shown("adwin", self.drift.mean, None, is_armed=armed and self.data.is_blessed),
        ]

    def state(self) -> State:
        """Return what `load_state` continues from."""
        return {
            "data": asdict(self.data),
            "now": asdict(self.now),
            "harm": self.harm.state(),
            "harm_outside": self.harm_outside.state(),
            "ask_harm": self.ask_harm.state(),
            "drift": self.drift.state(),
            "decisions": [asdict(decision) for decision in self.decisions],
        }

    def load_state(self, state: State, *, keep_record: bool = False) -> None:
        """Become the gate that `state` was taken from.

        With `keep_record` (a restore into a running engine) the mode, the version's number, the
        clock and the decisions stay: what happened, happened.
        """
        kept = self.data, self.now, self.decisions
        self.data = load_data(state["data"])
        self.now = Clock(**state["now"])
        self.harm.load_state(state["harm"])
        self.harm_outside.load_state(state["harm_outside"])
        self.ask_harm.load_state(state["ask_harm"])
        self.drift.load_state(state["drift"])
        self.decisions = [Decision(**decision) for decision in state["decisions"]]
        if keep_record:
            data, self.now, self.decisions = kept
            for name in ("mode", "version", "n_decisions"):
                setattr(self.data, name, getattr(data, name))
            self.use(self.settings)


def _shown(
    name: str, statistic: float, threshold: float | None, *, is_armed: bool
) -> dict[str, Any]:
    return {"name": name, "statistic": statistic, "threshold": threshold, "armed": is_armed}
