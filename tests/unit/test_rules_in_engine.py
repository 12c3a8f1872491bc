from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from app import snapshot
from app.conflicts import Examined, examine
from app.engine import Engine
from app.errors import LogStopped
from app.events import Entry as LogEntry
from app.events import ItemDelete, ItemUpsert, Rules, UserUpsert, decode, encode
from app.recommend import Request, Scored
from app.rulebook import MOST_RATED, Rulebook
from app.rules import read_rules
from tests.factories import apply, click, feed, fingerprint, make_engine, sessions, upsert

HOUR_S = 3_600.0
TEA: dict[str, Any] = {"kind": "boost", "by": 1, "where": {"categories": "tea"}}
SOLD_OUT: dict[str, Any] = {"kind": "hide", "where": {"stock": 0}}


def shop(n: int = 9, **changes: Any) -> Engine:
    """Return an engine in which i8 is the most popular, then i7, and so on, by turns tea, pots."""
    engine = feed(
        make_engine(**changes),
        [click(f"u{u}", f"i{i}", at_s=i) for i in range(n) for u in range(i + 1)],
    )
    kinds = ("tea", "pots")
    apply(engine, *(upsert(f"i{i}", kinds[i % 2], attributes={"stock": i}) for i in range(n)))
    return engine


def put(engine: Engine, **rules: dict[str, Any]) -> Engine:
    """Put rules in force, by their names."""
    declared = [rule | {"name": name.replace("_", "-")} for name, rule in rules.items()]
    apply(engine, Rules(declared, "tester"))
    return engine


def slate(engine: Engine, **request: Any) -> list[Scored]:
    """Return what a request is answered with."""
    return engine.recommend(Request(**request)).items


def ids(engine: Engine, **request: Any) -> str:
    """Return the digits of the items that a request is answered with."""
    return "".join(scored.item_id[1:] for scored in slate(engine, **request))


# -- what rules do ---------------------------------------------------------------------------------


def test_a_boost_by_one_goes_past_all_and_a_bury_by_one_behind_all() -> None:
    """Shares mean the same whatever the scores: 1 is all the way, a little is little."""
    engine = shop()
    assert ids(engine) == "876543210"
    assert ids(put(engine, tea=TEA)) == "864207531"
    assert ids(put(engine, tea=TEA | {"kind": "bury"})) == "753186420"
    assert ids(put(engine, tea=TEA | {"by": 1e-9})) == "876543210"


def test_a_boost_works_where_all_scores_are_the_same() -> None:
    """With nothing to tell items apart, a boost still puts its own first."""
    engine = put(make_engine(), tea=TEA)
    apply(engine, upsert("a", "pots"), upsert("b", "pots"), upsert("c", "tea"))
    assert slate(engine, k=3)[0].item_id == "c"


def test_what_is_sold_out_is_gone_at_once_and_back_as_fast() -> None:
    """Hiding follows the catalogue, from the very next request on, also in similar items."""
    engine = put(feed(shop(), [click("u", f"i{i}", at_s=99) for i in (3, 4, 5)]), gone=SOLD_OUT)
    assert sorted(ids(engine, user_id="v")) == [*"12345678"]
    apply(engine, ItemUpsert("i4", attributes={"stock": 0}))
    assert "4" not in ids(engine, user_id="v")
    assert "i4" not in [scored.item_id for scored in engine.similar("i5", 9).items]
    apply(engine, ItemUpsert("i4", attributes={"stock": 1}))
    assert "4" in ids(engine, user_id="v")
    assert "i4" in [scored.item_id for scored in engine.similar("i5", 9).items]


def test_a_pin_is_shown_where_it_is_said_and_nowhere_else() -> None:
    """A pin has its place, last if the slate is shorter; never what is hidden, had or left out."""
    engine = put(shop(), hero={"kind": "pin", "item": "i1", "position": 2})
    assert ids(engine) == "817654320"[:2] + "7654320"
    assert ids(engine, k=1) == "8"
    assert ids(engine, user_id="u0", k=3) == ""
    assert "1" not in ids(engine, user_id="u1")
    assert "1" not in ids(engine, exclude=["i1"])
    assert "1" not in ids(engine, categories=["tea"])
    assert ids(engine, candidates=["i1", "i5", "i4"]) == "514"
    assert ids(engine, candidates=["i5", "i4"]) == "54"
    apply(engine, ItemUpsert("i1", hidden=True))
    assert "1" not in ids(engine)
    late = put(shop(3), hero={"kind": "pin", "item": "i1", "position": 9})
    assert ids(late) == "201"


