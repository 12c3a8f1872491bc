"""What goes with what, by what items are: co-visitation of labels, for items not touched yet."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from learners import kernels
from learners.base import N_VERSIONS, SHADOW
from learners.covisit import Covisit
from learners.history import History, Profile
from learners.ids import State
from learners.kernels import I32, MISS, Accumulator

LABELS_PER_ITEM = 8
"""Labels that count of an item, the first ones given."""

MAX_LABELS = 5_000
"""Labels that are learned about, those that came first; one that no item has any more leaves."""

N_NEIGHBOURS, SHRINK = 32, 20.0
# Labels of a history that count.
_LOOK_BACK = 20


class Labels:
    """Says which labels (of categories, of attributes) go with those of a user's last items.

    `Covisit` over labels in the place of items, except that a label goes with itself, too, as far
    as events say so. It has the versions of all that is shared; which item has which labels is what
    the items are, and live.
    """

    def __init__(self, n_items: int) -> None:
        # [items, LABELS_PER_ITEM] an item's labels, from 1 on, 0 after the last one.
        self.of_item: I32 = np.zeros((n_items, LABELS_PER_ITEM), np.int32)
        self._reset()

    def _reset(self) -> None:
        # Four versions with rows of their own for every label fit: twice as many may have two.
        self._labels = History(
            max_items=2 * MAX_LABELS, max_users=1, scored_history=_LOOK_BACK, had_length=1
        )
        self._covisit = Covisit(N_NEIGHBOURS, SHRINK, history=self._labels)
        self._n_items = np.zeros(2 * MAX_LABELS, np.int64)  # that have the label
        self._tick = 0
        self._profile = Profile(_LOOK_BACK)
        self._kindred: Any = None

    # -- what items have ----------------------------------------------------------------------

    def put(self, item: int, names: Iterable[str]) -> None:
        """Give an item these labels and no others: the first few, each once, if there is room."""
        before = self._of(item)
        first = list(dict.fromkeys(names))[:LABELS_PER_ITEM]
        after = [label for label in map(self._label, first) if label != MISS]
        for label in after:
            self._n_items[label] += 1
        self.of_item[item] = 0
        self.of_item[item, : len(after)] = np.array(after, np.int32) + 1
        for label in before:
            self._n_items[label] -= 1
            if not self._n_items[label]:
                self._labels.evict_item(self._labels.items.ids[label])

    def _of(self, item: int) -> list[int]:
        return [number - 1 for number in self.of_item[item].tolist() if number]

    def _label(self, name: str) -> int:
        """Return the index of a label, a new one if need be, MISS if there is no room."""
        items = self._labels.items
        if name not in items and len(items) >= MAX_LABELS:
            return MISS
        self._tick += 1
        return items.touch(name, self._tick)

    def of(self, item: int) -> list[str]:
        """Return the names of an item's labels."""
        return [str(self._labels.items.ids[label]) for label in self._of(item)]

    # -- learning and asking ------------------------------------------------------------------

    def learn(self, profile: Profile, item: int, reward: float) -> None:
        """Teach the shadow that an item came after a history."""
        if reward <= 0 or not self.of_item[item, 0]:
            return
        kernels.learn_labels(
            self.kindred, SHADOW, profile.items, profile.weights, profile.n, item, reward
        )

    @property
    def kindred(self) -> Any:
        """Return which labels items have and what goes with each, as kernels take it."""
        if self._kindred is None:
            covisit, own = self._covisit, self._profile
            self._kindred = kernels.new_kindred(
                self.of_item,
                covisit.rows.pool,
                covisit.neighbours,
                covisit.rows.versions.slots,
                self._labels.items.generation,
                covisit.sums,
                own.items,
                own.weights,
                self._labels.items.key,
                covisit.sketch,
                covisit.sketch_place,
                SHRINK,
            )
        return self._kindred

    @property
    def is_any(self) -> bool:
        """Tell whether any item has a label."""
        return len(self._labels.items) > 0

    @property
    def all_live(self) -> bool:
        """Tell whether no label was ever given up."""
        return self._labels.items.n_removed == 0

    def sums_for(self, profile: Profile, version: int) -> Accumulator:
        """Return what each label that goes with a history's is worth; good until the next call."""
        kernels.sum_labels(
            self.kindred, version, self.all_live, profile.items, profile.weights, profile.n
        )
        return self._covisit.sums

    # -- versions and state -------------------------------------------------------------------

    def assign(self, target: int, source: int) -> None:
        """Make version `target` equal to `source`."""
        self._covisit.assign(target, source)
        if target == SHADOW:  # which has another sketch now
            self._kindred = None

    def state(self, n_items: int) -> State:
        """Return what `load_state` continues from."""
        return {
            "of_item": self.of_item[:n_items],
            "names": self._labels.items.state(),
            "tick": self._tick,
            "covisit": self._covisit.state(),
        }

    def load_state(self, state: State) -> None:
        """Become what `state` was taken from."""
        self._reset()
        self.of_item[:] = 0
        self.of_item[: len(state["of_item"])] = state["of_item"]
        self._labels.items.load_state(state["names"])
        self._tick = int(state["tick"])
        counts = np.bincount(self.of_item[self.of_item > 0] - 1, minlength=2 * MAX_LABELS)
        self._n_items[:] = counts
        self._covisit.load_state(state["covisit"])
        self._kindred = None  # what is loaded is in other arrays

    def restore(self, state: State | None) -> None:
        """Take over what was learned then, under the labels of now; None: nothing was."""
        self._kindred = None
        if state is None:
            self._covisit.load_state(Covisit(N_NEIGHBOURS, SHRINK, history=self._labels).state())
            return
        names, get = state["names"], self._labels.items.get
        remap = [MISS if name is None else get(name) for name in names["ids"]]
        generation = {"generation": np.asarray(names["generation"])}
        self._covisit.load_state(state["covisit"] | generation, np.array(remap, np.int64))

    def update_hash(self, order: I32, sha: Any) -> None:
        """Feed the content to a hashlib object: items in `order`, labels by their names."""
        labels = self._labels.items
        by_name = labels.sorted_indices()
        place = np.full(labels.n_indices + 1, MISS, np.int64)
        place[by_name] = np.arange(len(by_name))
        for label in by_name:
            name = str(labels.ids[label]).encode()
            sha.update(len(name).to_bytes(4, "little") + name)
        # Number 0, of no label, finds MISS: the last place.
        sha.update(place[self.of_item[order] - 1].tobytes())
        for version in range(N_VERSIONS):
            self._covisit.update_hash(version, by_name, place, sha)
        self._covisit.hash_learning(place, sha)
