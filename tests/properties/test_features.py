"""Features in engines of every kind: explanations add up, and all ways to one answer agree."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.engine import Engine
from app.events import Command, Feedback, ItemUpsert, Record, Rules, UserFeatures
from app.features import Feature, Meant
from app.recommend import Request
from learners.base import ANCHOR, CHAMPION, SHADOW
from learners.history import Profile
from tests.factories import START_MS, apply, click, feed, make_engine, sessions

FEATURES: dict[str, Any] = {
    "device": {"of": "context", "values": ["mobile", "desktop"]},
    "hour": {"of": "context", "min": 0, "max": 23},
    "age": {"of": "user", "min": 0, "max": 100},
    "tier": {"of": "user", "values": ["gold", "3", "true"]},
    "price": {"of": "item", "min": 0, "max": 10},
    "brand": {"of": "item", "values": ["acme", "zeta"]},
}
RULES = [{"name": "own", "kind": "boost", "where": {"brand": "acme"}, "by": 0.5}]


def given_by(chance: random.Random) -> dict[str, Any]:
    """Return what a client may send: some of it missing, some of it nonsense."""
    given = {
        "device": chance.choice(["mobile", "desktop", "toaster", None]),
        "hour": chance.choice([0, 7, 23, 99, "noon", "12"]),
        "tier": chance.choice([3, True, "gold", "lead"]),
    }
    return {name: given[name] for name in chance.sample(sorted(given), chance.randrange(4))}


def log(n_events: int, seed: int = 1) -> Iterator[Record]:
    """Yield sessions with contexts, and what is said of users and items meanwhile."""
    chance = random.Random(seed)
    for event in sessions(n_events, n_users=60, seed=seed):
        given = given_by(chance)
        yield click(
            event.user_id,
            event.item_id,
            event_id=event.event_id,
            at_s=((event.time_ms or 0) - START_MS) / 1_000,
            type=chance.choice(["click", "purchase", "dislike"]),
            features=given,
        )
        if chance.random() < 0.2:
            told: dict[str, Any] = {"age": chance.randrange(-9, 120)}
            yield UserFeatures(event.user_id, told, event.time_ms or 0, chance.random() < 0.5)
        if chance.random() < 0.2:
            attributes: dict[str, Any] = {
                "price": chance.randrange(20),
                "brand": chance.choice(["acme", "zeta", "none"]),
            }
            yield ItemUpsert(event.item_id, attributes=attributes)


@lru_cache
def grown(**changes: Any) -> Engine:
    """Return an engine that has learned from such a log; nobody changes it."""
    return feed(make_engine(features=FEATURES, **changes), list(log(700)), group=20)


@pytest.mark.parametrize("rules", [[], RULES], ids=["no rules", "rules"])
def test_reasons_add_up_with_features(rules: list[dict[str, Any]]) -> None:
    """The weights of an item's reasons, each input by its name, add up to its score."""
    engine = feed(make_engine(features=FEATURES), [*log(700), Rules(rules, "tester")], group=20)
    chance, named, n_items = random.Random(2), set(), 0
    for number in range(200):
        features = given_by(chance)
        request = Request(f"u{number % 70}", 10, explain=True, features=features)
        for scored in engine.recommend(request).items:
            assert scored.why is not None
            assert abs(sum(part["weight"] for part in scored.why) - scored.score) <= 1e-6
            named |= {part["because"] for part in scored.why}
            n_items += 1
            found = engine.explain(request, scored.item_id) if n_items % 40 == 0 else None
            assert found is None or (found["score"], found["why"]) == (scored.score, scored.why)
    assert n_items > 1_000
    assert {"context:device=mobile", "context:hour", "user:age", "user:tier=3"} <= named
    assert {"item:price", "item:brand=acme", "item:brand=zeta", "trending"} <= named


def test_what_was_given_is_what_is_explained() -> None:
    """A context that did not come with the request is no reason for anything."""
    engine = grown()
    request = Request("u1", 10, explain=True, features={"device": "mobile"})
    parts = [part["because"] for s in engine.recommend(request).items for part in s.why or ()]
    assert "context:device=mobile" in parts
    assert not {"context:device=desktop", "context:hour"} & set(parts)


