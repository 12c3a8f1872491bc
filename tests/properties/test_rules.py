"""No slate ever breaks a rule: each alone, in pairs, and with filters."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from app.conditions import Condition, parse
from app.engine import Engine
from app.events import ItemUpsert, Rules, UserUpsert
from app.recommend import Request, Scored
from app.rules import Cap, Hide, Pin, Quota, Rule, holds, window_ms
from tests.factories import START_MS, apply, click, feed, make_engine, sessions
from tests.properties import catalogues

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
N_ITEMS = 40
ids = [f"g0{n // 10}i{n % 10}" for n in range(N_ITEMS)]


@functools.cache
def shop() -> Engine:
    """Return a shop with items of every kind, and users who had some; tests put rules in force."""
    engine = feed(make_engine(explore_share=0.5), sessions(500, n_groups=3, n_users=12))
    for n, item_id in enumerate(ids):
        brand = {"brand": f"b{n % 3}"} if n % 7 else {}
        attributes: dict[str, Any] = {"stock": n % 4, "price": float(n)} | brand
        categories = [f"c{n % 4}"] + (["c9"] if n % 5 == 0 else [])
        late = START_MS + 5_000_000 if n == 35 else None
        apply(
            engine,
            ItemUpsert(
                item_id,
                categories if n % 9 else [],
                attributes,
                hidden=n == 8,
                available_from=late,
                available_until=START_MS if n == 36 else None,
            ),
        )
        if n == 30:  # those of before are old
            apply(engine, click("old", "g00i0", at_s=40 * 3_600))
    for n in range(6):
        apply(engine, UserUpsert(f"u{n}", {"segment": "vip" if n % 2 else "other"}))
        bought = click(f"u{n}", ids[5 * n], at_s=40 * 3_600 + n, type="purchase")
        apply(engine, bought)
    return engine


# -- what is drawn ---------------------------------------------------------------------------------

conditions = st.sampled_from(
    [
        {"brand": "b1"},
        {"brand": {"not": ["b1"]}},
        {"categories": "c1"},
        {"categories": {"any": ["c2", "c9"], "none": ["c3"]}},
        {"stock": 0},
        {"price": {"min": 10, "max": 30}, "stock": [1, 2, 3]},
        {"brand": "unheard-of"},
    ]
)
shares = st.sampled_from([0.1, 0.5, 1.0, 3.0])
triggers = st.builds(
    lambda type_, days: {"type": type_, "days": days},
    st.sampled_from(["purchase", "click", "unheard-of"]),
    st.sampled_from([0.01, 1.0, 30.0]),
)
about_items = st.one_of(
    st.builds(lambda c: {"where": c}, conditions),
    st.builds(lambda a: {"after": a}, triggers),
    st.builds(lambda c, a: {"where": c, "after": a}, conditions, triggers),
)


def of_kind(kind: str, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Draw declarations of a kind."""
    return st.fixed_dictionaries({"kind": st.just(kind), **fields})


