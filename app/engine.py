"""The state machine: apply(entry) -> Outcome, recommend(request) -> Slate.

All of the service's state is here, and it is a function of the entries applied: no I/O, no clock,
no randomness. What has to be done outside is returned.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
import orjson

from app import commands, events
from app.admission import FROZEN, GROWTH, REPEAT, Admission, Run, Verdict
from app.answers import Answers
from app.calibration import Calibration
from app.catalogue import Catalogue
from app.challenger import Case, make_learner
from app.challenges import Challenges, differing
from app.errors import InvalidRequest, LogStopped, SettingsError
from app.events import VALID, Entry, Feedback, Malformed
from app.exploration import Exploration
from app.feature_state import make_inputs
from app.features import Feature
from app.freshness import is_over
from app.gate import Gate
from app.gate_data import Clock, Decision, Losses, Quiet, Refusal, Relearn, Version
from app.growth import Growth
from app.ignored import Ignored
from app.judge import Pace, Prequential, loss_of
from app.quarantine import record_of
from app.recommend import Recommender, mean_overlap, mean_share
from app.rulebook import Rulebook
from app.rules import canonical, read_rules
from app.serving import Serving, is_chosen
from app.settings import KNOWN_SEMANTICS, SEMANTICS, EngineSettings
from app.slices import TURN, WHOLE, Slice, Stride, Teaching
from app.window import Window
from learners import fresh
from learners.base import ANCHOR, CHAMPION, N_VERSIONS, SHADOW
from learners.clicks import MOST_PLACES, ClickModel
from learners.history import History, Profile
from learners.ids import State
from learners.kernels import F64, I64, IS_REPEAT, MISS, MOST_TYPES

TOP_10_DOUBLED = 20

# Clean promotions overlap by 0.9 and more in the median, faults that matter by 0.13 at most.
ENOUGH_ALIKE, ALIKE = 10, 0.8

# What is ranked, in this order, for a judgement and for a promotion.
_ALL_THREE, _SHADOW_ALONE = np.array([CHAMPION, ANCHOR, SHADOW]), np.array([SHADOW])
_CHAMPION_ALONE = np.array([CHAMPION])
_VERSIONS = ("champion", "shadow", "anchor")
_COMPARED = np.array([CHAMPION, SHADOW])

_EVENTS = Feedback, Malformed

# Of a smaller share than this nobody is judged: digests are not told apart any more.
_LEAST_SHARE = 2.0**-48

T = TypeVar("T")
# Work that can be paused after each step, and returns a T in the end.
Steps = Generator[None, None, T]

# What may change while the log goes on; everything else shapes the arrays or the scores.
TUNABLE = frozenset(
    name
    for name in EngineSettings.model_fields
    if name.startswith(
        (
            "promote_",
            "overlap_",
            "candidate_",
            "harm_",
            "ask_",
            "cap_",
            "id_share",
            "growth_",
            "item_",
            "challenger",
            "arbiter_",
            "hold_",
            "freshness",
        )
    )
) | {
    "adwin_delta",
    "traffic_delta",
    "interleave_share",
    "tokens",
    "calibration_margin",
    "trusted",
    "trusted_history",
    "probation_judged",
    "suspect_s",
    "bless_judged",
    "judge_share",
    "judge_per_s",
    "lateness_s",
    "future_s",
    "rewards",
    "rating_positive",
    "had_return",
    "max_strings",
    "create_unknown_items",
    "teach_repeats",
    "explore_share",
    "ignored_weight",
    "features",
    "halve_counts_at",
}


class Result(NamedTuple):
    """What became of one record of an entry."""

    event_id: str | None
    status: str
    reason: str | None = None


@dataclass
class Outcome:
    """What applying an entry did, and what is left for the shell to do."""

    cursor: str
    version_before: int = 0
    version_after: int = 0
    results: list[Result] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    quarantined: list[tuple[int, bytes]] = field(default_factory=list)


class Reading:
    """Records of some entries, one after the other; a place among them is a number.

    An entry without any has one place, with None.
    """

    def __init__(self, entries: Sequence[tuple[Entry, str]], limit: Quiet) -> None:
        # How much of it is learned in one go.
        self.limit = limit
        self.records: list[events.Record | None] = []
        self.arrivals_ms: list[int | None] = []
        self.outcomes: list[Outcome] = []
        # Of each place the entry, by number; of each entry its first place, and the end of all.
        self.of: list[int] = []
        self.starts: list[int] = []
        for number, (entry, cursor) in enumerate(entries):
            records: list[events.Record | None] = [*entry.records] or [None]
            self.starts.append(len(self.records))
            self.records += records
            self.arrivals_ms += [entry.arrival_ms] * len(records)
            self.of += [number] * len(records)
            self.outcomes.append(Outcome(cursor))
        self.starts.append(len(self.records))

    def __len__(self) -> int:
        return len(self.records)

    def outcome(self, at: int) -> Outcome:
        """Return what becomes of the entry of a place."""
        return self.outcomes[self.of[at]]

    def index(self, at: int) -> int:
        """Return which record of its entry is at a place."""
        return at - self.starts[self.of[at]]

    def is_last(self, at: int) -> bool:
        """Tell whether an entry ends with a place."""
        return at + 1 == self.starts[self.of[at] + 1]

    def feedback(self, at: int, most: int) -> list[Feedback]:
        """Return the events at a place and behind it, without a gap; so many at most."""
        found = []
        for record in self.records[at : at + most]:
            if not isinstance(record, Feedback):
                break
            found.append(record)
        return found


def _place_of(flags: Sequence[bool], nth: int) -> int:
    """Return where the nth that is true is, from 1 on; past the end, if there are not so many."""
    if nth > len(flags):
        return len(flags)
    places = [place for place, flag in enumerate(flags) if flag]
    return places[nth - 1] if len(places) >= nth else len(flags)


def _known(item_ids: list[str], items: list[int]) -> list[bool]:
    """Tell of each item, by id and index, whether it is there when its turn has come."""
    if MISS not in items:
        return [True] * len(item_ids)
    known, fresh = [], set[str]()
    for item_id, item in zip(item_ids, items):
        known.append(item != MISS or item_id in fresh)
        if item == MISS:
            fresh.add(item_id)
    return known


class Engine(Serving):
    """One state, moved by entries alone; what it answers requests with is in `Serving`."""

    def __init__(self, configured: EngineSettings, adopted: dict[str, Any] | None = None) -> None:
        # What the log says, and what is in force: the same, but for what was adopted since.
        self.configured = configured
        self.settings = settings = configured.with_learner(adopted) if adopted else configured
        self.is_configured = False
        self.semantics = SEMANTICS
        self.cursor = "0-0"
        self.n_events = 0
        self.n_learned = 0
        self.n_paced = 0
        self.n_impressions = 0
        # The part that is judged of what is to be judged, and which replica asked for it.
        self.thinned: tuple[float, str] = (1.0, "")
        self.pace = Pace()
        self.tick = 0
        self.promoted_tick = 0
        # snapshot id -> cursor of the command that restored it: retention must keep it so long.
        self.restored: dict[str, str] = {}
        self.champion_cursor = "0-0"
        self.history = History(
            max_items=settings.max_items,
            max_users=settings.max_users,
            history_length=settings.history_length,
            scored_history=settings.scored_history,
            had_length=settings.had_length,
            inputs=make_inputs(settings.features, settings.max_items),
        )
        self.catalogue = Catalogue(
            self.history,
            max_columns=settings.max_columns,
            max_strings=settings.max_strings,
            features=settings.features,
        )
        self.exploration = Exploration(self.history, self.catalogue)
        self.ignored = Ignored(self.history)
        self.learner = make_learner(settings, self.history)
        self.recommender = Recommender(
            self.history, self.catalogue, self.learner, exclude_had=settings.exclude_had
        )
        self.admission = Admission(settings)
        self.growth = Growth(self.history)
        self.clicks = ClickModel()
        self.answers = Answers()
        self.calibration = {name: Calibration() for name in _VERSIONS}
        self.window = Window(settings.relearn_events, self.history)
        self.gate = Gate(settings, self._assign, self.clicks)
        self.challenges = Challenges(self.history, self.catalogue, self.gate, adopted or {})
        self.prequential = {name: Prequential() for name in _VERSIONS}
        self._profile = Profile(settings.history_length)
        self._seen = Profile(settings.history_length)
        # Had-sets name types by their place here, so it only ever grows.
        self.types: list[str] = []
        self._know_types(settings)
        # Made when it is needed first, of what is there by then.
        self._joined: Slice | None = None
        self._stride = Stride()
        # Called as an event begins to be judged and as that ends, by whoever measures it.
        self.on_judge: Callable[[], None] | None = None
        # None where there are no rules.
        self.rulebook: Rulebook | None = None

    @property
    def is_blank(self) -> bool:
        """Tell whether there is nothing here but settings."""
        return not (self.n_events or self.n_impressions or self.tick or self.gate.data.n_decisions)

    # -- entries ------------------------------------------------------------------------------

    def apply(self, entry: Entry, cursor: str, snapshot: State | None = None) -> Outcome:
        """Apply one entry of the log, in one go (see `steps`)."""
        done: list[Outcome] = []
        for _ in self.steps_of([(entry, cursor)], done, snapshot, limit=WHOLE):
            pass
        return done[0]

    def steps(self, entry: Entry, cursor: str, snapshot: State | None = None) -> Steps[Outcome]:
        """Apply one entry, pausing now and then so that requests can be answered meanwhile.

        `snapshot` is the state that a restore command names. Raises LogStopped where this program
        must not go on.
        """
        done: list[Outcome] = []
        yield from self.steps_of([(entry, cursor)], done, snapshot)
        return done[0]

    def steps_of(
        self,
        entries: Sequence[tuple[Entry, str]],
        done: list[Outcome],
        snapshot: State | None = None,
        *,
        limit: Quiet = TURN,
    ) -> Steps[None]:
        """Apply entries with their cursors, as if one by one; what became of each goes to `done`.

        Where nothing is due in between, events of several are learned together, up to a `limit`.
        """
        reading = Reading(entries, limit)
        n_decisions, at = self.gate.data.n_decisions, 0
        ahead: Verdict | None = None  # of the event that is next, where it was looked at already
        while at < len(reading):
            record, outcome = reading.records[at], self._begin(reading, at)
            if record is None:
                pass
            elif isinstance(record, _EVENTS):
                n, ahead = yield from self._events(record, ahead, reading, at, done)
                at += n - 1
                outcome = reading.outcome(at)
            else:
                yield from self._apply(record, outcome, snapshot)
            if self.gate.data.n_decisions != n_decisions:
                n_decisions = self._stamp_decisions(outcome, n_decisions)
                yield from fresh.give_back()  # what a shadow that was set back had counted
            if reading.is_last(at):
                self._end(outcome, done)
            at += 1
            yield

    def _events(
        self,
        record: Feedback | Malformed,
        ahead: Verdict | None,
        reading: Reading,
        at: int,
        done: list[Outcome],
    ) -> Steps[tuple[int, Verdict | None]]:
        """Learn the event at a place, and what may be learned with it, and do what is due then.

        `ahead` is the verdict on it, where it was looked at already. Return how many these were,
        and the verdict on the next one, if it is known.
        """
        n, n_decisions = 0, self.gate.data.n_decisions
        if ahead is None:
            n, ahead = self._learn_joined(reading, at, done)
        is_learned = n > 0
        if not n:
            verdict, ahead = ahead or self._decide(record, reading.arrivals_ms[at]), None
            self._tell(verdict)
            is_learned = verdict.status == "learned"
            if is_learned and any(self.gate.freshness):
                yield from self._begin_batches()
            if is_learned:  # what has been decided by now is of its own entry
                is_alone = self.gate.data.n_decisions != n_decisions
                n, ahead = self._learn_joined(reading, at, done, verdict, is_alone=is_alone)
            if not n:
                self._take(record, verdict, reading, at)
                n = 1
        if is_learned and self._is_unsettled:
            yield from self._settle()
        return n, ahead

    def _begin(self, reading: Reading, at: int) -> Outcome:
        """Take note that the record at a place is next; return what becomes of its entry."""
        outcome = reading.outcome(at)
        if reading.index(at) == 0:
            outcome.version_before = self.gate.data.version
        return outcome

    def _end(self, outcome: Outcome, done: list[Outcome]) -> None:
        """Take note that all of an entry has been applied."""
        self.cursor = outcome.cursor
        outcome.version_after = self.gate.data.version
        if outcome.version_after != outcome.version_before or self.gate.is_following:
            self.champion_cursor = outcome.cursor
        done.append(outcome)

    def _stamp_decisions(self, outcome: Outcome, n_before: int) -> int:
        """Give new decisions the cursor, list them in the outcome; return how many there are."""
        n = self.gate.data.n_decisions
        for decision in self.gate.decisions[len(self.gate.decisions) - (n - n_before) :]:
            decision.cursor = outcome.cursor
            outcome.decisions.append(decision)
        return n

    def _apply(self, record: Any, outcome: Outcome, snapshot: State | None) -> Steps[None]:
        """Apply a record that is no feedback."""
        if isinstance(record, events.Configure):
            self._configure(record)
            return
        self._require_settings()
        if isinstance(record, events.Impression):
            self._impression(record)
            yield from self._settle()
            return
        if isinstance(record, events.Upgrade):
            refused = self._upgrade(record)
        elif isinstance(record, events.Thin):
            refused = self._thin(record)
        elif isinstance(record, events.UserMerge):
            outcome.results.append(self._merge(record))
            return
        elif isinstance(record, events.Command):
            refused = yield from self._command(record, snapshot)
            if record.name == "restore" and record.snapshot_id and refused is None:
                self.restored[record.snapshot_id] = outcome.cursor
        elif isinstance(record, events.Rules):
            refused = None
            self._put_rules(record)
        else:
            refused = self._change_catalogue(record)
        outcome.results.append(Result(None, "refused" if refused else "applied", refused))

    def _require_settings(self) -> None:
        if not self.is_configured:
            raise LogStopped("the log does not begin with its settings (Configure)")

    def _decide(self, event: Feedback | Malformed, arrival_ms: int | None) -> Verdict:
        """Decide whether an event may be learned."""
        if not self.is_configured:
            self._require_settings()
        # Nearly always nothing is barred: then nobody need look.
        may_bar = self.gate.data.suspects or not self.settings.create_unknown_items
        barred = self._barred(event) if may_bar and isinstance(event, Feedback) else None
        return self.admission.decide(event, arrival_ms, barred=barred)

    def _tell(self, verdict: Verdict) -> None:
        """Tell the gate what was decided of the event that is next."""
        if verdict.status != "duplicate":
            self.gate.after_admission(is_quarantined=verdict.status == "quarantined")

    def _take(
        self, event: Feedback | Malformed, verdict: Verdict, reading: Reading, at: int
    ) -> None:
        """Learn what was admitted, and note what became of the event at a place."""
        status, reason, outcome = verdict.status, verdict.reason, reading.outcome(at)
        if isinstance(event, Feedback) and status == "learned":
            reason = self._learn(event, verdict)
        elif status != "duplicate":
            outcome.quarantined.append((reading.index(at), record_of(event, verdict)))
        self.admission.count(status, reason)
        outcome.results.append(Result(event.event_id, status, reason))

    def _barred(self, event: Feedback) -> tuple[str, str] | None:
        """Return why nothing may be learned about an event's item, if it may not."""
        if not (self.settings.create_unknown_items or event.item_id in self.history.items):
            return "unknown_item", "there is no such item"
        if self.gate.is_suspect(event.item_id) and not event.released:
            return "suspect_item", "it was clicked far more than was expected of it"
        return None

    @property
    def _is_unsettled(self) -> bool:
        """Tell whether there may be anything for `_settle` to do."""
        return (
            self.gate.is_promotion_due
            or self.gate.has_relearn
            or self.challenges.running is not None
        )

    def _limit(self, event: Feedback, item: int) -> str | None:
        """Return why an event counts for its user alone, if that is known before it is judged."""
        if self.is_static:
            return FROZEN
        now_ms, least = self.admission.watermark_ms, self.settings.growth_least
        is_past_growth = not event.released and self.growth.is_past(item, now_ms, least)
        return GROWTH if is_past_growth else None

    @property
    def is_static(self) -> bool:
        """Tell whether shared state stays as it is: nothing is taught, and nothing compared."""
        return self.gate.freshness.is_static and self.gate.data.has_anchor

    def _begin_batches(self) -> Steps[None]:
        """Serve what has waited for the end of a batch, if the event that comes is in another one.

        That is all that came before it, in the order of the log: also what came late.
        """
        gate, as_of, now_ms = self.gate, self.history.as_of, self.admission.watermark_ms
        length_ms = gate.freshness.personal_ms if gate.data.has_anchor else 0
        if length_ms and not (as_of.is_on and not is_over(gate.now.time_ms, now_ms, length_ms)):
            as_of.begin()
        if gate.is_batch_over(now_ms):
            gate.now = replace(gate.now, time_ms=now_ms)
            yield from self._promote()

    def _settle(self) -> Steps[None]:
        """Do what has been found to be due: learn again, adopt a challenger, promote."""
        job = self.gate.take_relearn()
        if job is not None:
            yield from self._relearn(job)
        self.challenges.settle()
        if self.challenges.is_adoption_due(self.settings):
            self._adopt("the challenger is proven better", "gate", force=False)
        if self.gate.is_promotion_due:
            yield from self._promote()

    def _promote(self) -> Steps[None]:
        is_asked = self.settings.overlap_min > 0 and self.settings.gate != "off"
        overlap = (yield from self._overlap()) if is_asked else None
        self.gate.promote_if_alike(overlap)
        self.promoted_tick = self.tick

    def _relearn(self, job: Relearn) -> Steps[None]:
        """Teach the shadow again what it learned since the anchor, but for what is left out."""
        n = n_known = 0
        for first, last, left_out in job.pieces():
            without = {self.history.items.get(item_id) for item_id in left_out} - {MISS}
            for learned in self.window.events(first, last, without):
                n_known += 1
                if learned is not None:
                    n += 1
                    self.learner.make_room(learned.item)
                    self.learner.learn(*learned)
                    if self.explores:
                        self.exploration.labels.learn(*learned[:3])
                    self.challenges.learn_again(*learned)
                    yield
        self.gate.relearned(job, n, n_known)

    def _impression(self, shown: events.Impression) -> None:
        """Compare what was clicked on a slate with what was expected, then learn from it.

        A slate that is declared again is none: nothing is left of what was clicked on it.
        """
        counts_once = shown.is_verified and self.semantics >= 10
        if counts_once and not self.answers.judge(shown.recommendation_id):
            return
        items = shown.items[:MOST_PLACES]
        answered = self.answers.take(shown.recommendation_id) if shown.is_verified else []
        if self.explores:
            self._note_shown(shown.user_id, items, answered)
        if not items or len(shown.scores) != len(shown.items) or not shown.is_verified:
            return
        # What explores is new, and not there for its score: what is expected goes by the others.
        kept = [place for place in range(len(items)) if place not in shown.explored]
        if not kept:
            return
        clicked = np.full(len(items), np.nan)
        clicked[kept] = [items[place] in answered for place in kept]
        expected = self.clicks.expected(CHAMPION, shown.scores)
        n_learned = int(self.clicks.n_learned[CHAMPION])
        self.n_impressions += 1
        if self.semantics >= 8:
            self._calibrate(shown.scores, clicked, kept)
        # A long history shows that a user is no fake, not that what we hear of them is right.
        is_marked = self.settings.trusted == "marked" and self.is_trusted(shown.user_id)
        self.gate.after_slate(
            [items[place] for place in kept],
            expected[kept],
            clicked[kept],
            n_learned,
            is_marked=is_marked,
        )
        self.clicks.learn(shown.scores, clicked.tolist())

    def _note_shown(self, user_id: str, items: list[str], answered: list[str]) -> None:
        """Count what was shown, and what of it the user did not take."""
        user = self.history.users.get(user_id)
        for item_id in items:
            item = self.history.items.get(item_id)
            if item == MISS:
                continue
            self.exploration.show(item)
            is_taken = item_id in answered or (user != MISS and self.history.has_had(user, item))
            if user != MISS and not is_taken:
                self.ignored.add(user, item)

    def _note_taken(self, case: Case, *, is_taught: bool) -> None:
        """Count an event, and teach the labels what its item came after."""
        profile, user, item, reward, _ = case
        is_taught = is_taught and reward > 0
        self._count_taken(self.n_events, [user], [item], [is_taught])
        if is_taught:
            self.exploration.labels.learn(profile, item, reward)

    def _count_taken(
        self, number: int, users: list[int], items: list[int], taught: list[bool]
    ) -> None:
        """Count events, by the number of the first, for what is new and what was ignored."""
        self.exploration.count(number, items, taught)
        self.ignored.drop(users, items)

    def _calibrate(self, scores: list[float], clicked: F64, kept: list[int]) -> None:
        """Compare what each version expected of some places of a slate with what came of it."""
        versions = {"shadow": SHADOW, "champion": self.gate.served}
        if self.gate.data.has_anchor:
            versions["anchor"] = ANCHOR
        for name, version in versions.items():
            expected = self.clicks.expected(version, scores)
            self.calibration[name].add(expected[kept], clicked[kept])

    def _learn(self, event: Feedback, verdict: Verdict) -> str | None:
        """Judge, teach the shadow, update personal state, tell the gate: in this order.

        Return why the event counts for its user alone, if it does: then it is judged, but teaches
        nothing that is shared.
        """
        history, gate, reward, time_ms = self.history, self.gate, verdict.reward, verdict.time_ms
        item, watermark_ms = history.items.get(event.item_id), self.admission.watermark_ms
        profile, type_index = self._profile, self._type_index[event.type]
        profile.user = history.users.get(event.user_id)
        gate.before_event(event.item_id, watermark_ms, is_known=item != MISS)
        reason = self._limit(event, item)
        case = Case(profile, profile.user, item, reward, time_ms)
        self._situate(event, profile.user)
        if self.on_judge is not None:
            self.on_judge()
        run = Run([event], [self.admission.key], [reward], [time_ms], [watermark_ms])
        self._pace(run, self.pace)
        losses, is_repeat = self._judge(
            case, event, type_index, is_judged=run.judged[0], is_taught=reason is None
        )
        if self.on_judge is not None:
            self.on_judge()
        if is_repeat and not self.settings.teach_repeats and reason != FROZEN:
            reason = REPEAT
        self.n_events += 1
        self.n_paced += run.paced[0]
        self.tick += 1
        n_removed = history.items.n_removed
        user = history.touch_user(event.user_id, self.tick)
        if not history.n_events[user]:
            history.user_since[user] = self.n_events
        item = self._touch_item(event.item_id, self.tick, watermark_ms, is_known=item != MISS)
        profile.user = user  # who may be new
        is_taught = reason is None
        self.window.add(
            self.n_events, user, item, reward=reward, time_ms=time_ms, is_taught=is_taught
        )
        if history.items.n_removed != n_removed:  # perhaps an item of the profile
            history.profile(user, profile)
        case = Case(profile, user, item, reward, time_ms)
        if self.explores:
            self._note_taken(case, is_taught=is_taught)
        if self.challenges.running is None:
            while not self.learner.take(
                profile,
                user,
                item,
                type_index=type_index,
                reward=reward,
                time_ms=time_ms,
                is_taught=is_taught,
            ):
                self.learner.make_room(item)
                history.profile(user, profile)
        else:
            self._take_beside(case, type_index, is_taught=is_taught)
        if is_taught:
            self.growth.count(item, watermark_ms)
            self.n_learned += reward > 0
        if event.token == VALID and event.recommendation_id and reward > 0:
            self._note_answer(event, event.recommendation_id)
        now = Clock(self.n_events, self.n_learned, watermark_ms, self.n_paced)
        gate.after_event(now, losses)
        return reason

    # -- events that are learned together -----------------------------------------------------

    @property
    def _may_join(self) -> bool:
        """Tell whether a kernel may do all that is to be done, and nobody else looks on beside."""
        return (
            self.is_configured
            and self.on_judge is None
            and self.challenges.running is None
            and self.learner.is_linear
            and not any(self.gate.freshness)
            and not self.history.as_of.is_on
        )

    @property
    def _room(self) -> int:
        """Return for how many events there is room, whatever they are about."""
        history = self.history
        return min(history.max_rooms - history.n_rooms, self.learner.n_room())

    def _learn_joined(
        self,
        reading: Reading,
        at: int,
        done: list[Outcome],
        first: Verdict | None = None,
        *,
        is_alone: bool = False,
    ) -> tuple[int, Verdict | None]:
        """Learn the events at a place and behind it that are admitted as a matter of course, up to
        where something may be due, or there is no room for more.

        The `first` may have been admitted already; then, if it `is_alone`, none behind it. Return
        how many these are, and the verdict on the next one, if it is known.
        """
        n, n_decisions = len(reading.feedback(at, 2)), self.gate.data.n_decisions
        is_begun = first is not None and n > 0
        if not self._may_join or not (is_begun or (n > 1 and self._stride.next(n))):
            return 0, None
        joined, is_more, ahead = self._begin_slice(), n > 1 and not is_alone, None
        if first is not None and not self._join_first(reading.feedback(at, 1)[0], first):
            return 0, None
        is_more = is_more and not self._stride.is_resting
        if is_more and self.gate.data.n_decisions == n_decisions:
            quiet = self._quiet(reading.limit)
            while is_more and joined.is_within(quiet):
                is_more, ahead = self._join_more(reading, at + len(joined.events), quiet)
        if joined.events:
            self._learn_slice(joined, reading, at, done)
        return len(joined.events), ahead

    def _join_first(self, event: Feedback, verdict: Verdict) -> bool:
        """Join an event that was admitted, if nobody has to go for it; tell whether it is."""
        history, watermark_ms = self.history, self.admission.watermark_ms
        users, items = [history.users.get(event.user_id)], [history.items.get(event.item_id)]
        if self._room < 1 or not self._n_with_place(users, items):
            return False
        known = [items[0] != MISS]
        self.gate.before_event(event.item_id, watermark_ms, is_known=known[0])
        key = self.admission.key
        run = Run([event], [key], [verdict.reward], [verdict.time_ms], [watermark_ms])
        self._pace(run, self.pace)
        self._join(run, users, items, known)
        return True

    def _join_more(self, reading: Reading, at: int, quiet: Quiet) -> tuple[bool, Verdict | None]:
        """Join events at a place and behind it.

        Return whether there may be more, and the verdict on the next one, if it is known.
        """
        joined = self._slice()
        feedback = reading.feedback(at, self._stride.next(self._likely_within(quiet, joined)))
        if not feedback:
            return False, None
        n_before, n = len(joined.events), len(feedback)
        ahead = self._join_plain(feedback, reading.arrivals_ms[at : at + n], quiet)
        n_joined = len(joined.events) - n_before
        self._stride.note(n, n_joined, is_over=not joined.is_within(quiet))
        return 0 < n_joined == n, ahead

    def _join_plain(
        self, feedback: list[Feedback], arrivals_ms: list[int | None], quiet: Quiet
    ) -> Verdict | None:
        """Join those at the beginning of some events; return the verdict on the next, if known."""
        gate, history, joined = self.gate, self.history, self._slice()
        run = self.admission.plain(feedback, arrivals_ms, gate.joins_until_ms, quiet.until_ms)
        if not run.events:
            return None
        users = history.users.index.find_all(run.user_ids)
        items = history.items.index.find_all(run.item_ids)
        run.cut(self._n_with_place(users, items))
        pace, n = self.pace.copy(), run.n
        self._pace(run, pace)
        run.cut(1 + _place_of(run.judged, quiet.judged - joined.n_judged))
        run.cut(1 + _place_of(run.paced, quiet.paced - joined.n_paced))
        if not run.events:
            return None
        known, ahead = _known(run.item_ids, items), None
        n_quiet = gate.join(run.item_ids, known)
        run.cut(n_quiet + 1)
        self.admission.admit(run)
        if n_quiet < run.n:
            ahead = Verdict("learned", time_ms=run.times_ms[-1], reward=run.rewards[-1])
            run.cut(n_quiet)
        if run.n == n:
            self.pace = pace
        else:
            self._pace(run, self.pace)
        if run.events:
            self._join(run, users, items, known)
        return ahead

    def _likely_within(self, quiet: Quiet, joined: Slice) -> int:
        """Return about how many more events there may be, if as many are judged as of the last."""
        n, n_judged, n_paced, _ = quiet
        part = self.pace.part(self.settings.judge_per_s)
        share = max(self.settings.judge_share * self.thinned[0] * part, _LEAST_SHARE)
        judged, paced = (n_judged - joined.n_judged) / share, (n_paced - joined.n_paced) / part
        return math.ceil(min(n - len(joined.events), judged, paced))

    def _n_with_place(self, users: list[int], items: list[int]) -> int:
        """Return how many of some events may be joined, by whose they are and on what; MISS is new.

        Until somebody would have to go for another one, or one comes that may not be created.
        """
        n_users, n_items = self.history.users.n_free, self.history.items.n_free
        if not self.settings.create_unknown_items:
            n_items = 0
        if min(n_users, n_items) >= len(users):
            return len(users)
        return min(
            _place_of([user == MISS for user in users], n_users + 1),
            _place_of([item == MISS for item in items], n_items + 1),
        )

    def _quiet(self, limit: Quiet) -> Quiet:
        """Return for how long events may be learned together, up to a limit."""
        if self.features is not None or self.settings.growth_least or self.gate.data.suspects:
            return Quiet(events=0)  # each is looked at by itself
        n = min(self._room, self.window.capacity or self._room)
        return self.gate.quiet().within(limit).within(Quiet(events=n))

    def _join(
        self,
        run: Run,
        users: list[int],
        items: list[int],
        known: list[bool],
    ) -> None:
        """Add events to those that are learned together, and let their users and items be there.

        Of the columns as many count as there are events.
        """
        history, n, first = self.history, run.n, self.tick + 1
        # Where they are of any consequence, each event is by itself: see `_quiet`.
        limit = self._limit(run.events[0], items[0])
        self._situate(run.events[0], users[0])
        self.n_events += n
        self.tick += n
        self.n_paced += sum(run.paced)
        users, items = users[:n], items[:n]
        for place, user in enumerate(users):
            if user == MISS:
                users[place] = history.touch_user(run.user_ids[place], first + place)
        for place, item in enumerate(items):
            if item == MISS:
                items[place] = self._touch_item(
                    run.item_ids[place],
                    first + place,
                    run.watermarks_ms[place],
                    is_known=known[place],
                )
        self._slice().add(
            run,
            users=users,
            items=items,
            types=[self._type_index[event.type] for event in run.events],
            befores=self.window.follow(users),
            known=known[:n],
            limit=limit,
        )

    def _begin_slice(self) -> Slice:
        joined = self._slice()
        joined.begin(self.n_events + 1, self.window.n, self.tick + 1)
        return joined

    def _slice(self) -> Slice:
        """Return what collects events: made when all else is there."""
        if self._joined is None:
            self._joined = Slice(self.history, self.window, self.growth, self.prequential)
        return self._joined

    def _learn_slice(self, joined: Slice, reading: Reading, at: int, done: list[Outcome]) -> None:
        """Learn what has been joined, from a place on, and take note of it."""
        gate, explores, labels = self.gate, self.explores, self.exploration.labels
        how = Teaching(
            versions=_ALL_THREE,
            is_compared=gate.is_compared,
            asks=gate.data.ask_trial is not None,
            asks_answers=gate.asks_answers,
            harm=gate.watch.harm["harm"],
            outside=gate.watch.harm["harm_outside"],
            asked=gate.ask_harm,
            margin=self.settings.harm_margin,
            exclude_had=self.settings.exclude_had,
            teach_repeats=self.settings.teach_repeats,
            kindred=labels.kindred,
            knows_labels=explores and labels.is_any,
        )
        self.n_learned += joined.learn(self.recommender, how)
        n, found = len(joined.events), joined.found()
        reasons = [REPEAT if bits & IS_REPEAT else joined.limit for bits in found]
        if explores:
            taught = [
                reason is None and reward > 0 for reason, reward in zip(reasons, joined.rewards)
            ]
            self._count_taken(self.n_events - n + 1, joined.users, joined.items, taught)
        for event, reward in zip(joined.events, joined.rewards):
            if event.token == VALID and event.recommendation_id and reward > 0:
                self._note_answer(event, event.recommendation_id)
        for reason in dict.fromkeys(reasons):
            self.admission.count("learned", reason, reasons.count(reason))
        results = [
            Result(event.event_id, "learned", reason)
            for event, reason in zip(joined.events, reasons)
        ]
        end = at + n
        for number in range(reading.of[at], reading.of[end - 1] + 1):
            begins, ends = reading.starts[number], reading.starts[number + 1]
            first, last = max(begins, at), min(ends, end)
            outcome = self._begin(reading, first)
            outcome.results += results[first - at : last - at]
            if last == ends and last < end:  # what is due after the last is of its entry
                self._end(outcome, done)
        # Who comes next may have been admitted: what the time is then plays no part yet.
        now = Clock(self.n_events, self.n_learned, joined.watermark_ms, self.n_paced)
        gate.after_events(now, joined.compared(found))

    # -- an event by itself -------------------------------------------------------------------

    def _situate(self, event: Feedback, user: int) -> None:
        """Let combiners see what an event came with, and what is kept of its user."""
        if self.features is not None:
            self.features.situate(event.features or {}, user, self.admission.watermark_ms)
            self.features.count()

    def _touch_item(self, item_id: str, tick: int, watermark_ms: int, *, is_known: bool) -> int:
        """Return the index of an event's item; one that comes by it has not been described."""
        item = self.history.touch_item(item_id, tick)
        if not is_known:
            self._arrive(item, watermark_ms)
            if self.features is not None:
                self.features.describe(item, {})
        return item

    def _take_beside(self, case: Case, type_index: int, *, is_taught: bool) -> None:
        """Teach learner and challenger an event, and append it to its user's history."""
        profile, user, item, reward, time_ms = case
        self.learner.make_room(item)
        self.challenges.make_room(item)
        self.history.profile(user, profile)
        if is_taught:
            self.learner.learn(profile, item, reward, time_ms)
            self.challenges.learn(profile, item, reward, time_ms)
        self.history.append(user, item, time_ms=time_ms, reward=reward, type_index=type_index)

    def _note_answer(self, event: Feedback, recommendation_id: str) -> None:
        """Remember a click on a slate; the first one counts, if two versions filled it."""
        is_first = self.answers.note(recommendation_id, event.item_id)
        if event.draft is not None and self.is_trusted(event.user_id):
            if is_first:
                self.gate.credit(event.draft)
            self.challenges.credit(event.draft, recommendation_id)

    def _judge(
        self, case: Case, event: Feedback, type_index: int, *, is_judged: bool, is_taught: bool
    ) -> tuple[Losses | None, bool]:
        """Rank the item by each version with the history from before; a repeat is not judged.

        The shadow comes last, as its combiner learns from what it was just ranked in; from a
        refusal, which has no loss, too. Return what the gate is told, and whether it is a repeat.
        """
        profile, _, item, reward, time_ms = case
        is_alone = reward <= 0 or self.gate.is_following
        versions = self._versions_to_rank(is_alone=is_alone)
        ranks, is_repeat = self.recommender.judge(
            versions,
            profile,
            item,
            type_index=type_index,
            reward=reward,
            time_ms=time_ms,
            is_judged=is_judged,
            is_taught=is_taught,
        )
        if ranks is None:
            return None, is_repeat
        if is_taught:
            if self.history.as_of.is_on:
                case = case._replace(profile=self.history.seen(case.user, self._seen))
            self.challenges.judge(case, None if is_alone else ranks[0])
        is_answer = event.recommendation_id is not None
        losses = None if reward <= 0 else self._losses(ranks, reward, is_answer=is_answer)
        return losses, is_repeat

    def _losses(self, ranks: list[int], reward: float, *, is_answer: bool) -> Losses | None:
        """Add ranks to the figures of the versions, and return what the gate is told of them."""
        prequential, champion, shadow = self.prequential, ranks[0], ranks[-1]
        prequential["champion"].add(champion, reward)
        if not self.is_static:
            prequential["shadow"].add(shadow, reward)
        if len(ranks) < len(_ALL_THREE):
            return None
        anchor = ranks[1]
        prequential["anchor"].add(anchor, reward)
        three = champion, shadow, anchor
        by_champion, by_shadow, by_anchor = (0 <= rank < TOP_10_DOUBLED for rank in three)
        return Losses(
            loss_of(champion),
            loss_of(shadow),
            loss_of(anchor),
            in_top10=by_champion or by_anchor,
            answers=is_answer and (by_champion or by_shadow),
        )

    def _versions_to_rank(self, *, is_alone: bool) -> I64:
        """Return which versions rank an event's item: what is served first, the shadow last.

        It is alone where nothing is to be compared.
        """
        if self.is_static:
            return _CHAMPION_ALONE
        if is_alone:
            return _SHADOW_ALONE
        return _COMPARED if self.settings.gate == "off" else _ALL_THREE

    def _change_catalogue(
        self,
        record: events.ItemUpsert
        | events.ItemDelete
        | events.UserUpsert
        | events.UserFeatures
        | events.UserDelete,
    ) -> str | None:
        """Change an item or a user; return why not, if it is refused."""
        self.tick += 1
        if isinstance(record, events.ItemUpsert):
            is_new = record.item_id not in self.history.items
            index = self.history.touch_item(record.item_id, self.tick)
            if is_new:
                self._arrive(index, self.admission.watermark_ms)
            refused = self.catalogue.upsert(index, record)
            if self.explores:
                self.exploration.meet(index)
                self.exploration.describe(index)
            return refused
        elif isinstance(record, events.ItemDelete):
            if record.item_id in self.history.items:
                self.history.evict_item(record.item_id)
        elif isinstance(record, events.UserUpsert):
            self.history.touch_user(record.user_id, self.tick)
            self.catalogue.user_attributes[record.user_id] = dict(record.attributes)
        elif isinstance(record, events.UserFeatures):
            user = self.history.touch_user(record.user_id, self.tick)
            if self.features is not None:
                self.features.put(user, record.features, record.time_ms, replace=record.replace)
        else:
            if record.user_id in self.history.users:
                self.history.forget_user(record.user_id)
            if self.semantics >= 7:
                self.admission.shares.forget(record.user_id)
        return None

    def _merge(self, record: events.UserMerge) -> Result:
        """Make one user of two; an id that is unknown, or is the user's own, changes nothing.

        Attributes first, features, and what was ignored, before the history forgets the id.
        """
        user_id, from_id = record.user_id, record.from_id
        self.tick += 1
        if from_id == user_id or from_id not in self.history.users:
            return Result(None, "unchanged", "nothing is known of it")
        attributes = self.catalogue.take_attributes(from_id)
        ignored = self.ignored.of(self.history.users.get(from_id))
        features = self.features and self.features.kept_of(self.history.users.get(from_id))
        merged = self.history.merge_users(user_id, from_id, self.tick)
        self.catalogue.add_attributes(user_id, attributes)
        self.ignored.merge(merged.user, ignored)
        if self.features and features:
            self.features.merge(merged.user, features)
        self.window.merge(merged)
        self.admission.shares.forget(from_id)
        return Result(None, "applied")

    def _arrive(self, item: int, watermark_ms: int) -> None:
        if self.catalogue.is_typed:  # since version 8, too
            self.catalogue.first_seen.note(item, watermark_ms)

    # -- rules --------------------------------------------------------------------------------

    def _put_rules(self, record: events.Rules) -> None:
        """Put rules in the place of those in force."""
        before = {rule.name: rule for rule in self.rules}
        self._use_rules(record.rules)
        after = {rule.name: rule for rule in self.rules}
        changed = [name for name in after if before.get(name, after[name]) != after[name]]
        evidence = {
            "rules": len(after),
            "added": [name for name in after if name not in before],
            "changed": changed,
            "removed": [name for name in before if name not in after],
        }
        self.gate.record("rules", f"{len(after)} rules in force", evidence, record.asked_by)

    def _use_rules(self, declared: list[dict[str, Any]]) -> None:
        try:
            rules = read_rules({"rules": declared})
        except InvalidRequest as error:
            raise LogStopped(f"the log has rules that this program cannot read: {error}") from None
        self.rulebook = self.make_rulebook(rules) if rules else None

    def _rules_state(self) -> State:
        """Return the rules, if there are any: programs that know none compare snapshots, too.

        As text: names that a client chose are never keys, which mean something to a snapshot.
        """
        return {"rules": canonical(self.rules).decode()} if self.rules else {}

    # -- settings and commands ----------------------------------------------------------------

    def _upgrade(self, record: events.Upgrade) -> str | None:
        """Go on with another semantics version; return why not, if it is refused."""
        _check_semantics(record.semantics)
        if record.semantics <= self.semantics:
            return f"the log has semantics version {self.semantics} already"
        evidence = {"semantics": [self.semantics, record.semantics]}
        explored = self.explores
        self._follow(record.semantics)
        if self.explores and not explored:
            self.exploration.begin()
        self.gate.record("upgrade", record.reason, evidence, record.asked_by)
        return None

    def _follow(self, semantics: int) -> None:
        """Compute as a semantics version says, from here on."""
        self.semantics = semantics
        self.catalogue.follow(semantics)
        self.learner.use_users(is_on=semantics >= 9)
        self.challenges.use_users(is_on=semantics >= 9)
        self.gate.follow(semantics)
        self.admission.shares.follow(semantics)

    @property
    def judge_share(self) -> float:
        """Return the share of events that are judged: what is set, thinned by a budget, and less
        where there are many.
        """
        settings = self.settings
        return settings.judge_share * self.thinned[0] * self.pace.part(settings.judge_per_s)

    def _pace(self, run: Run, pace: Pace) -> None:
        """Count admitted events, and tell which are judged, and which count for promotions."""
        settings = self.settings
        if self.semantics < 11:
            share = self.judge_share
            run.judged = [is_chosen(event.event_id, share, "judge") for event in run.events]
            run.paced = [True] * run.n
            return
        share = settings.judge_share * self.thinned[0]
        parts = pace.count(run.times_ms, run.watermarks_ms, settings.judge_per_s)
        run.judged = events.are_among(run.keys, [share * part for part in parts])
        if self.semantics < 12:
            run.paced = [True] * run.n
        elif share >= 1.0:
            run.paced = run.judged.copy()
        else:
            run.paced = events.are_among(run.keys, parts)

    def _thin(self, record: events.Thin) -> str | None:
        """Judge another part of the events; return why not, if another replica was faster."""
        was, part = self.thinned[0], record.part
        if record.was != was or not 0 < part <= 1:
            return f"the part that is judged is {was}, not {record.was}"
        self.thinned = part, record.replica
        evidence = {"part": [was, part], "judge_share": self.settings.judge_share * part}
        self.gate.record("thin", record.reason, evidence, "budget")
        return None

    def _thinned_state(self) -> State:
        """Return what is thinned, if it is: programs that do not know it compare snapshots, too."""
        return {"thinned": list(self.thinned)} if self.thinned[0] < 1 else {}

    def _configure(self, record: events.Configure) -> None:
        if not self.is_configured:
            _check_semantics(record.semantics)
            self._follow(record.semantics)
        elif record.reconfigure and record.semantics != self.semantics:
            raise LogStopped(
                f"the log is reconfigured under semantics version {record.semantics},"
                f" and has version {self.semantics}"
            )
        try:
            wanted = EngineSettings(**record.settings)
        except ValueError as error:
            raise LogStopped(
                f"settings in the log that this program cannot read: {error}"
            ) from None
        changed = changed_fields(self.configured, wanted)
        if not self.is_configured and changed:
            raise LogStopped(f"the log was begun with other settings: {', '.join(changed)}")
        if not changed or not record.reconfigure:
            if not self.is_configured:
                self.is_configured = True
                self._challenge_by_setting()
            return  # a second replica's first entry: the first one holds
        fixed = sorted(set(changed) - TUNABLE)
        if fixed:
            raise LogStopped(f"the log changes settings that cannot change: {', '.join(fixed)}")
        old, self.configured = self.configured, wanted
        was = self.settings.halve_counts_at
        if "halve_counts_at" in changed:  # said later than what was adopted, and by an operator
            self.challenges.adopted.pop("halve_counts_at", None)
        self._use_settings()
        self._know_types(wanted)
        evidence = {
            name: [shown_setting(old, name), shown_setting(wanted, name)] for name in changed
        }
        self.gate.record("configure", "settings changed", evidence, "operator")
        if "features" in changed:
            self._declare(wanted.features)
        # A challenger is judged by what it has learned beside a champion that counts as now.
        is_counted_otherwise = self.settings.halve_counts_at != was
        if is_counted_otherwise:
            self.learner.halve_counts_at(self.settings.halve_counts_at)
        if "challenger" in changed or is_counted_otherwise:
            self._stop_challenger("the setting has changed")
            self._challenge_by_setting()

    def _stop_challenger(self, reason: str) -> None:
        if self.challenges.running is not None:
            self.challenges.stop(reason, "settings")

    def _declare(self, features: Mapping[str, Feature]) -> None:
        """Let other features be given from here on; what is known of those that stay, stays."""
        self._stop_challenger("the features have changed")
        self.history.use_inputs(make_inputs(features, self.history.max_items))
        self.catalogue.declare(features)
        self.learner.take_inputs()
        self.recommender = Recommender(
            self.history, self.catalogue, self.learner, exclude_had=self.settings.exclude_had
        )

    def _use_settings(self) -> None:
        """Put in force what the log was configured with, but for what was adopted since."""
        adopted = self.challenges.adopted
        settings = self.configured.with_learner(adopted) if adopted else self.configured
        self.settings = self.admission.settings = settings
        self.gate.use(settings)
        self.catalogue.columns.most_strings = settings.max_strings
        if not self.gate.freshness.personal_ms:
            self.history.as_of.end()

    def _know_types(self, settings: EngineSettings) -> None:
        self.types += [name for name in sorted(settings.rewards) if name not in self.types]
        if len(self.types) > MOST_TYPES:
            raise LogStopped(f"the log names more than {MOST_TYPES:,} types of event")
        self._type_index = {name: index for index, name in enumerate(self.types)}
        self.history.let_return({self._type_index[n]: d for n, d in settings.had_return.items()})

    def _command(self, record: events.Command, snapshot: State | None) -> Steps[str | None]:
        """Do what an operator asks; return why not, if it is refused."""
        try:
            if record.name == "restore":
                self._restore(record, snapshot)
            elif record.name == "start_challenger":
                self._challenge(record.changes, record.reason, record.asked_by)
            elif record.name == "stop_challenger":
                self.challenges.stop(record.reason, record.asked_by)
            elif record.name == "adopt":
                self._adopt(record.reason, record.asked_by, force=record.force)
            else:
                overlap = (yield from self._overlap()) if record.name == "promote" else 1.0
                commands.command(
                    self.gate,
                    record.name,
                    record.reason,
                    record.asked_by,
                    force=record.force,
                    overlap=overlap,
                    without=record.without,
                )
                yield from self._settle()
        except Refusal as refusal:
            return str(refusal)
        return None

    def _challenge_by_setting(self) -> None:
        """Let the challenger of the settings begin, if there is one; record why it cannot."""
        changes = self.configured.challenger
        try:
            if changes:
                self._challenge(changes, "a setting says so", "settings")
        except Refusal as refusal:
            self.gate.record("challenger_refused", str(refusal), {"changes": changes}, "settings")

    def _challenge(self, changes: dict[str, Any], reason: str, asked_by: str) -> None:
        self.challenges.start(
            changes, self.settings, self.learner, reason=reason, asked_by=asked_by
        )

    def _adopt(self, reason: str, asked_by: str, *, force: bool) -> None:
        """Go on with the challenger's learner, and forget the one there was."""
        challenger = self.challenges.take(force=force)
        self.learner.leave()
        self.learner, self.recommender = challenger.learner, challenger.recommender
        self._use_settings()
        # What a score is worth in clicks has to be learned anew: scores are on another scale.
        self.clicks.load_state(ClickModel().state())
        self.gate.adopt_challenger(reason, asked_by, challenger.evidence())

    def _restore(self, record: events.Command, snapshot: State | None) -> None:
        if snapshot is None or record.snapshot_id is None:
            raise LogStopped(f"the snapshot {record.snapshot_id} that the log restores is missing")
        self._refuse_other_learner(record, snapshot)
        if self.challenges.running is not None:
            self.challenges.stop("a snapshot is restored", record.asked_by)
        now_ms = self.admission.watermark_ms
        before = self.recommender.tops(self.gate.served, self.settings.overlap_histories, now_ms)
        remap = self._remap(snapshot["history"]["items"]["ids"])
        generation = np.asarray(snapshot["history"]["items"]["generation"])
        self.learner.load_state(snapshot["learner"] | {"generation": generation}, remap)
        self.exploration.labels.restore(snapshot.get("exploration", {}).get("labels"))
        self.clicks.load_state(snapshot["clicks"])
        self.gate.load_state(snapshot["gate"], keep_record=True)
        after = self.recommender.tops(self.gate.served, self.settings.overlap_histories, now_ms)
        overlap = mean_overlap(before, after)
        commands.after_restore(
            self.gate,
            record.snapshot_id,
            record.reason,
            record.asked_by,
            overlap,
            int(snapshot["plain"]["n_events"]),
        )

    def _refuse_other_learner(self, record: events.Command, snapshot: State) -> None:
        """Raise Refusal, and record it, where a snapshot is of another configuration."""
        configured = EngineSettings(**snapshot["settings"])
        then = configured.with_learner(snapshot["challenges"]["adopted"])
        if then.features != self.settings.features:
            why = (
                "the snapshot is of other features than are declared now: declare those of then"
                " (SLUICE_FEATURES, --reconfigure), or restore whole"
            )
            both = [shown_setting(settings, "features") for settings in (then, self.settings)]
            self._refuse_restore(record, why, {"features": both})
        others = differing(then, self.settings)
        if configured.halve_counts_at != self.configured.halve_counts_at:
            others.pop("halve_counts_at", None)  # set since: counts of either kind go on as now
        if not others:
            return
        shown = ", ".join(f"{name}={pair[0]!r}, now {pair[1]!r}" for name, pair in others.items())
        why = (
            f"the snapshot's learner has {shown}: a challenger was adopted in between. Start one"
            " with the values of then and adopt it by force, or restore whole"
        )
        self._refuse_restore(record, why, others)

    def _refuse_restore(self, record: events.Command, why: str, others: dict[str, Any]) -> None:
        evidence = {"snapshot": record.snapshot_id, "then_and_now": others}
        self.gate.record("restore_refused", why, evidence, record.asked_by)
        raise Refusal(why)

    def _remap(self, ids: list[str | None]) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return, for each index of a snapshot, the index that its id has now, or MISS."""
        get = self.history.items.get
        return np.array([MISS if id_ is None else get(id_) for id_ in ids], np.int64)

    def _assign(self, target: int, source: int) -> int:
        self.challenges.assign(target, source)
        self.exploration.labels.assign(target, source)
        return self.learner.assign(target, source)

    def _overlap(self) -> Steps[float]:
        """Compare champion and shadow, pausing now and then: all at once takes milliseconds.

        Of the latest users before the last promotion (the shadow may know just what those after it
        did) it asks as many as it takes: ten who agree well are enough.
        """
        shares: list[float] = []
        n, now_ms = self.settings.overlap_histories, self.admission.watermark_ms
        users: list[int] = []
        n_next = ENOUGH_ALIKE
        for user in self.recommender.latest_users_before(self.promoted_tick, n):
            if user is not None:
                users.append(user)
                if len(users) < n_next:
                    continue
                shares += self.recommender.overlaps(_COMPARED, users, now_ms)
                n_next, users = 1, []
                if mean_share(shares) >= ALIKE:
                    break
            yield
        if users:
            shares += self.recommender.overlaps(_COMPARED, users, now_ms)
        return mean_share(shares)

    def describe(self) -> dict[str, Any]:
        """Return gate, versions, detectors, learner and counts: what /v1/model shows."""
        data = self.gate.data
        here = Version(self.n_events, self.admission.watermark_ms)
        origins = {"shadow": here, "champion": here, "anchor": here}
        if data.has_anchor:
            origins |= {"champion": data.champion, "anchor": data.anchor}
        cursors = {here.event: self.cursor} | {d.event: d.cursor for d in self.gate.decisions}
        versions: dict[str, Any] = {
            name: {
                "event": origins[name].event,
                "cursor": cursors.get(origins[name].event),
                "watermark": events.format_time(origins[name].time_ms),
                "age_events": self.n_events - origins[name].event,
                "prequential": prequential.view(),
            }
            for name, prequential in self.prequential.items()
        }
        return {
            "model": self.model_info(),
            "gate": self.gate.describe(),
            "versions": versions,
            "detectors": self.gate.detectors(),
            "learner": {
                "name": type(self.learner).__name__,
                "params": self.learner.params(),
                "sources": {n: s.params() for n, s in self.learner.sources.items()},
                "weights": self.learner.combiner.view(self.gate.served),
                "adopted": self.challenges.adopted,
            },
            "calibration": {name: c.view() for name, c in self.calibration.items()},
            "challenger": self.challenges.view(),
            "freshness": {"tier": self.settings.freshness, **self.gate.freshness.view()},
            "events": {
                "admitted": self.n_events,
                "learned": self.n_learned,
                "counts": self.admission.counts,
                "watermark": events.format_time(self.admission.watermark_ms),
            },
            "judging": {"share": self.judge_share, "thinned": self.thinned[0]},
            "users": len(self.history.users),
            "items": len(self.history.items),
            "cursor": self.cursor,
            "semantics": self.semantics,
        }

    # -- state --------------------------------------------------------------------------------

    _PLAIN = (
        "n_events",
        "n_learned",
        "n_impressions",
        "tick",
        "promoted_tick",
        "cursor",
        "champion_cursor",
        "restored",
        "types",
    )

    def state(self, lent: Mapping[str, Any] | None = None) -> State:
        """Return everything as plain data and arrays: what a snapshot holds.

        In place of some sources of the learner, by name, what is `lent`.
        """
        state: State = {
            "semantics": self.semantics,
            "settings": self.configured.logged(self.semantics),
            "plain": {name: copy(getattr(self, name)) for name in self._PLAIN},
            "history": self.history.state(),
            "catalogue": self.catalogue.state(),
            "learner": self.learner.state(lent),
            "admission": self.admission.state(),
            "clicks": self.clicks.state(),
            "answers": self.answers.state(),
            **self._calibration_state(),
            "window": self.window.state(),
            "growth": self.growth.state(),
            "gate": self.gate.state(),
            "challenges": self.challenges.state(),
            "prequential": {name: p.state() for name, p in self.prequential.items()},
            **self._rules_state(),
            **self._thinned_state(),
            **self._pace_state(),
        }
        if self.explores:
            state["exploration"] = self.exploration.state()
            state["ignored"] = self.ignored.state()
        return state

    def _pace_state(self) -> State:
        """Return what is kept from semantics version 11 on."""
        state: State = {"pace": self.pace.state()} if self.semantics >= 11 else {}
        return state | {"n_paced": self.n_paced} if self.semantics >= 12 else state

    def _calibration_state(self) -> State:
        """Return what is kept from semantics version 8 on: programs before it compare snapshots."""
        if self.semantics < 8:
            return {}
        return {"calibration": {name: c.state() for name, c in self.calibration.items()}}

    @classmethod
    def from_state(cls, state: State) -> Engine:
        """Return an engine that continues exactly where `state` was taken.

        What is large of it is let go once it is used, if nobody else holds on to it.
        """
        state = dict(state)
        engine = cls(EngineSettings(**state["settings"]), state["challenges"]["adopted"])
        engine.is_configured = True
        engine.semantics = int(state["semantics"])
        for name in cls._PLAIN:
            setattr(engine, name, copy(state["plain"][name]))
        engine._know_types(engine.settings)
        engine.history.load_state(state.pop("history"))
        engine.catalogue.load_state(state["catalogue"], engine.semantics)
        engine.learner.load_state(state.pop("learner"))
        engine.admission.load_state(state["admission"])
        engine.clicks.load_state(state["clicks"])
        engine.answers.load_state(state["answers"])
        for name, saved in state.get("calibration", {}).items():
            engine.calibration[name].load_state(saved)
        engine.window.load_state(state["window"])
        engine.growth.load_state(state["growth"])
        engine.gate.load_state(state["gate"])
        engine.gate.follow(engine.semantics)
        engine.admission.shares.follow(engine.semantics)
        engine.challenges.load_state(state.pop("challenges"), engine.settings)
        for name, prequential in engine.prequential.items():
            prequential.load_state(state["prequential"][name])
        if "exploration" in state:
            engine.exploration.load_state(state["exploration"])
            engine.ignored.load_state(state["ignored"])
        elif engine.explores:  # a snapshot of a program that did not know these
            engine.exploration.begin()
        part, replica = state.get("thinned", (1.0, ""))
        engine.thinned = float(part), str(replica)
        if "pace" in state:
            engine.pace.load_state(state["pace"])
        engine.n_paced = int(state.get("n_paced", engine.n_events))
        engine._use_rules(orjson.loads(state.get("rules", "[]")))
        return engine

    def hashes(self) -> dict[str, str]:
        """Return model_hash and state_hash: SHA-256 over canonical content, sorted by id."""
        model = hashlib.sha256()
        order = self.history.items.sorted_indices()
        place = np.full(self.history.items.n_indices, MISS, np.int64)
        place[order] = np.arange(len(order))
        for version in range(N_VERSIONS):
            self.learner.update_hash(version, order, place, model)
        self.learner.hash_learning(place, model)
        self.history.update_hash(model)
        model.update(_canonical(self.catalogue.canonical()))
        if self.explores:
            self.exploration.labels.update_hash(order, model)
        state = model.copy()
        self.clicks.update_hash(state)
        if self.semantics >= 8:
            for calibration in self.calibration.values():
                calibration.update_hash(state)
        for ids in (self.history.items, self.history.users):
            state.update(ids.touched[ids.sorted_indices()].tobytes())
        if self.catalogue.is_typed:
            state.update(self.catalogue.first_seen.first_ms[order].tobytes())
        state.update(self.admission.canonical() + self.window.canonical())
        state.update(self.growth.canonical())
        self.challenges.update_hash(order, place, state)
        if self.explores:
            self.exploration.update_hash(order, place, state)
            self.ignored.update_hash(state)
        if self.features is not None:
            self.features.update_hash(self.history.users.sorted_indices(), state)
        state.update(_canonical(self._canonical_rest()))
        return {"model_hash": model.hexdigest(), "state_hash": state.hexdigest()}

    def _canonical_rest(self) -> dict[str, Any]:
        gate = self.gate.state()
        for decision in gate["decisions"]:
            del decision["cursor"]
        counts = {k: v for k, v in self.admission.counts.items() if k != "duplicate"}
        return {
            "settings": self.configured.logged(self.semantics),
            "challenges": self.challenges.canonical(),
            "plain": [
                *(self.n_events, self.n_learned, self.tick, self.promoted_tick),
                self.admission.watermark_ms,
            ],
            "impressions": self.n_impressions,
            "answers": self.answers.state(),
            "types": self.types,
            "counts": counts,
            "gate": gate,
            "prequential": {name: p.state() for name, p in self.prequential.items()},
            **self._rules_state(),
            **self._thinned_state(),
            **self._pace_state(),
        }


def begun(entry: Entry) -> Engine:
    """Return an engine with the settings of a log's first entry; SettingsError if it has none."""
    first = entry.records[0]
    if not isinstance(first, events.Configure):
        raise SettingsError("the log does not begin with its settings: is it one of ours?")
    if first.semantics not in KNOWN_SEMANTICS:
        known = " and ".join(map(str, KNOWN_SEMANTICS))
        raise SettingsError(
            f"the log has semantics version {first.semantics}; this program knows {known}"
        )
    return Engine(EngineSettings(**first.settings))


def _check_semantics(version: int) -> None:
    """Raise LogStopped unless this program can compute a semantics version."""
    if version not in KNOWN_SEMANTICS:
        known = " and ".join(map(str, KNOWN_SEMANTICS))
        raise LogStopped(
            f"the log goes on with semantics version {version}; this program knows {known}:"
            " start a newer one"
        )


def shown_setting(settings: EngineSettings, name: str) -> Any:
    """Return a setting as the record of decisions has it, and as it is shown."""
    if name == "features":
        return settings.model_dump(mode="json", include={name}, exclude_defaults=True).get(name, {})
    return getattr(settings, name)


def changed_fields(old: EngineSettings, new: EngineSettings) -> list[str]:
    """Return the names of the settings that differ."""
    return [n for n in EngineSettings.model_fields if getattr(old, n) != getattr(new, n)]


def _canonical(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_SERIALIZE_NUMPY)
