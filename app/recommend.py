"""From a request to a slate: profile -> candidates -> scores -> exclusions -> the k best.

Also ranks an event's item as the versions would have (judging), and compares the slates of two
versions (overlap). Reads only; the buffers it writes are no state.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from app.catalogue import Catalogue
from learners import kernels
from learners.base import new_scratch
from learners.blend import Blend
from learners.history import History, Profile
from learners.kernels import I32, MISS

OVERLAP_K = 10


@dataclass(frozen=True)
class Request:
    """What a client asks for. With `history`, the user plays no part and nothing is stored."""

    user_id: str | None = None
    k: int = 10
    exclude: Sequence[str] = ()
    categories: Sequence[str] = ()
    history: Sequence[str] | None = None
    candidates: Sequence[str] | None = None
    explain: bool = False


class Scored(NamedTuple):
    """One place of a slate."""

    item_id: str
    score: float
    sources: list[str]
    why: list[dict[str, Any]] | None


class Recommender:
    """Answers requests from a version of the shared state and the live history."""

    def __init__(
        self, history: History, catalogue: Catalogue, blend: Blend, *, exclude_had: bool
    ) -> None:
        self.history = history
        self.catalogue = catalogue
        self.blend = blend
        self.exclude_had = exclude_had
        self._scratch = new_scratch(history.max_items, len(blend.sources))
        self._profile = Profile(history.scored_history)
        self._best: I32 = np.zeros(1_000, np.int32)
        self._tick = 0

    # -- slates -------------------------------------------------------------------------------

    def slate(self, request: Request, version: int) -> list[Scored]:
        """Return at most k distinct eligible items, best first."""
        user = MISS if request.user_id is None else self.history.users.get(request.user_id)
        profile = self._request_profile(request, user)
        n = self._score(version, profile)
        self._exclude(request, user, n)
        if request.candidates is not None:
            best = self._rank_given(request, request.candidates)
        else:
            best = self._best_of(n, request.k)
            if len(best) < request.k:
                best += self._fill(request, request.k - len(best))
        return [self._scored(item, profile, version, request) for item in best]

    def _request_profile(self, request: Request, user: int) -> Profile:
        if request.history is None:
            return self.history.profile(user, self._profile)
        profile, profile.n = self._profile, 0
        for item_id in reversed(request.history):
            index = self.history.items.get(item_id)
            if index != MISS and profile.n < len(profile.items):
                profile.items[profile.n] = index
                profile.weights[profile.n] = 1.0 / (profile.n + 1)
                profile.n += 1
        return profile

    def _score(self, version: int, profile: Profile) -> int:
        self._tick += 1
        return self.blend.score_sources(version, profile, self._scratch, self._tick)

    def _exclude(self, request: Request, user: int, n: int) -> None:
        mark = self._scratch.mark
        if self.exclude_had and user != MISS and request.history is None:
            self.history.mark_had(user, mark, self._tick)
        had = request.history if self.exclude_had and request.history else ()
        for item_id in (*request.exclude, *had):
            index = self.history.items.get(item_id)
            if index != MISS:
                mark[index] = self._tick
        if request.categories:
            wanted = self.catalogue.wanted(list(request.categories))
            kernels.mark_outside(self._scratch, n, self._tick, self.catalogue.labels, wanted)

    def _best_of(self, n: int, k: int) -> list[int]:
        best = self._best
        k = max(0, min(k, len(best)))
        found = kernels.select_top(
            self._scratch,
            n,
            self._tick,
            self.catalogue.hidden,
            self.history.items.key,
            best,
            k,
        )
        return [int(item) for item in best[:found]]

    def _is_eligible(self, item: int) -> bool:
        return self._scratch.mark[item] != self._tick and not self.catalogue.hidden[item]

    def _fill(self, request: Request, n: int) -> list[int]:
        """Return items that no source named, so that a list is short only if nothing is left."""
        if request.categories:
            wanted = self.catalogue.wanted(list(request.categories))
            others: Iterable[int] = self.catalogue.members(wanted)
        else:
            index = self.history.items.index
            others = (index[item_id] for item_id in self.history.items.newest())
        found: list[int] = []
        for item in others:
            if len(found) == n:
                break
            if self._scratch.stamp[item] != self._tick and self._is_eligible(item):
                found.append(item)
        return found

    def _rank_given(self, request: Request, candidates: Sequence[str]) -> list[int]:
        indices = {self.history.items.get(item_id) for item_id in candidates} - {MISS}
        if request.categories:  # no source may have named them, so they are not marked yet
            wanted = self.catalogue.wanted(list(request.categories))
            indices = {i for i in indices if np.isin(self.catalogue.labels[i], wanted).any()}
        eligible = [item for item in indices if self._is_eligible(item)]
        key = self.history.items.key
        return sorted(eligible, key=lambda item: (-self._total(item), int(key[item])))[: request.k]

    def _total(self, item: int) -> float:
        touched = self._scratch.stamp[item] == self._tick
        return float(self._scratch.score[item, -1]) if touched else 0.0

    def _scored(self, item: int, profile: Profile, version: int, request: Request) -> Scored:
        total = self._total(item)
        columns = self._scratch.score[item] if total else np.zeros(len(self.blend.sources))
        names = [name for name, part in zip(self.blend.sources, columns, strict=False) if part > 0]
        why = self._why(item, profile, version, columns) if request.explain else None
        item_id = str(self.history.items.ids[item])
        return Scored(item_id, total, names or ["catalogue"], why)

    def _why(
        self, item: int, profile: Profile, version: int, columns: kernels.F64
    ) -> list[dict[str, Any]]:
        """Split an item's score into the parts that add up to it, largest first."""
        because: dict[str, float] = {}
        for other, weight in zip(profile.items[: profile.n], profile.weights, strict=False):
            part = self.blend.covisit.contribution(version, int(other), float(weight), item)
            if part > 0:
                other_id = str(self.history.items.ids[other])
                because[other_id] = because.get(other_id, 0.0) + part
        total = sum(because.values())
        parts: list[dict[str, Any]] = [
            {"because": other_id, "weight": float(columns[0]) * part / total}
            for other_id, part in because.items()
        ]
        if len(columns) > 1 and columns[1] > 0:
            parts.append({"because": "trending", "weight": float(columns[1])})
        return sorted(parts, key=lambda part: -float(part["weight"]))

    def similar(self, item_id: str, k: int, version: int) -> list[Scored]:
        """Return the items most often had together with one, hidden ones left out."""
        request = Request(k=k, history=[item_id], exclude=[item_id])
        profile = self._request_profile(request, MISS)
        self._tick += 1
        n = self.blend.score_similar(version, profile, self._scratch, self._tick)
        self._exclude(request, MISS, n)
        return [self._scored(item, profile, version, request) for item in self._best_of(n, k)]

    # -- judging ------------------------------------------------------------------------------

    def doubled_rank(self, version: int, profile: Profile, user: int, item: int) -> int:
        """Return twice the rank (ties half) that a version gives an item, or MISS."""
        if item == MISS:
            return MISS
        n = self._score(version, profile)
        if self.exclude_had and user != MISS:
            self.history.mark_had(user, self._scratch.mark, self._tick)
        return int(
            kernels.rank_of(self._scratch, n, self._tick, self._tick, self.catalogue.hidden, item)
        )

    def top(self, version: int, user: int, k: int = OVERLAP_K) -> set[int]:
        """Return the k best items of a version for a known user, as a set."""
        n = self._score(version, self.history.profile(user, self._profile))
        if self.exclude_had:
            self.history.mark_had(user, self._scratch.mark, self._tick)
        return set(self._best_of(n, k))

    def latest_users(self, n: int) -> list[int]:
        """Return the users with the latest events, the last one first."""
        users = self.history.users
        return [users.index[user_id] for user_id in islice(users.newest(), n)]

    def tops(self, version: int, n_users: int) -> list[set[int]]:
        """Return `top` for the users with the latest events."""
        return [self.top(version, user) for user in self.latest_users(n_users)]


def mean_overlap(ours: list[set[int]], theirs: list[set[int]]) -> float:
    """Return the mean share of items that two lists of slates have in common; 1 for none."""
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if a or b]
    if not pairs:
        return 1.0
    return sum(len(a & b) / max(len(a), len(b)) for a, b in pairs) / len(pairs)
