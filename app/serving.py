"""What requests are answered with: the side of the engine that only reads.

A list is ranked by the served version, under the rules in force; then some of its slots explore, or
it is drafted by two versions that are being compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from msgspec.structs import replace

from app import events
from app.admission import Admission
from app.catalogue import Catalogue
from app.challenges import Challenges
from app.conditions import Condition
from app.drafts import Drafter, team_draft
from app.explain import Explaining
from app.exploration import Exploration
from app.feature_state import FeatureState
from app.gate import Gate
from app.gate_data import Rival
from app.ignored import Ignored
from app.recommend import Lowered, Recommender, Request, Scored
from app.rulebook import Rulebook, Ruling
from app.ruled import Ruled, arranged, ruling_on
from app.rules import Rule
from app.settings import EngineSettings
from learners.history import History
from learners.kernels import MISS

# The first semantics version in which slots explore, and what was ignored counts for less.
EXPLORES = 8


class Draft(NamedTuple):
    """Who filled a slate of two versions: `name` says what for, `teams` who drafted each place.

    Feedback on an item brings `<name>:<team>` back (`Feedback.draft`), but for what both wanted.
    """

    name: str
    teams: list[Drafter]

    def mark(self, place: int) -> str | None:
        """Return what feedback on the item at a place (from 0) brings back."""
        team = self.teams[place]
        return None if team == "both" else f"{self.name}:{team}"


class Slate(NamedTuple):
    """The list returned, and which model made it; `draft` where two versions filled it."""

    items: list[Scored]
    model: dict[str, Any]
    draft: Draft | None = None


class Serving:
    """Answers from parts that the engine has made, and moves. Nothing here changes any state."""

    settings: EngineSettings
    semantics: int
    champion_cursor: str
    history: History
    catalogue: Catalogue
    recommender: Recommender
    exploration: Exploration
    ignored: Ignored
    admission: Admission
    gate: Gate
    challenges: Challenges
    types: list[str]
    rulebook: Rulebook | None

    @property
    def features(self) -> FeatureState | None:
        """Return what is given from elsewhere, None where no features are declared."""
        return self.catalogue.features

    @property
    def explores(self) -> bool:
        """Tell whether the log is of a version that knows exploration and what was ignored."""
        return self.semantics >= EXPLORES

    def make_rulebook(self, rules: list[Rule]) -> Rulebook:
        """Return rules as requests need them; they are not in force."""
        return Rulebook(rules, self.history, self.catalogue, self.types)

    @property
    def rules(self) -> list[Rule]:
        """Return the rules in force."""
        return [] if self.rulebook is None else self.rulebook.rules

    # -- lists --------------------------------------------------------------------------------

    def recommend(
        self, request: Request, recommendation_id: str = "", *, is_signed: bool = True
    ) -> Slate:
        """Answer a request from the served version. Changes no state.

        A share of the slates, chosen by a hash of `recommendation_id`, is drafted by two versions
        where these are being compared; in others, some slots explore. Without an id, neither.
        None is drafted whose id is not signed: nobody would know whom to credit for a click.
        """
        rival = self._rival() if recommendation_id and is_signed else None
        if rival is not None and self._may_draft(request, rival, recommendation_id):
            slate = self._drafted(request, rival, recommendation_id)
        else:
            slate = Slate(self._explored(request, recommendation_id), self.model_info())
        if self.rulebook is not None:
            self.rulebook.count()
        if self.features is not None and not request.in_haste:
            self.features.count()
        return slate

    def _explored(self, request: Request, recommendation_id: str) -> list[Scored]:
        """Return the list of the served version, in which some slots explore."""
        ruled = None if self.rulebook is None else self._ruled(self.rulebook, request)
        explores = bool(recommendation_id) and self._may_explore(request)
        if ruled is not None:
            slate = ruled.slate()
            return self._explored_within(slate, ruled, recommendation_id) if explores else slate
        recommender, version = self.recommender, self.gate.served
        best = recommender.best(request, version, self.admission.watermark_ms, self.lowered)
        if not explores:
            return recommender.scored(best)
        propensities = self.exploration.explore(
            best,
            recommender.last,
            version,
            share=self.settings.explore_share,
            seed=self.settings.seed,
            recommendation_id=recommendation_id,
        )
        return recommender.scored(best, propensities)

    def _explored_within(
        self, slate: list[Scored], ruled: Ruled, recommendation_id: str
    ) -> list[Scored]:
        ruled.leave_room(slate)
        return self.exploration.explore_within(
            slate,
            self.recommender.last,
            self.gate.served,
            ruled,
            share=self.settings.explore_share,
            seed=self.settings.seed,
            recommendation_id=recommendation_id,
        )

    def slate_under(self, rules: Rulebook | None, request: Request) -> list[Scored]:
        """Return what the served version would show under some rules, in force or not."""
        ruled = self._ruled(rules, request)
        return self._slate(request) if ruled is None else ruled.slate()

    def _slate(self, request: Request) -> list[Scored]:
        return self._ranked(self.recommender, request, self.gate.served, None)

    def _ruled(self, rules: Rulebook | None, request: Request) -> Ruled | None:
        """Return the request under some rules, None where none of them acts on it."""
        now_ms = self.admission.watermark_ms
        ruling = ruling_on(request, rules, now_ms)
        if ruling is None:
            return None
        version = self.gate.served
        return Ruled(self.recommender, request, version, now_ms, ruling, self.lowered)

    @property
    def lowered(self) -> Lowered | None:
        """What users' scores are lowered by, if anything."""
        return Lowered(self.ignored, self.settings.ignored_weight) if self.explores else None

    def _may_explore(self, request: Request) -> bool:
        """Tell whether a list is meant to be shown, and whole: no given items, no explanation."""
        is_shown = request.candidates is None and not (request.explain or request.in_haste)
        return self.explores and is_shown and self.settings.explore_share > 0

    def explain(self, request: Request, item_id: str) -> dict[str, Any]:
        """Return why an item is, or is not, in the slate of the served version; see `explain`.

        What explores, or is drafted by two versions, is left to chance, and plays no part.
        """
        request = request._replace(explain=True)
        # Rules of its own, if there are any: what those in force do is counted.
        rules = None if self.rulebook is None else self.make_rulebook(self.rules)
        explaining = Explaining(
            self.recommender,
            request,
            self.gate.served,
            self.admission.watermark_ms,
            self.lowered,
            self._ruled(rules, request),
            self.types,
        )
        return explaining.explain(item_id) | {"model": self.model_info()}

    def list_of(self, version: int, request: Request, *, challenger: bool = False) -> list[Scored]:
        """Return what a version would show, the challenger's if so, with nothing left to chance."""
        ranker = self.challenges.recommender if challenger else self.recommender
        now_ms = self.admission.watermark_ms
        ruling = ruling_on(request, self.rulebook, now_ms)
        if ruling is None:
            return ranker.slate(request, version, now_ms, self.lowered)
        return Ruled(ranker, request, version, now_ms, ruling, self.lowered).slate()

    def _rival(self) -> Rival | None:
        """Return who fills slates by turns with what is served: in HOLD the branch alone."""
        return self.gate.rival or self.challenges.rival(self.settings.interleave_share)

    def _may_draft(self, request: Request, rival: Rival, recommendation_id: str) -> bool:
        return (
            request.history is None
            and request.candidates is None
            and is_chosen(recommendation_id, rival.share, "draft")
            and self.is_trusted(request.user_id)
        )

    def is_trusted(self, user_id: str | None) -> bool:
        """Tell whether a user's clicks may decide between versions.

        By default theirs do who were here before the anchor was made, and have a history.
        """
        if user_id is not None and self.settings.trusted == "marked":
            return self.catalogue.user_attributes.get(user_id, {}).get("trusted") is True
        user = MISS if user_id is None else self.history.users.get(user_id)
        if user == MISS:
            return False
        is_old = bool(self.history.user_since[user] <= self.gate.data.anchor.event)
        return is_old and bool(self.history.had_count[user] >= self.settings.trusted_history)

    def _drafted(self, request: Request, rival: Rival, recommendation_id: str) -> Slate:
        ranker = self.challenges.recommender if rival.is_challenger else self.recommender
        ruling = ruling_on(request, self.rulebook, self.admission.watermark_ms)
        ours = self._ranked(self.recommender, request, self.gate.served, ruling)
        theirs = self._ranked(ranker, request, rival.version, ruling)
        coins = int.from_bytes(events.digest(("coins", recommendation_id)), "little")
        ranked = {"a": ours, "b": theirs}
        ids = {team: [scored.item_id for scored in slate] for team, slate in ranked.items()}
        k = request.k if ruling is None else len(ours) + len(theirs)
        picks = team_draft(ids["a"], ids["b"], k, coins)
        slate = [
            replace(ranked[pick.team][pick.place], propensity=pick.propensity) for pick in picks
        ]
        # Programs that do not know of places that both wanted could not read the token.
        teams = [pick.drafter if self.semantics >= 10 else pick.team for pick in picks]
        if ruling is not None:
            found = arranged(slate, teams, ruling, self.history.items, request.k)
            if found is None:  # more is to be looked for than the two have named
                return Slate(self.slate_under(self.rulebook, request), self.model_info())
            slate, teams = found
        for position, scored in enumerate(slate, start=1):
            scored.position = position
        return Slate(slate, self.model_info(), Draft(rival.name, teams))

    def _ranked(
        self, ranker: Recommender, request: Request, version: int, ruling: Ruling | None
    ) -> list[Scored]:
        """Return what a version would show; under rules, all that it ranks."""
        now_ms = self.admission.watermark_ms
        if ruling is None:
            return ranker.slate(request, version, now_ms, self.lowered)
        return Ruled(ranker, request, version, now_ms, ruling, self.lowered).ranked()

    def similar(
        self, item_id: str, k: int, *, exclude: Sequence[str] = (), condition: Condition = ()
    ) -> Slate:
        """Return what goes with an item, from the served version; of rules, those that hide."""
        request = Request(k=k, exclude=[*exclude, item_id], history=[item_id], filter=condition)
        version, now_ms = self.gate.served, self.admission.watermark_ms
        ruling = ruling_on(request, self.rulebook, now_ms)
        restrict = None if ruling is None else ruling.barred
        items = self.recommender.similar(request, version, now_ms, restrict)
        return Slate(items, self.model_info())

    def model_info(self) -> dict[str, Any]:
        """Return which model answers: what every slate carries."""
        data = self.gate.data
        return {
            "version": data.version,
            "cursor": self.champion_cursor,
            "gate": data.state,
            "mode": data.mode,
        }


def is_chosen(id_: str, share: float, what_for: str) -> bool:
    """Tell whether an id is among a share of all: by a hash of it, the same everywhere."""
    return share >= 1.0 or events.are_among([events.digest((what_for, id_))], [share])[0]
