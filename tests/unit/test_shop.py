"""The simulated shop of the drill."""

from __future__ import annotations

import numpy as np
import pytest

from app.engine import Engine
from scripts.faults import FAULTS, Fault, always, flipped, lost
from scripts.shop import Shop, shop_with
from tests.factories import feed, make_engine, sessions


def visits(shop: Shop, n: int) -> list[tuple[int, int]]:
    """Return who came when."""
    return [(view.shopper, view.time_ms) for view in (shop.next_view() for _ in range(n))]


def test_a_shop_is_a_function_of_its_seed() -> None:
    """The same seed gives the same people at the same times with the same tastes."""
    one, two, other = shop_with(3), shop_with(3), shop_with(4)
    shopper = one.next_view().shopper
    two.next_view()
    assert np.array_equal(one.liking(shopper), two.liking(shopper))
    assert visits(one, 300) == visits(two, 300) != visits(other, 300)


def test_people_stay_a_while_and_come_back() -> None:
    """A visit has several views, and most views are of people who were here before."""
    found = [shopper for shopper, _ in visits(shop_with(1), 20_000)]
    assert 1_000 < len(set(found)) < 0.1 * len(found), "new people come, too"


def test_the_best_slate_is_the_best() -> None:
    """No slate gets more clicks than the best one, and what somebody had they do not click."""
    shop = shop_with(2)
    liking = shop.liking(7)
    best = shop.best(liking, 5)
    order = np.argsort(-liking)[:5].tolist()
    assert shop.expected(liking, order) == pytest.approx(best)
    rng = np.random.default_rng(1)
    for _ in range(100):
        assert shop.expected(liking, rng.permutation(shop.n_items)[:5].tolist()) <= best
    shop.take(7, order[0])
    assert shop.liking(7)[order[0]] == 0.0


def test_clicks_come_as_they_are_liked_and_looked_at() -> None:
    """Over many slates the share of clicks on a place is its chance; beta goes to the first."""
    shop = shop_with(2)
    liking = np.full(shop.n_items, 0.5)
    clicked = np.mean([shop.clicks(liking, [1, 2, 3, 4, 5]) for _ in range(4_000)], axis=0)
    assert clicked == pytest.approx(0.5 / (1 + 0.1 * np.arange(5)), abs=0.03)
    biased = shop_with(2, beta=1.0)
    assert biased.clicks(liking * 0, [1, 2, 3]).tolist() == [True, False, False]


def test_a_swap_moves_tastes_and_a_chill_lowers_them() -> None:
    """Half of the items change whom they are liked by; after a chill everybody likes less."""
    shop = shop_with(5)
    before = shop.liking(3)
    shop.swap(0.5)
    moved = np.abs(shop.liking(3) - before) > 1e-12
    assert 0.35 * shop.n_items < moved.sum() <= 0.5 * shop.n_items
    after = shop.liking(3)
    shop.cool(1.0)
    assert (shop.liking(3) < after).all()


def test_trackers_break_as_they_say() -> None:
    """Of 100,000 outcomes a share is flipped, made up, or lost."""
    rng, truly = np.random.default_rng(1), np.arange(100_000) % 4 == 0
    assert (flipped(0.2)(rng, truly) != truly).mean() == pytest.approx(0.2, abs=0.01)
    assert always(0.2)(rng, truly).mean() == pytest.approx(0.25 + 0.75 * 0.2, abs=0.01)
    heard = lost(0.5)(rng, truly)
    assert heard.mean() == pytest.approx(0.125, abs=0.01)
    assert not (heard & ~truly).any()


def test_every_fault_has_its_own_name() -> None:
    """The clean run comes first, and no two faults are called the same."""
    names = [fault.name for fault in FAULTS]
    assert names[0] == "clean"
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault.plant], ids=lambda f: f.name)
def test_what_is_planted_spoils_what_is_learned(fault: Fault) -> None:
    """An engine with a fault in it makes another model of the same events, until it is mended."""
    log = sessions(400)
    sound, broken = (feed(make_engine(gate="off"), log[:150]) for _ in range(2))
    assert sound.hashes() == broken.hashes()
    assert fault.plant is not None
    mend = fault.plant(broken)
    begun = Engine.from_state(broken.state())
    assert feed(sound, log[150:300]).hashes() != feed(broken, log[150:300]).hashes()
    if mend is not None:
        assert feed(begun, log[150:300]).hashes() != broken.hashes()
        mend()
        again = Engine.from_state(broken.state())
        assert feed(broken, log[300:]).hashes() == feed(again, log[300:]).hashes()
