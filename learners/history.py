"""Personal state: which users and items there are, and what each user had.

One store, shared by all versions of all learners. It is live at once and passes no gate. Reads
never create anything; only `touch_*` and `append` do.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from learners import kernels
from learners.as_of import AsOf
from learners.categories import Categories
from learners.ids import Ids, PackedRings, State
from learners.inputs import Inputs
from learners.kernels import BLOCK, CHUNK, F64, I32, I64, MISS, NO_EVENT
from learners.user_rows import UserRows


class Had(NamedTuple):
    """One item that a user had: when last, and the index of the event's type."""

    item_id: Hashable
    time_ms: int
    type_index: int


class RingEvent(NamedTuple):
    """One event of a ring that is being merged: whose it was, and its number there."""

    is_moved: bool
    number: int
    handle: int
    time_ms: int
    reward: float


class Merged(NamedTuple):
    """Two users who are one now: by index, the handle of who went, and how many events they have.

    `events` are those of both rings, oldest first; the last ones are in the ring now.
    """

    user: int
    from_handle: int
    n_events: int
    events: list[RingEvent]


class Profile:
    """A history as scores see it. Reused, never kept.

    Items that were liked, newest first, with weights and times; and those refused: a dislike, a
    skip, a low rating. `user` is their index, MISS for nobody; `is_past` where more is known of
    them by now: as of the beginning of the present batch, or before an event that is learned again.
    """

    def __init__(self, length: int) -> None:
        self.user = MISS
        self.items: I32 = np.zeros(length, np.int32)
        self.weights: F64 = np.zeros(length, np.float64)
        self.times: I64 = np.zeros(length, np.int64)
        self.n = 0
        self.refused: I32 = np.zeros(length, np.int32)
        self.n_refused = 0
        self.is_past = False

    def clear(self) -> None:
        """Become the profile of nobody."""
        self.user = MISS
        self.is_past = False
        self.n = self.n_refused = 0


