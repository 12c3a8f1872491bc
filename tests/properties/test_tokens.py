from __future__ import annotations

import base64

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from app.events import VALID
from app.tokens import MAX_DRAFT_NAME, MAX_TOKEN_BYTES, Reading, Tokens
from learners.ids import handle_of

QUICK = settings(max_examples=300, deadline=None, derandomize=True)
DAY_MS = 86_400_000

keys = st.binary(min_size=1, max_size=80)
users = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)
handles = st.builds(handle_of, st.integers(0, 10**7), st.integers(0, 2**31 - 1))
slates = st.lists(handles, min_size=1, max_size=200, unique=True)
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
slate_ids = st.binary(min_size=9, max_size=9).map(lambda b: base64.urlsafe_b64encode(b).decode())
times = st.integers(0, 253_402_300_799_000)


@QUICK
@given(keys, users, users, slates, slate_ids, times, st.none() | names, st.data())
def test_what_is_minted_is_read(
    key: bytes,
    namespace: str,
    user_id: str,
    slate: list[int],
    slate_id: str,
    time_ms: int,
    name: str | None,
    data: st.DataObject,
) -> None:
    """For any key, namespace, user, items, time and draft, a token gives back what it was made of.

    And for an item that is not on the slate, it does not.
    """
    teams = data.draw(st.lists(st.sampled_from("ab"), min_size=len(slate), max_size=len(slate)))
    tokens = Tokens([key], namespace, DAY_MS)
    draft = None if name is None else (name, teams)
    token = tokens.mint(slate_id, user_id, slate, time_ms, draft)
    assert len(token) < (256 if len(slate) <= 10 else MAX_TOKEN_BYTES)
    place = data.draw(st.integers(0, len(slate) - 1))
    late_ms = data.draw(st.integers(0, DAY_MS))
    found = tokens.verify(token, user_id=user_id, handle=slate[place], now_ms=time_ms + late_ms)
    team = None if name is None else f"{name}:{teams[place]}"
    assert found == Reading(VALID, slate_id, place, team, is_drafted=name is not None)
    other = data.draw(handles)
    assume(other not in slate)
    found = tokens.verify(token, user_id=user_id, handle=other, now_ms=time_ms)
    assert found == Reading("item", slate_id)


TOKENS = Tokens([b"first" * 5, b"second" * 5], "shop", DAY_MS)
SLATE = [handle_of(index, index % 5) for index in range(10)]
MADE_MS = 1_795_456_800_123
MINTED = [
    Tokens([key], "shop", DAY_MS).mint("abcdefghijkl", user, SLATE, MADE_MS, draft)
    for key in (b"first" * 5, b"second" * 5)
    for user in ("u1", None)
    for draft in (None, ("hold:3", "abababbaab"))
]
alphabet = st.characters(categories=["Lu", "Ll", "Nd"], include_characters="-_=+/ \n")


@QUICK
@given(st.sampled_from(MINTED), st.data())
def test_no_mutation_is_valid(token: str, data: st.DataObject) -> None:
    """A token in which anything is replaced, added, left out or moved verifies for nobody."""
    start = data.draw(st.integers(0, len(token)))
    end = data.draw(st.integers(start, len(token)))
    changed = token[:start] + data.draw(st.text(alphabet, max_size=12)) + token[end:]
    assume(changed not in MINTED)
    for handle in SLATE:
        found = TOKENS.verify(changed, user_id="u1", handle=handle, now_ms=MADE_MS)
        assert found.verdict in ("malformed", "signature")


@QUICK
@given(st.sampled_from(MINTED), st.integers(0, 2_000))
def test_no_bit_can_be_turned(token: str, bit: int) -> None:
    """A token with one bit of its content turned verifies for nobody."""
    raw = bytearray(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    raw[bit // 8 % len(raw)] ^= 1 << bit % 8
    changed = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
    found = TOKENS.verify(changed, user_id="u1", handle=SLATE[0], now_ms=MADE_MS)
    assert found.verdict in ("malformed", "signature")


@QUICK
@given(
    st.text(max_size=300)
    | st.binary(max_size=1_600).map(lambda b: base64.urlsafe_b64encode(b).rstrip(b"=").decode()),
    st.none() | handles,
    st.integers(),
)
@example("\ud800", None, 0)
def test_garbage_gets_a_verdict(token: str, handle: int | None, now_ms: int) -> None:
    """Any text whatever is judged without an exception, and none of it is valid."""
    found = TOKENS.verify(token, user_id="u1", handle=handle, now_ms=now_ms)
    assert found.verdict in ("malformed", "signature")
    assert found.slate_id is None


def test_names_of_drafts_fit() -> None:
    """The names that these tests make up are of the length that is allowed."""
    assert len("\U0010ffff".encode()) * 8 <= MAX_DRAFT_NAME
