"""Features from elsewhere: what is learned from them, and what becomes of missing ones."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from app import events, quarantine, snapshot
from app.admission import Verdict
from app.engine import Engine
from app.errors import InvalidRequest
from app.events import (
    Command,
    Feedback,
    ItemUpsert,
    UserDelete,
    UserFeatures,
    UserMerge,
    parse_feedback,
)
from app.feature_state import check_names
from app.features import Feature, Why
from app.identity import Identity
from app.recommend import Request
from app.settings import EngineSettings
from learners import Blend, History
from learners.inputs import Inputs
from tests.factories import (
    START_MS,
    apply,
    click,
    configure,
    feed,
    fingerprint,
    make_engine,
    make_settings,
    restore,
)

DEVICE: dict[str, Any] = {"of": "context", "values": ["mobile", "desktop"]}
FORMAT: dict[str, Any] = {"of": "item", "values": ["short", "long"]}
AGE: dict[str, Any] = {"of": "user", "min": 0, "max": 100}
ALL = {"device": DEVICE, "format": FORMAT, "age": AGE}
N_ITEMS = 40


def described(engine: Engine, n: int = N_ITEMS) -> Engine:
    """Tell an engine of items, every other one of them short."""
    attributes: list[Any] = [{"format": "short" if i % 2 else "long"} for i in range(n)]
    apply(engine, *(ItemUpsert(f"i{i}", attributes=a) for i, a in enumerate(attributes)))
    return engine


def by_device(n: int, *, seed: int = 1, says: bool = True) -> Iterator[Feedback]:
    """Yield clicks: on a mobile any of the short items, on a desktop any of the long ones."""
    chance = random.Random(seed)
    for number in range(n):
        is_mobile = chance.random() < 0.5
        item = f"i{2 * chance.randrange(N_ITEMS // 2) + is_mobile}"
        given: Any = {"device": "mobile" if is_mobile else "desktop"} if says else None
        yield click(f"u{chance.randrange(150)}", item, at_s=60 * number, features=given)


def hits(engine: Engine) -> float:
    """Return HR@10 of the shadow over the last 1,000 events that were judged."""
    found: float = engine.prequential["shadow"].view()["recent"]["hr_10"]
    return found


def missing(engine: Engine) -> Counter[tuple[str, Why]]:
    """Return how often which feature was missing, and why."""
    assert engine.features is not None
    return engine.features.n_missing


def test_a_context_chooses_among_items() -> None:
    """Where mobile users take other items than desktop users, knowing the device finds them."""
    known, unknown = (described(make_engine(features=ALL)) for _ in range(2))
    feed(known, list(by_device(1_000)))
    feed(unknown, list(by_device(1_000, says=False)))
    assert hits(unknown) < 0.35
    assert hits(known) > hits(unknown) + 0.15
    lists = {
        device: known.recommend(Request("new", k=10, features={"device": device})).items
        for device in ("mobile", "desktop")
    }
    n_short = {d: sum(int(s.item_id[1:]) % 2 for s in slate) for d, slate in lists.items()}
    assert n_short["mobile"] >= 9
    assert n_short["desktop"] <= 1


def test_a_feature_of_users_chooses_among_items() -> None:
    """Where the old take other items than the young, an age that was pushed finds them."""
    engine = described(make_engine(features=ALL))
    ages = {f"u{i}": 10.0 if i % 2 else 90.0 for i in range(150)}
    apply(engine, *(UserFeatures(user, {"age": age}, START_MS) for user, age in ages.items()))
    chance = random.Random(2)
    for number in range(1_000):
        user = chance.randrange(150)
        item = 2 * chance.randrange(N_ITEMS // 2) + user % 2
        apply(engine, click(f"u{user}", f"i{item}", at_s=60 * number))
    plain = feed(described(make_engine()), [click("x", "i1", at_s=1)])  # has no such inputs at all
    assert plain.features is None
    assert hits(engine) > 0.42


def test_a_feature_of_items_is_learned() -> None:
    """Where people take what is cheap, cheap items are ranked above dear ones, new ones too."""
    engine = make_engine(features={"price": {"of": "item", "min": 0, "max": 100}})
    apply(engine, *(ItemUpsert(f"i{i}", attributes={"price": 2.5 * i}) for i in range(N_ITEMS)))
    chance = random.Random(3)
    cheap = [
        click(f"u{chance.randrange(150)}", f"i{chance.randrange(10)}", at_s=60 * n)
        for n in range(600)
    ]
    feed(engine, cheap)
    apply(engine, ItemUpsert("new-cheap", attributes={"price": 1}))
    apply(engine, ItemUpsert("new-dear", attributes={"price": 99}))
    given = ["new-dear", "new-cheap"]
    ranked = [s.item_id for s in engine.recommend(Request("new", candidates=given)).items]
    assert ranked == ["new-cheap", "new-dear"]


def test_nothing_changes_until_something_is_learned() -> None:
    """Weights of what is declared begin at 0: lists and scores are those without it."""
    with_features, without = described(make_engine(features=ALL)), described(make_engine())
    request = Request("u", k=20, features={"device": "mobile"})
    listed = with_features.recommend(request).items
    assert listed
    assert listed == without.recommend(Request("u", k=20)).items


def test_a_blend_takes_contexts_as_a_river_ranker() -> None:
    """Alone, a blend has contexts from `x` and items' inputs from its history, by name."""
    inputs = Inputs(("mobile",), ("short",), max_items=50)
    blend = Blend(max_neighbours=5, history=History(max_items=50, max_users=60, inputs=inputs))
    chance = random.Random(1)
    for n in range(400):
        mobile = float(chance.random() < 0.5)
        item = f"i{2 * chance.randrange(10) + int(mobile)}"
        blend.learn_one(f"u{chance.randrange(60)}", item, 1.0, {"mobile": mobile, "time_ms": n})
        index = blend.personal.items.get(item)
        inputs.of_item[0, index] = int(item[1:]) % 2
    ranked = blend.rank("new", [f"i{n}" for n in range(20)], {"mobile": 1.0})
    assert all(int(str(item)[1:]) % 2 for item in ranked[:8])
    assert ranked[:8] != blend.rank("new", [f"i{n}" for n in range(20)], {"mobile": 0.0})[:8]


