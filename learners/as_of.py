"""Personal state as requests know it where it is served in batches: as it was when this one began.

Off by default: then requests know all there is, and nothing here is kept or looked at.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from learners import kernels
from learners.ids import PackedLists, State
from learners.kernels import F32, I32, I64, MISS, U32

RINGS = {"ring_item": np.int32, "ring_time": np.int64, "ring_reward": np.float32}
"""A ring as it is in snapshots: what each column has of an event. An item is an index, or MISS."""


def read_rings(
    arrays: Any, ring: U32, rewards: F32, newest: I32, n_events: I64, first: int, sizes: I64
) -> tuple[I32, I64, F32]:
    """Return items, times in ms and rewards of the rings of some users, each oldest first."""
    n = int(sizes.sum())
    columns = np.empty(n, np.int32), np.empty(n, np.int64), np.empty(n, np.float32)
    kernels.pack_rings(arrays, ring, rewards, newest, n_events, first, sizes, *columns)
    return columns


class AsOf:
    """Copies of the rings of users who had events since the batch began, from before these.

    A copy is taken when a user's first event of a batch comes. It is current while its number is
    the batch's, so that beginning another one clears nothing. Of a had-set, which only grows, the
    length is enough; what it has dropped since, to stay bounded, is gone here, too. Users who are
    merged into one are known as that at once.
    """

    def __init__(self, n_users: int, length: int) -> None:
        self.is_on = False
        # How many batches have begun. The arrays are reserved when the first one does.
        self.batch = 0
        self._shape = n_users, length

    def _reserve(self) -> None:
        n_users, length = self._shape
        self.batch_of: I64 = np.zeros(n_users, np.int64)
        self.n_events: I64 = np.zeros(n_users, np.int64)
        self.n_had: I32 = np.zeros(n_users, np.int32)
        # A user's ring is one row of cells here, which follows itself (see `kernels`).
        self.ring: U32 = np.zeros((n_users, 1 + 3 * length), np.uint32)
        self.ring_reward: F32 = np.zeros((n_users, length), np.float32)

    def begin(self) -> None:
        """Let requests know all there is by now, and nothing that comes, until the next batch."""
        if not self.batch:
            self._reserve()
        self.is_on = True
        self.batch += 1

    def end(self) -> None:
        """Let requests know all there is at any time."""
        self.is_on = False

    def holds(self, user: int) -> bool:
        """Tell whether a user has had events of which requests do not know yet."""
        return self.is_on and user != MISS and bool(self.batch_of[user] == self.batch)

    def held(self, n: int) -> Any:
        """Tell of each of the first n users whether requests know less of them: [n] booleans."""
        return self.batch_of[:n] == self.batch if self.is_on else np.zeros(n, np.bool_)

    def keep(self, history: Any, user: int) -> None:
        """Copy what a user has, if this event is their first of the batch."""
        if self.batch_of[user] == self.batch:
            return
        self.batch_of[user] = self.batch
        self.n_events[user] = history.n_events[user]
        self.n_had[user] = history.had_count[user]
        kernels.copy_ring(history.arrays, user, self.ring, self.ring_reward)
        for rows in history.user_rows:
            rows.keep(user)

    def read(self, history: Any, start: int, stop: int) -> tuple[I32, I64, F32]:
        """Return the rings of some users, as `read_rings` does; of users who are not held, none."""
        held = self.batch_of[start:stop] == self.batch
        sizes = np.where(held & self.is_on, self.n_events[start:stop], 0)
        rows = np.arange(stop, dtype=np.int32)
        sizes = np.minimum(sizes, self._shape[1])
        own = self.ring_reward
        return read_rings(history.arrays, self.ring, own, rows, self.n_events, start, sizes)

    def drop_had(self, user: int) -> None:
        """Take note that a user's had-set has dropped its oldest item."""
        if self.holds(user) and self.n_had[user]:
            self.n_had[user] -= 1

    def forget(self, user: int) -> None:
        """Keep nothing of a user."""
        if self.batch:
            for name in ("batch_of", "n_events", "n_had", "ring", "ring_reward"):
                getattr(self, name)[user] = 0

    # -- state --------------------------------------------------------------------------------

    def state(self, history: Any, n: int) -> State:
        """Return what `load_state` continues from, of the first n users; {} if it was never on."""
        if not self.batch:
            return {}
        held = self.held(n)
        n_events = np.where(held, self.n_events[:n], 0)
        used = np.minimum(n_events, self._shape[1])
        state: State = {"is_on": self.is_on, "batch": self.batch, "held": held.astype(np.uint8)}
        state |= {"n_events": n_events, "n_had": np.where(held, self.n_had[:n], 0)}
        read = partial(self.read, history)
        return state | {
            name: PackedLists(read, column, used, self._shape[1], dtype)
            for column, (name, dtype) in enumerate(RINGS.items())
        }

    def load_state(self, history: Any, state: State, n: int) -> None:
        """Become what `state` was taken from."""
        self.is_on, self.batch = bool(state.get("is_on")), int(state.get("batch", 0))
        if not self.batch:
            return
        self._reserve()
        self.batch_of[:n] = np.where(np.asarray(state["held"]) == 1, self.batch, 0)
        self.n_events[:n], self.n_had[:n] = state["n_events"], state["n_had"]
        columns = (np.asarray(state[name]) for name in RINGS)
        sizes = np.minimum(self.n_events[:n], self._shape[1])
        kernels.unpack_rows_of_cells(
            history.arrays, self.ring, self.ring_reward, self.n_events, sizes, *columns
        )
