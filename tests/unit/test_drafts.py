from __future__ import annotations

import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.drafts import Team, team_draft

A = [f"a{n}" for n in range(10)]
B = [f"b{n}" for n in range(10)]
RANKING = st.lists(st.integers(0, 12).map(str), max_size=12, unique=True)
COINS = st.integers(0, 2**128 - 1)


# -- any two rankings ------------------------------------------------------------------------------


@given(RANKING, RANKING, st.integers(0, 15), COINS)
def test_a_slate_has_no_item_twice_and_is_as_long_as_can_be(
    a: list[str], b: list[str], k: int, coins: int
) -> None:
    """As many distinct items of the two lists as asked for, or all there are."""
    items = [pick.item_id for pick in team_draft(a, b, k, coins)]
    assert len(set(items)) == len(items) == min(k, len({*a, *b}))
    assert set(items) <= {*a, *b}


@given(RANKING, RANKING, st.integers(1, 15), COINS)
def test_each_pick_is_its_teams_best_that_was_left(
    a: list[str], b: list[str], k: int, coins: int
) -> None:
    """`place` is where the item stands in its team's list, with nothing better left in it."""
    taken: set[str] = set()
    for pick in team_draft(a, b, k, coins):
        ranked = a if pick.team == "a" else b
        assert ranked[pick.place] == pick.item_id
        assert set(ranked[: pick.place]) <= taken
        taken.add(pick.item_id)


@given(RANKING, RANKING, st.integers(1, 15), COINS)
def test_propensities_are_probabilities(a: list[str], b: list[str], k: int, coins: int) -> None:
    """Each is above 0 and at most 1: what was shown could be shown."""
    assert all(0.0 < pick.propensity <= 1.0 for pick in team_draft(a, b, k, coins))


@given(RANKING, RANKING, st.integers(1, 15), COINS)
def test_teams_draft_one_each_a_round(a: list[str], b: list[str], k: int, coins: int) -> None:
    """As long as both have items left, neither team is ever two picks ahead."""
    ahead = 0
    for n, pick in enumerate(team_draft(a, b, k, coins)):
        taken = {pick.item_id for pick in team_draft(a, b, n, coins)}
        if not (set(a) - taken and set(b) - taken):
            break
        ahead += 1 if pick.team == "a" else -1
        assert abs(ahead) <= 1


@given(RANKING, RANKING, st.integers(0, 15), COINS)
def test_a_draft_is_decided_by_its_coins(a: list[str], b: list[str], k: int, coins: int) -> None:
    """The same coins give the same slate; a shorter slate is the beginning of a longer one."""
    slate = team_draft(a, b, k, coins)
    assert team_draft(tuple(a), tuple(b), k, coins) == slate
    assert team_draft(a, b, k + 3, coins)[:k] == slate


@given(RANKING, RANKING, st.integers(1, 15), COINS)
def test_teams_swap_with_their_coins(a: list[str], b: list[str], k: int, coins: int) -> None:
    """Neither team is favoured: lists and coins swapped, only the names of the teams swap."""
    swapped = team_draft(b, a, k, coins ^ (2**128 - 1))
    names: dict[Team, Team] = {"a": "b", "b": "a"}
    assert [pick._replace(team=names[pick.team]) for pick in swapped] == team_draft(a, b, k, coins)


# -- some lists ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("a", "b"), [(A, B), (A, A), (A, A[::-1]), (A, [*A[5:], *B])])
@pytest.mark.parametrize("k", [1, 5, 10])
def test_each_team_drafts_half(a: list[str], b: list[str], k: int) -> None:
    """Over 4,000 coins each team has half of all places and half of the first, by 5 sigma."""
    chance, n = random.Random(k), 4_000
    slates = [team_draft(a, b, k, chance.getrandbits(128)) for _ in range(n)]
    first = sum(slate[0].team == "b" for slate in slates)
    share = sum(pick.team == "b" for slate in slates for pick in slate) / k
    assert abs(first - n / 2) < 5 * math.sqrt(n / 4)
    assert abs(share - n / 2) < 5 * math.sqrt(n / 4)


