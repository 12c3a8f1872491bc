from __future__ import annotations

import copy
import random
from typing import Any

import numpy as np
import pytest

import scripts.shop as shop_module
from app.calibration import BLOCK_SLATES, Calibration
from app.engine import Engine
from app.events import Upgrade
from app.serving import Slate
from app.settings import EngineSettings
from learners.base import CHAMPION
from scripts.play import ShopPlay
from tests.factories import apply, configure, make_settings
from tests.unit.clicking import CALM, Shop


class Watched(ShopPlay):
    """A shop that also counts what is expected of slates against the chances that there are."""

    def __init__(self, settings: EngineSettings, shop: shop_module.Shop, seed: int) -> None:
        super().__init__(settings, shop, seed)
        self.truth = Calibration()

    def _answer(
        self, slate_id: str, slate: Slate, items: list[int], shopper: int, liking: Any
    ) -> None:
        expected = self.engine.clicks.expected(CHAMPION, [s.score for s in slate.items])
        self.truth.add(expected, liking[items] * shop_module.LOOKS[: len(items)])
        super()._answer(slate_id, slate, items, shopper, liking)


def filled(n: int, factor: float = 1.0) -> Calibration:
    """Return what n slates of three places leave, clicked `factor` times as often as expected."""
    chance, calibration = random.Random(1), Calibration()
    for _ in range(n):
        expected = np.array([0.025, 0.12, 0.4])
        clicked = np.array([float(chance.random() < factor * p) for p in expected])
        calibration.add(expected, clicked)
    return calibration


def test_what_comes_true_has_no_error() -> None:
    """Where each place is clicked as often as expected, the error is that of chance."""
    error = filled(4_000).error
    assert error is not None
    assert error < 0.01


def test_the_error_is_how_far_off_the_rates_are() -> None:
    """Expected 2.5, 12 and 40 %, and clicked half as often: off by 9 % on average."""
    error = filled(4_000, factor=0.5).error
    assert error == pytest.approx((0.0125 + 0.06 + 0.2) / 3, abs=0.01)


def test_each_prediction_is_in_the_bin_that_says_so() -> None:
    """A bin's bounds enclose the mean of what was expected in it; nothing is left out."""
    view = filled(300).view()
    assert view["places"] == 900
    assert [row["places"] for row in view["bins"]] == [300, 300, 300]
    for row in view["bins"]:
        assert row["from"] <= row["expected"] < row["to"]


def test_the_past_is_forgotten() -> None:
    """What was shown ten thousand slates ago says nothing of the present error."""
    calibration = filled(2 * BLOCK_SLATES, factor=0.0)
    for _ in range(2 * BLOCK_SLATES):
        calibration.add(np.array([0.6, 0.9]), np.array([0.6, 0.9]))
    assert calibration.error == pytest.approx(0.0, abs=1e-9)


def test_nothing_is_said_before_the_first_slate() -> None:
    """Without an impression there is no error, and no bin."""
    assert Calibration().view() == {"error": None, "places": 0, "bins": []}


def test_damage_is_refused() -> None:
    """Sums of another shape, or that are no numbers, do not load."""
    state = filled(10).state()
    for blocks in (state["blocks"][:, :3], state["blocks"] * np.nan, -state["blocks"]):
        with pytest.raises(ValueError, match="is damaged"):
            Calibration().load_state(state | {"blocks": blocks})
    for n_slates in (-1, BLOCK_SLATES + 1):
        with pytest.raises(ValueError, match="slates in a block"):
            Calibration().load_state(state | {"n_slates": n_slates})


def test_each_version_is_calibrated() -> None:
    """Once there is an anchor, all three versions have an error, and a snapshot keeps it."""
    shop = Shop()
    shop.run(900)
    described = shop.engine.describe()["calibration"]
    assert described["shadow"]["places"] > described["anchor"]["places"] > 0
    other = Engine.from_state(copy.deepcopy(shop.engine.state()))
    assert other.describe()["calibration"] == described
    assert other.hashes() == shop.engine.hashes()


def test_a_log_of_before_is_followed_as_it_was() -> None:
    """Before semantics version 8 nothing of it is kept or hashed; an upgrade begins it."""
    settings = make_settings(**CALM)
    shop = Shop()
    shop.engine = Engine(settings)
    apply(shop.engine, configure(settings, semantics=7))
    shop.run(50)
    assert "calibration" not in shop.engine.state()
    assert shop.engine.describe()["calibration"]["shadow"]["places"] == 0
    apply(shop.engine, Upgrade(8, "a test asks", "tester"))
    shop.run(10)
    assert shop.engine.describe()["calibration"]["shadow"]["places"] == 50


def test_chances_that_are_known_are_found() -> None:
    """In the simulated shop, whose chances of a click are known, the error gets under 0.02.

    So it is against what was clicked, and against the chances themselves.
    """
    settings = make_settings(
        max_items=2_000, max_users=2_000, tokens="check", promote_events=500, warmup_events=500
    )
    shop = shop_module.shop_with(1, n_users=300, n_items=200)
    play = Watched(settings, shop, seed=1)
    for n, _ in enumerate(play.run(4_000)):
        if n == 2_000:  # the beginning is learned from
            play.truth = Calibration()
    assert play.engine.describe()["calibration"]["champion"]["error"] < 0.02
    assert play.truth.error is not None
    assert play.truth.error < 0.02
