"""The default learner: candidates of several sources, weighed by what has proved right lately."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from river import base

from learners import kernels
from learners.base import (
    N_VERSIONS,
    NOTHING,
    SHADOW,
    Learner,
    RowPool,
    Source,
    slot_table,
)
from learners.candidates import Candidates
from learners.categories import MAX_LISTED
from learners.combiner import OF_ITEM, Combiner, LinearCombiner, feature_names
from learners.covisit import Covisit
from learners.factors import LEAST_SHARE, Factors
from learners.history import History, Profile
from learners.ids import State
from learners.kernels import F64, I32, I64, MISS
from learners.river_adapter import adapt
from learners.sequence import Sequence
from learners.trending import Trending

# Candidates of each kind: of co-visitation, of sequence, of each half-life of trending.
MOST = (60, 20, 15)

# What a total is made of: the sources, how much an item has been had and how new it is, the
# categories that it shares, and what a River model says. Before that, what is given (`Inputs`).
PARTS = ("covisit", "sequence", "factors", "trending", "item", "categories", "model")

# Items, their totals, and the names of the sources that speak for each.
Read = tuple[list[int], list[float], list[list[str]]]

# Where a combiner begins, before it has learned: about the weights that it found on two streams.
_INITIAL = {"covisit": 5.0, "sequence": 1.0, "factors": 0.2}
_INITIAL_TRENDING = 0.1


class Blend(Learner):
    r"""Recommend by several learners over one history, weighed by a combiner that learns online.

    Each source names its best candidates: `Covisit`, `Sequence`, and `Trending` at several
    half-lives; then each source, `Factors` too, rates every candidate named. A rating $v$ over the
    largest in the pool becomes the features $\sqrt{v}$ and $v / (v + 0.1)$; more say how much an
    item has been had, how new it is, and how much of the history shares its categories.
    `LinearCombiner` turns them into a total, with weights for newcomers, regulars, and those back
    after a while, learned from what was chosen. A River model can take its place (see
    `river_adapter`).

    Parameters
    ----------
    max_neighbours
        See `Covisit`; `Sequence` keeps half as many.
    shrink
        See `Covisit`.
    halve_at
        See `Covisit`; `Sequence` does the same.
    half_lives_s
        See `Trending`.
    n_factors
        See `Factors`.
    learning_rate
        See `LinearCombiner`.
    model
        A River classifier, regressor, pipeline of one, or `reco.Ranker` in its place.
    history
        Users and items. Its own if None.
    seed
        Of the hashes that `Factors` draws by.

    Examples
    --------
    >>> from learners import Blend
    >>> from learners.checks import checkerboard, hit_rate

    >>> model = Blend(max_neighbours=20, shrink=5.0)
    >>> print(f"{hit_rate(model, checkerboard(n_users=40, n_items=30, seed=7), k=10):.3f}")
    0.847

    """

    def __init__(
        self,
        max_neighbours: int = 100,
        shrink: float = 20.0,
        halve_at: int = 0,
        half_lives_s: tuple[int, ...] = (3_600, 86_400, 604_800),
        n_factors: int = 32,
        learning_rate: float = 0.15,
        model: base.Estimator | None = None,
        history: History | None = None,
        seed: int = 1,
    ) -> None:
        self.max_neighbours = max_neighbours
        self.shrink = shrink
        self.halve_at = halve_at
        self.half_lives_s = half_lives_s
        self.n_factors = n_factors
        self.learning_rate = learning_rate
        self.model = model
        super().__init__(history=history, seed=seed)

    def _reserve(self) -> None:
        personal, seed = self.personal, self.seed
        n, halve_at = self.max_neighbours, self.halve_at
        self.covisit = Covisit(n, self.shrink, halve_at, history=personal, seed=seed)
        self.sequence = Sequence(max(1, n // 2), halve_at=halve_at, history=personal, seed=seed)
        self.factors = Factors(self.n_factors, history=personal, seed=seed)
        self.trending = Trending(self.half_lives_s, history=personal, seed=seed)
        self.sources: dict[str, Source] = {
            "covisit": self.covisit,
            "sequence": self.sequence,
            "factors": self.factors,
            "trending": self.trending,
        }
        self._lie_together()
        # The name of each column's source.
        self.columns = [name for name, s in self.sources.items() for _ in range(s.n_columns)]
        self.n_columns = len(self.columns)
        self._taste = np.zeros(MAX_LISTED, np.float64)
        names = list(self.sources)
        self._names = [
            [name for place, name in enumerate(names) if number >> place & 1] or ["catalogue"]
            for number in range(2 ** len(names))
        ]
        self._combine()

    def _lie_together(self) -> None:
        """Let the sources have what says where their rows are in one table."""
        # An even number of columns: two at a time are compared, see `blend_assign`.
        n_columns = len(self.sources) + len(self.sources) % 2
        self._slots = slot_table(self.personal.max_items, n_columns)
        for column, source in enumerate(self.sources.values()):
            source.rows.move_to(self._slots, column)
        self._shared: Any = None

    def _combine(self) -> None:
        """Make a combiner of what the sources give, and of what is given."""
        personal = self.personal
        features = feature_names(self.half_lives_s)
        of_item = ["categories" if name == "shared_categories" else "item" for name in OF_ITEM]
        inputs = personal.inputs
        features += inputs.items
        self.parts = (*PARTS[:-1], *inputs.items, *inputs.contexts, PARTS[-1])
        named = [*self.columns, *self.columns, *of_item, *inputs.items, *inputs.contexts]
        self._part_of = np.array([self.parts.index(name) for name in named], np.int32)
        trending = dict.fromkeys(features[3 : self.n_columns], _INITIAL_TRENDING)
        self.combiner: Combiner
        # A linear one's totals are made where the features are; any other is called for them.
        self.is_linear = self.model is None
        if self.model is None:
            initial = _INITIAL | trending
            self.combiner = LinearCombiner(features, initial, self.learning_rate, inputs.contexts)
            self.combiner.context = inputs.context
        else:
            self.combiner = adapt(self.model, features, personal, self.seed)
        self._shared = None

    def take_inputs(self) -> None:
        """Go on with the inputs that the history has by now; what stays by name stays learned."""
        before = self.combiner
        before.leave()
        self._combine()
        if isinstance(self.combiner, LinearCombiner) and isinstance(before, LinearCombiner):
            self.combiner.inherit(before)
        else:
            self.combiner.load_state(before.state(), is_moved=False)
        self._shared = None
        self._own_pool = self.new_pool(self.personal.max_items)

    @property
    def shared(self) -> Any:
        """Return what the sources and the combiner keep, as kernels take it."""
        if self._shared is None:
            self._shared = self._pack()
        return self._shared

    def _pack(self) -> Any:
        covisit, sequence, trending = self.covisit, self.sequence, self.trending
        factors = self.factors
        combiner = self.combiner
        if not isinstance(combiner, LinearCombiner):
            combiner = LinearCombiner(())
        return kernels.new_shared(
            covisit.neighbours,
            covisit.rows.versions,
            covisit.sums,
            covisit.look_back,
            covisit.sketch,
            covisit.sketch_place,
            float(covisit.shrink),
            covisit.limit,
            sequence.neighbours,
            sequence.rows.versions,
            sequence.sums,
            sequence.look_back,
            sequence.sketch,
            sequence.sketch_place,
            float(sequence.shrink),
            sequence.limit,
            sequence.gap_s * 1_000.0,
            factors.factors,
            factors.rows.versions,
            factors.vector,
            factors.gradient,
            factors.order,
            factors.order_place,
            factors.counts,
            int(factors.seed),
            factors.users.live,
            factors.users.past,
            float(factors.learning_rate),
            float(factors.decay),
            factors.n_negatives,
            float(factors.choice_rate),
            LEAST_SHARE,
            trending.decayed,
            trending.rows.versions,
            trending.top,
            trending.top_size,
            trending.lists,
            trending.list_rows.versions,
            trending.half_lives_ms,
            combiner.weights,
            combiner.squares,
            combiner.context,
            combiner.combined,
            float(combiner.learning_rate),
            self._taste,
            np.array([source.rows_per_event for source in self.sources.values()], np.int64),
            self._slots.reshape(N_VERSIONS, -1).view(np.int64),
        )

    def use_users(self, *, is_on: bool) -> None:
        """Keep factors of each user's own, or none (see `Factors`)."""
        self.factors.use_users(is_on=is_on)
        self._shared = None

    def halve_counts_at(self, halve_at: int) -> None:
        """Halve counts at another number of rewards from here on, or never (0)."""
        self.halve_at = self.covisit.halve_at = self.sequence.halve_at = halve_at
        self._shared = None

    def new_pool(self, capacity: int, **arrays: Any) -> Candidates:
        """Return a pool with room for every source's scores and the features made of them."""
        n_features = len(self._part_of) - len(self.personal.inputs.contexts)
        return super().new_pool(capacity, n_features=n_features, **arrays)

    @property
    def rows(self) -> RowPool:
        """Return the pool that fills first; `has_room` looks at every source's."""
        return self.covisit.rows

    def has_room(self) -> bool:
        """Tell whether one more event can be learned without evicting an item."""
        return self.n_room() > 0

    def n_room(self) -> int:
        """Return how many more events can be learned without evicting an item."""
        return int(kernels.blend_room(self.shared))

    def holds_rows(self, item: int) -> bool:
        """Tell whether any version of any source has a row for an item."""
        return any(source.holds_rows(item) for source in self.sources.values())

    def leave(self) -> None:
        """Hear no more of the history, in every source and in the combiner."""
        super().leave()
        for source in self.sources.values():
            source.leave()
        self.combiner.leave()

    # -- learning -----------------------------------------------------------------------------

    def learn(self, profile: Profile, item: int, reward: float, time_ms: int) -> None:
        """Teach every source, in one kernel, as every event does it."""
        kernels.blend_teach(
            self.personal.arrays,
            self.shared,
            SHADOW,
            profile.items,
            profile.weights,
            profile.times,
            profile.n,
            profile.user,
            profile.is_past,
            item,
            reward,
            time_ms,
            self.personal.items.n_removed == 0,
        )
        self.combiner.learn(profile, item, reward)

    def take(
        self,
        profile: Profile,
        user: int,
        item: int,
        *,
        type_index: int,
        reward: float,
        time_ms: int,
        is_taught: bool,
    ) -> bool:
        """Teach an event, unless it counts for its user alone, and append it to the history.

        As `has_room`, `learn` and `History.append`, but in one kernel where the combiner is linear.
        Return False where there was no room, and nothing was done.
        """
        personal = self.personal
        if not self.is_linear:
            if self.has_room():
                if is_taught:
                    self.learn(profile, item, reward, time_ms)
                personal.append(user, item, time_ms=time_ms, reward=reward, type_index=type_index)
                return True
            return False
        if personal.as_of.is_on:
            personal.as_of.keep(personal, user)
        done = kernels.blend_take(
            personal.arrays,
            self.shared,
            SHADOW,
            user,
            item,
            type_index,
            reward,
            time_ms,
            profile.items,
            profile.weights,
            profile.times,
            profile.n,
            is_taught,
            personal.had_length,
            personal.items.n_removed == 0,
        )
        if done == kernels.NO_ROOM:
            return False
        if not done:
            personal.append_had(user, type_index=type_index)
        return True

    def learn_choice(self, profile: Profile, pool: Candidates, item: int, reward: float) -> None:
        """Teach what was chosen (or refused) from a pool, as the shadow scored it last."""
        if self.is_linear:
            kernels.blend_choose(
                self.personal.arrays,
                self.shared,
                pool.buffers,
                SHADOW,
                pool.n,
                item,
                reward,
                profile.items,
                profile.weights,
                profile.n,
                profile.user,
                profile.is_past,
            )
            return
        place = pool.place(item)
        if place == MISS:
            return
        knows_shares = self.combiner.learn_list(pool, place, reward)
        if knows_shares and reward > 0:
            self.factors.learn_choice(profile, pool, place)

    def learn_one(
        self, user: Hashable, item: Hashable, y: Any, x: dict[str, Any] | None = None
    ) -> None:
        """Rank the item first, so that the combiner learns, then teach every source."""
        personal, pool = self.personal, self._own_pool
        user_index, item_index = personal.users.get(user), personal.items.get(item)
        if item_index != MISS and (
            user_index == MISS or not personal.has_had(user_index, item_index)
        ):
            profile = personal.profile(user_index, self._profile)
            pool.begin()
            if user_index != MISS:
                personal.mark_had(user_index, pool.allowed.mark, pool.tick)
            personal.inputs.give(x)
            self.pool_candidates(SHADOW, profile, pool, int((x or {}).get("time_ms", 0)))
            self.learn_choice(profile, pool, item_index, float(y))
        super().learn_one(user, item, y, x)

    # -- scores -------------------------------------------------------------------------------

    def pool_candidates(
        self,
        version: int,
        profile: Profile,
        pool: Candidates,
        now_ms: int,
        most: int = 1,
        given: I32 = NOTHING,
    ) -> None:
        """Let every source name its best, and all rate all of these; then let the combiner total.

        In one kernel, as this is what every request and every judgement consists of.
        """
        pool.n = kernels.blend_pool(
            self.personal.arrays,
            self.shared,
            pool.buffers,
            version,
            profile.items,
            profile.weights,
            profile.times,
            profile.n,
            profile.user,
            profile.is_past,
            self.personal.items.n_removed == 0,
            now_ms,
            pool.tick,
            (max(most, MOST[0]), max(most, MOST[1]), max(most, MOST[2])),
            pool.allowed.wanted,
            given,
        )
        if not self.is_linear:
            self.combiner.total(version, profile, pool, now_ms)

    def search(self, pool: Candidates, version: int, among: I32 | None, found: I32) -> int:
        """Write the eligible items that were had most, and return how many: as many as fit.

        `among` are the items to look at, None for all. Ties are broken by the id's key.
        """
        n_found: int = kernels.blend_search(
            self.personal.arrays,
            self.shared,
            pool.buffers,
            version,
            pool.tick,
            pool.allowed.wanted,
            NOTHING if among is None else among,
            self.personal.items.n_indices if among is None else 0,
            found,
            np.empty(len(found)),
            np.empty(kernels.SIEVED, np.uint8),
        )
        return n_found

    def doubled_ranks(
        self,
        versions: I64,
        profile: Profile,
        pool: Candidates,
        item: int,
        now_ms: int,
        *,
        exclude_had: bool,
    ) -> list[int]:
        """Return twice the rank (ties half) that each version gives an item, or MISS.

        What the last one ranked is in the pool afterwards. As if `pool_candidates` was called for
        each, but in one kernel; it needs a linear combiner.
        """
        ranks = np.empty(len(versions), np.int64)
        tick = pool.begin_many(1)
        pool.n = kernels.blend_ranks(
            self.personal.arrays,
            self.shared,
            pool.buffers,
            versions,
            profile.items,
            profile.weights,
            profile.times,
            profile.n,
            profile.refused,
            profile.n_refused,
            self.personal.items.n_removed == 0,
            profile.user,
            item,
            now_ms,
            exclude_had,
            tick,
            MOST,
            NOTHING,
            ranks,
        )
        found: list[int] = ranks.tolist()
        return found

    def judge(
        self,
        versions: I64,
        profile: Profile,
        pool: Candidates,
        item: int,
        *,
        type_index: int,
        reward: float,
        time_ms: int,
        is_judged: bool,
        is_taught: bool,
        exclude_had: bool,
    ) -> tuple[list[int] | None, bool]:
        """Do all that comes before an event is learned, and fill the profile of `profile.user`.

        Return `doubled_ranks`, None where it is not judged or the user had the item; the last
        version has learned the choice then. And whether the event is a repeat. As if the steps were
        taken one after the other, but in one kernel; for a linear combiner.
        """
        ranks = np.empty(len(versions), np.int64)
        profile.n, profile.n_refused, n, is_ranked, is_repeat = kernels.blend_judge(
            self.personal.arrays,
            self.shared,
            pool.buffers,
            versions,
            profile.user,
            item,
            type_index,
            reward,
            time_ms,
            profile.items,
            profile.weights,
            profile.times,
            profile.refused,
            self.personal.items.n_removed == 0,
            is_judged,
            is_taught,
            exclude_had,
            pool.begin_many(1),
            MOST,
            NOTHING,
            ranks,
        )
        if n != MISS:
            pool.n = n
        return (ranks.tolist() if is_ranked else None), is_repeat

    def overlaps(
        self,
        versions: I64,
        users: list[int],
        profile: Profile,
        pool: Candidates,
        now_ms: int,
        *,
        k: int,
        exclude_had: bool,
    ) -> list[float]:
        """Return the shares of some users' k best items that two versions have in common.

        -1 where neither has any. As if both had been asked by `pool_candidates` for each user, in
        one kernel; for a linear combiner.
        """
        shares = np.empty(len(users))
        kernels.blend_overlaps(
            self.personal.arrays,
            self.shared,
            pool.buffers,
            versions,
            np.array(users, np.int64),
            profile.items,
            profile.weights,
            profile.times,
            profile.refused,
            self.personal.items.n_removed == 0,
            now_ms,
            exclude_had,
            pool.begin_many(2 * len(users)),
            MOST,
            NOTHING,
            np.empty(k, np.int32),
            np.empty((2, k), np.int32),
            shares,
        )
        found: list[float] = shares.tolist()
        return found

    def contributions(self, version: int, pool: Candidates, places: I32) -> F64:
        """Return what each of `parts` adds to the totals of pooled items: [places, parts]."""
        parts = np.zeros((len(places), len(self.parts)))
        self.combiner.parts(version, pool, places, self._part_of, parts)
        return parts

    def read(self, pool: Candidates, places: I32) -> Read:
        """Return items and totals at some places, and the names of the sources that speak for them.

        In one kernel, as every answer ends with it.
        """
        numbers, totals = np.empty((2, len(places)), np.int32), np.empty(len(places))
        kernels.read_places(
            pool.item,
            pool.total,
            pool.features,
            self.combiner.combined,
            self._part_of,
            places,
            len(self.sources),
            numbers,
            totals,
        )
        return self._named(numbers, totals)

    def read_best(self, pool: Candidates, best: I32, k: int) -> Read:
        """Write the places of the k best into `best`, best first, and return what is there."""
        numbers, totals = np.empty((2, k), np.int32), np.empty(k)
        n = kernels.read_best(
            pool.total,
            pool.item,
            pool.n,
            self.personal.items.key,
            best,
            k,
            pool.features,
            self.combiner.combined,
            self._part_of,
            len(self.sources),
            numbers,
            totals,
        )
        return self._named(numbers[:, :n], totals[:n])

    def _named(self, numbers: I32, totals: F64) -> Read:
        items, bits = numbers.tolist()
        return items, totals.tolist(), list(map(self._names.__getitem__, bits))

    # -- versions and state -------------------------------------------------------------------

    def assign(self, target: int, source: int) -> int:
        """Make version `target` equal to `source` in every source, and in the combiner."""
        if target == SHADOW:  # which forgets more than its rows
            self.combiner.assign(target, source)
            self._shared = None
            return sum(learner.assign(target, source) for learner in self.sources.values())
        if not self.is_linear:
            self.combiner.assign(target, source)
        n_items, n_lists = self.personal.items.n_indices, self.trending.n_lists
        return int(kernels.blend_assign(self.shared, target, source, n_items, n_lists))

    def drop_item(self, index: int, handle: int) -> None:
        """Do nothing: each source listens for itself."""

    def state(self, lent: Mapping[str, Any] | None = None) -> State:
        """Return the states of sources and combiner by name; in place of some what is `lent`."""
        lent = lent or {}
        states = {name: lent.get(name) or s.state() for name, s in self.sources.items()}
        return states | {"combiner": self.combiner.state()}

    def load_state(self, state: State, remap: I64 | None = None) -> None:
        """Load every source, and the combiner; what has been loaded is let go."""
        state = dict(state)
        for name, source in self.sources.items():
            extra = {"generation": state["generation"]} if "generation" in state else {}
            source.load_state(state.pop(name) | extra, remap)
        self._lie_together()
        self.combiner.load_state(state["combiner"], is_moved=remap is not None)

    def inherit(self, other: Blend) -> list[str]:
        """Take over, in all versions, what another blend over the same history has learned.

        Return the parts that begin empty, as what they learned does not fit: factors of another
        number, trending by other half-lives, and another kind of combiner.
        """
        self.covisit.inherit(other.covisit)
        self.sequence.inherit(other.sequence)
        empty = []
        for name in ("factors", "trending"):
            if self.sources[name].params() == other.sources[name].params():
                self.sources[name].load_state(other.sources[name].state())
            else:
                empty.append(name)
        self._lie_together()
        if "factors" in empty:
            self.factors.use_users(is_on=other.factors.users.width > 0)
        ours, theirs = self.combiner, other.combiner
        if isinstance(ours, LinearCombiner) and isinstance(theirs, LinearCombiner):
            ours.inherit(theirs)
        elif repr(self.model) == repr(other.model) and self.half_lives_s == other.half_lives_s:
            ours.load_state(theirs.state(), is_moved=False)
        else:
            empty.append("combiner")
        self._shared = None
        return empty

    def update_hash(self, version: int, order: I32, place: I64, sha: Any) -> None:
        """Hash every source, and the combiner."""
        for source in self.sources.values():
            source.update_hash(version, order, place, sha)
        self.combiner.update_hash(version, sha)

    def hash_learning(self, place: I64, sha: Any) -> None:
        """Hash what every source's learning depends on."""
        for source in self.sources.values():
            source.hash_learning(place, sha)
        self.combiner.hash_learning(sha)
