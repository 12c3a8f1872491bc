"""Learning keeps to its share of a core, and judging is thinned by what was measured."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.budget import BURST_S, LEAST_LEFT, Budget
from app.cost import Meter
from app.engine import Engine
from app.events import Entry, Thin, decode, encode
from app.snapshot import dump, load
from app.thinning import ROOM, Sample, needs, part_that_fits
from tests.factories import apply, feed, make_engine, sessions

SHARE = 0.1


class World(Meter):
    """A clock, and what learning and receiving have used by it."""

    def __init__(self) -> None:
        super().__init__()
        self.at = self.learned = self.received = 0.0

    def learning_s(self) -> float:
        """Return what learning has used."""
        return self.learned

    def receiving_s(self) -> float:
        """Return what receiving has used."""
        return self.received

    def run(self, budget: Budget, seconds: float, slice_s: float, received: float = 0.0) -> float:
        """Learn in slices for so long, resting as told; return the share of a core that took."""
        until, before, began = self.at + seconds, self.learned, self.at
        while self.at < until:
            self.at += slice_s
            self.learned += slice_s
            while rest_s := budget.rest_s():
                self.at += rest_s
                self.received += received * rest_s
        return (self.learned - before) / (self.at - began)


def made(share: float | None = SHARE) -> tuple[World, Budget]:
    """Return a world and a budget in it."""
    world = World()
    budget = Budget(share, world, lambda: world.at)
    budget.begin()
    return world, budget


@pytest.mark.parametrize("slice_s", [0.0001, 0.001, 0.02])
def test_learning_keeps_to_its_share(slice_s: float) -> None:
    """Whatever the slices are, over a minute no more is used than the share."""
    world, budget = made()
    assert world.run(budget, 60, slice_s) == pytest.approx(SHARE, rel=0.02)
    assert budget.is_delaying


def test_what_is_received_is_paid_first() -> None:
    """Of what is left learning has all, and a fourth of the budget in any case."""
    world, budget = made()
    assert world.run(budget, 60, 0.001, received=0.04) == pytest.approx(0.06, rel=0.1)
    world, budget = made()
    assert world.run(budget, 60, 0.001, received=5.0) == pytest.approx(LEAST_LEFT * SHARE, rel=0.1)


def test_what_is_not_used_is_saved_for_a_second() -> None:
    """After a pause a second's worth may be used at once, and no more."""
    world, budget = made()
    world.at += 1_000
    assert budget.rest_s() == 0
    world.learned += SHARE * BURST_S
    assert budget.rest_s() == 0
    world.learned += 0.001
    assert budget.rest_s() == pytest.approx(0.001 / SHARE)


def test_a_pause_for_another_reason_is_no_end_of_a_delay() -> None:
    """While a snapshot is copied nobody asks whether to rest: what was delayed is so after that.

    Until learning has gone on for a second without a rest.
    """
    world, budget = made()
    world.run(budget, 5, 0.001)
    world.at += 10
    assert budget.is_delaying
    assert budget.rest_s() == 0
    assert budget.is_delaying
    for _ in range(11):
        world.at += 0.1
        assert budget.rest_s() == 0
    assert not budget.is_delaying


def test_without_a_share_nothing_rests() -> None:
    """No budget, or one that was lifted, delays nothing."""
    world, budget = made(None)
    world.learned += 100
    assert budget.rest_s() == 0
    world, budget = made()
    world.learned += 100
    assert budget.rest_s() > 0
    budget.lift()
    assert budget.rest_s() == 0
    assert not budget.is_delaying


def test_need_goes_by_the_log() -> None:
    """What is needed to keep up is CPU for each second of the log, whenever it is applied."""
    first = Sample(at=0, log=0, learning=0, judging=0, receiving=0)
    slow = Sample(at=10, log=2, learning=1.0, judging=0.6, receiving=0.2)
    assert needs(first, slow) == pytest.approx((0.52, 0.3))


