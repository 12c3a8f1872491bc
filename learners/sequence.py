"""What followed what: directed co-visitation that heeds the time between."""

from __future__ import annotations

from learners import kernels
from learners.base import SHADOW
from learners.history import History, Profile
from learners.neighbours import NeighbourLists


class Sequence(NeighbourLists):
    r"""Recommend what others went on to after what the user had last.

    An event on item $i$ with reward $y$ adds $\frac{y}{r} \frac{\tau}{\tau + \Delta}$ to
    $d(h, i)$ for each of the last `n_last` items $h$ of the user's history, $r$ being its recency
    rank, $\Delta$ the time since, and $\tau$ the `gap_s`. An item $j$ scores

    $$s(u, j) = \sum_h \frac{1}{r_h} \frac{d(h, j)}{\beta + \sum_k d(h, k)}$$

    Rows are kept within `max_neighbours` as `Covisit` does it.

    Parameters
    ----------
    max_neighbours
        Followers kept per item.
    shrink
        What is added to the counts of an item, so that few say little.
    n_last
        How many items back it looks.
    gap_s
        Seconds after which having followed counts half.
    halve_at
        Counts of an item at which they are halved: see `Covisit`.
    history
        Users and items; several learners may share one. Its own if None.
    seed
        Unused: nothing here is random. Part of River's contract.

    Examples
    --------
    >>> from learners import Sequence
    >>> from learners.checks import checkerboard, hit_rate

    >>> model = Sequence(max_neighbours=20)
    >>> print(f"{hit_rate(model, checkerboard(n_users=40, n_items=30, seed=7), k=10):.3f}")
    0.835

    References
    ----------
    [^1]: Ludewig, M. and Jannach, D., 2018. Evaluation of session-based recommendation algorithms.
    User Modeling and User-Adapted Interaction, 28, pp.331-390 (sequential rules).

    """

    both_ways = False

    def __init__(
        self,
        max_neighbours: int = 50,
        shrink: float = 5.0,
        n_last: int = 5,
        gap_s: int = 3_600,
        halve_at: int = 0,
        history: History | None = None,
        seed: int = 1,
    ) -> None:
        self.max_neighbours = max_neighbours
        self.shrink = shrink
        self.n_last = n_last
        self.gap_s = gap_s
        self.halve_at = halve_at
        super().__init__(history=history, seed=seed)

    @property
    def look_back(self) -> int:
        """Return how many of a profile's items count at most."""
        return self.n_last

    def learn(self, profile: Profile, item: int, reward: float, time_ms: int) -> None:
        """Count the item as a follower of the last items of the profile."""
        if reward <= 0:
            return
        kernels.sequence_learn(
            self.rows.pool,
            self.neighbours,
            self.rows.slots[SHADOW],
            self.personal.items.generation,
            self.personal.items.key,
            self.sketch,
            self.sketch_place,
            item,
            reward,
            time_ms,
            profile.items,
            profile.weights,
            profile.times,
            self.n_used(profile),
            self.shrink,
            self.limit,
            self.gap_s * 1_000.0,
            self.personal.items.n_removed == 0,
        )
