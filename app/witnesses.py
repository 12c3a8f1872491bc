"""Do users whom somebody vouches for click as everybody does? It tells a change from a fault.

Both are compared with what is usual for them: who was marked for buying much clicks more than is
expected, fault or not, as what is expected is learned from everybody.
"""

from __future__ import annotations

from typing import Any

from app.detectors import BETS, BOLD_BETS, Superiority
from learners.ids import State

# Slates of all others until which nothing is heard: it is not known how far they go, and whoever is
# about as an alarm rings helped it to ring.
_FEW = 100
# Of how many slates a level is the mean, at most; and as how many as expected it begins.
_LATELY, _FIRST = 2_000, 50


class Level:
    """By how much more than expected slates are usually clicked."""

    def __init__(self) -> None:
        self.n = 0
        self.total = 0.0

    def add(self, surplus: float) -> None:
        """Take another slate; of very many, let half be forgotten."""
        self.n += 1
        self.total += surplus
        if self.n >= _LATELY:
            self.n //= 2
            self.total *= 0.5

    @property
    def mean(self) -> float:
        """Return the mean; of few slates it is nearer to 0."""
        return self.total / (self.n + _FIRST)


class Witnesses:
    """Slates of marked users, and of all others: as they usually are, and since HOLD began.

    Two e-processes say whether the marked go along with an alarm: beyond what is usual for them by
    the margin, and half as far as all others go. Until semantics version 10 the margin was all,
    nothing was usual, and nobody could disagree.
    """

    def __init__(self) -> None:
        self.usual = {name: Level() for name in ("marked", "others")}
        self.begin(BETS)

    def begin(self, bets: tuple[float, ...] = BOLD_BETS) -> None:
        """Begin a HOLD with nothing heard."""
        self.agreement, self.disagreement = Superiority(bets), Superiority(bets)
        self.n_others = 0
        self.others = 0.0

    def learn(self, surplus: float, *, is_marked: bool) -> None:
        """Take by how much more than expected a slate was clicked while nothing was wrong."""
        self.usual["marked" if is_marked else "others"].add(surplus)

    def hear(self, surplus: float, sign: float, margin: float, *, is_marked: bool) -> None:
        """Take the same in HOLD; the alarm says more (`sign` is 1), less (-1), or neither (0)."""
        beyond = sign * (surplus - self.usual["marked" if is_marked else "others"].mean)
        beyond = min(max(beyond, -1.0), 1.0)
        if not is_marked:
            self.n_others += 1
            self.others += beyond
        elif sign and self.n_others >= _FEW:
            margin = max(margin, min(self.others / self.n_others / 2, 0.5))
            self.agreement.update(beyond, margin)
            self.disagreement.update(-beyond, -margin)

    def evidence(self) -> dict[str, Any]:
        """Return the numbers of the marked, and beside them those of all others if they have any.

        Surpluses are in the direction of the alarm, beyond what is usual.
        """
        found: dict[str, Any] = {
            "trusted_slates": self.agreement.n,
            "trusted_surplus": self.agreement.mean,
            "trusted_statistic": self.agreement.statistic,
        }
        if self._is_old:
            return found
        usual = {f"usual_{name}": level.mean for name, level in self.usual.items()}
        others = {
            "other_slates": self.n_others,
            "other_surplus": self.others / max(self.n_others, 1),
            "disagreement_statistic": self.disagreement.statistic,
        }
        return found | others | usual

    @property
    def _is_old(self) -> bool:
        """Tell whether nothing was heard but what older semantics versions listen to."""
        usual = sum(level.n for level in self.usual.values())
        return not (self.n_others or self.disagreement.n or usual)

    def state(self) -> State:
        """Return what `load_state` continues from."""
        state: State = {"agreement": self.agreement.state()}
        if self._is_old:
            return state
        usual = {name: [level.n, level.total] for name, level in self.usual.items()}
        others = [self.n_others, self.others]
        return state | {
            "disagreement": self.disagreement.state(),
            "others": others,
            "usual": usual,
        }

    def load_state(self, state: State) -> None:
        """Take over such a state; raise ValueError if it is damaged."""
        self.__init__()  # type: ignore[misc]
        self.agreement.load_state(state["agreement"])
        self.disagreement = Superiority(self.agreement.bets)
        if "usual" in state:
            self.disagreement.load_state(state["disagreement"])
            n, total = state["others"]
            self.n_others, self.others = int(n), float(total)
            for name, level in self.usual.items():
                n, total = state["usual"][name]
                level.n, level.total = int(n), float(total)
        levels = [(level.n, level.total) for level in self.usual.values()]
        if not all(abs(total) <= n for n, total in [(self.n_others, self.others), *levels]):
            raise ValueError("what is known of marked users is damaged")
