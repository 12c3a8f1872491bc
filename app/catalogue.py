"""Items' and users' attributes, by index: what a slate may contain, not how it is ranked."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from copy import copy
from typing import Any

import numpy as np

from app.events import ItemUpsert
from learners.history import History
from learners.ids import State
from learners.kernels import I32

MAX_CATEGORIES = 16
"""Categories an item may have, the first ones given: one row of the label array."""

MAX_ATTRIBUTES = 64
"""Attributes an item may have."""

Attributes = dict[str, str | int | float | bool | None]


class Catalogue:
    """Categories, attributes and the hidden flag of items; attributes of users.

    Categories are small integers (labels) in one array, so that a filter is a compiled loop.
    """

    def __init__(self, history: History) -> None:
        self.history = history
        n = history.max_items
        self.hidden = np.zeros(n, np.uint8)
        self.labels = np.zeros((n, MAX_CATEGORIES), np.int32)
        self._reset()
        history.on_item_evicted.append(self._clear)
        history.on_user_forgotten.append(self._forget_user)

    def _reset(self) -> None:
        self.attributes: dict[int, Attributes] = {}
        self.updated_ms: dict[int, int] = {}
        self.user_attributes: dict[str, Attributes] = {}
        self._label_of: dict[str, int] = {}
        self._name_of: dict[int, str] = {}
        # Ordered sets: the items of each label, in the order that they came.
        self._members: dict[int, dict[int, None]] = {}

    # -- items --------------------------------------------------------------------------------

    def upsert(self, index: int, change: ItemUpsert) -> str | None:
        """Apply a change to an item; fields that are None stay, unless it replaces the item.

        Return why not, where it would have too many attributes; nothing is changed then.
        """
        merged = {} if change.replace else self.attributes.get(index, {})
        merged = {n: v for n, v in (merged | (change.attributes or {})).items() if v is not None}
        if len(merged) > MAX_ATTRIBUTES:
            return (
                f"item {change.item_id!r} would have {len(merged)} attributes of {MAX_ATTRIBUTES}"
            )
        if change.replace:
            self._clear(index)
        if change.categories is not None:
            self._set_categories(index, change.categories)
        if change.attributes is not None:
            self.attributes[index] = merged
        if change.hidden is not None:
            self.hidden[index] = change.hidden
        if change.time_ms is not None:
            self.updated_ms[index] = change.time_ms
        return None

    def _clear(self, index: int, handle: int = 0) -> None:
        self._set_categories(index, [])
        self.hidden[index] = 0
        self.attributes.pop(index, None)
        self.updated_ms.pop(index, None)

    def _forget_user(self, user_id: Hashable) -> None:
        self.user_attributes.pop(str(user_id), None)

    def _set_categories(self, index: int, names: list[str]) -> None:
        for label in self.labels[index][self.labels[index] > 0]:
            members = self._members[int(label)]
            members.pop(index, None)
            if not members:
                del self._members[int(label)]
                del self._label_of[self._name_of.pop(int(label))]
        self.labels[index] = 0
        for place, name in enumerate(list(dict.fromkeys(names))[:MAX_CATEGORIES]):
            label = self._label_of.get(name)
            if label is None:
                label = self._label_of[name] = next(reversed(self._name_of), 0) + 1
                self._name_of[label] = name
                self._members[label] = {}
            self._members[label][index] = None
            self.labels[index, place] = label

    def categories(self, index: int) -> list[str]:
        """Return the names of an item's categories."""
        return [self._name_of[int(label)] for label in self.labels[index] if label > 0]

    def wanted(self, names: list[str]) -> I32:
        """Return the labels of some categories; those that no item has are left out."""
        known = [self._label_of[name] for name in names if name in self._label_of]
        return np.array(known, np.int32)

    def members(self, labels: I32) -> Iterator[int]:
        """Yield the items that carry any of the labels, label by label, the last labelled first."""
        found: set[int] = set()
        for label in labels:
            for index in reversed(self._members[int(label)]):
                if index not in found:
                    found.add(index)
                    yield index

    def view(self, index: int) -> dict[str, Any]:
        """Return an item as the API shows it."""
        return {
            "item_id": self.history.items.ids[index],
            "categories": self.categories(index),
            "attributes": self.attributes.get(index, {}),
            "hidden": bool(self.hidden[index]),
            "updated_ms": self.updated_ms.get(index),
        }

    # -- state --------------------------------------------------------------------------------

    def state(self) -> State:
        """Return plain data from which `load_state` makes the same catalogue."""
        n = self.history.items.n_indices
        items = [
            [i, self.categories(i), copy(self.attributes.get(i)), self.updated_ms.get(i)]
            for i in range(n)
            if self.labels[i, 0] or i in self.attributes or i in self.updated_ms
        ]
        order = [[self._name_of[label], list(m)] for label, m in self._members.items()]
        return {
            "hidden": self.hidden[:n].copy(),
            "items": items,
            "members": order,
            # Pairs: names that a client chose are never keys, which mean something to a snapshot.
            "users": [[user, dict(a)] for user, a in self.user_attributes.items()],
        }

    def load_state(self, state: State) -> None:
        """Become the catalogue that `state` was taken from."""
        self._reset()
        self.hidden[:], self.labels[:] = 0, 0  # in place: whoever filters holds these arrays
        self.hidden[: len(state["hidden"])] = state["hidden"]
        for label, (name, _) in enumerate(state["members"], start=1):
            self._label_of[name], self._name_of[label], self._members[label] = label, name, {}
        for index, names, attributes, updated_ms in state["items"]:
            self._set_categories(index, names)
            if attributes is not None:
                self.attributes[index] = dict(attributes)
            if updated_ms is not None:
                self.updated_ms[index] = updated_ms
        for name, members in state["members"]:
            self._members[self._label_of[name]] = dict.fromkeys(members)
        self.user_attributes = {str(user): dict(a) for user, a in state["users"]}

    def canonical(self) -> list[Any]:
        """Return the content sorted by external id, for hashing."""
        views = [self.view(int(index)) for index in self.history.items.sorted_indices()]
        plain = [view for view in views if len(view["categories"]) or _is_told(view)]
        return [plain, sorted(self.user_attributes.items())]


def _is_told(view: dict[str, Any]) -> bool:
    return bool(view["attributes"]) or view["hidden"] or view["updated_ms"] is not None
