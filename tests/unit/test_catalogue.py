from __future__ import annotations

import copy

import pytest

from app.catalogue import Catalogue
from app.conditions import Condition, parse, parse_where
from app.engine import Engine
from app.errors import InvalidRequest
from app.events import MAX_TIME_MS, MIN_TIME_MS, Entry, ItemDelete, ItemUpsert, Upgrade
from app.recommend import Request
from app.snapshot import dump, load
from learners.history import History
from tests.factories import apply, configure, fingerprint, make_engine, make_settings, upsert


class Shelf:
    """A catalogue, with items by name."""

    def __init__(self, *changes: ItemUpsert, capacity: int = 10) -> None:
        self.history = History(capacity, 10)
        self.catalogue = Catalogue(self.history)
        self.tick = 0
        for change in changes:
            self.put(change)

    def put(self, change: ItemUpsert) -> str | None:
        """Apply one change; return why it was refused, if it was."""
        self.tick += 1
        return self.catalogue.upsert(self.history.touch_item(change.item_id, self.tick), change)

    def view(self, item_id: str) -> dict[str, object]:
        """Return an item as the API shows it."""
        return self.catalogue.view(self.history.items.get(item_id))

    def met(self, condition: Condition) -> list[object]:
        """Return the items that meet a condition."""
        return [self.history.items.ids[index] for index in self.catalogue.columns.select(condition)]

    def members(self, *names: str) -> list[object]:
        """Return the items that carry any of some categories."""
        categories = self.history.categories
        found = categories.members(categories.wanted(names))
        return [self.history.items.ids[index] for index in found]


def test_a_change_leaves_what_it_does_not_name() -> None:
    """Fields that are None stay; an attribute set to None goes."""
    shelf = Shelf(upsert("a", "x", attributes={"n": 1, "m": "two"}, hidden=True, time_ms=5))
    shelf.put(ItemUpsert("a", attributes={"m": None, "o": 2.5}))
    assert shelf.view("a") == {
        "item_id": "a",
        "categories": ["x"],
        "attributes": {"n": 1, "o": 2.5},
        "hidden": True,
        "available_from": None,
        "available_until": None,
        "updated_ms": 5,
    }


def test_a_replacement_leaves_nothing() -> None:
    """With `replace` an item is what the change says, and no more."""
    shelf = Shelf(upsert("a", "x", attributes={"n": 1}, hidden=True, time_ms=5))
    shelf.put(ItemUpsert("a", attributes={"o": 2}, replace=True))
    assert shelf.view("a") == Shelf(ItemUpsert("a", attributes={"o": 2})).view("a")
    assert shelf.members("x") == []


def test_categories_are_found_newest_first() -> None:
    """Items of any wanted category are found once each; unknown categories find nothing."""
    shelf = Shelf(upsert("a", "x"), upsert("b", "y"), upsert("c", "x", "y"), upsert("d"))
    assert shelf.members("x") == ["c", "a"]
    assert sorted(map(str, shelf.members("x", "y", "z"))) == ["a", "b", "c"]
    assert shelf.members("z") == []
    assert shelf.members() == []


def test_repeated_categories_count_once() -> None:
    """A category named twice is one."""
    shelf = Shelf(upsert("a", "x", "y", "x"))
    assert shelf.view("a")["categories"] == ["x", "y"]


def test_an_evicted_item_leaves_no_trace() -> None:
    """The next item at an index inherits neither categories nor attributes nor hiding."""
    shelf = Shelf(upsert("a", "x", attributes={"n": 1}, hidden=True, time_ms=5), capacity=1)
    shelf.put(ItemUpsert("b"))
    assert shelf.view("b") == Shelf(ItemUpsert("b")).view("b")
    assert shelf.members("x") == []


def test_labels_do_not_pile_up() -> None:
    """A thousand categories that came and went take no more room than the ten that are there."""
    shelf = Shelf()
    for n in range(1_000):
        shelf.put(upsert(f"i{n}", f"c{n}"))
    assert shelf.members(*[f"c{n}" for n in range(990)]) == []
    assert len(shelf.members(*[f"c{n}" for n in range(1_000)])) == 10
    assert shelf.history.categories.n_labels <= 12