def test_what_rules_placed_is_named_among_the_sources() -> None:
    """Pins, and what a quota brought in, say so; what stands there by its score does not."""
    engine = put(shop(), hero={"kind": "pin", "item": "i1", "position": 2})
    first, second = slate(engine, k=2)
    assert second.sources[-1] == "rule:hero"
    assert not any(name.startswith("rule:") for name in first.sources)


def test_a_cap_holds_whatever_the_scores() -> None:
    """No more of a category, a value, or a condition's items are shown, though others are worse."""
    engine = shop()
    assert ids(put(engine, variety={"kind": "cap", "per": "categories", "most": 2})) == "8765"
    assert ids(put(engine, variety={"kind": "cap", "per": "stock", "most": 1})) == "876543210"
    few = {"kind": "cap", "where": {"categories": "tea"}, "most": 1}
    assert ids(put(engine, few=few)) == "87531"
    apply(engine, *(upsert(f"i{i}", "tea") for i in range(9)))
    assert ids(put(engine, variety={"kind": "cap", "per": "categories", "most": 3})) == "876"


def test_a_capped_slate_is_filled_from_the_whole_catalogue() -> None:
    """Where what is popular is all of a kind, the rest comes from where nobody has looked yet."""
    engine = make_engine()
    apply(engine, *(upsert(f"t{n}", "tea") for n in range(150)))
    feed(engine, [click(f"u{u}", f"t{n}", at_s=n) for n in range(150) for u in range(2)])
    apply(engine, *(upsert(f"p{n}", "pots") for n in range(3)), upsert("x"))
    put(engine, variety={"kind": "cap", "per": "categories", "most": 2})
    shown = [scored.item_id for scored in slate(engine, k=10)]
    assert sorted(item[0] for item in shown) == ["p", "p", "t", "t", "x"]


NEW: dict[str, Any] = {"kind": "quota", "least": 2, "younger_than_h": 24}


def test_a_quota_brings_in_the_best_of_what_is_new() -> None:
    """The new come in for the last ones, named; a slate that has enough of them stays as it is."""
    engine = feed(shop(), [click("v", "i8", at_s=100 * HOUR_S)])
    apply(engine, upsert("n1", "tea"), upsert("n2", "tea"), upsert("n3", "tea"))
    assert ids(engine, k=4) == "8765"
    put(engine, new=NEW)
    shown = slate(engine, k=4)
    assert [scored.item_id[0] for scored in shown] == ["i", "i", "n", "n"]
    assert [scored.sources[-1] for scored in shown[2:]] == ["rule:new"] * 2
    put(engine, new=NEW, tea=TEA, late={"kind": "bury", "by": 3, "where": {"stock": {"min": 0}}})
    free = slate(engine, k=4)
    assert [scored.item_id[0] for scored in free[:3]] == ["n"] * 3
    assert not any(name == "rule:new" for scored in free for name in scored.sources)
    feed(engine, [click("v", "i7", at_s=125 * HOUR_S)])
    assert sorted(ids(put(engine, new=NEW), k=4)) == [*"5678"]  # they are not new any more


def test_an_item_is_as_new_as_it_says() -> None:
    """`available_from` counts instead of the first sight, whether earlier or later."""
    engine = feed(shop(), [click("v", "i8", at_s=100 * HOUR_S)])
    now_ms = engine.admission.watermark_ms
    long_ago = now_ms - round(90 * HOUR_S * 1_000)
    apply(engine, upsert("n1", available_from=long_ago), upsert("n2"))
    apply(engine, upsert("i0", "tea", available_from=now_ms - 1_000))
    put(engine, new=NEW)
    assert {scored.item_id for scored in slate(engine, k=4)} == {"i8", "i7", "n2", "i0"}
    twin = Engine.from_state(copy.deepcopy(engine.state()))
    assert slate(twin, k=4) == slate(engine, k=4)


