from __future__ import annotations

import copy
import math
from typing import Any

import pytest

from app.challenger import MAX_SLATES, Interleaving, alpha_of
from app.engine import Engine
from app.errors import LogStopped
from app.events import VALID, Command, Feedback
from app.recommend import Request
from learners.base import ANCHOR, CANDIDATE, CHAMPION, SHADOW
from tests.factories import (
    EVICTING,
    apply,
    busy_log,
    click,
    command,
    configure,
    feed,
    make_engine,
    make_settings,
    restore,
    sessions,
)
from tests.properties.test_engines import version_hash

# So slow a learner that, within the streams here, it is far worse than the default.
CRIPPLED: dict[str, Any] = {"max_neighbours": 1, "blend_learning_rate": 1e-6}
FAST: dict[str, Any] = {"overlap_min": 0, "warmup_events": 100, "challenger_alpha": 0.05}


def start(engine: Engine, **changes: Any) -> str | None:
    """Start a challenger; return why it was refused, or None."""
    asked = Command("start_challenger", "a test asks", "tester", changes=changes)
    return apply(engine, asked).results[0].reason


def kinds(engine: Engine) -> list[str]:
    """Return the kinds of all decisions, oldest first."""
    return [decision.kind for decision in engine.gate.decisions]


def last(engine: Engine, kind: str) -> dict[str, Any]:
    """Return the evidence of the last decision of a kind."""
    return next(d.evidence for d in reversed(engine.gate.decisions) if d.kind == kind)


def opened(**changes: Any) -> Engine:
    """Return an engine that is past its warm-up."""
    return feed(make_engine(**(FAST | changes)), sessions(400), group=50)


def more(n: int, start_at: int = 1_000, seed: int = 2) -> list[Feedback]:
    """Return events that come after those of `opened`."""
    return sessions(n, seed=seed, start=start_at)


def proven(**changes: Any) -> Engine:
    """Return an engine whose crippled champion has been shown worse than its challenger."""
    engine = opened(**(CRIPPLED | changes))
    assert start(engine, max_neighbours=20, blend_learning_rate=0.15) is None
    feed(engine, more(4_000), group=50)
    assert "challenger_proven" in kinds(engine)
    return engine


# -- what may be one -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"promote_events": 5}, "promote_events is not what a challenger may change"),
        ({"seed": 2}, "seed is not"),
        ({"nonsense": 2}, "nonsense is not"),
        ({"n_factors": 7}, "n_factors=7: Input should be a multiple of 4"),
        ({"learner": "river:nothing.Here"}, "River has no nothing.Here"),
        ({"covisit_shrink": "many"}, "covisit_shrink='many'"),
        ({}, "at least one"),
    ],
)
def test_only_settings_of_the_learner_can_be_challenged(changes: dict[str, Any], said: str) -> None:
    """Anything else is refused, by its name, and leaves nothing behind."""
    engine = opened()
    before = engine.hashes()
    assert said in str(start(engine, **changes))
    assert engine.hashes() == before
    if changes:
        with pytest.raises(ValueError, match="challenger: "):
            make_settings(challenger=changes)


def test_one_challenger_at_a_time() -> None:
    """A second one is refused while the first runs; stopped, the next gets the next number."""
    engine = opened()
    assert start(engine, covisit_shrink=1.0) is None
    assert "challenger 1 is running" in str(start(engine, covisit_shrink=2.0))
    assert command(engine, "stop_challenger") is None
    assert "no challenger" in str(command(engine, "stop_challenger"))
    assert start(engine, covisit_shrink=2.0) is None
    assert engine.describe()["challenger"]["challenger"] == 2
    assert kinds(engine)[-3:] == ["challenger_started", "challenger_stopped", "challenger_started"]


def test_a_gate_that_is_off_proves_nothing() -> None:
    """Without a gate no challenger begins, neither by command nor by setting."""
    engine = feed(make_engine(gate="off"), sessions(50))
    assert "the gate is off" in str(start(engine, covisit_shrink=1.0))
    with pytest.raises(ValueError, match="the gate off"):
        make_settings(gate="off", challenger={"covisit_shrink": 1.0})


