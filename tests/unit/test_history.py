from __future__ import annotations

import hashlib

import numpy as np
import pytest

from app.events import MAX_TIME_MS
from learners.history import History, Profile
from learners.ids import Ids
from learners.kernels import DAY_MS, KINDS, MISS, MOST_TYPES


def had(history: History, user: str, *items: str) -> None:
    """Let a user have some items, one after the other."""
    for item in items:
        tick = 1 + max(int(history.users.touched.max()), int(history.items.touched.max()))
        index = history.touch_user(user, tick)
        history.append(index, history.touch_item(item, tick), time_ms=tick, reward=1.0)


def had_ids(history: History, user: str) -> list[object]:
    """Return the items of a user's had-set, oldest first."""
    return [had.item_id for had in history.had(history.users.get(user))]


def event_ids(history: History, user: str) -> list[object]:
    """Return the items of a user's ring, newest first."""
    return [item_id for item_id, _, _ in history.events(history.users.get(user))]


def assert_all_given_back(history: History) -> None:
    """Check that every row of rings and had-sets is free again, and empty."""
    pools = ((history.ring, history.ring_marks), (history.past, history.past_marks))
    for rows, (free, n_taken) in pools:
        found = set()
        while free:
            found.add(int(free))
            free = rows[free, 0]
        assert found == set(range(1, n_taken))
        assert not rows[:, 1:].any()


def test_ids_evict_in_the_order_of_the_last_touch() -> None:
    """The id touched longest ago is the oldest; a touch renews, a look does not."""
    ids = Ids(3)
    for tick, id_ in enumerate("abca"):
        ids.touch(id_, tick)
    assert ids.get("b") == 1
    assert ids.is_full()
    assert ids.oldest() == "b"
    assert list(ids.newest()) == ["a", "c", "b"]


def test_ids_reading_creates_nothing() -> None:
    """An id that was never touched is a miss, and stays one."""
    ids = Ids(3)
    assert ids.get("a") == MISS
    assert "a" not in ids
    assert (len(ids), ids.n_indices) == (0, 0)


def test_ids_reuse_the_index_freed_last_in_another_generation() -> None:
    """A removed id's index goes to the next newcomer, whose handle differs."""
    ids = Ids(3)
    old = [ids.handle(ids.touch(id_, tick)) for tick, id_ in enumerate("abc")]
    assert [ids.remove("a"), ids.remove("c")] == [0, 2]
    assert [ids.touch("d", 5), ids.touch("e", 6)] == [2, 0]
    assert ids.handle(2) != old[2]
    assert ids.handle(2) & 0xFFFFFFFF == 2


def test_ids_state_that_does_not_fit_is_refused() -> None:
    """More ids than the capacity are refused by number."""
    big, small = Ids(3), Ids(2)
    for tick, id_ in enumerate("abc"):
        big.touch(id_, tick)
    with pytest.raises(ValueError, match="3 ids do not fit a capacity of 2"):
        small.load_state(big.state())


def test_ring_keeps_the_last_events() -> None:
    """The ring holds repeats, newest first, up to its length."""
    history = History(10, 10, history_length=3, scored_history=3)
    had(history, "u", *"abacb")
    assert event_ids(history, "u") == ["b", "c", "a"]


def test_had_set_is_distinct_and_exact_up_to_its_length() -> None:
    """The had-set holds each item once, in the order first had, oldest out first."""
    history = History(100, 10, had_length=20)
    items = [f"i{n}" for n in range(20)]
    had(history, "u", *items, *items[:5])
    assert had_ids(history, "u") == items
    had(history, "u", "x", "y")
    assert had_ids(history, "u") == [*items[2:], "x", "y"]
    user = history.users.get("u")
    assert not history.has_had(user, history.items.get("i1"))
    assert history.has_had(user, history.items.get("i2"))


