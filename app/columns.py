"""Items' attributes as columns, typed on first sight, and which items meet a condition.

A column is a row of floats, NaN where an item has no value: numbers and booleans as they are,
times in Unix ms, strings as codes. What an item was sent with is kept by `catalogue`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import numpy as np

from app.conditions import CATEGORIES, TIMES, Clause, Condition, Value
from app.strings import Strings
from learners import kernels
from learners.candidates import ALWAYS, Program
from learners.history import History
from learners.ids import State
from learners.kernels import F64, I32, MISS, U8

MOST_COLUMNS, MOST_STRINGS = 64, 1_000_000
_MAX_SHOWN = 80
# To look an item up by its string or category takes as long as to compare so many in a row.
_FEW = 16
_NO_ITEMS = np.zeros(0, np.int32)
# Programs that are kept: those of all rules, and of the filters that are asked for again.
_MOST_PROGRAMS = 256

Kind = Literal["number", "string", "time"]
Plain = str | int | float | bool


# One of no values.
_NEVER: tuple[int, int, list[float]] = (kernels.ONE_OF, 0, [])


class _List(NamedTuple):
    """The items of a string or category: how many, and what reads them."""

    n_items: int
    find: Callable[..., I32]
    name: tuple[int, ...]

    def read(self) -> I32:
        """Return them."""
        return self.find(*self.name)


class Column:
    """Where a name's values are, their type, and how many items have one."""

    def __init__(self, row: int, kind: Kind, n_items: int = 0) -> None:
        self.row = row
        self.kind = kind
        self.n_items = n_items


