"""Recommendation ids where none are signed: 96 random bits, told apart but proving nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator

_BYTES = 12
# To draw is a system call, which takes longer than all else about an id.
_DRAWN_AT_ONCE = 256


def _random_ids() -> Iterator[str]:
    while True:
        drawn = os.urandom(_BYTES * _DRAWN_AT_ONCE).hex()
        for start in range(0, len(drawn), 2 * _BYTES):
            yield drawn[start : start + 2 * _BYTES]


random_id = _random_ids().__next__
"""Returns another id each time, of 24 hexadecimal digits; for the event loop's thread alone."""
