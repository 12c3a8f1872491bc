from __future__ import annotations

import copy

import pytest

from app.engine import Engine
from app.events import Command
from app.recommend import Request
from learners.base import ANCHOR, CHAMPION, SHADOW
from tests.factories import (
    apply,
    click,
    command,
    configure,
    feed,
    make_settings,
    restore,
    sessions,
)
from tests.unit.clicking import NEVER, Shop, held, opened, twin_of


def slates_of(engine: Engine, version: int) -> list[list[str]]:
    """Return what each user would be shown by one version."""
    return [
        [s.item_id for s in engine.recommender.slate(Request(f"u{n}", k=10), version, 0)]
        for n in range(40)
    ]


# -- alarm and HOLD --------------------------------------------------------------------------------


def test_steady_clicks_raise_nothing() -> None:
    """A shop clicked as ever is promoted, and never alarms, in 3,000 slates."""
    shop = opened().run(1_800)
    assert set(shop.kinds()) == {"first_anchor", "promote"}
    assert shop.engine.n_impressions == 3_000


def test_answers_are_compared_only_after_500_slates() -> None:
    """Before the champion has learned what to expect, no clicks are held against it."""
    shop = Shop(warmup_events=100).run(400, flip=0.0).run(99, flip=1.0)
    assert shop.engine.gate.watch.clicks["clicks_over"].statistic == 0
    assert "alarm" not in shop.kinds()


@pytest.mark.parametrize(("flip", "within"), [(1.0, 50), (0.5, 100), (0.4, 150)])
def test_labels_turned_round_raise_the_alarm_and_enter_hold(flip: float, within: int) -> None:
    """The more clicks are turned round, the sooner; the anchor serves from then on."""
    shop = opened()
    assert shop.until("hold", flip=flip) <= within
    assert shop.kinds()[-2:] == ["alarm", "hold"]
    alarm = shop.evidence("alarm")
    assert alarm["detector"] == "clicks_over"
    assert alarm["statistic"] >= alarm["threshold"] == 1e5
    engine = shop.engine
    assert (engine.gate.data.state, engine.gate.served) == ("hold", CHAMPION)
    assert slates_of(engine, CHAMPION) == slates_of(engine, ANCHOR)
    assert slates_of(engine, CHAMPION) != slates_of(engine, SHADOW), "the branch goes on"
    assert engine.model_info()["gate"] == "hold"
    assert engine.gate.data.champion == engine.gate.data.anchor


def test_lost_clicks_enter_hold_too() -> None:
    """No clicks at all are fewer than expected."""
    shop = opened()
    assert shop.until("hold", lost=True) <= 120
    assert shop.evidence("alarm")["detector"] == "clicks_under"


def test_nothing_is_promoted_in_hold_while_the_branch_learns() -> None:
    """In HOLD neither promotion nor candidate nor question comes; the shadow learns on."""
    shop = held(candidate_events=100)
    engine = shop.engine
    n, version, learned = len(shop.kinds()), engine.gate.data.version, engine.n_learned
    shop.run(140)
    assert len(shop.kinds()) == n
    assert engine.gate.data.version == version
    assert engine.n_learned > learned + 50


# -- rollback and requeue --------------------------------------------------------------------------


def test_quiet_rolls_back_and_sets_the_window_aside() -> None:
    """When the alarm has been silent for 150 slates, what came while it rang is set aside."""
    shop = held()
    engine = shop.engine
    first, rang_at = engine.gate.data.anchor.event + 1, engine.gate.data.promoted.event
    shop.run(80, flip=1.0)
    heard_at = engine.n_events
    alarms = engine.gate.arbiter.evidence(engine.gate.now, engine.settings)["alarms"]
    assert alarms > 1, "it was heard again"
    assert 120 < shop.until("rollback") <= 150
    evidence = shop.evidence("rollback")
    *_, rollback, _, _ = engine.gate.decisions
    assert rollback.reason == "quiet"
    [begin, end] = evidence["set_aside"]
    assert first < begin <= rang_at < end <= heard_at
    assert evidence["learned_again"] == [[first, begin - 1], [end + 1, rollback.event]]
    assert shop.evidence("relearn")["learned"] > 500
    assert evidence["slates_since_alarm"] == 150
    assert evidence["alarms"] == alarms
    assert engine.gate.data.set_aside == [[begin, end]]
    assert slates_of(engine, CHAMPION) == slates_of(engine, ANCHOR)
    assert (engine.gate.data.state, engine.gate.reason) == ("ask", "probation")
    # What to expect is the anchor's again, too; one slate has been learned since.
    assert engine.clicks.n_learned[SHADOW] - engine.clicks.n_learned[ANCHOR] <= 1
    shop.until("promote")


