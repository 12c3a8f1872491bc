from __future__ import annotations

import functools
from typing import Any

import pytest

from app import snapshot
from app.engine import Engine
from app.recommend import Request, Scored
from app.serving import Draft
from learners.base import ANCHOR, CHAMPION, SHADOW
from tests.factories import START_MS, apply, click, command
from tests.unit.clicking import NEVER, Shop, held, opened, twin_of


def newcomer(shop: Shop, user: str = "new", *, ago_s: float = 0.0, n: int = 8) -> str:
    """Let a user come who has as much history as is asked for, since the anchor."""
    for item in range(n):
        at_s = shop.n - ago_s
        apply(shop.engine, click(user, f"i{item + 20}", event_id=f"{user}-{item}", at_s=at_s))
    return user


def draft(shop: Shop, team: str = "b") -> str:
    """Return what a click on a drafted slate brings back."""
    hold = shop.engine.gate.arbiter.hold
    assert hold is not None
    return f"hold:{hold.number}:{team}"


def credited(shop: Shop) -> tuple[int, float]:
    """Return how many credits the arbiter has counted, and the branch's surplus."""
    return shop.engine.gate.arbiter.branch.n, shop.engine.gate.arbiter.branch.total


# -- who is drafted --------------------------------------------------------------------------------


def test_only_trusted_users_are_drafted() -> None:
    """In HOLD old users' slates are filled by two versions; newcomers' and strangers' are not."""
    shop = held()
    engine, user = shop.engine, newcomer(shop)
    assert not engine.is_trusted(user)
    assert not engine.is_trusted(None)
    assert not engine.is_trusted("stranger")
    drafted = {f"u{n}": engine.recommend(Request(f"u{n}", k=6), f"r{n}").draft for n in range(40)}
    trusted = {user for user, found in drafted.items() if found is not None}
    assert trusted == {f"u{n}" for n in range(40) if engine.is_trusted(f"u{n}")}
    assert len(trusted) > 25
    for stranger in (user, "stranger", None):
        assert engine.recommend(Request(stranger, k=6), "r").draft is None
    number = int(draft(shop).split(":")[1])
    assert {found.name for found in drafted.values() if found} == {f"hold:{number}"}


def test_drafts_are_made_of_both_versions() -> None:
    """Each place comes from its team's list: the champion's, now the anchor's, or the branch's."""
    shop = held()
    engine = shop.engine
    n_by_team = {"a": 0, "b": 0, "both": 0}
    for n in range(40):
        request = Request(f"u{n}", k=6)
        slate = engine.recommend(request, f"r{n}")
        if slate.draft is None:
            continue
        ranked = {
            team: {s.item_id: s for s in as_served(engine, request, version)}
            for team, version in (("a", CHAMPION), ("b", SHADOW))
        }
        drafted = zip(slate.items, slate.draft.teams, strict=True)
        for position, (scored, team) in enumerate(drafted, start=1):
            n_by_team[team] += 1
            found = [ranked[one][scored.item_id] for one in "ab" if team in (one, "both")]
            for theirs in found:
                theirs.position, theirs.propensity = position, scored.propensity
            assert scored in found
        assert engine.recommend(request, f"r{n}") == slate, "the same id, the same slate"
    assert min(n_by_team["a"], n_by_team["b"]) > 60


def now(engine: Engine) -> int:
    """Return the engine's time."""
    return engine.admission.watermark_ms


def as_served(engine: Engine, request: Request, version: int) -> list[Scored]:
    """Return what a version alone would show now."""
    now_ms = engine.admission.watermark_ms
    return engine.recommender.slate(request, version, now_ms, engine.lowered)


@pytest.mark.parametrize(
    ("request_", "slate_id"),
    [
        (Request("u1", k=6), ""),
        (Request("u1", history=["i1"], k=6), "r"),
        (Request("u1", candidates=["i1", "i2"], k=2), "r"),
    ],
    ids=["no-id", "history", "candidates"],
)
def test_slates_that_are_no_users_own_are_not_drafted(request_: Request, slate_id: str) -> None:
    """Without an id, with another history, or among given items, one version answers."""
    assert held().engine.recommend(request_, slate_id).draft is None


