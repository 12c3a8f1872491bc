"""What an owner may declare about slates: the kinds of rules, read from JSON or TOML, and checked.

A set of rules has one canonical form, which is what the log holds. `rulebook` makes of it what a
request needs.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, ClassVar

import msgspec
import orjson

from app import conditions
from app.conditions import CATEGORIES, TIMES, Clause, Condition
from app.errors import InvalidRequest
from app.events import MAX_TIME_MS, MIN_TIME_MS, check_id, format_time, parse_time

MAX_RULES = 100
MAX_RULES_BYTES = 65_536
"""Of a set in its canonical form, and of what it is read from."""

MAX_CLAUSES, MAX_VALUES = 1_000, 10_000
"""Of all conditions of a set: how much there is to look at, for each item."""

MAX_PLACES = 200
"""The longest slate: no rule can speak of a place beyond it."""

MAX_DAYS = 3_650

_Name = Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
_Places = Annotated[int, msgspec.Meta(ge=1, le=MAX_PLACES)]
_Share = Annotated[float, msgspec.Meta(gt=0, le=10)]
_Condition = dict[str, Any]


class After(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """For so many days after an event of a type: the items that share a category with its item."""

    type: str
    days: Annotated[float, msgspec.Meta(gt=0, le=MAX_DAYS)]


class _Rule(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    tag_field="kind",
    rename={"from_": "from"},
):
    """What all have: a name, for whom (`users`, a condition on their attributes), and when."""

    name: _Name
    users: _Condition | None = None
    from_: str | None = None
    until: str | None = None

    kind: ClassVar[str]


class _OfItems(_Rule, frozen=True, kw_only=True):
    """A rule about the items that a condition holds for, all of them without one."""

    where: _Condition | None = None


class Boost(_OfItems, frozen=True, kw_only=True, tag="boost"):
    """Raise scores by a share of the spread between the best candidate and the worst."""

    by: _Share
    after: After | None = None
    kind = "boost"


class Bury(_OfItems, frozen=True, kw_only=True, tag="bury"):
    """Lower scores by a share of that spread."""

    by: _Share
    after: After | None = None
    kind = "bury"


class Hide(_OfItems, frozen=True, kw_only=True, tag="hide"):
    """Show none of these items."""

    after: After | None = None
    kind = "hide"


class Pin(_Rule, frozen=True, kw_only=True, tag="pin"):
    """Show an item at a place (1 is the first), in every slate that is long enough."""

    item: str
    position: _Places
    kind = "pin"


class Cap(_OfItems, frozen=True, kw_only=True, tag="cap"):
    """Show at most so many of these items; with `per` (`categories`, or an attribute), so many of
    each category or value.
    """

    most: _Places
    per: Annotated[str, msgspec.Meta(min_length=1, max_length=256)] | None = None
    kind = "cap"


class Quota(_OfItems, frozen=True, kw_only=True, tag="quota"):
    """Show at least so many of these items that are younger than so many hours."""

    least: _Places
    younger_than_h: Annotated[float, msgspec.Meta(gt=0, le=24 * MAX_DAYS)]
    kind = "quota"


Rule = Boost | Bury | Hide | Pin | Cap | Quota


def read_rules(raw: object) -> list[Rule]:
    """Return the rules of `{"rules": [...]}`; raise InvalidRequest with the rule and its fault."""
    if not isinstance(raw, dict) or set(raw) != {"rules"} or not isinstance(raw["rules"], list):
        raise InvalidRequest('rules: give {"rules": [...]}, or in TOML a table [[rules]] for each')
    declared = raw["rules"]
    if len(declared) > MAX_RULES:
        raise InvalidRequest(f"rules: {len(declared)} are more than {MAX_RULES}")
    rules = [_read(place, one) for place, one in enumerate(declared, start=1)]
    names = [rule.name for rule in rules]
    for name in names:
        if names.count(name) > 1:
            raise InvalidRequest(f"rules: {names.count(name)} rules have the name {name!r}")
    _check_size(rules)
    return rules


def _check_size(rules: Sequence[Rule]) -> None:
    n_bytes = len(canonical(rules))
    if n_bytes > MAX_RULES_BYTES:
        raise InvalidRequest(f"rules: they have {n_bytes} bytes, {MAX_RULES_BYTES} are allowed")
    clauses = [clause for rule in rules for clause in item_condition(rule)]
    n_values = sum(len(clause.values) for clause in clauses)
    if len(clauses) > MAX_CLAUSES or n_values > MAX_VALUES:
        raise InvalidRequest(
            f"rules: their conditions have {len(clauses)} clauses and {n_values} values;"
            f" {MAX_CLAUSES} and {MAX_VALUES} are allowed"
        )


def read_toml(data: bytes) -> list[Rule]:
    """Return the rules that a TOML document declares; raise InvalidRequest."""
    if len(data) > MAX_RULES_BYTES:
        raise InvalidRequest(f"rules: {len(data)} bytes of TOML, {MAX_RULES_BYTES} are allowed")
    try:
        return read_rules(tomllib.loads(data.decode()))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"rules: this is no TOML: {error}") from None
    except RecursionError:
        raise InvalidRequest("rules: this is nested too deeply") from None


def canonical(rules: Sequence[Rule]) -> bytes:
    """Return the JSON that stands for a set of rules: the same for all that mean the same."""
    return orjson.dumps(declarations(rules), option=orjson.OPT_SORT_KEYS)


def declarations(rules: Sequence[Rule]) -> list[dict[str, Any]]:
    """Return rules as they are declared."""
    return [msgspec.to_builtins(rule) for rule in rules]


def item_condition(rule: Rule) -> Condition:
    """Return which items a rule is about, the empty condition for all (a pin names its own)."""
    where = None if isinstance(rule, Pin) else rule.where
    return () if where is None else conditions.parse(where)


def user_condition(rule: Rule) -> Condition:
    """Return what must hold of a user's attributes for a rule to act, the empty one for all."""
    return () if rule.users is None else conditions.parse(rule.users)


