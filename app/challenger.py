"""A second configuration of the learner, which shadows beside the first until it is proven better.

It learns what the first one learns, and its versions move whenever the first one's do: what it is
compared by is its own champion, as fresh as the one served. It shows nobody anything.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np

from app.catalogue import Catalogue
from app.detectors import Superiority, proof_at
from app.drafts import Team
from app.gate_data import Version
from app.judge import Prequential, loss_of
from app.recommend import Recommender
from app.settings import EngineSettings
from learners.base import CHAMPION, SHADOW
from learners.blend import Blend
from learners.history import History, Profile
from learners.ids import State

MAX_SLATES = 100_000

# What is ranked, in this order.
_BOTH, _SHADOW_ALONE = np.array([CHAMPION, SHADOW]), np.array([SHADOW])
"""Interleaved slates that are remembered as credited, the last ones."""


class Case(NamedTuple):
    """One event to be judged before it is learned, its user's profile from before it."""

    profile: Profile
    user: int
    item: int
    reward: float
    time_ms: int


class News(NamedTuple):
    """Something that has been shown for the first time."""

    kind: str
    reason: str
    evidence: dict[str, Any]


def make_learner(settings: EngineSettings, history: History) -> Blend:
    """Return the learner that the settings describe, untaught, listening to a history."""
    return Blend(
        max_neighbours=settings.max_neighbours,
        shrink=settings.covisit_shrink,
        halve_at=settings.halve_counts_at,
        half_lives_s=settings.trending_half_lives_s,
        n_factors=settings.n_factors,
        learning_rate=settings.blend_learning_rate,
        model=settings.river_model(),
        history=history,
        seed=settings.seed,
    )


def alpha_of(number: int, alpha: float) -> float:
    r"""Return $6 \alpha / (\pi^2 k^2)$ for the k-th challenger; over all k these sum to alpha."""
    return 6.0 * alpha / (math.pi**2 * number**2)


class Interleaving:
    """Whose items trusted users click on slates that champion and challenger drafted by turns.

    A slate counts once. Two e-processes, one for each side, share the challenger's alpha.
    """

    def __init__(self) -> None:
        self.better = Superiority()
        self.worse = Superiority()
        self.is_decided = False
        self._credited: dict[str, None] = {}

    def credit(self, slate_id: str, team: Team) -> None:
        """Count a click on a slate, unless it has been counted: "b" is the challenger's."""
        if slate_id in self._credited:
            return
        self._credited[slate_id] = None
        if len(self._credited) > MAX_SLATES:
            del self._credited[next(iter(self._credited))]
        win = 1.0 if team == "b" else -1.0
        self.better.update(win, 0.0)
        self.worse.update(-win, 0.0)

    def verdict(self, alpha: float) -> str | None:
        """Return which side is proven to be clicked more, if one is."""
        if self.better.is_proven(alpha / 2):
            return "challenger"
        return "champion" if self.worse.is_proven(alpha / 2) else None

    def evidence(self, alpha: float) -> dict[str, Any]:
        """Return the numbers that the verdict can be computed from again."""
        n = self.better.n
        wins = round((n + self.better.total) / 2)
        return {
            "credits": n,
            "wins": wins,
            "losses": n - wins,
            "statistic_better": self.better.statistic,
            "statistic_worse": self.worse.statistic,
            "threshold": proof_at(alpha / 2),
        }

    def state(self) -> State:
        """Return what `load_state` continues from."""
        return {
            "better": self.better.state(),
            "worse": self.worse.state(),
            "is_decided": self.is_decided,
            "credited": list(self._credited),
        }

    def load_state(self, state: State) -> None:
        """Become what `state` was taken from."""
        self.better.load_state(state["better"])
        self.worse.load_state(state["worse"])
        self.is_decided = bool(state["is_decided"])
        self._credited = dict.fromkeys(state["credited"])