def test_an_event_that_is_released_has_its_features() -> None:
    """What was quarantined and is let go is learned with the context that it came with."""
    event = click("u", "a", at_s=1, features={"device": "mobile"})
    verdict = Verdict("quarantined", "future", "it is from the future")
    again = quarantine.released(quarantine.record_of(event, verdict), START_MS)
    assert again is not None
    assert again.features == {"device": "mobile"}


def test_what_is_missing_is_counted_by_reason() -> None:
    """Each feature that is missing, unknown, stale or no number is counted, and breaks nothing."""
    declared = {
        "device": DEVICE,
        "hour": {"of": "context", "min": 0, "max": 23},
        "age": AGE | {"max_age_s": 3_600},
    }
    engine = make_engine(features=declared)
    apply(engine, UserFeatures("u", {"age": 31}, START_MS))
    apply(engine, click("u", "a", at_s=10))
    assert missing(engine) == {("device", "missing"): 1, ("hour", "missing"): 1}
    engine.recommend(Request("u", features={"device": "toaster", "hour": "noon"}))
    assert missing(engine)["device", "unknown"] == 1
    assert missing(engine)["hour", "not_a_number"] == 1
    apply(engine, click("w", "a", at_s=4_000))
    engine.recommend(Request("u", features={"device": "mobile", "hour": "7"}))
    assert missing(engine)["age", "stale"] == 1
    apply(engine, UserFeatures("u", {"age": "old"}, START_MS + 4_000_000))
    assert missing(engine)["age", "not_a_number"] == 1
    engine.recommend(Request("u", features={}, unread={"age": "timeout"}))
    assert missing(engine)["age", "timeout"] == 1


