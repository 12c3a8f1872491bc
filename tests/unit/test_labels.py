from __future__ import annotations

import hashlib

import numpy as np
import pytest

from learners.base import ANCHOR, CHAMPION, SHADOW
from learners.history import Profile
from learners.labels import LABELS_PER_ITEM, MAX_LABELS, Labels

N_ITEMS = 60


def profile_of(*items: int) -> Profile:
    """Return a history with these items, the latest first."""
    profile = Profile(20)
    profile.n = len(items)
    profile.items[: len(items)] = items
    profile.weights[: len(items)] = 1.0 / np.arange(1, len(items) + 1)
    return profile


def worth(labels: Labels, profile: Profile, version: int = SHADOW) -> dict[str, float]:
    """Return what a history says of each label."""
    sums = labels.sums_for(profile, version)
    found = {}
    for item in range(N_ITEMS):
        for number, name in zip(labels.of_item[item], labels.of(item)):
            places = np.flatnonzero(sums.key == (sums.tick[0] << 32 | number - 1))
            found[name] = float(sums.sum[places[0]]) if len(places) else 0.0
    return found


def content(labels: Labels) -> str:
    """Return a hash of all that is known of the items."""
    sha = hashlib.sha256()
    labels.update_hash(np.arange(N_ITEMS, dtype=np.int32), sha)
    return sha.hexdigest()


def taught() -> Labels:
    """Return labels of which a goes with b (and with itself), and c with c."""
    labels = Labels(N_ITEMS)
    for item in range(N_ITEMS):
        labels.put(item, ["abc"[item % 3], f"kind\x1f{item % 3}"])
    for n in range(0, 54, 3):
        labels.learn(profile_of(n), n + 4, 1.0)  # b after a
        labels.learn(profile_of(n), n + 3, 1.0)  # a after a
        labels.learn(profile_of(n + 2), n + 5, 1.0)  # c after c
    return labels


def test_labels_go_with_what_their_items_were_had_with() -> None:
    """A history of a speaks for a and b, both known from other items, and says nothing of c."""
    found = worth(taught(), profile_of(57))
    assert found["a"] > 0.2
    assert found["b"] > 0.2
    assert found["c"] == 0.0
    assert found["kind\x1f1"] == pytest.approx(found["b"])


def test_refusals_and_items_without_labels_teach_nothing() -> None:
    """Only what was liked, and only what has labels, is learned from."""
    labels = taught()
    before = content(labels)
    labels.learn(profile_of(2), 0, -1.0)
    labels.put(59, [])
    labels.put(59, ["c", "kind\x1f2"])
    assert content(labels) == before
    labels.put(58, [])
    labels.learn(profile_of(2), 58, 1.0)
    labels.put(58, ["b", "kind\x1f1"])
    assert content(labels) == before


def test_what_is_learned_has_versions() -> None:
    """What the shadow learned is served once it is assigned, and gone when that is set back."""
    labels = taught()
    assert worth(labels, profile_of(0), CHAMPION)["b"] == 0.0
    labels.assign(CHAMPION, SHADOW)
    served = worth(labels, profile_of(0), CHAMPION)
    assert served == worth(labels, profile_of(0))
    for _ in range(30):
        labels.learn(profile_of(2), 1, 1.0)
    assert worth(labels, profile_of(0), CHAMPION) == served
    labels.assign(SHADOW, ANCHOR)
    assert worth(labels, profile_of(0))["b"] == 0.0


def test_a_label_that_nothing_has_leaves() -> None:
    """Its counts go with it: what gets its index next begins with nothing."""
    labels = taught()
    for item in range(1, N_ITEMS, 3):
        labels.put(item, [])
    for item in range(1, N_ITEMS, 3):
        labels.put(item, ["other"])
    found = worth(labels, profile_of(0))
    assert "b" not in found
    assert found["other"] == 0.0


def test_labels_are_bounded() -> None:
    """An item has its first labels; past MAX_LABELS a new one is not learned about."""
    labels = Labels(MAX_LABELS)
    names = [f"n{n}" for n in range(LABELS_PER_ITEM + 2)]
    labels.put(0, names * 2)
    assert labels.of(0) == names[:LABELS_PER_ITEM]
    for item in range(1, MAX_LABELS):
        labels.put(item, [f"m{item}"])
    last = MAX_LABELS - LABELS_PER_ITEM
    assert labels.of(last) == [f"m{last}"]
    assert labels.of(last + 1) == []
    labels.put(last + 1, ["n0", "beyond"])
    assert labels.of(last + 1) == ["n0"]
    labels.put(last, [])
    labels.put(last + 1, ["beyond"])
    assert labels.of(last + 1) == ["beyond"]


def test_labels_survive_a_snapshot() -> None:
    """What is loaded is the same, learns the same, and numbers new labels the same."""
    one, other = taught(), Labels(N_ITEMS)
    one.put(0, ["z"])
    one.put(1, ["z", "y"])
    one.put(0, [])
    other.load_state(one.state(N_ITEMS))
    for labels in (one, other):
        labels.put(2, ["new"])
        labels.learn(profile_of(0, 3, 4), 1, 1.0)
    assert content(one) == content(other)
    assert np.array_equal(one.of_item, other.of_item)


def test_restoring_takes_over_what_was_learned_under_the_names_of_now() -> None:
    """Counts of labels that are still there come back, wherever they are now; no others do."""
    then = taught()
    state = then.state(N_ITEMS)
    now = Labels(N_ITEMS)
    for item in range(N_ITEMS):
        now.put(item, [f"kind\x1f{item % 3}", "abc"[item % 3]] if item % 3 else ["new"])
    now.restore(state)
    found, before = worth(now, profile_of(2)), worth(then, profile_of(2))
    assert before["c"] > 0.2
    assert {name: found[name] for name in ("b", "c")} == {name: before[name] for name in "bc"}
    assert found["new"] == 0.0
    now.restore(None)
    assert set(worth(now, profile_of(2)).values()) == {0.0}