def test_a_quota_looks_past_what_caps_keep_out() -> None:
    """If the newest do not fit, an older one that does is found, however many there are between."""
    engine = feed(shop(), [click("v", "i8", at_s=100 * HOUR_S)])
    apply(engine, upsert("fits", "else"), *(upsert(f"n{n}", "same") for n in range(2 * MOST_RATED)))
    cap = {"kind": "cap", "where": {"categories": "same"}, "most": 1}
    put(engine, new=NEW, cap=cap)
    shown = [scored.item_id for scored in slate(engine, k=5)]
    assert "fits" in shown
    assert sum(item_id[0] == "n" for item_id in shown) == 1


HAS_ONE: dict[str, Any] = {"kind": "bury", "by": 1, "after": {"type": "purchase", "days": 7}}


def test_what_was_bought_is_enough_for_a_week() -> None:
    """After a purchase its category is buried for that user, for as long as the rule says."""
    engine = put(shop(), has_one=HAS_ONE)
    buyer = click("buyer", "i0", type="purchase", at_s=100)
    feed(engine, [buyer, click("looker", "i0", at_s=100)])
    unruled = ids(engine, user_id="looker")
    assert ids(engine, user_id="buyer", history=["i0"]) == unruled
    pots, tea = (
        "".join(i for i in unruled if i in "1357"),
        "".join(i for i in unruled if i in "2468"),
    )
    assert ids(engine, user_id="buyer") == pots + tea != unruled
    put(engine, has_one={"kind": "hide", "after": HAS_ONE["after"]})
    assert ids(engine, user_id="buyer") == pots
    feed(engine, [click("late", "i1", at_s=100 + 8 * 24 * HOUR_S)])
    assert len(ids(engine, user_id="buyer")) == 8


def test_rules_keep_to_their_users_and_times() -> None:
    """A rule for some users acts for no others, and outside of its time for nobody."""
    engine = put(shop(), tea=TEA | {"users": {"segment": "vip"}})
    apply(engine, UserUpsert("ann", {"segment": "vip"}), UserUpsert("bob", {"segment": "other"}))
    assert ids(engine, user_id="ann") == "864207531"
    for user in ("bob", "nobody", None):
        assert ids(engine, user_id=user) == "876543210"
    put(engine, tea=TEA | {"from": "2001-09-09T02:10:00Z", "until": "2001-09-09T04:00:00Z"})
    assert ids(engine) == "876543210"
    feed(engine, [click("v", "i0", at_s=1_000)])
    assert ids(engine)[:2] == "87"
    feed(engine, [click("v", "i0", at_s=1_000 + HOUR_S)])
    assert sorted(ids(engine)[:5]) == [*"02468"]
    feed(engine, [click("v", "i0", at_s=1_000 + 2 * HOUR_S)])
    assert sorted(ids(engine)[:5]) != [*"02468"]


def test_a_score_is_explained_with_its_rules() -> None:
    """A rule that moved an item is among its reasons, and these add up to the score."""
    engine = put(shop(), tea=TEA | {"by": 0.5}, less=TEA | {"kind": "bury", "by": 0.2})
    for scored in slate(engine, explain=True):
        assert scored.why is not None
        parts = {part["because"]: float(part["weight"]) for part in scored.why}
        assert sum(parts.values()) == pytest.approx(scored.score, abs=1e-9)
        is_tea = int(scored.item_id[1:]) % 2 == 0
        assert ({"rule:tea", "rule:less"} <= parts.keys()) == is_tea
        if is_tea:
            assert parts["rule:tea"] == pytest.approx(-2.5 * parts["rule:less"])


# -- the log and the state -------------------------------------------------------------------------


def test_the_last_set_is_in_force() -> None:
    """Each record replaces all rules; it is a decision, which says what has changed."""
    engine = put(shop(), tea=TEA, gone=SOLD_OUT)
    put(engine, gone=SOLD_OUT, tea=TEA | {"by": 2}, few={"kind": "cap", "per": "stock", "most": 1})
    evidence = engine.gate.decisions[-1].evidence
    assert (engine.gate.decisions[-1].kind, engine.gate.decisions[-1].asked_by) == (
        "rules",
        "tester",
    )
    assert {name: evidence[name] for name in ("added", "changed", "removed")} == {
        "added": ["few"],
        "changed": ["tea"],
        "removed": [],
    }
    put(engine)
    assert engine.rulebook is None
    assert ids(engine) == "876543210"