class Columns:
    """Values by name and item. A name that no item has any more is forgotten, with its type."""

    def __init__(
        self, history: History, most: int = MOST_COLUMNS, most_strings: int = MOST_STRINGS
    ) -> None:
        self.history = history
        self.most = most
        self.most_strings = most_strings
        n_rows = most + len(TIMES)
        # [rows, items], reserved at capacity: a row is written when it is first taken.
        self.values: F64 = np.zeros((n_rows, history.max_items))
        self._strings = Strings(n_rows, history.max_items)
        self._programs: dict[Condition, Program] = {}
        self._made_for = (0, 0, 0)
        # How often a name was given a row or lost it.
        self._n_changed = 0
        self._reset()

    def _reset(self) -> None:
        self._named: dict[str, Column] = {}
        self._n_rows = 0
        self._free_rows: list[int] = []
        self._strings.reset()
        self._n_changed += 1

    def kinds(self) -> dict[str, Kind]:
        """Return the type of each column."""
        return {name: column.kind for name, column in self._named.items()}

    # -- writing ------------------------------------------------------------------------------

    def misfit(self, item_id: str, attributes: Mapping[str, Plain]) -> str | None:
        """Return why some attributes of an item do not fit, naming the first; None if all do."""
        n_columns, n_strings = self._n_columns(), len(self._strings)
        for name, value in attributes.items():
            column, kind = self._named.get(name), _kind_of(value)
            n_columns += column is None
            n_strings += isinstance(value, str) and not self._knows(column, value)
            why = None
            if name == CATEGORIES or name in TIMES:
                why = "has the name of a field that every item has"
            elif column is not None and column.kind != kind:
                why = f"is a {kind}, and {name} has been a {column.kind} from its first value on"
            elif n_columns > self.most:
                why = f"is an attribute past the {self.most} of SLUICE_MAX_COLUMNS"
            elif n_strings > self.most_strings:
                why = f"is a string past the {self.most_strings} of SLUICE_MAX_STRINGS"
            if why is not None:
                return f"item {item_id!r}: {name}={repr(value)[:_MAX_SHOWN]} {why}"
        return None

    def _knows(self, column: Column | None, text: str) -> bool:
        return column is not None and self._strings.code(column.row, text) > 0

    def clear(self) -> None:
        """Forget all columns."""
        self._reset()

    def put(self, item: int, name: str, value: Plain | None) -> None:
        """Give an item another attribute, or none. One that does not fit is none, too."""
        if name not in TIMES and name != CATEGORIES:
            self._put(item, name, value, None if value is None else _kind_of(value))

    def put_time(self, item: int, name: str, time_ms: int | None) -> None:
        """Give an item another time (see TIMES), or none."""
        self._put(item, name, time_ms, None if time_ms is None else "time")

    def _put(self, item: int, name: str, value: Plain | None, kind: Kind | None) -> None:
        column = self._named.get(name)
        if column is not None:
            self._take(item, column)
        elif kind is not None:
            column = self._begin(name, kind)
        if column is None:
            return
        if value is not None and column.kind == kind and self._has_room(column, value):
            number = self._strings.put(column.row, item, value) if isinstance(value, str) else value
            self.values[column.row, item] = number
            column.n_items += 1
        elif not column.n_items:
            self._end(name, column)

    def _n_columns(self) -> int:
        return len(self._named) - sum(name in self._named for name in TIMES)

    def _take(self, item: int, column: Column) -> None:
        value = float(self.values[column.row, item])
        if math.isnan(value):
            return
        if column.kind == "string":
            self._strings.take(column.row, item, int(value))
        self.values[column.row, item] = math.nan
        column.n_items -= 1

    def _has_room(self, column: Column, value: Plain) -> bool:
        is_more = isinstance(value, str) and not self._knows(column, value)
        return not is_more or len(self._strings) < self.most_strings

    def _begin(self, name: str, kind: Kind) -> Column | None:
        """Return a new column, if there is room for one."""
        if name not in TIMES and self._n_columns() >= self.most:
            return None
        if self._free_rows:
            row = self._free_rows.pop()  # which is empty
        else:
            row = self._n_rows
            self._n_rows += 1
            self.values[row] = math.nan
        self._named[name] = Column(row, kind)
        self._n_changed += 1
        return self._named[name]

    def _end(self, name: str, column: Column) -> None:
        del self._named[name]
        self._free_rows.append(column.row)
        self._n_changed += 1

    # -- reading ------------------------------------------------------------------------------

    def time_ms(self, item: int, name: str) -> int | None:
        """Return a time of an item in Unix ms (see TIMES), None where it has none."""
        column = self._named.get(name)
        value = math.nan if column is None else float(self.values[column.row, item])
        return None if math.isnan(value) else int(value)

    def matches(self, condition: Condition, items: I32) -> U8:
        """Return for each of some items 1 if it meets a condition, else 0."""
        program, met = self.program(condition), np.empty(len(items), np.uint8)
        labels = self.history.categories.labels
        kernels.meet(program.clauses, program.values, self.values, labels, items, met)
        return met

    def select(self, condition: Condition) -> I32:
        """Return all items that meet a condition, in the order of their indices."""
        program, ids = self.program(condition), self.history.items
        found: I32 = kernels.select_items(
            program.clauses,
            program.values,
            self.values,
            self.history.categories.labels,
            ids.key,
            ids.n_indices,
        )
        return found

    def among(self, condition: Condition) -> I32 | None:
        """Return items that have among them all that meet a condition, if these are few.

        None where no clause names few items: then all are to be looked at.
        """
        fewest = self.history.items.n_indices // _FEW
        lists: list[_List] | None = None
        for clause in condition:
            found = self._lists(clause)
            if found is not None and (n := sum(one.n_items for one in found)) <= fewest:
                fewest, lists = n, found
        if lists is None:
            return None
        items = [one.read() for one in lists]
        return items[0] if len(items) == 1 else np.unique(np.concatenate([_NO_ITEMS, *items]))

    def _lists(self, clause: Clause) -> list[_List] | None:
        """Return lists that have all items which meet a clause, None where there are none such."""
        if clause.kind in ("any", "all"):
            categories = self.history.categories
            labels = categories.wanted(map(str, clause.values)).tolist()
            if clause.kind == "all":
                labels = sorted(labels, key=categories.count)[:1]
            return [_List(categories.count(label), categories.items, (label,)) for label in labels]
        column = self._named.get(clause.name)
        if clause.kind in ("none", "not_in"):
            return None
        if column is None:
            return []
        if clause.kind == "range" or column.kind != "string":
            return None
        strings, codes = self._strings, map(int, self._codes_of(column, clause.values))
        return [_List(strings.count(code), strings.items, (column.row, code)) for code in codes]

    def eligible(self, condition: Condition, now_ms: int) -> Program:
        """Return what holds of the items that meet a condition and are available at a time."""
        program = self.program(condition) if condition else ALWAYS
        if self._named.keys().isdisjoint(TIMES):  # then no item says when it is available
            return program
        bounds = [
            (kind, self._named[name].row, float(now_ms), 0.0)
            for name, kind in zip(TIMES, (kernels.UNLESS_UNDER, kernels.UNLESS_FROM))
            if name in self._named
        ]
        return program._replace(clauses=np.concatenate([program.clauses, bounds]))

    @property
    def names(self) -> tuple[int, int, int]:
        """Return what is another as soon as a name has got a column, code or label, or lost it."""
        return self._n_changed, self._strings.n_changed, self.history.categories.n_renamed

    def row(self, name: str) -> int:
        """Return in which row of `values` an attribute is, MISS for one that no item has."""
        column = self._named.get(name)
        return MISS if column is None else column.row

    def program(self, condition: Condition) -> Program:
        """Return a condition as kernels test it. It holds until the catalogue changes."""
        now = self.names
        if now != self._made_for or len(self._programs) >= _MOST_PROGRAMS:
            self._programs.clear()
            self._made_for = now
        if condition not in self._programs:
            self._programs[condition] = self._compile(condition)
        return self._programs[condition]

    def _compile(self, condition: Condition) -> Program:
        clauses: list[tuple[float, float, float, float]] = []
        values: list[float] = []
        for clause in condition:
            find = self._labels_of if clause.name == CATEGORIES else self._numbers_of
            kind, row, named = find(clause)
            if kind == kernels.BETWEEN:
                clauses.append((kind, row, named[0], named[1]))
                continue
            clauses.append((kind, row, len(values), len(values) + len(named)))
            values += named
            if kind == kernels.ONE_OF and named:  # which is decided faster for most
                clauses.append((kernels.BETWEEN, row, named[0], named[-1]))
        return Program(np.array(sorted(clauses)).reshape(-1, 4), np.array(values, np.float64))

    def _labels_of(self, clause: Clause) -> tuple[int, int, list[float]]:
        """Return the kind of a clause on categories, and the labels that it names."""
        names = [str(value) for value in clause.values]
        labels = self.history.categories.wanted(names).tolist()
        if clause.kind == "all" and len(labels) < len(names):
            return _NEVER
        kinds = {"any": kernels.HAS_ANY, "all": kernels.HAS_ALL, "none": kernels.HAS_NONE}
        return kinds[clause.kind], 0, labels

    def _numbers_of(self, clause: Clause) -> tuple[int, int, list[float]]:
        """Return the kind of a clause on a column, its row, and the values or bounds it names."""
        column = self._named.get(clause.name)
        if column is None:
            return (kernels.NONE_OF, 0, []) if clause.kind == "not_in" else _NEVER
        if clause.kind == "range":
            is_text = column.kind == "string"
            return _NEVER if is_text else (kernels.BETWEEN, column.row, [clause.low, clause.high])
        numbers = sorted(set(self._codes_of(column, clause.values)))
        if clause.kind == "not_in":
            return kernels.NONE_OF, column.row, numbers
        if len(numbers) == 1:  # the most common, and fastest so
            return kernels.BETWEEN, column.row, numbers * 2
        return kernels.ONE_OF, column.row, numbers

    def _codes_of(self, column: Column, wanted: tuple[Value, ...]) -> list[float]:
        """Return those of some values that a column can have, as it has them."""
        if column.kind != "string":
            return [value for value in wanted if not isinstance(value, str)]
        codes = [self._strings.code(column.row, v) for v in wanted if isinstance(v, str)]
        return [float(code) for code in codes if code]

    # -- state --------------------------------------------------------------------------------

    def state(self) -> State:
        """Return plain data and arrays from which `load_state` makes the same columns."""
        n = self.history.items.n_indices
        return {
            # A list: names that a client chose are never keys, which mean something to a snapshot.
            "columns": [[name, c.row, c.kind, c.n_items] for name, c in self._named.items()],
            "n_rows": self._n_rows,
            "free_rows": self._free_rows,
            "values": {str(row): self.values[row, :n] for row in range(self._n_rows)},
            "strings": self._strings.state(),
        }

    def load_state(self, state: State) -> None:
        """Become the columns that `state` was taken from."""
        self._reset()
        self._n_rows = int(state["n_rows"])
        if self._n_rows > len(self.values):
            raise ValueError(f"{self._n_rows} columns do not fit {len(self.values)}")
        self._free_rows = [int(row) for row in state["free_rows"]]
        for row in range(self._n_rows):
            values = state["values"][str(row)]
            self.values[row] = math.nan
            self.values[row, : len(values)] = values
        for name, row, kind, n_items in state["columns"]:
            self._named[str(name)] = Column(int(row), kind, int(n_items))
        rows = [column.row for column in self._named.values() if column.kind == "string"]
        self._strings.load_state(state["strings"], self.values, rows)

    def canonical(self) -> list[list[str]]:
        """Return the types by name, sorted: what is not told by the items' attributes."""
        return sorted([name, column.kind] for name, column in self._named.items())


def _kind_of(value: Plain) -> Kind:
    return "string" if isinstance(value, str) else "number"
