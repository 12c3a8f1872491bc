from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import pytest

from app.admission import TOKEN_FLAWS, Admission, RewardError, Verdict, reward_of
from app.events import VALID, Feedback, Malformed
from app.settings import EngineSettings
from tests.factories import START_MS, click, make_settings

DAY_S = 86_400


def admit(**changes: object) -> Admission:
    """Return an admission that has learned one event, "first", at the start of time."""
    admission = Admission(make_settings(**changes))
    assert admission.decide(click("u", "i", event_id="first"), None).status == "learned"
    return admission


@dataclass(frozen=True)
class Case:
    at_s: float
    status: str
    reason: str | None


@pytest.mark.parametrize(
    "case",
    [
        Case(5.0, "learned", None),
        Case(5.001, "quarantined", "future"),
        Case(1e9, "quarantined", "future"),
    ],
)
def test_the_future_begins_five_seconds_after_arrival(case: Case) -> None:
    """An event up to 5 s ahead of its arrival is believed; past that it is quarantined."""
    admission = Admission(EngineSettings())
    verdict = admission.decide(click("u", "i", at_s=case.at_s), START_MS)
    assert (verdict.status, verdict.reason) == (case.status, case.reason)
    moved = START_MS + round(case.at_s * 1_000) if case.status == "learned" else 0
    assert admission.watermark_ms == moved


@pytest.mark.parametrize(
    "case", [Case(-DAY_S, "learned", None), Case(-DAY_S - 0.001, "late", "late")]
)
def test_late_begins_a_day_behind_the_watermark(case: Case) -> None:
    """An event exactly `lateness_s` behind is still learned; a millisecond more is late."""
    admission = admit(lateness_s=DAY_S)
    verdict = admission.decide(click("u", "i", at_s=case.at_s), None)
    assert (verdict.status, verdict.reason) == (case.status, case.reason)
    assert admission.watermark_ms == START_MS


def test_offline_nothing_is_from_the_future() -> None:
    """Without an arrival time the newest event moves the watermark, however far."""
    admission = admit()
    assert admission.decide(click("u", "i", at_s=1e8), None).status == "learned"
    assert admission.watermark_ms == START_MS + 10**11


def test_a_duplicate_is_a_duplicate_before_it_is_late_or_early() -> None:
    """Re-sent long after, or with another time, an id that was learned is a duplicate."""
    admission = admit()
    admission.decide(click("u", "i", at_s=10 * DAY_S), None)
    for at_s in (0, 1e9, -1e8):
        again = click("u", "i", event_id="first", at_s=at_s)
        assert admission.decide(again, START_MS).status == "duplicate"


def test_schema_comes_before_duplicate() -> None:
    """An event that cannot be read is quarantined, even under an id that was learned."""
    admission = admit()
    bad = click("u", "i", event_id="first", type="nonsense")
    assert admission.decide(bad, None).reason == "unknown_type"


def test_only_learned_ids_are_remembered() -> None:
    """An event that was refused may be sent again, put right, under its own id."""
    admission = admit()
    for bad in (
        click("u", "i", event_id="e", type="nonsense"),
        click("u", "i", event_id="e", at_s=-10 * DAY_S),
        click("u", "i", event_id="e", type="rating", value=9.0),
    ):
        assert admission.decide(bad, None).status in ("quarantined", "late")
    assert admission.decide(click("u", "i", event_id="e"), None).status == "learned"


def test_the_window_forgets_the_oldest_id() -> None:
    """Past `dedupe_window` the id admitted first can be learned again; a duplicate renews none."""
    admission = Admission(make_settings(dedupe_window=3))
    for event_id in "abcad":
        admission.decide(click("u", "i", event_id=event_id), None)
    status = {i: admission.decide(click("u", "i", event_id=i), None).status for i in "dcb"}
    assert status == {"d": "duplicate", "c": "duplicate", "b": "duplicate"}
    assert admission.decide(click("u", "i", event_id="a"), None).status == "learned"
    assert len(admission.window()) == 3 * 16


def test_without_a_time_the_arrival_counts() -> None:
    """An event without a time has that of its arrival; with neither it is quarantined."""
    admission = Admission(EngineSettings())
    event = Feedback("e", "u", "i", "click")
    verdict = admission.decide(event, None)
    assert (verdict.status, verdict.reason) == ("quarantined", "schema")
    assert admission.decide(event, START_MS).time_ms == START_MS