def test_state_continues_identically() -> None:
    """A catalogue made from a state shows, finds and goes on the same."""
    shelf = Shelf(upsert("gone", "x"), upsert("b", "y", hidden=True), upsert("a", "y", "x"))
    shelf.put(upsert("b", "x", "y", time_ms=7))
    shelf.history.evict_item("gone")
    shelf.catalogue.user_attributes["u"] = {"n": 1}
    twin = Shelf()
    twin.history.load_state(copy.deepcopy(shelf.history.state()))
    twin.catalogue.load_state(copy.deepcopy(shelf.catalogue.state()))
    twin.tick = shelf.tick
    for change in (upsert("c", "z", "x"), ItemUpsert("a", ["y"]), ItemUpsert("b", replace=True)):
        for one in (shelf, twin):
            one.put(change)
        assert twin.catalogue.canonical() == shelf.catalogue.canonical()
        for name in "xyz":
            assert twin.members(name) == shelf.members(name)
    assert fingerprint(twin.catalogue.state()) == fingerprint(shelf.catalogue.state())
    assert fingerprint(twin.history.state()) == fingerprint(shelf.history.state())


def test_two_replicas_write_the_same_state() -> None:
    """A catalogue made from a state says the same as the one that it was taken from, in order."""
    shelf = Shelf(upsert("a"), upsert("b", "y"), upsert("a", "x"))
    twin = Shelf()
    twin.history.load_state(copy.deepcopy(shelf.history.state()))
    twin.catalogue.load_state(copy.deepcopy(shelf.catalogue.state()))
    assert fingerprint(twin.catalogue.state()) == fingerprint(shelf.catalogue.state())
    assert fingerprint(twin.history.state()) == fingerprint(shelf.history.state())


# -- columns ----------------------------------------------------------------------------------


def test_an_attribute_keeps_the_type_that_it_had_first() -> None:
    """A value of another type is refused by name, and nothing of the change is done."""
    shelf = Shelf(upsert("a", attributes={"price": 10, "brand": "acme"}))
    before = shelf.view("a")
    why = shelf.put(upsert("a", "new", attributes={"brand": "zeta", "price": "10"}, hidden=True))
    assert why == (
        "item 'a': price='10' is a string, and price has been a number from its first value on"
    )
    assert shelf.view("a") == before
    assert "brand=3 is a number, and brand" in str(shelf.put(upsert("b", attributes={"brand": 3})))
    assert shelf.put(upsert("b", attributes={"price": True})) is None
    assert shelf.met(parse({"price": 1})) == ["b"]


def test_a_type_goes_with_its_last_value() -> None:
    """Once no item has a name any more, it may come back as another type."""
    shelf = Shelf(upsert("a", attributes={"size": "XL"}), upsert("b", attributes={"size": "S"}))
    shelf.put(ItemUpsert("a", attributes={"size": None}))
    assert shelf.put(upsert("c", attributes={"size": 42})) is not None
    shelf.history.evict_item("b")
    assert shelf.put(upsert("c", attributes={"size": 42})) is None
    assert shelf.met(parse({"size": {"min": 40}})) == ["c"]


@pytest.mark.parametrize("name", ["categories", "available_from", "available_until"])
def test_an_attribute_cannot_be_named_like_a_field(name: str) -> None:
    """What a condition means by a name is clear."""
    why = Shelf().put(upsert("a", attributes={name: "x"}))
    assert "has the name of a field that every item has" in str(why)