def test_one_call_ranks_as_one_after_the_other_with_features() -> None:
    """What judges an event in one call ranks as the steps do that answer a request."""
    engine = grown()
    ranker, now_ms = engine.recommender, engine.admission.watermark_ms
    versions = np.array([CHAMPION, ANCHOR, SHADOW])
    profile, chance, n_ranked = Profile(engine.history.history_length), random.Random(3), 0
    assert engine.features is not None
    for user in [*engine.history.users.index.values()][:30]:
        engine.history.profile(user, profile)
        engine.features.situate(given_by(chance), user, now_ms)
        for item in [*engine.history.items.index.values()][::9]:
            alone = [ranker.doubled_rank(v, profile, item, now_ms) for v in versions.tolist()]
            assert ranker.doubled_ranks(versions, profile, item, now_ms) == alone
            n_ranked += alone[0] >= 0
    assert n_ranked > 100


@pytest.mark.parametrize(
    "changes",
    [{}, {"learner": "river:linear_model.LogisticRegression()"}, {"freshness": "micro_batch"}],
    ids=["linear", "river", "batches"],
)
def test_requests_change_nothing_that_is_learned(changes: dict[str, Any]) -> None:
    """What is given with requests, between events, is forgotten with them: so are promotions."""
    asked, silent = (make_engine(features=FEATURES, **changes) for _ in range(2))
    chance = random.Random(4)
    for record in log(260):
        apply(silent, record)
        apply(asked, record)
        asked.recommend(Request("u1", 10, features=given_by(chance)))
        asked.similar("g01i1", 5)
    assert asked.hashes() == silent.hashes()


def test_versions_are_compared_with_nothing_given() -> None:
    """How much two versions agree does not depend on what was asked for before."""
    engine = grown(overlap_min=0.0, bless_judged=10_000)
    versions, now_ms = np.array([ANCHOR, SHADOW]), engine.admission.watermark_ms
    users = [*engine.history.users.index.values()]
    found = set()
    for device in ("mobile", "desktop", None):
        engine.recommend(Request("u1", 10, features={"device": device, "hour": 23}))
        found.add(tuple(engine.recommender.overlaps(versions, users, now_ms)))
        engine.recommend(Request("u1", 10, features={"device": device, "hour": 0}))
        found.add(tuple(engine.recommender.overlap(versions, user, now_ms) for user in users))
    assert len(found) == 1


def test_a_river_model_sees_features_by_name() -> None:
    """A model in the combiner's place learns from contexts and items' features as from others."""
    engine = grown(learner="river:linear_model.LogisticRegression()")
    combiner: Any = engine.learner.combiner
    weights = combiner.models[SHADOW].weights
    assert weights["context:device=mobile"] != 0.0
    assert weights["item:brand=acme"] != 0.0
    assert weights["user:age"] != 0.0


@pytest.mark.parametrize(
    "changes", [{"blend_learning_rate": 0.3}, {"trending_half_lives_s": [600]}]
)
def test_a_challenger_learns_from_the_same_features(changes: dict[str, Any]) -> None:
    """A challenger beside the learner weighs what came with an event, and begins as it is."""
    engine = feed(make_engine(features=FEATURES, warmup_events=50), list(log(200)), group=20)
    apply(engine, Command("start_challenger", "a test asks", "tester", changes=changes))
    assert engine.challenges.running is not None
    ours: Any = engine.learner.combiner
    theirs: Any = engine.challenges.running.learner.combiner
    mobile = len(ours.contexts) - len(ours.given) + ours.given.index("context:device=mobile")
    acme = [model.features.index("item:brand=acme") for model in (ours, theirs)]
    assert ours.weights[SHADOW, mobile, acme[0]] == theirs.weights[SHADOW, mobile, acme[1]] != 0
    before = theirs.weights[SHADOW].copy()
    feed(engine, [e for e in log(400) if isinstance(e, Feedback)][200:], group=20)
    assert not np.array_equal(theirs.weights[SHADOW, mobile:], before[mobile:])


values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    values,
    st.sampled_from(
        [
            Feature(of="context", values=("a", "true", "3")),
            Feature(of="user", min=-5, max=1.7e308),
            Feature(of="item", min=0, max=5e-324),
        ]
    ),
)
def test_whatever_is_given_is_a_number_from_minus_one_to_one(value: Any, feature: Feature) -> None:
    """Any value means a finite number within the bounds, for an input that there is, or nothing."""
    kept = feature.keep(value)
    if isinstance(kept, str):
        assert kept in ("missing", "unknown", "not_a_number")
        return
    meant = feature.meaning(kept)
    assert isinstance(meant, Meant)
    assert 0 <= meant.place < feature.n_inputs
    assert -1.0 <= meant.number <= 1.0
    assert feature.keep(feature.shown(kept)) == kept
