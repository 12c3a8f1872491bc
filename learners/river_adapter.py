"""A River model in the place of the blend's combiner: it ranks what the blend's sources name.

A classifier, a regressor or a pipeline of one sees the features of each candidate (what the sources
gave it, how often it was had, in which situation the user is). A `reco.Ranker` sees user and item.
Their numerics are River's: the same bytes on like CPUs only. Every version has a whole model, so a
promotion copies all of it.
"""

from __future__ import annotations

import ast
import copy
import importlib
import inspect
import math
from collections.abc import Callable, Hashable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from river import base
from river.compose import Pipeline
from river.reco.base import Ranker
from river.utils import VectorDict

from learners import codec, kernels
from learners.base import N_VERSIONS, SHADOW
from learners.candidates import Candidates
from learners.combiner import Combiner, context_of
from learners.history import History, Profile
from learners.ids import State
from learners.inputs import CONTEXTS, Inputs
from learners.kernels import F64, I32, MISS

PREFIX = "river:"

# Pooled items that were not chosen, and are learned as such with each choice.
_OTHERS = 4
# Items that a ranker learns as not had with each event: without any, all it sees is good.
_NEGATIVES = 20
_TRIAL = 60

Features = dict[str, float]


def adapt(
    model: base.Estimator, features: tuple[str, ...], history: History, seed: int
) -> Combiner:
    """Return a combiner that totals by a River model; raise ValueError if it is of no such kind."""
    if isinstance(model, Ranker):
        return RankerCombiner(model, features, history, seed)
    return ModelCombiner(model, features, seed, history.inputs)


def _last_step(model: base.Estimator) -> Any:
    return list(model.steps.values())[-1] if isinstance(model, Pipeline) else model


class _RiverCombiner(Combiner):
    """Versions of a River model."""

    def __init__(self, model: base.Estimator, features: tuple[str, ...], seed: int) -> None:
        self.seed = seed
        self.features = features
        self.combined = np.ones(len(features), np.float64)
        self.models: list[Any] = [copy.deepcopy(model) for _ in range(N_VERSIONS)]
        self.n_learned = 0

    def draw(self, n: int, below: int) -> Iterator[int]:
        """Yield n numbers below a bound, by a hash of the seed and of what was learned so far."""
        state = (self.seed << 32) ^ self.n_learned
        for i in range(n):
            yield int(kernels.mix(np.uint64(state + (i << 56)))) % below

    def parts(self, version: int, pool: Candidates, places: I32, part_of: I32, parts: F64) -> None:
        """Leave the totals whole: nobody knows what a model's parts are."""
        parts[:, -1] = pool.total[places]

    def assign(self, target: int, source: int) -> None:
        """Copy the whole model."""
        self.models[target] = copy.deepcopy(self.models[source])

    def view(self, version: int) -> dict[str, Any]:
        """Return the model as River writes it."""
        return {"model": " ".join(repr(self.models[version]).split())}

    def state(self) -> State:
        """Return the models in plain form; raise CannotKeep if one has none."""
        return {"models": codec.encode(self.models), "n_learned": self.n_learned}

    def load_state(self, state: State, *, is_moved: bool) -> None:
        """Take over the models."""
        self.models = codec.decode(state["models"])
        self.n_learned = int(state["n_learned"])

    def update_hash(self, version: int, sha: Any) -> None:
        """Feed the model's plain form."""
        sha.update(codec.canonical(codec.encode(self.models[version])))

    def hash_learning(self, sha: Any) -> None:
        """Feed what is drawn by."""
        sha.update(self.n_learned.to_bytes(8, "little"))


