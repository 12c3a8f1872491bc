"""One user id that swallows the traffic of many."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from app.events import user_digest
from app.id_share import ARMED, WINDOW, IdShare

FLOOR = 0.05


def traffic(n: int, n_users: int = 300, seed: int = 1) -> Iterator[str]:
    """Yield the users of n events, all alike."""
    rng = random.Random(seed)
    return (f"u{rng.randrange(n_users)}" for _ in range(n))


def refusals(shares: IdShare, users: Iterator[str]) -> list[str]:
    """Ask about events one by one and count them; return whose were refused."""
    refused = []
    for user in users:
        why = shares.refuse(user, FLOOR)
        shares.count([user_digest(user)], is_refused=why is not None)
        if why is not None:
            refused.append(user)
    return refused


def collapsed(n: int, share: float, into: str, seed: int = 2) -> Iterator[str]:
    """Yield users, a share of whom has become one id."""
    rng = random.Random(seed)
    return (into if rng.random() < share else user for user in traffic(n, seed=seed + 1))


def trained() -> IdShare:
    """Return shares after a time of plain traffic."""
    shares = IdShare()
    assert refusals(shares, traffic(ARMED + WINDOW)) == []
    return shares


@pytest.mark.parametrize(("share", "into"), [(0.1, "x"), (0.5, "x"), (1.0, "x"), (0.05, "null")])
def test_an_id_of_many_is_refused_within_500_events(share: float, into: str) -> None:
    """From 500 events on nearly all of its events are refused, and nobody else's are."""
    shares = trained()
    first = refusals(shares, collapsed(500, share, into, seed=4))
    assert first
    later = list(collapsed(2_000, share, into, seed=9))
    # With everything one id, there are no 50 users any more: what came of it is left to the caps.
    if share < 1.0:
        refused = refusals(shares, iter(later))
        assert set(refused) == {into}
        assert len(refused) >= 0.9 * later.count(into)


@pytest.mark.parametrize("semantics", [9, 10])
@pytest.mark.parametrize("into", ["x", "null"])
def test_where_all_is_allowed_nothing_is_refused(into: str, semantics: int) -> None:
    """With `SLUICE_ID_SHARE=1` no id is, whatever its name; until version 10 placeholders were."""
    shares = trained()
    shares.follow(semantics)
    refused = False
    for user in collapsed(1_000, 0.5, into):
        refused = refused or shares.refuse(user, 1.0) is not None
        shares.count([user_digest(user)])
    assert refused is (into == "null" and semantics < 10)


@pytest.mark.parametrize("semantics", [9, 10])
@pytest.mark.parametrize("id_", ["null", "NULL", "None", " null", "undefined\u00a0", " ", "nully"])
def test_a_placeholder_is_one_in_any_case_and_with_blanks(id_: str, semantics: int) -> None:
    """It needs 2 % alone; until version 10 a blank made another id of it."""
    shares = trained()
    shares.follow(semantics)
    is_one = id_.strip() != "nully" and (semantics >= 10 or id_ == id_.strip())
    assert (shares.limit(id_, FLOOR) == 0.02) is is_one


@pytest.mark.parametrize("semantics", [9, 10])
def test_it_stays_armed_when_a_user_is_forgotten(semantics: int) -> None:
    """5,000 events have been seen, whoever is forgotten; until version 10 it slept again."""
    shares = IdShare()
    shares.follow(semantics)
    refusals(shares, collapsed(ARMED + WINDOW, 0.3, "kiosk"))
    shares.forget("kiosk")
    twin = IdShare()
    twin.load_state(shares.state())
    twin.follow(semantics)
    assert twin.canonical() == shares.canonical()
    users = list(collapsed(1_000, 0.3, "null", seed=4))
    assert bool(refusals(shares, iter(users))) is (semantics >= 10)
    assert bool(refusals(twin, iter(users))) is (semantics >= 10)


def test_it_is_heard_again_when_it_is_one_of_many() -> None:
    """When the id has its usual share again, its events are admitted again."""
    shares = trained()
    refusals(shares, collapsed(1_000, 0.3, "u7"))
    refusals(shares, traffic(WINDOW, seed=8))
    assert refusals(shares, traffic(5_000, seed=11)) == []


def test_a_user_who_always_has_a_large_share_is_heard() -> None:
    """Up to three times its own long-run share an id is never refused."""
    shares = IdShare()
    assert refusals(shares, collapsed(20_000, 0.12, "kiosk")) == []
    assert refusals(shares, collapsed(3_000, 0.25, "kiosk", seed=21)) == []


def test_where_few_users_are_about_nobody_is_refused() -> None:
    """Fewer than 50 users in the window: one of them may have any share."""
    shares = IdShare()
    refusals(shares, traffic(ARMED + WINDOW, n_users=30))
    rng = random.Random(3)
    users = ("u1" if rng.random() < 0.6 else f"u{rng.randrange(30)}" for _ in range(3_000))
    assert refusals(shares, users) == []


def test_nothing_is_refused_before_it_is_known_what_is_usual() -> None:
    """In the first events of a log nobody's share is known to be too large."""
    shares = IdShare()
    assert refusals(shares, collapsed(ARMED - WINDOW, 0.4, "x")) == []


@pytest.mark.parametrize(("semantics", "limit", "taught"), [(9, 0.174, 0.50), (10, 0.12, 0.08)])
def test_the_begin_of_a_flood_teaches_nothing(semantics: int, limit: float, taught: float) -> None:
    """An id with 17 % of the traffic, where one user once had 8 %, is let through until it has 12.

    Until semantics version 10, if it began so that a block of 500 ended just then, 12 % was what a
    user may have, and half of its events taught.
    """
    shares = IdShare()
    shares.follow(semantics)
    usual = list(traffic(ARMED + 2 * WINDOW))
    usual[3_000:3_200:5] = ["busy"] * 40
    assert refusals(shares, iter([*usual, *traffic(200, seed=5)])) == []
    flood = list(collapsed(4_000, 0.17, "x", seed=9))
    refused = refusals(shares, iter(flood))
    assert set(refused) == {"x"}
    assert 1 - len(refused) / flood.count("x") == pytest.approx(taught, abs=0.01)
    assert shares.limit("x", FLOOR) == pytest.approx(limit)


def test_it_goes_on_from_its_state() -> None:
    """A copy made of the state refuses the same events, and has the same bytes after them."""
    shares = trained()
    refusals(shares, collapsed(700, 0.1, "x"))
    copy = IdShare()
    copy.load_state(shares.state())
    assert len(shares.state()["before"]) > 0
    assert copy.canonical() == shares.canonical()
    more = list(collapsed(1_300, 0.1, "x", seed=5))
    assert refusals(copy, iter(more)) == refusals(shares, iter(more)) != []
    assert copy.canonical() == shares.canonical()


def test_its_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids beyond the bound are forgotten, those with large shares last."""
    monkeypatch.setattr("app.id_share._MAX_COUNTED", 100)
    shares = IdShare()
    for n in range(3_000):
        shares.count([user_digest("often" if n % 3 else f"once-{n}")])
    assert len(shares.state()["long_n"]) <= 101
    assert shares.state()["long_n"].max() > 40
