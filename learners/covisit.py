"""Item-item co-visitation over the live history."""

from __future__ import annotations

from learners import kernels
from learners.base import SHADOW
from learners.history import History, Profile
from learners.neighbours import NeighbourLists


class Covisit(NeighbourLists):
    r"""Recommend what was had together with what the user had lately.

    An event of user $u$ on item $i$ with reward $y$ adds $y / \sqrt{r}$ to $c(i, h)$ and $c(h, i)$
    for each item $h$ of the user's history, $r = 1, 2, \dots$ being its recency rank. An item $j$
    scores

    $$s(u, j) = \sum_h \frac{1}{r_h} \frac{c(h, j)}{\sqrt{(n_h + \beta)(n_j + \beta)}}$$

    with $n$ the rewards that an item had in all, and $\beta$ the shrinkage.

    A row keeps at most `max_neighbours`. A full one gives up a stale neighbour (its item is gone),
    else its weakest, the oldest place first, for a newcomer that a sketch has counted more for.

    Parameters
    ----------
    max_neighbours
        Neighbours kept per item.
    shrink
        Events by which the counts of rare items are damped.
    halve_at
        Rewards of an item at which they are halved, and all of its row with them, so that the last
        so many say more than all before. 0: never.
    history
        Users and items; several learners may share one. Its own if None.
    seed
        Unused: nothing here is random. Part of River's contract.

    Examples
    --------
    >>> from learners import Covisit
    >>> from learners.checks import checkerboard, hit_rate

    >>> model = Covisit(max_neighbours=20, shrink=5.0)
    >>> print(f"{hit_rate(model, checkerboard(n_users=40, n_items=30, seed=7), k=10):.3f}")
    0.862

    References
    ----------
    [^1]: Linden, G., Smith, B. and York, J., 2003. Amazon.com recommendations: item-to-item
    collaborative filtering. IEEE Internet Computing, 7(1), pp.76-80.
    [^2]: Cormode, G. and Muthukrishnan, S., 2005. An improved data stream summary: the count-min
    sketch and its applications. Journal of Algorithms, 55(1), pp.58-75.
    [^3]: Einziger, G., Friedman, R. and Manes, B., 2017. TinyLFU: a highly efficient cache
    admission policy. ACM Transactions on Storage, 13(4).

    """

    def __init__(
        self,
        max_neighbours: int = 100,
        shrink: float = 20.0,
        halve_at: int = 0,
        history: History | None = None,
        seed: int = 1,
    ) -> None:
        self.max_neighbours = max_neighbours
        self.shrink = shrink
        self.halve_at = halve_at
        super().__init__(history=history, seed=seed)

    def learn(self, profile: Profile, item: int, reward: float, time_ms: int) -> None:
        """Count the item together with each item of the profile."""
        if reward <= 0:
            return
        kernels.covisit_learn(
            self.rows.pool,
            self.neighbours,
            self.rows.slots[SHADOW],
            self.personal.items.generation,
            self.personal.items.key,
            self.sketch,
            self.sketch_place,
            item,
            reward,
            profile.items,
            profile.weights,
            self.n_used(profile),
            self.shrink,
            self.limit,
            self.personal.items.n_removed == 0,
        )