def test_had_set_tells_the_last_time_and_type() -> None:
    """Having an item again moves its time and type, not its place."""
    history = History(10, 10)
    user = history.touch_user("u", 1)
    for item, time_ms, type_index in (("a", 5, 1), ("b", 6, 2), ("a", 9, 3)):
        index = history.touch_item(item, time_ms)
        history.append(user, index, time_ms=time_ms, reward=1.0, type_index=type_index)
    assert history.had(user) == [("a", 9, 3), ("b", 6, 2)]


def test_a_repeat_is_of_the_same_type_and_says_the_same() -> None:
    """Another item, type or sign is no repeat; a long-gone rating may have said either."""
    history = History(10, 10, history_length=4)
    user, item, other = history.touch_user("u", 1), history.touch_item("i", 1), 1
    assert history.touch_item("j", 2) == other

    def is_repeat(type_index: int, reward: float) -> bool:
        return history.is_repeat(user, item, type_index=type_index, reward=reward)

    assert not is_repeat(0, 1.0)
    history.append(user, item, time_ms=1, reward=1.0, type_index=0)
    assert [is_repeat(0, 0.5), is_repeat(1, 1.0), is_repeat(0, -1.0)] == [True, False, False]
    assert not history.is_repeat(user, other, type_index=0, reward=1.0)
    history.append(user, item, time_ms=2, reward=-0.5, type_index=0)
    assert [is_repeat(0, -1.0), is_repeat(0, 1.0)] == [True, False]
    for n in range(4):
        history.append(user, other, time_ms=3 + n, reward=1.0)
    assert [is_repeat(0, 1.0), is_repeat(0, -1.0)] == [True, False]


@pytest.mark.parametrize("had_length", [1, 15, 16, 17, 32, 33])
def test_had_set_around_block_boundaries(had_length: int) -> None:
    """Whatever its length, the had-set is the last distinct items, and gives its blocks back."""
    history = History(500, 4, had_length=had_length)
    items = [f"i{n}" for n in range(100)]
    for n, item in enumerate(items, start=1):
        had(history, "u", item)
        assert had_ids(history, "u") == items[max(0, n - had_length) : n]
    history.forget_user("u")
    assert_all_given_back(history)


def test_users_evict_in_the_order_of_their_last_event() -> None:
    """Past the capacity the user touched longest ago is forgotten, and comes back as a stranger."""
    history = History(10, 2)
    had(history, "u", "a")
    had(history, "v", "b")
    had(history, "u", "b")
    had(history, "w", "c")
    assert [user in history.users for user in "uvw"] == [True, False, True]
    had(history, "v", "c")
    assert had_ids(history, "v") == ["c"]


def test_items_evict_in_the_order_of_their_last_event() -> None:
    """An evicted item disappears from rings and had-sets, and its index from nobody's view."""
    history = History(2, 10)
    had(history, "u", "a", "b", "a", "c")
    assert [item in history.items for item in "abc"] == [True, False, True]
    assert event_ids(history, "u") == ["c", "a", "a"]
    assert had_ids(history, "u") == ["a", "c"]


def test_stale_items_leave_the_profile() -> None:
    """A profile skips items that are gone, and weighs the others by their rank among the living."""
    history = History(10, 10)
    had(history, "u", "a", "b", "c")
    history.evict_item("b")
    profile = history.profile(history.users.get("u"), Profile(5))
    ids = [history.items.ids[index] for index in profile.items[: profile.n]]
    assert ids == ["c", "a"]
    assert profile.weights[: profile.n].tolist() == [1.0, 0.5]
    assert history.profile(MISS, profile).n == 0


def test_forgetting_a_user_frees_their_blocks() -> None:
    """What a forgotten user held serves the next one: the pool does not grow."""
    history = History(100, 10, had_length=50)
    for n in range(30):
        had(history, f"u{n}", *[f"i{m}" for m in range(40)])
        history.forget_user(f"u{n}")
    assert len(history.users) == 0
    assert history.n_rooms == 0
    assert history.ring_marks[1] <= 1 + 9
    assert_all_given_back(history)


