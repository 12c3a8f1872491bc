from __future__ import annotations

import copy
import random
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from app.engine import TUNABLE, Engine
from app.errors import LogStopped
from app.events import (
    Command,
    Configure,
    Entry,
    Feedback,
    ItemDelete,
    Malformed,
    UserDelete,
    UserUpsert,
)
from app.recommend import Request
from app.serving import is_chosen
from app.settings import SEMANTICS
from app.watch import LOSS
from learners.base import ANCHOR, CANDIDATE, CHAMPION, SHADOW
from tests.factories import (
    START_MS,
    apply,
    click,
    command,
    configure,
    feed,
    fingerprint,
    make_engine,
    make_settings,
    replace_item,
    restore,
    sessions,
    upsert,
)

NEVER = 10**9
Rows = dict[str, tuple[float, dict[str, float]]]


def kinds(engine: Engine) -> list[str]:
    """Return the kinds of all decisions, in order."""
    return [decision.kind for decision in engine.gate.decisions]


def covisit_rows(engine: Engine, version: int) -> Rows:
    """Return a version's co-visitation by item id: mass, and weight per living neighbour."""
    history, rows = engine.history, engine.learner.covisit.neighbours
    found: Rows = {}
    for item_id, index in history.items.index.items():
        slot = int(engine.learner.covisit.rows.slots[version][index])
        if slot:
            size = int(rows.size[slot])
            pairs = zip(rows.handle[slot, :size].tolist(), rows.weight[slot, :size].tolist())
            named = {str(history.item_id(h)): w for h, w in pairs if h >= 0}
            named.pop("None", None)
            found[str(item_id)] = (float(rows.mass[slot]), named)
    return found


def trending_list(engine: Engine, version: int) -> list[str]:
    """Return a version's trending list by item id."""
    trending = engine.learner.trending
    handles = trending.top[version][0, : trending.top_size[version][0]].tolist()
    return [str(engine.history.item_id(handle)) for handle in handles]


# -- answers ---------------------------------------------------------------------------------------


def test_each_record_has_its_answer() -> None:
    """An entry's results tell, in order, what became of each record; what was refused is kept."""
    engine = make_engine()
    outcome = apply(
        engine,
        click("u", "a", event_id="1"),
        click("u", "a", event_id="1"),
        Malformed("schema", "no user", "2"),
        click("u", "a", event_id="3", at_s=100_000),
        click("u", "a", event_id="4"),
        click("u", "a", event_id="5", type="nonsense"),
        upsert("b"),
        Command("promote", "now", "tester"),
    )
    assert [(r.event_id, r.status, r.reason) for r in outcome.results[:7]] == [
        ("1", "learned", None), ("1", "duplicate", None), ("2", "quarantined", "schema"),
        ("3", "learned", "repeat"), ("4", "late", "late"), ("5", "quarantined", "unknown_type"),
        (None, "applied", None),
    ]  # fmt: skip
    assert outcome.results[7].status == "refused"
    assert [index for index, _ in outcome.quarantined] == [2, 4, 5]
    assert engine.cursor == outcome.cursor


def test_decisions_come_with_their_cursor() -> None:
    """What the gate decided during an entry is in its outcome, stamped with its cursor."""
    engine = make_engine(warmup_events=10, promote_events=20, overlap_min=0)
    outcome = apply(engine, *sessions(50))
    assert [d.kind for d in outcome.decisions] == ["first_anchor", "promote", "promote"]
    assert {d.cursor for d in outcome.decisions} == {outcome.cursor}
    assert (outcome.version_before, outcome.version_after) == (0, 3)
    assert apply(engine, click("u", "a")).decisions == []


def test_quality_is_measured_before_learning() -> None:
    """An item is judged before it is learned, by every version, and a repeat never."""
    engine = make_engine(warmup_events=2, promote_events=NEVER, candidate_events=NEVER)
    pairs = [("u", "a"), ("u", "b"), ("v", "a"), ("v", "b")]
    feed(engine, [click(u, i, at_s=s) for s, (u, i) in enumerate(pairs)])
    n = {name: prequential.n for name, prequential in engine.prequential.items()}
    assert n == {"champion": 4, "shadow": 4, "anchor": 2}
    apply(engine, click("v", "b", at_s=9))
    assert engine.prequential["champion"].n == 4
    apply(engine, click("v", "c", at_s=9, type="skip"))
    assert engine.prequential["champion"].n == 4


