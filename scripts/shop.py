"""A simulated shop, of which it is known what everybody likes: what the drill plays into Sluice.

Tastes drift, people come back after days and shop for a while, items come in anew, categories have
seasons, clicks depend on the place, and some arrive late. Nothing of it is fitted to any data.
"""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

START_MS = 1_760_000_000_000
WEEK_MS = 7 * 86_400_000
N_CATEGORIES = 8
# How much a shopper looks at the places of a slate: the fifth gets 70 % of the first one's looks.
LOOKS = 1.0 / (1.0 + 0.1 * np.arange(50))
# The log-odds of a click on an item that is liked as any other, and how far tastes move them.
_BASE, _APPEAL, _SEASON = -3.0, 0.3, 0.3
# Share of an item's taste that is its own, not its kind's.
_OWN = 0.2
# Of a visit: people who are about at once, and the chance that one is new here.
_ABOUT, _IS_NEW = 20, 0.1
# How far a taste moves from visit to visit.
_DRIFT = 0.05


@dataclass(frozen=True)
class ShopOptions:
    """What can be chosen of a shop.

    `beta` is the share of clicks that go to the first place whatever is there, `browsing` that of
    views after which somebody also picks an item by themselves, `trusted` that of users whose
    feedback no fault touches; `view_ms` the mean time between two views, `views_per_item` their
    number from one new item to the next, until there are twice as many as at first. `taste` is how
    far tastes move the log-odds of a click, `stays` the chance that whoever is about looks on.
    """

    n_users: int = 1_000
    n_items: int = 500
    n_tastes: int = 3
    n_kinds: int = 20
    k: int = 5
    beta: float = 0.0
    browsing: float = 0.3
    trusted: float = 0.05
    view_ms: float = 1_500.0
    views_per_item: int = 400
    taste: float = 1.2
    stays: float = 0.8


class View(NamedTuple):
    """Somebody looks at a slate. `shopper` is a number, and the user's id is made of it."""

    shopper: int
    time_ms: int

    @property
    def user_id(self) -> str:
        """Return the id that the service knows them by."""
        return f"u{self.shopper}"


