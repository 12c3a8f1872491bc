"""Features as combiners see them: those of the request in hand, those kept of users, of all items.

Users' features are personal state: pushed through the log, live at once, forgotten with the user.
Items' are their attributes. What is missing, and why, is counted; counts are no state.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from app.errors import InvalidRequest
from app.features import ALL_READ, Feature, Unread, Value, Values, Why, inputs_of
from learners.history import History
from learners.ids import State
from learners.inputs import Inputs
from learners.kernels import F64, I32, I64, MISS


class Kept(NamedTuple):
    """A user's features: each as `Feature.keep` has it, and when it came (Unix ms, 0 for never)."""

    values: F64
    times: I64


class _Slot(NamedTuple):
    """Where a feature's inputs begin, and in which place of a user's row it is, if it is theirs."""

    name: str
    feature: Feature
    first: int
    place: int = MISS


def make_inputs(features: Mapping[str, Feature], max_items: int) -> Inputs:
    """Return the inputs that the features have."""
    return Inputs(inputs_of(features, "context", "user"), inputs_of(features, "item"), max_items)


class FeatureState:
    """All values of the declared features that a history's users and items have."""

    def __init__(self, history: History, features: Mapping[str, Feature]) -> None:
        self._history = history
        self._inputs = history.inputs
        self._of_request = _slots(features, "context", "user")
        self._of_items = _slots(features, "item")
        self._of_users = [slot for slot in self._of_request if slot.place != MISS]
        # What may be given with a request or an event, and what may be put.
        self.names = tuple(slot.name for slot in self._of_request)
        self.names_of_users = tuple(slot.name for slot in self._of_users)
        self.n_missing: Counter[tuple[str, Why]] = Counter()
        self._missed: list[tuple[str, Why]] = []
        self._reset()
        history.on_item_evicted.append(self._evict)
        history.on_user_forgotten.append(self._forget)

    def _reset(self) -> None:
        shape = self._history.max_users, len(self._of_users)
        self._values: F64 = np.zeros(shape)
        self._times: I64 = np.zeros(shape, np.int64)

    # -- requests and events ------------------------------------------------------------------

    def situate(self, given: Values, user: int, now_ms: int, unread: Unread = ALL_READ) -> None:
        """Let combiners see what is given with a request or event, and what is kept of its user.

        What is given comes first. `unread` says why more is not given than is. Changes no state.
        """
        into = self._inputs.given
        into[:] = 0.0
        self._missed.clear()
        for slot in self._of_request:
            kept = slot.feature.keep(given.get(slot.name))
            if kept == "missing" and slot.place != MISS:
                kept = self._kept(slot, user, now_ms, unread)
            if isinstance(kept, str):
                self._missed.append((slot.name, kept))
            else:
                place, number = slot.feature.meaning(kept)
                into[slot.first + place] = number

    def _kept(self, slot: _Slot, user: int, now_ms: int, unread: Unread) -> float | Why:
        time_ms = 0 if user == MISS else int(self._times[user, slot.place])
        if not time_ms:
            return unread.get(slot.name, "missing")
        limit_s = slot.feature.max_age_s
        is_stale = limit_s is not None and now_ms - time_ms > limit_s * 1_000
        return "stale" if is_stale else float(self._values[user, slot.place])

    def count(self) -> None:
        """Count what the last request or event had no value for."""
        self.n_missing.update(self._missed)

    # -- users --------------------------------------------------------------------------------

    def put(self, user: int, features: Values, time_ms: int, *, replace: bool) -> None:
        """Give a user some features; what means nothing is counted, and missing from then on."""
        for name, feature, _, place in self._of_users:
            if name not in features and not replace:
                continue
            kept = feature.keep(features.get(name))
            if isinstance(kept, str):
                if name in features:
                    self.n_missing[name, kept] += 1
                self._values[user, place] = self._times[user, place] = 0
            else:
                self._values[user, place], self._times[user, place] = kept, max(time_ms, 1)

    def of_user(self, user: int) -> dict[str, tuple[Value, int]]:
        """Return what is kept of a user: values, and when they came (Unix ms)."""
        values, times = self._values[user].tolist(), self._times[user].tolist()
        return {
            slot.name: (slot.feature.shown(values[slot.place]), times[slot.place])
            for slot in self._of_users
            if times[slot.place]
        }

    def kept_of(self, user: int) -> Kept:
        """Return what is kept of a user, who is about to be forgotten."""
        return Kept(self._values[user].copy(), self._times[user].copy())

    def merge(self, user: int, moved: Kept) -> None:
        """Let a user have those features of another one that came later than their own."""
        is_later = moved.times > self._times[user]
        self._values[user, is_later] = moved.values[is_later]
        self._times[user, is_later] = moved.times[is_later]

    def _forget(self, user_id: Hashable) -> None:
        user = self._history.users.get(user_id)
        self._values[user] = self._times[user] = 0

    def leave(self) -> None:
        """Hear no more of the history: other features are declared."""
        self._history.on_item_evicted.remove(self._evict)
        self._history.on_user_forgotten.remove(self._forget)

    def take(self, before: FeatureState) -> None:
        """Keep what there was of users, as far as it means something by the declaration of now."""
        self.n_missing = before.n_missing
        old = {slot.name: slot for slot in before._of_users}
        for name, feature, _, place in self._of_users:
            if name not in old:
                continue
            was = old[name].place
            kept = feature.taken(before._values[:, was], old[name].feature)
            stays = (before._times[:, was] > 0) & ~np.isnan(kept)
            self._values[stays, place] = kept[stays]
            self._times[stays, place] = before._times[stays, was]

    # -- items --------------------------------------------------------------------------------

    def describe(self, item: int, attributes: Values, *, is_counted: bool = True) -> None:
        """Let combiners see an item as its attributes are now."""
        self._inputs.of_item[:, item] = 0.0
        for name, feature, first, _ in self._of_items:
            kept = feature.keep(attributes.get(name))
            if not isinstance(kept, str):
                place, number = feature.meaning(kept)
                self._inputs.of_item[first + place, item] = number
            elif is_counted:
                self.n_missing[name, kept] += 1

    def _evict(self, item: int, handle: int) -> None:
        self._inputs.of_item[:, item] = 0.0

    # -- state --------------------------------------------------------------------------------

    def state(self) -> State:
        """Return what is kept of users; items' features are in the catalogue."""
        n = self._history.users.n_indices
        return {"values": self._values[:n], "times": self._times[:n]}

    def load_state(self, state: State) -> None:
        """Become what `state` was taken from."""
        self._reset()
        n = len(state["times"])
        self._values[:n], self._times[:n] = state["values"], state["times"]

    def update_hash(self, order: I32, sha: Any) -> None:
        """Feed what is kept of users, in `order`, to a hashlib object."""
        sha.update(self._values[order].tobytes() + self._times[order].tobytes())


def check_names(
    state: FeatureState | None, given: Iterable[str], of: Literal["request", "user"] = "request"
) -> None:
    """Raise InvalidRequest where something is given that is not declared so."""
    declared: tuple[str, ...] = ()
    if state is not None:
        declared = state.names if of == "request" else state.names_of_users
    for name in given:
        if name not in declared:
            where = f"context.{name}" if of == "request" else name
            these = ", ".join(declared) or "none"
            raise InvalidRequest(
                f"{where}: SLUICE_FEATURES declares no such feature of a {of}; it declares {these}"
            )


def _slots(features: Mapping[str, Feature], *of: str) -> list[_Slot]:
    slots, first, n_users = [], 0, 0
    for name, feature in sorted(features.items()):
        if feature.of in of:
            is_users = feature.of == "user"
            slots.append(_Slot(name, feature, first, n_users if is_users else MISS))
            first += feature.n_inputs
            n_users += is_users
    return slots