def test_a_share_of_the_events_is_judged() -> None:
    """Which events are judged is a matter of their ids; all of them are learned."""
    sent = sessions(1_000)
    whole = feed(make_engine(gate="off"), sent)
    some = feed(make_engine(gate="off", judge_share=0.25), sent)
    n = whole.prequential["shadow"].n
    assert 0.2 * n < some.prequential["shadow"].n < 0.3 * n
    assert some.n_learned == whole.n_learned == 1_000
    for engine in (whole, some):
        assert engine.recommend(Request("stranger", k=5)).items
    chosen = [is_chosen(event.event_id, 0.25, "judge") for event in sent]
    assert [is_chosen(event.event_id, 0.25, "judge") for event in reversed(sent)] == chosen[::-1]
    assert all(
        is_chosen(e.event_id, 0.5, "judge") for e, was in zip(sent, chosen, strict=True) if was
    )


def test_a_clock_that_is_ahead_does_not_keep_others_from_being_judged() -> None:
    """Of 90 events a second all are judged, where 100 are to be, though one client is 5 s ahead."""
    even, ahead = (make_engine(gate="off", judge_per_s=100) for _ in range(2))
    for number, event in enumerate(sessions(2_700, n_users=150)):
        now_ms = START_MS + number * 1_000 // 90
        if number % 450 == 0:
            view = click("else", "where", type="dislike", at_s=(now_ms - START_MS) / 1_000 + 5)
            apply(ahead, view, arrival_ms=now_ms)
        for engine in (even, ahead):
            apply(engine, replace(event, time_ms=now_ms), arrival_ms=now_ms)
    assert ahead.prequential["shadow"].n == even.prequential["shadow"].n > 2_000


def test_unknown_items_are_refused_where_the_settings_say_so() -> None:
    """Without `create_unknown_items` feedback names items of the catalogue alone."""
    engine = make_engine(create_unknown_items=False)
    apply(engine, upsert("a"))
    before = engine.hashes()["model_hash"]
    assert apply(engine, click("u", "b")).results[0].reason == "unknown_item"
    assert engine.hashes()["model_hash"] == before
    assert apply(engine, click("u", "a")).results[0].status == "learned"


def test_a_duplicate_is_a_duplicate_after_its_item_is_gone() -> None:
    """An event learned once is answered `duplicate` for ever, also when its item was deleted."""
    engine = make_engine(create_unknown_items=False)
    apply(engine, upsert("a"))
    apply(engine, click("u", "a", event_id="1"))
    apply(engine, ItemDelete("a"))
    before = engine.hashes()
    assert apply(engine, click("u", "a", event_id="1")).results[0].status == "duplicate"
    assert engine.hashes() == before


def test_attributes_have_a_bound() -> None:
    """An item that would have more than 64 attributes is refused, and stays as it was."""
    engine = make_engine()
    apply(engine, upsert("a", attributes={f"n{n}": n for n in range(60)}))
    before = engine.catalogue.view(engine.history.items.get("a"))
    more = upsert("a", "new", attributes={f"m{n}": n for n in range(5)})
    [result] = apply(engine, more).results
    assert (result.status, "65 attributes" in str(result.reason)) == ("refused", True)
    assert engine.catalogue.view(engine.history.items.get("a")) == before


# -- forgetting ------------------------------------------------------------------------------------


def test_a_deleted_user_is_forgotten() -> None:
    """After DELETE neither history nor attributes of a user are left anywhere in the state."""
    engine = make_engine()
    apply(engine, UserUpsert("bob-the-user", {"email": "bob@example.org"}))
    apply(engine, click("bob-the-user", "a"))
    apply(engine, UserDelete("bob-the-user"))
    assert "bob" not in repr(engine.state()["history"])
    assert "bob" not in repr(engine.state()["catalogue"])
    assert apply(engine, UserDelete("never-seen")).results[0].status == "applied"