def holds(condition: Condition, attributes: Mapping[str, Any]) -> bool:
    """Tell whether a condition holds of a user's attributes."""
    return all(_holds(clause, attributes.get(clause.name)) for clause in condition)


def _holds(clause: Clause, value: str | float | None) -> bool:
    if clause.kind == "range":
        return isinstance(value, int | float) and clause.low <= value <= clause.high
    return (value is not None and value in clause.values) == (clause.kind == "in")


def window_ms(rule: Rule) -> tuple[int, int]:
    """Return the times from which and until (exclusive) a rule acts, in Unix ms."""
    begin = MIN_TIME_MS if rule.from_ is None else parse_time(rule.from_)
    return begin, MAX_TIME_MS if rule.until is None else parse_time(rule.until)


def trigger(rule: Rule) -> After | None:
    """Return the event after which a rule acts, if it waits for one."""
    return rule.after if isinstance(rule, Boost | Bury | Hide) else None


# -- checks -----------------------------------------------------------------------------------


def _read(place: int, declared: object) -> Rule:
    name = declared.get("name") if isinstance(declared, dict) else None
    where = f"rule {place}" + (f" ({name[:64]!r})" if isinstance(name, str) else "")
    try:
        rule: Rule = msgspec.convert(_with_times(declared), Rule)
        _check(rule)
        return rule
    except InvalidRequest as error:
        raise InvalidRequest(f"{where}: {error.message}") from None
    except (msgspec.ValidationError, ValueError) as error:
        raise InvalidRequest(f"{where}: {error}") from None


def _with_times(declared: object) -> object:
    """Return a declaration with its times as text of one form, whether TOML's own or not."""
    if not isinstance(declared, dict):
        return declared
    times = {}
    for name in ("from", "until"):
        given = declared.get(name)
        if isinstance(given, datetime):
            given = given.isoformat()
        if isinstance(given, str):
            try:
                times[name] = format_time(parse_time(given))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
    return declared | times


def _check(rule: Rule) -> None:
    """Raise InvalidRequest or ValueError for what the types let through."""
    item_condition(rule)
    for clause in user_condition(rule):
        if clause.name in (CATEGORIES, *TIMES):
            raise ValueError(f"users: {clause.name} is none of a user's attributes")
    begin, end = window_ms(rule)
    if begin >= end:
        raise ValueError(f"from {rule.from_} is not before until {rule.until}")
    after = trigger(rule)
    if after is not None:
        check_id("after.type", after.type)
        if not math.isfinite(after.days):
            raise ValueError("after.days must be a number of days")
    if isinstance(rule, Pin):
        check_id("item", rule.item)
    elif not item_condition(rule) and (rule.where is not None or _needs_items(rule)):
        raise ValueError(f"a {rule.kind} needs to know which items: give `where` a condition")


def _needs_items(rule: Boost | Bury | Hide | Cap | Quota) -> bool:
    if isinstance(rule, Cap):
        return rule.per is None
    return not isinstance(rule, Quota) and rule.after is None