def test_what_fits_is_taken_over() -> None:
    """A challenger begins with all that the champion's learner knows and that has the same form."""
    engine = opened()
    assert start(engine, n_factors=8, max_neighbours=5, trending_half_lives_s=[60]) is None
    assert last(engine, "challenger_started")["begins_empty"] == ["factors", "trending"]
    ours, theirs = engine.learner, engine.challenges.running
    assert theirs is not None
    for version in (SHADOW, CHAMPION, ANCHOR):
        slots = ours.covisit.rows.slots[version]
        assert (theirs.learner.covisit.rows.slots[version] == slots).all()
    sizes, cut = ours.covisit.neighbours.size, theirs.learner.covisit.neighbours.size
    assert sizes.max() > 5
    assert (cut == sizes.clip(max=5)).all()
    for slot in range(1, ours.covisit.rows.n_used):
        kept = theirs.learner.covisit.neighbours.weight[slot, : cut[slot]]
        had = ours.covisit.neighbours.weight[slot, : sizes[slot]]
        assert sorted(kept) == sorted(had)[-len(kept) :] or not len(kept)
    covisit = theirs.learner.combiner.view(SHADOW)["always"]["covisit"]
    assert covisit == ours.combiner.view(SHADOW)["always"]["covisit"]
    assert theirs.learner.combiner.view(SHADOW)["always"]["trending_60s"] == 0.1


# -- what it leaves alone --------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, EVICTING], ids=["roomy", "evicting"])
def test_what_is_served_does_not_know_of_it(changes: dict[str, Any]) -> None:
    """A challenger changes nothing else: no byte of the model, no slate, no verdict."""
    log = busy_log(900, seed=4)
    plain, challenged = make_engine(**changes), make_engine(**changes)
    for engine in (plain, challenged):
        feed(engine, log[:300])
    assert start(challenged, max_neighbours=3, n_factors=8, covisit_shrink=0.5) is None
    for engine in (plain, challenged):
        feed(engine, log[300:])
        for _ in range(3):
            assert command(engine, "rollback") is None
    assert challenged.challenges.running is not None
    assert challenged.hashes()["model_hash"] == plain.hashes()["model_hash"]
    for user in ("u1", "u2", "s1", "nobody"):
        request = Request(user, k=20, explain=True)
        assert challenged.recommend(request, "some-id").items == plain.recommend(request).items
    assert [k for k in kinds(challenged) if k != "challenger_started"] == kinds(plain)


def test_a_champion_in_disguise_is_the_champion_byte_for_byte() -> None:
    """With the same settings each version stays the same, through promotions and rollbacks."""
    engine = feed(make_engine(), busy_log(500, seed=7))
    assert start(engine, covisit_shrink=5.0) is None
    feed(engine, busy_log(600, seed=8), group=20)
    running = engine.challenges.running
    assert running is not None
    assert {"promote", "rollback"} <= set(kinds(engine))
    twin = Engine.from_state(engine.state())
    twin.learner = running.learner
    for version in (SHADOW, CHAMPION, ANCHOR, CANDIDATE):
        assert version_hash(twin, version) == version_hash(engine, version)
    assert running.better.total == 0.0
    assert running.prequential["champion"].view() == running.prequential["challenger"].view()


@pytest.mark.parametrize("end", ["stop_challenger", "adopt"])
def test_a_learner_that_is_given_up_hears_no_more(end: str) -> None:
    """However often challengers come and go, the history has as many listeners as before."""
    engine = opened()
    history = engine.history

    def n_listeners() -> tuple[int, ...]:
        lists = (history.on_item_evicted, history.on_user_forgotten, history.categories.on_changed)
        return tuple(map(len, lists))  # type: ignore[arg-type]

    before = n_listeners()
    for learner in ("blend", "river:reco.BiasedMF()", "blend"):
        assert start(engine, learner=learner) is None
        assert n_listeners() > before
        assert command(engine, end, force=True) is None
        assert n_listeners()[0] == before[0] + (end == "adopt" and learner != "blend")
    assert n_listeners() == before
    feed(engine, more(50))


