"""Items' and users' attributes, by index: what a slate may contain, and how an item is shown."""

from __future__ import annotations

from collections.abc import Hashable
from copy import copy
from typing import Any

import numpy as np

from app.events import ItemUpsert
from learners.history import History
from learners.ids import State

MAX_ATTRIBUTES = 64
"""Attributes an item may have."""

Attributes = dict[str, str | int | float | bool | None]


class Catalogue:
    """Attributes and the hidden flag of items, attributes of users; items' categories are with the
    history, as learners know them too.
    """

    def __init__(self, history: History) -> None:
        self.history = history
        self.hidden = np.zeros(history.max_items, np.uint8)
        self._reset()
        history.on_item_evicted.append(self._clear)
        history.on_user_forgotten.append(self._forget_user)

    def _reset(self) -> None:
        self.attributes: dict[int, Attributes] = {}
        self.updated_ms: dict[int, int] = {}
        self.user_attributes: dict[str, Attributes] = {}

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
            self.history.categories.put(index, change.categories or [])
        elif change.categories is not None:
            self.history.categories.put(index, change.categories)
        if change.attributes is not None:
            self.attributes[index] = merged
        if change.hidden is not None:
            self.hidden[index] = change.hidden
        if change.time_ms is not None:
            self.updated_ms[index] = change.time_ms
        return None

    def _clear(self, index: int, handle: int = 0) -> None:
        self.hidden[index] = 0
        self.attributes.pop(index, None)
        self.updated_ms.pop(index, None)

    def _forget_user(self, user_id: Hashable) -> None:
        self.user_attributes.pop(str(user_id), None)

    def view(self, index: int) -> dict[str, Any]:
        """Return an item as the API shows it."""
        return {
            "item_id": self.history.items.ids[index],
            "categories": self.history.categories.of(index),
            "attributes": self.attributes.get(index, {}),
            "hidden": bool(self.hidden[index]),
            "updated_ms": self.updated_ms.get(index),
        }

    # -- state --------------------------------------------------------------------------------

    def state(self) -> State:
        """Return plain data from which `load_state` makes the same catalogue."""
        n = self.history.items.n_indices
        items = [
            [i, copy(self.attributes.get(i)), self.updated_ms.get(i)]
            for i in range(n)
            if i in self.attributes or i in self.updated_ms
        ]
        return {
            "hidden": self.hidden[:n],
            "items": items,
            # Pairs: names that a client chose are never keys, which mean something to a snapshot.
            "users": [[user, dict(a)] for user, a in self.user_attributes.items()],
        }

    def load_state(self, state: State) -> None:
        """Become the catalogue that `state` was taken from."""
        self._reset()
        self.hidden[:] = 0  # in place: whoever filters holds this array
        self.hidden[: len(state["hidden"])] = state["hidden"]
        for index, attributes, updated_ms in state["items"]:
            if attributes is not None:
                self.attributes[index] = dict(attributes)
            if updated_ms is not None:
                self.updated_ms[index] = updated_ms
        self.user_attributes = {str(user): dict(a) for user, a in state["users"]}

    def canonical(self) -> list[Any]:
        """Return the content sorted by external id, for hashing."""
        views = [self.view(int(index)) for index in self.history.items.sorted_indices()]
        plain = [view for view in views if len(view["categories"]) or _is_told(view)]
        return [plain, sorted(self.user_attributes.items())]


def _is_told(view: dict[str, Any]) -> bool:
    return bool(view["attributes"]) or view["hidden"] or view["updated_ms"] is not None
