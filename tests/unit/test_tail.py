from __future__ import annotations

from app.store import BEGINNING, StoredEntry
from app.tail import Tail


def entry(ms: int, size: int = 1) -> StoredEntry:
    """Return an entry of a millisecond."""
    return StoredEntry(f"{ms}-0", b"x" * size, "tag")


def test_what_follows_the_last_entry_is_missing() -> None:
    """A log that ends within the tail has lost what the tail holds after it."""
    tail = Tail()
    entries = [entry(ms) for ms in (1, 2, 3)]
    tail.extend(entries[:2])
    tail.extend(entries[2:])
    assert tail.missing("3-0") == []
    assert tail.missing("1-0") == entries[1:]
    assert tail.missing(BEGINNING) == entries


def test_a_gap_is_never_filled_in_part() -> None:
    """Where the log ends before the tail begins, or at an entry never read, nothing is offered."""
    tail = Tail()
    tail.restart("5-0")
    tail.extend([entry(7), entry(9)])
    assert tail.missing("5-0") == [entry(7), entry(9)]
    for last in (BEGINNING, "4-0", "8-0", "10-0"):
        assert tail.missing(last) == [], last


def test_memory_is_bounded_by_time_and_bytes() -> None:
    """The oldest entries give way; what is left still says where it begins."""
    tail = Tail(kept_ms=10, kept_bytes=100)
    tail.extend([entry(ms) for ms in (1, 2, 12)])
    assert tail.missing(BEGINNING) == []
    assert tail.missing("1-0") == [entry(2), entry(12)]
    tail.extend([entry(13, 99)])
    assert tail.missing("12-0") == [entry(13, 99)]
    assert tail.missing("2-0") == [entry(12), entry(13, 99)]
    tail.extend([entry(14, 200)])
    assert tail.missing("14-0") == []
    assert tail.missing("13-0") == []
    tail.restart("14-0")
    assert tail.missing("14-0") == []


def test_what_was_appended_here_is_held_until_it_is_read() -> None:
    """Acknowledged before anybody has read it, an entry is missing where the log ends before it."""
    tail = Tail()
    tail.extend([entry(1), entry(2)])
    tail.expect([entry(4), entry(6)])
    assert tail.end == "6-0"
    assert tail.missing("1-0") == [entry(2), entry(4), entry(6)]
    assert tail.missing("4-0") == [entry(6)]
    assert tail.missing("1-0", also_unread=False) == [entry(2)]
    assert tail.missing("2-0", also_unread=False) == []
    # Others' entries: those that have not been read here may stand in between, or be the end.
    assert tail.missing("5-0") == [entry(6)]
    assert tail.missing("7-0") == []
    tail.extend([entry(3), entry(4), entry(5)])
    assert tail.missing("2-0") == [entry(3), entry(4), entry(5), entry(6)]
    tail.extend([entry(6)])
    assert (tail.end, tail.missing("5-0")) == ("6-0", [entry(6)])
    tail.expect([entry(6)])
    assert tail.missing("5-0") == [entry(6)]


def test_what_cannot_be_given_back_is_expected_no_more() -> None:
    """When the log goes on without an entry, its end is again what was read."""
    tail = Tail()
    tail.extend([entry(1)])
    tail.expect([entry(3)])
    assert tail.give_up("3-0") == [entry(3)]
    assert (tail.end, tail.missing("1-0")) == ("1-0", [])
    tail.expect([entry(4), entry(5)])
    assert tail.give_up("4-0") == [entry(4)]
    assert tail.end == "5-0"


def test_what_the_log_has_gone_on_without_is_told() -> None:
    """Others' entries that follow on one of ours, which is not among them, say that it is lost."""
    tail = Tail()
    tail.expect([entry(2), entry(4), entry(6)])
    assert tail.extend([entry(1), entry(2)]) == []
    assert tail.extend([entry(3), entry(5)]) == [entry(4)]
    assert tail.end == "6-0"
    assert tail.extend([entry(6), entry(7)]) == []
    assert tail.extend([]) == []


def test_what_is_expected_is_bounded_too() -> None:
    """The oldest gives way though it was never read, and the gap that this makes is not filled."""
    tail = Tail(kept_ms=10, kept_bytes=100)
    tail.extend([entry(1)])
    tail.expect([entry(2), entry(3)])
    tail.expect([entry(13)])
    assert tail.missing("2-0") == [entry(3), entry(13)]
    assert tail.missing("1-0") == []
    tail.extend([entry(2), entry(3)])
    assert tail.missing("3-0") == [entry(13)]
    tail.restart("1-0")
    assert (tail.end, tail.missing("1-0")) == ("1-0", [])