# -- proof -----------------------------------------------------------------------------------------


def test_a_better_challenger_is_proven_and_waits() -> None:
    """A proof is recorded once, with its numbers; by default adoption waits for an operator."""
    engine = proven()
    evidence = last(engine, "challenger_proven")
    assert kinds(engine).count("challenger_proven") == 1
    assert "adopt" not in kinds(engine)
    assert evidence["statistic"] >= evidence["threshold"] == 1 / alpha_of(1, 0.05)
    assert evidence["mean"] > 0
    assert evidence["n"] > 0
    assert evidence["changes"] == {"max_neighbours": 20, "blend_learning_rate": 0.15}
    assert engine.describe()["challenger"]["verdict"] == "proven"
    assert command(engine, "adopt") is None
    assert kinds(engine)[-1] == "adopt"
    assert last(engine, "adopt")["n"] > evidence["n"]


def test_auto_adopts_at_once() -> None:
    """With challenger_adopt=auto the proof and the adoption are of the same event."""
    engine = proven(challenger_adopt="auto")
    by_kind = {decision.kind: decision for decision in engine.gate.decisions}
    assert by_kind["adopt"].event == by_kind["challenger_proven"].event
    assert by_kind["adopt"].asked_by == "gate"
    assert engine.challenges.running is None


def test_a_worse_challenger_is_stopped() -> None:
    """What is shown worse ends, with a record, and never is adopted."""
    engine = opened(challenger_adopt="auto")
    assert start(engine, **CRIPPLED) is None
    feed(engine, more(6_000), group=50)
    evidence = last(engine, "challenger_refuted")
    assert evidence["statistic"] >= evidence["threshold"]
    assert engine.challenges.running is None
    assert {"challenger_proven", "adopt"} & set(kinds(engine)) == set()
    assert engine.describe()["challenger"] is None


def test_without_a_proof_only_force_adopts() -> None:
    """An unproven challenger is refused with its statistic; `force` overrules that alone."""
    engine = opened()
    assert "no challenger is running" in str(command(engine, "adopt", force=True))
    assert start(engine, covisit_shrink=1.0) is None
    assert "is not proven better" in str(command(engine, "adopt"))
    for mode in ("freeze", "shadow_only"):
        assert command(engine, mode) is None
        assert "the mode" in str(command(engine, "adopt", force=True))
    assert command(engine, "resume") is None
    assert command(engine, "adopt", force=True) is None


def test_nothing_is_adopted_while_warming() -> None:
    """Before the first anchor a challenger learns, and is neither compared nor adopted."""
    engine = feed(make_engine(challenger={"covisit_shrink": 1.0}), sessions(100))
    assert engine.challenges.running is not None
    assert engine.challenges.running.n_learned == 100
    assert engine.describe()["challenger"]["n"] == 0
    assert "warming" in str(command(engine, "adopt", force=True))


def test_nothing_is_compared_outside_of_open() -> None:
    """In ASK the two are ranked, and the proof stands still."""
    engine = opened()
    assert start(engine, covisit_shrink=1.0) is None
    feed(engine, more(300))
    running = engine.challenges.running
    assert running is not None
    n, judged = running.better.n, running.prequential["challenger"].n
    assert n > 0
    engine.gate.ask("made up", {})
    engine.gate.data.ask_trial.wanted = 10_000  # type: ignore[union-attr]
    feed(engine, more(60, 3_000))
    assert engine.gate.data.state == "ask"
    assert running.better.n == n
    assert running.prequential["challenger"].n > judged


def test_it_is_compared_once_it_is_warm() -> None:
    """The first `warmup_events` that it learns are no part of the proof."""
    engine = opened()
    assert start(engine, covisit_shrink=1.0) is None
    feed(engine, more(100))
    shown = engine.describe()["challenger"]
    assert (shown["verdict"], shown["n"]) == ("undecided", 0)
    feed(engine, more(100, 2_000))
    assert engine.describe()["challenger"]["n"] > 50


