"""What an owner should know about a set of rules: those that match nothing, and those that fight.

It is looked up in the catalogue of now, and changes nothing of what a rule does.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import NamedTuple

import numpy as np

from app.conditions import CATEGORIES
from app.rulebook import HOUR_MS, Matcher, Rulebook
from app.rules import Boost, Bury, Cap, Hide, Pin, Quota, Rule, trigger, window_ms
from learners.kernels import I32, I64, MISS

MOST_WARNINGS, MOST_EXAMPLES = 100, 3
# Items that are looked at between two pauses: a millisecond's work.
_CHUNK = 4_096
_UNLIMITED = 10**9


class Finding(NamedTuple):
    """What is worth a warning: rules by name, and what is the matter with them."""

    rules: list[str]
    message: str


class Examined(NamedTuple):
    """Warnings, and how many items each rule is about, in the rules' order."""

    warnings: list[Finding]
    n_items: list[int]


def examine(book: Rulebook, now_ms: int) -> Iterator[Examined | None]:
    """Yield None now and then, so that others get their turn, and in the end what was found."""
    matcher = Matcher(book, range(len(book.rules)), with_triggers=False)
    kinds: dict[bytes, list[int]] = {}
    live = np.flatnonzero(book.history.items.key[: book.history.items.n_indices])
    for first in range(0, len(live), _CHUNK):
        items = live[first : first + _CHUNK].astype(np.int32)
        found = np.packbits(matcher.matching(items), axis=0)
        patterns, example, counts = np.unique(found, axis=1, return_index=True, return_counts=True)
        for pattern, item, count in zip(patterns.T, items[example], counts.tolist()):
            kind = kinds.setdefault(pattern.tobytes(), [0])
            kind[0] += count
            if len(kind) <= MOST_EXAMPLES:
                kind.append(int(item))
        yield None
    yield _Examination(book, list(kinds.values()), now_ms).examined()


