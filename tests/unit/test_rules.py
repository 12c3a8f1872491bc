from __future__ import annotations

from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from app.conditions import parse
from app.errors import InvalidRequest
from app.rules import (
    MAX_RULES,
    MAX_RULES_BYTES,
    Rule,
    canonical,
    declarations,
    holds,
    read_rules,
    read_toml,
    window_ms,
)

TOML = b"""
[[rules]]
name = "own-brand"
kind = "boost"
where = { brand = "acme" }
by = 0.25

[[rules]]
name = "sold-out"
kind = "hide"
where.stock = 0

[[rules]]
name = "hero"
kind = "pin"
item = "kettle"
position = 1
from = 2026-11-27T00:00:00Z
until = 2026-12-01T00:00:00+01:00

[[rules]]
name = "variety"
kind = "cap"
per = "categories"
most = 3

[[rules]]
name = "new-in"
kind = "quota"
least = 2
younger_than_h = 48
users = { segment = ["vip", "staff"] }

[[rules]]
name = "has-one"
kind = "bury"
by = 1
after = { type = "purchase", days = 7 }
"""

JSON: list[dict[str, Any]] = [
    {"name": "own-brand", "kind": "boost", "where": {"brand": "acme"}, "by": 0.25},
    {"name": "sold-out", "kind": "hide", "where": {"stock": 0}},
    {
        "name": "hero",
        "kind": "pin",
        "item": "kettle",
        "position": 1,
        "from": "2026-11-27T00:00:00.000Z",
        "until": "2026-11-30T23:00:00.000Z",
    },
    {"name": "variety", "kind": "cap", "per": "categories", "most": 3},
    {
        "name": "new-in",
        "kind": "quota",
        "least": 2,
        "younger_than_h": 48.0,
        "users": {"segment": ["vip", "staff"]},
    },
    {"name": "has-one", "kind": "bury", "by": 1.0, "after": {"type": "purchase", "days": 7.0}},
]


def read(*declared: dict[str, Any]) -> list[Rule]:
    """Read rules as a client sends them."""
    return read_rules({"rules": list(declared)})


def test_toml_and_json_say_the_same() -> None:
    """Rules of either form, and as they are shown, are the same rules and the same bytes."""
    rules = read_toml(TOML)
    assert declarations(rules) == JSON
    assert canonical(rules) == canonical(read(*JSON)) == canonical(read(*declarations(rules)))
    swapped = [dict(reversed(one.items())) for one in JSON]
    assert canonical(read(*swapped)) == canonical(rules)


def test_the_rules_that_are_documented_are_rules() -> None:
    """What the documentation says to put into a file is read without a complaint."""
    page = (Path(__file__).parents[2] / "docs" / "shop.md").read_text()
    shown = page.partition("cat > rules.toml <<'EOF'\n")[2].partition("    EOF\n")[0]
    rules = read_toml(dedent(shown).encode())
    assert [rule.kind for rule in rules] == ["hide", "boost", "cap", "bury", "pin"]


def test_no_rules_are_rules() -> None:
    """An empty set is one: it takes away what was in force."""
    assert read() == []
    assert canonical([]) == b"[]"


@pytest.mark.parametrize("raw", [None, 7, [], {}, {"rules": {}}, {"rules": [], "more": 1}])
def test_what_is_no_set_of_rules_is_refused(raw: object) -> None:
    """Whatever has not the one form is refused, and told the form."""
    with pytest.raises(InvalidRequest, match=r'give \{"rules": \[...\]\}'):
        read_rules(raw)


BOOST: dict[str, Any] = {"name": "a", "kind": "boost", "where": {"brand": "acme"}, "by": 1}
PIN: dict[str, Any] = {"name": "a", "kind": "pin", "item": "kettle", "position": 1}