def test_later_challengers_get_less_alpha() -> None:
    """The k-th gets 6 alpha / (pi^2 k^2): all of them together stay below alpha."""
    shares = [alpha_of(k, 0.001) for k in range(1, 100_000)]
    assert 0.00099 < sum(shares) < 0.001
    assert shares[0] == pytest.approx(6.0793e-4, rel=1e-4)
    engine = opened(challenger_alpha=0.001)
    for k in (1, 2, 3):
        assert start(engine, covisit_shrink=1.0) is None
        assert engine.describe()["challenger"]["alpha"] == alpha_of(k, 0.001)
        assert command(engine, "stop_challenger") is None


def test_the_least_alpha_proves_nothing_and_stops_nothing() -> None:
    """However little is left to a challenger, a log goes on, and thresholds are numbers."""
    engine = opened(challenger_alpha=5e-324)
    for k in (1, 2):
        assert start(engine, covisit_shrink=1.0) is None
        feed(engine, more(200, start_at=1_000 * k))
        view = engine.describe()["challenger"]
        assert view["verdict"] == "undecided"
        assert math.isfinite(view["threshold"])
        assert math.isfinite(view["interleaving"]["threshold"])
        assert "not proven" in (command(engine, "adopt") or "")
        assert command(engine, "stop_challenger") is None


# -- adoption --------------------------------------------------------------------------------------


def test_adoption_makes_a_new_first_anchor() -> None:
    """The challenger's champion is served and gone back to; the version counts up."""
    engine = proven()
    version, running = engine.gate.data.version, engine.challenges.running
    assert running is not None
    theirs = running.learner
    assert command(engine, "adopt") is None
    assert engine.learner is theirs
    assert engine.gate.data.version == version + 1
    assert engine.gate.data.anchor == engine.gate.data.champion
    for other in (ANCHOR, CANDIDATE):
        assert version_hash(engine, other) == version_hash(engine, CHAMPION)
    assert engine.gate.watch.harm["harm"].statistic == 0.0
    assert engine.clicks.n_learned.sum() == 0
    before = version_hash(engine, CHAMPION)
    feed(engine, more(30, 8_000))
    assert command(engine, "rollback") is None
    assert version_hash(engine, CHAMPION) == before


def test_adoption_changes_what_is_in_force_and_not_what_was_configured() -> None:
    """A snapshot rebuilds the adopted learner; a process with its old settings still agrees."""
    engine = proven()
    configured = engine.configured
    assert command(engine, "adopt") is None
    assert engine.configured == configured == make_settings(**(FAST | CRIPPLED))
    assert engine.settings.max_neighbours == 20
    twin = Engine.from_state(engine.state())
    assert twin.hashes() == engine.hashes()
    assert twin.settings == engine.settings
    assert twin.learner.max_neighbours == 20
    apply(twin, configure(configured, reconfigure=True))
    assert kinds(twin)[-1] == "adopt"


def test_a_reconfiguration_leaves_what_was_adopted() -> None:
    """Tunable settings change on top of it; the learner's are fixed in the log as ever."""
    engine = proven()
    assert command(engine, "adopt") is None
    wanted = make_settings(**(FAST | CRIPPLED | {"promote_events": 77}))
    apply(engine, configure(wanted, reconfigure=True))
    assert (engine.settings.promote_events, engine.settings.max_neighbours) == (77, 20)
    assert engine.gate.settings == engine.settings
    worse = make_settings(**(FAST | CRIPPLED | {"max_neighbours": 20}))
    with pytest.raises(LogStopped, match="max_neighbours"):
        apply(engine, configure(worse, reconfigure=True))


def test_the_next_challenger_changes_what_is_in_force() -> None:
    """A challenger after an adoption differs from the learner of now, not from the first one."""
    engine = proven()
    assert command(engine, "adopt") is None
    assert start(engine, covisit_shrink=1.0) is None
    running = engine.challenges.running
    assert running is not None
    assert (running.learner.max_neighbours, running.learner.shrink) == (20, 1.0)
    assert command(engine, "adopt", force=True) is None
    assert engine.challenges.adopted == {
        "max_neighbours": 20,
        "blend_learning_rate": 0.15,
        "covisit_shrink": 1.0,
    }
    twin = Engine.from_state(engine.state())
    assert twin.hashes() == engine.hashes()