def test_rules_pass_through_the_wire_and_the_snapshot() -> None:
    """A record is read as it was written; an engine from a snapshot has the same rules and bytes.

    A snapshot of before there were any still loads.
    """
    engine = put(shop(), tea=TEA | {"where": {"$array": 1, "categories": "tea"}}, one=HAS_ONE)
    record = Rules([TEA | {"name": "tea"}], "tester")
    assert decode(encode(LogEntry([record]))).records == [record]
    twin = Engine.from_state(snapshot.load([snapshot.dump(engine.state(), "1-0")]))
    assert twin.rules == engine.rules != []
    assert twin.hashes() == engine.hashes()
    assert fingerprint(twin.state()) == fingerprint(engine.state())
    assert slate(twin, k=5) == slate(engine, k=5)
    before = make_engine()
    state = before.state()
    del state["catalogue"]["first_seen"]
    assert "rules" not in state
    old = Engine.from_state(state)
    assert old.rules == []
    assert old.hashes() == before.hashes()


def test_rules_are_in_the_state_s_hash_alone() -> None:
    """Two states that differ in their rules differ in the hash; the model's is the same."""
    one, other = put(shop(), tea=TEA), put(shop(), tea=TEA | {"by": 2})
    assert one.hashes()["model_hash"] == other.hashes()["model_hash"]
    assert one.hashes()["state_hash"] != other.hashes()["state_hash"]


def test_the_gate_judges_without_rules() -> None:
    """With rules in force or without, the same events move the same versions to the same bytes."""
    log = sessions(400)
    ruled = put(make_engine(), tea=TEA, gone={"kind": "hide", "where": {"stock": {"not": [7]}}})
    plain = put(make_engine())
    assert slate(feed(ruled, log), k=5) == []
    feed(plain, log)
    assert ruled.hashes()["model_hash"] == plain.hashes()["model_hash"]
    kinds = [[d.kind for d in e.gate.decisions if d.kind != "rules"] for e in (ruled, plain)]
    assert kinds[0] == kinds[1]


def test_rules_of_a_later_program_stop_the_log() -> None:
    """What this program cannot read it must not pass over: other replicas obey it."""
    with pytest.raises(LogStopped, match="rules that this program cannot read"):
        apply(make_engine(), Rules([{"name": "a", "kind": "unheard-of"}], "tester"))


def test_many_hidden_things_at_once() -> None:
    """A set may bar more than a request has room for from the beginning."""
    engine = shop()
    many: dict[str, dict[str, Any]] = {
        f"h{n}": {"kind": "hide", "where": {f"a{m}": n for m in range(9)}} for n in range(90)
    }
    names = [f"v{n}" for n in range(900)]
    many |= {f"v{n}": {"kind": "hide", "where": {"brand": names[n::9]}} for n in range(9)}
    apply(engine, ItemUpsert("i3", attributes={"brand": "v7"}))
    assert ids(put(engine, **many)) == "87654210"


# -- what owners are told --------------------------------------------------------------------------


def examined(engine: Engine, **rules: dict[str, Any]) -> Examined:
    """Return what is to be known of rules that are not in force."""
    declared = [rule | {"name": name} for name, rule in rules.items()]
    book = engine.make_rulebook(read_rules({"rules": declared}))
    [*_, found] = examine(book, engine.admission.watermark_ms)
    assert found is not None
    return found


PIN: dict[str, Any] = {"kind": "pin", "item": "i1", "position": 1}
CAP: dict[str, Any] = {"kind": "cap", "where": {"categories": "tea"}, "most": 1}


