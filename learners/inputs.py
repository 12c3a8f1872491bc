"""What a combiner's weights depend on, besides what the sources say: contexts and item features.

Contexts choose among weights: the situation of who asks, which kernels find out, and what is given
from elsewhere. Features of items are given, too. What is not known is 0, and plays no part.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from learners.kernels import F64

CONTEXTS = (
    "always",  # in every request
    "stranger",  # no history
    "newcomer",  # one or two items of history
    "regular",  # twenty items or more
    "in_a_burst",  # last event at most 20 s ago
    "later_that_day",  # last event over 30 minutes, at most a day ago
    "back_after_a_day",  # last event over a day ago
)


class Inputs:
    """Numbers from elsewhere, -1 to 1, that all combiners over one history see.

    `context` has CONTEXTS, then those given with the request or event in hand, by the names of
    `contexts`; `of_item` has those of all items: [names of `items`, items].
    """

    def __init__(
        self, contexts: tuple[str, ...] = (), items: tuple[str, ...] = (), max_items: int = 0
    ) -> None:
        self.contexts = contexts
        self.items = items
        self.context: F64 = np.zeros(len(CONTEXTS) + len(contexts))
        self.of_item: F64 = np.zeros((len(items), max_items))

    @property
    def given(self) -> F64:
        """Return the contexts that were given, to be read or written."""
        return self.context[len(CONTEXTS) :]

    def give(self, x: Mapping[str, Any] | None) -> None:
        """Take what is given from the context of a River call, by name."""
        for place, name in enumerate(self.contexts):
            self.given[place] = float((x or {}).get(name, 0.0))

    def clear(self) -> None:
        """Go on as if nothing had been given with a request."""
        if self.contexts:
            self.given[:] = 0.0