def test_columns_and_strings_are_bounded() -> None:
    """One attribute or string too many is refused, and says which setting it is about."""
    shelf = Shelf()
    shelf.catalogue = Catalogue(shelf.history, max_columns=2, max_strings=3)
    assert shelf.put(upsert("a", attributes={"x": "1", "y": "2"}, available_from=5)) is None
    assert "z=3 is an attribute past the 2 of SLUICE_MAX_COLUMNS" in str(
        shelf.put(upsert("b", attributes={"z": 3}))
    )
    assert shelf.put(upsert("b", attributes={"x": "1", "y": "3"})) is None
    assert "y='4' is a string past the 3 of SLUICE_MAX_STRINGS" in str(
        shelf.put(upsert("c", attributes={"x": "1", "y": "4"}))
    )
    shelf.put(ItemUpsert("b", attributes={"y": None}))
    assert shelf.put(upsert("c", attributes={"x": "1", "y": "4"})) is None


def test_names_and_strings_do_not_pile_up() -> None:
    """A thousand names and strings that came and went take no more room than those there are."""
    shelf = Shelf()
    for number in range(1_000):
        assert shelf.put(upsert(f"i{number}", attributes={f"n{number % 99}": f"s{number}"})) is None
    state = shelf.catalogue.columns.state()
    assert state["n_rows"] <= 12
    assert len(state["strings"]["texts"]) <= 12


def test_limits_of_availability_are_set_and_taken_away() -> None:
    """An item has the times that it was given last; the ends of time are no limits."""
    shelf = Shelf(upsert("a", available_from=5, available_until=9))
    shelf.put(ItemUpsert("a", available_until=8))
    shelf.put(ItemUpsert("a", hidden=False))
    view = shelf.view("a")
    assert (view["available_from"], view["available_until"]) == (5, 8)
    assert shelf.met(parse({"available_from": {"max": 1}})) == ["a"]
    shelf.put(ItemUpsert("a", available_from=MIN_TIME_MS, available_until=MAX_TIME_MS))
    assert shelf.catalogue.canonical() == Shelf(upsert("a", hidden=False)).catalogue.canonical()
    shelf.put(upsert("a", available_from=5))
    shelf.put(ItemUpsert("a", replace=True))
    assert shelf.view("a")["available_from"] is None


def old_engine() -> Engine:
    """Return an engine on a log of version 7, with attributes of mixed types."""
    settings = make_settings()
    engine = Engine(settings)
    engine.apply(Entry([configure(settings, semantics=7)]), "1-0")
    for item, value in (("z", 1), ("b", "one"), ("a", 2), ("gone", "x")):
        apply(engine, upsert(item, attributes={"n": value, "available_from": value}))
    apply(engine, ItemDelete("gone"))
    return engine


def test_before_version_8_nothing_is_refused() -> None:
    """What does not fit its column is shown, and cannot be filtered by; times are let be."""
    engine = old_engine()
    apply(engine, upsert("b", available_until=5))
    assert "columns" not in engine.catalogue.state()
    assert engine.catalogue.view(engine.history.items.get("b"))["attributes"]["n"] == "one"
    assert engine.catalogue.view(engine.history.items.get("b"))["available_until"] is None
    shown = engine.recommend(Request(k=9, filter=parse({"n": {"min": 0}}))).items
    assert {scored.item_id for scored in shown} == {"z", "a"}


def test_a_snapshot_of_before_goes_on() -> None:
    """Restored or not, an engine of version 7 goes to version 8 with the same types and bytes."""
    engine = old_engine()
    manifest, chunks = dump(engine.state(), "s")
    twin = Engine.from_state(load([(manifest, chunks)]))
    assert set(engine.state()["settings"]).isdisjoint({"had_return", "max_columns", "max_strings"})
    for one in (engine, twin):
        apply(one, Upgrade(8, "a test asks", "tester"))
        outcome = apply(
            one, upsert("c", attributes={"n": "three"}), upsert("c", attributes={"n": 3})
        )
        assert [result.status for result in outcome.results] == ["refused", "applied"]
    assert fingerprint(engine.state()) == fingerprint(twin.state())
    assert engine.hashes() == twin.hashes()
    found = engine.recommend(Request(k=9, filter=parse({"n": {"not": [3]}}))).items
    assert {scored.item_id for scored in found} == {"a", "b", "z"}


