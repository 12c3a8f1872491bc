from __future__ import annotations

import copy
import functools
import hashlib
import math
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.engine import Engine
from app.events import (
    MAX_TIME_MS,
    MIN_TIME_MS,
    Command,
    Feedback,
    ItemUpsert,
    Malformed,
    Record,
)
from app.recommend import Recommender, Request, mean_overlap
from learners.base import ANCHOR, CANDIDATE, CHAMPION, SHADOW
from learners.history import Profile
from learners.ids import PackedRows
from learners.kernels import MISS
from tests.factories import (
    EVICTING,
    apply,
    busy_log,
    click,
    feed,
    fingerprint,
    make_engine,
    mixed,
    sessions,
)

ROOT = Path(__file__).parents[2]


@functools.cache
def grown() -> Engine:
    """Return an engine that has seen a busy log; tests here only read it."""
    return feed(make_engine(), busy_log(1_200))


def version_hash(engine: Engine, version: int) -> str:
    """Return a hash of one version's content."""
    order = engine.history.items.sorted_indices()
    place = np.full(engine.history.items.n_indices, MISS, np.int64)
    place[order] = np.arange(len(order))
    sha = hashlib.sha256()
    engine.learner.update_hash(version, order, place, sha)
    return sha.hexdigest()


def sizes(engine: Engine) -> tuple[int, ...]:
    """Return how much of everything there is."""
    history = engine.history
    used = (history.items.n_indices, history.users.n_indices, history.n_rooms)
    slots = [s.rows.n_available() for s in engine.learner.sources.values()]
    return (len(history.items), len(history.users), *used, *slots)


# -- determinism -----------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 400), max_size=12))
def test_grouping_never_matters(cuts: list[int]) -> None:
    """The same records end in the same hashes and decisions, whatever entries they came in."""
    log = busy_log(400)
    one, other = alone(), make_engine(**EVICTING)
    while log:
        size = cuts.pop() if cuts else len(log)
        apply(other, *log[:size])
        log = log[size:]
    assert one.hashes() == other.hashes()
    assert [(d.number, d.kind, d.event) for d in one.gate.decisions] == [
        (d.number, d.kind, d.event) for d in other.gate.decisions
    ]


@functools.cache
def alone() -> Engine:
    """Return an engine that met each record in an entry of its own."""
    return feed(make_engine(**EVICTING), busy_log(400))


REPLAY = """
from tests.factories import EVICTING, busy_log, feed, make_engine
from app.recommend import Recommender, Request, mean_overlap
engine = feed(make_engine(**EVICTING), busy_log(800), group=7)
print(engine.hashes())
for user in ("u1", "u2", "s1", "nobody"):
    print(engine.recommend(Request(user, k=20, explain=True)))
print(engine.recommend(Request(candidates=[f"i{n}" for n in range(150)], k=200)))
"""


