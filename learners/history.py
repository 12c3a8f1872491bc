"""Personal state: which users and items there are, and what each user had.

One store, shared by all versions of all learners. It is live at once and passes no gate. Reads
never create anything; only `touch_*` and `append` do.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from learners import kernels
from learners.as_of import RINGS, AsOf, read_rings
from learners.categories import Categories
from learners.format_2 import of_format_2
from learners.ids import Ids, PackedLists, State
from learners.inputs import Inputs
from learners.kernels import (
    BLOCK,
    CHUNK,
    F32,
    F64,
    I32,
    I64,
    KINDS,
    MISS,
    MOST_HAD,
    MOST_ITEM_BITS,
    NO_EVENT,
    ROOM,
    U16,
    U32,
)
from learners.sweep import Sweep
from learners.user_rows import UserRows

_HAD = {"had_item": np.int32, "had_time": np.int64, "had_type": np.uint16}
_USUAL_HAD = 64  # items had by most users at most: by this snapshots are cut into blocks


class Had(NamedTuple):
    """One item that a user had: when last, and the index of the event's type."""

    item_id: Hashable
    time_ms: int
    type_index: int


class RawHad(NamedTuple):
    """The same of an item by index."""

    item: int
    time_ms: int
    type_index: int


class RingEvent(NamedTuple):
    """One event of a ring that is being merged: whose it was, and its number there.

    Its item is an index, or MISS where that is gone.
    """

    is_moved: bool
    number: int
    item: int
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
        # An item's number in so many of a cell's 32 bits, all of them set being none; the rest is
        # for its generation.
        self.item_bits = (max_items + 1).bit_length()
        if self.item_bits > MOST_ITEM_BITS or had_length > MOST_HAD:
            raise ValueError(
                f"max_items={max_items:,} must be under {2**MOST_ITEM_BITS - 1:,}, and"
                f" had_length={had_length:,} at most {MOST_HAD:,}"
            )
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
        self.n_events = np.zeros(users, np.int64)
        # The number of their first event: unlike its time, nobody can choose it.
        self.user_since = np.zeros(users, np.int64)
        # Rows of cells (see `kernels`); row 0 stands for "none". Each row of a ring begins with an
        # event whose number is a multiple of CHUNK, so there is one more at most than it fills;
        # and the next one is taken before the oldest is given back.
        rows = users * (-(-(length - 1) // CHUNK) + 1) + 2
        self.ring: U32 = np.zeros((rows, 1 + 3 * CHUNK), np.uint32)
        # Rewards that have no number (see `kernels.kind_of`): most often none, so no memory.
        self.ring_reward: F32 = np.zeros((rows, CHUNK), np.float32)
        self.ring_newest: I32 = np.zeros(users, np.int32)
        self.ring_marks: I64 = np.array([0, 1], np.int64)  # a row given back; the next never used
        # What was had is in the ring, or in rows of its own if its first event has left that.
        # There is room for 64 items a user on average, and for one user's full had-set.
        self.max_rooms = 4 * users + self.had_length // ROOM + 2
        self.n_rooms = 0
        self.had_start = np.zeros(users, np.uint8)
        self.had_count = np.zeros(users, np.uint16)
        rows = self.max_rooms * ROOM // BLOCK + 2 * users + 2
        self.past: U32 = np.zeros((rows, 1 + 3 * BLOCK), np.uint32)
        self.past_oldest: I32 = np.zeros(users, np.int32)
        self.past_newest: I32 = np.zeros(users, np.int32)
        self.past_start = np.zeros(users, np.uint8)
        self.past_count = np.zeros(users, np.uint16)
        self.past_marks: I64 = np.array([0, 1], np.int64)
        # A type's index + 1, and a reward, by the number of both.
        self.kind_type: I32 = np.zeros(KINDS, np.int32)
        self.kind_reward: F32 = np.zeros(KINDS + 1, np.float32)
        self.as_of = AsOf(users, length)
        self.sweep = Sweep(self)
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
                self.item_bits,
                self.n_events,
                self.had_start,
                self.had_count,
                self.ring,
                self.ring_reward,
                self.ring_newest,
                self.ring_marks,
                self.past,
                self.past_oldest,
                self.past_newest,
                self.past_start,
                self.past_count,
                self.past_marks,
                self.kind_type,
                self.kind_reward,
                self.kind_reward.view(np.uint32),
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
        self.sweep.go_on(index)

    def rows_of_cells(self) -> list[U32]:
        """Return all rows of cells that were ever in use."""
        used = [self.ring[: self.ring_marks[1]], self.past[: self.past_marks[1]]]
        n = self.users.n_indices
        return used + ([self.as_of.ring[:n]] if self.as_of.batch else [])

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
        self._clear(index)
        self.as_of.forget(index)
        for rows in self.user_rows:
            rows.forget(index)

    def _clear(self, user: int) -> None:
        """Give back what a user has: what was forgotten must not go into snapshots."""
        self.n_rooms -= self._rooms_of(user)
        self.user_since[user] = 0
        kernels.personal_clear(self.arrays, user)

    def _rooms_of(self, user: int) -> int:
        """Return how many places of the pool a had-set takes, each for ROOM items."""
        count = int(self.had_count[user])
        return (int(self.had_start[user]) + count - 1) // ROOM + 1 if count else 0

    def merge_users(self, user_id: Hashable, from_id: Hashable, tick: int) -> Merged:
        """Move the history and had-set of a known user to another one, who may be new.

        Both are put into the order of time, ties in the order they had, the user's own first; of
        what is too much the oldest goes. `from_id` is forgotten.
        """
        source, target = self.users.get(from_id), self.users.get(user_id)
        rings = [] if target == MISS else self._ring(target, is_moved=False)
        rings += self._ring(source, is_moved=True)
        rings.sort(key=lambda event: event.time_ms)
        had = _latest([] if target == MISS else self._had(target), self._had(source))
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
        self._clear(target)
        self.n_events[target], self.user_since[target] = n_events, since
        self._write(target, rings[-self.history_length :], had[-self.had_length :])
        for rows, ours, theirs in own:
            rows.merge(target, ours, n_target, theirs, n_source)
        return Merged(target, from_handle, n_events, rings)

    def _ring(self, user: int, *, is_moved: bool) -> list[RingEvent]:
        """Return a user's ring, oldest first; an item is MISS where it is gone."""
        first = max(0, int(self.n_events[user]) - self.history_length)
        columns = (column.tolist() for column in self._read_rings(user, user + 1))
        events = zip(*columns, strict=True)
        return [RingEvent(is_moved, number, *event) for number, event in enumerate(events, first)]

    def _write(self, user: int, events: list[RingEvent], had: list[RawHad]) -> None:
        """Write ring and had-set of a user who has neither; make room for this."""
        for _ in range(-(-len(had) // ROOM)):
            self._take_room()
        of_ring = [(event.item, event.time_ms, event.reward) for event in events]
        ring, of_had = _columns(of_ring, RINGS), _columns(had, _HAD)
        kernels.write_user(self.arrays, user, ring, 0, len(events), of_had, 0, len(had))

    def _had(self, user: int) -> list[RawHad]:
        """Return what a user had, oldest first, live items only."""
        columns = (column.tolist() for column in self._read_had(user, user + 1))
        return [RawHad(*one) for one in zip(*columns, strict=True) if one[0] != MISS]

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
            self.append_had(user, type_index=type_index)

    def append_had(self, user: int, *, type_index: int) -> None:
        """Add the item of a user's last event to the had-set where no room is at hand.

        See `kernels.append_event`.
        """
        if self.had_count[user] >= self.had_length:
            self._drop_oldest_had(user)
        if kernels.needs_room(self.arrays, user):
            self._take_room()
        kernels.had_add(self.arrays, user, type_index)

    def _drop_oldest_had(self, user: int) -> None:
        n_rooms = self._rooms_of(user)
        kernels.had_drop(self.arrays, user)
        self.had_count[user] -= 1
        self.had_start[user] = (int(self.had_start[user]) + 1) % ROOM if self.had_count[user] else 0
        self.n_rooms += self._rooms_of(user) - n_rooms
        self.as_of.drop_had(user)

    def _take_room(self) -> None:
        while self.n_rooms >= self.max_rooms:
            # Never the user being written: they were touched last, and alone they always fit.
            self.forget_user(self.users.oldest())
        self.n_rooms += 1

    # -- reading ------------------------------------------------------------------------------

    def has_had(self, user: int, item: int) -> bool:
        """Tell whether a user had an item (both by index)."""
        return bool(kernels.has_had(self.arrays, user, item))

    def is_repeat(self, user: int, item: int, *, type_index: int, reward: float) -> bool:
        """Tell whether a user's last event on an item was of the same type, and said the same.

        Once it has left the ring, an event that may go either way (a rating) is taken for another.
        """
        return bool(kernels.is_repeat(self.arrays, user, item, type_index, reward))

    def mark_had(self, user: int, mark: kernels.I64, tick: int, *, is_past: bool = False) -> None:
        """Write `tick` into mark[item] for every item that a user had.

        With `is_past`, had when the batch began (see `seen`).
        """
        kernels.mark_had(self.arrays, user, self._n_had(user, is_past=is_past), mark, tick)

    def _n_had(self, user: int, *, is_past: bool) -> int:
        return int((self.as_of.n_had if is_past else self.had_count)[user])

    def let_return(self, days: dict[int, float]) -> None:
        """Say after how many days a had item of a type (by index) may be shown again."""
        self._returns_ms = np.full(max(days, default=-1) + 1, MISS, np.int64)
        for type_index, n_days in days.items():
            self._returns_ms[type_index] = int(n_days * kernels.DAY_MS)

    def mark_kept(
        self, user: int, mark: kernels.I64, tick: int, now_ms: int, *, is_past: bool = False
    ) -> None:
        """Do as `mark_had`, but for what may be shown again at a time: see `let_return`."""
        n_had = self._n_had(user, is_past=is_past)
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
        n_events = int(as_of.n_events[user])
        into.n, into.n_refused = kernels.profile_of(
            self.arrays,
            as_of.ring,
            as_of.ring_reward,
            user,
            (n_events - 1) % self.history_length,
            min(n_events, self.history_length),
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
        return self._named(self._read_rings(user, user + 1))

    def _named(self, columns: Iterable[Any]) -> list[tuple[Hashable, int, float]]:
        """Return the events of a ring, newest first, live items only."""
        items, times, rewards = (column.tolist() for column in columns)
        events = zip(reversed(self.items.names(items)), reversed(times), reversed(rewards))
        return [event for event, item in zip(events, reversed(items)) if item != MISS]

    def had(self, user: int) -> list[Had]:
        """Return a user's had-set, oldest first, live items only."""
        return [Had(self.items.ids[one.item], *one[1:]) for one in self._had(user)]

    def had_since(self, user: int, since_ms: int, type_index: int) -> I32:
        """Return the items whose last event was of a type, and not before a time."""
        items, times, kinds = self._read_had(user, user + 1)
        found: I32 = items[(items != MISS) & (times >= since_ms) & (kinds == type_index)]
        return found

    def item_id(self, handle: int) -> Hashable | None:
        """Return the id that a handle names, or None if it is stale."""
        index, generation = handle & 0xFFFFFFFF, handle >> 32
        return self.items.ids[index] if self.items.generation[index] == generation else None

    # -- state --------------------------------------------------------------------------------

    _PER_USER = ("n_events", "user_since", "had_start", "had_count")

    def state(self) -> State:
        """Return plain data and arrays from which `load_state` continues identically."""
        n = self.users.n_indices
        state: State = {name: getattr(self, name)[:n] for name in self._PER_USER}
        sizes = self._ring_sizes(n)
        for column, (name, dtype) in enumerate(RINGS.items()):
            state[name] = PackedLists(self._read_rings, column, sizes, self.history_length, dtype)
        for column, (name, dtype) in enumerate(_HAD.items()):
            counts = self.had_count[:n].astype(np.int64)
            state[name] = PackedLists(self._read_had, column, counts, _USUAL_HAD, dtype)
        state["categories"] = self.categories.state(self.items.n_indices)
        state["item_since"] = self.item_since[: self.items.n_indices]
        as_of = self.as_of.state(self, n)
        state |= {"as_of": as_of} if as_of else {}
        return state | {"items": self.items.state(), "users": self.users.state()}

    def _ring_sizes(self, n: int) -> I64:
        return np.minimum(self.n_events[:n], self.history_length)

    def _read_rings(self, start: int, stop: int) -> tuple[I32, I64, F32]:
        """Return items, times in ms and rewards of the rings of some users, each oldest first."""
        sizes = np.minimum(self.n_events[start:stop], self.history_length)
        ring, own, newest = self.ring, self.ring_reward, self.ring_newest
        return read_rings(self.arrays, ring, own, newest, self.n_events, start, sizes)

    def _read_had(self, start: int, stop: int) -> tuple[I32, I64, U16]:
        """Return items, times in ms and types of the had-sets of some users, each oldest first."""
        counts = self.had_count[start:stop]
        n = int(counts.sum(dtype=np.int64))
        columns = np.empty(n, np.int32), np.empty(n, np.int64), np.empty(n, np.uint16)
        kernels.pack_had(self.arrays, start, len(counts), *columns)
        return columns

    def load_state(self, state: State) -> None:
        """Become the history that `state` was taken from."""
        self.items.load_state(state["items"])
        self.users.load_state(state["users"])
        self.categories.load_state(state["categories"])
        self._reserve()
        n = self.users.n_indices
        self.item_since[: self.items.n_indices] = state["item_since"]
        self.sweep.begin_anew()
        if "block_handle" in state:
            state = of_format_2(state, self.items, self.history_length)
        for name in self._PER_USER:
            getattr(self, name)[:n] = state[name]
        ends = self.had_start[:n].astype(np.int64) + self.had_count[:n]
        self.n_rooms = int((-(-ends // ROOM) * (self.had_count[:n] > 0)).sum())
        if self.n_rooms > self.max_rooms:
            raise ValueError(f"{self.n_rooms} rooms do not fit a pool of {self.max_rooms}")
        rings, had = (tuple(np.asarray(state[name]) for name in names) for names in (RINGS, _HAD))
        counts = self.had_count[:n].astype(np.int64)
        kernels.unpack_users(self.arrays, self._ring_sizes(n), rings, counts, had)
        self.as_of.load_state(self, state.get("as_of", {}), n)

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
                for item_id, time_ms, reward in self._named(self.as_of.read(self, user, user + 1)):
                    sha.update(_text(item_id) + _numbers(time_ms, reward))
        for item in self.items.sorted_indices():
            sha.update(_text(self.items.ids[item]) + self.item_since[item].tobytes())


def _latest(*had: list[RawHad]) -> list[RawHad]:
    """Return what was had in the order of time, of each item what came last."""
    latest: dict[int, RawHad] = {}
    for one in chain(*had):
        if one.item not in latest or one.time_ms > latest[one.item].time_ms:
            latest[one.item] = one
    return sorted(latest.values(), key=lambda one: one.time_ms)


def _columns(rows: Sequence[tuple[Any, ...]], types: dict[str, Any]) -> tuple[Any, ...]:
    """Return an array for each column of some rows."""
    columns = zip(*rows, strict=True) if rows else ((),) * len(types)
    return tuple(np.array(column, dtype) for column, dtype in zip(columns, types.values()))


def _text(id_: Hashable) -> bytes:
    encoded = str(id_).encode()
    return len(encoded).to_bytes(4, "little") + encoded


def _numbers(whole: int, other: float) -> bytes:
    return np.int64(whole).tobytes() + np.float64(other).tobytes()
