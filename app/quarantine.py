"""What is kept of an event that was not learned: enough to look at it, and to release it."""

from __future__ import annotations

import msgspec
import orjson

from app.admission import Verdict
from app.events import Feedback, Malformed


def record_of(event: Feedback | Malformed, verdict: Verdict) -> bytes:
    """Return the record of an event, as JSON."""
    shown = {"reason": verdict.reason, "message": verdict.message}
    return orjson.dumps(shown | {"event": msgspec.structs.asdict(event)})


def released(record: bytes, arrival_ms: int) -> Feedback | None:
    """Return the event of a record as one to be learned; None where there is nothing to learn.

    One without a time of its own is of when it came.
    """
    shown = orjson.loads(record)["event"]
    if "item_id" not in shown:
        return None
    fields = [shown.get(name) for name in Feedback.__struct_fields__]
    event = msgspec.convert([Feedback.__struct_config__.tag, *fields], Feedback)
    time_ms = arrival_ms if event.time_ms is None else event.time_ms
    return msgspec.structs.replace(event, time_ms=time_ms, released=True)
