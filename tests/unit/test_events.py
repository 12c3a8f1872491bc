from __future__ import annotations

import json
import math
from typing import Any

import orjson
import pytest

from app import events
from app.events import Entry, Feedback, Malformed, parse_feedback

OK = {"user_id": "u", "item_id": "i", "type": "click"}


def parse(**changes: Any) -> Feedback | Malformed:
    """Read one client event that differs from a good one."""
    return parse_feedback(OK | changes, new_id="new")


def test_another_wire_version_is_refused() -> None:
    """An entry of another version is refused by number, before its records are looked at."""
    payload = json.dumps({"version": 2, "records": [["unheard-of"]], "more": 1}).encode()
    with pytest.raises(ValueError, match="wire version 2; this program reads version 1"):
        events.decode(payload)


@pytest.mark.parametrize(
    "payload",
    [b"", b"{", b"[]", b"\xff", b"{}", b'{"version":1}', b'{"version":"1","records":[]}'],
)
def test_a_damaged_payload_is_refused(payload: bytes) -> None:
    """What is no entry raises ValueError, as promised to whoever reads the log."""
    with pytest.raises(ValueError):
        events.decode(payload)


def test_the_wire_form_is_written_down() -> None:
    """Bytes of version 1 written by an older program are read for ever."""
    payload = (
        b'{"records":[["feedback","e","u","i","click",null,5,null,null],'
        b'["malformed","schema","why",null,""],'
        b'["item","i",["a"],{"n":1},true,5,false],["item_delete","i"],'
        b'["user","u",{"n":1.5}],["user_delete","u"],'
        b'["command","restore","why","who",false,"snapshot"],'
        b'["configure",1,{"seed":1},false]],"arrival_ms":7,"version":1}'
    )
    entry = events.decode(payload)
    assert events.decode(events.encode(entry)) == entry
    assert len(entry.records) == 8
    assert entry.records[0] == Feedback("e", "u", "i", "click", time_ms=5)


@pytest.mark.parametrize("value", ["a", "x" * 256, "ü" * 128, "a b", "😀", "a/b?c#d", "null", "0"])
def test_ids_that_are_good(value: str) -> None:
    """An id may have any characters but control characters, up to 256 bytes."""
    assert events.check_id("user_id", value) == value


@pytest.mark.parametrize(
    "value", ["", "x" * 257, "ü" * 129, "a\nb", "\x00", "\x7f", "\x9f", "\x1f", "\ud800"]
)
@pytest.mark.parametrize(
    "name", ["user_id", "item_id", "type", "event_id", "source", "recommendation_id"]
)
def test_ids_that_are_not(name: str, value: str) -> None:
    """A bad id makes the event malformed, and the message names the field."""
    event = parse(**{name: value})
    assert isinstance(event, Malformed)
    assert event.reason == "schema"
    assert name in event.message
    assert events.decode(events.encode(Entry([event]))).records == [event]


@pytest.mark.parametrize(
    ("given", "time_ms"),
    [
        (0, 0),
        (1.5, 1_500),
        (1_764_000_000, 1_764_000_000_000),
        ("1970-01-01T00:00:00Z", 0),
        ("2026-11-23T18:00:00.123Z", 1_795_456_800_123),
        ("2026-11-23T18:00:00.123999Z", 1_795_456_800_123),
        ("2026-11-23T20:00:00+02:00", 1_795_456_800_000),
        ("9999-12-31T23:59:59Z", events.MAX_TIME_MS),
        (253_402_300_799, events.MAX_TIME_MS),
    ],
)
def test_times_that_are_good(given: str | float, time_ms: int) -> None:
    """RFC 3339 and Unix seconds are read to the millisecond, from 1970 to 9999."""
    assert events.parse_time(given) == time_ms


@pytest.mark.parametrize(
    "given",
    [
        -0.001, -1, 253_402_300_799.001, 1e300, math.inf, -math.inf, math.nan,
        "", "yesterday", "2026-11-23T18:00:00", "2026-13-01T00:00:00Z", "1764000000",
        "1969-12-31T23:59:59.999Z", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59.001Z",
        "\ud800",
    ],
)  # fmt: skip
def test_times_that_are_not(given: str | float) -> None:
    """Anything else is a ValueError, and the event that has it malformed."""
    with pytest.raises(ValueError, match="timestamp"):
        events.parse_time(given)
    assert isinstance(parse(timestamp=given), Malformed)


def test_a_number_too_large_for_a_float_is_no_time() -> None:
    """An integer of 400 digits is malformed like any other, not an exception."""
    assert isinstance(parse(timestamp=10**400), Malformed)