def test_a_deleted_item_is_forgotten() -> None:
    """A deleted item is shown to nobody and known to no version; it may come back bare."""
    engine = feed(make_engine(), sessions(600))
    apply(engine, upsert("g00i0", "x"))
    apply(engine, ItemDelete("g00i0"))
    for version in (SHADOW, CHAMPION, ANCHOR, CANDIDATE):
        assert "g00i0" not in covisit_rows(engine, version)
        assert "g00i0" not in trending_list(engine, version)
    everything = engine.recommend(Request(k=200)).items
    assert "g00i0" not in {scored.item_id for scored in everything}
    apply(engine, upsert("g00i0"))
    assert engine.catalogue.view(engine.history.items.get("g00i0"))["categories"] == []
    assert "g00i0" not in covisit_rows(engine, SHADOW)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under an endless stream of new users, items, ids and attributes the state stops growing."""
    monkeypatch.setattr("app.id_share._MAX_COUNTED", 100)
    engine = make_engine(
        max_items=100, max_users=100, dedupe_window=300, overlap_min=0, cap_window_s=500
    )

    def grow(start: int) -> int:
        for n in range(start, start + 2_000):
            apply(
                engine,
                UserUpsert(f"v{n}", {"n": n}),
                upsert(f"i{n}", f"c{n}", attributes={"n": n}),
                click(f"u{n // 3}", f"j{n}", event_id=f"e{n}", at_s=n),
            )
        assert len(engine.history.users) <= 100
        assert len(engine.history.items) <= 100
        assert len(engine.catalogue.attributes) <= 100
        assert len(engine.catalogue.user_attributes) <= 100
        assert len(engine.admission.window()) <= 300 * 16
        return len(fingerprint(engine.state() | {"gate": None}))

    grow(100_000)
    assert grow(102_000) == pytest.approx(grow(104_000), rel=0.05)


def test_learning_past_an_exhausted_pool_leaves_no_row_without_an_item() -> None:
    """Where learning has to evict, no row is written for an item that is gone."""
    engine = make_engine(
        max_items=100, max_users=100, overlap_min=0, harm_alarm=1e12, promote_events=150
    )
    chance = random.Random(4)
    rows = engine.learner.covisit.rows
    for n in range(1_500):
        user, item = f"u{chance.randrange(80)}", f"i{chance.randrange(130)}"
        apply(engine, click(user, item, event_id=f"e{n}", at_s=n))
        free = engine.history.items.free
        assert [int(s[i]) for s in rows.slots for i in free if s[i]] == [], f"event {n}"


# -- the gate on real learners ---------------------------------------------------------------------


def test_learning_is_promoted_and_blessed() -> None:
    """On a steady stream the champion follows, the anchor is blessed, and nothing alarms."""
    engine = feed(make_engine(), sessions(3_000))
    assert kinds(engine).count("promote") > 20
    assert engine.gate.data.n_blessings > 1
    assert "alarm" not in kinds(engine)
    view = engine.prequential["champion"].view()["recent"]
    assert view["hr_10"] > 0.7


def test_a_wiped_shadow_is_not_promoted() -> None:
    """Shared state that was lost differs so much from what serves that it is refused."""
    engine = feed(make_engine(candidate_events=NEVER), sessions(1_000))
    engine.learner.assign(SHADOW, CANDIDATE)  # never put aside: it is empty
    champion = covisit_rows(engine, CHAMPION)
    feed(engine, sessions(60, seed=2, start=1_000))
    refused = [
        d for d in engine.gate.decisions if d.kind == "promotion_refused" and d.event > 1_000
    ]
    assert refused[0].evidence["overlap"] < 0.3
    assert engine.gate.data.state == "ask"
    assert covisit_rows(engine, CHAMPION) == champion
    feed(engine, sessions(300, seed=3, start=2_000))
    assert "shadow_reset" in kinds(engine)


def test_a_wiped_shadow_that_was_promoted_is_rolled_back() -> None:
    """With the overlap check off, harm is noticed; the anchor serves, the window is relearned."""
    engine = make_engine(candidate_events=NEVER, overlap_min=0, promote_events=200)
    feed(engine, sessions(1_000))
    command(engine, "promote")
    engine.learner.assign(ANCHOR, SHADOW)
    good = covisit_rows(engine, ANCHOR)
    engine.learner.assign(SHADOW, CANDIDATE)
    command(engine, "promote")
    events = sessions(2_000, seed=2, start=1_000)
    while "rollback" not in kinds(engine) and events:
        apply(engine, events.pop(0))
    assert kinds(engine)[-4:] == ["alarm", "rollback", "ask", "relearn"]
    assert len(events) > 1_500
    assert covisit_rows(engine, CHAMPION) == good
    relearned = engine.gate.decisions[-1].evidence
    assert relearned["learned"] == engine.n_events - 1_000 + 800
    assert set(covisit_rows(engine, SHADOW)) == set(good)


def test_permuted_ids_ask_and_are_learned() -> None:
    """When all items swap names the loss jumps: the gate asks, then opens: it is a real change."""
    engine = feed(make_engine(harm_alarm=1e12), sessions(4_000))
    assert engine.gate.data.is_blessed
    names = sorted({event.item_id for event in sessions(4_000)})
    swapped = dict(zip(names, random.Random(1).sample(names, len(names))))
    feed(engine, replace_item(sessions(3_000, seed=2, start=4_000), swapped))
    after = [d for d in engine.gate.decisions if d.event > 4_000]
    alarm = next(d for d in after if d.kind == "alarm")
    assert alarm.evidence["mean_before"] < alarm.evidence["mean_after"]
    assert next(d for d in after if d.kind == "ask").event < 4_500
    assert "ask_resolved" in {d.kind for d in after}
    assert engine.gate.data.champion.event > 5_000


def test_the_gate_does_not_starve_the_champion() -> None:
    """On a clean stream over many items the champion goes on learning, however slates change."""
    engine = make_engine(max_items=3_000, max_users=3_000)
    feed(engine, sessions(4_000, n_groups=200))
    assert engine.n_events - engine.gate.data.champion.event < 500


def test_a_gate_that_is_off_serves_the_shadow() -> None:
    """Off, what was learned is served at once."""
    engine = feed(make_engine(gate="off"), sessions(600))
    apply(engine, *[click("u", i, at_s=900 + n) for n, i in enumerate(["a", "b", "a", "b"])])
    assert engine.gate.served == SHADOW
    assert engine.similar("a", 1).items[0].item_id == "b"


# -- commands and restore --------------------------------------------------------------------------


def test_commands_are_records_like_others() -> None:
    """An operator's command moves the gate and answers; a refusal says why."""
    calm = {"promote_events": NEVER, "promote_s": NEVER}
    engine = feed(make_engine(overlap_min=0, **calm), sessions(300))
    assert command(engine, "promote") is None
    assert command(engine, "freeze") is None
    assert "frozen" in (command(engine, "promote") or "")
    assert command(engine, "promote", force=True) is None
    assert command(engine, "rollback") is None
    assert kinds(engine)[1:] == ["promote", "freeze", "promote", "rollback"]


