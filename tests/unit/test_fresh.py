"""Large arrays of zeros, and what becomes of their memory."""

from __future__ import annotations

import mmap
import os
import sys
from itertools import islice

import numpy as np
import pytest

from learners import fresh
from tests.factories import command, feed, make_engine, sessions

N = 3 * 2**20


def test_what_replaces_an_array_is_zeros() -> None:
    """An array made anew is as long, and zero throughout, whatever was written into the old one."""
    array = fresh.zeros(N, np.uint16)
    array += 7
    new = fresh.anew(array)
    assert len(new) == N
    assert new.dtype == np.uint16
    assert not new.any()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it goes back at the end")
def test_what_was_given_up_goes_back_in_pieces() -> None:
    """Memory of an array that was given up is given back bit by bit, and in the end all of it."""
    list(fresh.give_back())
    old = fresh.zeros(N, np.uint16)
    old += 7
    fresh.anew(old)
    steps = fresh.give_back()
    list(islice(steps, 1))
    assert 0 < np.count_nonzero(old) < N
    list(steps)
    assert not old.any()


def test_a_copy_of_the_process_keeps_what_was_there() -> None:
    """A copy of the process sees an array as it was when the copy was made, not what came then."""
    array = fresh.zeros(mmap.PAGESIZE, np.uint16)
    go, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(go, 1)
        os._exit(int(array.any()))
    array += 7
    os.write(told, b"!")
    assert os.waitpid(pid, 0)[1] == 0
    os.close(go)
    os.close(told)


def test_a_rollback_gives_back_what_was_counted() -> None:
    """What a shadow that is set back had counted is given back before anything else is learned."""
    engine = feed(make_engine(), sessions(400))
    list(fresh.give_back())
    old = [source.sketch for source in engine.learner.sources.values() if hasattr(source, "sketch")]
    command(engine, "rollback", force=True)
    new = [source.sketch for source in engine.learner.sources.values() if hasattr(source, "sketch")]
    assert old
    assert all(before is not after for before, after in zip(old, new, strict=True))
    assert not list(fresh.give_back())
