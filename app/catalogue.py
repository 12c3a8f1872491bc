"""Items' and users' attributes, by index: what a slate may contain, and how an item is shown."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from copy import copy
from itertools import islice
from typing import Any

import numpy as np

from app.columns import Columns, Plain
from app.conditions import TIMES
from app.events import MAX_TIME_MS, MIN_TIME_MS, ItemUpsert
from app.feature_state import FeatureState
from app.features import Feature
from app.first_seen import FirstSeen
from learners.history import History
from learners.ids import State
from learners.kernels import MISS

MAX_ATTRIBUTES = 64
"""Attributes an item, or a user, may have."""

TYPED_SINCE = 8
"""The semantics version from which on attributes have types."""

MAX_LABEL_CHARS = 64
"""Attributes with longer texts are descriptions, which no two items share."""

Attributes = dict[str, str | int | float | bool | None]


class Catalogue:
    """Attributes and the hidden flag of items, attributes and features of users; items' categories
    are with the history, as learners know them too.

    Attributes are kept as they were sent, to be shown, and in `columns`, to be filtered by.
    """

    def __init__(
        self,
        history: History,
        *,
        max_columns: int = 64,
        max_strings: int = 1_000_000,
        features: Mapping[str, Feature] | None = None,
    ) -> None:
        self.history = history
        self.columns = Columns(history, max_columns, max_strings)
        self.first_seen = FirstSeen(history)
        # None where none are declared.
        self.features = FeatureState(history, features) if features else None
        # Before version 8 attributes had no types: what does not fit its column is only shown.
        self.is_typed = True
        self.hidden = np.zeros(history.max_items, np.uint8)
        self._reset()
        history.on_item_evicted.append(self._evict)
        history.on_user_forgotten.append(self._forget_user)

    def _reset(self) -> None:
        self.attributes: dict[int, Attributes] = {}
        self.updated_ms: dict[int, int] = {}
        self.user_attributes: dict[str, Attributes] = {}

    # -- items --------------------------------------------------------------------------------

    def upsert(self, index: int, change: ItemUpsert) -> str | None:
        """Apply a change to an item; fields that are None stay, unless it replaces the item.

        Return why not, where its attributes are too many or of another type; nothing is changed
        then.
        """
        before = self.attributes.get(index, {})
        merged = ({} if change.replace else before) | (change.attributes or {})
        wanted: Attributes = {n: value for n, value in merged.items() if value is not None}
        changed = {
            name: value
            for name, value in wanted.items()
            if value is not None and not _is_same(before.get(name), value)
        }
        refused = self._refusal(change.item_id, wanted, changed)
        if refused is not None:
            return refused
        if change.replace:
            self._clear(index)
        for name in [name for name in before if name not in wanted]:
            self.columns.put(index, name, None)
        for name, value in changed.items():
            self.columns.put(index, name, value)
        self._put_fields(index, change, wanted)
        if self.features is not None:
            self.features.describe(index, self.attributes.get(index, {}))
        return None

    def _refusal(self, item_id: str, wanted: Attributes, changed: dict[str, Plain]) -> str | None:
        """Return why an item cannot have these attributes, of which some are new, or None."""
        if len(wanted) > MAX_ATTRIBUTES:
            return f"item {item_id!r} would have {len(wanted)} attributes of {MAX_ATTRIBUTES}"
        return self.columns.misfit(item_id, changed) if self.is_typed and changed else None

    def _put_fields(self, index: int, change: ItemUpsert, wanted: Attributes) -> None:
        if change.categories is not None or change.replace:
            self.history.categories.put(index, change.categories or [])
        if change.attributes is not None:
            self.attributes[index] = wanted
        if change.hidden is not None:
            self.hidden[index] = change.hidden
        if change.time_ms is not None:
            self.updated_ms[index] = change.time_ms
        if change.available_from is not None:
            self._put_time(index, "available_from", change.available_from)
        if change.available_until is not None:
            self._put_time(index, "available_until", change.available_until)

    def labels(self, index: int) -> list[str]:
        """Return what an item has in common with others: categories, and attributes that are text.

        A control character, which no name has, divides an attribute from its value.
        """
        attributes = self.attributes.get(index, {}).items()
        return self.history.categories.of(index) + [
            f"{name}\x1f{value}"
            for name, value in attributes
            if isinstance(value, str) and len(value) <= MAX_LABEL_CHARS
        ]

    def _put_time(self, index: int, name: str, time_ms: int) -> None:
        is_limit = self.is_typed and time_ms not in (MIN_TIME_MS, MAX_TIME_MS)
        self.columns.put_time(index, name, time_ms if is_limit else None)
        if name == "available_from":
            self.first_seen.publish(index, time_ms if is_limit else None)

    def _evict(self, index: int, handle: int) -> None:
        for name in self.attributes.get(index, {}):
            self.columns.put(index, name, None)
        self._clear(index)

    def _clear(self, index: int) -> None:
        """Forget all of an item but its values in columns."""
        self.hidden[index] = 0
        self.attributes.pop(index, None)
        self.updated_ms.pop(index, None)
        for name in TIMES:
            self.columns.put_time(index, name, None)
        self.first_seen.publish(index, None)

    def follow(self, semantics: int) -> None:
        """Go on as a semantics version has it: from the first typed one on, attributes have types.

        These are then found anew, by the items' order, so that all replicas find the same.
        """
        was_typed, self.is_typed = self.is_typed, semantics >= TYPED_SINCE
        if self.is_typed and not was_typed:
            self._find_types()

    def _find_types(self) -> None:
        self.columns.clear()
        for index, attributes in sorted(self.attributes.items()):
            for name, value in attributes.items():
                self.columns.put(index, name, value)

    def declare(self, features: Mapping[str, Feature]) -> None:
        """Go on with other features, by the inputs that the history has got for them."""
        before = self.features
        self.features = FeatureState(self.history, features) if features else None
        if before is not None:
            before.leave()
            if self.features is not None:
                self.features.take(before)
        self._describe_all()

    def _describe_all(self) -> None:
        if self.features is not None:
            for index, attributes in self.attributes.items():
                self.features.describe(index, attributes, is_counted=False)

    # -- users --------------------------------------------------------------------------------

    def take_attributes(self, user_id: str) -> Attributes:
        """Return a user's attributes, and forget them."""
        return self.user_attributes.pop(user_id, {})

    def add_attributes(self, user_id: str, more: Attributes) -> None:
        """Give a user more attributes; their own come first, where they have one or no room."""
        if more:
            own = self.user_attributes.get(user_id, {})
            merged = own | {name: value for name, value in more.items() if name not in own}
            self.user_attributes[user_id] = dict(islice(merged.items(), MAX_ATTRIBUTES))

    def _forget_user(self, user_id: Hashable) -> None:
        self.user_attributes.pop(str(user_id), None)

    # -- views and state ----------------------------------------------------------------------

    def view(self, index: int) -> dict[str, Any]:
        """Return an item as the API shows it."""
        return {
            "item_id": self.history.items.ids[index],
            "categories": self.history.categories.of(index),
            "attributes": self.attributes.get(index, {}),
            "hidden": bool(self.hidden[index]),
            **{name: self.columns.time_ms(index, name) for name in TIMES},
            "updated_ms": self.updated_ms.get(index),
        }

    def state(self) -> State:
        """Return plain data from which `load_state` makes the same catalogue."""
        n = self.history.items.n_indices
        items = [
            [i, copy(self.attributes.get(i)), self.updated_ms.get(i)]
            for i in range(n)
            if i in self.attributes or i in self.updated_ms
        ]
        state: State = {
            "hidden": self.hidden[:n],
            "items": items,
            # Pairs: names that a client chose are never keys, which mean something to a snapshot.
            "users": [[user, dict(a)] for user, a in self.user_attributes.items()],
        }
        if self.is_typed:
            state |= {"columns": self.columns.state(), "first_seen": self.first_seen.state()}
        if self.features is not None:
            state["features"] = self.features.state()
        return state

    def load_state(self, state: State, semantics: int = TYPED_SINCE) -> None:
        """Become the catalogue that `state` was taken from, under a semantics version."""
        self._reset()
        self.hidden[:] = 0  # in place: whoever filters holds this array
        self.hidden[: len(state["hidden"])] = state["hidden"]
        for index, attributes, updated_ms in state["items"]:
            if attributes is not None:
                self.attributes[index] = dict(attributes)
            if updated_ms is not None:
                self.updated_ms[index] = updated_ms
        self.user_attributes = {str(user): dict(a) for user, a in state["users"]}
        self.is_typed = semantics >= TYPED_SINCE
        if "columns" in state:
            self.columns.load_state(state["columns"])
        else:
            self._find_types()
        row = self.columns.row("available_from")
        published = None if row == MISS else self.columns.values[row]
        self.first_seen.load_state(state.get("first_seen", {}), published)
        if self.features is not None:
            self.features.load_state(state["features"])
            self._describe_all()

    def canonical(self) -> list[Any]:
        """Return the content sorted by external id, for hashing."""
        views = [self.view(int(index)) for index in self.history.items.sorted_indices()]
        told = [_told(view) for view in views]
        plain = [view for view in told if view is not None]
        users = sorted(self.user_attributes.items())
        return [plain, users, *([self.columns.canonical()] if self.is_typed else [])]


def _is_same(old: object, new: object) -> bool:
    """Tell whether two attributes are equal, as they are shown: True is not 1."""
    return old == new and type(old) is type(new)


def _told(view: dict[str, Any]) -> dict[str, Any] | None:
    """Return what was said of an item, None for nothing."""
    times = {name: view.pop(name) for name in TIMES}
    limits = {name: time_ms for name, time_ms in times.items() if time_ms is not None}
    is_told = view["categories"] or view["attributes"] or view["hidden"] or limits
    return view | limits if is_told or view["updated_ms"] is not None else None