class ModelCombiner(_RiverCombiner):
    """Totals by a classifier's probability of a choice, or by a regressor's prediction.

    Learns the chosen item as True and a few others of the pool as False (1.0 or the reward, and
    0.0, for a regressor); a refused item as False.
    """

    def __init__(
        self, model: base.Estimator, features: tuple[str, ...], seed: int, inputs: Inputs
    ) -> None:
        super().__init__(model, features, seed)
        last = _last_step(model)
        self.is_classifier = isinstance(last, base.Classifier)
        if not (self.is_classifier or isinstance(last, base.Regressor)):
            raise ValueError(
                f"{type(last).__name__} is no classifier, no regressor and no ranker of river.reco"
            )
        self._situation: Features = {}
        self._contexts = (*CONTEXTS, *inputs.contexts)
        self._context = inputs.context

    def total(self, version: int, profile: Profile, pool: Candidates, now_ms: int) -> None:
        """Ask the model about every pooled item."""
        context_of(profile, now_ms, self._context)
        self._situation = dict(zip(self._contexts, self._context.tolist()))
        model = self.models[version]
        scores = [self.predict(model, x) for x in self._examples(pool)]
        pool.total[: pool.n] = _finite(scores)

    def _examples(self, pool: Candidates) -> Iterator[Features]:
        for values in pool.features[:, : pool.n].T.tolist():
            yield dict(zip(self.features, values)) | self._situation

    def predict(self, model: Any, x: Features) -> float:
        """Return how likely, or how good, a choice with these features is."""
        if self.is_classifier:
            return float(model.predict_proba_one(x).get(True, 0.0))
        return float(model.predict_one(x))

    def learn_list(self, pool: Candidates, place: int, reward: float) -> bool:
        """Learn the chosen item and some others, or the refused one."""
        self.n_learned += 1
        examples = list(self._examples(pool))
        self._teach(examples[place], max(reward, 0.0))
        if reward > 0:
            for other in self.draw(_OTHERS, pool.n):
                if other != place:
                    self._teach(examples[other], 0.0)
        return False

    def _teach(self, x: Features, reward: float) -> None:
        self.models[SHADOW].learn_one(x, reward > 0 if self.is_classifier else reward)


class RankerCombiner(_RiverCombiner):
    """Totals by what a `reco.Ranker` predicts for user and item.

    Who or what a version has not learned it is never asked about, as asking makes some rankers
    grow: strangers get what is popular, items that it does not know come last. Ids are forgotten
    when the history forgets them. Each event is learned with its reward, and some items drawn by
    hash with 0.
    """

    def __init__(
        self, model: Ranker, features: tuple[str, ...], history: History, seed: int
    ) -> None:
        super().__init__(model, features, seed)
        self.history = history
        self.known: list[set[str]] = [set() for _ in range(N_VERSIONS)]
        self.items: list[str] = []  # to draw from
        self._place: dict[str, int] = {}
        history.on_item_evicted.append(self._forget_item)
        history.on_user_forgotten.append(self._forget_user)

    def leave(self) -> None:
        """Hear no more of the history."""
        self.history.on_item_evicted.remove(self._forget_item)
        self.history.on_user_forgotten.remove(self._forget_user)

    def _forget_item(self, index: int, handle: int) -> None:
        self._forget(_item(self.history.items.ids[index]))

    def _forget_user(self, user_id: Hashable) -> None:
        self._forget(_user(user_id))

    def total(self, version: int, profile: Profile, pool: Candidates, now_ms: int) -> None:
        """Ask the ranker about every pooled item that it knows."""
        n, known, model = pool.n, self.known[version], self.models[version]
        user = None if profile.user == MISS else _user(self.history.users.ids[profile.user])
        if user not in known:
            popular = pool.raw[-1, :n]
            pool.total[:n] = popular / max(popular.max(initial=0.0), 1e-300)
            return
        ids = self.history.items.ids
        names = [_item(ids[index]) for index in pool.item[:n].tolist()]
        # A prediction may draw by chance; the next request, and learning, must not notice.
        chance = [(rng, rng.getstate()) for rng in codec.chances(model)]
        scores = [
            float(model.predict_one(user, name)) if name in known else math.nan for name in names
        ]
        for rng, state in chance:
            rng.setstate(state)
        pool.total[:n] = _finite(scores)

    def learn_list(self, pool: Candidates, place: int, reward: float) -> bool:
        """Do nothing: `learn` sees every event."""
        return False

    def learn(self, profile: Profile, item: int, reward: float) -> None:
        """Learn the event with its reward, and some other items with 0."""
        self.n_learned += 1
        user = _user(self.history.users.ids[profile.user])
        name = _item(self.history.items.ids[item])
        if name not in self._place:
            self._place[name] = len(self.items)
            self.items.append(name)
        self._teach(user, name, reward)
        for place in self.draw(_NEGATIVES, len(self.items)) if reward > 0 else ():
            if self.items[place] != name:
                self._teach(user, self.items[place], 0.0)

    def _teach(self, user: str, item: str, reward: float) -> None:
        self.models[SHADOW].learn_one(user, item, reward)
        self.known[SHADOW] |= {user, item}

    def _forget(self, name: str) -> None:
        """Remove an id from every version, wherever its model keeps something by it."""
        for model, known in zip(self.models, self.known, strict=True):
            if name in known:
                known.remove(name)
                for held in _by_id(model):
                    held.pop(name, None)
        place = self._place.pop(name, None)
        if place is not None:
            last = self.items.pop()
            if last != name:
                self.items[place], self._place[last] = last, place

    def assign(self, target: int, source: int) -> None:
        """Copy the whole model, and whom it knows."""
        super().assign(target, source)
        self.known[target] = set(self.known[source])

    def state(self) -> State:
        """Return the models, whom they know, and what is drawn from."""
        known = [sorted(names) for names in self.known]
        return super().state() | {"known": known, "items": list(self.items)}

    def load_state(self, state: State, *, is_moved: bool) -> None:
        """Take over the models; whom the history does not have any more they forget."""
        super().load_state(state, is_moved=is_moved)
        self.known = [set(names) for names in state["known"]]
        if not is_moved:
            self.items = list(state["items"])
            self._place = {name: place for place, name in enumerate(self.items)}
        present = {_user(id_) for id_ in self.history.users.index}
        present |= {_item(id_) for id_ in self.history.items.index}
        for name in set().union(*self.known) - present:
            self._forget(name)

    def update_hash(self, version: int, sha: Any) -> None:
        """Feed the model and whom it knows."""
        super().update_hash(version, sha)
        sha.update("\n".join(sorted(self.known[version])).encode())

    def hash_learning(self, sha: Any) -> None:
        """Feed what is drawn by, and from."""
        super().hash_learning(sha)
        sha.update("\n".join(self.items).encode())


