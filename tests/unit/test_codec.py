from __future__ import annotations

import math
import random
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from river import ensemble, facto, forest, linear_model, naive_bayes, optim, preprocessing, tree

from app import snapshot
from app.settings import SEMANTICS
from learners import codec

MODELS: list[Callable[[], Any]] = [
    linear_model.LogisticRegression,
    lambda: linear_model.LogisticRegression(optim.Adam()),
    lambda: preprocessing.StandardScaler() | linear_model.PAClassifier(),
    lambda: tree.HoeffdingAdaptiveTreeClassifier(seed=1),
    lambda: forest.ARFClassifier(seed=1, n_models=3),
    lambda: facto.FMClassifier(seed=1),
    naive_bayes.GaussianNB,
    lambda: ensemble.ADWINBaggingClassifier(linear_model.LogisticRegression(), seed=1),
    linear_model.SoftmaxRegression,
]


def teach(model: Any, seed: int, n_events: int = 600) -> None:
    """Teach a classifier which of two numbers is larger."""
    chance = random.Random(seed)
    for _ in range(n_events):
        x = {"a": chance.random(), "b": chance.random()}
        model.learn_one(x, x["a"] > x["b"])


def plain(value: Any) -> bytes:
    """Return the bytes that stand for a value."""
    return codec.canonical(codec.encode(value))


@pytest.mark.parametrize("make", MODELS, ids=[type(make()).__name__ for make in MODELS])
def test_a_model_goes_on_as_before(make: Callable[[], Any]) -> None:
    """A model that was kept and read again learns and predicts as the one that stayed."""
    model = make()
    teach(model, seed=1)
    read = codec.decode(codec.encode(model))
    assert plain(read) == plain(model)
    teach(model, seed=2)
    teach(read, seed=2)
    assert plain(read) == plain(model)
    x = {"a": 0.3, "b": 0.4}
    assert read.predict_proba_one(x) == model.predict_proba_one(x)


def test_values_come_back() -> None:
    """Numbers, containers, arrays and chance come back as they were, types included."""
    value: dict[Any, Any] = {
        "numbers": [0, -1, 2**200, 0.1, math.inf, True, None, "ü", b"\x00\xff"],
        ("a", 1): deque([1, 2], maxlen=3),
        "counts": Counter("abca"),
        "sets": {"b", "a"},
        "array": np.arange(6, dtype=np.float32).reshape(2, 3),
        "number": np.float64(0.1),
        "default": defaultdict(list, {"k": [1]}),
    }
    read = codec.decode(codec.encode(value))
    assert list(read) == list(value)
    for key, inner in value.items():
        assert type(read[key]) is type(inner)
        assert np.array_equal(read[key], inner) if key == "array" else read[key] == inner
    assert math.isnan(codec.decode(codec.encode(math.nan)))
    assert read["default"]["new"] == []
    chance = random.Random(3)
    assert codec.decode(codec.encode(chance)).random() == chance.random()
    numpy_chance = np.random.RandomState(3)
    assert codec.decode(codec.encode(numpy_chance)).normal() == numpy_chance.normal()


def test_what_is_shared_stays_shared() -> None:
    """Two names for one list are still one list, and a list may hold itself."""
    shared: list[Any] = [1]
    shared.append(shared)
    read = codec.decode(codec.encode({"a": shared, "b": shared}))
    assert read["a"] is read["b"]
    assert read["a"][1] is read["a"]


def test_goes_through_a_snapshot() -> None:
    """The plain state is what a snapshot can hold, and comes out of one as it was."""
    model = forest.ARFClassifier(seed=1, n_models=2)
    teach(model, seed=1)
    engine_like = {
        "semantics": SEMANTICS,
        "plain": {"n_events": 0},
        "admission": {"watermark_ms": 0},
        "gate": {"data": {"version": 0, "state": "open", "n_blessings": 0}},
        "model": codec.encode(model),
    }
    read = snapshot.load([snapshot.dump(engine_like, "1-1")])
    assert plain(codec.decode(read["model"])) == plain(model)


def test_a_deep_object_is_no_problem() -> None:
    """Nesting deeper than Python recurses is kept."""
    value: list[Any] = []
    for _ in range(5_000):
        value = [value]
    read, depth = codec.decode(codec.encode(value)), 0
    while read:
        [read], depth = read, depth + 1
    assert depth == 5_000


class Stranger:
    """No class of River's."""

    def method(self) -> None:
        """Do nothing."""


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (lambda x: x, "lambda"),
        ({"a": [Stranger()]}, r"dict\['a'\]\[0\] is a .*Stranger"),
        (Fraction(1, 3), "Fraction"),
        (np.array([object()]), "array of object"),
        ({(1, 2)}, "set of other things"),
        (random.Random, "random:Random"),
        (open, "builtin"),
        (Stranger().method, "method"),
    ],
)
def test_refuses_by_name(value: Any, named: str) -> None:
    """What has no plain form is refused, with the way to it."""
    with pytest.raises(codec.CannotKeep, match=named):
        codec.encode(value)


@pytest.mark.parametrize(
    "node",
    [
        ["name", "os:system"],
        ["name", "builtins:eval"],
        ["name", "river.base.base:inspect"],
        ["object", "subprocess:Popen", []],
        ["object", "river.base.base:copy.deepcopy", []],
        ["compiled", "builtins:open", [["x"], None]],
        ["method", "abc", "format"],
        ["array", "|O", [1], 0, 8],
        ["nothing", "x", None],
    ],
)
def test_reads_nothing_else(node: list[Any]) -> None:
    """Plain state that names what is not on the list is refused: it may not have been ours."""
    with pytest.raises((ValueError, KeyError, AttributeError)):
        codec.decode({"root": [0], "nodes": [node], "bytes": np.zeros(8, np.uint8)})
