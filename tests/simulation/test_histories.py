from __future__ import annotations

import gc

import pytest

from tests.simulation.bugs import PLANTED
from tests.simulation.plan import make_plan
from tests.simulation.world import Parts, World

# `python -m tests.simulation` runs any number more.
SEEDS, PER_TEST = range(1, 81), 20
# The rarest of the planted bugs shows first in history 241.
MOST_TRIES = 320


def tidy(seed: int) -> None:
    """Collect old worlds now and then: few objects hold large arrays, so nobody else does."""
    if seed % 2 == 0:
        gc.collect()


@pytest.mark.parametrize("first", SEEDS[::PER_TEST])
def test_promises_hold_whatever_fails(first: int) -> None:
    """Whatever fails, in whatever order: nothing acknowledged is lost, and all replicas agree."""
    for seed in range(first, first + PER_TEST):
        world = World(make_plan(seed)).run()
        assert not world.violations, f"python -m tests.simulation --show --seed {seed}"
        tidy(seed)


def test_a_seed_tells_one_story() -> None:
    """The same seed gives the same history, to the last line of its trace."""
    for seed in (3, 11, 17):
        traces = [World(make_plan(seed)).run().trace for _ in range(2)]
        assert traces[0] == traces[1]
        assert len(traces[0]) > 10


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_found(bug: str) -> None:
    """A replica or a store client with a bug breaks a promise in one of the first histories."""
    parts, is_forgetful, n_replicas = PLANTED[bug]
    assert any(_is_found(parts, seed, is_forgetful, n_replicas) for seed in range(1, MOST_TRIES))


def _is_found(parts: Parts, seed: int, is_forgetful: bool, n_replicas: int | None) -> bool:
    tidy(seed)
    plan = make_plan(seed, is_forgetful=is_forgetful, n_replicas=n_replicas)
    return bool(World(plan, parts).run().violations)
