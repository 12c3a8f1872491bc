"""Events that are learned together end where they would have ended one by one."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from app import slices
from app.engine import Engine, Outcome
from app.events import Entry, Feedback, Malformed, Record, Thin
from tests.factories import EVICTING, START_MS, busy_log, fingerprint, make_engine, sessions
from tests.properties.test_challengers import EAGER, contested_log

ROOMY: dict[str, Any] = {"max_items": 400, "max_users": 400, "warmup_events": 100}
WATCHFUL: dict[str, Any] = {
    **ROOMY,
    "promote_events": 30,
    "overlap_min": 0.9,
    "candidate_events": 120,
    "candidate_min_events": 20,
    "bless_judged": 30,
    "harm_alarm": 3e4,
    "ask_alarm": 2e3,
    "ask_judged": 40,
    "ask_min_judged": 15,
    "ask_s": 60,
    "probation_judged": 30,
    "adwin_delta": 0.9,
    "traffic_delta": 0.9,
}
ALARMED: dict[str, Any] = {**WATCHFUL, "harm_alarm": 20.0, "ask_alarm": 10.0}
KINDS: dict[str, dict[str, Any]] = {
    "watchful": WATCHFUL,
    "alarmed": ALARMED,
    "evicting": {**EVICTING, **EAGER},
    "unguarded": {**ROOMY, "gate": "off"},
    "thinned": {**WATCHFUL, "judge_share": 0.4, "teach_repeats": True},
    "growing": {**WATCHFUL, "growth_least": 2},
    "short window": {**WATCHFUL, "relearn_events": 5},
    "no window": {**WATCHFUL, "relearn_events": 0},
    "few rows": {**WATCHFUL, "max_items": 100, "scored_history": 8},
    "known items only": {**WATCHFUL, "create_unknown_items": False},
}


def log_of(seed: int) -> list[Record]:
    """Return a log in which much is due: duplicates, late events, labels, challengers, faults."""
    records = contested_log(250, seed) if seed % 2 else busy_log(250, seed=seed)
    chance = random.Random(seed)
    return [*records, *chance.choices(records, k=10), *sessions(500, seed=seed)]


def entries_of(
    records: Sequence[Record], chance: random.Random, sizes: Sequence[int] = (0, 1, 1, 1, 2, 5)
) -> list[tuple[Entry, str]]:
    """Return records as entries of one to five, some of none, with their cursors."""
    left = list(records)
    entries: list[tuple[Entry, str]] = []
    while left:
        n = chance.choice(sizes)
        entries.append((Entry(left[:n], 1_000_020_000_000), f"{len(entries) + 1}-0"))
        left = left[n:]
    return entries


def seen(outcomes: Sequence[Outcome]) -> list[tuple[Any, ...]]:
    """Return all that outcomes say."""
    return [
        (
            *(o.cursor, o.version_before, o.version_after, o.results, o.quarantined),
            [(d.number, d.kind, d.event, d.cursor, d.evidence) for d in o.decisions],
        )
        for o in outcomes
    ]


def one_by_one(entries: Sequence[tuple[Entry, str]], **settings: Any) -> tuple[Engine, Any]:
    """Apply entries one by one, each event by itself."""
    engine = make_engine(**settings)
    engine.on_judge = lambda: None
    done = [engine.apply(entry, cursor) for entry, cursor in entries]
    return engine, seen(done)


def in_runs(
    entries: Sequence[tuple[Entry, str]], chance: random.Random, **settings: Any
) -> tuple[Engine, Any]:
    """Apply entries as many at a time as chance has it."""
    engine, left = make_engine(**settings), list(entries)
    done: list[Outcome] = []
    while left:
        n = chance.choice([1, 2, 7, 40])
        for _ in engine.steps_of(left[:n], done):
            pass
        left = left[n:]
    return engine, seen(done)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_together_is_as_one_by_one(kind: str, seed: int) -> None:
    """Whatever is due, and whoever has to go: the same state, to the bit, and the same answers."""
    chance = random.Random(seed)
    entries = entries_of(log_of(seed), chance)
    one, said = one_by_one(entries, **KINDS[kind])
    other, told = in_runs(entries, chance, **KINDS[kind])
    assert told == said
    assert one.hashes() == other.hashes()
    assert fingerprint(one.state()) == fingerprint(other.state())


@pytest.mark.parametrize("seed", range(3))
def test_what_is_judged_of_many_is_the_same_together(seed: int) -> None:
    """Ten events a second, of which three are to be judged; also from a snapshot on."""
    chance, settings = random.Random(seed), {**WATCHFUL, "judge_per_s": 3}
    records = [
        replace(event, time_ms=START_MS + number * 100)
        for number, event in enumerate(sessions(900, seed=seed, n_users=60))
    ]
    entries = entries_of(records, chance)
    one, said = one_by_one(entries, **settings)
    other, told = in_runs(entries, chance, **settings)
    assert told == said
    n_all = one_by_one(entries, **(settings | {"judge_per_s": 0}))[0].prequential["shadow"].n
    assert 0.25 * n_all < one.prequential["shadow"].n < 0.4 * n_all
    assert fingerprint(one.state()) == fingerprint(other.state())
    half = len(entries) // 2 + 3
    begun, _ = one_by_one(entries[:half], **settings)
    again = Engine.from_state(begun.state())
    for entry, cursor in entries[half:]:
        again.apply(entry, cursor)
    assert again.hashes() == one.hashes()


@pytest.mark.parametrize("seed", [0, 1, 3, 5])
def test_what_an_alarm_decides_is_of_the_entry_that_it_rang_at(seed: int) -> None:
    """Also where what rings is whether the first event of a slice was quarantined."""
    chance, records = random.Random(seed), [*sessions(500, seed=seed)]
    settings = {**WATCHFUL, "traffic_delta": 0.5, "promote_events": 10_000, "promote_s": 10**6}
    flawed: list[Record] = [
        record if chance.random() < 0.9 else Malformed("schema", "made up")
        for record in sessions(2_000, seed=seed, n_users=100, start=500)
    ]
    entries = [(Entry([record]), f"{n}-0") for n, record in enumerate([*records, *flawed], 1)]
    one, said = one_by_one(entries, **settings)
    other, told = in_runs(entries, chance, **settings)
    assert told == said
    assert fingerprint(one.state()) == fingerprint(other.state())
    asked = {d.cursor for d in one.gate.decisions if (d.kind, d.reason) == ("ask", "quarantined")}
    assert asked & {cursor for (entry, cursor) in entries if isinstance(entry.records[0], Feedback)}


def test_what_is_watched_rings_within_what_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    """The logs above have all that cuts a slice short, and slices are long all the same."""
    sizes: list[int] = []
    learn = slices.Slice.learn

    def noted(self: slices.Slice, *about: Any) -> int:
        sizes.append(len(self.events))
        return learn(self, *about)

    monkeypatch.setattr(slices.Slice, "learn", noted)
    kinds: set[str] = set()
    for seed, settings in enumerate((WATCHFUL, WATCHFUL, ALARMED)):
        chance = random.Random(seed)
        entries = entries_of(log_of(seed), chance)
        kinds |= {d.kind for d in in_runs(entries, chance, **settings)[0].gate.decisions}
    wanted = {"promote", "candidate", "bless", "ask", "ask_resolved", "rollback", "shadow_reset"}
    assert wanted <= kinds, kinds
    assert max(sizes) >= slices.TURN.judged
    assert sum(size > 1 for size in sizes) > len(sizes) / 10


@pytest.mark.parametrize("changes", [{}, {"judge_share": 0.1}, {"gate": "off"}])
def test_many_that_are_not_judged_are_learned_together(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    """As many as may be, of large entries; promotions come as one by one, where they are due."""
    lengths: list[int] = []
    learn = slices.Slice.learn

    def noted(self: slices.Slice, *about: Any) -> int:
        lengths.append(len(self.events))
        return learn(self, *about)

    large = {"max_items": 5_000, "candidate_events": 10_000, "overlap_min": 0}
    settings = {**ROOMY, **large, "promote_events": 50, "judge_per_s": 1, **changes}
    records = [
        replace(event, time_ms=START_MS + number * 50)
        for number, event in enumerate(sessions(4_000, seed=3, n_users=200))
    ]
    chance = random.Random(1)
    entries = entries_of(records, chance, (1, 90, 700))
    one, said = one_by_one(entries, **settings)
    monkeypatch.setattr(slices.Slice, "learn", noted)
    other, told = in_runs(entries, chance, **settings)
    assert told == said
    assert fingerprint(one.state()) == fingerprint(other.state())
    assert max(lengths) == slices.SIZE
    lengths.clear()
    whole = make_engine(**settings)
    assert seen([whole.apply(entry, cursor) for entry, cursor in entries]) == said
    assert fingerprint(whole.state()) == fingerprint(one.state())
    assert slices.SIZE < max(lengths) <= slices.WHOLE.events
    if changes.get("gate") != "off":
        assert sum(d.kind == "promote" for d in other.gate.decisions) > 1


def test_hardly_anything_need_be_judged() -> None:
    """A share that a budget has thinned to no number any more judges nobody, and stops nothing."""
    records: list[Record] = [Thin(0.5, 1.0, "a budget", "one"), *sessions(400, seed=1)]
    settings = {**WATCHFUL, "judge_share": 5e-324}
    one, said = one_by_one([(Entry(records), "1-0")], **settings)
    other, told = in_runs([(Entry(records), "1-0")], random.Random(1), **settings)
    assert told == said
    assert fingerprint(one.state()) == fingerprint(other.state())
    assert other.prequential["shadow"].n == 0
