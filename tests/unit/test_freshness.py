from __future__ import annotations

import copy
from typing import Any

import pytest
from pydantic import ValidationError

from app.engine import Engine
from app.freshness import freshness_of
from app.recommend import Request
from tests.factories import (
    apply,
    click,
    configure,
    feed,
    make_engine,
    make_settings,
    restore,
    sessions,
)

TIERS = ("per_event", "micro_batch", "two_tier", "batch", "frozen")


def warm(**changes: Any) -> Engine:
    """Return an engine that has its first anchor, after 400 s."""
    return feed(make_engine(**changes), sessions(400))


def shown(engine: Engine, user: str) -> list[str]:
    """Return what a user would be shown."""
    return [scored.item_id for scored in engine.recommend(Request(user, k=10)).items]


@pytest.mark.parametrize(
    ("changes", "personal", "shared"),
    [
        ({}, 0, 0),
        ({"freshness": "micro_batch"}, 10, 10),
        ({"freshness": "micro_batch", "freshness_personal_s": 0, "freshness_shared_s": 5}, 0, 5),
        ({"freshness": "two_tier"}, 0, 600),
        ({"freshness": "two_tier", "freshness_shared_s": 3_600}, 0, 3_600),
        ({"freshness": "batch"}, 86_400, 86_400),
        ({"freshness": "frozen"}, "never", "never"),
    ],
)
def test_a_tier_has_its_delays(changes: dict[str, Any], personal: Any, shared: Any) -> None:
    """Each tier means a delay of personal and of shared state, which some can be given."""
    view = freshness_of(make_settings(**changes)).view()
    assert view == {"personal_s": personal, "shared_s": shared}


@pytest.mark.parametrize("tier", TIERS)
def test_a_delay_that_a_tier_does_not_have_is_refused(tier: str) -> None:
    """A delay set for a tier that has its own is an error that says which tiers take it."""
    if tier != "micro_batch":
        with pytest.raises(ValidationError, match=r"freshness_personal_s.*only micro_batch can"):
            make_settings(freshness=tier, freshness_personal_s=5)
    if tier not in ("micro_batch", "two_tier"):
        with pytest.raises(ValidationError, match="only micro_batch and two_tier can"):
            make_settings(freshness=tier, freshness_shared_s=5)


def test_during_warm_up_everything_is_live() -> None:
    """Before the first anchor the tiers do the same: the first minute has to serve something."""
    events = sessions(150)
    found = [feed(make_engine(freshness=tier), events).hashes()["model_hash"] for tier in TIERS]
    assert len(set(found)) == 1


def test_personal_state_waits_for_the_batch() -> None:
    """What somebody does shows in their list with the first event of the next batch, not before."""
    engine = warm(freshness="micro_batch", freshness_personal_s=60, freshness_shared_s="never")
    before = shown(engine, "somebody")
    apply(engine, click("somebody", "g00i1", at_s=440))  # 440 s after a full minute and 40 s
    apply(engine, click("somebody", "g00i2", at_s=450))
    assert shown(engine, "somebody") == before
    apply(engine, click("another", "g09i1", at_s=499))
    assert shown(engine, "somebody") == before
    apply(engine, click("another", "g09i2", at_s=500))
    after = shown(engine, "somebody")
    assert "g00i1" not in after
    assert after[0].startswith("g00")
    assert engine.history.events(engine.history.users.get("somebody"))[0][0] == "g00i2"


def test_two_tier_knows_the_user_at_once() -> None:
    """In two_tier a list follows its user's last event, whatever is promoted when."""
    engine = warm(freshness="two_tier")
    version = engine.gate.data.version
    apply(engine, click("somebody", "g00i1", at_s=450))
    assert shown(engine, "somebody")[0].startswith("g00")
    assert engine.gate.data.version == version


def test_shared_state_is_promoted_when_the_batch_is_over() -> None:
    """Promotions come with the first event of each batch, and with no other."""
    engine = warm(freshness="two_tier", freshness_shared_s=300)
    before = engine.gate.data.version
    feed(engine, sessions(900, start=400))
    promoted = [d for d in engine.gate.decisions if d.kind == "promote"]
    assert engine.gate.data.version == before + 3
    assert [d.time_ms % 300_000 for d in promoted[-3:]] == [0, 0, 0]