@pytest.mark.parametrize(
    ("rule", "named"),
    [
        (7, "rule 1"),
        ({}, "rule 1"),
        (BOOST | {"kind": "promote"}, r"rule 1 \('a'\).*promote"),
        (BOOST | {"bye": 1}, "bye"),
        (BOOST | {"by": 0}, "by"),
        (BOOST | {"by": -1}, "by"),
        (BOOST | {"by": float("nan")}, "by"),
        (BOOST | {"by": float("inf")}, "by"),
        (BOOST | {"by": "much"}, "by"),
        (BOOST | {"name": ""}, "name"),
        (BOOST | {"name": "a b"}, "name"),
        (BOOST | {"name": "a" * 65}, "name"),
        (BOOST | {"where": {"price": {"min": "cheap"}}}, "price"),
        (BOOST | {"where": {"brand": []}}, "brand"),
        (BOOST | {"where": None}, "give `where`"),
        (BOOST | {"where": {}}, "give `where`"),
        (BOOST | {"after": {"type": "purchase"}}, "days"),
        (BOOST | {"after": {"type": "purchase", "days": 0}}, "days"),
        (BOOST | {"after": {"type": "", "days": 1}}, "after.type"),
        (BOOST | {"users": {"categories": "tea"}}, "categories"),
        (BOOST | {"users": {"age": {"min": "old"}}}, "age"),
        (BOOST | {"from": "yesterday"}, "from: .*yesterday"),
        (BOOST | {"from": "2026-01-02T00:00:00Z", "until": "2026-01-01T00:00:00Z"}, "not before"),
        (PIN | {"position": 0}, "position"),
        (PIN | {"position": 201}, "position"),
        (PIN | {"item": "\x00"}, "item"),
        (PIN | {"where": {"brand": "acme"}}, "where"),
        ({"name": "a", "kind": "hide"}, "give `where`"),
        ({"name": "a", "kind": "cap", "most": 1}, "give `where`"),
        ({"name": "a", "kind": "cap", "most": 0, "per": "brand"}, "most"),
        ({"name": "a", "kind": "quota", "least": 1}, "younger_than_h"),
        ({"name": "a", "kind": "quota", "least": 1, "younger_than_h": 0}, "younger_than_h"),
    ],
)
def test_a_bad_rule_is_refused_by_name(rule: Any, named: str) -> None:
    """A rule that is none is refused, and the message names the rule and what is wrong with it."""
    with pytest.raises(InvalidRequest, match=named):
        read(rule)


def test_names_are_each_one_s_own() -> None:
    """Two rules of one name are refused, as nobody could tell what each did."""
    with pytest.raises(InvalidRequest, match="2 rules have the name 'a'"):
        read(BOOST, PIN)


def test_a_set_is_bounded() -> None:
    """Neither too many rules nor too many bytes of them are taken, in either form."""
    many = [BOOST | {"name": f"r{n}"} for n in range(MAX_RULES + 1)]
    assert len(read(*many[:MAX_RULES])) == MAX_RULES
    with pytest.raises(InvalidRequest, match=f"{MAX_RULES + 1} are more than {MAX_RULES}"):
        read(*many)
    long = [BOOST | {"name": f"r{n}", "where": {"brand": "x" * 4_000}} for n in range(20)]
    with pytest.raises(InvalidRequest, match=f"{MAX_RULES_BYTES} are allowed"):
        read(*long)
    with pytest.raises(InvalidRequest, match=f"{MAX_RULES_BYTES} are allowed"):
        read_toml(b"#" * (MAX_RULES_BYTES + 1))
    wide = [BOOST | {"name": f"r{n}", "where": {f"a{m}": 1 for m in range(15)}} for n in range(70)]
    with pytest.raises(InvalidRequest, match="clauses"):
        read(*wide)


@pytest.mark.parametrize(
    ("data", "named"),
    [(b"[[rules]", "no TOML"), (b"\xff", "no TOML"), (b"a = " + b"[" * 10_000, "TOML|deeply")],
)
def test_what_is_no_toml_is_refused(data: bytes, named: str) -> None:
    """Text that is no TOML is refused, with the reason."""
    with pytest.raises(InvalidRequest, match=named):
        read_toml(data)


def test_a_time_without_a_zone_is_refused() -> None:
    """TOML's local times are refused: it would depend on the server what they mean."""
    with pytest.raises(InvalidRequest, match="time zone"):
        read_toml(TOML.replace(b"2026-11-27T00:00:00Z", b"2026-11-27T00:00:00"))


def test_a_window_is_open_where_nothing_is_said() -> None:
    """Without from and until a rule acts at all times, and with them between the two."""
    always, within = window_ms(read(BOOST)[0]), window_ms(read_toml(TOML)[2])
    assert always[0] < within[0] == 1_795_737_600_000 < within[1] < always[1]


@pytest.mark.parametrize(
    ("wanted", "attributes", "is_met"),
    [
        ({"segment": "vip"}, {"segment": "vip"}, True),
        ({"segment": "vip"}, {"segment": "other"}, False),
        ({"segment": ["vip", "staff"]}, {"segment": "staff"}, True),
        ({"segment": "vip"}, {}, False),
        ({"segment": {"not": ["vip"]}}, {}, True),
        ({"segment": {"not": ["vip"]}}, {"segment": "vip"}, False),
        ({"age": {"min": 18, "max": 30}}, {"age": 18}, True),
        ({"age": {"min": 18}}, {"age": 17.5}, False),
        ({"age": {"min": 18}}, {"age": "18"}, False),
        ({"age": {"min": 18}}, {}, False),
        ({"beta": True}, {"beta": True}, True),
        ({"beta": True}, {"beta": False}, False),
        ({"age": 18, "segment": "vip"}, {"age": 18, "segment": "vip"}, True),
        ({"age": 18, "segment": "vip"}, {"age": 18, "segment": "other"}, False),
    ],
)
def test_users_are_told_by_their_attributes(
    wanted: dict[str, Any], attributes: dict[str, Any], *, is_met: bool
) -> None:
    """Conditions mean for users what they mean for items: what is missing meets only a `not`."""
    assert holds(parse(wanted), attributes) is is_met
