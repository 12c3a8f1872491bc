from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.admission import Admission
from app.events import (
    Command,
    Configure,
    Entry,
    Feedback,
    Impression,
    ItemDelete,
    ItemUpsert,
    Malformed,
    UserDelete,
    UserMerge,
    UserUpsert,
    decode,
    encode,
    parse_feedback,
)
from app.settings import EngineSettings

QUICK = settings(max_examples=150, deadline=None, derandomize=True)

texts = st.text(max_size=20)
maybe = st.none() | texts
numbers = st.floats(allow_nan=False, allow_infinity=False)
int64 = st.integers(-(2**63), 2**63 - 1)
attributes = st.dictionaries(texts, st.none() | texts | int64 | numbers | st.booleans(), max_size=4)
json_values = st.recursive(
    st.none() | st.booleans() | int64 | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=10,
)
records = st.one_of(
    st.builds(
        Feedback,
        texts,
        texts,
        texts,
        texts,
        st.none() | numbers,
        st.none() | int64,
        maybe,
        maybe,
        maybe,
        maybe,
        st.booleans(),
    ),
    st.builds(
        Impression, texts, texts, st.lists(texts, max_size=3), st.lists(numbers, max_size=3), int64
    ),
    st.builds(Malformed, texts, texts, maybe, texts),
    st.builds(
        ItemUpsert,
        texts,
        st.none() | st.lists(texts, max_size=3),
        st.none() | attributes,
        st.none() | st.booleans(),
        st.none() | int64,
        st.booleans(),
    ),
    st.builds(ItemDelete, texts),
    st.builds(UserUpsert, texts, attributes),
    st.builds(UserDelete, texts),
    st.builds(UserMerge, texts, texts),
    st.builds(Command, st.sampled_from(["promote", "restore"]), texts, texts, st.booleans(), maybe),
    st.builds(Configure, st.integers(0, 9), st.dictionaries(texts, json_values), st.booleans()),
)
entries = st.builds(Entry, st.lists(records, max_size=4), st.none() | int64)


@QUICK
@given(entries)
def test_what_is_written_is_read(entry: Entry) -> None:
    """Every entry survives its wire form, to the last bit of a float, and so do its bytes."""
    payload = encode(entry)
    assert repr(decode(payload)) == repr(entry)
    assert encode(decode(payload)) == payload


@QUICK
@given(entries, st.data())
def test_a_payload_cut_short_is_refused(entry: Entry, data: st.DataObject) -> None:
    """No part of an entry passes for an entry."""
    payload = encode(entry)
    end = data.draw(st.integers(0, len(payload) - 1))
    with pytest.raises(ValueError):
        decode(payload[:end])


known_types = st.sampled_from(["click", "view", "rating", "skip", "nonsense"])
raw_events: st.SearchStrategy[Any] = json_values | st.fixed_dictionaries(
    {
        "user_id": st.sampled_from(["u", "v"]) | json_values,
        "item_id": st.sampled_from(["i", "j"]) | json_values,
        "type": known_types | json_values,
    },
    optional={
        "event_id": st.sampled_from(["a", "b", "c"]) | json_values,
        "value": st.sampled_from([1.0, 3, 5, 6]) | json_values | st.floats(),
        "timestamp": st.integers(-1, 300_000) | st.just("1970-01-02T00:00:00Z") | json_values,
        "source": texts,
    },
)
arrivals = st.none() | st.integers(0, 300_000_000)


@QUICK
@given(st.lists(st.tuples(raw_events, arrivals), max_size=30))
def test_admission_is_total_and_idempotent(stream: list[tuple[Any, int | None]]) -> None:
    """Whatever is sent gets one of four answers, no id is learned twice, and rewards are finite."""
    admission = Admission(EngineSettings())
    learned: set[str] = set()
    for number, (raw, arrival_ms) in enumerate(stream):
        event = parse_feedback(raw, new_id=f"new{number}")
        verdict = admission.decide(event, arrival_ms)
        if verdict.status == "learned":
            assert isinstance(event, Feedback)
            assert event.event_id not in learned
            assert math.isfinite(verdict.reward)
            assert -1 <= verdict.reward <= 1
            learned.add(event.event_id)
        elif verdict.status == "duplicate":
            assert event.event_id in learned
        else:
            assert verdict.reason
            assert verdict.message
        again = admission.decide(event, arrival_ms)
        assert again.status == ("duplicate" if verdict.status == "learned" else verdict.status)
    assert len(admission.window()) == 16 * len(learned)
