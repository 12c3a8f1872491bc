"""A set of rules as requests need it: what it moves, and what may stand where in a slate.

Owns no state: it is made of the declared rules, and looks at catalogue and history as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from app import rule_kernels as kernels
from app.catalogue import Catalogue
from app.conditions import CATEGORIES, Condition
from app.joined import Joined, barring, both, chain, join, matches_each
from app.rules import (
    After,
    Boost,
    Bury,
    Cap,
    Hide,
    Pin,
    Quota,
    Rule,
    holds,
    item_condition,
    trigger,
    user_condition,
    window_ms,
)
from learners import kernels as shared
from learners.candidates import ALWAYS, Candidates, Program
from learners.history import History
from learners.kernels import I32, I64, MISS, U8

PREFIX = "rule:"
"""Begins a rule's name where it stands among sources or reasons."""

Mask = NDArray[np.bool_]

DAY_MS, HOUR_MS = 86_400_000, 3_600_000
# Sets of rules that act together are kept compiled: what users have makes some of them.
MOST_PLANS = 256
# Of what a quota may want, the newest are rated beside the candidates. Others are looked at only
# where these do not do, and have no score.
MOST_RATED = 32


class Arranged(NamedTuple):
    """A slate, as places among the items that it was made from.

    `by` names for each the rule that put the item there, None where its score did; `n_unmet` is how
    many quotas have less than they want.
    """

    places: I32
    by: list[str | None]
    n_unmet: int


class Rulebook:
    """The rules in force over one catalogue.

    `n_acted` counts by rule the slates in which it did something, `acted` is what it did in the
    last one: a process's own counts, no state.
    """

    def __init__(
        self, rules: Sequence[Rule], history: History, catalogue: Catalogue, types: Sequence[str]
    ) -> None:
        self.rules = list(rules)
        self.history = history
        self.catalogue = catalogue
        self.types = types
        self.conditions: list[Condition] = [item_condition(rule) for rule in self.rules]
        self.triggers: dict[int, Trigger] = {}
        for r, rule in enumerate(self.rules):
            after = trigger(rule)
            if after is not None:
                self.triggers[r] = Trigger(after, history, types)
        self.n_acted: I64 = np.zeros(len(self.rules), np.int64)
        self.acted: I64 = np.zeros(len(self.rules), np.int64)
        self._windows = [window_ms(rule) for rule in self.rules]
        self._users = {r: c for r, rule in enumerate(self.rules) if (c := user_condition(rule))}
        self._conditional = sorted(self._users.keys() | self.triggers.keys())
        self._in_time: tuple[int, int, list[int]] = (0, 0, [])
        self._plans: dict[tuple[int, ...], Plan] = {}

    def ruling(self, user_id: str | None, now_ms: int) -> Ruling | None:
        """Return what acts on a request of a user (None: of nobody) now, None if nothing does.

        `now_ms` is event time. The ruling holds until the next one is asked for.
        """
        self.acted[:] = 0
        first, last, in_time = self._in_time
        if not first <= now_ms < last:
            first, _, in_time = self._find_time(now_ms)
        key = (first, *self._met(user_id, now_ms)) if self._conditional else (first,)
        plan = self._plans.get(key)
        if plan is None:
            if len(self._plans) >= MOST_PLANS:
                self._plans.clear()
            unmet = {r for r, met in zip(self._conditional, key[1:]) if not met}
            plan = self._plans[key] = Plan(self, [r for r in in_time if r not in unmet])
        return Ruling(plan, now_ms) if plan.rules else None

    def _met(self, user_id: str | None, now_ms: int) -> list[bool]:
        """Return for each rule that depends on the user whether it acts on this one."""
        attributes = self.catalogue.user_attributes.get(user_id or "", {})
        user = MISS if user_id is None else self.history.users.get(user_id)
        return [
            (r not in self._users or holds(self._users[r], attributes))
            and (r not in self.triggers or self.triggers[r].note(user, now_ms))
            for r in self._conditional
        ]

    def count(self) -> None:
        """Count the last slate for each rule that did something."""
        self.n_acted += self.acted > 0

    def _find_time(self, now_ms: int) -> tuple[int, int, list[int]]:
        """Find which rules are in their time, and between which times that stays so."""
        edges = [edge for window in self._windows for edge in window]
        first = max((edge for edge in edges if edge <= now_ms), default=now_ms)
        last = min((edge for edge in edges if edge > now_ms), default=now_ms + 1)
        active = [r for r, (begin, end) in enumerate(self._windows) if begin <= now_ms < end]
        self._in_time = first, last, active
        return self._in_time


