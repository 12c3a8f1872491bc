"""Rows of numbers that a learner keeps for each user: personal state beside the history's own.

They follow the history: a user who is forgotten has none, of two who are merged one is left, and
where requests know a user as of the beginning of a batch, they know the row of then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from learners.kernels import F32

if TYPE_CHECKING:
    from learners.history import History


class UserRows:
    """A row a user, of `width` numbers, zeros at first; none at all where `width` is 0.

    `live` [users + 1, width]: the last row, which MISS finds, is nobody's and stays zero. `past`,
    of the same shape, is what requests know of those whom `History.as_of` holds.
    """

    def __init__(self, history: History, width: int) -> None:
        self._history = history
        self._shape = history.max_users + 1, width
        self._reserve()
        history.user_rows.append(self)

    def _reserve(self) -> None:
        # Not `zeros_like`, which writes the zeros: that would take all the memory at once.
        self.live: F32 = np.zeros(self._shape, np.float32)
        self.past: F32 = np.zeros(self._shape, np.float32)

    @property
    def width(self) -> int:
        """Return how many numbers a row has."""
        return int(self.live.shape[1])

    def leave(self) -> None:
        """Hear no more of the history."""
        self._history.user_rows.remove(self)

    # -- what the history tells ---------------------------------------------------------------

    def keep(self, user: int) -> None:
        """Let requests know a user's row as it is, until the next batch."""
        self.past[user] = self.live[user]

    def forget(self, user: int) -> None:
        """Keep nothing of a user."""
        self.live[user] = self.past[user] = 0.0

    def take(self, user: int) -> F32:
        """Return a copy of the row of a user who may be about to go; of MISS, zeros."""
        taken: F32 = self.live[user].copy()
        return taken

    def merge(self, user: int, own: F32, n_own: int, other: F32, n_other: int) -> None:
        """Give a user the mean of two rows, each weighed by the events that it comes from."""
        # In 64 bits, so that where one has no events the other's row stays as it was, to the bit.
        total = own.astype(np.float64) * n_own + other.astype(np.float64) * n_other
        self.live[user] = total / max(1, n_own + n_other)

    # -- state --------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return the rows of the users that there are, and those of the past; {} without width."""
        n = self._history.users.n_indices
        if not self.width:
            return {}
        held = self._held()
        return {"users": self.live[:n]} | ({"users_past": self.past[held]} if len(held) else {})

    def _held(self) -> Any:
        """Return the indices of the users whom requests know by the past."""
        return np.flatnonzero(self._history.as_of.held(self._history.users.n_indices))

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over rows, the history having been loaded; what they were is forgotten."""
        self._reserve()
        if self.width:
            rows = np.asarray(state["users"], np.float32)
            self.live[: len(rows)] = rows
        if "users_past" in state:
            self.past[self._held()] = state["users_past"]

    def update_hash(self, sha: Any) -> None:
        """Feed the rows, sorted by external id, to a hashlib object."""
        if not self.width:
            return
        order = self._history.users.sorted_indices()
        sha.update(np.ascontiguousarray(self.live[order]).tobytes())
        held = self._history.as_of.held(self._history.users.n_indices)[order]
        sha.update(np.ascontiguousarray(self.past[order[held]]).tobytes())