@given(
    st.integers(0, 3).map(lambda n: 0.5**n),
    st.floats(0, 2),
    st.floats(0, 1),
    st.booleans(),
)
def test_a_part_is_found_that_fits(
    part: float, whole: float, judging: float, is_behind: bool
) -> None:
    """Behind, less is judged, as much as fits or the least; else more, if there is room."""
    need, least = (whole, judging * whole), 0.125
    found = part_that_fits(part, need, SHARE, least=least, is_behind=is_behind)

    def used(at: float) -> float:
        return need[0] - need[1] * (1 - at / part)

    if not is_behind:
        assert found in (part, min(1.0, 2 * part))
        assert found == part or used(found) <= ROOM * SHARE + 1e-9
        return
    assert least <= found <= part
    assert found < part or part == least
    assert used(found) <= SHARE + 1e-9 or found == least
    assert 2 * found >= part or used(2 * found) > SHARE - 1e-9


def test_less_than_there_may_be_is_left_step_by_step() -> None:
    """Started again with a larger least part, a replica judges that, however far behind it is."""
    part, parts = 0.125, []
    while part not in parts:
        parts.append(part)
        part = part_that_fits(part, (9.0, 1.0), SHARE, least=0.4, is_behind=True)
    assert parts == [0.125, 0.25, 0.5]


def thin(engine: Engine, part: float, was: float, replica: str = "r") -> str | None:
    """Ask for another part to be judged; return why not."""
    return apply(engine, Thin(part, was, "a test asks", replica)).results[0].reason


def judged(engine: Engine) -> int:
    """Return how many events the shadow was judged by."""
    return engine.prequential["shadow"].n


def test_thinned_an_engine_judges_that_part() -> None:
    """A part of the events is judged, by the events' ids; all are learned; it is a decision."""
    stream = sessions(2_000, n_users=150)
    whole, half = make_engine(), make_engine()
    assert thin(half, 0.5, 1.0) is None
    feed(whole, stream, group=50)
    feed(half, stream, group=50)
    assert 0.4 < judged(half) / judged(whole) < 0.6
    assert half.n_events == whole.n_events
    assert half.gate.decisions[0].kind == "thin"
    assert half.gate.decisions[0].asked_by == "budget"
    assert half.gate.decisions[0].evidence["part"] == [1.0, 0.5]
    assert half.describe()["judging"] == {"share": 0.5, "thinned": 0.5}


def test_of_two_that_ask_at_once_one_is_heard() -> None:
    """A part asked for in place of another one than there is changes nothing, nor does nonsense."""
    engine = make_engine()
    assert thin(engine, 0.5, 1.0, "one") is None
    before = engine.hashes()
    assert thin(engine, 0.25, 1.0, "two") == "the part that is judged is 0.5, not 1.0"
    for nonsense in (0.0, -1.0, 2.0, float("nan")):
        assert thin(engine, nonsense, 0.5) is not None
    assert engine.thinned == (0.5, "one")
    assert engine.hashes() == before


def test_what_is_thinned_survives_a_snapshot() -> None:
    """An engine restored from a snapshot judges the same part, and goes on to the same bytes."""
    stream = sessions(600)
    engine = feed(make_engine(), stream[:300])
    thin(engine, 0.25, 1.0, "one")
    restored = Engine.from_state(load([dump(engine.state(), engine.cursor)]))
    assert restored.thinned == (0.25, "one")
    assert feed(restored, stream[300:]).hashes() == feed(engine, stream[300:]).hashes()


def test_once_restored_nothing_is_left_of_it() -> None:
    """Thinned no more, a state has nothing that a program without budgets would not know."""
    engine = make_engine()
    assert "thinned" not in engine.state()
    thin(engine, 0.5, 1.0)
    assert engine.state()["thinned"] == [0.5, "r"]
    thin(engine, 1.0, 0.5)
    assert "thinned" not in engine.state()


def test_a_thin_record_is_kept_whole_on_the_wire() -> None:
    """What is asked for comes back from the log as it was."""
    entry = Entry([Thin(0.25, 0.5, "why", "one")], 5)
    assert decode(encode(entry)) == entry
