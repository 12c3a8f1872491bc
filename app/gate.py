"""Is what the shadow learned safe to serve? Statistics, states and verdicts; no learner in sight.

The gate is told of each admitted event and of how the versions ranked it. It acts through one
callable, `assign`, which makes one version of the shared state equal to another; where a promotion
is due it has to be told how much the slates of champion and shadow overlap. Every act is a
`Decision` with its numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

from app.detectors import BETS, BOLD_BETS, EDetector
from app.events import DAY_MS, MAX_TIME_MS
from app.freshness import freshness_of, is_over
from app.gate_data import (
    Clock,
    Decision,
    GateData,
    Losses,
    Quiet,
    Relearn,
    Requeued,
    Rival,
    Trial,
    Version,
    load_data,
    merge,
    remaining,
)
from app.hold import Arbiter, Hold, Verdict
from app.settings import SEMANTICS, EngineSettings
from app.watch import CLICKS, ITEM, LOSS, Alarm, Watch, is_bad_news, mean_surplus
from learners.base import ANCHOR, CANDIDATE, CHAMPION, SHADOW
from learners.clicks import ClickModel
from learners.ids import State
from learners.kernels import F64

MAX_DECISIONS = 10_000
MAX_SET_ASIDE = 20
# Slates that the click model must have learned before clicks are held against it.
ARMED_SLATES = 500
# This many items suspected within a day are no attack on an item: something has changed for all.
MANY_SUSPECTS = 3
PROBATION = "probation"
_TAKES_LONGER = ("overlap", PROBATION)


_ALARMS = {
    "harm": "the champion is shown worse than the anchor",
    "harm_outside": "the champion is shown worse than the anchor, outside of what both show",
    "clicks_over": "more is clicked than is expected",
    "clicks_under": "less is clicked than is expected",
    ITEM: "one item is clicked more than is expected of it",
}
_ADOPTED = {
    "branch_better": "the branch is proven better: it was drift",
    "trusted_agree": "trusted users click so, too: it was drift",
}
_OPENING = ("first_anchor", "ask_resolved", "shadow_reset", "rollback", "restore", "adopt")


class Gate:
    """States, cadences and alarms over three versions of the shared state."""

    def __init__(
        self,
        settings: EngineSettings,
        assign: Callable[[int, int], int],
        clicks: ClickModel | None = None,
    ) -> None:
        self.settings = settings
        self.freshness = freshness_of(settings)
        self._assign_rows = assign
        self._clicks = ClickModel() if clicks is None else clicks
        self.data = GateData()
        self.now = Clock()
        self.decisions: list[Decision] = []
        self.watch = Watch(settings)
        self.arbiter = Arbiter()
        self.ask_harm = EDetector()
        self.semantics = SEMANTICS
        # Carried out before the next event, so never in a snapshot; and what has rung by that event
        # already, see `join`.
        self._relearn: Relearn | None = None
        self._rung: tuple[Alarm | None, Alarm | None] | None = None

    def use(self, settings: EngineSettings) -> None:
        """Go on under other settings; a drift detector of another significance starts anew."""
        self.settings = settings
        self.freshness = freshness_of(settings)
        self.watch.use(settings)

    def follow(self, semantics: int) -> None:
        """Compute as a semantics version says, from here on."""
        self.semantics = semantics

    @property
    def asks_answers(self) -> bool:
        """Tell whether answers to slates count in ASK.

        They do not since it is known that whoever clicks what the champion shows proves its order
        better than any other.
        """
        return self.semantics < 9

    def _assign(self, target: int, source: int) -> int:
        self._clicks.assign(target, source)
        return self._assign_rows(target, source)

    # -- what is served -----------------------------------------------------------------------

    @property
    def is_following(self) -> bool:
        """Tell whether the champion follows the shadow event by event."""
        is_unguarded = self.settings.gate == "off" and not self.freshness.shared_ms
        return is_unguarded or not self.data.has_anchor

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
        hold = self.arbiter.hold
        if hold is None or self.data.mode != "normal":  # then nothing new is to be shown
            return None
        return Rival(SHADOW, self.settings.arbiter_share, f"hold:{hold.number}")

    @property
    def is_open(self) -> bool:
        """Tell whether nothing is in question: open, with an anchor."""
        is_guarded = self.settings.gate != "off" and not self.is_following
        return is_guarded and self.data.state == "open"

    def is_suspect(self, item_id: str) -> bool:
        """Tell whether an item may not teach for now."""
        until_ms = self.data.suspects.get(item_id)
        return until_ms is not None and self.now.time_ms < until_ms

    def _suspects(self) -> list[str]:
        return sorted(item_id for item_id in self.data.suspects if self.is_suspect(item_id))

    # -- events -------------------------------------------------------------------------------

    def after_event(self, now: Clock, losses: Losses | None) -> None:
        """Take note of one admitted event, judged or not, and act on what is due.

        All but a promotion: see `is_promotion_due`.
        """
        self.after_events(now, [] if losses is None else [losses], is_compared=False)

    def after_events(
        self, now: Clock, several: Sequence[Losses], *, is_compared: bool = True
    ) -> None:
        """Do so for several, of which `quiet` says that nothing is due before the last.

        `is_compared` where the detectors of harm, and of ASK, have had what was judged of them;
        else it is one.
        """
        self.now = now
        if not self.data.has_anchor and self._has_versions:
            if now.learned >= self.settings.warmup_events:
                self._make_first_anchor()
            return
        if self.settings.gate == "off":
            return
        if several and self._watch(several, is_compared=is_compared):
            return
        if self.data.ask_trial is not None:
            self._try_to_leave_ask(self.data.ask_trial)
        if self.arbiter.hold is not None:
            self._try_to_leave_hold()
        if self.data.state == "open" and self.data.mode == "normal":
            self._put_candidate_aside_if_due()

    @property
    def _has_versions(self) -> bool:
        """Tell whether anything else than the shadow is ever served."""
        return self.settings.gate != "off" or self.freshness != (0, 0)

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

    def _watch(self, several: Sequence[Losses], *, is_compared: bool) -> bool:
        """Feed what watches judged events; return True when an alarm replaced what is served."""
        for losses in several[:-1]:
            self._count(losses, listens=not is_compared)
        last, trial = several[-1], self.data.ask_trial
        if not is_compared:
            self.watch.compare(last)
        alarm = self.watch.compared(several)
        if alarm is not None:
            if alarm.acts:
                self._act(alarm)
                return True
            self._ask_about(alarm)
        # An event by which ASK begins counts for it.
        self._count(last, listens=not is_compared or self.data.ask_trial is not trial)
        return False

    def _count(self, losses: Losses, *, listens: bool) -> None:
        """Count a judged event for what is on trial; ASK's detector may have had it already."""
        data = self.data
        if data.candidate_trial is not None:
            self._try_candidate(data.candidate_trial, losses.champion - losses.anchor)
        if data.ask_trial is not None and (self.asks_answers or not losses.answers):
            difference = losses.shadow - losses.champion
            data.ask_trial.n += 1
            data.ask_trial.total += difference
            if listens:
                self.ask_harm.update(difference, self.settings.harm_margin)

    def quiet(self) -> Quiet:
        """Return for how long nothing is due, but for what `join` tells; all that comes is counted.

        Something may be due after the last event.
        """
        settings, data, now = self.settings, self.data, self.now
        if self.arbiter.hold is not None:
            return Quiet(events=1)
        if not data.has_anchor and self._has_versions:
            return Quiet(events=settings.warmup_events - now.learned)
        if settings.gate == "off":
            return Quiet()
        quiet = Quiet(judged=self.watch.n_quiet())
        if data.ask_trial is not None:
            quiet = quiet.within(self._quiet_in_ask(data.ask_trial))
        if data.state == "open" and data.mode == "normal":
            n = settings.promote_events - (now.paced - data.promoted.paced)
            until_ms = data.promoted.time_ms + settings.promote_s * 1_000
            quiet = quiet.within(Quiet(paced=n, until_ms=until_ms))
            if data.candidate_trial is None:
                quiet = quiet.within(self._quiet_without_candidate())
        if data.candidate_trial is not None:
            n_judged = settings.bless_judged - data.candidate_trial.n
            quiet = quiet.within(Quiet(judged=n_judged))
        return quiet

    def _quiet_in_ask(self, trial: Trial) -> Quiet:
        """Return `quiet` for what ends ASK."""
        settings, (wanted, threshold) = self.settings, self._ask_terms(trial)
        n_long = trial.event + settings.hold_events - self.now.event
        n = self.ask_harm.n_below(threshold, settings.harm_margin, wanted - trial.n)
        short_ms = trial.time_ms + settings.ask_s * 1_000
        if trial.reason in _TAKES_LONGER:
            return Quiet(n_long, n)
        if self.now.time_ms < short_ms:
            return Quiet(n_long, n, until_ms=short_ms)
        return Quiet(n_long, min(n, settings.ask_min_judged - trial.n))

    def _quiet_without_candidate(self) -> Quiet:
        """Return `quiet` for what puts a candidate aside."""
        settings, last = self.settings, self.data.put_aside
        n, aside_ms = self.now.learned - last.learned, last.time_ms + settings.candidate_s * 1_000
        if self.now.time_ms < aside_ms:
            return Quiet(events=settings.candidate_events - n, until_ms=aside_ms)
        return Quiet(events=min(settings.candidate_events, settings.candidate_min_events) - n)

    def after_slate(
        self,
        items: list[str],
        expected: F64,
        clicked: F64,
        n_learned: int,
        *,
        is_marked: bool = False,
    ) -> None:
        """Take note of a slate: what the champion expected of each place, and what came of it.

        `n_learned` slates have taught the champion what to expect; `is_marked` where an operator
        vouches for what is heard of the user.
        """
        is_watched = self.settings.gate != "off" and not self.is_following
        if not is_watched or n_learned < ARMED_SLATES:
            return
        alarm = self.watch.slate(items, expected, clicked, self.now.event)
        margin = self.settings.calibration_margin
        if self.semantics >= 10:
            self.arbiter.hear(mean_surplus(expected, clicked), margin, is_marked=is_marked)
        elif is_marked:
            self.arbiter.hear_marked(mean_surplus(expected, clicked), margin)
        if self.data.state == "hold":
            self.arbiter.slate(None if alarm is None else self.now.event)
            if alarm is not None:
                self.watch.restart()
        elif alarm is not None:
            self._act(alarm)

    def after_admission(self, *, is_quarantined: bool) -> None:
        """Take note of whether an event that is no duplicate was quarantined."""
        if self._rung is not None:
            self._ask_about(self._rung[0])
        elif self.settings.gate != "off":
            self._ask_about(self.watch.decided(is_quarantined=is_quarantined))

    def before_event(self, item_id: str, time_ms: int, *, is_known: bool) -> None:
        """Take note of what an admitted event names, and when it came."""
        rung, self._rung = self._rung, None
        if rung is not None:
            self._ask_about(rung[1])
        elif self.settings.gate != "off":
            self._ask_about(self.watch.admitted(item_id, time_ms, is_known=is_known))

    @property
    def joins_until_ms(self) -> int:
        """Return from which event time on `join` must not be told of an event."""
        return MAX_TIME_MS + 1 if self.settings.gate == "off" else self.watch.joins_until_ms

    def join(self, item_ids: Sequence[str], known: Sequence[bool]) -> int:
        """Do as `after_admission` and `before_event`, for what comes before anything is due: see
        `quiet`. Return how many come before one by which something rings.

        The gate acts when it is told of that again, by these two: once all that came before has
        been learned.
        """
        if self.settings.gate == "off":
            return len(item_ids)
        n, self._rung = self.watch.join(item_ids, known)
        return n

    @property
    def is_compared(self) -> bool:
        """Tell whether three versions rank an event, and two of them are watched by it."""
        return self.settings.gate != "off" and not self.is_following

    def credit(self, draft: str) -> None:
        """Take note of a trusted user's first click on a slate that two versions filled."""
        name, _, team = draft.rpartition(":")
        self.arbiter.credit(name, "b" if team == "b" else "a")

    # -- promotion ----------------------------------------------------------------------------

    @property
    def is_promotion_due(self) -> bool:
        """Tell whether `promote_if_alike` is to be called before the next event.

        Where shared state waits for the end of a batch, see `is_batch_over`.
        """
        settings, now, last = self.settings, self.now, self.data.promoted
        is_time = now.time_ms - last.time_ms >= settings.promote_s * 1_000
        is_due = now.paced - last.paced >= settings.promote_events
        if not is_due and not (is_time and now.event > last.event):  # as after nearly every event
            return False
        return not self.freshness.shared_ms and self._may_promote

    @property
    def _may_promote(self) -> bool:
        is_in_question = self.data.state != "open" or self.data.mode != "normal"
        return not (self.is_following or is_in_question)

    def is_batch_over(self, now_ms: int) -> bool:
        """Tell whether what the shadow has learned is due, as an event of `now_ms` comes.

        Also when its batch ended while nothing could be promoted.
        """
        last, length_ms = self.data.promoted, self.freshness.shared_ms
        if not length_ms or self.now.event == last.event or not self._may_promote:
            return False
        return is_over(last.time_ms, now_ms, length_ms)

    def promote_if_alike(self, overlap: float | None) -> None:
        """Promote, unless the slates of champion and shadow overlap too little (None: unasked)."""
        if overlap is not None and overlap < self.settings.overlap_min:
            evidence = {"overlap": overlap, "threshold": self.settings.overlap_min}
            self.record("promotion_refused", "slates differ too much", evidence)
            self.ask("overlap", evidence)
        else:
            self.promote("cadence", "gate", overlap)

    def promote(self, reason: str, asked_by: str, overlap: float | None) -> None:
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
            self.watch.items.bless(self.settings.item_armed)
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

    def _ask_about(self, alarm: Alarm | None) -> None:
        """Answer a drift alarm, once there was a blessing; one that is good news is only noted."""
        if alarm is None or not self.data.is_blessed:
            return
        numbers = alarm.evidence | {"detector": alarm.detector}
        if not is_bad_news(alarm):
            if alarm.detector == LOSS:  # learning at work
                self.record("drift", f"{alarm.detector} fell", numbers)
        elif self.data.state == "open":
            self.record("alarm", f"{alarm.detector} changed", numbers)
            self.ask(alarm.detector, numbers)

    def ask(self, reason: str, evidence: dict[str, Any], wanted: int | None = None) -> None:
        self._drop_candidate("an alarm came first")
        self.data.state = "ask"
        self.data.ask_trial = Trial(self.now.event, self.now.time_ms, reason, wanted=wanted)
        self.ask_harm = EDetector()
        self.record("ask", reason, evidence)

    def _probation(self, *, is_past: bool = False) -> None:
        """Promote nothing for a while after a rollback: longer with every alarm of the last day.

        Less for a fault that has been seen to be past.
        """
        data = self.data
        if self.semantics >= 10:  # as of now: HOLD, and a probation before this one, may take days
            data.alarms_ms = [at for at in data.alarms_ms if at > self.now.time_ms - DAY_MS]
        n_alarms = max(1, len(data.alarms_ms))
        usual = self.settings.ask_judged if is_past else self.settings.probation_judged
        wanted = usual * 2 ** min(n_alarms - 1, 20)
        wanted = min(wanted, self.settings.hold_events)
        self.ask(PROBATION, {"judged_wanted": wanted, "alarms_in_a_day": n_alarms}, wanted)

    def _ask_terms(self, trial: Trial | None) -> tuple[int, float]:
        """Return the judged events that end ASK, and the threshold of its detector.

        Every detector rings in the end: the longer it is to listen, the less often it may.
        """
        usual = self.settings.ask_judged
        wanted = usual if trial is None or trial.wanted is None else trial.wanted
        return wanted, self.settings.ask_alarm * max(1.0, wanted / usual)

    def _try_to_leave_ask(self, trial: Trial) -> None:
        settings, (wanted, threshold) = self.settings, self._ask_terms(trial)
        mean = trial.total / trial.n if trial.n else 0.0
        evidence = {
            "judged": trial.n,
            "mean_shadow_minus_champion": mean,
            "statistic": self.ask_harm.statistic,
            "threshold": threshold,
        }
        if self.ask_harm.statistic >= threshold:
            window = [self.data.champion.event + 1, self.now.event]
            self._assign(SHADOW, CHAMPION)
            for requeued in self._requeued_after(self.data.champion.event):
                self.set_aside(requeued)
            self.set_aside(window)
            numbers = evidence | {"set_aside": window}
            self.reopen("shadow_reset", "the shadow is shown worse", numbers)
            if trial.reason == PROBATION:
                self._probation()
            return
        elapsed_ms = self.now.time_ms - trial.time_ms
        # What was refused for its slates is promoted at the end: that takes the longer look.
        takes_longer = trial.reason in _TAKES_LONGER
        may_be_short = not takes_longer and elapsed_ms >= settings.ask_s * 1_000
        # Where all are answers to slates, nothing would ever be shown.
        is_long = not self.asks_answers and self.now.event - trial.event >= settings.hold_events
        if is_long or trial.n >= (settings.ask_min_judged if may_be_short else wanted):
            self.reopen("ask_resolved", "the shadow is not shown worse", evidence)
            if trial.reason == "overlap" and self.data.mode == "normal":
                # The slates still differ; asking the same again would starve the champion.
                self.promote("not shown worse in ASK", "gate", None)

    def reopen(self, kind: str, reason: str, evidence: dict[str, Any]) -> None:
        self.data.state = "open"
        self.data.ask_trial = None
        self.record(kind, reason, evidence)

    def _act(self, alarm: Alarm) -> None:
        """Answer a harm alarm: what is served is the anchor from here on."""
        self._drop_candidate("an alarm came first")
        data, now_ms = self.data, self.now.time_ms
        numbers = alarm.evidence | {"detector": alarm.detector}
        if alarm.item_id is not None:
            numbers["item_id"] = alarm.item_id
        self.record("alarm", _ALARMS[alarm.detector], numbers)
        data.alarms_ms = [at for at in data.alarms_ms if at > now_ms - DAY_MS] + [now_ms]
        if alarm.item_id is not None:
            data.suspects = {i: until for i, until in data.suspects.items() if until > now_ms}
            until_ms = now_ms + self.settings.suspect_s * 1_000
            is_bounded = self.semantics >= 10  # before, a number that no snapshot could hold
            data.suspects[alarm.item_id] = min(until_ms, MAX_TIME_MS) if is_bounded else until_ms
        if alarm.detector in CLICKS or len(data.suspects) >= MANY_SUSPECTS:
            suspects = sorted(data.suspects) if alarm.detector == ITEM else []
            data.suspects = {} if alarm.detector == ITEM else data.suspects
            self._hold(alarm, suspects)
        else:
            # It is shown that the champion is worse, or which item is at fault: no more to ask.
            self.roll_back(alarm.detector, "gate", {}, aside=[])
            self._probation()

    def _hold(self, alarm: Alarm, suspects: list[str]) -> None:
        """Serve the anchor, and find out whether the branch is right: see `Arbiter`.

        The alarm goes on listening, with what the anchor expects of slates: the champion may have
        learned to expect what is wrong. An anchor too young to expect anything leaves that to it.
        """
        data = self.data
        is_settled = self._clicks.n_learned[ANCHOR] >= ARMED_SLATES
        assign = self._assign if is_settled else self._assign_rows
        evidence = {"champion_was": asdict(data.champion), "rows": assign(CHAMPION, ANCHOR)}
        data.version += 1
        data.champion = data.anchor
        data.promoted = self.now
        data.ask_trial = None
        data.state = "hold"
        self.watch.restart()
        # What is wrong began after the detector was last calm; as long before that, to be sure.
        calm_at = alarm.evidence.get("calm_at", self.now.event)
        since = max(0, 2 * calm_at - self.now.event)
        self.record("hold", alarm.detector, evidence | {"since": since})
        number, event = data.n_decisions, self.now.event
        hold = Hold(number, event, self.now.time_ms, alarm.detector, since, event)
        if self.semantics >= 10:
            hold.margin, hold.suspects = self.settings.arbiter_margin, suspects
        self.arbiter.begin(hold, BOLD_BETS if self.semantics >= 10 else BETS)

    def _try_to_leave_hold(self) -> None:
        arbiter, settings = self.arbiter, self.settings
        if arbiter.is_hopeless(self.now, settings):
            evidence = arbiter.evidence(self.now, settings)
            self.record("no_proof", "trusted credits come too slowly for a verdict", evidence)
        if arbiter.finds_fault(settings):
            evidence = arbiter.evidence(self.now, settings)
            self.record("fault", "trusted users do not click so: it is a fault", evidence)
        verdict = arbiter.verdict(self.now, settings)
        if verdict is None:
            return
        if verdict.name in ("branch_better", "trusted_agree"):
            if self.data.mode == "normal":
                self._adopt(verdict)
        elif not self._takes_for_drift(verdict) or self._may_take_for_drift:
            self._leave_hold(verdict)

    def _takes_for_drift(self, verdict: Verdict) -> bool:
        """Tell whether all that came is served where nothing was proven in time."""
        return verdict.name == "hold_max" and self.settings.hold_undecided == "relearn"

    @property
    def _may_take_for_drift(self) -> bool:
        """Tell whether that may be now; frozen, it waits for `resume`, as an adoption does."""
        return self.data.mode == "normal" or self.semantics < 10

    def _adopt(self, verdict: Verdict) -> None:
        """Serve the branch: what it learned under suspicion was right.

        What is to be expected of slates is learned anew, as the world has changed.
        """
        self.arbiter.end()
        rows = self._assign(CHAMPION, SHADOW)
        self._assign(ANCHOR, SHADOW)
        data = self.data
        data.version += 1
        data.champion = data.anchor = self._here()
        data.promoted = data.put_aside = self.now
        self._expect_anew()
        self.reopen("adopt", _ADOPTED[verdict.name], verdict.evidence)
        self.decisions[-1].evidence["rows"] = rows

    def adopt_challenger(self, reason: str, asked_by: str, evidence: dict[str, Any]) -> None:
        """Begin anew with the learner of a challenger, which the versions are of by now.

        What is served from here on, and gone back to, is what has been compared: its champion.
        """
        self._drop_candidate("a challenger is adopted")
        rows = self._assign(ANCHOR, CHAMPION)
        self._assign(CANDIDATE, CHAMPION)
        data = self.data
        data.version += 1
        data.anchor = data.champion
        data.put_aside = self.now
        self.start_anew()
        self.record("adopt", reason, evidence | {"rows": rows}, asked_by)

    def _leave_hold(self, verdict: Verdict) -> None:
        """Roll back, and set aside what came while it was wrong; the rest is learned again.

        Without a proof in time, all of it may be taken for drift after all.
        """
        is_drift = self._takes_for_drift(verdict)
        hold = self.arbiter.hold
        aside: list[int] = []
        without: list[str] = []
        if not is_drift and hold is not None:
            end = hold.heard_event if verdict.name == "quiet" else self.now.event
            aside = [hold.since, end]
            without = hold.suspects  # what they were clicked before HOLD is what led here
        self.roll_back(
            verdict.name,
            "gate",
            verdict.evidence,
            aside=aside,
            keep_clicks=is_drift,
            without=without,
        )
        if not is_drift:
            self._probation(is_past=verdict.name == "quiet")

    def _expect_anew(self) -> None:
        """Learn anew what is to be expected, of slates and of single items: the world has changed.

        Until semantics version 10 what items had got before went on to count for them.
        """
        self.start_anew()
        self._clicks.learn_anew()
        if self.semantics >= 10:
            self.watch.items.learn_anew()

    def start_anew(self) -> None:
        """Compare from here on: the versions are others, and so is what items are expected."""
        self.watch.restart()
        self.watch.items.bless(self.settings.item_armed)
        self.ask_harm = EDetector()

    def roll_back(
        self,
        reason: str,
        asked_by: str,
        evidence: dict[str, Any],
        *,
        aside: list[int] | None = None,
        keep_clicks: bool = False,
        without: Iterable[str] = (),
    ) -> None:
        """Make champion and shadow the anchor again.

        Of what came since, the window `aside` is set aside (none: all of it; empty: nothing), and
        the rest is learned again, but not what is on suspects, or on items `without`.
        """
        self._drop_candidate("a rollback came first")
        self.arbiter.end()
        data = self.data
        data.ask_trial = None
        rows = self._assign(CHAMPION, ANCHOR)
        (self._assign_rows if keep_clicks else self._assign)(SHADOW, ANCHOR)
        window = [data.anchor.event + 1, self.now.event]
        again = [*self._requeued_after(data.anchor.event), window]
        if aside is None:
            for requeued in again[:-1]:
                self.set_aside(requeued)
            aside = window
        if aside:
            clipped = [max(aside[0], window[0]), aside[1]]
            aside = aside if self.semantics < 10 else clipped
            self.set_aside(clipped)
        windows = [w for first, last in again for w in remaining(first, last, data.set_aside)]
        data.version += 1
        data.champion = data.anchor
        data.promoted = data.put_aside = self.now
        data.state = "open"
        self.watch.restart()
        self.ask_harm = EDetector()
        if windows:
            requeued_before = tuple(data.requeued)
            left_out = sorted({*without, *self._suspects()})
            self._relearn = Relearn(windows, left_out, keep_clicks, requeued_before)
        about = {"rows": rows, "set_aside": aside, "learned_again": windows}
        self.record("rollback", reason, evidence | about, asked_by)

    def _requeued_after(self, event: int) -> list[list[int]]:
        """Return the windows from up to an event that were learned again only after it."""
        found = [r for r in self.data.requeued if r.first <= event < r.event]
        return merge([[r.first, min(r.last, event)] for r in found])

    def set_aside(self, window: list[int]) -> None:
        """Let a window of events, if it has any, not be learned again until a requeue."""
        if window[0] <= window[1]:
            self.data.set_aside = [*self.data.set_aside, window][-MAX_SET_ASIDE:]

    # -- learning again -----------------------------------------------------------------------

    @property
    def has_relearn(self) -> bool:
        """Tell whether there is something for `take_relearn` to return."""
        return self._relearn is not None

    def take_relearn(self) -> Relearn | None:
        """Return what the shadow is to learn again now, once."""
        job, self._relearn = self._relearn, None
        return job

    def relearn(self, windows: list[list[int]], without: list[str]) -> None:
        """Let the shadow learn windows again before the next event, but for some items."""
        self._relearn = Relearn(windows, sorted({*without, *self._suspects()}))
        if self.semantics >= 10:
            self._note_requeued(windows, without)

    def _note_requeued(self, windows: list[list[int]], without: list[str]) -> None:
        """Remember what was requeued, in the place of what was said of the same before."""
        kept = [
            one
            for one in self.data.requeued
            if one.event > self.data.anchor.event
            and not any(first <= one.first and one.last <= last for first, last in windows)
        ]
        new = [Requeued(first, last, self.now.event, sorted(without)) for first, last in windows]
        self.data.requeued = [*kept, *new][-MAX_SET_ASIDE:]

    def relearned(self, job: Relearn, n: int, n_known: int) -> None:
        """Take note of how many events the shadow learned again, of how many still known."""
        evidence = {
            "windows": job.windows,
            "learned": n,
            "left_out": n_known - n,
            "forgotten": sum(b - a + 1 for a, b in job.windows) - n_known,
            "without": job.without,
        }
        self.record("relearn", "the shadow learned again what was set aside", evidence)
        if job.then_promote and self.data.mode == "normal":
            self._expect_anew()
            self.promote("nothing was proven in time: taken for drift", "gate", None)

    # -- the record --------------------------------------------------------------------------

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
        began = self.data.ask_trial or self.arbiter.hold
        since = began.event if began else 0
        if began is None:
            since = next((d.event for d in reversed(self.decisions) if d.kind in _OPENING), 0)
        return {
            "state": self.data.state,
            "mode": self.data.mode,
            "reason": self.reason,
            "since_event": since,
            "version": self.data.version,
            "blessings": self.data.n_blessings,
            "decisions": self.data.n_decisions,
            "hold": self.arbiter.evidence(self.now, self.settings) or None,
            "suspects": self._suspects(),
            "set_aside": self.data.set_aside,
        }

    def detectors(self) -> list[dict[str, Any]]:
        """Return each detector's statistic, threshold, and whether it is armed."""
        armed = not self.is_following
        ask = {
            "name": "ask",
            "statistic": self.ask_harm.statistic,
            "threshold": self._ask_terms(self.data.ask_trial)[1],
            "armed": self.data.ask_trial is not None,
        }
        return [*self.watch.view(is_armed=armed, is_blessed=self.data.is_blessed), ask]

    def state(self) -> State:
        """Return what `load_state` continues from."""
        data = asdict(self.data)
        if not data["requeued"]:  # programs of before compare snapshots, too
            del data["requeued"]
        if self.semantics >= 10:  # names that a client chose are no keys: some mean something there
            data["suspects"] = [list(until) for until in data["suspects"].items()]
        now = asdict(self.now)
        if self.semantics < 12:
            for clock in (data["promoted"], data["put_aside"], now):
                del clock["paced"]
        return {
            "data": data,
            "now": now,
            "watch": self.watch.state(),
            "arbiter": self.arbiter.state(),
            "ask_harm": self.ask_harm.state(),
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
        self.watch.load_state(state["watch"])
        self.arbiter.load_state(state["arbiter"])
        self.ask_harm.load_state(state["ask_harm"])
        self.decisions = [Decision(**decision) for decision in state["decisions"]]
        if keep_record:
            data, self.now, self.decisions = kept
            for name in ("mode", "version", "n_decisions"):
                setattr(self.data, name, getattr(data, name))
            self.use(self.settings)
