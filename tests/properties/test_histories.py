from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from learners.history import History, Profile

MAX_ITEMS, MAX_USERS, RING, SCORED, HAD = 6, 4, 5, 3, 20


class ModelUser:
    def __init__(self) -> None:
        self.ring: list[tuple[list[str], int, float]] = []
        self.had: list[tuple[list[str], int, int]] = []
        # What requests know, while personal state comes in batches.
        self.seen_ring: list[tuple[list[str], int, float]] = []
        self.seen_had: list[list[str]] = []


class Model:
    """History in plain Python. An item is a list of its own: one that returns is another."""

    def __init__(self) -> None:
        self.items: OrderedDict[str, list[str]] = OrderedDict()
        self.users: OrderedDict[str, ModelUser] = OrderedDict()
        self.in_batches = False

    def item(self, id_: str) -> list[str]:
        """Return an item, made if need be, as the last to go."""
        if id_ not in self.items and len(self.items) == MAX_ITEMS:
            self.items.popitem(last=False)
        item = self.items.setdefault(id_, [id_])
        self.items.move_to_end(id_)
        return item

    def append(self, user_id: str, item_id: str, time_ms: int, reward: float, type_: int) -> None:
        """Take one event."""
        if user_id not in self.users and len(self.users) == MAX_USERS:
            self.users.popitem(last=False)
        user = self.users.setdefault(user_id, ModelUser())
        self.users.move_to_end(user_id)
        item = self.item(item_id)
        user.ring = [*user.ring, (item, time_ms, reward)][-RING:]
        places = [place for place, had in enumerate(user.had) if had[0] is item]
        if places:
            user.had[places[0]] = (item, time_ms, type_)
        else:
            if len(user.had) == HAD:
                user.seen_had = [had for had in user.seen_had if had is not user.had[0][0]]
            user.had = [*user.had, (item, time_ms, type_)][-HAD:]
        if not self.in_batches:
            self.begin()

    def begin(self) -> None:
        """Let requests know all there is."""
        for user in self.users.values():
            user.seen_ring = list(user.ring)
            user.seen_had = [had[0] for had in user.had]

    def lives(self, item: list[str]) -> bool:
        """Tell whether an item is still this one."""
        return self.items.get(item[0]) is item


def agree(model: Model, history: History) -> None:
    """Compare everything that can be read."""
    assert list(history.items.index) == list(model.items)
    assert list(history.users.index) == list(model.users)
    for user_id, user in model.users.items():
        index = history.users.get(user_id)
        ring = [(i[0], t, r) for i, t, r in reversed(user.ring) if model.lives(i)]
        assert history.events(index) == ring
        assert history.had(index) == [(i[0], t, k) for i, t, k in user.had if model.lives(i)]
        profile = history.profile(index, Profile(SCORED))
        positive = [item for item, _, reward in ring if reward > 0][:SCORED]
        assert [history.items.ids[i] for i in profile.items[: profile.n]] == positive
        seen = history.seen(index, Profile(SCORED))
        positive = [
            i[0] for i, _, reward in reversed(user.seen_ring) if reward > 0 and model.lives(i)
        ]
        assert [history.items.ids[i] for i in seen.items[: seen.n]] == positive[:SCORED]
        mark = np.zeros(MAX_ITEMS, np.int64)
        history.mark_had(index, mark, 1, is_past=seen.is_past)
        known = [had[0] for had in user.seen_had if model.lives(had)]
        assert {history.items.ids[i] for i in np.flatnonzero(mark).tolist()} == set(known)
        for item_id, item in model.items.items():
            expected = any(had[0] is item for had in user.had)
            assert history.has_had(index, history.items.get(item_id)) == expected


users = st.sampled_from([f"u{n}" for n in range(6)])
items = st.sampled_from([f"i{n}" for n in range(30)])
operations = st.one_of(
    st.tuples(st.just("append"), users, items, st.sampled_from([1.0, 0.5, -1.0])),
    st.tuples(st.just("append"), st.just("u0"), items, st.just(1.0)),
    st.tuples(st.just("forget"), users),
    st.tuples(st.just("evict"), items),
    st.tuples(st.just("reload")),
    st.tuples(st.just("begin")),
    st.tuples(st.just("end")),
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(operations, max_size=120))
def test_history_is_its_model(script: list[tuple[Any, ...]]) -> None:
    """Whatever happens, the arrays hold what plain lists would, also after a reload.

    And where personal state comes in batches, requests know what there was when this one began.
    """
    history, model = make(), Model()
    for tick, (name, *what) in enumerate(script, start=1):
        if name == "append":
            user, item, reward = what
            index = history.touch_user(user, tick)
            item_index = history.touch_item(item, tick)
            history.append(index, item_index, time_ms=tick, reward=reward, type_index=tick % 7)
            model.append(user, item, tick, reward, tick % 7)
        elif name == "forget" and what[0] in model.users:
            history.forget_user(what[0])
            del model.users[what[0]]
        elif name == "evict" and what[0] in model.items:
            history.evict_item(what[0])
            del model.items[what[0]]
        elif name in ("begin", "end"):
            getattr(history.as_of, name)()
            model.in_batches = name == "begin"
            model.begin()
        elif name == "reload":
            state = copy.deepcopy(history.state())
            history = make()
            history.load_state(state)
        agree(model, history)


def make() -> History:
    """Return a history so small that everything in it is evicted now and then."""
    return History(MAX_ITEMS, MAX_USERS, RING, SCORED, HAD)
