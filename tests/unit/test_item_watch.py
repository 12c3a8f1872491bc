from __future__ import annotations

import copy
import math
import random
from typing import Any

import numpy as np
import pytest

from app.item_watch import MAX_WATCHED, ItemWatch, Suspect
from tests.unit.watching import canonical

ARMED, MARGIN, THRESHOLD = 100, 0.10, 1e4


def show(
    watch: ItemWatch, items: list[str], clicked: list[float], expected: float = 0.1
) -> Suspect | None:
    """Show a slate of which so much was expected of each place; return the suspect, if any."""
    return watch.update(
        items,
        np.full(len(items), expected),
        np.array(clicked, np.float64),
        armed=ARMED,
        margin=MARGIN,
        threshold=THRESHOLD,
    )


def until_suspect(
    watch: ItemWatch, chance: random.Random, rate: float, *, limit: int = 3_000
) -> tuple[int, Suspect] | None:
    """Show item "x", clicked at a rate, among two that are clicked as expected."""
    for n in range(1, limit + 1):
        clicked = [float(chance.random() < p) for p in (0.1, rate, 0.1)]
        suspect = show(watch, ["a", "x", "b"], clicked)
        if suspect is not None:
            return n, suspect
    return None


def warmed(chance: random.Random, n: int = ARMED) -> ItemWatch:
    """Return a watch that saw the three items clicked as expected, n times."""
    watch = ItemWatch()
    for _ in range(n):
        assert show(watch, ["a", "x", "b"], [float(chance.random() < 0.1) for _ in "axb"]) is None
    return watch


# -- what is suspected -----------------------------------------------------------------------------


def test_an_item_clicked_beyond_expectation_is_named() -> None:
    """Of the items shown, the one that spam falls on is suspected, with its numbers."""
    chance = random.Random(1)
    watch = warmed(chance)
    found = until_suspect(watch, chance, 0.7)
    assert found is not None
    n, suspect = found
    assert n < 200
    assert suspect.item_id == "x"
    assert suspect.evidence["statistic"] >= suspect.evidence["threshold"] == THRESHOLD
    assert suspect.evidence["shown"] == ARMED + n
    assert suspect.evidence["baseline"] == watch.baseline[1] > 0
    assert suspect.evidence["mean_clicked_minus_expected"] > 0.2


def test_the_worst_of_several_is_named() -> None:
    """Where more than one item is past the threshold, the one furthest past it is named."""
    watch, suspect = warmed(random.Random(2)), None
    while suspect is None:
        suspect = watch.update(
            ["a", "x"],
            np.array([0.15, 0.1]),
            np.ones(2),
            armed=ARMED,
            margin=MARGIN,
            threshold=THRESHOLD,
        )
    assert suspect.item_id == "x"


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.2])
def test_clicks_within_margin_and_baseline_are_nothing(rate: float) -> None:
    """An item clicked as expected, less, or by the margin more is left alone."""
    chance = random.Random(3)
    assert until_suspect(warmed(chance), chance, rate, limit=5_000) is None


def test_an_item_is_not_watched_before_it_is_armed() -> None:
    """However an item begins, until it has been shown 100 times it accuses itself of nothing."""
    watch = ItemWatch()
    for _ in range(ARMED):
        assert show(watch, ["x"], [1.0]) is None
    assert not watch.m.any()
    show(watch, ["x"], [1.0])
    assert watch.baseline[0] == pytest.approx(0.9 + 0.1)  # the mean, and 1/sqrt(100) on top


def test_an_item_that_always_did_well_is_its_own_baseline() -> None:
    """What an item was clicked while it was armed is expected of it from then on."""
    chance, watch = random.Random(4), ItemWatch()
    for _ in range(5_000):
        assert show(watch, ["x"], [float(chance.random() < 0.6)]) is None


def test_a_blessing_takes_the_baselines_anew() -> None:
    """What an item was clicked up to a blessing is no surprise after it."""
    chance = random.Random(5)
    watch = warmed(chance, 400)
    before = watch.baseline[:3].copy()
    for _ in range(400):
        watch.surplus[1] += 0.5  # the model, not the item, was wrong for long
    watch.bless(ARMED)
    after = watch.baseline[:3]
    mean = watch.surplus[:3] / watch.n_shown[:3]
    assert after.tolist() == pytest.approx((mean + 1 / math.sqrt(400)).tolist())
    assert after[1] > before[1] + 0.4
    assert until_suspect(watch, chance, 0.6, limit=500) is None


def test_a_blessing_leaves_what_is_not_armed() -> None:
    """Too few outcomes are no baseline; nor is anything forgotten of them."""
    watch = warmed(random.Random(6), ARMED - 1)
    before = canonical(watch.state())
    watch.bless(ARMED)
    assert canonical(watch.state()) == before


def test_a_blessing_lets_half_of_an_oft_shown_item_be_forgotten() -> None:
    """Past 10,000 outcomes half of them go, and their mean stays."""
    watch = warmed(random.Random(7))
    watch.n_shown[:2], watch.surplus[:2] = (10_001, 10_000), (500.0, 500.0)
    watch.bless(ARMED)
    assert watch.n_shown[:3].tolist() == [5_000, 10_000, 100]
    assert watch.surplus[:2].tolist() == [250.0, 500.0]


def test_quiet_forgets_the_suspicion_and_keeps_what_is_known() -> None:
    """After `quiet` every detector is at nothing, while counts and baselines stay."""
    watch = warmed(random.Random(8))
    for _ in range(5):
        show(watch, ["x"], [1.0])
    shown, baseline = watch.n_shown.copy(), watch.baseline.copy()
    assert watch.m.any()
    watch.quiet()
    assert not watch.m.any()
    assert (watch.n_shown == shown).all()
    assert (watch.baseline == baseline).all()