def with_items(drawn: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """Draw declarations that say which items they are about."""
    return st.builds(lambda rule, items: rule | items, drawn, about_items)


movers = with_items(of_kind("boost", by=shares)) | with_items(of_kind("bury", by=shares))
hides = with_items(of_kind("hide"))
pins = of_kind("pin", item=st.sampled_from([*ids, "unknown"]), position=st.integers(1, 12))
caps = st.one_of(
    of_kind("cap", most=st.integers(1, 4), per=st.sampled_from(["categories", "brand", "stock"])),
    of_kind("cap", most=st.integers(1, 4), where=conditions),
    of_kind(
        "cap",
        most=st.integers(1, 3),
        where=conditions,
        per=st.sampled_from(["categories", "brand", "price", "unheard-of"]),
    ),
)
quotas = st.builds(
    lambda rule, where: rule | where,
    of_kind("quota", least=st.integers(1, 6), younger_than_h=st.sampled_from([1.0, 30.0, 1e4])),
    st.just({}) | st.builds(lambda c: {"where": c}, conditions),
)
limits = st.sampled_from(
    [
        *({}, {}, {}, {"users": {"segment": "vip"}}, {"users": {"segment": {"not": ["vip"]}}}),
        *({"until": "2001-01-01T00:00:00Z"}, {"from": "2001-09-09T00:00:00Z"}),
    ]
)
one_rule = st.builds(
    lambda rule, limit: rule | limit, st.one_of(movers, hides, pins, caps, quotas), limits
)
rule_sets = st.lists(one_rule, min_size=1, max_size=5).map(
    lambda drawn: [rule | {"name": f"r{n}"} for n, rule in enumerate(drawn)]
)
filters = st.sampled_from(
    [(), (), (), *map(parse, ({"brand": "b2"}, {"price": {"max": 25}}, {"categories": "c2"}))]
)
requests = st.builds(
    Request,
    user_id=st.sampled_from([None, "u0", "u1", "u2", "u5", "nobody"]),
    k=st.sampled_from([1, 3, 5, 10, 12, 25, 60]),
    exclude=st.lists(st.sampled_from(ids), max_size=3),
    categories=st.sampled_from([(), (), (), ("c1", "c9")]),
    history=st.none() | st.none() | st.lists(st.sampled_from(ids), max_size=4),
    candidates=st.none() | st.none() | st.lists(st.sampled_from(ids), max_size=20),
    explain=st.booleans(),
    filter=filters,
)


# -- what rules mean, said naively -----------------------------------------------------------------


class Judge:
    """Says by the words of the rules what is right about a slate."""

    def __init__(self, engine: Engine, request: Request, rules: Sequence[Rule]) -> None:
        self.engine = engine
        self.request = request
        self.now_ms = engine.admission.watermark_ms
        self.views = {
            str(item_id): engine.catalogue.view(index)
            for item_id, index in engine.history.items.index.items()
        }
        self.rules = [rule for rule in rules if self._acts(rule)]

    def _acts(self, rule: Rule) -> bool:
        begin, end = window_ms(rule)
        user_id = None if self.request.history is not None else self.request.user_id
        attributes = self.engine.catalogue.user_attributes.get(user_id or "", {})
        is_for = rule.users is None or holds(parse(rule.users), attributes)
        return begin <= self.now_ms < end and is_for

    def is_about(self, rule: Rule, item_id: str) -> bool:
        """Tell whether a rule about items is about one."""
        assert not isinstance(rule, Pin)
        condition = () if rule.where is None else parse(rule.where)
        if not self.meets(item_id, condition):
            return False
        after = getattr(rule, "after", None)
        return after is None or bool(self._noted(after) & set(self.views[item_id]["categories"]))

    def meets(self, item_id: str, condition: Condition) -> bool:
        """Tell whether an item meets a condition."""
        view = self.views[item_id]
        return catalogues.meets(view["attributes"] | {"categories": view["categories"]}, condition)

    def _noted(self, after: Any) -> set[str]:
        history = self.engine.history
        if self.request.history is not None or self.request.user_id not in history.users:
            return set()
        since_ms = self.now_ms - round(after.days * DAY_MS)
        return {
            category
            for had in history.had(history.users.get(self.request.user_id))
            if self.engine.types[had.type_index] == after.type and had.time_ms >= since_ms
            for category in self.views[str(had.item_id)]["categories"]
        }

    def is_fresh(self, quota: Quota, item_id: str) -> bool:
        """Tell whether an item is young enough for a quota, and one that it is about."""
        index = self.engine.history.items.get(item_id)
        came_ms = self.views[item_id]["available_from"]
        if came_ms is None:
            came_ms = int(self.engine.catalogue.first_seen.first_ms[index])
        since_ms = self.now_ms - round(quota.younger_than_h * HOUR_MS)
        return came_ms >= since_ms and self.is_about(quota, item_id)

    def may_be_shown(self) -> set[str]:
        """Return the items that filters, exclusions and hiding rules let through."""
        request, history = self.request, self.engine.history
        had = set(map(str, request.history or ()))
        if request.history is None and request.user_id in history.users:
            had = {str(one.item_id) for one in history.had(history.users.get(request.user_id))}
        hiding = [rule for rule in self.rules if isinstance(rule, Hide)]
        return {
            item_id
            for item_id, view in self.views.items()
            if item_id not in had
            and item_id not in request.exclude
            and not view["hidden"]
            and (view["available_from"] or 0) <= self.now_ms
            and (view["available_until"] or self.now_ms + 1) > self.now_ms
            and (request.candidates is None or item_id in request.candidates)
            and (not request.categories or set(request.categories) & set(view["categories"]))
            and self.meets(item_id, request.filter)
            and not any(self.is_about(rule, item_id) for rule in hiding)
        }

    def broken(self, slate: Sequence[str]) -> list[str]:
        """Return the caps that a list of items breaks."""
        found = []
        for cap in self.rules:
            if isinstance(cap, Cap):
                items = [item_id for item_id in slate if self.is_about(cap, item_id)]
                groups = Counter(group for item_id in items for group in self._groups(cap, item_id))
                found += [cap.name] if any(n > cap.most for n in groups.values()) else []
        return found

    def _groups(self, cap: Cap, item_id: str) -> list[Any]:
        view = self.views[item_id]
        if cap.per is None:
            return ["all"]
        if cap.per == "categories":
            return list(view["categories"])
        return [view["attributes"][cap.per]] if cap.per in view["attributes"] else []

    def check(self, slate: Sequence[Scored]) -> None:
        """Fail if anything is wrong with a slate."""
        shown = [scored.item_id for scored in slate]
        allowed, k = self.may_be_shown(), self.request.k
        assert len(shown) == len(set(shown)) <= k
        assert set(shown) <= allowed
        assert not self.broken(shown)
        if len(shown) < k:
            assert all(self.broken([*shown, other]) for other in allowed - set(shown))
        self._check_pins(shown, allowed)
        self._check_quotas(shown, allowed)
        self._check_order(slate)

    def _check_pins(self, shown: list[str], allowed: set[str]) -> None:
        """Each pin that may be shown is in its place, or after the one that is there before it."""
        pins = sorted(
            (rule for rule in self.rules if isinstance(rule, Pin)), key=lambda pin: pin.position
        )
        placed: list[str] = []
        for pin in pins:
            if pin.item not in allowed or pin.position > self.request.k or pin.item in placed:
                continue
            if self.broken([*placed, pin.item]) or len(placed) == self.request.k:
                assert pin.item not in shown
                continue
            assert pin.item in shown
            placed.append(pin.item)
        wanted = {pin.item: pin.position for pin in reversed(pins) if pin.item in placed}
        if len(set(wanted.values())) == len(wanted) and max(wanted.values(), default=0) <= len(
            shown
        ):
            assert all(shown[position - 1] == item for item, position in wanted.items())

    def _check_quotas(self, shown: list[str], allowed: set[str]) -> None:
        """Of what a quota wants there is enough, or no more fits beside pins and quotas."""
        quotas = [rule for rule in self.rules if isinstance(rule, Quota)]
        pinned = {rule.item for rule in self.rules if isinstance(rule, Pin)}
        kept = [
            item_id
            for item_id in shown
            if item_id in pinned or any(self.is_fresh(quota, item_id) for quota in quotas)
        ]
        for quota in quotas:
            n = sum(self.is_fresh(quota, item_id) for item_id in shown)
            if n < quota.least and len(kept) < self.request.k:
                others = {one for one in allowed - set(shown) if self.is_fresh(quota, one)}
                assert all(self.broken([*kept, other]) for other in others)

    def _check_order(self, slate: Sequence[Scored]) -> None:
        """What neither pin nor quota has put in its place is in the order of scores."""
        free = [s.score for s in slate if not any(name.startswith("rule:") for name in s.sources)]
        assert free == sorted(free, reverse=True)
        for scored in slate:
            if scored.why is not None:
                assert abs(sum(part["weight"] for part in scored.why) - scored.score) < 1e-6


def put(engine: Engine, declared: Sequence[dict[str, Any]]) -> list[Rule]:
    """Put rules in force; return them."""
    apply(engine, Rules(list(declared), "tester"))
    return engine.rules


@settings(max_examples=250, deadline=None, derandomize=True)
@given(
    declared=rule_sets,
    asked=st.lists(requests, min_size=1, max_size=3),
    id_=st.sampled_from(["", "r1", "r2", "r3"]),
)
def test_no_slate_ever_breaks_a_rule(
    declared: list[dict[str, Any]], asked: list[Request], id_: str
) -> None:
    """Whatever rules are in force and whatever is asked, filters and rules hold, in new items, too.

    A slate is short only if nothing else would fit into it.
    """
    engine = shop()
    rules = put(engine, declared)
    for request in asked:
        slate = engine.recommend(request, id_).items
        Judge(engine, request, rules).check(slate)
        assert engine.recommend(request, id_).items == slate