def test_a_snapshot_keeps_columns_to_the_byte() -> None:
    """Written and read again, columns and codes are the same, and go on the same."""
    engine = make_engine()
    for number in range(60):
        attributes = {"s": f"s{number % 9}", "n": number / 2, f"x{number % 5}": True}
        apply(engine, upsert(f"i{number % 40}", attributes=attributes, available_from=number))
    apply(engine, ItemDelete("i3"), ItemUpsert("i4", attributes={"s": None, "n": None}))
    twin = Engine.from_state(load([dump(engine.state(), "s")]))
    for one in (engine, twin):
        apply(one, ItemDelete("i7"), upsert("new", attributes={"s": "s3", "t": "new"}))
    assert fingerprint(twin.state()) == fingerprint(engine.state())
    assert twin.hashes() == engine.hashes()


# -- conditions -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("price<=10", ["a", "b"]),
        ("price<10", ["a"]),
        ("price>10", ["c"]),
        ("price>=10", ["b", "c"]),
        ("price=10", ["b"]),
        ("price!=10", ["a", "c", "d"]),
        ("code=10", ["b"]),
        ("code=10,x", ["a", "b"]),
        ("code!=10,x", ["c", "d"]),
        ("code>=10", []),
        ("sold=true", ["a"]),
        ("sold=false", ["b"]),
        ("categories=red,blue", ["a", "b"]),
        ("categories!=red", ["b", "c", "d"]),
        ("nothing=1", []),
        ("nothing!=1", ["a", "b", "c", "d"]),
        ("available_from<=1970-01-01T00:00:05Z", ["d"]),
        ("available_from=5", ["d"]),
    ],
)
def test_a_condition_in_text(text: str, found: list[str]) -> None:
    """Signs, lists, numbers that are text, booleans, categories and times mean what they say."""
    shelf = Shelf(
        upsert("a", "red", attributes={"price": 5, "code": "x", "sold": True}),
        upsert("b", "blue", attributes={"price": 10, "code": "10", "sold": False}),
        upsert("c", attributes={"price": 20.5}),
        upsert("d", available_from=5_000),
    )
    assert shelf.met(parse_where(text)) == found


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (7, "must be an object, not 7"),
        ([], "must be an object"),
        ({"": 1}, "must have 1 to 256 bytes"),
        ({"a": None}, "a=None: a value must be"),
        ({"a": []}, "a: give 1 to 100 values, not 0"),
        ({"a": ["x"] * 101}, "a: give 1 to 100 values, not 101"),
        ({"a": [["x"]]}, "a=['x']: a value must be"),
        ({"a": {}}, "a={}: give a value, a list, min and max, or not"),
        ({"a": {"least": 1}}, "a={'least': 1}: give"),
        ({"a": {"min": "1"}}, "a: min='1' must be a number"),
        ({"a": {"max": True}}, "a: max=True must be a number"),
        ({"a": 10**400}, "must be finite"),
        ({"a": {"not": {}}}, "a={}: a value must be"),
        ({"categories": 1}, "categories=1: give a name"),
        ({"categories": {"any": "x"}}, "any='x' must be a list of names"),
        ({"categories": {"some": ["x"]}}, "categories={'some': ['x']}: give"),
        ({"categories": {"all": []}}, "categories: all: give 1 to 100 values"),
        ({"categories": [1]}, "must be a list of names"),
        ({"available_from": "soon"}, "available_from: timestamp 'soon' is not RFC 3339"),
        ({"available_until": {"min": True}}, "available_until=True must be a time"),
        ({f"n{n}": 1 for n in range(17)}, "may have 16 names; this one has 17"),
    ],
)
def test_a_condition_that_makes_no_sense_is_refused(given: object, why: str) -> None:
    """The error names what is at fault, and its value."""
    with pytest.raises(InvalidRequest) as raised:
        parse(given)
    assert why in raised.value.message


@pytest.mark.parametrize(
    "text", ["", "price", "=5", "<5", "price<=cheap", "price<", "categories<=x", "a\x00=1"]
)
def test_a_text_that_is_no_condition_is_refused(text: str) -> None:
    """So it is for the text of a query parameter."""
    with pytest.raises(InvalidRequest):
        parse_where(text)
