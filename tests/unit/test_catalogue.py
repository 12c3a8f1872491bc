from __future__ import annotations

import copy

from app.catalogue import Catalogue
from app.events import ItemUpsert
from learners.history import History
from tests.factories import fingerprint, upsert


class Shelf:
    """A catalogue, with items by name."""

    def __init__(self, *changes: ItemUpsert, capacity: int = 10) -> None:
        self.history = History(capacity, 10)
        self.catalogue = Catalogue(self.history)
        self.tick = 0
        for change in changes:
            self.put(change)

    def put(self, change: ItemUpsert) -> None:
        """Apply one change."""
        self.tick += 1
        self.catalogue.upsert(self.history.touch_item(change.item_id, self.tick), change)

    def view(self, item_id: str) -> dict[str, object]:
        """Return an item as the API shows it."""
        return self.catalogue.view(self.history.items.get(item_id))

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
