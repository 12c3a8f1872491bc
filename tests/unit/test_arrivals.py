"""How long requests wait, and what there is time for, by clocks that stand still."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from app.api.arrivals import FIRST_COST_S, Arrivals

COST = FIRST_COST_S


class Turns:
    """A loop whose turns are played by hand: `wall` and `cpu` are what its clocks show."""

    def __init__(self) -> None:
        self.wall = self.cpu = 100.0
        self.ended: list[Any] = []
        self.arrivals = Arrivals(lambda: self.wall, lambda: self.cpu)

    def call_soon(self, callback: Any) -> None:
        """Keep what is to run after the reading."""
        self.ended.append(callback)

    def read(self) -> float:
        """Read from a connection; return when it came in, as far as is known."""
        self.arrivals.read(cast("asyncio.AbstractEventLoop", self))
        return self.arrivals.arrived

    def work(self, seconds: float) -> None:
        """Let the loop be busy."""
        self.wall += seconds
        self.cpu += seconds

    def end_reading(self) -> None:
        """Let the handlers begin."""
        while self.ended:
            self.ended.pop()()


@pytest.fixture
def turns() -> Turns:
    """A loop that has just begun."""
    return Turns()


def test_what_comes_while_nothing_is_done_is_read_at_once(turns: Turns) -> None:
    """An idle loop reads what comes when it comes."""
    turns.wall += 5
    assert turns.read() == turns.wall


def test_what_comes_meanwhile_lies_unread(turns: Turns) -> None:
    """What is read after work may have come when that began, and so counts from there."""
    turns.wall += 5
    began = turns.read()
    turns.work(0.002)
    assert turns.read() == began  # of the same turn
    turns.end_reading()
    turns.work(0.003)
    assert turns.read() == pytest.approx(turns.wall - 0.005)
    turns.end_reading()
    turns.work(0.001)
    turns.wall += 7  # for want of work
    assert turns.read() == pytest.approx(turns.wall - 0.001)


def test_what_lies_unread_came_after_the_last_look(turns: Turns) -> None:
    """Work of many turns in which nothing came makes no request older than the last of them."""
    turns.read()
    turns.end_reading()
    for _ in range(20):
        turns.work(0.001)
        turns.arrivals.look()
    turns.work(0.001)
    assert turns.read() == pytest.approx(turns.wall - 0.001)
    assert turns.arrivals.rung(0.005) == "whole"
    began = turns.arrivals.arrived
    turns.work(0.001)
    turns.arrivals.look()  # who learns has their turn before what was read is answered
    assert turns.read() == began


def test_there_is_less_time_as_a_turn_goes_on(turns: Turns) -> None:
    """First lists are whole, then trending, then there are none: within a part of the deadline."""
    turns.wall += 5
    turns.read()
    turns.work(0.00005)
    found = []
    for _ in range(30):
        found.append(turns.arrivals.rung(0.005))
        turns.work(0.0001)
    assert found == ["whole"] * 18 + ["trending"] * 2 + ["refuse"] * 10
    assert turns.arrivals.rung(1.0) == "whole"  # another's deadline is another matter


def test_after_a_long_turn_all_are_late(turns: Turns) -> None:
    """What lay unread for longer than its deadline allows is refused, but for two of a turn."""
    turns.wall += 5
    turns.read()
    turns.end_reading()
    turns.work(0.0045)
    turns.read()
    assert [turns.arrivals.rung(0.005) for _ in range(4)] == ["trending"] * 2 + ["refuse"] * 2
    assert turns.arrivals.rung(0.5) == "whole"


def test_two_of_a_turn_are_two_however_it_is_divided(turns: Turns) -> None:
    """What is made as all has been read is of the same turn as what was made before."""
    turns.wall += 5
    turns.read()
    turns.work(0.003)
    assert [turns.arrivals.rung(0.005) for _ in range(3)] == ["trending"] * 2 + ["refuse"]
    turns.end_reading()
    assert turns.arrivals.rung(0.005) == "refuse"
    turns.read()
    assert turns.arrivals.rung(0.1) == "whole"
    turns.work(0.003)
    assert turns.arrivals.rung(0.005) == "trending"


def test_whole_lists_make_room_for_others(turns: Turns) -> None:
    """After turns that refused, less of a turn goes into whole lists; later it is more again."""

    def n_whole(turn_s: float) -> int:
        turns.wall += 5
        turns.read()
        turns.work(0.00005)
        found = []
        for _ in range(round(turn_s / 0.0001)):
            found.append(turns.arrivals.rung(0.005))
            turns.work(0.0001)
        turns.end_reading()
        return found.count("whole")

    begun = n_whole(0.003)
    assert n_whole(0.003) < begun
    assert n_whole(0.003) < begun * 0.6
    for _ in range(60):
        n_whole(0.001)
    assert n_whole(0.003) == begun


def test_who_waits_stops_in_time_to_answer(turns: Turns) -> None:
    """Waiting ends before the deadline by what an answer takes, and by what timers are wrong."""
    until = turns.wall + 0.05
    assert turns.arrivals.time_to_wait(until) == pytest.approx(0.05 - COST - 0.001)
    assert turns.arrivals.time_to_wait(turns.wall + 0.001) == 0.0
    assert turns.arrivals.has_time(turns.wall + COST * 1.01)
    assert not turns.arrivals.has_time(turns.wall + COST * 0.99)


def test_the_cost_follows_what_is_measured(turns: Turns) -> None:
    """What a list takes is a mean of the last ones; one that was interrupted counts little."""
    for _ in range(400):
        turns.arrivals.note_cost(0.00005)
    assert turns.arrivals.cost_s == pytest.approx(0.00005, rel=0.01)
    turns.arrivals.note_cost(1.0)
    assert turns.arrivals.cost_s < 0.00006