class History:
    """Users, items, each user's last events (a ring), and each user's had-set (pooled blocks).

    Arrays are reserved at capacity and zeroed by the operating system as they are touched, so
    memory follows use, and growing never copies.
    """

    def __init__(
        self,
        max_items: int = 10_000,
        max_users: int = 10_000,
        history_length: int = 64,
        scored_history: int = 20,
        had_length: int = 1_000,
        inputs: Inputs | None = None,
    ) -> None:
        self.max_items = max_items
        self.max_users = max_users
        self.history_length = history_length
        self.scored_history = scored_history
        self.had_length = had_length
        # What is known from elsewhere: nothing, unless whoever makes this says what.
        self.inputs = inputs or Inputs(max_items=max_items)
        self.items = Ids(max_items)
        self.users = Ids(max_users)
        self.categories = Categories(max_items)
        self.on_item_evicted: list[Callable[[int, int], None]] = []
        self.on_user_forgotten: list[Callable[[Hashable], None]] = []
        # What learners keep of each user.
        self.user_rows: list[UserRows] = []
        # [types] ms after which a had item of a type may be shown again, MISS for never.
        self._returns_ms: I64 = np.zeros(0, np.int64)
        self._reserve()

    def _reserve(self) -> None:
        # [items] time of the first event in ms, NO_EVENT before it.
        self.item_since = np.full(self.max_items, NO_EVENT, np.int64)
        users, length = self.max_users, self.history_length
        # Chunk 0 stands for "none": a ring takes chunks as it fills, and most never fill.
        parts = -(-length // CHUNK)
        chunks = users * parts + 1
        self.ring_chunk = np.zeros((users, parts), np.int32)
        self.ring_handle = np.zeros((chunks, CHUNK), np.int64)
        self.ring_time = np.zeros((chunks, CHUNK), np.int64)
        self.ring_reward = np.zeros((chunks, CHUNK), np.float32)
        self.ring_free = np.zeros(chunks, np.int32)
        self.ring_marks = np.array([0, 1], np.int64)  # free chunks; from here on never used
        self.n_events = np.zeros(users, np.int64)
        # The number of their first event: unlike its time, nobody can choose it.
        self.user_since = np.zeros(users, np.int64)
        # Block 0 stands for "none". Four blocks a user on average, and one user's full had-set.
        blocks = 4 * users + self.had_length // BLOCK + 3
        self.had_first = np.zeros(users, np.int32)
        self.had_last = np.zeros(users, np.int32)
        self.had_start = np.zeros(users, np.int32)
        self.had_count = np.zeros(users, np.int32)
        self.next_block = np.zeros(blocks, np.int32)
        self.block_handle = np.zeros((blocks, BLOCK), np.int64)
        self.block_time = np.zeros((blocks, BLOCK), np.int64)
        self.block_type = np.zeros((blocks, BLOCK), np.uint16)
        self.free_blocks: list[int] = []
        self.n_blocks = 1
        self.as_of = AsOf(users, length)
        self._arrays: Any = None

    @property
    def arrays(self) -> Any:
        """Return the arrays as kernels take them."""
        if self._arrays is None:
            self._arrays = kernels.new_personal(
                self.items.generation,
                self.items.key,
                self.item_since,
                self.categories.labels,
                self.inputs.of_item,
                self.history_length,
                self.ring_handle,
                self.ring_reward,
                self.ring_time,
                self.ring_chunk,
                self.ring_free,
                self.ring_marks,
                self.n_events,
                self.had_first,
                self.had_last,
                self.had_start,
                self.had_count,
                self.next_block,
                self.block_handle,
                self.block_time,
                self.block_type,
            )
        return self._arrays

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy is made from; its arrays are others."""
        return self.__dict__ | {"_arrays": None}

    def sizes(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        names = ("max_items", "max_users", "history_length", "scored_history", "had_length")
        return {name: getattr(self, name) for name in (*names, "inputs")}

    def use_inputs(self, inputs: Inputs) -> None:
        """Go on with other inputs; learners over this history have to take them, too."""
        self.inputs = inputs
        self._arrays = None

    # -- ids ----------------------------------------------------------------------------------

    def touch_item(self, item_id: Hashable, tick: int) -> int:
        """Return an item's index, creating it; at capacity the item touched longest ago goes."""
        if self.items.is_full() and item_id not in self.items:
            self.evict_item(self.items.oldest())
        return self.items.touch(item_id, tick)

    def evict_item(self, item_id: Hashable) -> None:
        """Forget an item everywhere: learners drop its rows, handles to it go stale."""
        index = self.items.get(item_id)
        handle = self.items.handle(index)
        self.categories.put(index, [])
        for drop in self.on_item_evicted:
            drop(index, handle)
        self.item_since[index] = NO_EVENT
        self.items.remove(item_id)

    def touch_user(self, user_id: Hashable, tick: int) -> int:
        """Return a user's index, creating it; at capacity the user touched longest ago goes."""
        if self.users.is_full() and user_id not in self.users:
            self.forget_user(self.users.oldest())
        return self.users.touch(user_id, tick)

    def forget_user(self, user_id: Hashable) -> None:
        """Remove a user's history, had-set and id."""
        for drop in self.on_user_forgotten:
            drop(user_id)
        index = self.users.remove(user_id)
        self.n_events[index] = self.user_since[index] = 0
        kernels.ring_clear(self.arrays, index)  # what was forgotten must not go into snapshots
        self._clear_had(index)
        self.as_of.forget(index)
        for rows in self.user_rows:
            rows.forget(index)

    def _clear_had(self, user: int) -> None:
        block = int(self.had_first[user])
        while block:
            following = int(self.next_block[block])
            self._free_block(block)
            block = following
        for array in (self.had_first, self.had_last, self.had_start, self.had_count):
            array[user] = 0

    def merge_users(self, user_id: Hashable, from_id: Hashable, tick: int) -> Merged:
        """Move the history and had-set of a known user to another one, who may be new.

        Both are put into the order of time, ties in the order they had, the user's own first; of
        what is too much the oldest goes. `from_id` is forgotten.
        """
        source, target = self.users.get(from_id), self.users.get(user_id)
        rings = [] if target == MISS else self._ring(target, is_moved=False)
        rings += self._ring(source, is_moved=True)
        rings.sort(key=lambda event: event.time_ms)
        had = _latest([] if target == MISS else self._raw_had(target), self._raw_had(source))
        known = (self.user_since[user] for user in (target, source) if user != MISS)
        since = min((int(number) for number in known if number), default=0)
        n_target = 0 if target == MISS else int(self.n_events[target])
        n_source = int(self.n_events[source])
        n_events = n_target + n_source
        own = [(rows, rows.take(target), rows.take(source)) for rows in self.user_rows]
        from_handle = self.users.handle(source)
        self.forget_user(from_id)
        target = self.touch_user(user_id, tick)
        self.as_of.forget(target)  # requests know the merged user at once
        self._write_ring(target, rings[-self.history_length :], n_events)
        self.user_since[target] = since
        self._write_had(target, had)
        for rows, ours, theirs in own:
            rows.merge(target, ours, n_target, theirs, n_source)
        return Merged(target, from_handle, n_events, rings)

    def _ring(self, user: int, *, is_moved: bool) -> list[RingEvent]:
        """Return a user's ring as it is, oldest first."""
        total = int(self.n_events[user])
        numbers = range(max(0, total - self.history_length), total)
        return [
            RingEvent(
                is_moved,
                number,
                int(self.ring_handle[cell]),
                int(self.ring_time[cell]),
                float(self.ring_reward[cell]),
            )
            for number in numbers
            for cell in (self.ring_cell(user, number),)
        ]

    def ring_cell(self, user: int, number: int) -> tuple[int, int]:
        """Return where the user's event of a number is in the arrays of the rings."""
        part, cell = divmod(number % self.history_length, CHUNK)
        return int(self.ring_chunk[user, part]), cell

    def _write_ring(self, user: int, events: list[RingEvent], n_events: int) -> None:
        self.n_events[user] = n_events
        for number, event in enumerate(events, n_events - len(events)):
            place = number % self.history_length
            handle, time_ms, reward = event.handle, event.time_ms, event.reward
            kernels.ring_write(self.arrays, user, place, handle, time_ms, reward)

    def _raw_had(self, user: int) -> list[tuple[int, int, int]]:
        """Return (handle, time, type) of what a user had, oldest first, live items only."""
        return [
            (
                int(self.block_handle[block, offset]),
                int(self.block_time[block, offset]),
                int(self.block_type[block, offset]),
            )
            for block, offset in (divmod(place, BLOCK) for place in self._had_places(user))
            if self.items.live(int(self.block_handle[block, offset])) != MISS
        ]

    def _write_had(self, user: int, had: list[tuple[int, int, int]]) -> None:
        self._clear_had(user)
        for handle, time_ms, type_index in had[-self.had_length :]:
            block, offset = divmod(self._new_had_place(user), BLOCK)
            self.block_handle[block, offset] = handle
            self.block_time[block, offset] = time_ms
            self.block_type[block, offset] = type_index

    # -- writing ------------------------------------------------------------------------------

    def append(
        self, user: int, item: int, *, time_ms: int, reward: float, type_index: int = 0
    ) -> None:
        """Add an event to a user's ring and had-set (both by index)."""
        if self.as_of.is_on:
            self.as_of.keep(self, user)
        if not kernels.append_event(
            self.arrays, user, item, time_ms, reward, type_index, self.had_length
        ):
            self.append_had(user, item, time_ms=time_ms, type_index=type_index)

    def append_had(self, user: int, item: int, *, time_ms: int, type_index: int) -> None:
        """Add an item to a had-set where no place is at hand (see `kernels.append_event`)."""
        block, offset = divmod(self._new_had_place(user), BLOCK)
        self.block_handle[block, offset] = self.items.handle(item)
        self.block_time[block, offset] = time_ms
        self.block_type[block, offset] = type_index

    def _new_had_place(self, user: int) -> int:
        if self.had_count[user] >= self.had_length:
            self._drop_oldest_had(user)
        end = int(self.had_start[user]) + int(self.had_count[user])
        offset = end % BLOCK
        if offset == 0 or self.had_count[user] == 0:
            offset = 0
            block = self._take_block()
            if self.had_count[user] == 0:
                self.had_first[user] = block
                self.had_start[user] = 0
            else:
                self.next_block[self.had_last[user]] = block
            self.had_last[user] = block
        self.had_count[user] += 1
        return int(self.had_last[user]) * BLOCK + offset

    def _drop_oldest_had(self, user: int) -> None:
        self.had_start[user] += 1
        self.had_count[user] -= 1
        self.as_of.drop_had(user)
        if self.had_start[user] == BLOCK or self.had_count[user] == 0:
            block = int(self.had_first[user])
            self.had_first[user] = self.next_block[block]
            self.had_start[user] = 0
            self._free_block(block)
            if self.had_count[user] == 0:
                self.had_first[user] = self.had_last[user] = 0

    def _take_block(self) -> int:
        while not self.free_blocks and self.n_blocks >= len(self.next_block):
            # Never the user being written: they were touched last, and alone they always fit.
            self.forget_user(self.users.oldest())
        if self.free_blocks:
            block = self.free_blocks.pop()
        else:
            block = self.n_blocks
            self.n_blocks += 1
        self.next_block[block] = 0
        return block

    def _free_block(self, block: int) -> None:
        for array in (self.block_handle, self.block_time, self.block_type):
            array[block] = 0  # what was forgotten must not go into snapshots
        self.free_blocks.append(block)

    # -- reading ------------------------------------------------------------------------------

    def has_had(self, user: int, item: int) -> bool:
        """Tell whether a user had an item (both by index)."""
        return bool(kernels.had_place(self.arrays, user, item) != MISS)

    def is_repeat(self, user: int, item: int, *, type_index: int, reward: float) -> bool:
        """Tell whether a user's last event on an item was of the same type, and said the same.

        Once it has left the ring, an event that may go either way (a rating) is taken for another.
        """
        return bool(kernels.is_repeat(self.arrays, user, item, type_index, reward))

    def mark_had(self, user: int, mark: kernels.I64, tick: int, *, is_past: bool = False) -> None:
        """Write `tick` into mark[item] for every item that a user had.

        With `is_past`, had when the batch began (see `seen`).
        """
        kernels.mark_had(
            self.had_first,
            self.had_start,
            self.as_of.n_had if is_past else self.had_count,
            user,
            self.next_block,
            self.block_handle,
            self.items.generation,
            mark,
            tick,
        )

    def let_return(self, days: dict[int, float]) -> None:
        """Say after how many days a had item of a type (by index) may be shown again."""
        self._returns_ms = np.full(max(days, default=-1) + 1, MISS, np.int64)
        for type_index, n_days in days.items():
            self._returns_ms[type_index] = int(n_days * kernels.DAY_MS)

    def mark_kept(
        self, user: int, mark: kernels.I64, tick: int, now_ms: int, *, is_past: bool = False
    ) -> None:
        """Do as `mark_had`, but for what may be shown again at a time: see `let_return`."""
        if not len(self._returns_ms):
            self.mark_had(user, mark, tick, is_past=is_past)
            return
        n_had = (self.as_of.n_had if is_past else self.had_count)[user]
        kernels.mark_kept(self.arrays, user, n_had, mark, tick, self._returns_ms, now_ms)

    def profile(self, user: int, into: Profile) -> Profile:
        """Fill `into` with a user's last items; a user of MISS has none."""
        into.clear()
        into.user = user
        if user != MISS:
            into.n, into.n_refused = kernels.user_profile(
                self.arrays,
                user,
                into.items,
                into.weights,
                into.times,
                into.refused,
            )
        return into

    def seen(self, user: int, into: Profile) -> Profile:
        """Fill `into` with what requests know of a user: less than `profile`, in batches."""
        as_of = self.as_of
        if not as_of.holds(user):
            return self.profile(user, into)
        into.clear()
        into.user, into.is_past = user, True
        into.n, into.n_refused = kernels.profile_of(
            *as_of.rings(),
            as_of.chunks_of(user),
            0,
            as_of.n_events[user],
            self.history_length,
            self.items.generation,
            into.items,
            into.weights,
            into.times,
            into.refused,
        )
        return into

    def meet(
        self, user: int, into: Profile, mark: I64, tick: int, now_ms: int, *, exclude_had: bool
    ) -> None:
        """Do as `seen`, and write `tick` into mark[item] for what a user is not to be shown.

        That is what `mark_kept` says, if `exclude_had`, and what was refused lately.
        """
        if user == MISS:
            into.clear()
            return
        if self.as_of.holds(user):
            self.seen(user, into)
            if exclude_had:
                self.mark_kept(user, mark, tick, now_ms, is_past=True)
            mark[into.refused[: into.n_refused]] = tick
            return
        into.user, into.is_past = user, False
        into.n, into.n_refused = kernels.meet_user(
            self.arrays,
            user,
            exclude_had,
            self._returns_ms,
            now_ms,
            mark,
            tick,
            into.items,
            into.weights,
            into.times,
            into.refused,
        )

    def events(self, user: int) -> list[tuple[Hashable, int, float]]:
        """Return (item id, time in ms, reward) of a user's ring, newest first, live items only."""
        return self._events(self, user)

    def _events(self, rings: History | AsOf, user: int) -> list[tuple[Hashable, int, float]]:
        found = []
        total = int(rings.n_events[user])
        for back in range(min(total, self.history_length)):
            cell = rings.ring_cell(user, total - 1 - back)
            item_id = self.item_id(int(rings.ring_handle[cell]))
            if item_id is not None:
                time_ms = int(rings.ring_time[cell])
                found.append((item_id, time_ms, float(rings.ring_reward[cell])))
        return found

    def had(self, user: int) -> list[Had]:
        """Return a user's had-set, oldest first, live items only."""
        found = []
        for where in self._had_places(user):
            block, offset = divmod(where, BLOCK)
            item_id = self.item_id(int(self.block_handle[block, offset]))
            if item_id is not None:
                time_ms = int(self.block_time[block, offset])
                found.append(Had(item_id, time_ms, int(self.block_type[block, offset])))
        return found

    def _had_places(self, user: int) -> Iterator[int]:
        block, offset = int(self.had_first[user]), int(self.had_start[user])
        for _ in range(int(self.had_count[user])):
            yield block * BLOCK + offset
            offset += 1
            if offset == BLOCK:
                block, offset = int(self.next_block[block]), 0

    def item_id(self, handle: int) -> Hashable | None:
        """Return the id that a handle names, or None if it is stale."""
        index, generation = handle & 0xFFFFFFFF, handle >> 32
        return self.items.ids[index] if self.items.generation[index] == generation else None

    # -- state --------------------------------------------------------------------------------

    _PER_USER = ("n_events", "user_since", "had_first", "had_last", "had_start", "had_count")
    _PER_BLOCK = ("next_block", "block_handle", "block_time", "block_type")
    _RINGS = ("ring_handle", "ring_time", "ring_reward")

    def state(self) -> State:
        """Return plain data and arrays from which `load_state` continues identically."""
        n = self.users.n_indices
        used = np.minimum(self.n_events[:n], self.history_length)
        state: State = {name: getattr(self, name)[:n] for name in self._PER_USER}
        state |= {name: getattr(self, name)[: self.n_blocks] for name in self._PER_BLOCK}
        state |= {
            name: PackedRings(getattr(self, name), self.ring_chunk, used, self.history_length)
            for name in self._RINGS
        }
        state["categories"] = self.categories.state(self.items.n_indices)
        state["item_since"] = self.item_since[: self.items.n_indices]
        state |= {"free_blocks": self.free_blocks, "n_blocks": self.n_blocks}
        as_of = self.as_of.state(n)
        state |= {"as_of": as_of} if as_of else {}
        return state | {"items": self.items.state(), "users": self.users.state()}

    def load_state(self, state: State) -> None:
        """Become the history that `state` was taken from."""
        self.items.load_state(state["items"])
        self.users.load_state(state["users"])
        self.categories.load_state(state["categories"])
        self._reserve()
        n = self.users.n_indices
        self.item_since[: self.items.n_indices] = state["item_since"]
        self.n_blocks = int(state["n_blocks"])
        if self.n_blocks > len(self.next_block):
            raise ValueError(f"{self.n_blocks} blocks do not fit a pool of {len(self.next_block)}")
        self.free_blocks = [int(block) for block in state["free_blocks"]]
        for name in self._PER_USER:
            getattr(self, name)[:n] = state[name]
        for name in self._PER_BLOCK:
            getattr(self, name)[: self.n_blocks] = state[name]
        used = np.minimum(self.n_events[:n], self.history_length)
        rings = (np.asarray(state[name]) for name in self._RINGS)
        kernels.unpack_rings(self.arrays, used, *rings)
        self.as_of.load_state(state.get("as_of", {}), n)

    def update_hash(self, sha: Any) -> None:
        """Feed the canonical content, sorted by external id, to a hashlib object."""
        for user in self.users.sorted_indices():
            sha.update(_text(self.users.ids[user]) + self.user_since[user].tobytes())
            for item_id, time_ms, reward in self.events(int(user)):
                sha.update(_text(item_id) + _numbers(time_ms, reward))
            for had in self.had(int(user)):
                sha.update(_text(had.item_id) + _numbers(had.time_ms, had.type_index))
            if self.as_of.holds(int(user)):
                sha.update(_numbers(self.as_of.batch, float(self.as_of.n_had[user])))
                for item_id, time_ms, reward in self._events(self.as_of, int(user)):
                    sha.update(_text(item_id) + _numbers(time_ms, reward))
        for item in self.items.sorted_indices():
            sha.update(_text(self.items.ids[item]) + self.item_since[item].tobytes())


def _latest(*had: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Return what was had in the order of time, of each item what came last."""
    latest: dict[int, tuple[int, int, int]] = {}
    for one in chain(*had):
        if one[0] not in latest or one[1] > latest[one[0]][1]:
            latest[one[0]] = one
    return sorted(latest.values(), key=lambda one: one[1])


def _text(id_: Hashable) -> bytes:
    encoded = str(id_).encode()
    return len(encoded).to_bytes(4, "little") + encoded


def _numbers(whole: int, other: float) -> bytes:
    return np.int64(whole).tobytes() + np.float64(other).tobytes()
