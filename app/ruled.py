"""From a request to a slate under rules: what these want is rated, too, what they hide is not.

As `recommend`, whose parts it uses: scores are moved before the best are chosen, and the choice is
arranged. Reads only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec.structs import replace

from app.drafts import Drafter
from app.recommend import Lowered, Recommender, Request, Scored, as_scored
from app.rule_kernels import rank
from app.rulebook import PREFIX, Arranged, Mask, Rulebook, Ruling
from learners.ids import Ids
from learners.kernels import I32, MISS

NO_ITEMS: I32 = np.zeros(0, np.int32)


def ruling_on(request: Request, rules: Rulebook | None, now_ms: int) -> Ruling | None:
    """Return what acts on a request, None if nothing does."""
    if rules is None:
        return None
    # With a history of its own a request is nobody's.
    return rules.ruling(request.user_id if request.history is None else None, now_ms)


class Ruled:
    """One request under rules, answered by a version of a recommender; `now_ms` is event time."""

    def __init__(
        self,
        ranker: Recommender,
        request: Request,
        version: int,
        now_ms: int,
        ruling: Ruling,
        lowered: Lowered | None = None,
    ) -> None:
        self._ranker = ranker
        self._blend = ranker.blend
        self._pool = ranker.pool
        self._request = request
        self._version = version
        self._now_ms = now_ms
        self._ruling = ruling
        self._lowered = None if request.history is not None else lowered
        user_id = None if request.history is not None else request.user_id
        self._user = MISS if user_id is None else ranker.history.users.get(user_id)
        self._profile = ranker._profile
        # Of the slate: the places in the pool of all that was rated, best first.
        self.last = NO_ITEMS

    def slate(self) -> list[Scored]:
        """Return a slate that breaks no rule, short only if nothing else would fit."""
        given, n_before = NO_ITEMS, MISS
        while True:
            places = self.last = self.rated(given)
            items, n = self._pool.item[places], self._pool.n
            arranged = self._ruling.arrange(items, self._request.k)
            # Each time round more is pooled, until there is no more, or no room.
            more = self._more(items, arranged) if n > n_before else NO_ITEMS
            if not len(more):
                break
            n_before, given = n, np.concatenate([given, more])
        slate = self.scored(places[arranged.places])
        for place, by in enumerate(arranged.by):
            if by is not None:
                slate[place] = _placed(slate[place], by)
        return slate

    def ranked(self) -> list[Scored]:
        """Return all that was rated, best first: what may stand where is not asked yet."""
        return self.scored(self.rated(NO_ITEMS))

    def hiding(self, item: int) -> list[str]:
        """Return the rules that hide an item from whoever asks."""
        return self._ruling.hiding(item)

    def keeping_out(self, item: int, slate: Sequence[Scored]) -> list[str]:
        """Return the rules that let no more of an item's kind stand in a slate."""
        return self._ruling.keeping_out(item, self._items_of(slate))

    def _begin(self) -> None:
        self._ranker._begin(self._request, self._user, self._now_ms, self._ruling.barred)

    def rated(self, given: I32) -> I32:
        """Pool and rate candidates, what rules want, and what is given; return places, best first.

        Items that the request names are all that it may be answered with: then the others only give
        scores a scale.
        """
        request, pool = self._request, self._pool
        self._begin()
        if request.candidates is None:
            wanted = pool.eligible_of(self._ruling.wanted(request.k))
            if len(given):
                wanted = np.concatenate([wanted, given])
            most = request.k
        else:
            get, most = self._ranker.history.items.get, 1
            named = np.array([get(item_id) for item_id in request.candidates], np.int32)
            wanted = pool.eligible_of(np.unique(named[named != MISS]))
        self._blend.pool_candidates(
            self._version, self._profile, pool, self._now_ms, most=most, given=wanted
        )
        self._ranker._lower(self._user, self._lowered)
        self._ruling.move(pool)
        left_out = np.zeros(pool.n, np.uint8)
        if request.candidates is not None:
            left_out[:] = np.isin(pool.item[: pool.n], wanted, invert=True)
        places: I32 = rank(pool.total, pool.item, self._ranker.history.items.key, left_out, pool.n)
        return places

    def _more(self, items: I32, arranged: Arranged) -> I32:
        """Return items to be pooled, too, where those that there are do not do."""
        request, ruling = self._request, self._ruling
        is_short = len(arranged.places) < request.k
        if request.candidates is not None or not (arranged.n_unmet or is_short):
            return NO_ITEMS
        shown, more = items[arranged.places], NO_ITEMS
        if arranged.n_unmet:
            wanted = self._pool.eligible_of(self._not_pooled(ruling.all_wanted()))
            if len(wanted):
                # A quota is there before what else is shown.
                self._open_to(items, shown[ruling.is_wanted(shown)])
                more = self._pool.eligible_of(wanted)[: request.k]
        if len(more) or not is_short:
            return more
        self._open_to(items, shown)
        return self._ranker._search(request, self._version).copy()

    def _not_pooled(self, items: I32) -> I32:
        others: I32 = items[self._pool.pooled[items] != self._pool.tick]
        return others

    def _open_to(self, items: I32, shown: I32) -> None:
        """Begin anew: eligible is what breaks no cap beside some items, and is none of all items.

        What has been found to fit nowhere must not be found again.
        """
        self._begin()
        self._pool.allowed.mark[items] = self._pool.tick
        self._pool.restrict(self._ruling.open_to(self._pool.program, shown))

    # -- exploration --------------------------------------------------------------------------

    def leave_room(self, slate: Sequence[Scored]) -> None:
        """Let nothing be eligible from now on but what breaks no rule beside a slate."""
        shown = self._items_of(slate)
        self._pool.restrict(self._ruling.open_to(self._pool.program, shown))

    def open_places(self, slate: list[Scored]) -> list[int]:
        """Return the places that no rule has filled, and whose item no quota wants."""
        wanted = self._ruling.is_wanted(self._items_of(slate)).tolist()
        return [
            place
            for place, (scored, is_wanted) in enumerate(zip(slate, wanted))
            if not (is_wanted or any(name.startswith(PREFIX) for name in scored.sources))
        ]

    def fitting(self, slate: list[Scored], items: I32) -> Mask:
        """Tell which of some items break no cap, all together and beside the whole slate."""
        together = np.concatenate([self._items_of(slate), items])
        fits = np.zeros(len(together), np.bool_)
        fits[self._ruling.checked(together, len(together)).places] = True
        return fits[len(slate) :]

    def _items_of(self, slate: Sequence[Scored]) -> I32:
        get = self._ranker.history.items.get
        return np.array([get(scored.item_id) for scored in slate], np.int32)

    # -- scores -------------------------------------------------------------------------------

    def scored(self, places: I32) -> list[Scored]:
        """Return what is at some places of the pool, with reasons if the request asks for them."""
        items, totals, named = self._blend.read(self._pool, places)
        ids = self._ranker.history.items.ids
        names = [str(ids[item]) for item in items]
        if not self._request.explain:
            return as_scored(names, totals, named)
        moves = self._ruling.moves(items)
        whys = self._ranker._whys(places, self._profile, self._version, self._lowered, moves)
        return as_scored(names, totals, named, whys)


def arranged(
    slate: list[Scored], teams: list[Drafter], ruling: Ruling, items: Ids, k: int
) -> tuple[list[Scored], list[Drafter]] | None:
    """Return the k of a long slate, best first, that rules let stand, in their order; with teams.

    None if there are too few.
    """
    found = ruling.arrange(np.array([items.get(one.item_id) for one in slate], np.int32), k)
    if found.n_unmet or len(found.places) < k:
        return None
    places = found.places.tolist()
    placed = [
        slate[place] if by is None else _placed(slate[place], by)
        for place, by in zip(places, found.by)
    ]
    return placed, [teams[place] for place in places]


def _placed(scored: Scored, by: str) -> Scored:
    """Return an item with the rule that put it where it is among its sources."""
    return replace(scored, sources=[*scored.sources, by])
