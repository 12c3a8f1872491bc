from __future__ import annotations

import copy
import hashlib
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.engine import Engine
from app.events import Feedback, Record
from app.recommend import Request
from learners.base import CHAMPION, SHADOW
from learners.kernels import MISS
from tests.factories import apply, busy_log, click, feed, fingerprint, make_engine

TIERS: list[dict[str, Any]] = [
    {"freshness": "micro_batch", "freshness_personal_s": 60, "freshness_shared_s": 300},
    {"freshness": "two_tier", "freshness_shared_s": 120},
    {"freshness": "two_tier", "freshness_shared_s": 600, "gate": "off"},
    {"freshness": "batch"},
    {"freshness": "frozen"},
]
USERS = [f"u{n}" for n in range(12)]


def clicks(n_events: int, seed: int) -> list[Feedback]:
    """Return clicks of a few users, some of them late by up to minutes, with idle times."""
    chance, now_s = random.Random(seed), 0.0
    events = []
    for number in range(n_events):
        now_s += chance.expovariate(0.1) if chance.random() < 0.98 else chance.uniform(0, 2_000)
        late_s = chance.uniform(0, 400) if chance.random() < 0.1 else 0.0
        user, item = chance.choice(USERS), f"i{int(60 * chance.random() ** 2)}"
        events.append(click(user, item, event_id=f"e{number}", at_s=max(0.0, now_s - late_s)))
    return events


def version_hash(engine: Engine, version: int) -> str:
    """Return a hash of one version's content, without what it says of no item."""
    items = engine.history.items
    order = items.sorted_indices()
    place = np.full(items.n_indices, MISS, np.int64)
    place[order] = np.arange(len(order))
    sha = hashlib.sha256()
    engine.learner.update_hash(version, order, place, sha)
    return sha.hexdigest()


def slates(engine: Engine) -> list[list[str]]:
    """Return what each user would be shown."""
    return [[s.item_id for s in engine.recommend(Request(user, k=8)).items] for user in USERS]


def begun(**changes: Any) -> tuple[Engine, int]:
    """Return an engine that knows all items and has its first anchor, and its last event's time."""
    engine = make_engine(warmup_events=70, **changes)
    known = [click("first", f"i{n}", event_id=f"f{n}", at_s=n) for n in range(60)]
    more = [click(f"w{n}", f"i{n}", event_id=f"g{n}", at_s=60 + n) for n in range(20)]
    feed(engine, [*known, *more])
    assert engine.gate.data.has_anchor
    return engine, 80


def moved(events: list[Feedback], by_s: int) -> list[Feedback]:
    """Return the events, later by some seconds."""
    return [
        Feedback(e.event_id, e.user_id, e.item_id, e.type, e.value, (e.time_ms or 0) + by_s * 1_000)
        for e in events
    ]


@settings(max_examples=4, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1_000), length_s=st.sampled_from([60, 600]))
def test_shared_state_is_what_it_was_when_the_batch_began(seed: int, length_s: int) -> None:
    """After each event the champion is the shadow as it was before the first event of its batch."""
    engine, at_s = begun(freshness="two_tier", freshness_shared_s=length_s, gate="off")
    due, batch = version_hash(engine, CHAMPION), engine.admission.watermark_ms // length_s // 1_000
    for event in moved(clicks(120, seed), at_s):
        before = version_hash(engine, SHADOW)
        apply(engine, event)
        now = engine.admission.watermark_ms // length_s // 1_000
        if now != batch:
            batch, due = now, before
        assert version_hash(engine, CHAMPION) == due


@settings(max_examples=4, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1_000), length_s=st.sampled_from([60, 600]))
def test_personal_state_is_what_it_was_when_the_batch_began(seed: int, length_s: int) -> None:
    """Requests know each user as of the event before the batch: late events and all."""
    delays = {"freshness_personal_s": length_s, "freshness_shared_s": "never"}
    engine, at_s = begun(freshness="micro_batch", gate="off", **delays)
    # Shared state never moves here: what changes a slate is what is known of its user.
    due, batch = slates(engine), engine.admission.watermark_ms // length_s // 1_000
    for event in moved(clicks(120, seed), at_s):
        before = slates_if_live(engine)
        apply(engine, event)
        now = engine.admission.watermark_ms // length_s // 1_000
        if now != batch:
            batch, due = now, before
        found = slates(engine)
        # What is trending decays with time, for all alike: only who is known may differ.
        assert [sorted(slate) for slate in found] == [sorted(slate) for slate in due]


def slates_if_live(engine: Engine) -> list[list[str]]:
    """Return what each user would be shown, if requests knew all there is."""
    as_of = engine.history.as_of
    was_on = as_of.is_on
    as_of.end()
    found = slates(engine)
    as_of.is_on = was_on
    return found


@pytest.mark.parametrize("tier", TIERS, ids=str)
def test_grouping_never_matters_in_any_tier(tier: dict[str, Any]) -> None:
    """One entry of many records, and one record an entry, end in the same bytes."""
    records: list[Record] = busy_log(600, seed=3)
    one = feed(make_engine(**tier), records)
    for group in (7, 600):
        other = feed(make_engine(**tier), records, group=group)
        assert other.hashes() == one.hashes()


@pytest.mark.parametrize("tier", TIERS, ids=str)
def test_a_snapshot_goes_on_identically_in_any_tier(tier: dict[str, Any]) -> None:
    """Wherever a state is taken in a batch, what continues from it is the same to the byte."""
    records = busy_log(500, seed=5)
    whole = feed(make_engine(**tier), records)
    for cut in (150, 333):
        engine = feed(make_engine(**tier), records[:cut])
        other = Engine.from_state(copy.deepcopy(engine.state()))
        assert fingerprint(other.state()) == fingerprint(engine.state())
        assert other.hashes() == engine.hashes()
        assert slates(other) == slates(engine)
        other.cursor = engine.cursor
        assert feed(other, records[cut:]).hashes() == whole.hashes()


@pytest.mark.parametrize("tier", TIERS, ids=str)
def test_reading_changes_nothing_in_any_tier(tier: dict[str, Any]) -> None:
    """A request leaves every byte of the state as it was."""
    engine = feed(make_engine(**tier), busy_log(400, seed=7))
    before = fingerprint(engine.state())
    slates(engine)
    assert fingerprint(engine.state()) == before
