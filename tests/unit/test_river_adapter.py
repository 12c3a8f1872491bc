from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import river.checks
from river import base, linear_model, preprocessing, reco, tree

from app.engine import Engine
from app.errors import SettingsError
from app.events import Command, Configure, Entry, Feedback
from app.recommend import Request
from app.settings import SEMANTICS, EngineSettings, load_settings
from learners import Blend, History, codec
from learners.checks import (
    check_learns,
    check_rank_is_a_permutation,
    checkerboard,
    hit_rate,
)
from learners.checks import yield_checks as yield_our_checks

MODELS: dict[str, Callable[[], base.Estimator]] = {
    "BiasedMF": lambda: reco.BiasedMF(seed=1),
    "RandomNormal": lambda: reco.RandomNormal(seed=1),
    "LogisticRegression": linear_model.LogisticRegression,
    "pipeline": lambda: preprocessing.StandardScaler() | linear_model.LinearRegression(),
    "HoeffdingTree": tree.HoeffdingTreeClassifier,
}
SIZES: dict[str, Any] = {
    "max_items": 100,
    "max_users": 60,
    "history_length": 8,
    "scored_history": 5,
    "had_length": 30,
}
TEXTS = ["river:reco.BiasedMF(n_factors=4)", "river:linear_model.LogisticRegression"]


OWN_CHECKS = [
    pytest.param(name, check, id=f"{name}-{check.__name__}")
    for name in MODELS
    for check in yield_our_checks()
    # One that guesses learns nothing, and guesses anew for each item that it is asked about.
    if name != "RandomNormal" or check not in (check_learns, check_rank_is_a_permutation)
]


@pytest.mark.parametrize(("name", "check"), OWN_CHECKS)
def test_own_contract(name: str, check: Callable[..., None]) -> None:
    """A blend that a River model totals passes every check that other learners pass."""
    check(lambda: Blend(model=MODELS[name](), history=History(**SIZES)))


@pytest.mark.parametrize("name", MODELS)
def test_river_contract(name: str) -> None:
    """And all of River's."""
    for check in river.checks.yield_checks(Blend(model=MODELS[name]())):
        check(Blend(model=MODELS[name]()))


def test_a_classifier_does_nearly_as_well() -> None:
    """River's logistic regression ranks a plain case as well as our combiner does."""
    stream = checkerboard(n_users=40, n_items=30, seed=7)
    ours, theirs = (
        hit_rate(Blend(max_neighbours=20, shrink=5.0, model=model), stream)
        for model in (None, linear_model.LogisticRegression())
    )
    assert theirs > ours - 0.05


def engine(learner: str, **changes: Any) -> Engine:
    """Return an engine with this learner; its log has begun."""
    small = {"max_items": 200, "max_users": 200, "warmup_events": 100, "promote_events": 50}
    settings = EngineSettings.model_validate(small | {"learner": learner} | changes)
    made = Engine(settings)
    made.apply(Entry([Configure(SEMANTICS, settings.model_dump())]), "0-1")
    return made


