"""The categories of items: what a slate may be held to, and what a history shares with an item."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from learners.ids import State
from learners.kernels import I32

MAX_CATEGORIES = 16
"""Categories an item may have, the first ones given: one row of the label array."""

MAX_LISTED = 10_000
"""Categories that are learned from, those that came first; more can still be asked for."""


class Categories:
    """Names of categories as small integers (labels, from 1 on), and who carries which.

    A label that no item carries any more is given to the next new name. `on_changed` is told the
    index of an item, the labels that it lost, and those that it got.
    """

    def __init__(self, n_items: int) -> None:
        # [items, MAX_CATEGORIES] an item's labels, 0 after the last one.
        self.labels: I32 = np.zeros((n_items, MAX_CATEGORIES), np.int32)
        self.on_changed: list[Callable[[int, list[int], list[int]], None]] = []
        # How often a label was given a name or lost one: what was looked up before may be wrong.
        self.n_renamed = 0
        self._reset()

    def _reset(self) -> None:
        self.n_renamed += 1
        self.names: list[str | None] = [None]
        self._free: list[int] = []
        self._label_of: dict[str, int] = {}
        # Ordered sets: the items of each label, in the order that they came.
        self._members: dict[int, dict[int, None]] = {}

    @property
    def n_labels(self) -> int:
        """Return the number of labels ever in use (with 0)."""
        return len(self.names)

    def put(self, index: int, names: Iterable[str]) -> None:
        """Give an item these categories and no others, in this order, each once."""
        before = self._of(index)
        after = [self._label(name) for name in list(dict.fromkeys(names))[:MAX_CATEGORIES]]
        for label in before:
            self._members[label].pop(index, None)
        for label in after:
            self._members[label][index] = None
        self.labels[index] = 0
        self.labels[index, : len(after)] = after
        lost = [label for label in before if label not in after]
        for listen in self.on_changed:
            listen(index, lost, [label for label in after if label not in before])
        for label in lost:
            if not self._members[label]:
                self._drop(label)

    def _label(self, name: str) -> int:
        label = self._label_of.get(name)
        if label is None:
            if self._free:
                label = self._free.pop()
                self.names[label] = name
            else:
                label = len(self.names)
                self.names.append(name)
            self._label_of[name] = label
            self._members[label] = {}
            self.n_renamed += 1
        return label

    def _drop(self, label: int) -> None:
        del self._members[label], self._label_of[str(self.names[label])]
        self.names[label] = None
        self._free.append(label)
        self.n_renamed += 1

    def _of(self, index: int) -> list[int]:
        labels = self.labels[index]
        return [int(label) for label in labels[labels > 0]]

    def of(self, index: int) -> list[str]:
        """Return the names of an item's categories."""
        return [str(self.names[label]) for label in self._of(index)]

    def wanted(self, names: Iterable[str]) -> I32:
        """Return the labels of some categories; those that no item has are left out."""
        known = [self._label_of[name] for name in names if name in self._label_of]
        return np.array(known, np.int32)

    def sorted_labels(self) -> I32:
        """Return the labels in use in the order of their names: what is hashed."""
        return np.array([self._label_of[name] for name in sorted(self._label_of)], np.int32)

    def members(self, labels: I32) -> Iterator[int]:
        """Yield the items that carry any of the labels, label by label, the last labelled first."""
        found: set[int] = set()
        for label in labels:
            for index in reversed(self._members[int(label)]):
                if index not in found:
                    found.add(index)
                    yield index

    def count(self, label: int) -> int:
        """Return how many items carry a label."""
        return len(self._members[label])

    def items(self, label: int) -> I32:
        """Return the items that carry a label, in the order that they were labelled."""
        members = self._members[label]
        return np.fromiter(members, np.int32, len(members))

    def state(self, n_items: int) -> State:
        """Return plain data from which `load_state` makes the same, for so many items."""
        return {
            "labels": self.labels[:n_items],
            "names": self.names,
            "free": self._free,
            "members": [list(self._members.get(label, ())) for label in range(self.n_labels)],
        }

    def load_state(self, state: State) -> None:
        """Become what `state` was taken from."""
        self._reset()
        self.labels[:] = 0  # in place: whoever filters holds this array
        self.labels[: len(state["labels"])] = state["labels"]
        self.names = list(state["names"])
        self._free = [int(label) for label in state["free"]]
        for label, (name, members) in enumerate(zip(self.names, state["members"], strict=True)):
            if name is not None:
                self._label_of[name] = label
                self._members[label] = dict.fromkeys(int(index) for index in members)