def test_an_item_without_a_feature_is_counted_once() -> None:
    """An item that comes by an event has no features; that is counted when it comes."""
    engine = make_engine(features={"format": FORMAT})
    feed(engine, [click("u", "a", at_s=1), click("v", "a", at_s=2)])
    apply(engine, ItemUpsert("a", attributes={"format": "round"}))
    assert missing(engine) == {("format", "missing"): 1, ("format", "unknown"): 1}


def test_numbers_are_scaled_and_bounded() -> None:
    """The bounds become -1 and 1, what lies past them counts as they do, booleans are 0 and 1."""
    feature = Feature(of="context", min=10, max=20)
    numbers = [feature.meaning(float(feature.keep(v))).number for v in (10, 15, "20", 99, -99)]
    assert numbers == [-1.0, 0.0, 1.0, 1.0, -1.0]
    assert feature.keep(float("nan")) == feature.keep("nan") == "not_a_number"
    assert feature.keep(None) == "missing"
    flags = Feature(of="user", values=("true", "3"))
    assert [flags.keep(value) for value in (True, 3, 3.0, "3", False)] == [0, 1, 1, 1, "unknown"]


@pytest.mark.parametrize(
    ("declared", "why"),
    [
        ({"a": {"of": "context"}}, "either values, or min and max"),
        ({"a": {"of": "context", "min": 0}}, "either values, or min and max"),
        ({"a": DEVICE | {"min": 0, "max": 1}}, "either values, or min and max"),
        ({"a": {"of": "user", "min": 1, "max": 1}}, "min must be below max"),
        ({"a": {"of": "user", "values": ["x", "x"]}}, "there twice"),
        ({"a": DEVICE | {"max_age_s": 5}}, "features of users alone"),
        ({"a b": DEVICE}, "pattern"),
        ({f"n{i}": DEVICE for i in range(17)}, "at most 16"),
        ({"a": {"of": "item", "values": [f"v{i}" for i in range(65)]}}, "65 inputs"),
    ],
)
def test_a_declaration_that_means_nothing_is_refused(declared: dict[str, Any], why: str) -> None:
    """What is declared wrongly, or too much, is refused with the reason."""
    with pytest.raises(ValidationError, match=why):
        make_settings(features=declared)


def test_names_that_are_not_declared_are_refused_with_those_that_are() -> None:
    """A request that names no declared feature is told which there are."""
    engine = make_engine(features=ALL)
    check_names(engine.features, ["device", "age"])
    with pytest.raises(InvalidRequest, match=r"context\.format: .* it declares age, device"):
        check_names(engine.features, ["format"])
    with pytest.raises(InvalidRequest, match="declares none"):
        check_names(None, ["device"])
    with pytest.raises(InvalidRequest, match="of a user; it declares age"):
        check_names(engine.features, ["device"], "user")


def test_an_event_keeps_what_is_declared_of_its_context() -> None:
    """What is not declared, or no plain value, is left out; the event is learned all the same."""
    raw = {"user_id": "u", "item_id": "i", "type": "click", "event_id": "e"}
    given = {"device": "mobile", "page": {"path": "/"}, "hour": [1], "x" * 99: "y" * 99}

    def parsed(context: object, *names: str) -> object:
        event = parse_feedback(raw | {"context": context}, new_id="n", features=names)
        assert isinstance(event, Feedback)
        return event.features

    assert parsed(given, "device", "hour", "page") == {"device": "mobile"}
    assert parsed(given) is parsed("mobile", "device") is parsed({}, "device") is None
    assert parsed({"device": "y" * 99}, "device") == {"device": "y" * 65}


def test_a_log_without_features_is_as_before() -> None:
    """Where none are declared, nothing of them is in settings, state, events or arrays."""
    engine = feed(make_engine(), [click("u", "a", at_s=1)])
    assert "features" not in engine.state()["settings"]
    assert "features" not in engine.state()["catalogue"]
    assert len(engine.learner.combiner.state()["weights"][0]) == 7
    entry = b'{"records":[["feedback","e","u","i","click"]],"arrival_ms":null,"version":1}'
    assert events.decode(entry).records[0] == Feedback("e", "u", "i", "click")