# -- settings --------------------------------------------------------------------------------------


def test_a_setting_starts_one_with_the_log() -> None:
    """The setting's challenger begins with the first entry; a second replica's starts none."""
    settings = make_settings(challenger={"covisit_shrink": 1})
    engine = Engine(settings)
    apply(engine, configure(settings), configure(settings))
    assert engine.describe()["challenger"]["changes"] == {"covisit_shrink": 1.0}
    assert engine.describe()["challenger"]["challenger"] == 1


def test_a_changed_setting_replaces_what_runs() -> None:
    """With --reconfigure a new table ends the old challenger and starts its own; {} only ends."""
    engine = opened(challenger={"covisit_shrink": 1.0})
    other = make_settings(**FAST, challenger={"n_factors": 8})
    apply(engine, configure(other, reconfigure=True))
    assert engine.describe()["challenger"]["changes"] == {"n_factors": 8}
    assert kinds(engine)[-3:] == ["configure", "challenger_stopped", "challenger_started"]
    apply(engine, configure(make_settings(**FAST), reconfigure=True))
    assert engine.challenges.running is None
    assert engine.challenges.n_started == 2


def test_other_settings_leave_it_alone() -> None:
    """A reconfiguration of something else does not touch the challenger, or what its proof asks."""
    engine = opened(challenger={"covisit_shrink": 1.0})
    running = engine.challenges.running
    wanted = make_settings(
        **(FAST | {"challenger_alpha": 0.5}), promote_events=9, challenger={"covisit_shrink": 1.0}
    )
    apply(engine, configure(wanted, reconfigure=True))
    assert engine.challenges.running is running
    assert running is not None
    assert running.alpha == alpha_of(1, 0.05)


# -- restore ---------------------------------------------------------------------------------------


def test_a_restore_ends_the_challenger() -> None:
    """A snapshot's versions are not those that the challenger goes by."""
    engine = opened()
    snapshot = copy.deepcopy(engine.state())
    assert start(engine, covisit_shrink=1.0) is None
    feed(engine, more(50))
    outcome = restore(engine, snapshot)
    assert outcome.results[0].status == "applied"
    assert [d.kind for d in outcome.decisions] == ["challenger_stopped", "restore"]
    assert engine.challenges.running is None


def test_a_snapshot_with_a_challenger_restores_without_it() -> None:
    """What comes back is shadow, champion and anchor; never a challenger of the past."""
    engine = opened()
    assert start(engine, covisit_shrink=1.0) is None
    snapshot = copy.deepcopy(engine.state())
    assert command(engine, "stop_challenger") is None
    feed(engine, more(50))
    assert restore(engine, snapshot).results[0].status == "applied"
    assert engine.challenges.running is None


def test_a_snapshot_from_before_an_adoption_is_refused() -> None:
    """It says which settings differ, leaves all as it is, and is recorded."""
    engine = opened()
    snapshot = copy.deepcopy(engine.state())
    assert start(engine, n_factors=8) is None
    assert command(engine, "adopt", force=True) is None
    before = engine.hashes()["model_hash"]
    outcome = restore(engine, snapshot)
    assert outcome.results[0].status == "refused"
    assert "n_factors=32, now 8" in str(outcome.results[0].reason)
    assert [d.kind for d in outcome.decisions] == ["restore_refused"]
    assert engine.hashes()["model_hash"] == before
    assert start(engine, n_factors=32) is None
    assert command(engine, "adopt", force=True) is None
    assert restore(engine, snapshot).results[0].status == "applied"


# -- interleaving ----------------------------------------------------------------------------------