def test_outside_of_hold_nothing_is_drafted() -> None:
    """Before the alarm, and after the rollback, slates are the champion's."""
    shop = opened()
    assert shop.engine.recommend(Request("u1", k=6), "r").draft is None
    shop.until("hold", flip=1.0)
    shop.until("rollback")
    assert shop.engine.recommend(Request("u1", k=6), "r").draft is None


def test_a_share_of_the_slates_is_drafted() -> None:
    """`arbiter_share` of the slates, by their ids."""
    shop = held(arbiter_share=0.25)
    found = [shop.engine.recommend(Request("u1", k=6), f"r{n}").draft for n in range(400)]
    assert 60 < sum(isinstance(one, Draft) for one in found) < 140


# -- who is credited -------------------------------------------------------------------------------


def test_the_first_click_of_a_trusted_user_is_a_credit() -> None:
    """One credit a slate, for the team that drafted the item that was clicked first."""
    shop = held()
    apply(shop.engine, shop.answer("u1", "i7", "r1", draft=draft(shop, "b")))
    assert credited(shop) == (1, 1.0)
    apply(shop.engine, shop.answer("u1", "i8", "r1", draft=draft(shop, "a")))
    assert credited(shop) == (1, 1.0), "the second on that slate"
    apply(shop.engine, shop.answer("u2", "i8", "r2", draft=draft(shop, "a")))
    assert credited(shop) == (2, 0.0)


@pytest.mark.parametrize(
    "change",
    [
        {"token": None},
        {"token": "signature"},
        {"type": "skip"},
        {"draft": None},
        {"draft": "hold:1:b"},
        {"recommendation_id": None},
    ],
)
def test_what_is_no_trusted_click_is_no_credit(change: dict[str, Any]) -> None:
    """Without a verified token, refused, of one version, or of another HOLD, it counts nothing."""
    shop = held()
    given = {"draft": draft(shop)} | change
    apply(shop.engine, shop.answer("u1", "i7", "r1", **given))
    assert credited(shop) == (0, 0.0)
    apply(shop.engine, shop.answer("u1", "i9", "r9", draft=draft(shop)))
    assert credited(shop) == (1, 1.0)


def test_newcomers_are_not_credited() -> None:
    """A click on a drafted slate of a user who came since the anchor proves nothing."""
    shop = held()
    apply(shop.engine, shop.answer(newcomer(shop), "i7", "r1", draft=draft(shop)))
    assert credited(shop) == (0, 0.0)


def test_backdated_events_earn_no_trust() -> None:
    """Who came since the anchor is no older for saying that their events were before it."""
    shop = held()
    ago_s = (now(shop.engine) - shop.engine.gate.data.anchor.time_ms) / 1_000 + 60
    assert now(shop.engine) - ago_s * 1_000 > START_MS
    assert not shop.engine.is_trusted(newcomer(shop, ago_s=ago_s))


def test_trust_is_not_lost_by_coming_back() -> None:
    """An old user who has everything again is as old as before."""
    shop = held()
    engine = shop.engine
    user = next(f"u{n}" for n in range(40) if engine.is_trusted(f"u{n}"))
    for had in engine.history.had(engine.history.users.get(user)):
        apply(engine, click(user, had.item_id, event_id=f"again-{had.item_id}", at_s=shop.n))
    assert engine.is_trusted(user)


# -- how HOLD ends ---------------------------------------------------------------------------------


def vote(shop: Shop, team: str, n: int) -> None:
    """Let trusted users click on what one team drafted."""
    trusted = [f"u{i}" for i in range(40) if shop.engine.is_trusted(f"u{i}")]
    for i in range(n):
        slate = f"vote-{team}-{i}"
        user = trusted[i % len(trusted)]
        apply(shop.engine, shop.answer(user, f"i{i % 50}", slate, draft=draft(shop, team)))
        if shop.engine.gate.arbiter.hold is None:
            return


def test_a_branch_proven_better_is_adopted() -> None:
    """Trusted clicks that go to the branch make it champion and anchor: it was drift."""
    shop = held()
    vote(shop, "b", 60)
    assert shop.kinds()[-1] == "adopt"
    evidence = shop.evidence("adopt")
    assert evidence["branch_wins"] == evidence["credits"] >= 20
    assert evidence["branch_statistic"] >= evidence["threshold"] == 1e3
    engine = shop.engine
    assert engine.gate.data.state == "open"
    for version in (CHAMPION, ANCHOR):
        assert engine.clicks.n_learned[version] == engine.clicks.n_learned[SHADOW]
    assert engine.gate.data.anchor.event == engine.n_events


