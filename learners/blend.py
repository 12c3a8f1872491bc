"""The default learner: candidates of several sources, their scores normalised and added."""

from __future__ import annotations

from typing import Any

import numpy as np

from learners import kernels
from learners.base import Learner, RowPool, new_scratch
from learners.covisit import Covisit
from learners.history import History, Profile
from learners.ids import State
from learners.kernels import I32, I64, Scratch
from learners.trending import Trending

_COVISIT_ALONE = np.array([1.0, 0.0])
_TRENDING_ALONE = np.array([0.0, 1.0])


class Blend(Learner):
    r"""Recommend by co-visitation, with a little of what is popular now.

    $$s(u, j) = \frac{s_{covisit}(u, j)}{\max_i s_{covisit}(u, i)}
              + w \frac{s_{trending}(j)}{\max_i s_{trending}(i)}$$

    Who has no history, or none that anybody shares, gets the trending list.

    Parameters
    ----------
    max_neighbours
        See `Covisit`.
    shrink
        See `Covisit`.
    half_life_s
        See `Trending`.
    trending_weight
        The weight $w$.
    history
        Users and items. Its own if None.
    seed
        Unused: nothing here is random. Part of River's contract.

    Examples
    --------
    >>> from learners import Blend
    >>> from learners.checks import checkerboard, hit_rate

    >>> model = Blend(max_neighbours=20, shrink=5.0)
    >>> print(f"{hit_rate(model, checkerboard(n_users=40, n_items=30, seed=7), k=10):.3f}")
    0.860

    """

    def __init__(
        self,
        max_neighbours: int = 100,
        shrink: float = 20.0,
        half_life_s: int = 172_800,
        trending_weight: float = 0.05,
        history: History | None = None,
        seed: int = 1,
    ) -> None:
        self.max_neighbours = max_neighbours
        self.shrink = shrink
        self.half_life_s = half_life_s
        self.trending_weight = trending_weight
        super().__init__(history=history, seed=seed)

    def _reserve(self) -> None:
        self.covisit = Covisit(self.max_neighbours, self.shrink, self.personal, self.seed)
        self.trending = Trending(self.half_life_s, history=self.personal, seed=self.seed)
        self.sources: dict[str, Learner] = {"covisit": self.covisit, "trending": self.trending}
        self.weights = np.array([1.0, self.trending_weight])
        self._own_scratch = new_scratch(self.personal.max_items, len(self.sources))
        self._own_request = 0

    @property
    def rows(self) -> RowPool:
        """Return the pool that fills first; `has_room` looks at every source's."""
        return self.covisit.rows

    def has_room(self) -> bool:
        """Tell whether one more event can be learned without evicting an item."""
        return all(source.has_room() for source in self.sources.values())

    def holds_rows(self, item: int) -> bool:
        """Tell whether any version of any source has a row for an item."""
        return any(source.holds_rows(item) for source in self.sources.values())

    def learn(self, profile: Profile, item: int, reward: float, time_ms: int) -> None:
        """Teach every source."""
        for source in self.sources.values():
            source.learn(profile, item, reward, time_ms)

    def score_sources(self, version: int, profile: Profile, scratch: Scratch, tick: int) -> int:
        """Write each source's weighted score into its column and their sum into the last one.

        Return the number of candidates.
        """
        n_personal = self.covisit.score(version, profile, scratch, tick, 0, 0)
        n = self.trending.score(version, profile, scratch, tick, n_personal, 1)
        # Who has no history, or none that anybody shares, gets the trending list.
        kernels.blend_scores(scratch, n, self.weights if n_personal else _TRENDING_ALONE)
        return n

    def score_similar(self, version: int, profile: Profile, scratch: Scratch, tick: int) -> int:
        """Do the same by co-visitation alone."""
        n = self.covisit.score(version, profile, scratch, tick, 0, 0)
        kernels.blend_scores(scratch, n, _COVISIT_ALONE)
        return n

    def score(
        self, version: int, profile: Profile, scratch: Scratch, tick: int, n: int, column: int
    ) -> int:
        """Add the blended score to a column of `scratch`, for River's methods."""
        self._own_request += 1
        own = self._own_scratch
        n_own = self.score_sources(version, profile, own, self._own_request)
        for item in own.candidate[:n_own]:
            scratch.stamp[item] = tick
            scratch.score[item, column] = own.score[item, -1]
            scratch.candidate[n] = item
            n += 1
        return n

    def assign(self, target: int, source: int) -> int:
        """Make version `target` equal to `source` in every source."""
        return sum(learner.assign(target, source) for learner in self.sources.values())

    def drop_item(self, index: int, handle: int) -> None:
        """Do nothing: each source listens for itself."""

    def state(self) -> State:
        """Return the states of the sources by name."""
        return {name: source.state() for name, source in self.sources.items()}

    def load_state(self, state: State, remap: I64 | None = None) -> None:
        """Load every source."""
        for name, source in self.sources.items():
            extra = {"generation": state["generation"]} if "generation" in state else {}
            source.load_state(state[name] | extra, remap)

    def update_hash(self, version: int, order: I32, place: I64, sha: Any) -> None:
        """Hash every source."""
        for source in self.sources.values():
            source.update_hash(version, order, place, sha)
