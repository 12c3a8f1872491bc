"""Whose records are: ids that were merged into users, and came back."""

from __future__ import annotations

from app.events import Entry, Feedback, Malformed, Record, UserMerge, encode
from app.identity import Identity


def identity(user_id: str, *merges: tuple[int, str, str]) -> Identity:
    """Return a user's identity after merges: at which entry, into whom, of which id."""
    found = Identity(user_id)
    for at, into, from_id in merges:
        found.note(encode(Entry([UserMerge(into, from_id)])), (at, 0))
    return found


def theirs(found: Identity, id_: str) -> list[int]:
    """Return at which of 20 entries an id was theirs."""
    return [at for at in range(20) if found.is_theirs(id_, (at, 0, 0))]


def test_an_id_is_theirs_until_it_was_merged() -> None:
    """What came in under an id before the merge is the user's, and what came later is not."""
    found = identity("ana", (5, "ana", "x"))
    assert theirs(found, "x") == list(range(6))
    assert theirs(found, "ana") == list(range(20))
    assert theirs(found, "y") == []
    assert found.ids == ["ana", "x"]


def test_ids_are_followed_from_one_to_the_next() -> None:
    """An id merged into an id that was merged into the user later is the user's, too."""
    found = identity("ana", (10, "ana", "y"), (5, "y", "x"), (15, "ben", "y"))
    assert theirs(found, "x") == list(range(6))
    assert theirs(found, "y") == list(range(11))
    assert theirs(identity("ana", (5, "ana", "y"), (10, "y", "x")), "x") == []


def test_an_id_may_be_several_persons_in_turn() -> None:
    """Of an id that several users had, each has what came before their own merge alone."""
    merges = (3, "ben", "x"), (8, "ana", "x"), (12, "ben", "x")
    assert theirs(identity("ana", *merges), "x") == [4, 5, 6, 7, 8]
    assert theirs(identity("ben", *merges), "x") == [0, 1, 2, 3, 9, 10, 11, 12]


def test_a_user_who_was_merged_is_theirs_by_name() -> None:
    """Whoever asks for an id means all that came in under it, whoever got it later."""
    found = identity("ana", (5, "ben", "ana"), (9, "ana", "x"))
    assert theirs(found, "ana") == list(range(20))
    assert theirs(found, "ben") == []
    assert theirs(found, "x") == list(range(10))


def test_what_was_known_is_known_again() -> None:
    """Once the log has the merges no more, what was kept of them says the same; no others' ids."""
    merges = (5, "y", "x"), (7, "ben", "z"), (10, "ana", "y"), (15, "ben", "y")
    before, after = identity("ana", *merges), identity("ana", (18, "ana", "w"))
    after.recall(before.merges())
    assert b"z" not in before.merges()
    assert theirs(after, "w") == list(range(19))
    for id_ in ("x", "y", "z"):
        assert theirs(after, id_) == theirs(before, id_)


def test_records_about_them_are_left_out() -> None:
    """Events, merges and unreadable events under any of their ids go; others' stay."""
    found = identity("ana", (5, "ana", "x"))
    others: list[Record] = [
        Feedback("e2", "ben", "x", "click"),
        Malformed("schema", "", None, "xy"),
    ]
    own: list[Record] = [
        Feedback("e1", "x", "i", "click"),
        UserMerge("ana", "x"),
        Malformed("schema", "", None, "{'user_id': 'x'}"),
    ]
    assert found.without(Entry(own + others, 7), (4, 0)) == Entry(others, 7)
    assert found.without(Entry(own[:1]), (6, 0)) == Entry(own[:1])


def test_it_tells_when_more_is_theirs() -> None:
    """A merge that was not known makes a difference only if it is into one of their ids."""
    found = identity("ana", (5, "ana", "x"))
    assert not found.note(encode(Entry([UserMerge("ana", "x")])), (5, 0))
    assert not found.note(encode(Entry([UserMerge("ben", "z")])), (6, 0))
    assert not found.note(encode(Entry([Feedback("e", "u", "i", "click")])), (7, 0))
    assert found.note(encode(Entry([UserMerge("ana", "z")])), (8, 0))