def test_a_forgotten_item_begins_anew() -> None:
    """`forget` clears one item, unarmed again, and no other; an unknown one is no matter."""
    watch = warmed(random.Random(9))
    others = watch.state()
    watch.forget("x")
    watch.forget("never shown")
    assert (watch.n_shown[1], watch.surplus[1], watch.baseline[1]) == (0, 0, 0)
    kept = watch.state()
    assert canonical([kept[name][[0, 2]] for name in ("n_shown", "surplus", "m")]) == canonical(
        [others[name][[0, 2]] for name in ("n_shown", "surplus", "m")]
    )
    for _ in range(ARMED):
        assert show(watch, ["x"], [1.0]) is None


def test_items_armed_by_a_lower_setting_have_a_baseline() -> None:
    """Lowering `item_armed` arms items by what they were clicked so far, not by nothing."""
    chance, watch = random.Random(10), ItemWatch()

    def step(armed: int) -> Suspect | None:
        clicked = np.array([float(chance.random() < 0.6)])
        options = {"margin": MARGIN, "threshold": THRESHOLD}
        return watch.update(["x"], np.array([0.1]), clicked, armed=armed, **options)

    for _ in range(80):
        step(100)
    assert all(step(50) is None for _ in range(500))


# -- memory ----------------------------------------------------------------------------------------


def test_memory_is_bounded_by_the_items_shown_last() -> None:
    """Past 10,000 items the one shown longest ago goes, and begins anew when it comes back."""
    watch = ItemWatch()
    names = [f"i{n}" for n in range(MAX_WATCHED)]
    for start in range(0, MAX_WATCHED, 20):
        show(watch, names[start : start + 20], [1.0] * 20)
    show(watch, ["i0"], [1.0])  # now i1 is the oldest
    assert len(watch) == MAX_WATCHED
    show(watch, ["new"], [0.0])
    assert len(watch) == MAX_WATCHED
    assert watch.state()["items"][-2:] == ["i0", "new"]
    shown = dict(zip(watch.state()["items"], watch.state()["n_shown"].tolist()))
    assert (shown["i0"], shown["new"], "i1" in shown) == (2, 1, False)
    show(watch, ["i1"], [0.0])
    shown = dict(zip(watch.state()["items"], watch.state()["n_shown"].tolist()))
    assert (shown["i1"], "i2" in shown) == (1, False)
    assert sorted(watch._rows.values()) == list(range(MAX_WATCHED))


# -- state -----------------------------------------------------------------------------------------


def test_state_continues_exactly() -> None:
    """A watch made from a state has the same state, bit for bit, and the same suspects later."""
    chance, watch, twin = random.Random(11), ItemWatch(), ItemWatch()

    def slate() -> tuple[list[str], list[float]]:
        items = chance.sample(range(40), 5)
        rates = [0.8 if item == 7 and chance.random() < 0.5 else 0.1 for item in items]
        return [f"i{item}" for item in items], [float(chance.random() < p) for p in rates]

    for _ in range(1_200):
        show(watch, *slate())
    twin.load_state(copy.deepcopy(watch.state()))
    for _ in range(600):
        shown = slate()
        assert show(twin, *shown) == show(watch, *shown)
    for one in (watch, twin):
        one.bless(ARMED)
    assert canonical(twin.state()) == canonical(watch.state())


def test_a_state_of_a_full_watch_evicts_alike() -> None:
    """The order in which items were last shown is part of the state: the same ones go next."""
    watch, twin = ItemWatch(), ItemWatch()
    for start in range(0, MAX_WATCHED + 500, 20):
        show(watch, [f"i{n}" for n in range(start, start + 20)], [0.0] * 20)
    show(watch, ["i600", "i500"], [0.0, 1.0])
    twin.load_state(watch.state())
    for start in range(0, 200, 20):
        items = [f"j{n}" for n in range(start, start + 20)]
        show(watch, items, [1.0] * 20)
        show(twin, items, [1.0] * 20)
    assert canonical(twin.state()) == canonical(watch.state())


@pytest.mark.parametrize(
    "change",
    [
        {"items": ["a"]},
        {"items": ["a"] * (MAX_WATCHED + 1)},
        {"n_shown": np.array([1, -1, 1])},
        {"surplus": np.array([0.0, math.nan, 0.0])},
        {"baseline": np.array([0.0, math.inf, 0.0])},
        {"m": np.full((3, 10), -1.0)},
        {"m": np.full((2, 10), 0.0)},
    ],
    ids=["items", "too-many", "n-shown", "surplus", "baseline", "m", "rows"],
)
def test_a_damaged_state_is_refused(change: dict[str, Any]) -> None:
    """What no watch could have said is refused, and changes nothing."""
    watch = warmed(random.Random(12))
    before = canonical(watch.state())
    with pytest.raises(ValueError, match="damaged"):
        watch.load_state(watch.state() | change)
    assert canonical(watch.state()) == before


@pytest.mark.parametrize(
    "change", [{"items": ["a", "a", "b"]}, {"m": np.zeros((3, 1))}], ids=["twice", "bets"]
)
def test_a_state_that_names_an_item_twice_is_refused(change: dict[str, Any]) -> None:
    """A name that comes twice would let two items share a row; another width is no detector's."""
    watch = warmed(random.Random(13))
    with pytest.raises(ValueError, match="damaged"):
        watch.load_state(watch.state() | change)