def test_a_restore_brings_back_the_versions_alone() -> None:
    """Shadow, champion, anchor return; histories, had-sets, dedupe and watermark stay."""
    engine = feed(make_engine(), sessions(700))
    saved = copy.deepcopy(engine.state())
    then = [covisit_rows(engine, version) for version in range(3)]
    feed(engine, sessions(500, seed=2, start=700))
    assert [covisit_rows(engine, version) for version in range(3)] != then
    personal = fingerprint(engine.history.state()), engine.admission.window(), engine.n_events
    version = engine.gate.data.version
    assert restore(engine, saved).results[0].status == "applied"
    assert [covisit_rows(engine, version) for version in range(3)] == then
    assert (
        fingerprint(engine.history.state()),
        engine.admission.window(),
        engine.n_events,
    ) == personal
    assert engine.gate.data.version == version + 1
    assert kinds(engine)[-1] in ("restore", "ask")


def test_a_restore_under_other_indices() -> None:
    """Whatever was deleted or made since the snapshot, rows come back under their own ids."""
    engine = feed(make_engine(), sessions(700))
    saved = copy.deepcopy(engine.state())
    then = [covisit_rows(engine, version) for version in range(3)]
    lists = [trending_list(engine, version) for version in range(3)]
    gone, back = ["g01i1", "g02i2", "g03i3"], "g04i4"
    for item in (*gone, back):
        apply(engine, ItemDelete(item))
    apply(engine, *[upsert(f"new{n}") for n in range(3)], upsert(back))
    restore(engine, saved)
    for version in range(3):
        expected = {
            item: (mass, {other: w for other, w in named.items() if other not in gone})
            for item, (mass, named) in then[version].items()
            if item not in gone
        }
        assert covisit_rows(engine, version) == expected
        kept = [item for item in lists[version] if item not in gone]
        assert trending_list(engine, version) == kept
    twin = Engine.from_state(copy.deepcopy(engine.state()))
    for one in (engine, twin):
        feed(one, sessions(300, seed=9, start=3_000))
    assert engine.hashes() == twin.hashes()


