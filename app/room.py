"""To be imported before all else: makes room for Python's objects in one place.

Python asks for memory by the megabyte, and in the course of imports it gets what is free between
the libraries that are mapped meanwhile: pieces that no page of 2 MiB fits into, so that a copy of
the process takes longer (see `pages`). The room is no larger than what the imports fill anyway.
"""

from __future__ import annotations

_ROOM = 60 * 2**20
# The largest objects that Python keeps in such memory, and the pieces that it asks for.
_OBJECT, _ARENA = 512, 2**20


def _make_room() -> list[bytes]:
    """Fill the room with objects; return two of each megabyte, without which it would be let go."""
    content = bytearray(_OBJECT - b"".__sizeof__())
    objects = [b""] * (_ROOM // _OBJECT)  # whole at once: a list that grows makes gaps of its own
    for place in range(len(objects)):
        objects[place] = bytes(content)
    return objects[:: _ARENA // _OBJECT // 2]


_KEPT = _make_room()
