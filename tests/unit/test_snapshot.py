"""State as bytes: whole, and as what has changed since another one."""

from __future__ import annotations

import copy
import tracemalloc
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app import snapshot
from app.engine import Engine
from app.errors import SnapshotRefused
from app.snapshot import Base, Chunks, Dump, Lender, Lent, Manifest
from learners.ids import PackedRows
from tests.factories import feed, fingerprint, make_engine, mixed, sessions

ABOUT = {
    "semantics": 7,
    "plain": {"n_events": 3},
    "admission": {"watermark_ms": 5},
    "gate": {"data": {"version": 1, "state": "open", "n_blessings": 0}},
}


def written(state: Any, name: str, base: Base | None = None) -> tuple[Manifest, list[bytes], Base]:
    """Return a snapshot of a state, and what the next one may build on."""
    dump = Dump(state)
    chunks = list(dump.chunks(base))
    manifest = dump.manifest(name, base)
    return manifest, chunks, Base(manifest, list(snapshot.pack_prints(dump.prints)))


def plain(value: Any) -> Any:
    """Return a state in which packed rows are the arrays that they stand for."""
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    return np.asarray(value) if isinstance(value, PackedRows) else value


sizes = st.lists(st.integers(0, 40), min_size=1, max_size=60)
numbers = st.lists(st.integers(-5, 5), max_size=3_000)
strings = st.lists(st.none() | st.text(max_size=3), max_size=2_500)


@st.composite
def states(draw: st.DrawFn) -> Any:
    """Return a state with all that there can be in one."""
    size = np.array(draw(sizes), np.int32)
    rng = np.random.default_rng(draw(st.integers(0, 5)))
    return ABOUT | {
        "rows": PackedRows(rng.integers(0, 3, (len(size), 40)), size),
        "array": np.array(draw(numbers), np.int64),
        "table": np.zeros((draw(st.integers(0, 900)), 5), np.float32),
        "texts": draw(strings),
        "inner": {"empty": np.zeros((0, 4), np.uint8), "one": np.float64(draw(st.integers())) + 0},
    }


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(states(), min_size=1, max_size=4))
def test_a_chain_is_its_last_state(chain: list[Any]) -> None:
    """However much differs from one to the next, the last one comes back as it was."""
    base: Base | None = None
    read: list[tuple[Manifest, Chunks]] = []
    for number, state in enumerate(chain, start=1):
        state["inner"]["one"] = float(state["inner"]["one"])
        manifest, chunks, base = written(state, f"{number}-0", base)
        read.append((manifest, chunks))
    assert fingerprint(snapshot.load(read)) == fingerprint(plain(chain[-1]))
    whole = written(chain[-1], "1-0")
    assert whole[0]["digest"] == read[-1][0]["digest"]


@settings(max_examples=20, deadline=None, derandomize=True)
@given(states(), states(), states())
def test_what_is_lent_is_the_same_bytes(own: Any, half: Any, changed: Any) -> None:
    """A part of a state that another process has goes in block by block as if it were here."""
    base: Base | None = None
    for state in (own, half, changed):
        state["inner"]["one"] = float(state["inner"]["one"])
    for lent in (half, changed):
        whole = written(own | {"half": lent, "last": own["texts"]}, "1-0", base)
        asked = Lent(Lender("/half", partial(dict, lent)).answer)
        assert written(own | {"half": asked, "last": own["texts"]}, "1-0", base) == whole
        base = whole[2]


def test_an_engine_goes_on_as_if_nothing_had_been() -> None:
    """Out of a chain comes an engine with the same hashes, the same digest, and the same future."""
    engine = feed(make_engine(), sessions(600))
    first = written(engine.state(), "1-0")
    feed(engine, mixed(300))
    second = written(engine.state(), "2-0", first[2])
    assert second[0]["bytes"] < first[0]["bytes"]
    twin = Engine.from_state(snapshot.load([first[:2], second[:2]]))
    assert twin.hashes() == engine.hashes()
    assert Dump(twin.state()).digest == second[0]["digest"]
    for one in (engine, twin):
        feed(one, mixed(600)[300:])
    assert twin.hashes() == engine.hashes()
    assert Dump(twin.state()).digest == Dump(engine.state()).digest


@pytest.mark.parametrize("shape", [(), (0,), (1,), (513,), (0, 3), (700, 3), (5, 0), (3, 1_000)])
def test_an_array_among_others_is_the_bytes_of_one_by_itself(shape: tuple[int, ...]) -> None:
    """Whatever lies between its numbers, and however few there are."""
    table = np.random.default_rng(1).integers(0, 9, (*shape, 4))
    among = Dump(ABOUT | {"array": table[..., 1]})
    alone = Dump(ABOUT | {"array": table[..., 1].copy()})
    assert among.digest == alone.digest
    assert list(among.chunks()) == list(alone.chunks())


def test_an_array_among_others_is_not_put_together() -> None:
    """A column of a table costs a snapshot no memory of its size: there may be none to spare."""
    table = np.zeros((4_000_000, 4), np.int32)
    tracemalloc.start()
    try:
        dump = Dump({"column": table[:, 1]})
        n_bytes = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(dump.prints["/column"]) > 1
    assert n_bytes < table[:, 1].nbytes / 8


def test_a_base_must_be_the_right_one() -> None:
    """What builds on another snapshot is refused without it, and on a third."""
    engine = feed(make_engine(), sessions(300))
    one = written(engine.state(), "1-0")
    other = written(copy.deepcopy(engine.state()), "7-0")
    feed(engine, mixed(200))
    two = written(engine.state(), "2-0", one[2])
    for chain in ([two[:2]], [other[:2], two[:2]]):
        with pytest.raises(SnapshotRefused, match="builds on 1-0"):
            snapshot.load(chain)


def test_what_no_snapshot_can_hold_is_named() -> None:
    """An array of objects is no data."""
    with pytest.raises(TypeError, match="object"):
        Dump(ABOUT | {"bad": np.array([object()])})