class Trigger:
    """The categories of what the user of a request had a type of event on, not long ago."""

    def __init__(self, after: After, history: History, types: Sequence[str]) -> None:
        self._after = after
        self._history = history
        self._types = types
        self._tick = 0
        self._marks: I64 = np.zeros(0, np.int64)

    def note(self, user: int, now_ms: int) -> bool:
        """Note those of a user now; tell whether they had any such event."""
        after, history = self._after, self._history
        if user == MISS or after.type not in self._types:
            return False
        if len(self._marks) < history.categories.n_labels:
            self._marks = np.zeros(2 * history.categories.n_labels, np.int64)
        self._tick += 1
        since_ms = now_ms - round(after.days * DAY_MS)
        type_index = self._types.index(after.type)
        items = history.had_since(user, since_ms, type_index)
        kernels.note_labels(items, history.categories.labels, self._marks, self._tick)
        return len(items) > 0

    def noted(self) -> I64:
        """Return the labels of these categories."""
        return np.flatnonzero(self._marks == self._tick)

    def keep(self, matching: U8, items: I32) -> None:
        """Let nothing be matched but items that share a category with what was noted."""
        labels = self._history.categories.labels
        kernels.keep_carriers(matching, items, labels, self._marks, self._tick)


class Matcher:
    """Which items each of some rules is about."""

    def __init__(self, book: Rulebook, rules: Sequence[int], *, with_triggers: bool = True) -> None:
        self._columns = book.catalogue.columns
        self._conditions = [book.conditions[r] for r in rules]
        triggers = book.triggers if with_triggers else {}
        self._triggers = [(row, triggers[r]) for row, r in enumerate(rules) if r in triggers]
        self._names = self._columns.names
        self._joined = join(self._columns, self._conditions)

    @property
    def joined(self) -> Joined:
        """Return the conditions as kernels test them, by the names of now."""
        if self._names != self._columns.names:
            self._names = self._columns.names
            self._joined = join(self._columns, self._conditions)
        return self._joined

    def matching(self, items: I32) -> U8:
        """Return for each rule 1 for each item that it is about, else 0: [rules, items]."""
        matching = matches_each(self._columns, self.joined, items)
        for row, trigger_ in self._triggers:
            trigger_.keep(matching[row], items)
        return matching