class _Examination:
    """Rules, and the items of a catalogue sorted by which of them they are about.

    Of each kind there are `sizes` items, of which `examples` has a few; `is_about` is [rules,
    kinds].
    """

    def __init__(self, book: Rulebook, kinds: list[list[int]], now_ms: int) -> None:
        self.book = book
        self.now_ms = now_ms
        self.sizes: I64 = np.array([kind[0] for kind in kinds], np.int64)
        self.examples = [kind[1:] for kind in kinds]
        first: I32 = np.array([kind[1] for kind in kinds], np.int32)
        matcher = Matcher(book, range(len(book.rules)), with_triggers=False)
        self.is_about = matcher.matching(first) > 0
        hides = [isinstance(rule, Hide) and _is_always(rule) for rule in book.rules]
        self.is_hidden = self.is_about[hides].any(axis=0)

    def examined(self) -> Examined:
        """Return what was found; of very many warnings, the first."""
        warnings = [*self._alone(), *self._pins(), *self._fights(), *self._unmet()]
        n_items = self.is_about @ self.sizes
        for r, rule in enumerate(self.book.rules):
            if isinstance(rule, Pin):
                n_items[r] = rule.item in self.book.history.items
        return Examined(warnings[:MOST_WARNINGS], n_items.tolist())

    # -- one rule -----------------------------------------------------------------------------

    def _alone(self) -> Iterator[Finding]:
        for r, rule in enumerate(self.book.rules):
            why = self._idle(r, rule)
            if why is not None:
                yield Finding([rule.name], f"{rule.name} ({rule.kind}) {why}")

    def _idle(self, r: int, rule: Rule) -> str | None:
        """Return why a rule does nothing now, if it is so."""
        if window_ms(rule)[1] <= self.now_ms:
            return f"does nothing any more: its time ended at {rule.until}"
        if isinstance(rule, Pin):
            is_known = rule.item in self.book.history.items
            return None if is_known else f"pins {rule.item!r}, and there is no such item"
        if not self.is_about[r].any():
            return "matches no item"
        if not isinstance(rule, Hide) and not (self.is_about[r] & ~self.is_hidden).any():
            return "matches items that are all hidden by other rules"
        return self._waits(rule)

    def _waits(self, rule: Rule) -> str | None:
        """Return what is still to come that a rule waits for."""
        book, after = self.book, trigger(rule)
        if after is not None and after.type not in book.types:
            return f"waits for events of type {after.type!r}, which is none of SLUICE_REWARDS"
        per = rule.per if isinstance(rule, Cap) else None
        if per is not None and per != CATEGORIES and book.catalogue.columns.row(per) == MISS:
            return f"counts by {per!r}, an attribute that no item has"
        if isinstance(rule, Quota):
            since_ms = self.now_ms - round(rule.younger_than_h * HOUR_MS)
            if not len(book.catalogue.first_seen.newest(since_ms)):
                return f"finds no item younger than {rule.younger_than_h:g} h just now"
        return None

    # -- two rules ----------------------------------------------------------------------------

    def _pins(self) -> Iterator[Finding]:
        rules = self.book.rules
        pins = [rule for rule in rules if isinstance(rule, Pin)]
        for one, other in combinations(pins, 2):
            if _can_meet(one, other):
                if one.position == other.position:
                    what = f"pin two items to place {one.position}: {one.name} has it"
                elif one.item == other.item:
                    what = f"pin {one.item!r} to two places: the first is taken"
                else:
                    continue
                yield Finding([one.name, other.name], f"{one.name} and {other.name} {what}")
        for pin in pins:
            item = self.book.history.items.get(pin.item)
            if item != MISS:
                yield from self._hidden(pin, item)

    def _hidden(self, pin: Pin, item: int) -> Iterator[Finding]:
        book = self.book
        if book.catalogue.hidden[item]:
            message = f"{pin.name} pins {pin.item!r}, which is hidden in the catalogue"
            yield Finding([pin.name], message)
        matcher = Matcher(book, range(len(book.rules)), with_triggers=False)
        matches = matcher.matching(np.array([item], np.int32))[:, 0]
        for rule, is_met in zip(book.rules, matches):
            if is_met and isinstance(rule, Hide) and rule.after is None and _can_meet(pin, rule):
                message = f"{pin.name} pins {pin.item!r}, which {rule.name} hides"
                yield Finding([pin.name, rule.name], message)

    def _fights(self) -> Iterator[Finding]:
        """Find items that are boosted and buried."""
        rules = self.book.rules
        for r, rule in enumerate(rules):
            for s, other in enumerate(rules):
                if isinstance(rule, Boost) and isinstance(other, Bury) and _can_meet(rule, other):
                    both = self.is_about[r] & self.is_about[s] & ~self.is_hidden
                    if both.any():
                        shown = f"{self.sizes[both].sum():,} items, such as {self._named(both)}"
                        message = f"{rule.name} boosts and {other.name} buries {shown}"
                        yield Finding([rule.name, other.name], message)

    def _named(self, kinds: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> str:
        ids = self.book.history.items.ids
        items = [item for kind in np.flatnonzero(kinds) for item in self.examples[kind]]
        return ", ".join(repr(str(ids[item])[:64]) for item in items[:MOST_EXAMPLES])

    def _unmet(self) -> Iterator[Finding]:
        """Find quotas that a cap does not let be met, by any items that there are."""
        rules = self.book.rules
        for r, quota in enumerate(rules):
            for s, cap in enumerate(rules):
                if isinstance(quota, Quota) and isinstance(cap, Cap) and _can_meet(quota, cap):
                    most = self._most(r, s, cap, quota.least)
                    if most < quota.least:
                        wants = f"{quota.name} wants {quota.least} items"
                        message = f"{wants}, of which {cap.name} lets in {most}"
                        yield Finding([quota.name, cap.name], message)

    def _most(self, r: int, s: int, cap: Cap, wanted: int) -> int:
        """Return how many of a quota's items a cap lets in at most, or `wanted` if that is more."""
        about = self.is_about[r] & ~self.is_hidden
        if not about.any() or (about & ~self.is_about[s]).any():
            return wanted
        if cap.per is None:
            return cap.most
        book = self.book
        items = book.catalogue.columns.select(book.conditions[r])
        most = wanted
        for some in (items[:_CHUNK], items):  # a few will nearly always do
            most = cap.most * self._n_groups(some, cap.per)
            if most >= wanted:
                return wanted
        return most

    def _n_groups(self, items: I32, per: str) -> int:
        """Return how many categories or values some items have; very many, if some have none."""
        if per == CATEGORIES:
            labels = self.book.history.categories.labels[items]
            return _UNLIMITED if (labels[:, 0] == 0).any() else len(np.unique(labels[labels > 0]))
        columns = self.book.catalogue.columns
        if columns.row(per) == MISS:
            return _UNLIMITED
        numbers = columns.values[columns.row(per), items]
        return _UNLIMITED if np.isnan(numbers).any() else len(np.unique(numbers))


def _is_always(rule: Rule) -> bool:
    """Tell whether a rule acts for everybody and at any time."""
    return (
        rule.users is None and trigger(rule) is None and rule.from_ is None and rule.until is None
    )


def _can_meet(one: Rule, other: Rule) -> bool:
    """Tell whether two rules act on the same requests, as far as one can tell."""
    if trigger(one) is not None or trigger(other) is not None:
        return False
    if one.users is not None and other.users is not None and one.users != other.users:
        return False
    (begin, end), (first, last) = window_ms(one), window_ms(other)
    return begin < last and first < end