def stream(seed: int = 4) -> list[events.Record]:
    """Return a log with everything that features can be in."""
    chance = random.Random(seed)
    records: list[events.Record] = []
    for number, event in enumerate(by_device(400, seed=seed)):
        records.append(event)
        user, draw = f"u{chance.randrange(150)}", chance.random()
        if draw < 0.3:
            time_ms = START_MS + 60_000 * number
            given: dict[str, Any] = {"age": chance.choice([5, 200, "x", None])}
            records.append(UserFeatures(user, given, time_ms, chance.random() < 0.5))
        elif draw < 0.35:
            records.append(UserDelete(user))
        elif draw < 0.4:
            records.append(UserMerge(user, f"u{chance.randrange(150)}"))
        elif draw < 0.5:
            records.append(ItemUpsert(f"i{chance.randrange(60)}", attributes={"format": "short"}))
    return records


def test_a_snapshot_with_features_goes_on_as_it_was() -> None:
    """An engine that was restored half-way has the same bytes and hashes in the end."""
    records = stream()
    whole = feed(described(make_engine(features=ALL)), records)
    half = feed(described(make_engine(features=ALL)), records[:250])
    restored = Engine.from_state(snapshot.load([snapshot.dump(half.state(), half.cursor)]))
    assert np.array_equal(restored.history.inputs.of_item, half.history.inputs.of_item)
    feed(restored, records[250:])
    assert restored.hashes() == whole.hashes()
    assert fingerprint(restored.state()) == fingerprint(whole.state())
    assert np.array_equal(restored.history.inputs.of_item, whole.history.inputs.of_item)


def test_features_are_part_of_the_state() -> None:
    """Two logs that differ in a user's feature have other hashes; a forgotten one leaves none."""
    first, second, third = (make_engine(features=ALL) for _ in range(3))
    apply(first, UserFeatures("u", {"age": 31}, START_MS))
    apply(second, UserFeatures("u", {"age": 32}, START_MS))
    assert first.hashes() != second.hashes()
    assert first.features is not None
    assert first.features.of_user(0) == {"age": (31.0, START_MS)}
    apply(second, UserDelete("u"), UserFeatures("u", {}, START_MS))
    apply(third, UserFeatures("u", {}, START_MS), UserDelete("u"), UserFeatures("u", {}, START_MS))
    assert second.features is not None
    assert second.features.of_user(0) == {}
    assert second.hashes()["model_hash"] == third.hashes()["model_hash"]


CHANGED: dict[str, Any] = {
    "device": DEVICE | {"values": ["tablet", "desktop", "mobile"]},
    "age": AGE | {"max": 50},
    "format": FORMAT,
    "hour": {"of": "context", "min": 0, "max": 23},
}


def declare(engine: Engine, features: dict[str, Any]) -> None:
    """Let other features be declared from here on."""
    changed = EngineSettings(**engine.configured.model_dump() | {"features": features})
    apply(engine, configure(changed, reconfigure=True))


def scores(engine: Engine, **features: Any) -> dict[str, Any]:
    """Return the scores of all items for somebody new, by id."""
    slate = engine.recommend(Request("new", k=N_ITEMS, features=features)).items
    return {scored.item_id: pytest.approx(scored.score, abs=1e-9) for scored in slate}


def test_features_may_change_within_a_log() -> None:
    """What stays by name stays learned and known, what is new begins at nothing, the rest goes."""
    engine = described(make_engine(features=ALL))
    feed(engine, list(by_device(400)))
    apply(engine, *(UserFeatures(f"u{n}", {"age": 10 * n}, START_MS) for n in range(9)))
    mobile, desktop = scores(engine, device="mobile"), scores(engine, device="desktop")
    assert mobile != desktop
    declare(engine, CHANGED)
    assert scores(engine, device="mobile") == mobile
    assert scores(engine, device="desktop") == desktop
    assert scores(engine, device="tablet") == scores(engine) == scores(engine, hour=23)
    assert engine.features is not None
    ages = {n: engine.features.of_user(engine.history.users.get(f"u{n}")) for n in (3, 8)}
    assert ages == {3: {"age": (30.0, START_MS)}, 8: {"age": (50.0, START_MS)}}
    assert engine.gate.decisions[-1].evidence["features"][1]["hour"]["max"] == 23
    declare(engine, {})
    assert "features" not in engine.state()["catalogue"]
    assert len(scores(feed(engine, list(by_device(410))[400:]))) == N_ITEMS


