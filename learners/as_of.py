"""Personal state as requests know it where it is served in batches: as it was when this one began.

Off by default: then requests know all there is, and nothing here is kept or looked at.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from learners import kernels
from learners.ids import PackedRows, State
from learners.kernels import CHUNK, F32, I32, I64, MISS

_RINGS = ("ring_handle", "ring_time", "ring_reward")


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
        # A user's chunks lie one after the other here.
        length = -(-length // CHUNK) * CHUNK
        self.ring_handle = np.zeros((n_users, length), np.int64)
        self.ring_time = np.zeros((n_users, length), np.int64)
        self.ring_reward = np.zeros((n_users, length), np.float32)

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
        for name in _RINGS:
            chunks = getattr(history, name)[history.ring_chunk[user]]
            getattr(self, name)[user] = chunks.ravel()
        for rows in history.user_rows:
            rows.keep(user)

    def rings(self) -> tuple[I64, F32, I64]:
        """Return handles, rewards and times by chunks, as kernels take them."""
        handle, reward, time = self.ring_handle, self.ring_reward, self.ring_time
        return handle.reshape(-1, CHUNK), reward.reshape(-1, CHUNK), time.reshape(-1, CHUNK)

    def chunks_of(self, user: int) -> I32:
        """Return the numbers of a user's chunks, as a table with one row."""
        n = self.ring_handle.shape[1] // CHUNK
        return np.arange(user * n, (user + 1) * n, dtype=np.int32).reshape(1, n)

    def ring_cell(self, user: int, number: int) -> tuple[int, int]:
        """Return where the user's event of a number is in the arrays of the rings."""
        return user, number % self._shape[1]

    def drop_had(self, user: int) -> None:
        """Take note that a user's had-set has dropped its oldest item."""
        if self.holds(user) and self.n_had[user]:
            self.n_had[user] -= 1

    def forget(self, user: int) -> None:
        """Keep nothing of a user."""
        if self.batch:
            for name in ("batch_of", "n_events", "n_had", *_RINGS):
                getattr(self, name)[user] = 0

    # -- state --------------------------------------------------------------------------------

    def state(self, n: int) -> State:
        """Return what `load_state` continues from, of the first n users; {} if it was never on."""
        if not self.batch:
            return {}
        held = self.held(n)
        n_events = np.where(held, self.n_events[:n], 0)
        used = np.minimum(n_events, self._shape[1])
        state: State = {"is_on": self.is_on, "batch": self.batch, "held": held.astype(np.uint8)}
        state |= {"n_events": n_events, "n_had": np.where(held, self.n_had[:n], 0)}
        return state | {name: PackedRows(getattr(self, name), used) for name in _RINGS}

    def load_state(self, state: State, n: int) -> None:
        """Become what `state` was taken from."""
        self.is_on, self.batch = bool(state.get("is_on")), int(state.get("batch", 0))
        if not self.batch:
            return
        self._reserve()
        self.batch_of[:n] = np.where(np.asarray(state["held"]) == 1, self.batch, 0)
        self.n_events[:n], self.n_had[:n] = state["n_events"], state["n_had"]
        used = np.minimum(self.n_events[:n], self._shape[1])
        for name in _RINGS:
            kernels.unpack_rows(np.asarray(state[name]), used, getattr(self, name))