class Plan:
    """Rules that act together, sorted by what they do: all that is known before a request."""

    def __init__(self, book: Rulebook, active: Sequence[int]) -> None:
        self.book = book
        self.rules = rules = {r: book.rules[r] for r in active}
        shares = {r: share for r, rule in rules.items() if (share := _share(rule))}
        self.movers, self.shares = list(shares), np.array([*shares.values()], np.float64)
        self.bars = [r for r, rule in rules.items() if isinstance(rule, Hide) and not rule.after]
        caps = {r: cap for r, rule in rules.items() if (cap := _cap(rule))}
        self.caps, self.most = list(caps), np.array([most for most, _ in caps.values()], np.int64)
        self.per = [per for _, per in caps.values()]
        quotas = {r: rule for r, rule in rules.items() if isinstance(rule, Quota)}
        self.quotas = list(quotas)
        self.least = np.array([quota.least for quota in quotas.values()], np.int64)
        hours = [quota.younger_than_h for quota in quotas.values()]
        self.younger_ms = np.array([round(HOUR_MS * n) for n in hours], np.int64)
        # Of two on one place, the first declared is first.
        pins = {r: rule for r, rule in rules.items() if isinstance(rule, Pin)}
        self.pins = sorted(pins, key=lambda r: pins[r].position)
        self.pinned = [pins[r].item for r in self.pins]
        self.positions = np.array([pins[r].position for r in self.pins], np.int32)
        self.arranges = bool(self.pins or self.caps or self.quotas)
        # Where counts are written: to index by an array takes a tenth of the time.
        self.at_bars, self.at_movers, self.at_caps, self.at_placed = (
            np.array(rules, np.intp)
            for rules in (self.bars, self.movers, self.caps, [*self.pins, *self.quotas])
        )
        self._names: tuple[int, ...] = ()
        self._rows: I32 = np.zeros(0, np.int32)
        self.of_movers = Matcher(book, self.movers)
        self.of_bars = Matcher(book, self.bars)
        self.of_places = Matcher(book, [*self.caps, *self.quotas])
        self._counts: I32 = np.zeros((len(self.caps), 0), np.int32)
        # What was barred last, by what, and the result: most requests ask for the same.
        self._barred: tuple[Program | None, Joined | None, Program] = None, None, ALWAYS

    def counts(self) -> I32:
        """Return zeros for each cap and category, to count in; they must be zeros again."""
        n_labels = self.book.history.categories.n_labels
        if self._counts.shape[1] < n_labels:
            self._counts = np.zeros((len(self.caps), 2 * n_labels), np.int32)
        return self._counts

    def rows(self) -> I32:
        """Return by what each cap counts: a row of the columns, or what `kernels` names."""
        if self._names != self.book.catalogue.columns.names:
            self._names = self.book.catalogue.columns.names
            self._rows = np.array([self._row(per) for per in self.per], np.int32)
        return self._rows

    def _row(self, per: str | None) -> int:
        if per is None:
            return kernels.EVERYTHING
        if per == CATEGORIES:
            return kernels.CATEGORIES
        row = self.book.catalogue.columns.row(per)
        return kernels.NOTHING if row == MISS else row

    def barred(self, program: Program) -> Program:
        """Return what holds of the items that meet a program, and that no rule hides."""
        if not self.bars:
            return program
        joined = self.of_bars.joined
        before, of, result = self._barred
        if before is not program or of is not joined:
            result = both(program, barring(joined))
            self._barred = program, joined, result
        return result

    def full(self, shown: I32) -> dict[int, Program]:
        """Return by rule what would break its cap beside the items shown, as conditions."""
        columns, applies = self.book.catalogue.columns, self.of_places.matching(shown) > 0
        programs = {}
        for cap, (r, most, per) in enumerate(zip(self.caps, self.most.tolist(), self.per)):
            program, items = columns.program(self.book.conditions[r]), shown[applies[cap]]
            if r in self.book.triggers:
                noted = self.book.triggers[r].noted()
                programs[r] = _also(program, shared.HAS_ANY, 0, noted)
            elif per is None:
                if len(items) >= most:
                    programs[r] = program
            elif per == CATEGORIES:
                labels = self.book.history.categories.labels[items]
                full = _at_least(most, labels[labels > 0])
                if len(full):
                    programs[r] = _also(program, shared.HAS_ANY, 0, full)
            elif (row := columns.row(per)) != MISS:
                full = _at_least(most, columns.values[row, items])
                if len(full):
                    programs[r] = _also(program, shared.ONE_OF, row, full)
        return programs