@pytest.mark.parametrize(
    ("rules", "named", "words"),
    [
        ({"a": TEA | {"where": {"categories": "coffee"}}}, ["a"], "matches no item"),
        ({"a": PIN | {"item": "unheard-of"}}, ["a"], "no such item"),
        ({"a": HAS_ONE | {"after": {"type": "buy", "days": 1}}}, ["a"], "type 'buy'"),
        ({"a": {"kind": "cap", "per": "brand", "most": 1}}, ["a"], "'brand'"),
        ({"a": TEA | {"until": "2001-01-01T00:00:00Z"}}, ["a"], "time ended"),
        ({"a": TEA, "b": TEA | {"kind": "hide"}}, ["a"], "all hidden"),
        ({"a": TEA, "b": TEA | {"kind": "bury"}}, ["a", "b"], "boosts and b buries 5 items"),
        ({"a": PIN, "b": PIN | {"item": "i2"}}, ["a", "b"], "place 1"),
        ({"a": PIN, "b": PIN | {"position": 2}}, ["a", "b"], "two places"),
        ({"a": PIN | {"item": "i0"}, "b": SOLD_OUT}, ["a", "b"], "which b hides"),
        ({"a": NEW | {"where": {"categories": "tea"}}, "b": CAP}, ["a", "b"], "lets in 1"),
        (
            {"a": NEW | {"least": 9}, "b": {"kind": "cap", "per": "categories", "most": 2}},
            ["a", "b"],
            "lets in 4",
        ),
    ],
)
def test_what_fights_or_does_nothing_is_told_by_name(
    rules: dict[str, Any], named: list[str], words: str
) -> None:
    """A warning names the rules that it is about, and says what is the matter."""
    for rule in rules.values():
        rule.pop("by", None) if rule["kind"] == "hide" else None
    found = examined(shop(), **rules)
    assert [(w.rules, words in w.message) for w in found.warnings] == [(named, True)]


@pytest.mark.parametrize(
    "rules",
    [
        {"a": TEA, "b": SOLD_OUT, "c": PIN, "d": HAS_ONE, "e": NEW},
        {"a": TEA | {"users": {"x": 1}}, "b": TEA | {"kind": "bury", "users": {"x": 2}}},
        {"a": TEA | {"until": "2030-01-01T00:00:00Z"},
         "b": TEA | {"kind": "bury", "from": "2030-01-01T00:00:00Z"}},
        {"a": TEA, "b": HAS_ONE},
        {"a": NEW, "b": {"kind": "cap", "per": "categories", "most": 1}},
    ],
)  # fmt: skip
def test_what_gets_along_is_not_warned_of(rules: dict[str, Any]) -> None:
    """Rules that are for others, for other times, or about other items do not fight."""
    found = examined(shop(), **rules)
    assert found.warnings == []
    assert all(found.n_items)


def test_a_quota_without_anything_new_is_told() -> None:
    """Where nothing has come for as long as a quota says, its owner is told."""
    late = feed(shop(), [click("v", "i1", at_s=50 * HOUR_S)])
    [warning] = examined(late, a=NEW).warnings
    assert "no item younger than 24 h" in warning.message


def test_an_examination_counts_what_there_is() -> None:
    """Each rule is told how many items it is about; deleted ones are none."""
    engine = shop()
    apply(engine, ItemDelete("i8"))
    rules = {"a": TEA, "b": SOLD_OUT, "c": PIN, "d": PIN | {"item": "i8", "position": 2}, "e": NEW}
    assert examined(engine, **rules).n_items == [4, 1, 1, 0, 8]


def test_what_each_rule_did_is_counted() -> None:
    """Counts say in how many slates each rule acted, and asking for a dry run adds nothing."""
    engine = put(shop(), tea=TEA, hero=PIN, few=CAP, none=PIN | {"item": "x", "position": 2})
    for _ in range(3):
        slate(engine, k=2)
    assert engine.rulebook is not None
    assert engine.rulebook.n_acted.tolist() == [3, 3, 0, 0]
    slate(engine, k=9)
    assert engine.rulebook.n_acted.tolist() == [4, 4, 1, 0]
    book: Rulebook = engine.make_rulebook(engine.rules)
    engine.slate_under(book, Request(k=9))
    assert book.acted.tolist() == [5, 1, 4, 0]
    assert not book.n_acted.any()
    assert engine.rulebook.n_acted.tolist() == [4, 4, 1, 0]
    assert np.all(engine.rulebook.acted == [5, 1, 4, 0])
