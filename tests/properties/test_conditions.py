from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from app.columns import Columns
from app.conditions import parse, to_json
from learners.history import History
from tests.properties import catalogues
from tests.properties.catalogues import Item


class Shelf:
    """Items in columns, and as they were put."""

    def __init__(self) -> None:
        self.history = History(30, 10)
        self.columns = Columns(self.history)
        self.items: dict[int, Item] = {}

    def put(self, name: str, item: Item | None) -> None:
        """Give an item other values; None: let it go."""
        if item is None:
            if name in self.history.items:
                index = self.history.items.get(name)
                self._write(index, {"categories": []})
                self.history.evict_item(name)
                del self.items[index]
            return
        self._write(self.history.touch_item(name, 1), item)

    def _write(self, index: int, item: Item) -> None:
        self.history.categories.put(index, item["categories"])
        for name in {*catalogues.NAMES}:
            self.columns.put(index, name, item.get(name))
        self.items[index] = item


changes = st.lists(
    st.tuples(st.sampled_from([f"i{n}" for n in range(8)]), catalogues.items | st.none()),
    max_size=25,
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(changes=changes, wanted=st.lists(catalogues.clauses, max_size=3))
def test_columns_say_what_the_words_say(
    changes: list[tuple[str, Item | None]], wanted: list[dict[str, Any]]
) -> None:
    """Whatever came and went, exactly those items meet a condition of which it holds by the words.

    So it is when asked of all, of some, and after a restore.
    """
    shelf = Shelf()
    condition = sum(map(parse, wanted), ())
    for name, item in changes:
        shelf.put(name, item)
        expected = sorted(i for i, own in shelf.items.items() if catalogues.meets(own, condition))
        assert shelf.columns.select(condition).tolist() == expected
    some = np.array(sorted(shelf.items), np.int32)
    met = shelf.columns.matches(condition, some)
    twin = Columns(shelf.history)
    twin.load_state(shelf.columns.state())
    assert some[met > 0].tolist() == twin.select(condition).tolist()
    assert some[met > 0].tolist() == shelf.columns.select(condition).tolist()


@settings(deadline=None, derandomize=True)
@given(wanted=st.lists(catalogues.clauses, max_size=4))
def test_what_is_written_is_read_as_the_same(wanted: list[dict[str, Any]]) -> None:
    """A condition that is written as JSON and read again is equal."""
    condition = sum(map(parse, wanted), ())
    assert sum(map(parse, to_json(condition)), ()) == condition