class Challenger:
    """The k-th challenger: its learner, how good both are, and how far its proof has come.

    `settings` are those in force, without `changes`. What the proof asks for is fixed at the start.
    """

    def __init__(
        self,
        number: int,
        changes: dict[str, Any],
        settings: EngineSettings,
        history: History,
        catalogue: Catalogue,
    ) -> None:
        changed = settings.with_learner(changes)
        self.number = number
        # As JSON has them, so that a log, a snapshot and a setting say the same.
        self.changes = changed.model_dump(mode="json", include=set(changes))
        self.alpha = alpha_of(number, settings.challenger_alpha)
        self.margin = settings.challenger_margin
        self.warmup_events = settings.warmup_events
        self.since = Version()
        self.n_learned = 0
        self.learner = make_learner(changed, history)
        self.recommender = Recommender(
            history, catalogue, self.learner, exclude_had=settings.exclude_had
        )
        self.prequential = {name: Prequential() for name in ("champion", "challenger")}
        self.better = Superiority()
        self.worse = Superiority()
        self.proof: dict[str, Any] | None = None
        self.is_refuted = False
        self.interleaving = Interleaving()

    @property
    def name(self) -> str:
        """Return what its drafts are known by."""
        return f"challenger:{self.number}"

    @property
    def is_warm(self) -> bool:
        """Tell whether it has learned enough to be compared."""
        return self.n_learned >= self.warmup_events

    # -- events -------------------------------------------------------------------------------

    def judge(self, case: Case, champion: int | None, *, is_compared: bool) -> None:
        """Rank an event's item, and learn the choice; `champion` is the champion's doubled rank.

        Where there is none (a refusal, or warm-up) there is nothing to compare. The shadow comes
        last, as its combiner learns from what it was just ranked in.
        """
        profile, _, item, reward, time_ms = case
        ranker = self.recommender
        if champion is None:
            ranker.doubled_ranks(_SHADOW_ALONE, profile, item, time_ms)
        else:
            ours, _ = ranker.doubled_ranks(_BOTH, profile, item, time_ms)
            self._compare(champion, ours, reward, is_compared=is_compared)
        ranker.learn_choice(profile, item, reward)

    def _compare(self, champion: int, ours: int, reward: float, *, is_compared: bool) -> None:
        self.prequential["champion"].add(champion, reward)
        self.prequential["challenger"].add(ours, reward)
        if is_compared and self.is_warm:
            difference = loss_of(champion) - loss_of(ours)
            self.better.update(difference, self.margin)
            self.worse.update(-difference, self.margin)

    def learn(self, profile: Profile, item: int, reward: float, time_ms: int) -> None:
        """Teach its shadow an event, and count it."""
        self.learner.learn(profile, item, reward, time_ms)
        self.n_learned += reward > 0

    def news(self) -> Iterator[News]:
        """Yield what has been shown since the last time, each verdict once."""
        if self.proof is None and self.better.is_proven(self.alpha):
            self.proof = self.evidence(self.better)
            yield News("challenger_proven", "it is shown better than the champion", self.proof)
        if self.worse.is_proven(self.alpha):
            self.is_refuted = True
            numbers = self.evidence(self.worse)
            yield News("challenger_refuted", "it is shown worse than the champion", numbers)
        side = None if self.interleaving.is_decided else self.interleaving.verdict(self.alpha)
        if side is not None:
            self.interleaving.is_decided = True
            numbers = self._about() | self.interleaving.evidence(self.alpha)
            yield News("interleaving_proven", f"the {side} is clicked more", numbers)

    # -- what is shown ------------------------------------------------------------------------

    def _about(self) -> dict[str, Any]:
        return {"challenger": self.number, "changes": self.changes, "alpha": self.alpha}

    def evidence(self, test: Superiority | None = None) -> dict[str, Any]:
        """Return the numbers that a verdict can be computed from again."""
        numbers = (test or self.better).evidence(self.alpha)
        return self._about() | {"since_event": self.since.event, "margin": self.margin} | numbers

    @property
    def verdict(self) -> str:
        """Say in a word how far the proof has come."""
        if self.proof is not None:
            return "proven"
        return "undecided" if self.is_warm else "warming"

    def view(self) -> dict[str, Any]:
        """Return what an operator may want to see."""
        return self.evidence() | {
            "statistic_worse": self.worse.statistic,
            "learned": self.n_learned,
            "verdict": self.verdict,
            "prequential": {name: p.view() for name, p in self.prequential.items()},
            "interleaving": self.interleaving.evidence(self.alpha),
        }

    # -- state --------------------------------------------------------------------------------

    _PLAIN = ("number", "changes", "alpha", "margin", "n_learned", "proof", "is_refuted")

    def state_but_learner(self) -> State:
        """Return all that `load_state` continues from, but for what its learner has learned."""
        return {name: getattr(self, name) for name in self._PLAIN} | {
            "since": asdict(self.since),
            "prequential": {name: p.state() for name, p in self.prequential.items()},
            "better": self.better.state(),
            "worse": self.worse.state(),
            "interleaving": self.interleaving.state(),
        }

    def state(self) -> State:
        """Return what `load_state` continues from."""
        return self.state_but_learner() | {"learner": self.learner.state()}

    def load_state(self, state: State) -> None:
        """Become the challenger that `state` was taken from, over a history that was loaded."""
        for name in self._PLAIN:
            setattr(self, name, state[name])
        self.since = Version(**state["since"])
        self.learner.load_state(state["learner"])
        for name, prequential in self.prequential.items():
            prequential.load_state(state["prequential"][name])
        self.better.load_state(state["better"])
        self.worse.load_state(state["worse"])
        self.interleaving.load_state(state["interleaving"])
