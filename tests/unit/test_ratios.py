from __future__ import annotations

from scripts import ratios


def test_ratios_are_to_the_floor_of_their_kind() -> None:
    """A request counts by an empty route, learning and slates by River's `learn_one`."""
    rows = {"FastAPI, empty": 50.0, "Sluice: GET": 75.0, "bare ASGI": 10.0}
    parts = {ratios.LEARN_FLOOR: 10.0, "learn: Sluice": 60.0, "learn: another": 5.0}
    assert ratios.of(rows, parts) == {"Sluice: GET": 1.5, "learn: Sluice": 6.0}
    assert ratios.of(rows, {}) == {"Sluice: GET": 1.5}


def test_what_is_worse_is_named() -> None:
    """Only what costs more than chance explains is, and nothing that is new or cheaper."""
    before = {"GET": 1.0, "POST": 4.0, "gone": 1.0}
    found = {"GET": 1.4, "POST": 4.2, "new": 9.0}
    assert ratios.worse(before, found, tolerance=1.35) == ["GET"]
    assert ratios.worse(before, {"GET": 0.5}) == []


def test_the_last_release_is_on_record() -> None:
    """`make bench-compare` has something to compare with, ratios of ours alone."""
    last = ratios.releases()[-1]
    assert {"release", "machine", "ratios"} <= last.keys()
    assert last["ratios"]
    assert all("Sluice" in name for name in last["ratios"])
