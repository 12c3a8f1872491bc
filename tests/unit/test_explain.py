"""Why an item is in a slate, or is not: each cause, told as it is."""

from __future__ import annotations

from typing import Any

import pytest

from app.conditions import parse
from app.engine import Engine
from app.events import Impression, ItemUpsert, Rules
from app.recommend import Request
from tests.factories import START_MS, apply, click, feed, make_engine, sessions, upsert

DAY_MS = 86_400_000


def popular(n: int = 8, **changes: object) -> Engine:
    """Return an engine in which the last item is the most popular, then the one before it."""
    events = [click(f"u{u}", f"i{i}", at_s=i) for i in range(n) for u in range(i + 1)]
    return feed(make_engine(**changes), events)


def why(engine: Engine, item: str, user: str = "stranger", **request: Any) -> dict[str, Any]:
    """Return why an item is, or is not, in a user's slate."""
    return engine.explain(Request(user, **request), item)


def causes(found: dict[str, Any]) -> list[str]:
    """Return what keeps an item out."""
    return [cause["by"] for cause in found["excluded"]]


def put_rules(engine: Engine, *rules: dict[str, Any]) -> None:
    """Put rules in force."""
    apply(engine, Rules(list(rules), "tester"))


def test_what_is_shown_says_where_and_why() -> None:
    """An item of the slate has its place, its score, and reasons that add up to it."""
    engine = popular()
    slate = engine.recommend(Request("stranger", k=3, explain=True)).items
    found = why(engine, "i6", k=3)
    assert found["shown"]
    assert found["position"] == found["rank"] == 2
    assert found["score"] == slate[1].score
    assert found["why"] == slate[1].why
    assert found["sources"] == ["trending"]
    assert found["because"].startswith("i6 is at place 2 with k=3, because of trending")


def test_what_ranks_too_low_says_by_how_much() -> None:
    """An item below the last place has its rank, its score, and that of the last one shown."""
    engine = popular()
    found = why(engine, "i3", k=2)
    assert (found["shown"], found["eligible"], found["rank"], found["n_ranked"]) == (
        *(False, True),
        *(5, 8),
    )
    assert found["score"] < found["last_shown"]
    assert "it ranked 5th of 8 with k=2, its score" in found["because"]


@pytest.mark.parametrize(
    ("change", "request_", "cause"),
    [
        ({"hidden": True}, {}, {"by": "hidden"}),
        (
            {"available_from": START_MS + DAY_MS},
            {},
            {"by": "not_available", "available_from": "2001-09-10T01:46:40.000Z"},
        ),
        (
            {"available_until": START_MS},
            {},
            {"by": "not_available", "available_until": "2001-09-09T01:46:40.000Z"},
        ),
        ({}, {"exclude": ["i7"]}, {"by": "exclude"}),
        (
            {"categories": ["tea"]},
            {"categories": ["pots"]},
            {"by": "category", "categories": ["tea"]},
        ),
        (
            {"attributes": {"price": 30}},
            {"filter": parse({"price": {"max": 20}})},
            {"by": "filter", "condition": {"price": {"max": 20.0}}},
        ),
    ],
)
def test_what_is_filtered_names_the_filter(
    change: dict[str, Any], request_: dict[str, Any], cause: dict[str, Any]
) -> None:
    """An item that is not eligible says by which filter, and has no rank."""
    engine = popular()
    assert why(engine, "i7")["eligible"]
    apply(engine, ItemUpsert("i7", **change))
    found = why(engine, "i7", **request_)
    assert found["excluded"] == [cause]
    assert not found["shown"]
    assert found["rank"] is found["score"] is found["why"] is None
    assert found["because"].startswith("i7 is not shown to stranger: ")


def test_what_was_had_says_when_and_by_what() -> None:
    """An item that the user had, or refused, says so with the time."""
    engine = popular()
    apply(engine, click("u0", "i5", at_s=100, type="purchase"))
    apply(engine, click("u0", "i6", at_s=101, type="dislike"))
    [had] = why(engine, "i5", "u0")["excluded"]
    assert had == {"by": "had", "type": "purchase", "timestamp": "2001-09-09T01:48:20.000Z"}
    assert "u0 had it (purchase, 2001-09-09T01:48:20.000Z)" in why(engine, "i5", "u0")["because"]
    assert causes(why(engine, "i6", "u0")) == ["had"]
    engine = popular(exclude_had=False)
    assert why(engine, "i7", "u0")["eligible"]
    apply(engine, click("u0", "i7", at_s=101, type="dislike"))
    assert why(engine, "i7", "u0")["excluded"] == [
        {"by": "refused", "timestamp": "2001-09-09T01:48:21.000Z"}
    ]


def test_what_may_return_is_no_cause() -> None:
    """What was had so long ago that it may be shown again is eligible."""
    engine = popular(had_return={"click": 1.0})
    assert causes(why(engine, "i7", "u0")) == ["had"]
    apply(engine, click("other", "i0", at_s=2 * 86_400))
    assert why(engine, "i7", "u0")["eligible"]


def test_every_cause_is_named() -> None:
    """An item that is kept out by several things names them all."""
    engine = popular()
    apply(engine, ItemUpsert("i7", hidden=True))
    found = why(engine, "i7", "u0", exclude=["i7"])
    assert causes(found) == ["hidden", "exclude", "had"]
    assert found["because"].count(" and ") == 2


