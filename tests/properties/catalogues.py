"""Items and conditions on them, made by Hypothesis, and what a condition means, said naively."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from app.conditions import Clause, Condition

CATEGORIES = ("shoes", "hats", "red", "new")
NAMES = ("price", "stock", "brand", "colour")
NUMBERS, STRINGS = (0.0, 1.0, 2.5, 10.0, -3.0), ("acme", "zeta", "10", "")

Item = dict[str, Any]
"""An item's categories by the name `categories`, its attributes by theirs."""


def values_of(name: str) -> st.SearchStrategy[Any]:
    """Draw a value that fits an attribute; of some, also one that is written as another type."""
    numbers = st.sampled_from(NUMBERS) | st.booleans() | st.integers(-2, 12)
    return numbers if name in ("price", "stock") else st.sampled_from(STRINGS)


items = st.fixed_dictionaries(
    {"categories": st.lists(st.sampled_from(CATEGORIES), unique=True)},
    optional={name: values_of(name) for name in NAMES},
)

_names = st.lists(st.sampled_from((*CATEGORIES, "unknown")), min_size=1, max_size=3)
_any_value = st.sampled_from((*NUMBERS, *STRINGS, True, "unknown"))
_values = st.lists(_any_value, min_size=1, max_size=3)
_range = st.tuples(st.sampled_from(NUMBERS), st.sampled_from(NUMBERS)).map(sorted)
_wanted = st.one_of(
    _any_value,
    _values,
    _values.map(lambda values: {"not": values}),
    _range.map(lambda pair: {"min": pair[0], "max": pair[1]}),
    st.sampled_from(NUMBERS).map(lambda low: {"min": low}),
)
clauses = st.one_of(
    st.tuples(st.just("categories"), st.sampled_from(["any", "all", "none"]), _names).map(
        lambda drawn: {"categories": {drawn[1]: drawn[2]}}
    ),
    st.tuples(st.sampled_from((*NAMES, "size")), _wanted).map(lambda drawn: {drawn[0]: drawn[1]}),
)
"""A condition of one clause, as JSON."""


def meets(item: Item, condition: Condition) -> bool:
    """Say by the words of the grammar whether an item meets a condition."""
    return all(_holds(item, clause) for clause in condition)


def _holds(item: Item, clause: Clause) -> bool:
    if clause.name == "categories":
        common = [name for name in clause.values if name in item["categories"]]
        if clause.kind == "all":
            return len(common) == len(clause.values)
        return bool(common) == (clause.kind == "any")
    value = item.get(clause.name)
    if clause.kind == "range":
        return (
            value is not None
            and not isinstance(value, str)
            and (clause.low <= value <= clause.high)
        )
    is_one = value is not None and any(_is_same(value, wanted) for wanted in clause.values)
    return is_one == (clause.kind == "in")


def _is_same(value: object, wanted: object) -> bool:
    return isinstance(value, str) == isinstance(wanted, str) and value == wanted