class Ruling:
    """The rules that act on one request."""

    def __init__(self, plan: Plan, now_ms: int) -> None:
        self._plan = plan
        self._book = plan.book
        self._now_ms = now_ms
        get = plan.book.history.items.get
        self._pinned: I32 = np.array([get(item_id) for item_id in plan.pinned], np.int32)
        self._spread = 1.0
        self.arranges = plan.arranges
        self._book.acted[plan.at_bars] = 1

    # -- what may be shown --------------------------------------------------------------------

    def barred(self, program: Program) -> Program:
        """Return what holds of the items that meet a program and are not hidden by rules."""
        return self._plan.barred(program)

    def open_to(self, program: Program, shown: I32) -> Program:
        """Return what holds of the items that meet a program and fit beside the items shown."""
        return both(program, barring(chain([*self._plan.full(shown).values()])))

    def hiding(self, item: int) -> list[str]:
        """Return the rules that hide an item from everybody."""
        matching = self._plan.of_bars.matching(np.array([item], np.int32))[:, 0]
        return [self._book.rules[r].name for r, met in zip(self._plan.bars, matching) if met]

    def keeping_out(self, item: int, shown: I32) -> list[str]:
        """Return the rules that let no more of an item's kind stand beside the items shown."""
        full, book = self._plan.full(shown), self._book
        items = np.array([item], np.int32)
        met = matches_each(book.catalogue.columns, chain([*full.values()]), items)
        return [book.rules[r].name for r, is_met in zip(full, met[:, 0]) if is_met]

    # -- what is wanted -----------------------------------------------------------------------

    def wanted(self, k: int) -> I32:
        """Return what pins and quotas want to be rated, whether it may be shown or not."""
        plan, pinned = self._plan, self._pinned
        parts = [pinned[(pinned != MISS) & (plan.positions <= k)]]
        for q, least in enumerate(plan.least.tolist()):
            parts.append(self._young(q)[: min(MOST_RATED, 8 * least)])
        return np.concatenate(parts)

    def all_wanted(self) -> I32:
        """Return all that quotas want, whether it may be shown or not."""
        return np.concatenate([self._young(q) for q in range(len(self._plan.quotas))])

    def _young(self, q: int) -> I32:
        """Return the items that a quota is about, the newest first."""
        plan, book = self._plan, self._book
        items = book.catalogue.first_seen.newest(self._now_ms - int(plan.younger_ms[q]))
        if book.conditions[plan.quotas[q]]:
            items = items[plan.of_places.matching(items)[len(plan.caps) + q] > 0]
        return items

    def is_wanted(self, items: I32) -> Mask:
        """Return whether any quota wants each of some items."""
        plan, since_ms = self._plan, self._book.catalogue.first_seen.since_ms[items]
        is_young = since_ms >= (self._now_ms - plan.younger_ms)[:, np.newaxis]
        is_about = plan.of_places.matching(items)[len(plan.caps) :] > 0
        wanted: Mask = np.logical_or.reduce(is_about & is_young, axis=0)
        return wanted

    # -- scores -------------------------------------------------------------------------------

    def move(self, pool: Candidates) -> None:
        """Boost and bury what is pooled: change its totals."""
        plan = self._plan
        if plan.movers:
            matching = plan.of_movers.matching(pool.item[: pool.n])
            moved, self._spread = kernels.move(matching, plan.shares, pool.total)
            self._book.acted[plan.at_movers] = moved

    def moves(self, items: I32 | list[int]) -> list[dict[str, float]]:
        """Return for each of some items that were pooled which rules moved it, and how far."""
        plan, rules = self._plan, self._book.rules
        names = [f"{PREFIX}{rules[r].name}" for r in plan.movers]
        moves = list(zip(names, (plan.shares * self._spread).tolist()))
        matching = plan.of_movers.matching(np.asarray(items, np.int32)).T.tolist()
        return [dict(move for move, met in zip(moves, row) if met) for row in matching]

    # -- places -------------------------------------------------------------------------------

    def arrange(self, items: I32, k: int) -> Arranged:
        """Choose at most k of some items, given best first, and their order."""
        plan, book = self._plan, self._book
        if not plan.arranges:
            n = min(k, len(items))
            return Arranged(np.arange(n, dtype=np.int32), [None] * n, 0)
        columns = book.catalogue.columns
        turned = np.zeros(len(plan.caps), np.int64)
        places, by, n_unmet = kernels.arrange(
            items,
            k,
            plan.of_places.matching(items),
            self._pinned,
            plan.positions,
            plan.least,
            book.catalogue.first_seen.since_ms,
            self._now_ms - plan.younger_ms,
            plan.most,
            plan.rows(),
            columns.values,
            book.history.categories.labels,
            plan.counts(),
            turned,
        )
        book.acted[plan.at_placed] = 0
        book.acted[plan.at_caps] = turned
        named = [self._placed_by(number) if number else None for number in by.tolist()]
        return Arranged(places, named, n_unmet)

    def checked(self, items: I32, k: int) -> Arranged:
        """Do as `arrange`, and count nothing: what is asked for is only whether it would do."""
        acted = self._book.acted.copy()
        found = self.arrange(items, k)
        self._book.acted[:] = acted
        return found

    def _placed_by(self, number: int) -> str:
        """Return the rule that the kernel means, and note that it acted."""
        r = self._plan.pins[number - 1] if number > 0 else self._plan.quotas[-1 - number]
        self._book.acted[r] += 1
        return f"{PREFIX}{self._book.rules[r].name}"


def _share(rule: Rule) -> float:
    """Return by which share of the spread a rule moves scores."""
    if isinstance(rule, Boost):
        return rule.by
    return -rule.by if isinstance(rule, Bury) else 0.0


def _cap(rule: Rule) -> tuple[int, str | None] | None:
    """Return how many items a rule lets in, and of what each, if it keeps any out at their place.

    To hide something after an event is to let none in: which items, each request says.
    """
    if isinstance(rule, Cap):
        return rule.most, rule.per
    return (0, None) if isinstance(rule, Hide) and rule.after else None


def _at_least(most: int, values: Any) -> Any:
    """Return, in order, the values that come so often or more."""
    found, counts = np.unique(values[~np.isnan(values)], return_counts=True)
    return found[counts >= most]


def _also(program: Program, kind: int, row: int, named: Any) -> Program:
    """Return what meets a program and one clause more, on a column or on categories."""
    n = len(program.values)
    clause = np.array([[kind, row, n, n + len(named)]], np.float64)
    values = np.concatenate([program.values, np.asarray(named, np.float64)])
    return Program(np.concatenate([program.clauses, clause]), values)