def test_equal_lists_are_shown_as_they_are() -> None:
    """Where both rank alike the slate is that ranking, certain in each place."""
    for coins in range(64):
        slate = team_draft(A, A, 10, coins)
        assert [pick.item_id for pick in slate] == A
        assert {pick.propensity for pick in slate} == {1.0}
        assert Counter(pick.team for pick in slate) == {"a": 5, "b": 5}


def test_what_both_want_next_speaks_for_neither() -> None:
    """A click on it is credited to nobody; on what one of them wanted, to whoever drafted it."""
    equal = team_draft(A, A, 10, 0b0110)
    assert {pick.drafter for pick in equal} == {"both"}
    assert all(pick.drafter == pick.team for pick in team_draft(A, B, 10, 0b0110))
    one_wish = team_draft(["x", "y"], ["x", "z"], 4, 0b1)
    drafted = [(pick.item_id, pick.drafter) for pick in one_wish]
    assert drafted == [("x", "both"), ("y", "a"), ("z", "b")]


@given(RANKING, RANKING, st.integers(1, 6))
def test_the_coin_alone_decides_who_gets_what_both_want(a: list[str], b: list[str], k: int) -> None:
    """Of all coins that show a slate, half give a shared place to each team: it is but noise."""
    by_team: Counter[tuple[tuple[str, ...], int, str]] = Counter()
    for coins in range(2**k):
        slate = team_draft(a, b, k, coins)
        shown = tuple(pick.item_id for pick in slate)
        for place, pick in enumerate(slate):
            if pick.is_shared:
                by_team[shown[: place + 1], place, pick.team] += 1
    for (shown, place, team), n in by_team.items():
        assert by_team[shown, place, "b" if team == "a" else "a"] == n


def test_coins_are_read_from_the_lowest_bit() -> None:
    """A bit for each round: 1 lets b begin it."""
    slate = team_draft(A, B, 6, 0b101)
    assert [pick.item_id for pick in slate] == ["b0", "a0", "a1", "b1", "b2", "a2"]
    assert [pick.team for pick in slate] == ["b", "a", "a", "b", "b", "a"]
    assert [pick.place for pick in slate] == [0, 0, 1, 1, 2, 2]
    assert [pick.propensity for pick in slate] == [0.5, 1.0] * 3


@pytest.mark.parametrize(
    ("a", "b", "items"),
    [
        ([], [], []),
        (["x"], [], ["x"]),
        ([], ["x", "y"], ["x", "y"]),
        (["x"], ["x"], ["x"]),
        (["x", "y", "z"], ["x"], ["x", "y", "z"]),
    ],
)
def test_short_lists_fill_what_they_can(a: list[str], b: list[str], items: list[str]) -> None:
    """A team with nothing left leaves the rest to the other, whose items are certain then."""
    for coins in range(16):
        slate = team_draft(a, b, 10, coins)
        assert [pick.item_id for pick in slate] == items
        assert {pick.propensity for pick in slate} <= {1.0}


def test_a_list_that_repeats_an_item_is_no_worse() -> None:
    """Even of lists with an item twice no slate has one twice."""
    slate = team_draft(["x", "x", "y"], ["y", "y", "x", "z"], 10, 0)
    assert sorted(pick.item_id for pick in slate) == ["x", "y", "z"]


# -- what propensities mean ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b"),
    [
        pytest.param(A[:4], B[:4], id="disjoint"),
        pytest.param(A[:4], A[:4], id="equal"),
        pytest.param(A[:3], [A[1], A[0], *B[:2]], id="swapped"),
        pytest.param(A[:5], B[:1], id="short"),
        pytest.param(A[:3], [], id="empty"),
        # Of these come x, y or x, z, by the coin.
        pytest.param(["x", "y"], ["x", "z"], id="one-wish"),
    ],
)
@pytest.mark.parametrize("k", [2, 6])
def test_propensities_multiply_to_how_likely_a_slate_is(a: list[str], b: list[str], k: int) -> None:
    """The product over the places is the share of all coins that give these items."""
    products: dict[tuple[str, ...], float] = {}
    shares: Counter[tuple[str, ...]] = Counter()
    for coins in range(2**6):
        slate = team_draft(a, b, k, coins)
        items = tuple(pick.item_id for pick in slate)
        products[items] = math.prod(pick.propensity for pick in slate)
        shares[items] += 1
    assert products == {items: count / 2**6 for items, count in shares.items()}