def test_what_nobody_named_says_what_each_source_gives_it() -> None:
    """An item that no source named has the rank that it would have, and the sources' ratings."""
    engine = feed(make_engine(max_items=400), sessions(900, n_groups=30))
    apply(engine, upsert("new"))
    user = str(next(iter(engine.history.users.newest())))
    found = why(engine, "new", user, k=5)
    assert found["eligible"]
    assert not found["named"]
    assert found["sources"] == []
    assert found["ratings"] == {"covisit": 0, "sequence": 0, "factors": 0, "trending": 0}
    assert f"no source named it, as nothing that {user} had goes with it" in found["because"]
    assert 1 <= found["rank"] <= found["n_ranked"]
    assert f"if it were named, it would rank {found['rank']}" in found["because"]


def test_what_was_ignored_says_so() -> None:
    """An item that the user was shown and did not take says how much that took from its score."""
    engine = popular(ignored_weight=1.0)
    shown = Impression("s", "fan", ["i7"], [1.0], START_MS + 60_000)
    apply(engine, click("fan", "i0", at_s=50), shown)
    found = why(engine, "i7", "fan", k=2)
    assert {"because": "ignored", "weight": -1.0} in found["why"]
    assert not found["shown"]
    assert "it was shown to fan before, and not taken" in found["because"]


# -- rules --------------------------------------------------------------------------------------


def test_a_rule_that_buries_is_named() -> None:
    """An item that a rule buried below the last place says so, with what that took from it."""
    engine = popular()
    apply(engine, upsert("i7", "pots"))
    put_rules(
        engine, {"name": "no-pots", "kind": "bury", "where": {"categories": "pots"}, "by": 2.0}
    )
    found = why(engine, "i7", k=3)
    assert not found["shown"]
    assert found["rules"] == [{"rule": "no-pots", "did": "buried"}]
    assert "there is rule no-pots, which buried it" in found["because"]
    weights = {part["because"]: part["weight"] for part in found["why"]}
    assert weights["rule:no-pots"] < 0
    assert sum(weights.values()) == pytest.approx(found["score"], abs=1e-9)


@pytest.mark.parametrize("per", ["categories", "brand", None])
def test_a_cap_that_is_full_is_named(per: str | None) -> None:
    """An item that a cap keeps out of its place names the cap, though it ranks high enough."""
    engine = popular()
    for item in ("i7", "i6", "i5"):
        apply(engine, ItemUpsert(item, ["pots"], {"brand": "acme"}))
    where = {} if per else {"where": {"brand": "acme"}}
    cap = {"name": "variety", "kind": "cap", "most": 2, **({"per": per} if per else {}), **where}
    put_rules(engine, cap)
    found = why(engine, "i5", k=4)
    assert not found["shown"]
    assert found["rank"] == 3
    assert found["rules"] == [{"rule": "variety", "did": "capped"}]
    assert "rule variety lets no more in" in found["because"]
    assert why(engine, "i6", k=4)["rules"] == []


def test_a_pin_names_itself_and_is_named() -> None:
    """A pinned item names its rule; what it took the last place of names it, too."""
    engine = popular()
    put_rules(engine, {"name": "hero", "kind": "pin", "item": "i0", "position": 1})
    found = why(engine, "i0", k=2)
    assert (found["position"], found["rules"]) == (1, [{"rule": "hero", "did": "placed"}])
    assert "put there by rule hero" in found["because"]
    displaced = why(engine, "i6", k=2)
    assert displaced["rules"] == [{"rule": "hero", "did": "displaced"}]
    assert "there is rule hero, which has its place" in displaced["because"]


def test_a_rule_that_hides_is_named() -> None:
    """An item that a rule hides is not eligible, and names the rule."""
    engine = popular()
    apply(engine, ItemUpsert("i7", attributes={"stock": 0}))
    put_rules(engine, {"name": "sold-out", "kind": "hide", "where": {"stock": 0}})
    assert why(engine, "i7")["excluded"] == [{"by": "rule", "rule": "sold-out"}]


def test_what_is_hidden_after_an_event_names_the_rule() -> None:
    """An item like one that the user just had, which a rule hides for a while, names the rule."""
    engine = popular()
    for item in ("i7", "i6"):
        apply(engine, upsert(item, "pots"))
    apply(engine, click("fan", "i7", at_s=50, type="purchase"))
    has_one = {"name": "has-one", "kind": "hide", "after": {"type": "purchase", "days": 7}}
    put_rules(engine, has_one)
    found = why(engine, "i6", "fan", k=5)
    assert not found["shown"]
    assert found["rules"] == [{"rule": "has-one", "did": "capped"}]
    assert why(engine, "i6", "stranger", k=5)["shown"]


def test_explaining_counts_for_no_rule() -> None:
    """To explain is no slate: what rules are known to have done stays as it is, and so does all."""
    engine = popular()
    put_rules(engine, {"name": "hero", "kind": "pin", "item": "i0", "position": 1})
    engine.recommend(Request("u0"))
    assert engine.rulebook
    before = engine.rulebook.n_acted.copy(), engine.hashes()
    why(engine, "i0")
    assert (engine.rulebook.n_acted == before[0]).all()
    assert engine.hashes() == before[1]