def _user(id_: Hashable) -> str:
    return f"user {id_}"


def _item(id_: Hashable) -> str:
    return f"item {id_}"


def _finite(scores: list[float]) -> F64:
    """Return scores, with what is not finite below all others."""
    array = np.array(scores, np.float64)
    is_finite = np.isfinite(array)
    least = array[is_finite].min(initial=0.0)
    return np.where(is_finite, array, least - 1.0)


def _by_id(model: Any) -> list[Any]:
    return [part for part in codec.parts(model) if isinstance(part, dict | VectorDict)]


# -- from a setting ---------------------------------------------------------------------------


@lru_cache(maxsize=16)
def make_model(
    text: str, seed: int, features: tuple[str, ...], given: tuple[str, ...] = ()
) -> base.Estimator:
    """Return the model that a text like "river:reco.BiasedMF(n_factors=20)" describes, untaught.

    Classes of River's with arguments, joined by | and +. Where one takes a `seed` and is given
    none, it is `seed`. Nothing is evaluated. Raises ValueError if it is no such text, or if the
    model cannot be served, which is first tried on made-up events with these features, and contexts
    that are given.
    """
    model = parse_model(text, seed)
    _Trial(lambda: parse_model(text, seed), features, given).run()
    return model


def parse_model(text: str, seed: int) -> base.Estimator:
    """Return the model that a text describes; raise ValueError with what is wrong in it."""
    try:
        tree = ast.parse(text.removeprefix(PREFIX).strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError(
            "cannot be read: write it like river:linear_model.LogisticRegression(l2=0.1)"
        ) from None
    model = _value(tree, seed)
    model = _construct(model, [], {}, seed) if inspect.isclass(model) else model
    if not isinstance(model, base.Estimator):
        raise ValueError(f"{ast.unparse(tree)} is no estimator of River's")
    return model


def _value(node: ast.expr, seed: int) -> Any:
    """Return what an expression stands for: a literal, a class, a class with arguments, a | b."""
    if isinstance(node, ast.Call):
        made = _value(node.func, seed)
        if not inspect.isclass(made):
            raise ValueError(f"{ast.unparse(node.func)} is no class")
        args = [_value(arg, seed) for arg in node.args]
        keywords = {str(word.arg): _value(word.value, seed) for word in node.keywords}
        return _construct(made, args, keywords, seed)
    if isinstance(node, ast.Attribute | ast.Name):
        return _river_class(ast.unparse(node))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr | ast.Add):
        left, right = _instance(node.left, seed), _instance(node.right, seed)
        return left | right if isinstance(node.op, ast.BitOr) else left + right
    if isinstance(node, ast.List | ast.Tuple):
        values = [_value(element, seed) for element in node.elts]
        return values if isinstance(node, ast.List) else tuple(values)
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise ValueError(
            f"{ast.unparse(node)}: only River's classes, numbers, text, lists, | and + can be used"
        ) from None


