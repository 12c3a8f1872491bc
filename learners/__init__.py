"""River-compatible incremental rankers over a live history. Depends on River, NumPy and Numba only.

Read in this order: `history` (users, items, what users had), `candidates` (the pool of a request),
`base` (the contract, rows that versions share), the sources `covisit` and `sequence` (both
`neighbours`), `factors`, `trending`, then `combiner` and `blend`, `river_adapter` (a River
model in the combiner's place) and `codec`, `checks` (what a learner must pass), `kernels`.
"""

from learners.blend import Blend
from learners.combiner import LinearCombiner
from learners.covisit import Covisit
from learners.factors import Factors
from learners.history import History
from learners.sequence import Sequence
from learners.trending import Trending

__all__ = ["Blend", "Covisit", "Factors", "History", "LinearCombiner", "Sequence", "Trending"]