@pytest.mark.parametrize(
    ("mode", "token", "status"),
    [
        ("off", None, "learned"), ("check", None, "learned"), ("require", None, "quarantined"),
        ("off", VALID, "learned"), ("check", VALID, "learned"), ("require", VALID, "learned"),
        ("off", "user", "learned"), ("check", "user", "quarantined"),
        ("require", "user", "quarantined"), ("check", "of a later version", "quarantined"),
    ],
)  # fmt: skip
def test_what_a_token_decides(mode: str, token: str | None, status: str) -> None:
    """`check` refuses a token that is not valid, `require` also an event without one."""
    admission = Admission(make_settings(tokens=mode))
    verdict = admission.decide(click("u", "i", token=token), None)
    assert verdict.status == status
    assert verdict.reason == ("token" if status == "quarantined" else None)
    again = admission.decide(click("u", "i", token=token, released=True), None)
    assert again.status == ("learned" if status == "quarantined" else "duplicate")


@pytest.mark.parametrize("flaw", TOKEN_FLAWS)
def test_a_refused_token_says_why(flaw: str) -> None:
    """The quarantine list tells what is wrong with the token, for each verdict."""
    verdict = Admission(make_settings(tokens="check")).decide(click("u", "i", token=flaw), None)
    assert verdict[:3] == ("quarantined", "token", TOKEN_FLAWS[flaw])


def test_an_id_that_nobody_verified_is_none() -> None:
    """Where tokens count, an id that came in while they were off there is no proof."""
    event = click("u", "i", recommendation_id="whatever")
    for mode, status in (("off", "learned"), ("check", "quarantined"), ("require", "quarantined")):
        assert Admission(make_settings(tokens=mode)).decide(event, None).status == status


def test_a_duplicate_is_one_whatever_its_token() -> None:
    """A retry is answered `duplicate`, also when its token has expired meanwhile."""
    admission = Admission(make_settings(tokens="require"))
    assert admission.decide(click("u", "i", token=VALID), None).status == "learned"
    for token in (VALID, "expired", None):
        assert admission.decide(click("u", "i", token=token), None).status == "duplicate"


def test_malformed_keeps_its_reason() -> None:
    """What could not be parsed is quarantined for the reason found then."""
    verdict = Admission(EngineSettings()).decide(Malformed("schema", "no user"), None)
    assert verdict[:3] == ("quarantined", "schema", "no user")


def test_counts_tell_every_answer() -> None:
    """Each answer is counted under its status and reason."""
    admission = admit()
    barred = ("unknown_item", "no such item")
    for verdict in (
        Verdict("learned"),
        admission.decide(click("u", "i", event_id="first"), None),
        admission.decide(click("u", "i", at_s=-10 * DAY_S), None),
        admission.decide(click("u", "new", event_id="n"), None, barred=barred),
    ):
        admission.count(verdict.status, verdict.reason)
    assert admission.counts == {
        "learned": 1, "duplicate": 1, "late:late": 1, "quarantined:unknown_item": 1
    }  # fmt: skip


@pytest.mark.parametrize(
    ("type_", "value", "reward"),
    [
        ("click", None, 1.0), ("view", None, 0.5), ("dislike", None, -1.0), ("click", 9.0, 1.0),
        ("rating", 5.0, 1.0), ("rating", 4.0, 1.0), ("rating", 2.5, -0.5), ("rating", 1.0, -1.0),
    ],
)  # fmt: skip
def test_rewards(type_: str, value: float | None, reward: float) -> None:
    """A type has its reward; a rating is positive from 4 on and falls to -1 at the bottom."""
    assert reward_of(click("u", "i", type=type_, value=value), EngineSettings()) == reward


@pytest.mark.parametrize(
    ("type_", "value", "reason"),
    [
        ("nonsense", None, "unknown_type"), ("rating", None, "reward"), ("rating", 0.99, "reward"),
        ("rating", 5.01, "reward"), ("rating", math.nan, "reward"), ("rating", math.inf, "reward"),
        ("rating", -math.inf, "reward"),
    ],
)  # fmt: skip
def test_what_has_no_reward(type_: str, value: float | None, reason: str) -> None:
    """An unknown type, and a rating that is none, are refused by reason."""
    with pytest.raises(RewardError) as caught:
        reward_of(click("u", "i", type=type_, value=value), EngineSettings())
    assert caught.value.reason == reason


def test_state_continues_identically() -> None:
    """An admission made from a state answers as the original does, down to what it forgets next."""
    settings = make_settings(dedupe_window=3)
    admission = Admission(settings)
    for event_id in "abc":
        admission.decide(click("u", "i", event_id=event_id, at_s=9), None)
    twin = Admission(settings)
    twin.load_state(copy.deepcopy(admission.state()))
    for event in [click("u", "i", event_id=i, at_s=s) for i in "cdab" for s in (0, -2 * DAY_S)]:
        assert admission.decide(event, None) == twin.decide(event, None)
    assert admission.window() == twin.window()
    assert (admission.counts, admission.watermark_ms) == (twin.counts, twin.watermark_ms)


def test_an_empty_state_is_a_state() -> None:
    """A window without ids survives."""
    twin = Admission(make_settings())
    twin.load_state(Admission(make_settings()).state())
    assert twin.window() == b""
    assert twin.decide(click("u", "i"), None).status == "learned"
