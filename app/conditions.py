"""Conditions on items: one grammar for what requests filter by and what rules are about.

Read from JSON or from the text of a query parameter. `columns` says which items meet one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from app.errors import InvalidRequest
from app.events import check_id, parse_time

CATEGORIES = "categories"
TIMES = ("available_from", "available_until")
"""Fields of an item that are times: conditions give them as such, columns hold Unix ms."""

MAX_NAMES, MAX_LISTED = 16, 100
"""Names in an object, and values in a list."""

MAX_CLAUSES = 64
MAX_VALUES = 2_000
"""Of one condition: what it costs to look at an item is bounded (see `learners.candidates`)."""

_MAX_SHOWN = 80
_NUMBER = "[+-]?([0-9]{1,16}[.]?[0-9]{0,16}|[.][0-9]{1,16})(e-?[0-9]{1,2})?"
_NAME = r"[^<>=!\x00-\x1f\x7f-\x9f]{1,64}"
WHERE = f"^{_NAME}(!?=.*|[<>]=?{_NUMBER})$"
"""What `parse_where` reads, but for times: as /openapi.json says it."""

_WHERE = re.compile(rf"(?P<name>{_NAME})(?P<sign><=|>=|!=|=|<|>)(?P<values>.*)")
_BOOLEANS = {"true": 1.0, "false": 0.0}

Value = str | float
"""What an attribute is compared with: numbers and booleans as floats."""


class Clause(NamedTuple):
    """One thing that must hold of an item.

    `any`, `all`, `none`: of the categories named by `values`. `in`: the attribute `name` is one of
    `values`; `not_in`: it is none of them, or missing; `range`: it lies between `low` and `high`.
    """

    name: str
    kind: Literal["any", "all", "none", "in", "not_in", "range"]
    values: tuple[Value, ...] = ()
    low: float = -math.inf
    high: float = math.inf


Condition = tuple[Clause, ...]
"""Clauses that must all hold; the empty one always does. Two conditions added are both."""


def parse(raw: object) -> Condition:
    """Read a condition from JSON: an object, whose keys must all hold.

    Raises InvalidRequest that names what is wrong, and its value.
    """
    if not isinstance(raw, dict):
        raise InvalidRequest(f"a condition must be an object, not {_shown(raw)}")
    if len(raw) > MAX_NAMES:
        raise InvalidRequest(f"a condition may have {MAX_NAMES} names; this one has {len(raw)}")
    condition: Condition = ()
    for name, wanted in raw.items():
        _check_name(name)
        condition += _of_categories(wanted) if name == CATEGORIES else _of_column(name, wanted)
    return condition


def parse_where(text: str) -> Condition:
    """Read a condition from text: `price<=20`, `brand=acme,zeta`, `colour!=red`.

    Signs are = and != (with a list, comma separated), <=, >=, < and >. Text that reads as a number
    is compared as both. Raises InvalidRequest.
    """
    match = _WHERE.fullmatch(text)
    if match is None:
        raise InvalidRequest(
            f"where={_shown(text)}: give a name, a sign (=, !=, <=, >=, <, >) and a value"
        )
    name, sign, given = match["name"], match["sign"], match["values"]
    _check_name(name)
    if sign in ("=", "!="):
        return checked((_listed(name, sign, given.split(",")),))
    if name == CATEGORIES:
        raise InvalidRequest(f"where={_shown(text)}: categories can be = or != only")
    bound = _bound_of(name, given)
    low, high = {
        "<=": (-math.inf, bound),
        ">=": (bound, math.inf),
        "<": (-math.inf, math.nextafter(bound, -math.inf)),
        ">": (math.nextafter(bound, math.inf), math.inf),
    }[sign]
    return (Clause(name, "range", (), low, high),)


def of_categories(kind: Literal["any", "all", "none"], names: Sequence[str]) -> Condition:
    """Return the condition that an item has any, all or none of some categories; none: always."""
    return (Clause(CATEGORIES, kind, tuple(names)),) if names else ()


def to_json(condition: Condition) -> list[dict[str, Any]]:
    """Return objects that `parse` reads, all together, as the same condition."""
    return [{clause.name: _plain(clause)} for clause in condition]


def checked(condition: Condition) -> Condition:
    """Return a condition; raise InvalidRequest if it has too many clauses or values."""
    n_values = sum(len(clause.values) for clause in condition)
    if len(condition) > MAX_CLAUSES or n_values > MAX_VALUES:
        raise InvalidRequest(
            f"a condition may have {MAX_CLAUSES} clauses and {MAX_VALUES} values;"
            f" this one has {len(condition)} and {n_values}"
        )
    return condition


def _check_name(name: object) -> None:
    try:
        check_id("a name in a condition", str(name))
    except ValueError as error:
        raise InvalidRequest(str(error)) from None


def _check_list(name: str, listed: object) -> None:
    if isinstance(listed, list) and not 1 <= len(listed) <= MAX_LISTED:
        raise InvalidRequest(f"{name}: give 1 to {MAX_LISTED} values, not {len(listed)}")


# -- categories -------------------------------------------------------------------------------


def _of_categories(wanted: object) -> Condition:
    if isinstance(wanted, str | list):
        wanted = {"any": wanted if isinstance(wanted, list) else [wanted]}
    if not isinstance(wanted, dict) or not wanted or set(wanted) - {"any", "all", "none"}:
        raise InvalidRequest(
            f"categories={_shown(wanted)}: give a name, a list, or any, all and none with lists"
        )
    condition: Condition = ()
    for kind in ("any", "all", "none"):
        if kind in wanted:
            condition += (Clause(CATEGORIES, kind, _category_names(kind, wanted[kind])),)
    return condition


def _category_names(kind: str, names: object) -> tuple[str, ...]:
    _check_list(f"categories: {kind}", names)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InvalidRequest(f"categories: {kind}={_shown(names)} must be a list of names")
    return tuple(dict.fromkeys(names))


# -- columns ----------------------------------------------------------------------------------


def _of_column(name: str, wanted: object) -> Condition:
    if not isinstance(wanted, dict):
        return (Clause(name, "in", _values(name, wanted)),)
    if not wanted or set(wanted) - {"min", "max", "not"}:
        raise InvalidRequest(
            f"{name}={_shown(wanted)}: give a value, a list, min and max, or not with a list"
        )
    condition: Condition = ()
    if "min" in wanted or "max" in wanted:
        low = _bound(name, "min", wanted["min"]) if "min" in wanted else -math.inf
        high = _bound(name, "max", wanted["max"]) if "max" in wanted else math.inf
        condition = (Clause(name, "range", (), low, high),)
    if "not" in wanted:
        condition += (Clause(name, "not_in", _values(name, wanted["not"])),)
    return condition


def _values(name: str, wanted: object) -> tuple[Value, ...]:
    _check_list(name, wanted)
    listed = wanted if isinstance(wanted, list) else [wanted]
    return tuple(dict.fromkeys(_value(name, value) for value in listed))


def _value(name: str, value: object) -> Value:
    if name in TIMES:
        return _time(name, value)
    if isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return _number(name, value)
    raise InvalidRequest(f"{name}={_shown(value)}: a value must be a text, a number or a boolean")


def _bound(name: str, end: str, value: object) -> float:
    if name in TIMES:
        return _time(name, value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidRequest(f"{name}: {end}={_shown(value)} must be a number")
    return _number(name, value)


def _number(name: str, value: float) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InvalidRequest(f"{name}={_shown(value)}: a number must be finite")
    return number


def _time(name: str, value: object) -> float:
    """Return Unix ms for RFC 3339 text or Unix seconds."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise InvalidRequest(f"{name}={_shown(value)} must be a time")
    try:
        return float(parse_time(value))
    except (ValueError, OverflowError) as error:
        raise InvalidRequest(f"{name}: {error}") from None


