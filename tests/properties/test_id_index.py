"""The table of ids against an ordered dictionary, with ids that want the same place."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Hashable

from hypothesis import given, settings
from hypothesis import strategies as st

from learners.id_index import IdIndex
from learners.kernels import MISS

CAPACITY = 12
# A whole number is its own hash: of these, many begin at the same of 32 slots, or at the last ones.
ids = st.one_of(
    st.sampled_from([31, 63, 95, 127, 30, 62, 94, 0, 32, 64, 1, 33]),
    st.sampled_from([f"u{n}" for n in range(8)]),
)
operations = st.tuples(st.sampled_from(["touch", "touch", "touch", "pop", "copy"]), ids)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(operations, max_size=100))
def test_an_index_is_an_ordered_dictionary(script: list[tuple[str, Hashable]]) -> None:
    """Whatever is touched and forgotten, each id has its index, in the order of touches."""
    names: list[Hashable | None] = [None] * CAPACITY
    index, model = IdIndex(names, CAPACITY), OrderedDict[Hashable, int]()
    for what, id_ in script:
        if what == "pop" and id_ in model:
            number = model.pop(id_)
            assert index.pop(id_) == number
            names[number] = None
        elif what == "touch" and id_ in model:
            model.move_to_end(id_)
            index.renew(model[id_])
        elif what == "touch" and len(model) < CAPACITY:
            number = names.index(None)
            names[number] = id_
            model[id_] = number
            index.add(id_, number)
        elif what == "copy":
            names, index = copy.deepcopy((names, index))
        assert list(index.items()) == list(model.items())
        assert (list(index), len(index)) == (list(model), len(model))
        assert list(index.latest()) == list(reversed(model.values()))
        for other in (31, 63, 95, 0, 32, "u1", "nobody"):
            assert (index.get(other), other in index) == (model.get(other), other in model)
            assert index.find(other) == model.get(other, MISS)
