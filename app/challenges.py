"""At most one challenger at a time: how it begins and ends, and what was adopted of those before.

Every act is a decision of the gate's record. While none runs, all of this does nothing.
"""

from __future__ import annotations

from typing import Any

from app.catalogue import Catalogue
from app.challenger import Case, Challenger
from app.detectors import proof_at
from app.gate import Gate
from app.gate_data import Refusal, Rival, Version
from app.recommend import Recommender
from app.settings import LEARNER_SETTINGS, EngineSettings
from learners.base import CHAMPION, N_VERSIONS
from learners.blend import Blend
from learners.history import History, Profile
from learners.ids import State
from learners.kernels import I32, I64


class Challenges:
    """The challenger that runs, if one does; how many there were; what is in force by adoption."""

    def __init__(
        self, history: History, catalogue: Catalogue, gate: Gate, adopted: dict[str, Any]
    ) -> None:
        self.history = history
        self.catalogue = catalogue
        self.gate = gate
        self.n_started = 0
        # Settings of the learner that were adopted, over those that the log was configured with.
        self.adopted = dict(adopted)
        self.running: Challenger | None = None

    # -- beginning and end --------------------------------------------------------------------

    def start(
        self,
        changes: dict[str, Any],
        settings: EngineSettings,
        champion: Blend,
        *,
        reason: str,
        asked_by: str,
    ) -> None:
        """Let a challenger begin with what the champion's learner has learned, where that fits."""
        if self.running is not None:
            raise Refusal(f"challenger {self.running.number} is running: stop it first")
        if settings.gate == "off":
            raise Refusal("the gate is off: nothing would ever be proven")
        if not changes:
            raise Refusal("changes: give at least one setting")
        try:
            challenger = Challenger(
                self.n_started + 1, changes, settings, self.history, self.catalogue
            )
        except ValueError as error:
            raise Refusal(f"changes: {error}") from None
        empty = challenger.learner.inherit(champion)
        now = self.gate.now
        challenger.since = Version(now.event, now.time_ms)
        self.n_started += 1
        self.running = challenger
        about = {"instead_of": {n: self._jsonable(settings, n) for n in challenger.changes}}
        evidence = challenger.evidence() | about | {"begins_empty": empty}
        self.gate.record("challenger_started", reason, evidence, asked_by)

    @staticmethod
    def _jsonable(settings: EngineSettings, name: str) -> Any:
        return settings.model_dump(mode="json", include={name})[name]

    def stop(self, reason: str, asked_by: str) -> None:
        """End the challenger; raise Refusal if there is none."""
        challenger = self._require()
        self._end(challenger)
        self.gate.record("challenger_stopped", reason, challenger.evidence(), asked_by)

    def _require(self) -> Challenger:
        if self.running is None:
            raise Refusal("no challenger is running")
        return self.running

    def _end(self, challenger: Challenger) -> None:
        challenger.learner.leave()
        self.running = None

    def take(self, *, force: bool) -> Challenger:
        """Return the challenger to be adopted, which then runs no more.

        Raises Refusal where it is not proven (unless by `force`), or nothing may be adopted now.
        """
        challenger, gate = self._require(), self.gate
        if not gate.is_open or gate.data.mode != "normal":
            state = "warming" if gate.is_following else gate.data.state
            raise Refusal(
                f"the gate is {state} and the mode {gate.data.mode}:"
                " a challenger is adopted in open and normal alone"
            )
        if challenger.proof is None and not force:
            raise Refusal(
                f"challenger {challenger.number} is not proven better: its statistic is"
                f" {challenger.better.statistic:.3g} of {proof_at(challenger.alpha):.3g};"
                ' adopt with "force": true if you know better'
            )
        self.running = None
        self.adopted |= challenger.changes
        return challenger

    def is_adoption_due(self, settings: EngineSettings) -> bool:
        """Tell whether a proven challenger is to be adopted without being asked for."""
        return (
            self.running is not None
            and self.running.proof is not None
            and settings.challenger_adopt == "auto"
            and self.gate.is_open
            and self.gate.data.mode == "normal"
        )

    def settle(self) -> None:
        """Record what has been shown by now, once; a challenger that is shown worse ends."""
        challenger = self.running
        if challenger is None:
            return
        for news in challenger.news():
            self.gate.record(*news)
        if challenger.is_refuted:
            self._end(challenger)

    # -- events -------------------------------------------------------------------------------

    def judge(self, case: Case, champion: int | None) -> None:
        """Let the challenger rank an event's item; it is compared while the gate is open."""
        if self.running is not None:
            self.running.judge(case, champion, is_compared=self.gate.is_open)

    def make_room(self, item: int) -> None:
        """See that one more event can be learned.

        The challenger's rows are those of the champion's learner, or fewer; so where that one has
        room this has, and nothing is evicted on its account.
        """
        if self.running is not None:
            self.running.learner.make_room(item)

    def learn(self, profile: Profile, item: int, reward: float, time_ms: int) -> None:
        """Teach the challenger an event."""
        if self.running is not None:
            self.running.learn(profile, item, reward, time_ms)

    def learn_again(self, profile: Profile, item: int, reward: float, time_ms: int) -> None:
        """Teach the challenger an event that counted when it was learned first."""
        if self.running is not None:
            self.running.learner.make_room(item)
            self.running.learner.learn(profile, item, reward, time_ms)

    def use_users(self, *, is_on: bool) -> None:
        """Keep factors of each user's own, or none."""
        if self.running is not None:
            self.running.learner.use_users(is_on=is_on)

    def assign(self, target: int, source: int) -> None:
        """Do with the challenger's versions what is done with the champion's."""
        if self.running is not None:
            self.running.learner.assign(target, source)

    # -- interleaving -------------------------------------------------------------------------

    def rival(self, share: float) -> Rival | None:
        """Return the challenger as the rival of a share of slates, where it may be one."""
        challenger, gate = self.running, self.gate
        if challenger is None or not share or not challenger.is_warm:
            return None
        if not gate.is_open or gate.data.mode != "normal":
            return None
        return Rival(CHAMPION, share, challenger.name, is_challenger=True)

    @property
    def recommender(self) -> Recommender:
        """Return what ranks for the challenger; raise Refusal if there is none."""
        return self._require().recommender

    def credit(self, draft: str, slate_id: str) -> None:
        """Take note of a click on a slate; on one of another challenger's, or of HOLD's, do not."""
        name, _, team = draft.rpartition(":")
        if self.running is not None and name == self.running.name:
            self.running.interleaving.credit(slate_id, "b" if team == "b" else "a")

    # -- state --------------------------------------------------------------------------------

    def view(self) -> dict[str, Any] | None:
        """Return what an operator may want to see of the challenger."""
        return None if self.running is None else self.running.view()

    def state(self) -> State:
        """Return what `load_state` continues from."""
        running = None if self.running is None else self.running.state()
        return {"n_started": self.n_started, "adopted": dict(self.adopted), "running": running}

    def load_state(self, state: State, settings: EngineSettings) -> None:
        """Become what `state` was taken from, over a history that was loaded."""
        self.n_started = int(state["n_started"])
        self.adopted = dict(state["adopted"])
        saved = state["running"]
        if saved is not None:
            self.running = Challenger(
                saved["number"], saved["changes"], settings, self.history, self.catalogue
            )
            self.running.load_state(saved)

    def canonical(self) -> dict[str, Any]:
        """Return what is hashed, but for what the challenger has learned."""
        running = None if self.running is None else self.running.state_but_learner()
        return {"n_started": self.n_started, "adopted": self.adopted, "running": running}

    def update_hash(self, order: I32, place: I64, sha: Any) -> None:
        """Feed what the challenger has learned to a hashlib object."""
        if self.running is not None:
            for version in range(N_VERSIONS):
                self.running.learner.update_hash(version, order, place, sha)
            self.running.learner.hash_learning(place, sha)


def differing(one: EngineSettings, other: EngineSettings) -> dict[str, list[Any]]:
    """Return the learner's settings that differ, each with both values."""
    pairs = {name: [getattr(one, name), getattr(other, name)] for name in LEARNER_SETTINGS}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