def test_the_same_bytes_under_other_hash_seeds_and_processors() -> None:
    """Neither PYTHONHASHSEED nor the processor's faster mathematics changes a byte."""
    masked = "glibc.cpu.hwcaps=-AVX2,-FMA,-AVX2_Usable,-FMA_Usable"
    environments = [
        {"PYTHONHASHSEED": "0"},
        {"PYTHONHASHSEED": "4242"},
        {"PYTHONHASHSEED": "7", "GLIBC_TUNABLES": masked},
    ]
    replays = [
        subprocess.Popen(
            [sys.executable, "-c", REPLAY],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for environment in environments
    ]
    outputs = [replay.communicate(timeout=300)[0] for replay in replays]
    assert [replay.returncode for replay in replays] == [0, 0, 0]
    assert "model_hash" in outputs[0]
    assert outputs[0] == outputs[1] == outputs[2]


@pytest.mark.parametrize("at", [0, 1, 60, 150, 260, 390, 700, 1_100])
@pytest.mark.parametrize("changes", [{}, EVICTING], ids=["roomy", "evicting"])
def test_a_state_continues_identically(at: int, changes: dict[str, Any]) -> None:
    """An engine made from a state at any moment goes on to the same bytes as the original."""
    log = busy_log(1_000, seed=3)
    engine = feed(make_engine(**changes), log[:at])
    twin = Engine.from_state(copy.deepcopy(engine.state()))
    assert twin.hashes() == engine.hashes()
    for start in range(at, len(log), 50):
        for one in (engine, twin):
            feed(one, log[start : start + 50], group=50)
        if start % 200 < 50:
            assert twin.hashes() == engine.hashes()
            assert twin.recommend(Request("u1")) == engine.recommend(Request("u1"))
    assert twin.hashes() == engine.hashes()
    assert fingerprint(twin.state()) == fingerprint(engine.state())


def test_a_state_is_plain() -> None:
    """A state is made of dicts with names, lists, arrays of numbers and plain values alone."""

    def check(value: object, path: str) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                assert isinstance(name, str), path
                check(inner, f"{path}.{name}")
        elif isinstance(value, list | tuple):
            for number, inner in enumerate(value):
                check(inner, f"{path}.{number}")
        elif isinstance(value, np.ndarray | PackedRows):
            assert np.asarray(value).dtype.kind in "iuf", path
        else:
            assert value is None or type(value) in (bool, int, float, str), f"{path}: {value!r}"

    check(grown().state(), "state")


# -- what leaves the hashes alone ------------------------------------------------------------------


@pytest.mark.parametrize("at", [10, 150, 500])
def test_duplicates_leave_both_hashes(at: int) -> None:
    """Everything re-sent, in any order, with any time: not a byte of the state moves."""
    events = mixed(at, seed=5)
    engine = make_engine()
    outcomes = [apply(engine, event) for event in events]
    learned = [e for e, o in zip(events, outcomes) if o.results[0].status == "learned"]
    before, n_users = engine.hashes(), len(engine.history.users)
    random.Random(at).shuffle(learned)
    for event in learned:
        changed = Feedback(event.event_id, "other", "thing", "click", time_ms=1)
        outcome = apply(engine, event, changed)
        assert [r.status for r in outcome.results] == ["duplicate", "duplicate"]
    assert engine.hashes() == before
    assert len(engine.history.users) == n_users


def test_refused_events_leave_the_model_hash() -> None:
    """Late and quarantined events move counters, and no byte of the model."""
    engine = feed(make_engine(), sessions(400))
    before, size = engine.hashes(), sizes(engine)
    refused: list[Record] = [
        Malformed("schema", "made up"),
        click("new-user", "new-item", type="nonsense"),
        click("new-user", "new-item", type="rating"),
        click("new-user", "new-item", type="rating", value=math.nan),
        click("new-user", "new-item", at_s=-1e6),
        click("new-user", "new-item", at_s=1e6),
        Feedback("no-time", "new-user", "new-item", "click"),
    ]
    statuses = []
    for event in refused:
        arrival_ms = engine.admission.watermark_ms if event is refused[5] else None
        statuses.append(apply(engine, event, arrival_ms=arrival_ms).results[0].status)
    assert statuses == ["quarantined"] * 4 + ["late"] + ["quarantined"] * 2
    assert engine.hashes()["model_hash"] == before["model_hash"]
    assert engine.hashes()["state_hash"] != before["state_hash"]
    assert sizes(engine) == size


user_ids = st.none() | st.sampled_from(["u1", "u2", "u33", "s1", "nobody"])
item_ids = st.sampled_from([f"i{n}" for n in range(40)] + ["g00i0", "g01i1", "nothing"])
requests = st.builds(
    Request,
    user_id=user_ids,
    k=st.integers(1, 200),
    exclude=st.lists(item_ids, max_size=5),
    categories=st.lists(st.sampled_from(["c0", "c1", "c2", "none"]), max_size=2),
    history=st.none() | st.lists(item_ids, max_size=12),
    candidates=st.none() | st.lists(item_ids, max_size=12),
    explain=st.booleans(),
    filter=st.just(()),
    history_ms=st.lists(st.none() | st.integers(MIN_TIME_MS, MAX_TIME_MS), max_size=12),
    features=st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2),
    unread=st.just({}),
)


def eligible(engine: Engine, request: Request) -> set[str]:
    """Return what a request may be answered with, by its definition."""
    history, catalogue = engine.history, engine.catalogue
    had: set[object] = set(request.history or ())
    if request.history is None and request.user_id in history.users:
        had = {h.item_id for h in history.had(history.users.get(request.user_id))}
    given = None if request.candidates is None else set(request.candidates)
    return {
        str(item_id)
        for item_id, index in history.items.index.items()
        if item_id not in had
        and item_id not in request.exclude
        and not catalogue.hidden[index]
        and (given is None or item_id in given)
        and (not request.categories or set(request.categories) & set(history.categories.of(index)))
    }


@settings(max_examples=200, deadline=None, derandomize=True)
@given(requests)
def test_slates_are_distinct_allowed_and_full(request: Request) -> None:
    """A slate holds at most k different eligible items, all there are if fewer, best first."""
    engine = grown()
    items = engine.recommend(request).items
    ids = [scored.item_id for scored in items]
    allowed = eligible(engine, request)
    assert len(ids) == len(set(ids)) == min(request.k, len(allowed))
    assert set(ids) <= allowed
    scores = [scored.score for scored in items]
    assert scores == sorted(scores, reverse=True)
    assert all(math.isfinite(score) for score in scores)
    assert engine.recommend(request).items == items


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.lists(requests, min_size=5, max_size=10))
def test_reading_never_writes(asked: list[Request]) -> None:
    """Whatever is asked, not a byte of the state changes, nor its size."""
    engine = grown()
    before, size = engine.hashes(), sizes(engine)
    for request in asked:
        engine.recommend(request)
        for item_id in (*request.exclude, "nothing"):
            engine.similar(item_id, request.k)
    engine.describe()
    assert (engine.hashes(), sizes(engine)) == (before, size)