def interleaved(**changes: Any) -> Engine:
    """Return an engine with a warm challenger, half of whose slates are interleaved."""
    engine = opened(interleave_share=0.5, trusted_history=1, **changes)
    assert start(engine, max_neighbours=1, covisit_shrink=0.0, n_factors=4) is None
    return feed(engine, more(200), group=50)


def answer(engine: Engine, user: str, item: str, slate: str, draft: str, **rest: Any) -> Feedback:
    """Return a click on a slate's item that a team drafted."""
    at_s = engine.admission.watermark_ms / 1_000 - 1_000_000_000
    return click(
        user,
        item,
        event_id=f"{slate}-{item}",
        at_s=at_s,
        recommendation_id=slate,
        token=VALID,
        draft=draft,
        **rest,
    )


def test_a_share_of_trusted_slates_is_interleaved() -> None:
    """Both teams fill it, with their own lists; strangers and other requests get the champion."""
    engine = interleaved()
    drafted = [engine.recommend(Request("s0-1"), f"slate-{n}") for n in range(200)]
    shares = [slate for slate in drafted if slate.draft is not None]
    assert 70 < len(shares) < 130
    assert {slate.draft.name for slate in shares if slate.draft} == {"challenger:1"}
    assert {team for slate in shares if slate.draft for team in slate.draft.teams} >= {"a", "b"}
    plain = engine.recommend(Request("s0-1"))
    assert plain.draft is None
    for n in range(20):
        assert engine.recommend(Request("nobody"), f"slate-{n}").draft is None
        assert engine.recommend(Request(history=["g00i1"]), f"slate-{n}").draft is None


@pytest.mark.parametrize("mode", ["freeze", "shadow_only"])
def test_no_slate_is_interleaved_while_an_operator_holds_still(mode: str) -> None:
    """Frozen and shadow_only show the champion alone; so does a share of 0."""
    engine = interleaved()
    assert command(engine, mode) is None
    for n in range(50):
        assert engine.recommend(Request("s0-1"), f"slate-{n}").draft is None


def test_a_slate_is_credited_once() -> None:
    """The first click counts, for the team that drafted it; not other drafts, nor strangers."""
    engine = interleaved()
    running = engine.challenges.running
    assert running is not None
    for number, (user, slate, draft) in enumerate(
        [
            ("s0-1", "one", "challenger:1:b"),
            ("s0-1", "one", "challenger:1:a"),
            ("s0-2", "two", "challenger:1:a"),
            ("s0-2", "three", "challenger:2:b"),
            ("s0-2", "four", "hold:7:b"),
            ("stranger", "five", "challenger:1:b"),
        ]
    ):
        apply(engine, answer(engine, user, f"g00i{number}", slate, draft))
    refused = answer(engine, "s0-3", "g01i1", "six", "challenger:1:b", type="skip")
    apply(engine, refused)
    shown = engine.describe()["challenger"]["interleaving"]
    assert (shown["credits"], shown["wins"], shown["losses"]) == (2, 1, 1)


def test_interleaving_is_decided_once_and_adopts_nothing() -> None:
    """Enough wins are a decision with its numbers; the challenger goes on as before."""
    engine = interleaved(challenger_adopt="auto")
    for number in range(200):
        apply(
            engine,
            answer(engine, f"s0-{number % 60 + 1}", "g00i1", f"w{number}", "challenger:1:b"),
        )
    evidence = last(engine, "interleaving_proven")
    assert kinds(engine).count("interleaving_proven") == 1
    assert evidence["wins"] == evidence["credits"] > 0
    assert evidence["statistic_better"] >= evidence["threshold"] == 2 / alpha_of(1, 0.05)
    assert "adopt" not in kinds(engine)


def test_memory_of_credited_slates_is_bounded() -> None:
    """The last 100,000 slates are remembered, and no more."""
    interleaving = Interleaving()
    for number in range(MAX_SLATES + 10):
        interleaving.credit(f"{number}", "a")
    assert len(interleaving.state()["credited"]) == MAX_SLATES
    interleaving.credit(f"{MAX_SLATES}", "b")
    assert interleaving.better.n == MAX_SLATES + 10
