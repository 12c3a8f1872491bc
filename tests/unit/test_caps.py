from __future__ import annotations

import copy

import pytest

from app import caps
from app.admission import Admission
from app.events import Feedback
from tests.factories import apply, click, make_engine, make_settings, sessions

HOUR_S = 3_600
SMALL = {"cap_user": 5, "cap_user_item": 2, "cap_source_item": 3}


def reasons(admission: Admission, events: list[Feedback]) -> list[str | None]:
    """Return why each event was refused, None where it was learned."""
    verdicts = [admission.decide(event, None) for event in events]
    for verdict in verdicts:
        admission.count(verdict.status, verdict.reason)
    return [verdict.reason for verdict in verdicts]


def from_source(user: str, item: str, source: str | None) -> Feedback:
    """Return a click that names its source."""
    return Feedback(f"{user}-{item}-{source}", user, item, "click", None, 0, source)


def test_one_user_teaches_up_to_the_cap() -> None:
    """The events of one user past the cap are quarantined; others go on as ever."""
    admission = Admission(make_settings(**SMALL))
    flood = [click("flood", f"i{n}") for n in range(8)]
    assert reasons(admission, flood) == [None] * 5 + ["cap_user"] * 3
    assert reasons(admission, [click("other", "i1")]) == [None]
    assert admission.counts == {"learned": 6, "quarantined:cap_user": 3}


def test_one_user_repeats_one_item_up_to_the_cap() -> None:
    """So are the repeats of one user on one item, whatever their type."""
    admission = Admission(make_settings(**SMALL))
    repeats = [click("u", "i", event_id=f"e{n}", type="view") for n in range(4)]
    assert reasons(admission, repeats) == [None, None, "cap_user_item", "cap_user_item"]
    assert reasons(admission, [click("u", "j"), click("v", "i")]) == [None, None]


def test_one_source_pushes_one_item_up_to_the_cap() -> None:
    """A source's events on one item are capped, whoever its users are; without one none are."""
    admission = Admission(make_settings(**SMALL))
    push = [from_source(f"u{n}", "i", "net") for n in range(5)]
    assert reasons(admission, push) == [None] * 3 + ["cap_source_item"] * 2
    free = [from_source(f"v{n}", "i", None) for n in range(5)]
    assert reasons(admission, [*free, from_source("w", "j", "net")]) == [None] * 6


def test_the_next_window_begins_anew() -> None:
    """What was past a cap may be sent again, under its own id, once the hour is over."""
    admission = Admission(make_settings(cap_user_item=1))
    again = click("u", "i", event_id="again", at_s=10)
    assert reasons(admission, [click("u", "i"), again]) == [None, "cap_user_item"]
    assert reasons(admission, [click("v", "j", at_s=HOUR_S)]) == [None]
    assert reasons(admission, [again]) == [None]  # late by an hour: it counts for this one
    assert reasons(admission, [click("u", "i", at_s=HOUR_S)]) == ["cap_user_item"]


def test_what_is_refused_turns_no_window() -> None:
    """An event that is refused for another reason, in the next hour, does not clear the counts."""
    admission = Admission(make_settings(cap_user_item=1))
    admission.decide(click("u", "i"), None)
    ahead = click("v", "unheard-of", at_s=HOUR_S)
    assert (
        admission.decide(ahead, None, barred=("unknown_item", "no such item")).reason
        == "unknown_item"
    )
    assert reasons(admission, [click("u", "i", event_id="e2")]) == ["cap_user_item"]


def test_caps_of_zero_are_off() -> None:
    """Without caps everything is learned, and nothing is counted."""
    admission = Admission(make_settings(cap_user=0, cap_user_item=0))
    many = [click("u", "i", event_id=f"e{n}") for n in range(2_000)]
    assert set(reasons(admission, many)) == {None}
    assert len(admission.state()["caps"]["counts"]) == 0


def test_a_flood_of_ids_costs_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past so many counters a window begins early; the flood gets its caps anew, no more."""
    monkeypatch.setattr(caps, "MAX_COUNTED", 100)
    admission = Admission(make_settings(cap_user_item=1))
    for n in range(1_000):
        admission.decide(click(f"u{n}", "i"), None)
        assert len(admission.state()["caps"]["counts"]) <= 100


def test_state_continues_identically() -> None:
    """Caps made from a state refuse what the original refuses."""
    settings = make_settings(**SMALL)
    admission, twin = Admission(settings), Admission(settings)
    events = [from_source(f"u{n % 3}", f"i{n % 4}", "net") for n in range(9)]
    reasons(admission, events)
    twin.load_state(copy.deepcopy(admission.state()))
    assert twin.canonical() == admission.canonical()
    more = [
        click(f"u{n % 3}", f"i{n % 4}", event_id=f"m{n}", at_s=HOUR_S * n / 30) for n in range(60)
    ]
    assert reasons(twin, more) == reasons(admission, more)
    assert twin.canonical() == admission.canonical()


def test_past_the_cap_nothing_is_taught() -> None:
    """A flood leaves the model as its first events left it, to the last byte."""
    flood = [click("flood", f"g01i{n % 10}", at_s=9_000 + n) for n in range(300)]
    calm, flooded = (make_engine(cap_user=20) for _ in range(2))
    for engine, events in ((calm, flood[:20]), (flooded, flood)):
        apply(engine, *sessions(300))
        apply(engine, *events)
    assert flooded.hashes()["model_hash"] == calm.hashes()["model_hash"]
    assert flooded.admission.counts["quarantined:cap_user"] == 280
