"""Records of refused events, and what is learned when one is released."""

from __future__ import annotations

import pytest

from app.admission import Verdict
from app.events import Feedback, Malformed
from app.quarantine import record_of, released
from tests.factories import START_MS, apply, click, make_engine


def test_a_record_is_released_as_the_event_that_it_was() -> None:
    """Everything of the event comes back; without a time of its own, it has that of its coming."""
    event = Feedback("e", "u", "i", "rating", 4.0, None, "app", "slate", "expired", "hold:1:b")
    record = record_of(event, Verdict("quarantined", "token", "too old"))
    back = released(record, 77)
    assert back is not None
    assert back.released
    assert back.time_ms == 77
    fields = [name for name in Feedback.__struct_fields__ if name not in ("released", "time_ms")]
    assert [getattr(back, name) for name in fields] == [getattr(event, name) for name in fields]


def test_what_was_no_event_cannot_be_released() -> None:
    """There is nothing to learn from what could not be read."""
    malformed = Malformed("malformed", "no JSON", None, "{")
    record = record_of(malformed, Verdict("quarantined", "malformed", "no JSON"))
    assert released(record, 0) is None


@pytest.mark.parametrize("at_s", [-100_000, 0, 100_000])
def test_a_released_event_is_of_a_time_that_is_accepted(at_s: float) -> None:
    """Late and future ones are learned as of the nearest accepted time, past caps and tokens."""
    engine = make_engine(cap_user=1, tokens="require", lateness_s=50, future_s=5)
    apply(engine, click("u", "i1", at_s=0, released=True), arrival_ms=START_MS)
    event = click("u", "i2", at_s=at_s, event_id="again")
    assert apply(engine, event, arrival_ms=START_MS).results[0].status != "learned"
    let_out = click("u", "i2", at_s=at_s, event_id="again", released=True)
    outcome = apply(engine, let_out, arrival_ms=START_MS)
    assert outcome.results[0].status == "learned"
    assert engine.admission.watermark_ms == START_MS
    user, item = engine.history.users.get("u"), engine.history.items.get("i2")
    assert engine.history.has_had(user, item)
    assert apply(engine, let_out, arrival_ms=START_MS).results[0].status == "duplicate"