def test_forgetting_tells_who_listens() -> None:
    """Whoever keeps more about a user hears of it, be it by request or by eviction."""
    history = History(10, 2)
    gone: list[object] = []
    history.on_user_forgotten.append(gone.append)
    for user in "uvw":
        had(history, user, "a")
    history.forget_user("w")
    assert gone == ["u", "w"]


def test_exhausted_blocks_forget_the_oldest_users() -> None:
    """Greedy had-sets never fail: the users with the oldest events make room, the writer stays."""
    history = History(1_000, 10, had_length=320)
    items = [f"i{n}" for n in range(320)]
    for n in range(10):
        had(history, f"u{n}", *items)
        assert had_ids(history, f"u{n}") == items
    kept = [f"u{n}" for n in range(10) if f"u{n}" in history.users]
    assert kept == [f"u{n}" for n in range(10 - len(kept), 10)]
    assert 0 < len(kept) < 10


def test_state_that_does_not_fit_is_refused() -> None:
    """A state with more blocks than the pool is refused."""
    big, small = History(500, 30, had_length=200), History(500, 5, had_length=20)
    had(big, "u", *[f"i{n}" for n in range(200)])
    had(big, "v", *[f"i{n}" for n in range(200)])
    had(big, "w", *[f"i{n}" for n in range(200)])
    with pytest.raises(ValueError, match="do not fit a pool"):
        small.load_state(big.state())


def test_rewards_are_exact_however_many_there_are() -> None:
    """Pairs of type and reward have numbers while these last; after that, nothing is rounded."""
    history = History(10, 10, history_length=20)
    user, item = history.touch_user("u", 1), history.touch_item("a", 1)
    rewards = np.linspace(-1, 1, 3 * KINDS, dtype=np.float32).tolist()
    for n, reward in enumerate(rewards):
        history.append(user, item, time_ms=n, reward=reward, type_index=n % 250)
    expected = [("a", n, reward) for n, reward in enumerate(rewards)][-20:]
    assert history.events(user) == expected[::-1]
    assert history.had(user) == [("a", len(rewards) - 1, (len(rewards) - 1) % 250)]
    assert history.ring_reward.any()
    restored = History(10, 10, history_length=20)
    restored.load_state(history.state())
    assert restored.events(user) == expected[::-1]


def test_times_are_exact_to_the_end_of_the_year_9999() -> None:
    """A cell has 48 bits for a time: more than an event may have."""
    history = History(10, 10)
    user = history.touch_user("u", 1)
    times = [0, 2**32 - 1, 2**32, MAX_TIME_MS]
    for n, time_ms in enumerate(times):
        item = history.touch_item(f"i{n}", n)
        history.append(user, item, time_ms=time_ms, reward=0.5, type_index=MOST_TYPES - 1)
    assert [one.time_ms for one in history.had(user)] == times
    assert [time_ms for _, time_ms, _ in history.events(user)] == times[::-1]
    assert history.had(user)[0].type_index == MOST_TYPES - 1


def test_what_cells_have_no_bits_for_is_refused() -> None:
    """More items, or more items had, than a cell or a count can name are refused by number."""
    with pytest.raises(ValueError, match="max_items=268,435,455 must be under 268,435,455"):
        History(max_items=2**28 - 1)
    with pytest.raises(ValueError, match="had_length=65,536 at most 65,535"):
        History(had_length=65_536)


@pytest.mark.parametrize("item_bits", [27, 28, 29, 30])
@pytest.mark.parametrize("in_batches", [False, True])
def test_items_that_come_back_for_ever_are_never_taken_for_older_ones(
    item_bits: int, in_batches: bool
) -> None:
    """However few bits of a generation a cell has, nobody had an item of another time."""
    history = History(4, 100, history_length=3, scored_history=3)
    history.item_bits = item_bits
    for round_ in range(200):
        user = f"u{round_ % 67}"
        if in_batches and round_ % 11 == 0:
            history.as_of.begin()
        had(history, user, "a")
        history.evict_item("a")
        had(history, user, f"b{round_}")
        had(history, "all", "c" if round_ % 5 else "d", f"b{round_}")
        item, expected = history.touch_item("a", 10_000 + round_), list[object]()
        for index in history.users.index.values():
            assert not history.has_had(index, item)
            assert "a" not in [event[0] for event in history.events(index)]
            seen = history.seen(index, Profile(3))
            assert item not in seen.items[: seen.n]
            expected.append(history.had(index))
        history.evict_item("a")
        assert expected == [history.had(index) for index in history.users.index.values()]


