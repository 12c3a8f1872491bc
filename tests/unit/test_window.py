from __future__ import annotations

import random
from collections import defaultdict
from typing import Any, NamedTuple

import numpy as np
import pytest

from app.engine import Engine
from app.window import Learned, Window
from learners.history import History, Profile
from learners.kernels import MISS
from tests.factories import apply, busy_log, fingerprint, make_engine

LENGTH = 6


class Event(NamedTuple):
    """One event as it was: handles of user and item, its place in the window if it taught."""

    number: int
    user: int
    item: int
    reward: float
    time_ms: int
    nth: int
    seq: int | None


Seen = tuple[list[int], list[float], list[int], list[int]]
"""A profile: liked items, weights, times; refused items. Items by index."""


def seen(profile: Profile) -> Seen:
    """Return what is in a profile."""
    n, n_refused = profile.n, profile.n_refused
    liked = profile.items[:n].tolist(), profile.weights[:n].tolist(), profile.times[:n].tolist()
    return (*liked, profile.refused[:n_refused].tolist())


class Diary:
    """A history with a window, and a list of all that ever happened to compare them with."""

    def __init__(self, capacity: int, *, max_items: int = 100, max_users: int = 100) -> None:
        self.history = History(max_items, max_users, LENGTH, LENGTH, had_length=20)
        self.window = Window(capacity, self.history)
        self.events: list[Event] = []
        self.of_user: defaultdict[int, list[Event]] = defaultdict(list)

    def add(self, user: str, item: str, reward: float = 1.0, *, is_taught: bool = True) -> Event:
        """Let an event come; one that is not taught is in the history alone."""
        number = len(self.events) + 1
        u, i = self.history.touch_user(user, number), self.history.touch_item(item, number)
        handles = self.history.users.handle(u), self.history.items.handle(i)
        nth, seq = len(self.of_user[handles[0]]), self.window.n if is_taught else None
        event = Event(number, *handles, reward, number * 1_000, nth, seq)
        if is_taught:
            self.window.add(number, u, i, reward=reward, time_ms=event.time_ms)
        self.history.append(u, i, time_ms=event.time_ms, reward=reward)
        self.events.append(event)
        self.of_user[handles[0]].append(event)
        return event

    def mix(self, n: int, chance: random.Random, n_items: int = 30, n_users: int = 8) -> None:
        """Let many events come, liked and refused; one in ten teaches nothing."""
        for _ in range(n):
            user, item = f"u{chance.randrange(n_users)}", f"i{chance.randrange(n_items)}"
            reward = chance.choice([1.0, 0.5, -1.0])
            self.add(user, item, reward, is_taught=chance.random() < 0.9)

    def kept(self) -> list[Event]:
        """Return what taught and is not past the window's bound."""
        taught = [event for event in self.events if event.seq is not None]
        return taught[max(0, len(taught) - self.window.capacity) :]

    def expected(self, event: Event) -> Seen:
        """Return the profile before an event, of what is still known: in the window, or the ring.

        Nothing is looked for beyond what is not.
        """
        of_user, oldest = self.of_user[event.user], self.window.n - self.window.capacity
        known: list[Event] = []
        for past in reversed(of_user[max(0, event.nth - LENGTH) : event.nth]):
            is_kept = past.seq is not None and past.seq >= oldest
            if not (is_kept or past.nth >= len(of_user) - LENGTH):
                break
            known.append(past)
        liked: list[int] = []
        times: list[int] = []
        refused: list[int] = []
        for past in known:
            index = self.history.items.live(past.item)
            if index != MISS and past.reward > 0:
                liked.append(index)
                times.append(past.time_ms)
            elif index != MISS and index not in liked:
                refused.append(index)
        return liked, [1.0 / (n + 1) for n in range(len(liked))], times, refused

    def check(self) -> tuple[int, int]:
        """Compare all of the window with what happened; return how much came, how much as None."""
        n_none, kept = 0, self.kept()
        found = self.window.events(0, 10**9, set())
        for event, learned in zip(kept, found, strict=True):
            item = self.history.items.live(event.item)
            user = self.history.users.live(event.user)
            if learned is None:
                n_none += 1
                assert MISS in (item, user)
                continue
            assert seen(learned.profile) == self.expected(event)
            assert learned.profile.user == user != MISS
            assert learned[1:] == (item, event.reward, event.time_ms)
        return len(kept), n_none


# -- bounds ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 49, 50, 51, 173])
def test_the_last_events_are_kept_and_no_more(n: int) -> None:
    """A window of 50 has the last 50 of what taught, in order; it says where it begins."""
    diary = Diary(50)
    for number in range(n):
        diary.add(f"u{number % 3}", f"i{number % 7}")
    assert diary.check() == (min(n, 50), 0)
    assert len(diary.window.state()["number"]) == min(n, 50)


def test_a_window_of_nothing_keeps_nothing() -> None:
    """With a capacity of 0 nothing is kept, and nothing breaks."""
    diary = Diary(0)
    diary.add("u", "i")
    assert list(diary.window.events(0, 10, set())) == []
    twin = Window(0, diary.history)
    twin.load_state(diary.window.state())
    assert twin.canonical() == diary.window.canonical() == b""