# -- texts ------------------------------------------------------------------------------------


def _listed(name: str, sign: str, texts: list[str]) -> Clause:
    """Return the clause of `name=texts` or `name!=texts`."""
    if name == CATEGORIES:
        return Clause(name, "any" if sign == "=" else "none", tuple(dict.fromkeys(texts)))
    values: list[Value] = []
    for text in texts:
        if name in TIMES:
            values.append(_bound_of(name, text))
        else:
            number = _BOOLEANS.get(text, _read_number(text))
            values += [text] if number is None else [text, number]
    return Clause(name, "in" if sign == "=" else "not_in", tuple(dict.fromkeys(values)))


def _bound_of(name: str, text: str) -> float:
    number = _read_number(text)
    if name in TIMES:
        return _time(name, text if number is None else number)
    if number is None:
        raise InvalidRequest(f"where: {name} is compared with {_shown(text)}, which is no number")
    return number


def _read_number(text: str) -> float | None:
    """Return the number that a text is, or None."""
    return float(text) if re.fullmatch(_NUMBER, text) else None


# -- writing ----------------------------------------------------------------------------------


def _plain(clause: Clause) -> Any:
    scale = 1_000.0 if clause.name in TIMES else 1.0
    if clause.kind == "range":
        ends = {"min": clause.low, "max": clause.high}
        return {end: bound / scale for end, bound in ends.items() if math.isfinite(bound)}
    values = [v if isinstance(v, str) else v / scale for v in clause.values]
    if clause.name == CATEGORIES:
        return {clause.kind: values}
    return values if clause.kind == "in" else {"not": values}


def _shown(value: object) -> str:
    """Return the beginning of a value, as Python shows it."""
    try:
        return repr(value)[:_MAX_SHOWN]
    except RecursionError:
        return f"a {type(value).__name__} that is nested too deeply to be shown"