def _instance(node: ast.expr, seed: int) -> Any:
    value = _value(node, seed)
    return _construct(value, [], {}, seed) if inspect.isclass(value) else value


def _construct(of: type, args: list[Any], keywords: dict[str, Any], seed: int) -> Any:
    takes_seed = "seed" in inspect.signature(of).parameters
    if takes_seed and keywords.get("seed") is None:
        keywords = keywords | {"seed": seed}
    try:
        return of(*args, **keywords)
    except Exception as error:
        raise ValueError(f"{of.__name__}: {error}") from None


def _river_class(name: str) -> type:
    module, *rest = name.removeprefix("river.").split(".")
    try:
        found: Any = importlib.import_module(f"river.{module}")
        for part in rest:
            found = vars(found)[part]
    except (ImportError, KeyError, TypeError):
        raise ValueError(f"River has no {name}") from None
    if not (inspect.isclass(found) and found.__module__.startswith("river.")):
        raise ValueError(f"{name} is no class of River's")
    return found


class _Trial:
    """Whether a model can be served: it learns, reads write nothing, and it survives a snapshot."""

    def __init__(
        self,
        make: Callable[[], base.Estimator],
        features: tuple[str, ...],
        given: tuple[str, ...],
    ) -> None:
        self.make = make
        self.names = (*features, *CONTEXTS, *given)
        self.model: Any = make()
        self.name = type(self.model).__name__
        self.is_ranker = isinstance(self.model, Ranker)
        # Says so if it is of no kind that we serve.
        self.combiner = (
            None if self.is_ranker else ModelCombiner(self.model, features, 1, Inputs(given))
        )

    def run(self) -> None:
        """Raise ValueError if it cannot."""
        try:
            self._learns_alike()
            self._survives()
            self._reads_write_nothing()
        except codec.CannotKeep as error:
            raise ValueError(f"cannot be kept in a snapshot: {error}") from None
        except ValueError:
            raise
        except Exception as error:  # whatever River makes of arguments that it does not check
            message = f"{type(error).__name__}: {error}"
            raise ValueError(f"{self.name} does not work here: {message}") from None

    def _learns_alike(self) -> None:
        twin = self.make()
        self._teach(self.model, twin)
        if _plain(self.model) != _plain(twin):
            raise ValueError(
                f"two of {self.name} that were taught alike differ: it has chance, and no seed"
            )

    def _survives(self) -> None:
        read = codec.decode(codec.encode(self.model))
        for _ in range(2):
            if _plain(self.model) != _plain(read):
                raise ValueError(f"{self.name} is not what it was, once kept and read again")
            self._teach(self.model, read)

    def _reads_write_nothing(self) -> None:
        chances = (
            [(rng, rng.getstate()) for rng in codec.chances(self.model)] if self.is_ranker else []
        )
        before = _plain(self.model)
        for i in range(_TRIAL):
            if self.combiner is None:
                self.model.predict_one(f"user {i % 5}", f"item {i % 7}")
            else:
                self.combiner.predict(self.model, self._x(i + 0.5))
        for rng, state in chances:
            rng.setstate(state)
        if _plain(self.model) != before:
            raise ValueError(f"predictions of {self.name} change its state: reads must not write")

    def _teach(self, *models: Any) -> None:
        is_classifier = isinstance(_last_step(self.model), base.Classifier)
        for i in range(_TRIAL):
            y = i % 2 == 0 if is_classifier else float(i % 2)
            for model in models:
                if self.is_ranker:
                    model.learn_one(f"user {i % 5}", f"item {i % 7}", float(y))
                else:
                    model.learn_one(self._x(i), y)

    def _x(self, i: float) -> Features:
        return {name: (i * (0.37 + 0.11 * place)) % 1.0 for place, name in enumerate(self.names)}


def _plain(model: Any) -> bytes:
    return codec.canonical(codec.encode(model))