def test_events_of_a_range_come_without_some_items() -> None:
    """Of the numbers asked for, both ends included, each comes; what is left out comes as None."""
    diary = Diary(100)
    for number in range(30):
        diary.add("u", f"i{number % 5}")
    barred = diary.history.items.get("i2")
    came = [
        None if learned is None else (learned.item, learned.time_ms)
        for learned in diary.window.events(11, 20, {barred})
    ]
    items = [diary.history.items.get(f"i{(number - 1) % 5}") for number in range(11, 21)]
    times = [number * 1_000 for number in range(11, 21)]
    assert came == [None if i == barred else (i, t) for i, t in zip(items, times)]
    assert list(diary.window.events(21, 20, set())) == []


# -- profiles --------------------------------------------------------------------------------------


@pytest.mark.parametrize("capacity", [20, 90, 1_000])
@pytest.mark.parametrize("seed", range(5))
def test_profiles_are_as_they_were(capacity: int, seed: int) -> None:
    """Each event comes with its user's profile from before it, as far as that is still known."""
    diary = Diary(capacity)
    diary.mix(400, random.Random(seed))
    assert diary.check()[1] == 0


@pytest.mark.parametrize("seed", range(5))
def test_evicted_items_and_forgotten_users_are_left_out(seed: int) -> None:
    """What is gone is no event to learn and in no profile, though it came back by the same name."""
    chance = random.Random(seed)
    diary = Diary(300, max_items=100, max_users=100)
    diary.mix(500, chance, n_items=120, n_users=120)
    for name in ("i1", "i2", "i3"):
        if name in diary.history.items:
            diary.history.evict_item(name)
        diary.add("u0", name)
    if "u1" in diary.history.users:
        diary.history.forget_user("u1")
    diary.add("u1", "i1")
    n, n_none = diary.check()
    assert 20 < n_none < n - 20


def test_the_profile_is_what_the_engine_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy log each event comes from the window with the very profile it taught with."""
    engine = make_engine(relearn_events=100_000, id_share=1.0, teach_repeats=True)
    taught: list[Taught] = []
    take, users, items = engine.learner.take, engine.history.users, engine.history.items

    def noted(profile: Profile, user: int, item: int, **about: Any) -> bool:
        liked, _, times, refused = seen(profile)
        handles = [items.handle(index) for index in liked], [items.handle(i) for i in refused]
        had, reward, time_ms = items.handle(item), about["reward"], about["time_ms"]
        is_done = take(profile, user, item, **about)
        if is_done and about["is_taught"]:
            taught.append(Taught(users.handle(user), had, reward, time_ms, times, *handles))
        return is_done

    monkeypatch.setattr(engine.learner, "take", noted)
    engine.on_judge = lambda: None  # so that each event is learned by itself, step by step
    for record in busy_log(1_500):
        if getattr(record, "name", "") != "rollback":  # which teaches nothing anew
            apply(engine, record)
    assert compare(engine, taught) > 500


class Taught(NamedTuple):
    """One event that an engine taught its learner, with the profile; all by handle."""

    user: int
    item: int
    reward: float
    time_ms: int
    times: list[int]
    liked: list[int]
    refused: list[int]


def compare(engine: Engine, taught: list[Taught]) -> int:
    """Compare the engine's window with what was taught, but for what is gone; return how much."""
    live, n_compared = engine.history.items.live, 0
    for event, learned in zip(taught, engine.window.events(0, 10**9, set()), strict=True):
        user, item = engine.history.users.live(event.user), live(event.item)
        if learned is None:
            assert MISS in (user, item)
            continue
        n_compared += 1
        alive = [n for n, handle in enumerate(event.liked) if live(handle) != MISS]
        assert learned[1:] == (item, float(np.float32(event.reward)), event.time_ms)
        assert learned.profile.user == user
        assert seen(learned.profile) == (
            [live(event.liked[n]) for n in alive],
            [1.0 / (n + 1) for n in range(len(alive))],
            [event.times[n] for n in alive],
            [live(handle) for handle in event.refused if live(handle) != MISS],
        )
    return n_compared


# -- state -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("capacity", [30, 500])
@pytest.mark.parametrize("n", [0, 7, 200])
def test_state_continues_exactly(capacity: int, n: int) -> None:
    """A window made from a state has the same state, bytes and events, then and later."""
    diary, chance = Diary(capacity, max_users=6), random.Random(n)
    diary.mix(n, chance)
    saved = diary.window.state()
    before = fingerprint(saved)
    original, diary.window = diary.window, Window(capacity, diary.history)
    diary.window.load_state(saved)
    assert fingerprint(diary.window.state()) == before
    assert diary.window.canonical() == original.canonical()
    diary.mix(150, chance)
    diary.check()
    assert fingerprint(saved) == before


def test_what_is_hashed_knows_no_indices() -> None:
    """Windows over the same ids have the same bytes, whatever indices these have."""

    def bytes_of(*first: str) -> bytes:
        diary = Diary(10)
        for name in first:
            diary.history.touch_item(name, 0)
        for item in ("a", "b", "a"):
            diary.add("u", item)
        return diary.window.canonical()

    assert bytes_of() == bytes_of("z", "b", "a")


def test_learned_events_are_read_one_at_a_time() -> None:
    """The profile is filled anew for each event: what is read has to be used before the next."""
    diary = Diary(10)
    diary.add("u", "a")
    diary.add("u", "b")
    first, second = diary.window.events(1, 2, set())
    assert isinstance(first, Learned)
    assert isinstance(second, Learned)
    assert first.profile is second.profile