def test_what_is_frozen_learns_nothing() -> None:
    """In frozen an event counts for its user's history alone; its answer says so."""
    engine = warm(freshness="frozen")
    n_learned, version = engine.n_learned, engine.gate.data.version
    outcome = apply(engine, click("somebody", "g00i1", at_s=450))
    assert (outcome.results[0].status, outcome.results[0].reason) == ("learned", "frozen")
    feed(engine, sessions(300, start=500))
    assert (engine.n_learned, engine.gate.data.version) == (n_learned, version)
    assert engine.prequential["champion"].n > engine.prequential["shadow"].n


def test_a_late_event_waits_like_any_other() -> None:
    """What comes with an old time is not known before the next batch, either."""
    engine = warm(freshness="micro_batch", freshness_personal_s=60, freshness_shared_s="never")
    apply(engine, click("another", "g09i1", at_s=450))
    before = shown(engine, "somebody")
    apply(engine, click("somebody", "g00i1", at_s=100))
    assert shown(engine, "somebody") == before
    apply(engine, click("another", "g09i2", at_s=520))
    assert shown(engine, "somebody") != before


def test_a_refused_promotion_is_made_up_for() -> None:
    """Where the gate asks at the end of a batch, it promotes when that is resolved."""
    engine = warm(freshness="two_tier", freshness_shared_s=300, overlap_min=1.0)
    feed(engine, sessions(110, start=400, seed=9))
    assert engine.gate.data.state == "ask"
    feed(engine, sessions(engine.settings.ask_judged, start=510, seed=9))
    kinds = [d.kind for d in engine.gate.decisions]
    assert kinds[kinds.index("ask_resolved") + 1] == "promote"


def test_tiers_change_while_the_log_goes_on() -> None:
    """A log can go from one tier to another and back; then it serves all there is, at once."""
    engine = warm(freshness="micro_batch", freshness_personal_s=60, freshness_shared_s=60)
    apply(engine, click("somebody", "g00i1", at_s=450))
    assert "g00i1" in shown(engine, "somebody") or not shown(engine, "somebody")[0].startswith(
        "g00"
    )
    apply(engine, configure(make_settings(), reconfigure=True))
    live = shown(engine, "somebody")
    assert "g00i1" not in live
    assert live[0].startswith("g00")
    batch = make_settings(freshness="batch")
    apply(engine, configure(batch, reconfigure=True))
    apply(engine, click("somebody", "g05i1", at_s=455))
    assert shown(engine, "somebody") == live


def test_who_is_forgotten_leaves_no_copy() -> None:
    """What is kept of a user from before the batch goes with the user."""
    engine = warm(freshness="batch")
    apply(engine, click("s0-1", "g03i1", at_s=450))
    apply(engine, click("s0-1", "g03i2", at_s=451))
    index = engine.history.users.get("s0-1")
    assert engine.history.as_of.holds(index)
    engine.history.forget_user("s0-1")
    assert not engine.history.as_of.holds(index)
    assert not engine.history.as_of.ring[index].any()


def test_the_default_keeps_no_copies() -> None:
    """Where personal state is live, nothing is copied, and a snapshot has nothing more in it."""
    engine = warm()
    assert not engine.history.as_of.is_on
    assert "as_of" not in engine.history.state()


def test_unguarded_tiers_promote_unasked() -> None:
    """With the gate off a batch is promoted whatever it holds, and per_event serves the shadow."""
    assert warm(gate="off").gate.data.version == 0
    engine = warm(gate="off", freshness="two_tier", freshness_shared_s=60, overlap_min=1.0)
    assert engine.gate.data.state == "open"
    evidence = [d.evidence for d in engine.gate.decisions if d.kind == "promote"]
    assert len(evidence) >= 3
    assert all(found["overlap"] is None for found in evidence)


def test_a_restore_asks_nothing_of_a_gate_that_is_off() -> None:
    """What it serves differs from what it served before, and shared state goes on coming.

    Nothing would ever answer a question, so lists would stay as they were for good.
    """
    engine = warm(gate="off", freshness="two_tier", freshness_shared_s=10)
    snapshot = copy.deepcopy(engine.state())
    feed(engine, sessions(1_500, seed=9, n_groups=30, start=2_000))
    restore(engine, snapshot)
    restored = engine.gate.decisions[-1]
    assert (restored.kind, engine.gate.data.state) == ("restore", "open")
    assert restored.evidence["overlap"] < engine.settings.overlap_min
    version = engine.gate.data.version
    feed(engine, sessions(100, seed=4, start=9_000))
    assert engine.gate.data.version >= version + 9
