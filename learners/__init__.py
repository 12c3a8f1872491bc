"""River-compatible incremental rankers over a live history. Depends on River, NumPy and Numba only.

Read in this order: `history` (users, items, what users had), `base` (the contract, rows that
versions share), `covisit`, `trending`, `blend`, `checks` (what a learner must pass), `kernels`.
"""

from learners.blend import Blend
from learners.covisit import Covisit
from learners.history import History
from learners.trending import Trending

__all__ = ["Blend", "Covisit", "History", "Trending"]
