"""From a request to a slate: profile -> exclusions -> candidates -> scores -> the k best.

Also ranks an event's item as the versions would have (judging), and compares the slates of two
versions (overlap). Reads only; the buffers it writes are no state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count, islice, repeat
from typing import Any, NamedTuple, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from app.catalogue import Catalogue
from app.conditions import Condition, of_categories
from app.features import ALL_READ, NOTHING, Unread, Values
from app.ignored import Ignored
from learners import kernels
from learners.blend import Blend
from learners.candidates import Candidates, Program
from learners.history import History, Profile
from learners.kernels import I32, I64, MISS

OVERLAP_K = 10
# Users that are passed in a millisecond.
_PASSED = 1_000
# 200 of each of five kinds of candidate, the most that a request may ask for, and five times as
# many of the categories that it wants; or what sources name anyhow, and 1,000 that it names.
MOST_POOLED = 2_000
# Items that are looked for where the sources named too few, those that were had most.
MOST_SEARCHED = 1_000
# A label that no item has: what an unknown category asks for.
_NOTHING = np.array([-1], np.int32)

Restrict = Callable[[Program], Program]
"""Returns what an item has to meet, if it had to meet another program before."""


class Request(NamedTuple):
    """What a client asks for. With `history`, the user plays no part and nothing is stored.

    `history_ms` says when each of its items was had (Unix ms; None: just now), if it says anything.
    `in_haste`: what is trending, without whatever must be left out; in less than half the time.
    `is_declared`: the client will say what of it was shown. `features` come with the request, and
    `unread` says why some of a feature store do not.
    """

    user_id: str | None = None
    k: int = 10
    exclude: Sequence[str] = ()
    categories: Sequence[str] = ()
    history: Sequence[str] | None = None
    candidates: Sequence[str] | None = None
    explain: bool = False
    filter: Condition = ()
    history_ms: Sequence[int | None] = ()
    in_haste: bool = False
    is_declared: bool = False
    features: Values = NOTHING
    unread: Unread = ALL_READ

    def by(self, user_id: str) -> Request:
        """Return the same for another user."""
        return Request(user_id, *self[1:])


class Scored(msgspec.Struct, omit_defaults=True):
    """One place of a slate, as it is answered: `position` counts from 1."""

    item_id: str
    position: int
    score: float
    propensity: float
    sources: list[str]
    why: list[dict[str, Any]] | None = None


def as_scored(
    ids: Iterable[str],
    scores: Iterable[float],
    sources: Iterable[list[str]],
    whys: Iterable[list[dict[str, Any]] | None] = repeat(None),
    propensities: Iterable[float] = repeat(1.0),
) -> list[Scored]:
    """Return places of a slate, best first, by their parts; the shortest of these decides."""
    return list(map(Scored, ids, count(1), scores, propensities, sources, whys))


class Best(NamedTuple):
    """The best of what was rated, best first: by place in the pool, by index, with what it is for.

    `named` are the sources that speak for each, `whys` the reasons, where they are asked for.
    """

    places: I32
    items: list[int]
    totals: list[float]
    named: list[list[str]]
    whys: Iterable[list[dict[str, Any]] | None]


class Lowered(NamedTuple):
    """What users ignored, and what a score loses for each time."""

    ignored: Ignored
    weight: float


class Asked(NamedTuple):
    """What the last slate was made from: until the next one it tells what was eligible."""

    pool: Candidates
    profile: Profile


class Recommender:
    """Answers requests from a version of the shared state and the live history."""

    def __init__(
        self, history: History, catalogue: Catalogue, blend: Blend, *, exclude_had: bool
    ) -> None:
        self.history = history
        self.catalogue = catalogue
        self.blend = blend
        self.exclude_had = exclude_had
        self._features = catalogue.features
        self.pool = blend.new_pool(
            MOST_POOLED,
            hidden=catalogue.hidden,
            labels=history.categories.labels,
            columns=catalogue.columns.values,
        )
        self._searched: I32 = np.zeros(MOST_SEARCHED, np.int32)
        self._profile = Profile(history.history_length)
        self._best: I32 = np.zeros(MOST_POOLED, np.int32)
        # What the last slate was made from.
        self.last = Asked(self.pool, self._profile)

    # -- slates -------------------------------------------------------------------------------

    def slate(
        self, request: Request, version: int, now_ms: int, lowered: Lowered | None = None
    ) -> list[Scored]:
        """Return at most k distinct eligible items, best first; `now_ms` is event time."""
        return self.scored(self.best(request, version, now_ms, lowered))

    def scored(self, best: Best, propensities: Iterable[float] = repeat(1.0)) -> list[Scored]:
        """Return the places of a slate, given the best items."""
        names = cast("list[str]", self.history.items.names(best.items))
        return as_scored(names, best.totals, best.named, best.whys, propensities)

    def best(
        self, request: Request, version: int, now_ms: int, lowered: Lowered | None = None
    ) -> Best:
        """Return what `slate` does, before it has names."""
        user = MISS if request.user_id is None else self.history.users.get(request.user_id)
        profile, pool = self._profile, self.pool
        lowered = None if request.history is not None else lowered
        self._begin(request, user, now_ms)
        if request.candidates is None:
            self.blend.pool_candidates(version, profile, pool, now_ms, most=request.k)
            if pool.n < request.k:
                found = self._search(request, version)
                if len(found) > pool.n:
                    self._begin(request, user, now_ms)
                    self.blend.pool_candidates(
                        version, profile, pool, now_ms, most=request.k, given=found
                    )
            self._lower(user, lowered)
            items, totals, named = self.blend.read_best(pool, self._best, request.k)
            places = self._best[: len(items)]
        else:
            places = self._rank_given(
                request, request.candidates, version, profile, now_ms, lowered
            )
            items, totals, named = self.blend.read(pool, places)
        whys: Iterable[list[dict[str, Any]] | None] = repeat(None)
        if request.explain:
            whys = self._whys(places, profile, version, lowered)
        return Best(places, items, totals, named, whys)

    def ranked(self) -> I32:
        """Return the places in the pool of all that was rated last, best first."""
        return self._best_places(self.pool.n).copy()

    def ranked_with(
        self, request: Request, version: int, now_ms: int, item: int, lowered: Lowered | None
    ) -> I32:
        """Return the same where an item is rated, too, whether it is named or not."""
        user = MISS if request.user_id is None else self.history.users.get(request.user_id)
        given = np.array([item], np.int32)
        self._begin(request, user, now_ms)
        self.blend.pool_candidates(version, self._profile, self.pool, now_ms, request.k, given)
        self._lower(user, lowered)
        return self.ranked()

    def items_at(self, places: I32) -> I32:
        """Return the items at some places of the pool."""
        items: I32 = self.pool.item[places]
        return items

    def explained(self, places: I32, version: int, lowered: Lowered | None) -> list[Scored]:
        """Return what is at places of the pool, as this version rated it last, with reasons."""
        items, totals, named = self.blend.read(self.pool, places)
        whys = self._whys(places, self._profile, version, lowered)
        return self.scored(Best(places, items, totals, named, whys))

    def ratings(self, item: int) -> dict[str, float]:
        """Return what each source gave an item that was rated for the last slate, at its best."""
        raw = self.pool.raw[:, self.pool.place(item)].tolist()
        columns = self.blend.columns
        return {name: max(v for v, n in zip(raw, columns) if n == name) for name in columns}

    def _rank_given(
        self,
        request: Request,
        candidates: Sequence[str],
        version: int,
        profile: Profile,
        now_ms: int,
        lowered: Lowered | None,
    ) -> I32:
        """Return the places of the best of some items; the others only give scores a scale."""
        pool = self.pool
        given = {self.history.items.get(item_id) for item_id in candidates} - {MISS}
        allowed = np.array([item for item in given if pool.is_eligible(item)], np.int32)
        self.blend.pool_candidates(version, profile, pool, now_ms, given=allowed)
        self._lower(profile.user, lowered)
        places = self._best_places(pool.n)
        return places[np.isin(pool.item[places], allowed)][: request.k]

    def _lower(self, user: int, lowered: Lowered | None) -> None:
        if lowered is not None:
            lowered.ignored.lower(user, self.pool, lowered.weight)

    def _begin(
        self, request: Request, user: int, now_ms: int, restrict: Restrict | None = None
    ) -> None:
        """Begin a pool from which all is excluded that the request must not be answered with.

        And write the profile that it is ranked by: that of nobody in haste.
        """
        pool, profile = self.pool, self._profile
        if self._features is not None:
            known = user if request.history is None else MISS
            self._features.situate(request.features, known, now_ms, request.unread)
        program = self.catalogue.columns.eligible(request.filter, now_ms)
        if restrict is not None:
            program = restrict(program)
        if request.categories:
            wanted = self.history.categories.wanted(request.categories)
            pool.begin(wanted if len(wanted) else _NOTHING, program)
        else:
            pool.begin(program=program)
        for item_id in request.exclude:
            self._exclude_id(item_id)
        if request.history is None:
            mark, tick = pool.allowed.mark, pool.tick
            self.history.meet(user, profile, mark, tick, now_ms, exclude_had=self.exclude_had)
        else:
            self._take_given(request, request.history, now_ms)
        if request.in_haste:
            profile.clear()

    def _take_given(self, request: Request, history: Sequence[str], now_ms: int) -> None:
        """Write the profile of a history that a request has itself, and exclude what is in it."""
        profile = self._profile
        profile.clear()
        times = request.history_ms or [None] * len(history)
        for item_id, time_ms in zip(reversed(history), reversed(times)):
            index = self.history.items.get(item_id)
            if index != MISS and profile.n < len(profile.items):
                profile.items[profile.n] = index
                profile.weights[profile.n] = 1.0 / (profile.n + 1)
                # A session is going on, unless it says otherwise; nothing is from the future.
                profile.times[profile.n] = now_ms if time_ms is None else min(time_ms, now_ms)
                profile.n += 1
        for item_id in history if self.exclude_had else ():
            self._exclude_id(item_id)

    def allowed(self, user_id: str, items: I32, now_ms: int) -> NDArray[np.bool_]:
        """Tell which of some items, eligible for anybody, a user may be shown."""
        pool = self.pool
        pool.begin()
        user = self.history.users.get(user_id)
        self.history.meet(
            user,
            self._profile,
            pool.allowed.mark,
            pool.tick,
            now_ms,
            exclude_had=self.exclude_had,
        )
        allowed: NDArray[np.bool_] = pool.allowed.mark[items] != pool.tick
        return allowed

    def _exclude_id(self, item_id: str) -> None:
        index = self.history.items.get(item_id)
        if index != MISS:
            self.pool.exclude(index)

    def _exclude_had(self, profile: Profile) -> None:
        """Exclude what a user had; where that may be shown again, still what was refused lately."""
        if profile.user == MISS:
            return
        mark, tick = self.pool.allowed.mark, self.pool.tick
        if self.exclude_had:
            self.history.mark_had(profile.user, mark, tick, is_past=profile.is_past)
        for place in range(profile.n_refused):
            self.pool.exclude(profile.refused[place])

    def is_kept_had(self, user: int, item: int, now_ms: int) -> bool:
        """Tell whether a user had an item, and may not be shown it again at a time."""
        if not self.exclude_had or user == MISS:
            return False
        pool = self.pool
        pool.begin()
        self.history.mark_kept(user, pool.allowed.mark, pool.tick, now_ms)
        return bool(pool.allowed.mark[item] == pool.tick)

    def _best_places(self, k: int) -> I32:
        """Return the places in the pool of the k best, best first."""
        best, pool = self._best, self.pool
        found = kernels.select_top(
            pool.total,
            pool.item,
            pool.n,
            self.history.items.key,
            best,
            max(0, min(k, len(best))),
        )
        return best[:found]

    def _search(self, request: Request, version: int) -> I32:
        """Return eligible items from anywhere in the catalogue, those that were had most.

        All of them, unless there are very many: what the sources named too little is still found.
        """
        condition = request.filter + of_categories("any", request.categories)
        among = self.catalogue.columns.among(condition)
        found = self.blend.search(self.pool, version, among, self._searched)
        return self._searched[:found]

    def _whys(
        self,
        places: I32,
        profile: Profile,
        version: int,
        lowered: Lowered | None,
        moved: Sequence[dict[str, float]] | None = None,
    ) -> list[list[dict[str, Any]] | None]:
        """Return for each place of the pool what its score is made of; `moved`: what rules add."""
        items = self.pool.item[places].tolist()
        parts = self.blend.contributions(version, self.pool, places).tolist()
        whys: list[list[dict[str, Any]] | None] = []
        for item, own, by_rules in zip(items, parts, moved or repeat({})):
            moves = dict(by_rules)
            times = lowered.ignored.times(profile.user, item) if lowered else 0
            if lowered and times:
                moves["ignored"] = -lowered.weight * times
            shares = dict(zip(self.blend.parts, own)) | moves
            if not self.blend.is_linear:  # then the model's part is the total, all of it
                shares["model"] -= sum(moves.values())
            whys.append(self._why(item, profile, version, shares))
        return whys

    def _why(
        self, item: int, profile: Profile, version: int, parts: dict[str, float]
    ) -> list[dict[str, Any]]:
        """Split an item's score into the reasons that add up to it, largest first.

        What co-visitation and sequence gave is split among the items of the history.
        """
        of_items: dict[str, float] = {}
        others = dict(parts)
        for name in ("covisit", "sequence"):
            shares = self._shares(name, item, profile, version)
            whole = sum(shares.values())
            if parts[name] and whole > 0:
                del others[name]
                for other_id, share in shares.items():
                    of_items[other_id] = of_items.get(other_id, 0.0) + parts[name] * share / whole
        reasons = [*of_items.items(), *others.items()]
        shown = [{"because": name, "weight": weight} for name, weight in reasons if weight]
        return sorted(shown, key=lambda reason: -float(reason["weight"]))

    def _shares(self, name: str, item: int, profile: Profile, version: int) -> dict[str, float]:
        """Return by id what the items of a history add to what a source gave an item."""
        source = getattr(self.blend, name)
        shares: dict[str, float] = {}
        for other, weight in zip(profile.items[: source.n_used(profile)], profile.weights):
            other_id = str(self.history.items.ids[other])
            share = source.contribution(version, int(other), float(weight), item)
            shares[other_id] = shares.get(other_id, 0.0) + share
        return shares

    def similar(
        self, request: Request, version: int, now_ms: int, restrict: Restrict | None = None
    ) -> list[Scored]:
        """Return the items most often had together with a history: so many as go with it."""
        k, pool = request.k, self.pool
        self._begin(request, MISS, now_ms, restrict)
        self.blend.covisit.pool_candidates(version, self._profile, pool, 0, most=k)
        places, ids = self._best_places(k), self.history.items.ids
        names = [str(ids[item]) for item in pool.item[places]]
        return as_scored(names, pool.total[places].tolist(), repeat(["covisit"]))

    # -- judging ------------------------------------------------------------------------------

    def doubled_ranks(self, versions: I64, profile: Profile, item: int, now_ms: int) -> list[int]:
        """Return twice the rank (ties half) that each version gives an item, or MISS."""
        if item == MISS:
            return [MISS] * len(versions)
        if self.blend.is_linear and not profile.is_past:
            return self.blend.doubled_ranks(
                versions, profile, self.pool, item, now_ms, exclude_had=self.exclude_had
            )
        return [self.doubled_rank(version, profile, item, now_ms) for version in versions.tolist()]

    def doubled_rank(self, version: int, profile: Profile, item: int, now_ms: int) -> int:
        """Return `doubled_ranks` of one version, step by step."""
        self._pool_for(version, profile, now_ms)
        return self.pool.rank_of(item)

    def judge(
        self,
        versions: I64,
        profile: Profile,
        item: int,
        *,
        type_index: int,
        reward: float,
        time_ms: int,
        is_judged: bool,
        is_taught: bool,
    ) -> tuple[list[int] | None, bool]:
        """Do what comes before an event of `profile.user` is learned, and write their profile.

        It is ranked with what requests know of the user, which may be less than the profile.
        Return `doubled_ranks`, None where it is not judged or the user had the item; the last
        version has learned the choice then, if it may. And whether the event is a repeat.
        """
        history, user = self.history, profile.user
        if self.blend.is_linear and not history.as_of.holds(user):
            return self.blend.judge(
                versions,
                profile,
                self.pool,
                item,
                type_index=type_index,
                reward=reward,
                time_ms=time_ms,
                is_judged=is_judged,
                is_taught=is_taught,
                exclude_had=self.exclude_had,
            )
        history.profile(user, profile)
        if MISS not in (user, item) and history.has_had(user, item):
            return None, history.is_repeat(user, item, type_index=type_index, reward=reward)
        if not is_judged:
            return None, False
        seen = history.seen(user, self._profile)
        ranks = self.doubled_ranks(versions, seen, item, time_ms)
        if is_taught:
            self.learn_choice(seen, item, reward)
        return ranks, False

    def learn_choice(self, profile: Profile, item: int, reward: float) -> None:
        """Teach the shadow what was chosen from the pool that it was ranked in last."""
        self.blend.learn_choice(profile, self.pool, item, reward)

    def _pool_for(self, version: int, profile: Profile, now_ms: int) -> None:
        self.pool.begin()
        self._exclude_had(profile)
        self.blend.pool_candidates(version, profile, self.pool, now_ms)

    def top(self, version: int, user: int, now_ms: int, k: int = OVERLAP_K) -> set[int]:
        """Return the k best items of a version for a known user, given nothing, as a set."""
        self.history.inputs.clear()
        profile = self.history.profile(user, self._profile)
        self._pool_for(version, profile, now_ms)
        return {int(self.pool.item[place]) for place in self._best_places(k)}

    def overlaps(self, versions: I64, users: list[int], now_ms: int) -> list[float]:
        """Return the shares of known users' first ten, given nothing, that two versions share.

        Nothing is said of users for whom neither has any.
        """
        self.history.inputs.clear()
        if self.blend.is_linear:
            shares = self.blend.overlaps(
                versions,
                users,
                self._profile,
                self.pool,
                now_ms,
                k=OVERLAP_K,
                exclude_had=self.exclude_had,
            )
        else:
            shares = [self.overlap(versions, user, now_ms) for user in users]
        return [share for share in shares if share >= 0.0]

    def overlap(self, versions: I64, user: int, now_ms: int) -> float:
        """Return what `overlaps` says of one user, step by step, and -1 for nothing."""
        ours, theirs = (self.top(version, user, now_ms) for version in versions.tolist())
        n = max(len(ours), len(theirs))
        return len(ours & theirs) / n if n else -1.0

    def latest_users(self, n: int) -> Iterator[int]:
        """Yield the users with the latest events, the last one first."""
        return islice(self.history.users.index.latest(), n)

    def latest_users_before(self, tick: int, n: int) -> Iterator[int | None]:
        """Yield as many, those whose last event is after a tick only behind all others.

        None now and then, where many have to be passed before the next is found.
        """
        users = self.history.users
        later: list[int] = []
        for n_passed, user in enumerate(users.index.latest(), start=1):
            if users.touched[user] <= tick:
                yield user
                n -= 1
                if not n:
                    return
            elif len(later) < n:
                later.append(user)
            if not n_passed % _PASSED:
                yield None
        yield from later[:n]

    def tops(self, version: int, n_users: int, now_ms: int) -> list[set[int]]:
        """Return `top` for the users with the latest events."""
        return [self.top(version, user, now_ms) for user in self.latest_users(n_users)]


def mean_overlap(ours: list[set[int]], theirs: list[set[int]]) -> float:
    """Return the mean share of items that two lists of slates have in common; 1 for none."""
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if a or b]
    return mean_share([len(a & b) / max(len(a), len(b)) for a, b in pairs])


def mean_share(shares: list[float]) -> float:
    """Return the mean of some shares; 1 for none."""
    return sum(shares) / len(shares) if shares else 1.0
