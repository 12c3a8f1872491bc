"""Histories of snapshots from before cells: handles, rings by place, had-sets in linked blocks."""

from __future__ import annotations

from typing import Any

import numpy as np

from learners.history import History, Profile
from learners.ids import State

RING, BLOCK = 4, 16


def history_of(n_had: int) -> History:
    """Return a history of "u", who had items in order, and of "v", who had one twice.

    An item of both, "i1", has gone since and come back as another.
    """
    history = History(100, 10, RING, RING, 1_000)
    for user_id, items in (("u", range(n_had)), ("v", (1, 2, 1))):
        for n in items:
            tick = 1 + int(max(history.users.touched.max(), history.items.touched.max()))
            user = history.touch_user(user_id, tick)
            item = history.touch_item(f"i{n}", tick)
            reward = -0.25 if n % 3 == 2 else 1.0
            history.append(user, item, time_ms=10 * tick, reward=reward, type_index=n % 5)
    history.evict_item("i1")
    history.touch_item("i1", 1_000)
    return history


def old_state(history: History) -> State:
    """Return what the programs of format 2 had of it."""
    state, n = history.state(), history.users.n_indices
    stale = np.int64(5) << 32  # nothing has been evicted so often
    rings: dict[str, list[Any]] = {"handle": [], "time": [], "reward": []}
    blocks: list[tuple[int, list[Any]]] = [(0, [])]
    first, last = np.zeros(n, np.int32), np.zeros(n, np.int32)
    for user in range(n):
        events = list(zip(*history._read_rings(user, user + 1), strict=True))
        n_events = int(history.n_events[user])
        by_place = {(n_events - len(events) + n) % RING: event for n, event in enumerate(events)}
        for _, (item, time_ms, reward) in sorted(by_place.items()):
            rings["handle"].append(stale if item < 0 else history.items.handle(int(item)))
            rings["time"].append(time_ms)
            rings["reward"].append(reward)
        had = list(zip(*history._read_had(user, user + 1), strict=True))
        first[user] = len(blocks)
        for start in range(0, len(had), BLOCK):
            last[user] = len(blocks)
            following = len(blocks) + 1 if start + BLOCK < len(had) else 0
            blocks.append((following, had[start : start + BLOCK]))
    shape = len(blocks), BLOCK
    old: State = {
        "ring_handle": np.array(rings["handle"], np.int64),
        "ring_time": np.array(rings["time"], np.int64),
        "ring_reward": np.array(rings["reward"], np.float32),
        "had_first": first,
        "had_last": last,
        "next_block": np.array([following for following, _ in blocks], np.int32),
        "block_handle": np.zeros(shape, np.int64),
        "block_time": np.zeros(shape, np.int64),
        "block_type": np.zeros(shape, np.uint16),
        "free_blocks": [],
        "n_blocks": len(blocks),
        "had_start": np.zeros(n, np.int32),
        "had_count": history.had_count[:n].astype(np.int32),
    }
    for number, (_, cells) in enumerate(blocks):
        for at, (item, time_ms, kind) in enumerate(cells):
            handle = stale if item < 0 else history.items.handle(int(item))
            old["block_handle"][number, at] = handle
            old["block_time"][number, at], old["block_type"][number, at] = time_ms, kind
    kept = {name: state[name] for name in ("items", "users", "categories", "item_since")}
    return old | kept | {name: state[name] for name in ("n_events", "user_since")}


def plain(history: History) -> State:
    """Return a history's state with packed lists read."""
    return {name: _plain(value) for name, value in history.state().items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    return value if isinstance(value, list) else np.asarray(value).tolist()


def test_a_history_of_before_is_read() -> None:
    """Rings that went round, had-sets of several blocks, and what is gone come as they were."""
    for n_had in (0, 3, 4, 5, 16, 17, 40):
        history, restored = history_of(n_had), History(100, 10, RING, RING, 1_000)
        restored.load_state(old_state(history))
        assert plain(restored) == plain(history)
        assert restored.n_rooms == history.n_rooms
        for user_id in ("u", "v")[n_had == 0 :]:
            user = restored.users.get(user_id)
            assert restored.events(user) == history.events(user)
            assert restored.had(user) == history.had(user)
            ours, theirs = (of.profile(user, Profile(RING)) for of in (restored, history))
            assert ours.items[: ours.n].tolist() == theirs.items[: theirs.n].tolist()