def test_a_restored_engine_scores_items_that_the_snapshot_did_not_know() -> None:
    """After a restore, a copy of the engine and the engine itself go on to the same bytes."""
    engine = feed(make_engine(overlap_min=0), sessions(300))
    saved = copy.deepcopy(engine.state())
    apply(engine, click("u", "brand-new", at_s=400), click("u", "g00i0", at_s=401))
    restore(engine, saved)
    apply(engine, click("u", "g00i1", at_s=402))
    twin = Engine.from_state(copy.deepcopy(engine.state()))
    for one in (engine, twin):
        apply(one, click("v", "g00i1", at_s=403), click("v", "brand-new", at_s=404))
    assert engine.hashes() == twin.hashes()


def test_a_restore_without_its_snapshot_stops() -> None:
    """A log that restores what is not there cannot be followed."""
    engine = feed(make_engine(), sessions(300))
    before = engine.hashes()
    with pytest.raises(LogStopped, match="snapshot s that the log restores is missing"):
        apply(engine, Command("restore", "why", "tester", snapshot_id="s"))
    assert engine.hashes() == before


# -- settings in the log ---------------------------------------------------------------------------


def test_a_log_begins_with_its_settings() -> None:
    """Nothing can be applied before Configure."""
    engine = Engine(make_settings())
    with pytest.raises(LogStopped, match="does not begin with its settings"):
        apply(engine, click("u", "a"))


@pytest.mark.parametrize(
    "record",
    [
        Configure(SEMANTICS + 1, make_settings().model_dump(mode="json")),
        Configure(SEMANTICS, make_settings(seed=2).model_dump(mode="json")),
        Configure(SEMANTICS, make_settings(promote_events=9).model_dump(mode="json")),
        Configure(SEMANTICS, make_settings().model_dump(mode="json") | {"unheard_of": 1}),
        Configure(SEMANTICS, make_settings().model_dump(mode="json") | {"max_items": 1}),
    ],
    ids=["semantics", "fixed", "tunable", "unheard-of", "out-of-bounds"],
)
def test_settings_that_are_not_ours_stop_the_log(record: Configure) -> None:
    """Another semantics, other settings, or settings that we cannot read: the log stops here."""
    engine = Engine(make_settings())
    before = engine.hashes()
    with pytest.raises(LogStopped):
        apply(engine, record)
    assert engine.hashes() == before
    assert not engine.is_configured


def test_a_second_first_entry_changes_nothing() -> None:
    """Of two replicas that begin a log, the first one's settings hold."""
    engine = make_engine()
    before = engine.hashes()
    apply(engine, configure(make_settings(seed=2, promote_events=9)))
    assert engine.hashes() == before


TUNED: list[tuple[str, Any]] = [
    ("promote_events", 9), ("overlap_min", 0.1), ("candidate_s", 9), ("harm_alarm", 99.0),
    ("ask_judged", 9), ("bless_judged", 9), ("lateness_s", 9), ("future_s", 9),
    ("rewards", {"click": 0.5}), ("rating_positive", 3.0), ("create_unknown_items", False),
    ("adwin_delta", 0.5),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), TUNED)
def test_what_is_tunable_can_be_reconfigured(name: str, value: object) -> None:
    """A new Configure changes what may change, from there on, and leaves a record."""
    assert name in TUNABLE
    engine = feed(make_engine(), sessions(250))
    settings = make_settings(**{name: value})
    outcome = apply(engine, configure(settings, reconfigure=True))
    assert engine.settings == engine.gate.settings == engine.admission.settings == settings
    assert [d.kind for d in outcome.decisions] == ["configure"]
    assert next(iter(outcome.decisions[0].evidence)) == name
    feed(engine, sessions(100, seed=2, start=250))
    twin = Engine.from_state(copy.deepcopy(engine.state()))
    assert twin.hashes() == engine.hashes()