class Shop:
    """Who comes when, and what each would click: all by a seed."""

    def __init__(self, seed: int, options: ShopOptions) -> None:
        self.options = options
        self.rng = np.random.default_rng(seed)
        self.time_ms = START_MS
        self.n_views = 0
        self.n_items = options.n_items
        most = options.n_items * 2
        # Items come in kinds, which are liked by the same people.
        kinds = self.rng.normal(size=(options.n_kinds, options.n_tastes))
        kind = self.rng.integers(options.n_kinds, size=most)
        own = self.rng.normal(size=(most, options.n_tastes))
        self.tastes = math.sqrt(1 - _OWN) * kinds[kind] + math.sqrt(_OWN) * own
        self.appeal = self.rng.normal(size=most) * _APPEAL
        self.category = kind % N_CATEGORIES
        self.base = _BASE
        self.people: dict[int, Floats] = {}
        self.had: dict[int, set[int]] = {}
        self._next = 0
        self._regulars: list[int] = []
        self._about: list[int] = []
        for _ in range(options.n_users):
            self._welcome()

    def _welcome(self) -> int:
        shopper, self._next = self._next, self._next + 1
        self.people[shopper] = self.rng.normal(size=self.options.n_tastes)
        self.had[shopper] = set()
        self._regulars.append(shopper)
        if len(self._regulars) > self.options.n_users:
            gone = self._regulars.pop(0)
            del self.people[gone], self.had[gone]
            self._about = [someone for someone in self._about if someone != gone]
        return shopper

    def is_trusted(self, shopper: int) -> bool:
        """Tell whether no fault touches a shopper's feedback."""
        return shopper % 1_000 < self.options.trusted * 1_000

    def next_view(self) -> View:
        """Move on to whoever looks at a slate next."""
        self.time_ms += max(1, int(self.rng.exponential(self.options.view_ms)))
        self.n_views += 1
        if self.n_views % self.options.views_per_item == 0 and self.n_items < len(self.appeal):
            self.n_items += 1
        if len(self._about) == _ABOUT and self.rng.random() < self.options.stays:
            return View(self._about[int(self.rng.integers(_ABOUT))], self.time_ms)
        is_new = self.rng.random() < _IS_NEW
        somebody = self._regulars[int(self.rng.integers(len(self._regulars)))]
        shopper = self._welcome() if is_new else somebody
        noise = self.rng.normal(size=self.options.n_tastes)
        self.people[shopper] = math.sqrt(1 - _DRIFT) * self.people[shopper] + (
            math.sqrt(_DRIFT) * noise
        )
        self._about = [*self._about, shopper][-_ABOUT:]
        return View(shopper, self.time_ms)

    # -- what is liked ------------------------------------------------------------------------

    def liking(self, shopper: int) -> Floats:
        """Return, for each item there is, the chance that a shopper who looks at it clicks.

        What they had they do not click again.
        """
        n = self.n_items
        phases = 2 * math.pi * (self.time_ms / WEEK_MS + np.arange(N_CATEGORIES) / N_CATEGORIES)
        season = _SEASON * np.sin(phases)[self.category[:n]]
        odds = (
            self.base
            + self.appeal[:n]
            + season
            + self.options.taste * (self.tastes[:n] @ self.people[shopper])
        )
        chances: Floats = 1.0 / (1.0 + np.exp(-odds))
        chances[list(self.had[shopper])] = 0.0
        return chances

    def best(self, liking: Floats, k: int) -> float:
        """Return how many clicks the best slate would get."""
        top = np.sort(np.partition(liking, len(liking) - k)[-k:])[::-1]
        return float(top @ LOOKS[:k])

    def expected(self, liking: Floats, items: list[int]) -> float:
        """Return how many clicks a slate would get."""
        return float(liking[items] @ LOOKS[: len(items)])

    def clicks(self, liking: Floats, items: list[int]) -> Bools:
        """Return which places of a slate are clicked."""
        if self.rng.random() < self.options.beta:
            first: Bools = np.arange(len(items)) == 0
            return first
        clicked: Bools = self.rng.random(len(items)) < liking[items] * LOOKS[: len(items)]
        return clicked

    def browse(self, liking: Floats) -> int:
        """Return what somebody finds by themselves: the best of twenty that they come across."""
        found = self.rng.integers(self.n_items, size=20)
        return int(found[liking[found].argmax()])

    def take(self, shopper: int, item: int) -> None:
        """Remember that a shopper had an item."""
        self.had[shopper].add(item)

    # -- what may change for real ---------------------------------------------------------------

    def swap(self, share: float) -> None:
        """Let a share of the items be liked by whom another one of them was liked."""
        chosen = self.rng.permutation(self.n_items)[: round(self.n_items * share)]
        moved = np.roll(chosen, 1)
        self.tastes[chosen], self.appeal[chosen] = self.tastes[moved], self.appeal[moved]

    def cool(self, by: float) -> None:
        """Let everybody click less: the log-odds of any click fall."""
        self.base -= by


def shop_with(seed: int, **options: Any) -> Shop:
    """Return a shop with some options that are not the usual ones."""
    return Shop(seed, ShopOptions(**options))


# A shop in which nothing of what somebody did says what they will do: all like the same, each looks
# at one thing and is gone for days.
POPULARITY_ONLY: dict[str, Any] = {"taste": 0.0, "stays": 0.0, "n_users": 20_000}
# One in which visits are going on side by side for two weeks.
_VIEW_MS = 60_000.0


def stream_of(seed: int, n_events: int, **options: Any) -> Iterator[tuple[str, str, int]]:
    """Yield (user, item, time in ms) of what people find by themselves, without any list."""
    shop = shop_with(seed, **({"view_ms": _VIEW_MS} | options))
    for _ in range(n_events):
        view = shop.next_view()
        item = shop.browse(shop.liking(view.shopper))
        shop.take(view.shopper, item)
        yield view.user_id, f"i{item}", view.time_ms


def main() -> None:
    """Write such a stream as CSV: `python -m scripts.shop N_EVENTS [popularity]`."""
    n_events, popularity = int(sys.argv[1]), sys.argv[2:] == ["popularity"]
    out = csv.writer(sys.stdout)
    out.writerow(["user_id", "item_id", "timestamp"])
    for user, item, time_ms in stream_of(1, n_events, **(POPULARITY_ONLY if popularity else {})):
        out.writerow([user, item, time_ms / 1_000])


if __name__ == "__main__":
    main()