def test_twenty_items_had_take_under_300_bytes() -> None:
    """Rows hold 20 events and as many items had in 64 bytes for each five, and nothing else."""
    history = History(100, 1_000)
    for n in range(200):
        had(history, f"u{n}", *[f"i{(n + m) % 100}" for m in range(20)])
    rows = (int(history.ring_marks[1]) - 1) * history.ring[0].nbytes
    per_user = (
        *("n_events", "user_since", "ring_newest", "had_start", "had_count"),
        *("past_oldest", "past_newest", "past_start", "past_count"),
    )
    each = sum(getattr(history, name)[:1].nbytes for name in per_user)
    assert (rows / 200, history.past_marks[1]) == (256.0, 1)
    assert each == 34


def test_hash_sees_content_not_indices() -> None:
    """Two histories that hold the same under other indices have the same hash."""

    def digest(history: History) -> str:
        sha = hashlib.sha256()
        history.update_hash(sha)
        return sha.hexdigest()

    one, other = History(10, 10), History(10, 10)
    for tick, item in enumerate("xyab", start=1):
        other.touch_item(item, tick)
    for item in "xy":
        other.items.remove(item)
    for history, order in ((one, "uv"), (other, "vu")):
        for user in order:
            index = history.touch_user(user, 10 + len(history.users))
            for tick, item in enumerate("ab", start=20):
                history.append(index, history.touch_item(item, tick), time_ms=5, reward=1.0)
    assert digest(one) == digest(other)
    had(other, "u", "a")
    assert digest(one) != digest(other)


@pytest.mark.parametrize("exclude_had", [True, False])
@pytest.mark.parametrize("in_batches", [False, True])
@pytest.mark.parametrize("days", [{}, {1: 1.0}])
def test_a_user_is_met_as_step_by_step(
    exclude_had: bool, in_batches: bool, days: dict[int, float]
) -> None:
    """One call writes the profile and exclusions of `seen` and `mark_kept`, in batches, too."""
    history = History(max_items=60, max_users=5, history_length=16, had_length=20)
    history.let_return(days)
    for number in range(90):
        if number == 80 and in_batches:
            history.as_of.begin()
        user = history.touch_user(f"u{number % 4}", number)
        item = history.touch_item(f"i{number * 7 % 43}", number)
        reward, kind = (-1.0 if number % 5 == 4 else 1.0), number % 2
        time_ms = number * DAY_MS // 40
        history.append(user, item, time_ms=time_ms, reward=reward, type_index=kind)
    history.evict_item("i7")
    for name in ("u0", "u1", "u2", "u3", "nobody"):
        user, ours, theirs = history.users.get(name), Profile(16), Profile(16)
        marks = np.zeros((2, 60), np.int64)
        history.meet(user, ours, marks[0], 9, 2 * DAY_MS, exclude_had=exclude_had)
        history.seen(user, theirs)
        if exclude_had and user != MISS:
            history.mark_kept(user, marks[1], 9, 2 * DAY_MS, is_past=theirs.is_past)
        marks[1, theirs.refused[: theirs.n_refused]] = 9
        assert vars_of(ours) == vars_of(theirs)
        assert marks[0].tolist() == marks[1].tolist()
        assert marks.any() == (user != MISS)


def vars_of(profile: Profile) -> list[object]:
    """Return what a profile says."""
    n, n_refused = profile.n, profile.n_refused
    arrays = (
        profile.items[:n],
        profile.weights[:n],
        profile.times[:n],
        profile.refused[:n_refused],
    )
    return [profile.user, profile.is_past, *(array.tolist() for array in arrays)]
