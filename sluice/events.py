"""Events, as an application has them and as they go over the wire."""

from __future__ import annotations

import json
import math
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field


def new_event_id() -> str:
    """Return an id that no other event has: with it, an event may be sent as often as need be."""
    return uuid.uuid4().hex


@dataclass(frozen=True, slots=True)
class Event:
    """What a user did with an item.

    `value` is a rating, `timestamp` in Unix seconds, `context` what the list that it answers was
    asked for with. The id and the time are set when the event is
    made, so that whenever, and however often, it is sent, it is the same event.

    Raises ValueError for what no service would take: an empty id, a value or time past all bounds.
    """

    user_id: str
    item_id: str
    type: str
    value: float | None = None
    timestamp: float = field(default_factory=time.time)
    recommendation_id: str | None = None
    source: str | None = None
    event_id: str = field(default_factory=new_event_id)
    context: Mapping[str, str | float] | None = None

    def __post_init__(self) -> None:
        for name in ("user_id", "item_id", "type", "event_id"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value:
                raise ValueError(f"{name} must be a string of one character or more, not {value!r}")
        for name in ("value", "timestamp"):
            number = getattr(self, name)
            if number is not None and not math.isfinite(number):
                raise ValueError(f"{name} must be finite, not {number!r}")
        for name, value in (self.context or {}).items():
            is_number = isinstance(value, int | float) and math.isfinite(value)
            if not (isinstance(value, str) or is_number):
                raise ValueError(f"context: {name} must be a string or a number, not {value!r}")

    def wire(self) -> bytes:
        """Return the event as JSON."""
        named = {name: getattr(self, name) for name in self.__slots__}
        plain = {n: dict(v) if n == "context" else v for n, v in named.items() if v is not None}
        return json.dumps(plain).encode()


def body_of(wired: list[bytes]) -> bytes:
    """Return the body of a POST of events."""
    return b"[" + b",".join(wired) + b"]"
