"""What users were shown and did not take: personal, live at once, and forgotten with the user."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

import numpy as np

from learners import kernels
from learners.candidates import Candidates
from learners.history import History
from learners.ids import PackedRows, State
from learners.kernels import I64, MISS, U8

N_IGNORED = 32
"""Items per user that are remembered as ignored: those shown last, more than a slate has."""


class Ignored:
    """Per user, the items ignored last, the latest first, and how often each was, up to 255."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._reset()
        history.on_user_forgotten.append(self._forget)

    def _reset(self) -> None:
        shape = self._history.max_users, N_IGNORED
        self._handle: I64 = np.zeros(shape, np.int64)
        self._times: U8 = np.zeros(shape, np.uint8)
        self._n = np.zeros(self._history.max_users, np.int32)
        # The same: single numbers are read in half the time by way of a view.
        self._number = self._n.data

    def add(self, user: int, item: int) -> None:
        """Count that a user was shown an item and did not take it (both by index)."""
        handle = self._history.items.handle(item)
        self._n[user] = kernels.ignored_add(
            self._handle[user], self._times[user], self._n[user], handle
        )

    def drop(self, users: Iterable[int], items: Iterable[int]) -> None:
        """Forget that users ignored items: they had them after all."""
        for user, item in zip(users, items, strict=True):
            if self._number[user]:
                self._n[user] = kernels.ignored_drop(
                    self._handle[user],
                    self._times[user],
                    self._n[user],
                    self._history.items.handle(item),
                )

    def lower(self, user: int, pool: Candidates, weight: float) -> bool:
        """Lower the totals of what a user ignored by `weight` a time; tell whether any may be."""
        if user == MISS or not weight or not self._n[user]:
            return False
        kernels.lower_ignored(
            self._handle[user],
            self._times[user],
            self._n[user],
            self._history.items.generation,
            weight,
            pool.pooled,
            pool.tick,
            pool.item,
            pool.n,
            pool.total,
        )
        return True

    def times(self, user: int, item: int) -> int:
        """Return how often in a row a user ignored an item (both by index)."""
        if MISS in (user, item):
            return 0
        found = np.flatnonzero(
            self._handle[user, : self._n[user]] == self._history.items.handle(item)
        )
        return int(self._times[user, found[0]]) if len(found) else 0

    def of(self, user: int) -> dict[int, int]:
        """Return how often a user ignored what, by handle, the latest first; of live items."""
        pairs = zip(self._handle[user, : self._n[user]].tolist(), self._times[user].tolist())
        return {h: n for h, n in pairs if self._history.items.live(h) != MISS}

    def merge(self, user: int, moved: dict[int, int]) -> None:
        """Let a user have ignored what another one did, later than what they did themselves.

        What they had by now, they did not ignore.
        """
        own, items = self.of(user), self._history.items
        merged = {h: min(255, moved.get(h, 0) + own.get(h, 0)) for h in (*moved, *own)}
        kept = [h for h in merged if not self._history.has_had(user, items.live(h))][:N_IGNORED]
        self._handle[user], self._times[user], self._n[user] = 0, 0, len(kept)
        self._handle[user, : len(kept)] = kept
        self._times[user, : len(kept)] = [merged[h] for h in kept]

    def _forget(self, user_id: Hashable) -> None:
        user = self._history.users.get(user_id)
        self._handle[user] = 0
        self._times[user] = 0
        self._n[user] = 0

    # -- state --------------------------------------------------------------------------------

    def state(self) -> State:
        """Return what `load_state` continues from."""
        n = self._n[: self._history.users.n_indices]
        return {"n": n, "handle": PackedRows(self._handle, n), "times": PackedRows(self._times, n)}

    def load_state(self, state: State) -> None:
        """Become what `state` was taken from."""
        self._reset()
        n = np.asarray(state["n"])
        self._n[: len(n)] = n
        kernels.unpack_rows(np.asarray(state["handle"]), n, self._handle)
        kernels.unpack_rows(np.asarray(state["times"]), n, self._times)

    def update_hash(self, sha: Any) -> None:
        """Feed the content to a hashlib object, users and items by their ids' order and keys."""
        for user in self._history.users.sorted_indices().tolist():
            n = int(self._n[user])
            if n:
                keys = self._history.items.keys_of(self._handle[user, :n])
                sha.update(keys.tobytes() + self._times[user, :n].tobytes())
            sha.update(n.to_bytes(1, "little"))
