from __future__ import annotations

import copy
import functools
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app import snapshot
from app.challenger import alpha_of
from app.detectors import BETS, Superiority
from app.engine import Engine
from app.events import VALID, Command, Feedback, Record
from app.recommend import Request
from tests.factories import EVICTING, apply, busy_log, feed, fingerprint, make_engine

# So eager that verdicts of both kinds, and adoptions, happen within a short log.
EAGER: dict[str, Any] = {
    "warmup_events": 60,
    "challenger_alpha": 0.9,
    "challenger_margin": 0.0,
    "challenger_adopt": "auto",
    "interleave_share": 0.5,
    "trusted_history": 1,
    "overlap_min": 0,
}
TRIED: list[dict[str, Any]] = [
    {"covisit_shrink": 0.5},
    {"max_neighbours": 30, "blend_learning_rate": 0.3},
    {"max_neighbours": 4},
    {"n_factors": 8},
    {"trending_half_lives_s": [600, 86_400]},
    {"learner": "river:linear_model.LogisticRegression()"},
    {"learner": "blend"},
    {"learner": "river:reco.BiasedMF()"},
]


def contested_log(n_events: int, seed: int = 1) -> list[Record]:
    """Return a busy log in which challengers begin and end, and drafted slates are clicked."""
    chance = random.Random(seed)
    records: list[Record] = []
    for record in busy_log(n_events, seed=seed):
        if isinstance(record, Feedback) and chance.random() < 0.3:
            team, number = chance.choice("ab"), chance.randrange(1, 4)
            slate = f"slate-{chance.randrange(n_events)}"
            draft = f"challenger:{number}:{team}"
            record = Feedback(
                record.event_id,
                record.user_id,
                record.item_id,
                record.type,
                record.value,
                record.time_ms,
                recommendation_id=slate,
                token=VALID,
                draft=draft,
            )
        records.append(record)
        draw = chance.random()
        if draw < 0.02:
            changes = chance.choice(TRIED)
            records.append(Command("start_challenger", "made up", "tester", changes=changes))
        elif draw < 0.03:
            name: Any = chance.choice(["stop_challenger", "adopt"])
            records.append(Command(name, "made up", "tester", force=chance.random() < 0.5))
    return records


@functools.cache
def alone() -> Engine:
    """Return an engine that met each record in an entry of its own."""
    return feed(make_engine(**EVICTING, **EAGER), contested_log(500))


@settings(max_examples=8, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 400), max_size=12))
def test_grouping_never_matters(cuts: list[int]) -> None:
    """The same records end in the same hashes and decisions, whatever entries they came in."""
    log = contested_log(500)
    one, other = alone(), make_engine(**EVICTING, **EAGER)
    while log:
        size = cuts.pop() if cuts else len(log)
        apply(other, *log[:size])
        log = log[size:]
    assert one.hashes() == other.hashes()
    assert [(d.number, d.kind, d.event) for d in one.gate.decisions] == [
        (d.number, d.kind, d.event) for d in other.gate.decisions
    ]
    assert {"challenger_started", "adopt"} <= {d.kind for d in one.gate.decisions}


@pytest.mark.parametrize("at", [20, 90, 170, 260, 390, 520, 700])
@pytest.mark.parametrize("changes", [{}, EVICTING], ids=["roomy", "evicting"])
def test_a_state_continues_identically(at: int, changes: dict[str, Any]) -> None:
    """With a challenger, with one adopted: an engine from a snapshot goes on to the same bytes."""
    log = contested_log(700, seed=3)
    engine = feed(make_engine(**changes, **EAGER), log[:at])
    apply(engine, Command("start_challenger", "made up", "tester", changes=TRIED[at % len(TRIED)]))
    assert engine.challenges.running is not None
    manifest, chunks = snapshot.dump(copy.deepcopy(engine.state()), engine.cursor)
    twin = Engine.from_state(snapshot.load([(manifest, chunks)]))
    assert twin.hashes() == engine.hashes()
    for begin in range(at, len(log), 50):
        for one in (engine, twin):
            feed(one, log[begin : begin + 50], group=50)
        asked = Request("u1"), f"asked-{begin}"
        assert twin.recommend(*asked) == engine.recommend(*asked)
    assert twin.hashes() == engine.hashes()
    assert fingerprint(twin.state()) == fingerprint(engine.state())
    assert twin.describe() == engine.describe()


def test_reading_changes_nothing_that_comes_later() -> None:
    """An engine whose slates are interleaved all the time learns the same as a silent one."""
    log = contested_log(300, seed=6)
    asked, silent = make_engine(**EVICTING, **EAGER), make_engine(**EVICTING, **EAGER)
    for number, record in enumerate(log):
        apply(silent, record)
        apply(asked, record)
        asked.recommend(Request("u1", k=20, explain=True), f"asked-{number}")
        asked.describe()
    assert asked.hashes() == silent.hashes()


# -- the proof -------------------------------------------------------------------------------------


def statistics(differences: np.ndarray[Any, Any], margin: float) -> np.ndarray[Any, Any]:
    """Return E after each difference, for many streams at once: [streams, events]."""
    x = (differences - margin) / (1.0 + margin)
    total = np.zeros_like(x)
    for k in range(1, len(BETS) + 1):
        total += np.cumprod(1.0 + x * 0.5**k, axis=1)
    return total / len(BETS)


def losses(chance: np.random.Generator, shape: tuple[int, int]) -> np.ndarray[Any, Any]:
    """Return losses as on MovieLens: 4 of 10 items beyond rank 100, ranks with a heavy tail."""
    ranks = np.floor(np.exp(chance.uniform(0.0, np.log(101.0), shape))) - 1.0
    found = chance.random(shape) < 0.6
    return np.where(found, 1.0 - 1.0 / np.log2(ranks + 2.0), 1.0)


def test_the_formula_for_many_streams_is_that_of_one() -> None:
    """What the simulations compute at once is what the class computes event by event."""
    chance = np.random.default_rng(5)
    differences = losses(chance, (3, 400)) - losses(chance, (3, 400)) * 0.9
    expected = statistics(differences, 0.002)
    for stream, wanted in zip(differences, expected, strict=True):
        process = Superiority()
        for difference, e in zip(stream.tolist(), wanted.tolist(), strict=True):
            process.update(difference, 0.002)
            assert process.statistic == pytest.approx(e, rel=1e-9)


@pytest.mark.parametrize("kind", ["independent", "rarely different", "heavy-tailed"])
def test_a_champion_in_disguise_is_not_proven(kind: str) -> None:
    """Of 100 that are no better, looked at after each of 20,000 events, at most one is proven."""
    chance = np.random.default_rng(11)
    shape, n_proven = (10, 20_000), 0
    for _ in range(10):
        champion = losses(chance, shape)
        other = losses(chance, shape)
        if kind == "rarely different":
            other = np.where(chance.random(shape) < 0.05, other, champion)
        elif kind == "heavy-tailed":
            # Seldom much better, often a little worse, with a mean of 0.
            is_much = chance.random(shape) < 0.01
            other = champion = np.full(shape, 0.5)
            other = other - np.where(is_much, 0.495, -0.005)
        e = statistics(champion - other, 0.002)
        mean = np.cumsum(champion - other, axis=1)
        n_proven += int(((e >= 1 / alpha_of(1, 0.001)) & (mean > 0)).any(axis=1).sum())
    assert n_proven <= 1