def post(to: Engine, start: int, stop: int) -> None:
    """Apply clicks of 20 users on 40 items, even users on even items."""
    for n in range(start, stop):
        user = n % 20
        item = (n // 20 * 7 + user) % 20 * 2 + user % 2
        event = Feedback(f"e{n}", f"u{user}", f"i{item}", "click", time_ms=1_000_000 + n * 1_000)
        to.apply(Entry([event]), f"1-{n}")


@pytest.mark.parametrize("learner", TEXTS)
def test_reads_change_nothing(learner: str) -> None:
    """Requests for strangers, sessions and known users leave every hash as it was."""
    served = engine(learner)
    post(served, 0, 300)
    before = served.hashes()
    for user in ("u1", "nobody"):
        slate = served.recommend(Request(user, k=5, explain=True)).items
        assert len({scored.item_id for scored in slate}) == 5
        for scored in slate:
            assert sum(why["weight"] for why in scored.why or []) == pytest.approx(scored.score)
            assert scored.sources
    served.recommend(Request(history=["i1", "unknown"], k=5))
    assert served.hashes() == before


@pytest.mark.parametrize("learner", TEXTS)
def test_is_gated_and_kept(learner: str) -> None:
    """Promotions are by overlap as ever, and an engine made of a snapshot goes on to the bit."""
    first = engine(learner, overlap_min=0.0)
    post(first, 0, 400)
    assert first.gate.data.version > 3
    second = Engine.from_state(first.state())
    assert second.hashes() == first.hashes()
    for each in (first, second):
        post(each, 400, 500)
        each.apply(Entry([Command("rollback", "a test asks", "test")]), "2-0")
        post(each, 500, 600)
    assert second.hashes() == first.hashes()


def test_a_ranker_forgets_whom_the_history_forgets() -> None:
    """Ids that leave the history leave every version of the model, so its memory is bounded."""
    served = engine(TEXTS[0], max_items=100, max_users=100, overlap_min=0.0)
    post(served, 0, 300)
    combiner: Any = served.learner.combiner
    for n in range(300):
        event = Feedback(f"n{n}", f"new{n}", f"item{n}", "click", time_ms=2_000_000 + n * 1_000)
        served.apply(Entry([event]), f"3-{n}")
    for model, known in zip(combiner.models, combiner.known, strict=True):
        assert len(model.u_latents) <= 100
        assert len(model.i_biases) <= 100
        assert "user u1" not in model.u_biases
        assert known == set(model.u_latents) | set(model.i_latents)


def test_restore_drops_what_is_gone() -> None:
    """A restored model does not bring back ids that were evicted since."""
    served = engine(TEXTS[0], max_items=100, overlap_min=0.0)
    post(served, 0, 300)
    state = copy.deepcopy(served.state())
    for n in range(300):
        event = Feedback(f"n{n}", "u1", f"item{n}", "click", time_ms=2_000_000 + n * 1_000)
        served.apply(Entry([event]), f"3-{n}")
    command = Command("restore", "a test asks", "test", snapshot_id="1-299")
    served.apply(Entry([command]), "4-0", snapshot=state)
    combiner: Any = served.learner.combiner
    present = {f"item {id_}" for id_ in served.history.items.index}
    for model in combiner.models:
        assert set(model.i_latents) <= present
    assert served.recommend(Request("u3")).items


@pytest.mark.parametrize(
    ("learner", "says"),
    [
        ("covisit", "must be blend, or begin with river:"),
        ("river:", "cannot be read"),
        ("river:1 +", "cannot be read"),
        ("river:nothing.Here()", "River has no nothing.Here"),
        ("river:reco.Nobody()", "River has no reco.Nobody"),
        ("river:linear_model.LogisticRegression(l3=1)", "unexpected keyword"),
        ("river:cluster.KMeans()", "no classifier, no regressor and no ranker"),
        ("river:neighbors.KNNClassifier()", r"cannot be kept in a snapshot: .*dist_func"),
        ("river:compose.FuncTransformer(lambda x: x)", "only River's classes"),
        ("river:__import__('os').system('true')", "River has no"),
        ("river:base.base.inspect.getsource", "River has no|no class of River"),
        ("river:compose.Select('nothing') | linear_model.LogisticRegression()", "does not work"),
        ("river:preprocessing.TargetStandardScaler(3)", "does not work|no classifier|attribute"),
        ("river:" + "(" * 500 + "1" + ")" * 500, "cannot be read"),
    ],
)
def test_refuses_with_a_reason(learner: str, says: str) -> None:
    """A setting that is no servable model is refused at the start, by the setting's value."""
    with pytest.raises(SettingsError, match=says):
        load_settings(learner=learner)


class CountsReads(linear_model.LogisticRegression):
    """Remembers how often it was asked."""

    n_reads = 0

    def predict_proba_one(self, x: dict[Any, Any], **kwargs: Any) -> Any:
        """Answer, and count."""
        self.n_reads += 1
        return {True: 0.5}


def test_refuses_reads_that_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose predictions change its state cannot be served."""
    monkeypatch.setattr(CountsReads, "__module__", "river.made_up")
    monkeypatch.setattr("river.linear_model.CountsReads", CountsReads, raising=False)
    named = codec._named
    monkeypatch.setattr(
        codec, "_named", lambda name: CountsReads if "CountsReads" in name else named(name)
    )
    with pytest.raises(SettingsError, match="reads must not write"):
        load_settings(learner="river:linear_model.CountsReads(l2=0.5)")
