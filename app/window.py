"""The last events that taught the shadow, kept so that some of them can be learned again.

After HOLD the shadow begins anew from the anchor. What it learned since is learned again from
here, each event with the history that its user had then, as far as that is still known.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from learners import kernels
from learners.history import History, Merged, Profile
from learners.ids import State, handle_of
from learners.kernels import MISS, Kept


class Learned(NamedTuple):
    """One event of the window, by indices that are live, and its user's profile before it."""

    profile: Profile
    item: int
    reward: float
    time_ms: int


class Window:
    """A ring of admitted events. `number` is the engine's count of them, negative for one that
    taught its user alone: profiles are made of that one, too.
    """

    def __init__(self, capacity: int, history: History) -> None:
        self.capacity = capacity
        self.history = history
        self.n = 0
        self._last_of: dict[int, int] = {}
        self.kept = Kept(
            number=np.zeros(capacity, np.int64),
            user=np.zeros(capacity, np.int64),
            item=np.zeros(capacity, np.int64),
            time_ms=np.zeros(capacity, np.int64),
            reward=np.zeros(capacity, np.float32),
            nth=np.zeros(capacity, np.int64),
            before=np.full(capacity, MISS, np.int64),
        )
        # Single numbers are read in half the time by way of a view.
        self._users = self.kept.user.data

    def add(
        self,
        number: int,
        user: int,
        item: int,
        *,
        reward: float,
        time_ms: int,
        is_taught: bool = True,
    ) -> None:
        """Keep an event that is about to enter its user's history."""
        seq, [before] = self.n, self.follow([user])
        users = self.history.users
        kernels.keep_event(
            self.kept,
            seq,
            before,
            number if is_taught else -number,
            self.history.arrays,
            users.generation,
            user,
            item,
            reward,
            time_ms,
        )

    def follow(self, users: Iterable[int]) -> list[int]:
        """Begin with the next events, of users; return which was the last of each before, or MISS.

        The events whose places they take, and those of the ones begun before them, need not have
        been kept yet; there must be fewer of these than there are places.
        """
        n, capacity, last_of = self.n, self.capacity, self._last_of
        if not capacity:
            return [MISS for _ in users]
        generation, befores = self.history.users.generation, []
        for user in users:
            if n >= capacity:
                gone = self._users[n % capacity]
                if last_of.get(gone) == n - capacity:
                    del last_of[gone]
            handle = handle_of(user, int(generation[user]))
            befores.append(last_of.get(handle, MISS))
            last_of[handle] = n
            n += 1
        self.n = n
        return befores

    def merge(self, merged: Merged) -> None:
        """Let a user have the events of another one, whose history they have got.

        Events are numbered as in the merged history; those that are in no ring any more come first.
        """
        to_handle, kept = self.history.users.handle(merged.user), self.kept
        numbers = {(event.is_moved, event.number): 0 for event in merged.events}
        moved = [(seq, True) for seq in self._chain(merged.from_handle)]
        seqs = sorted([(seq, False) for seq in self._chain(to_handle)] + moved)
        keys = [(is_moved, int(self.kept.nth[seq % self.capacity])) for seq, is_moved in seqs]
        timed = [
            (int(self.kept.time_ms[seq % self.capacity]), *key)
            for (seq, _), key in zip(seqs, keys)
            if key not in numbers
        ]
        order = [(is_moved, number) for _, is_moved, number in sorted(timed)] + list(numbers)
        numbers = dict(zip(order, range(merged.n_events - len(order), merged.n_events)))
        before = MISS
        for (seq, _), key in zip(seqs, keys):
            place = seq % self.capacity
            kept.user[place], kept.nth[place], kept.before[place] = to_handle, numbers[key], before
            before = seq
        self._last_of.pop(merged.from_handle, None)
        if seqs:
            self._last_of[to_handle] = before

    def _chain(self, handle: int) -> Iterator[int]:
        """Yield where a user's events of the window are, the last one first."""
        seq = self._last_of.get(handle, MISS)
        while seq >= max(0, self.n - self.capacity):
            yield seq
            seq = int(self.kept.before[seq % self.capacity])

    def events(self, first: int, last: int, without: set[int]) -> Iterator[Learned | None]:
        """Yield the events numbered `first` to `last`, oldest first; not on some items (indices).

        What is not to be learned (its user or item is forgotten, or it never taught) comes as None.
        """
        profile = Profile(self.history.history_length)
        held = np.arange(max(0, self.n - self.capacity), self.n)
        numbers = np.abs(self.kept.number[held % self.capacity])
        for seq in held[(first <= numbers) & (numbers <= last)].tolist():
            yield self._event(seq, seq % self.capacity, profile, without)

    def _event(self, seq: int, place: int, profile: Profile, without: set[int]) -> Learned | None:
        users, items = self.history.users, self.history.items
        user, item = users.live(int(self.kept.user[place])), items.live(int(self.kept.item[place]))
        if MISS in (user, item) or item in without or self.kept.number[place] < 0:
            return None
        self._profile_before(seq, user, profile)
        return Learned(profile, item, float(self.kept.reward[place]), int(self.kept.time_ms[place]))

    def _profile_before(self, seq: int, user: int, profile: Profile) -> None:
        history = self.history
        profile.clear()
        profile.user, profile.is_past = user, True
        profile.n, profile.n_refused = kernels.profile_before(
            seq,
            max(0, self.n - self.capacity),
            self.capacity,
            self.kept.nth,
            self.kept.before,
            self.kept.item,
            self.kept.reward,
            self.kept.time_ms,
            history.arrays,
            user,
            profile.items,
            profile.weights,
            profile.times,
            profile.refused,
        )

    # -- state --------------------------------------------------------------------------------

    _ARRAYS = ("number", "user", "item", "time_ms", "reward", "nth", "before")

    def _kept(self) -> kernels.I64:
        first = max(0, self.n - self.capacity)
        return np.arange(first, self.n, dtype=np.int64) % max(self.capacity, 1)

    def canonical(self) -> bytes:
        """Return the content without indices: what is hashed."""
        kept = self._kept()
        history = self.history
        keys = (
            history.users.keys_of(self.kept.user[kept]),
            history.items.keys_of(self.kept.item[kept]),
        )
        own = (
            self.kept.number[kept],
            self.kept.time_ms[kept],
            self.kept.reward[kept],
            self.kept.nth[kept],
        )
        return b"".join(array.tobytes() for array in (*own, *keys))

    def state(self) -> State:
        """Return what `load_state` continues from."""
        kept = self._kept()
        return {"n": self.n, **{name: getattr(self.kept, name)[kept] for name in self._ARRAYS}}

    def load_state(self, state: State) -> None:
        """Become the window that `state` was taken from; the capacity must be the same."""
        self.n = int(state["n"])
        kept = self._kept()
        for name in self._ARRAYS:
            getattr(self.kept, name)[kept] = state[name]
        first = self.n - len(kept)
        self._last_of = {
            handle: first + back for back, handle in enumerate(self.kept.user[kept].tolist())
        }