@pytest.mark.parametrize("time_ms", [0, 1, 999, 1_795_456_800_123, events.MAX_TIME_MS])
def test_times_go_out_as_they_came_in(time_ms: int) -> None:
    """What format_time writes, parse_time reads back exactly."""
    assert events.parse_time(events.format_time(time_ms)) == time_ms


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400, "4", True, [4]])
def test_values_that_are_no_numbers(value: object) -> None:
    """A value must be a finite number."""
    event = parse(value=value)
    assert isinstance(event, Malformed)
    assert event.reason == "schema"


@pytest.mark.parametrize("raw", [None, 5, "click", [], [OK], {}, OK | {"user_id": 5}, {"a": {}}])
def test_other_shapes_are_malformed(raw: object) -> None:
    """What is no object with the three fields is kept as malformed, with an excerpt."""
    event = parse_feedback(raw, new_id="new")
    assert isinstance(event, Malformed)
    assert event.excerpt == repr(raw)


def test_excerpts_are_short() -> None:
    """Ten megabytes of id leave 512 characters behind."""
    event = parse(user_id="x" * 10_000_000)
    assert isinstance(event, Malformed)
    assert len(event.excerpt) == events.MAX_EXCERPT_CHARS


def test_nesting_as_deep_as_json_goes_is_malformed() -> None:
    """An object nested as deep as our JSON reader allows is malformed, not an exception."""
    deep = orjson.loads(b"[" * 1_000 + b"]" * 1_000)
    assert isinstance(parse(user_id=deep), Malformed)


def test_malformed_keeps_a_good_event_id() -> None:
    """The answer for a malformed event can name it, if its own id is good."""
    for given, kept in (("e-1", "e-1"), ("", None), (7, None), ("x" * 300, None)):
        event = parse(user_id="", event_id=given)
        assert event.event_id == kept


def test_unknown_fields_are_ignored() -> None:
    """A client may send more than we know."""
    assert parse(colour="red", event_id="e") == parse(event_id="e")


def test_a_client_cannot_judge_its_own_token() -> None:
    """Verdict, team and release are ours to say: sent by a client they are unknown fields."""
    sent = {"token": events.VALID, "draft": "hold:1:b", "released": True}
    event = parse(event_id="e", recommendation_id="r", **sent)
    assert event == Feedback("e", "u", "i", "click", recommendation_id="r")


def test_a_recommendation_id_may_be_longer_where_it_is_a_token() -> None:
    """The bound of a recommendation id is the caller's to set; that of all others stays."""
    long = "x" * 2_048
    for bound, name, kind in (
        (2_048, "recommendation_id", Feedback),
        (2_047, "recommendation_id", Malformed),
        (2_048, "source", Malformed),
        (2_048, "event_id", Malformed),
        (2_048, "user_id", Malformed),
    ):
        raw = OK | {name: long}
        event = parse_feedback(raw, new_id="new", max_recommendation_id_bytes=bound)
        assert isinstance(event, kind), (bound, name)
    assert isinstance(parse(recommendation_id=long), Malformed)


def test_event_ids_are_derived_from_what_a_retry_repeats() -> None:
    """With a timestamp a retry gets the same id; without one, the id that was generated."""
    ids = {
        parse(timestamp=5).event_id,
        parse(timestamp=5.0).event_id,
        parse(timestamp="1970-01-01T00:00:05Z", value=3).event_id,
    }
    assert len(ids) == 1
    others = [
        parse(timestamp=6), parse(timestamp=5, user_id="v"), parse(timestamp=5, item_id="j"),
        parse(timestamp=5, type="view"), parse(timestamp=5, user_id="ui", item_id="x"),
        parse(timestamp=5, user_id="u", item_id="ix"),
    ]  # fmt: skip
    assert len(ids | {event.event_id for event in others}) == 1 + len(others)
    assert parse().event_id == "new"
    assert parse(event_id="e", timestamp=5).event_id == "e"


def test_digest_knows_where_a_part_ends() -> None:
    """Parts that join to the same text have different digests."""
    assert events.digest(("ab", "c")) != events.digest(("a", "bc"))
    assert events.digest(("ab",)) != events.digest(("ab", ""))


def test_a_bad_line_is_kept() -> None:
    """A line that is no JSON, or no UTF-8, is quarantined with what it was."""
    event = events.malformed_line("not JSON", b"\xff{" + b"x" * 1_000)
    assert event.reason == "malformed"
    assert event.excerpt.startswith("\ufffd{xx")
    assert events.decode(events.encode(Entry([event]))).records == [event]


def test_ids_may_have_any_character_but_control_characters() -> None:
    """Exactly U+0000 to U+001F and U+007F to U+009F are refused, alone or in a word."""
    for code in range(0x3000):
        is_control = code < 0x20 or 0x7F <= code <= 0x9F
        for text in (chr(code), f"a{chr(code)}b"):
            try:
                assert events.check_id("id", text) == text
            except ValueError:
                assert is_control, hex(code)
            else:
                assert not is_control, hex(code)
