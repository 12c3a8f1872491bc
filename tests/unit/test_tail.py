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