@pytest.mark.parametrize("learner", ["blend", "river:linear_model.LogisticRegression()"])
def test_a_log_whose_features_changed_goes_on_the_same_everywhere(learner: str) -> None:
    """Live, from a snapshot before the change, and from one after it, the bytes are the same."""
    records = stream()
    engines = [described(make_engine(features=ALL, learner=learner)) for _ in range(3)]

    def through_a_snapshot(engine: Engine) -> Engine:
        return Engine.from_state(snapshot.load([snapshot.dump(engine.state(), engine.cursor)]))

    for number, engine in enumerate(engines):
        feed(engine, records[:150])
        engine = through_a_snapshot(engine) if number == 1 else engine
        declare(engine, CHANGED)
        engine = through_a_snapshot(engine) if number == 2 else engine
        engines[number] = feed(engine, records[150:300])
    assert len({engine.hashes()["state_hash"] for engine in engines}) == 1
    assert len({fingerprint(engine.state()) for engine in engines}) == 1


def test_a_changed_declaration_ends_a_challenger_and_old_restores() -> None:
    """Nothing that was learned with other features comes back, and who asks is told why."""
    engine = described(make_engine(features=ALL, warmup_events=50))
    feed(engine, list(by_device(100)))
    before = engine.state()
    changes = {"covisit_shrink": 1.0}
    apply(engine, Command("start_challenger", "a test asks", "tester", changes=changes))
    assert engine.challenges.running is not None
    declare(engine, CHANGED)
    assert engine.challenges.view() is None
    assert "declare those of then" in str(restore(engine, before).results[0].reason)
    declare(engine, ALL)
    assert restore(engine, before).results[0].status == "applied"
    feed(engine, list(by_device(150))[100:])


def test_who_is_forgotten_exactly_leaves_no_features_in_the_log() -> None:
    """A log that is written anew without a user has no record of their features."""
    records: list[events.Record] = [UserFeatures(user, {"age": 1}, START_MS) for user in "uw"]
    kept = Identity("u").without(events.Entry(records), (1, 0)).records
    assert kept == records[1:]


def test_a_merged_user_has_the_later_of_two_features() -> None:
    """Of two features of one name the one that came later becomes the merged user's."""
    engine = make_engine(features={"age": AGE, "spend": AGE})
    apply(engine, UserFeatures("ana", {"age": 1, "spend": 1}, START_MS + 10))
    apply(
        engine,
        UserFeatures("anon", {"age": 2}, START_MS),
        UserFeatures("anon", {"spend": 2}, START_MS + 20),
    )
    apply(engine, UserMerge("ana", "anon"))
    assert engine.features is not None
    user = engine.history.users.get("ana")
    assert engine.features.of_user(user) == {
        "age": (1.0, START_MS + 10),
        "spend": (2.0, START_MS + 20),
    }


def test_put_replaces_and_patch_adds() -> None:
    """A record that replaces forgets what it does not name; one that does not leaves it."""
    engine = make_engine(features={"age": AGE, "spend": AGE})
    assert engine.features is not None
    apply(engine, UserFeatures("u", {"age": 1, "spend": 2}, START_MS))
    apply(engine, UserFeatures("u", {"age": 3}, START_MS))
    assert set(engine.features.of_user(0)) == {"age", "spend"}
    apply(engine, UserFeatures("u", {"spend": 4}, START_MS, True))
    assert engine.features.of_user(0) == {"spend": (4.0, START_MS)}
    apply(engine, UserFeatures("u", {"spend": None}, START_MS))
    assert engine.features.of_user(0) == {}