def test_a_reconfigured_significance_is_used() -> None:
    """ADWIN asks at the `adwin_delta` that the settings say, not at the one of the start."""
    engine = make_engine()
    apply(engine, configure(make_settings(adwin_delta=0.5), reconfigure=True))
    assert engine.gate.watch.drift[LOSS].delta == 0.5


def test_reconfigured_lateness_is_used() -> None:
    """From the new Configure on, an event is late by the new lateness."""
    engine = make_engine()
    apply(engine, click("u", "a", at_s=100))
    assert apply(engine, click("u", "b", at_s=50)).results[0].status == "learned"
    apply(engine, configure(make_settings(lateness_s=9), reconfigure=True))
    assert apply(engine, click("u", "c", at_s=50)).results[0].status == "late"


def test_reconfigured_rewards_leave_what_was_had_as_it_was() -> None:
    """An event keeps the type under which it came, also when types are added."""
    engine = make_engine()
    apply(engine, click("u", "a", type="view"))

    def type_of_a() -> str:
        had = engine.history.had(engine.history.users.get("u"))[0]
        return engine.types[had.type_index]

    assert type_of_a() == "view"
    rewards = {"aaa": 1.0} | engine.settings.rewards
    apply(engine, configure(make_settings(rewards=rewards), reconfigure=True))
    assert type_of_a() == "view"


@pytest.mark.parametrize(
    "change", [{"seed": 2}, {"max_items": 101}, {"history_length": 17}, {"gate": "off"}]
)
def test_what_is_fixed_cannot_be_reconfigured(change: dict[str, Any]) -> None:
    """What shapes arrays or scores stays for the life of a log."""
    engine = feed(make_engine(), sessions(100))
    before = engine.hashes()
    with pytest.raises(LogStopped, match=next(iter(change))):
        apply(engine, configure(make_settings(**change), reconfigure=True))
    assert engine.hashes() == before


def test_no_shrinkage_is_finite() -> None:
    """With covisit_shrink = 0, which the settings allow, every score is finite, also reloaded."""
    engine = make_engine(covisit_shrink=0.0, warmup_events=50, overlap_min=0)
    feed(engine, sessions(100))
    apply(engine, click("u", "new", at_s=200), click("u", "g00i0", at_s=201))
    command(engine, "rollback")
    apply(engine, click("u", "g00i1", at_s=202))
    twin = Engine.from_state(copy.deepcopy(engine.state()))
    for one in (engine, twin):
        slate = one.recommend(Request(history=["g00i1"], k=100)).items
        assert all(np.isfinite(scored.score) for scored in slate)


# -- state -----------------------------------------------------------------------------------------


def test_a_copied_state_stays() -> None:
    """A state lends; a deep copy of it does not change while the engine goes on."""
    engine = feed(make_engine(), sessions(300))
    apply(engine, UserUpsert("bob", {"n": 1}), upsert("g00i0", "x", attributes={"n": 1}))
    state = copy.deepcopy(engine.state())
    before = fingerprint(state)
    assert before == fingerprint(engine.state())
    feed(engine, sessions(300, seed=2, start=300))
    apply(engine, UserUpsert("eve", {"n": 1}), upsert("g00i0", "y", attributes={"m": 1}))
    restore(engine, copy.deepcopy(engine.state()))
    assert fingerprint(state) == before
    assert before != fingerprint(engine.state())


def test_entries_of_the_wire_are_entries_of_the_engine() -> None:
    """An engine fed with decoded entries ends like one fed with the originals."""
    from app.events import decode, encode

    events: list[Feedback] = sessions(100)
    one, other = make_engine(), make_engine()
    for event in events:
        entry = Entry([event], None)
        cursor = f"{one.n_events + 2}-0"
        one.apply(entry, cursor)
        other.apply(decode(encode(entry)), cursor)
    assert one.hashes() == other.hashes()