def test_an_anchor_proven_better_rolls_back() -> None:
    """Trusted clicks that go to the anchor end HOLD, and set the branch aside."""
    shop = held()
    vote(shop, "a", 60)
    assert shop.kinds()[-3:] == ["rollback", "ask", "relearn"]
    assert shop.engine.gate.decisions[-3].reason == "anchor_better"
    assert len(shop.engine.gate.data.set_aside) == 1


def test_what_runs_out_while_frozen_waits_for_resume() -> None:
    """Nothing is promoted, so nothing is taken for drift; once resumed, it is."""
    shop = held(hold_events=600, hold_quiet=NEVER)
    assert command(shop.engine, "freeze") is None
    shop.run(600, flip=1.0)
    assert shop.kinds()[-2:] == ["freeze", "no_proof"]
    assert shop.engine.gate.data.state == "hold"
    assert command(shop.engine, "resume") is None
    shop.until("promote", flip=1.0)
    assert shop.kinds()[-4:] == ["resume", "rollback", "relearn", "promote"]
    assert "taken for drift" in shop.engine.gate.decisions[-1].reason


@pytest.mark.parametrize("mode", ["freeze", "shadow_only"])
def test_nothing_is_drafted_where_nothing_new_is_to_be_shown(mode: str) -> None:
    """In HOLD, too, nobody is shown the branch while an operator has frozen what is served."""
    engine = held().engine
    slates = [engine.recommend(Request(f"u{n}", k=6), f"r{n}") for n in range(40)]
    assert any(slate.draft for slate in slates)
    assert command(engine, mode) is None
    slates = [engine.recommend(Request(f"u{n}", k=6), f"r{n}") for n in range(40)]
    assert not any(slate.draft for slate in slates)


MARKED: dict[str, Any] = {"trusted": "marked", "n_marked": 20, "hold_events": 6_000}


def test_a_fault_that_outlasts_hold_is_not_served() -> None:
    """Marked users, whom it does not touch, prove it: HOLD ends without it, and begins again."""
    shop = held(**MARKED)
    engine = shop.engine
    shop.until("fault", flip=1.0)
    evidence = shop.evidence("fault")
    assert evidence["disagreement_statistic"] >= evidence["threshold"]
    anchor = engine.gate.data.anchor
    shop.until("rollback", flip=1.0)
    kinds = shop.kinds()
    assert kinds[kinds.index("fault") :] == ["fault", "rollback", "ask", "relearn"]
    assert [d.reason for d in engine.gate.decisions if d.kind == "rollback"] == ["trusted_disagree"]
    [[first, last]] = engine.gate.data.set_aside
    assert first <= engine.gate.decisions[-4].event <= last
    assert shop.evidence("relearn")["windows"][-1][1] < first
    shop.until("hold", flip=1.0)
    assert engine.gate.data.champion == engine.gate.data.anchor == anchor


def test_until_version_10_a_fault_that_outlasts_hold_is_taken_for_drift() -> None:
    """What marked users did not click was no evidence; the window was learned again, and served."""
    shop = held(semantics=9, **MARKED)
    shop.until("rollback", flip=1.0)
    assert "fault" not in shop.kinds()
    assert shop.kinds()[-3:] == ["rollback", "relearn", "promote"]
    assert shop.engine.gate.decisions[-3].reason == "hold_max"


def test_a_change_that_marked_users_go_along_with_is_adopted() -> None:
    """Where they click so, too, the branch is champion and anchor: the world has changed."""
    shop = twin_of(Shop(**MARKED).run(1_200))
    shop.until("hold", flip=1.0, real=True)
    shop.until("adopt", flip=1.0, real=True)
    assert "fault" not in shop.kinds()
    assert shop.engine.gate.decisions[-1].reason.startswith("trusted users click so, too")