def test_what_was_set_aside_is_learned_again_without_some_items() -> None:
    """A requeue teaches the shadow the window's events, but for those of the items named."""
    shop = held()
    engine = shop.engine
    shop.until("rollback")
    [[first, last]] = engine.gate.data.set_aside = [[701, engine.n_events]]
    before = slates_of(engine, SHADOW)
    barred = {engine.history.items.get(item) for item in ("i3", "i4")}
    kept = [one and one.item for one in engine.window.events(first, last, set())]
    n_barred = sum(item in barred for item in kept)
    ask = Command("requeue", "it was sound", "tester", without=["i3", "i4"])
    assert apply(engine, ask).results[0].status == "applied"
    assert shop.kinds()[-2:] == ["requeue", "relearn"]
    evidence = shop.evidence("relearn")
    assert evidence["windows"] == [[first, last]]
    assert evidence["without"] == ["i3", "i4"]
    assert evidence["left_out"] == n_barred > 10
    assert evidence["learned"] == len(kept) - n_barred
    assert evidence["forgotten"] == last - first + 1 - len(kept) == 0
    assert slates_of(engine, SHADOW) != before
    assert engine.gate.data.set_aside == []
    assert command(engine, "requeue") == "nothing is set aside"


def test_no_rollback_learns_again_what_a_restore_has_undone() -> None:
    """What came after the snapshot is set aside with it, until somebody asks for it."""
    shop = opened()
    engine = shop.engine
    saved = copy.deepcopy(engine.state())
    undone = [engine.n_events + 1, shop.run(100).engine.n_events]
    restore(engine, saved)
    assert shop.evidence("restore")["set_aside"] == undone
    assert engine.gate.data.set_aside == [undone]
    shop.until("hold", flip=1.0)
    shop.until("rollback")
    again = shop.evidence("relearn")["windows"]
    assert again
    assert all(last < undone[0] or first > undone[1] for first, last in again)
    assert undone in engine.gate.data.set_aside
    assert command(engine, "requeue") is None
    assert any(first <= undone[0] <= last for first, last in shop.evidence("relearn")["windows"])


def test_a_requeue_is_refused_in_hold() -> None:
    """While it is open whether the branch is right, nothing is learned again."""
    shop = held()
    shop.until("rollback")
    shop.until("promote")
    shop.run(600).until("hold", flip=1.0)
    assert "HOLD" in (command(shop.engine, "requeue") or "")


def test_a_hold_without_end_is_taken_for_drift() -> None:
    """Where the alarm goes on and nothing is proven, HOLD ends in learning it, and serving it."""
    shop = held(hold_events=600, hold_quiet=NEVER)
    shop.until("rollback", flip=1.0)
    assert shop.kinds()[-4:] == ["no_proof", "rollback", "relearn", "promote"]
    assert shop.engine.gate.decisions[-3].reason == "hold_max"
    assert shop.engine.gate.data.set_aside == []
    champion = shop.engine.gate.data.champion
    assert champion.event == shop.engine.gate.decisions[-1].event
    assert shop.engine.gate.data.state == "open"


# -- ASK -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("semantics", [8, 9])
def test_ask_takes_no_answer_to_what_is_shown(semantics: int) -> None:
    """What answers a slate counts where neither version shows its item high, and else if it does
    not; before semantics version 9 all of it did. So it is after a restart.
    """
    settings = make_settings(warmup_events=100)
    engine = Engine(settings)
    apply(engine, configure(settings, semantics=semantics))
    feed(engine, sessions(600))
    engine.gate.ask("a test asks", {})
    engine = Engine.from_state(engine.state())
    trial = engine.gate.data.ask_trial
    assert trial is not None
    apply(engine, click("ana", "g03i1", at_s=700), click("ana", "g03i2", at_s=701))
    n_before = trial.n
    best = engine.recommend(Request("ana", k=50)).items
    for place, expected in ((0, semantics < 9), (40, True)):
        apply(engine, click("ana", best[place].item_id, at_s=702, recommendation_id="r1"))
        assert trial.n == n_before + expected
        n_before = trial.n
    best = engine.recommend(Request("ana", k=50)).items
    apply(engine, click("ana", best[0].item_id, at_s=703))
    assert trial.n == n_before + 1


# -- snapshots -------------------------------------------------------------------------------------


@pytest.mark.parametrize("later", [0, 100])
def test_a_snapshot_in_hold_continues_to_the_same_hashes(later: int) -> None:
    """An engine made from a state in HOLD decides, and is, as the original from then on."""
    shop = held().run(later)
    engine = shop.engine
    hold = engine.gate.arbiter.hold
    assert hold is not None
    for n in range(5):  # some credits are part of it
        draft = f"hold:{hold.number}:{'ab'[n % 2]}"
        apply(engine, shop.answer(f"u{n}", "i7", f"drafted-{n}", draft=draft))
    twin = twin_of(shop)
    assert twin.engine.hashes() == engine.hashes()
    for _ in range(6):
        shop.run(50)
        twin.run(50)
        assert twin.engine.hashes() == engine.hashes()
    assert "rollback" in shop.kinds()
    assert twin.kinds() == shop.kinds()
    command(engine, "requeue")
    command(twin.engine, "requeue")
    assert twin.engine.hashes() == engine.hashes()