@pytest.mark.parametrize("exclude_had", [True, False])
def test_versions_ranked_in_one_call_are_as_ranked_one_by_one(*, exclude_had: bool) -> None:
    """Judging three versions at once, and comparing two, gives what each gives by itself."""
    engine = grown()
    ranker = Recommender(engine.history, engine.catalogue, engine.learner, exclude_had=exclude_had)
    versions, now_ms = np.array([CHAMPION, ANCHOR, SHADOW]), engine.admission.watermark_ms
    profile = Profile(engine.history.history_length)
    for user in [*engine.history.users.index.values()][:40]:
        engine.history.profile(user, profile)
        for item in [*engine.history.items.index.values()][::7]:
            alone = [ranker.doubled_rank(v, profile, item, now_ms) for v in versions.tolist()]
            assert ranker.doubled_ranks(versions, profile, item, now_ms) == alone
        ours, theirs = (ranker.top(version, user, now_ms) for version in (ANCHOR, SHADOW))
        shares = ranker.overlaps(np.array([ANCHOR, SHADOW]), [user, user], now_ms)
        assert shares == ([mean_overlap([ours], [theirs])] * 2 if ours or theirs else [])


def test_reading_changes_nothing_that_comes_later() -> None:
    """An engine asked all the time learns the same as one that is never asked."""
    log = busy_log(300, seed=6)
    asked, silent = make_engine(**EVICTING), make_engine(**EVICTING)
    for record in log:
        apply(silent, record)
        apply(asked, record)
        asked.recommend(Request("u1", k=20, explain=True, categories=["c1"]))
        asked.similar("i1", 5)
    assert asked.hashes() == silent.hashes()


# -- versions --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_versions_move_on_decisions_alone(seed: int) -> None:
    """Champion, anchor, candidate change when a decision says so, and at no other event."""
    moved_by = {
        CHAMPION: {"first_anchor", "promote", "rollback"},
        ANCHOR: {"first_anchor", "bless"},
        CANDIDATE: {"candidate", "candidate_dropped"},
    }
    engine = make_engine(overlap_min=0, promote_events=40, candidate_events=120, bless_judged=30)
    before = {version: version_hash(engine, version) for version in moved_by}
    n_items, moves = 0, dict.fromkeys(moved_by, 0)
    for event in sessions(900, seed=seed):
        decisions = {d.kind for d in apply(engine, event).decisions}
        for version, kinds in moved_by.items():
            after = version_hash(engine, version)
            # The hash lists all items: one that is new adds an empty row to every version.
            if not kinds & decisions and len(engine.history.items) == n_items:
                assert after == before[version], (version, event)
            moves[version] += after != before[version] and bool(kinds & decisions)
            before[version] = after
        n_items = len(engine.history.items)
    assert all(n > 1 for n in moves.values())


@pytest.mark.parametrize("seed", range(3))
def test_promotion_copies_the_shadow_exactly(seed: int) -> None:
    """Right after a promotion champion and shadow are equal, after a rollback all three are."""
    engine = make_engine(overlap_min=0, promote_events=40, candidate_events=100, bless_judged=30)
    happened = set()
    for record in [*busy_log(900, seed=seed), Command("rollback", "made up", "tester")]:
        last = [d.kind for d in apply(engine, record).decisions][-1:]
        if last in (["promote"], ["rollback"], ["first_anchor"]):
            happened.add(last[0])
            assert version_hash(engine, CHAMPION) == version_hash(engine, SHADOW)
        if last in (["rollback"], ["first_anchor"]):
            assert version_hash(engine, CHAMPION) == version_hash(engine, ANCHOR)
    assert happened == {"promote", "rollback", "first_anchor"}


def test_nothing_of_the_model_depends_on_the_order_of_indices() -> None:
    """Two engines that made their items in another order, but learned the same, serve the same."""
    one, other = make_engine(), make_engine()
    names = sorted({event.item_id for event in sessions(300)})
    apply(one, *[ItemUpsert(name) for name in names])
    apply(other, *[ItemUpsert(name) for name in reversed(names)])
    for engine in (one, other):
        feed(engine, sessions(300))
    assert one.hashes()["model_hash"] == other.hashes()["model_hash"]
    for user in ("s0-3", "nobody"):
        assert one.recommend(Request(user)).items == other.recommend(Request(user)).items