def test_promotion_in_hold_must_be_forced() -> None:
    """An operator who knows better serves the branch at once, and HOLD is over, on record."""
    shop = held()
    assert "the gate is hold" in (command(shop.engine, "promote") or "")
    assert shop.engine.gate.data.state == "hold"
    assert command(shop.engine, "promote", force=True) is None
    assert shop.kinds()[-2:] == ["hold_ended", "promote"]
    assert "credits" in shop.evidence("hold_ended")
    engine = shop.engine
    assert (engine.gate.data.state, engine.gate.arbiter.hold) == ("open", None)
    assert engine.clicks.n_learned[CHAMPION] == engine.clicks.n_learned[SHADOW]
    assert engine.recommend(Request("u1", k=6), "r").draft is None
    assert all(d.statistic == 0 for d in engine.gate.watch.clicks.values())


def test_quiet_comes_though_the_anchor_is_young() -> None:
    """An anchor from before the first 500 slates ends HOLD as any other, when the fault is past."""
    shop = held(warmup_events=100)
    shop.until("rollback", limit=400)
    assert shop.engine.gate.decisions[-3].reason == "quiet"


# -- suspects --------------------------------------------------------------------------------------


@functools.cache
def _suspected() -> Shop:
    shop = opened().run(600, spam=0.15)
    shop.until("alarm", spam=1.0)
    return shop


def suspected() -> Shop:
    """Return a shop where an item has been clicked far more than was expected of it."""
    return twin_of(_suspected())


def test_a_suspect_is_quarantined_until_resume() -> None:
    """The item's events teach nothing from the alarm on, nor are they relearned; resume clears."""
    shop = suspected()
    engine = shop.engine
    assert shop.evidence("alarm")["item_id"] == "i0"
    assert shop.kinds()[-4:] == ["alarm", "rollback", "ask", "relearn"]
    assert shop.evidence("relearn")["without"] == ["i0"]
    assert shop.evidence("relearn")["left_out"] > 10
    assert engine.gate.describe()["suspects"] == ["i0"]

    def send(item: str, name: str) -> tuple[str, str | None]:
        outcome = apply(engine, click("u1", item, event_id=name, at_s=shop.n))
        return outcome.results[0].status, outcome.results[0].reason

    before = engine.hashes()["model_hash"]
    assert send("i0", "x1") == ("quarantined", "suspect_item")
    assert engine.hashes()["model_hash"] == before
    assert send("i1", "x2")[0] == "learned"
    assert command(engine, "resume") is None
    assert shop.evidence("resume")["cleared"] == ["i0"]
    assert send("i0", "x3")[0] == "learned"


@pytest.mark.parametrize("item", ["i0", "$part", "$array"])
def test_a_snapshot_keeps_suspects_of_any_name(item: str) -> None:
    """No item's id makes a snapshot unreadable while it is under suspicion."""
    engine = opened().engine
    engine.gate.data.suspects = {item: START_MS * 2, "another": START_MS * 2}
    for suspects in (engine.gate.data.suspects, {item: START_MS * 2}):
        engine.gate.data.suspects = dict(suspects)
        twin = Engine.from_state(snapshot.load([snapshot.dump(engine.state(), "s")]))
        assert twin.gate.data.suspects == suspects
        assert twin.hashes() == engine.hashes()


def test_a_suspect_may_teach_again_in_time() -> None:
    """After `suspect_s` of event time an item is suspected no more."""
    shop = suspected()
    engine, suspect_s = shop.engine, shop.engine.settings.suspect_s

    def reason(after_s: float) -> str | None:
        apply(engine, click("u1", "i1", event_id=f"clock-{after_s}", at_s=shop.n + after_s))
        sent = click("u2", "i0", event_id=f"x-{after_s}", at_s=shop.n + after_s)
        return apply(engine, sent).results[0].reason

    assert reason(suspect_s - 60) == "suspect_item"
    assert reason(suspect_s + 60) != "suspect_item"


def test_a_suspect_of_the_past_is_learned_again() -> None:
    """A requeue leaves out what is suspected now, not what was once."""
    shop = suspected()
    after_s = shop.engine.settings.suspect_s + 60
    apply(shop.engine, click("u1", "i1", event_id="clock", at_s=shop.n + after_s))
    assert command(shop.engine, "rollback") is None
    assert not shop.engine.gate.is_suspect("i0")
    assert command(shop.engine, "requeue") is None
    assert shop.evidence("relearn")["without"] == []
