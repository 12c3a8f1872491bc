"""Why an item is in a user's slate, or why it is not: the slate is made again, and looked into.

Says of one item what kept it out, who named it, what its score is made of, and what rules did.
Reads only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from app.conditions import to_json
from app.events import format_time
from app.recommend import Lowered, Recommender, Request, Scored
from app.rulebook import PREFIX
from app.ruled import Ruled
from learners.kernels import I32, MISS

# Reasons that a sentence names, the largest ones; all of them are in `why`.
_MOST_NAMED = 3
_CATALOGUE = "catalogue"


class Explaining:
    """One request of a user, answered by a version, under rules if any act on it.

    `now_ms` is event time, `types` the names of event types by their indices.
    """

    def __init__(
        self,
        ranker: Recommender,
        request: Request,
        version: int,
        now_ms: int,
        lowered: Lowered | None,
        ruled: Ruled | None,
        types: Sequence[str],
    ) -> None:
        self._ranker, self._request = ranker, request
        self._version, self._now_ms = version, now_ms
        self._lowered, self._ruled, self._types = lowered, ruled, types
        self._history, self._catalogue = ranker.history, ranker.catalogue
        self._user = self._history.users.get(request.user_id)

    def explain(self, item_id: str) -> dict[str, Any]:
        """Say why an item that there is, is or is not in the slate.

        Times are texts, `rank` and `position` count from 1. Where no source named it, `score`,
        `why` and `rank` are what it would have, and `ratings` what each source gives it; where it
        is not eligible they are None.
        """
        item = self._history.items.get(item_id)
        excluded = list(self._exclusions(item, item_id))
        slate, ranked = self._slate()
        found = next((one for one in slate if one.item_id == item_id), None)
        position = None if found is None else slate.index(found) + 1
        rank, ratings = self._rank_of(item, ranked), None
        is_rated = rank is not None
        if rank is None and not excluded:
            ranked = self._rated_too(item)
            ratings, rank = self._ranker.ratings(item), self._rank_of(item, ranked)
        if found is None and rank is not None:
            [found] = self._explained(ranked[rank - 1 : rank])
        is_named = is_rated and found is not None and found.sources != [_CATALOGUE]
        content: dict[str, Any] = {
            "shown": position is not None,
            "position": position,
            "k": self._request.k,
            "eligible": not excluded,
            "excluded": excluded,
            "named": is_named,
            "sources": found.sources if found and is_named else [],
            "ratings": ratings,
            "score": found.score if found else None,
            "why": found.why if found else None,
            "rank": rank,
            "n_ranked": len(ranked),
            "last_shown": slate[-1].score if slate else None,
            "rules": [] if found is None else self._rules(item, slate, found),
        }
        return {"because": sentence(item_id, self._request.user_id, content)} | content

    # -- what may be shown --------------------------------------------------------------------

    def _exclusions(self, item: int, item_id: str) -> Iterator[dict[str, Any]]:
        """Yield all that keeps an item out, whoever would name it."""
        request, columns = self._request, self._catalogue.columns
        if self._catalogue.hidden[item]:
            yield {"by": "hidden"}
        begins, ends = (columns.time_ms(item, f"available_{end}") for end in ("from", "until"))
        if begins is not None and self._now_ms < begins:
            yield {"by": "not_available", "available_from": format_time(begins)}
        if ends is not None and self._now_ms >= ends:
            yield {"by": "not_available", "available_until": format_time(ends)}
        if item_id in request.exclude:
            yield {"by": "exclude"}
        if request.categories:
            own = self._history.categories.of(item)
            if not set(own) & set(request.categories):
                yield {"by": "category", "categories": own}
        for clause in request.filter:
            if not columns.matches((clause,), np.array([item], np.int32))[0]:
                yield {"by": "filter", "condition": to_json((clause,))[0]}
        yield from self._of_user(item, item_id)
        for name in () if self._ruled is None else self._ruled.hiding(item):
            yield {"by": "rule", "rule": name}

    def _of_user(self, item: int, item_id: str) -> Iterator[dict[str, Any]]:
        """Yield what the user did that keeps an item out."""
        history, user = self._history, self._user
        if user == MISS:
            return
        if self._ranker.is_kept_had(user, item, self._now_ms):
            had = next(had for had in history.had(user) if had.item_id == item_id)
            kind = self._types[had.type_index] if had.type_index < len(self._types) else None
            yield {"by": "had", "type": kind, "timestamp": format_time(had.time_ms)}
            return
        for refused_id, time_ms, reward in history.events(user):
            if refused_id == item_id:
                if reward <= 0:
                    yield {"by": "refused", "timestamp": format_time(time_ms)}
                return

    # -- what it is worth ---------------------------------------------------------------------

    def _slate(self) -> tuple[list[Scored], I32]:
        """Return the slate, and the places in the pool of all that was rated, best first."""
        if self._ruled is not None:
            return self._ruled.slate(), self._ruled.last
        slate = self._ranker.slate(self._request, self._version, self._now_ms, self._lowered)
        return slate, self._ranker.ranked()

    def _rated_too(self, item: int) -> I32:
        """Return the places of what is rated if an item is that nobody named."""
        if self._ruled is not None:
            return self._ruled.rated(np.array([item], np.int32))
        request, version, now_ms = self._request, self._version, self._now_ms
        return self._ranker.ranked_with(request, version, now_ms, item, self._lowered)

    def _rank_of(self, item: int, ranked: I32) -> int | None:
        found = np.flatnonzero(self._ranker.items_at(ranked) == item)
        return int(found[0]) + 1 if len(found) else None

    def _explained(self, places: I32) -> list[Scored]:
        if self._ruled is not None:
            return self._ruled.scored(places)
        return self._ranker.explained(places, self._version, self._lowered)

    # -- what rules did -----------------------------------------------------------------------

    def _rules(self, item: int, slate: list[Scored], found: Scored) -> list[dict[str, Any]]:
        """Return which rules moved, placed, capped or displaced an item."""
        if self._ruled is None:
            return []
        acts = [
            {"rule": name, "did": "boosted" if part["weight"] > 0 else "buried"}
            for part in found.why or ()
            for name in _names([str(part["because"])])
        ]
        if found in slate:
            return acts + [{"rule": name, "did": "placed"} for name in _names(found.sources)]
        acts += [{"rule": n, "did": "capped"} for n in self._ruled.keeping_out(item, slate)]
        lower = [one for one in slate if one.score < found.score]
        names = dict.fromkeys(name for one in lower for name in _names(one.sources))
        return acts + [{"rule": name, "did": "displaced"} for name in names]


def _names(sources: list[str]) -> list[str]:
    """Return the names of the rules among sources, or reasons."""
    return [name.removeprefix(PREFIX) for name in sources if name.startswith(PREFIX)]


# -- sentences --------------------------------------------------------------------------------


def sentence(item_id: str, user_id: str | None, content: dict[str, Any]) -> str:
    """Say in words what `Explaining.explain` found."""
    who = user_id if user_id is not None else "nobody"
    if content["shown"]:
        parts = _of_score(content["why"])
        placed = [act["rule"] for act in content["rules"] if act["did"] == "placed"]
        by = f" put there by rule {placed[0]}," if placed else ""
        return f"{item_id} is at place {content['position']} with k={content['k']},{by} {parts}"
    if content["excluded"]:
        causes = " and ".join(_of_exclusion(cause, who) for cause in content["excluded"])
        return f"{item_id} is not shown to {who}: {causes}"
    rank = f"{_ordinal(content['rank'])} of {content['n_ranked']} with k={content['k']}"
    said = f"{item_id} is not shown to {who}:"
    if content["ratings"] is not None:
        unnamed = _of_ratings(content["ratings"], who)
        return f"{said} no source named it, as {unnamed}; if it were named, it would rank {rank}"
    acts = {act["did"]: act["rule"] for act in content["rules"]}
    if "capped" in acts:
        return f"{said} rule {acts['capped']} lets no more in; it ranked {rank}"
    said += f" it ranked {rank}"
    if content["last_shown"] is not None and content["score"] <= content["last_shown"]:
        said += (
            f", its score {content['score']:.3g} below the last one's {content['last_shown']:.3g}"
        )
    if any(part["because"] == "ignored" for part in content["why"]):
        said += f"; it was shown to {who} before, and not taken"
    for did, how in (("buried", "which buried it"), ("displaced", "which has its place")):
        if did in acts:
            said += f"; there is rule {acts[did]}, {how}"
    return said


def _of_score(why: list[dict[str, Any]]) -> str:
    largest = [part for part in why if part["weight"] > 0][:_MOST_NAMED]
    if not largest:
        return "as nothing better was left"
    shown = ", ".join(f"{part['because']} ({part['weight']:+.3g})" for part in largest)
    return f"because of {shown}"


def _of_ratings(ratings: dict[str, float], who: str) -> str:
    """Say why no source named an item."""
    if max(ratings.get(name, 0.0) for name in ("covisit", "sequence")) > 0:
        return f"other items go better with what {who} had, or are trending more"
    return f"nothing that {who} had goes with it, and others are trending more"


def _of_exclusion(cause: dict[str, Any], who: str) -> str:
    texts = {
        "hidden": "it is hidden",
        "exclude": "the request excludes it",
        "category": "it is in none of the categories asked for",
        "filter": f"it does not meet {cause.get('condition')}",
        "had": f"{who} had it ({cause.get('type')}, {cause.get('timestamp')})",
        "refused": f"{who} refused it ({cause.get('timestamp')})",
        "rule": f"rule {cause.get('rule')} hides it",
    }
    if cause["by"] == "not_available":
        begins = cause.get("available_from")
        return f"not before {begins}" if begins else f"not since {cause['available_until']}"
    return texts[cause["by"]]


def _ordinal(number: int) -> str:
    """Return a number as 1st, 2nd, 3rd, 11th."""
    ends = {1: "st", 2: "nd", 3: "rd"}
    return f"{number}{'th' if number % 100 in (11, 12, 13) else ends.get(number % 10, 'th')}"
