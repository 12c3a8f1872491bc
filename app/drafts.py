"""Team-draft interleaving: one slate that two versions fill in turns, so that clicks compare them.

Users see one list; each place remembers which team drafted it. An item that both wanted next says
nothing, as the coin alone gave it to one of them, so a click on it is for neither: a quarter to a
third of all clicks, where versions differ as a branch and its anchor do. Pure: the coins come in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

Team = Literal["a", "b"]
Drafter = Literal["a", "b", "both"]


class Pick(NamedTuple):
    """One place of an interleaved slate.

    `place` is where it was in the list of the `team` that drafted the item; `propensity` how likely
    the item was to come here, given the places above it; `is_shared` where the other team wanted
    the same item next.
    """

    item_id: str
    team: Team
    place: int
    propensity: float
    is_shared: bool = False

    @property
    def drafter(self) -> Drafter:
        """Return for whom a click on it speaks."""
        return "both" if self.is_shared else self.team


def team_draft(a: Sequence[str], b: Sequence[str], k: int, coins: int) -> list[Pick]:
    """Let two rankings draft at most k distinct items, in rounds of one each.

    A coin (a bit of `coins`, the lowest first) says who begins a round; each team drafts its best
    item that is not taken yet (Radlinski, Kurup, Joachims 2008).
    """
    picks: list[Pick] = []
    taken: set[str] = set()
    at = {"a": 0, "b": 0}
    lists = {"a": a, "b": b}

    def best(team: Team) -> str | None:
        ranked = lists[team]
        while at[team] < len(ranked) and ranked[at[team]] in taken:
            at[team] += 1
        return ranked[at[team]] if at[team] < len(ranked) else None

    def draft(team: Team, propensity: float, *, is_shared: bool) -> None:
        item = best(team)
        if item is not None and len(picks) < k:
            picks.append(Pick(item, team, at[team], propensity, is_shared))
            taken.add(item)

    while len(picks) < k and (best("a") is not None or best("b") is not None):
        coin, coins = coins & 1, coins >> 1
        # Where both want the same item, or one has none left, the coin does not decide this place.
        wanted = {best("a"), best("b")}
        first: Team = "b" if coin else "a"
        draft(first, 1.0 / len(wanted - {None}), is_shared=len(wanted) == 1)
        # Where both wanted the same one, who got it decides whose next one follows.
        rest = {best("a"), best("b")} if len(wanted - {None}) == 1 else {None}
        chance = 0.5 if len(rest - {None}) == 2 else 1.0
        is_shared = len(wanted) == 1 and len(rest) == 1
        draft("a" if first == "b" else "b", chance, is_shared=is_shared)
    return picks
