from __future__ import annotations

import pytest

from app.admission import TOKEN_FLAWS
from app.events import VALID
from app.tokens import FUTURE_MS, MAX_DRAFT_NAME, MAX_TOKEN_BYTES, Reading, Tokens
from learners.ids import handle_of

OLD, NEW, OTHER = b"old" * 8, b"new" * 8, b"other" * 8
NOW_MS = 1_795_456_800_123
DAY_MS = 86_400_000
SLATE = "abcdefghijkl"
HANDLES = [handle_of(index, index % 3) for index in range(40, 50)]
DRAFT = ("hold:17", list("abbabaabba"))


def tokens(*keys: bytes, namespace: str = "shop") -> Tokens:
    """Return what mints with the first key, for a day."""
    return Tokens(keys or (NEW,), namespace, DAY_MS)


def mint(by: Tokens, user_id: str | None = "u1", *, draft: bool = False) -> str:
    """Return the token of one slate of ten."""
    return by.mint(SLATE, user_id, HANDLES, NOW_MS, DRAFT if draft else None)


def read(
    by: Tokens,
    token: str,
    *,
    user_id: str = "u1",
    handle: int | None = HANDLES[0],
    now_ms: int = NOW_MS,
) -> Reading:
    """Verify a token for the slate's first item, at the moment it was made."""
    return by.verify(token, user_id=user_id, handle=handle, now_ms=now_ms)


def test_a_token_says_where_the_item_was_and_who_drafted_it() -> None:
    """Every item of a slate is valid, at its own place; a draft names its team."""
    ours = tokens()
    for place, handle in enumerate(HANDLES):
        plain = read(ours, mint(ours), handle=handle)
        assert plain == Reading(VALID, SLATE, place, None)
        drafted = read(ours, mint(ours, draft=True), handle=handle)
        assert drafted == Reading(
            VALID, SLATE, place, f"hold:17:{DRAFT[1][place]}", is_drafted=True
        )


def test_a_click_on_what_both_drafted_speaks_for_neither() -> None:
    """A place that both wanted brings back no team; tokens of before do not know such places."""
    ours = tokens()
    teams = ["both" if place % 3 == 0 else team for place, team in enumerate(DRAFT[1])]
    token = ours.mint(SLATE, "u1", HANDLES, NOW_MS, ("hold:17", teams))
    for place, (team, handle) in enumerate(zip(teams, HANDLES, strict=True)):
        expected = None if team == "both" else f"hold:17:{team}"
        assert read(ours, token, handle=handle) == Reading(
            VALID, SLATE, place, expected, is_drafted=True
        )


def test_places_that_both_wanted_alone_make_a_token_longer() -> None:
    """Without any a token is as programs of before make and read it."""
    ours = tokens()
    plain, drafted = mint(ours), mint(ours, draft=True)
    shared = ours.mint(SLATE, "u1", HANDLES, NOW_MS, ("hold:17", ["both", *DRAFT[1][1:]]))
    n_plain, n_drafted, n_shared = (3 * len(token) // 4 for token in (plain, drafted, shared))
    n_bits = (len(HANDLES) + 7) // 8
    assert n_drafted == n_plain + len("hold:17") + n_bits
    assert n_shared == n_drafted + n_bits


def test_another_user_is_found_out() -> None:
    """A token that names a user is that user's alone."""
    ours = tokens()
    assert read(ours, mint(ours), user_id="u2") == Reading("user", SLATE)


def test_a_slate_for_nobody_is_for_anybody() -> None:
    """An anonymous session's token may be sent back under whatever id the session gets."""
    ours = tokens()
    assert read(ours, mint(ours, None), user_id="whoever").verdict == VALID


@pytest.mark.parametrize(
    "handle", [None, handle_of(40, 0), handle_of(41, 1), handle_of(50, 0), handle_of(10**7, 2**31)]
)
def test_an_item_that_is_not_on_the_slate(handle: int | None) -> None:
    """Another item, an unknown one, or one made anew at the same index, has no place."""
    ours = tokens()
    assert read(ours, mint(ours), handle=handle) == Reading("item", SLATE)


@pytest.mark.parametrize(
    ("later_ms", "verdict"),
    [
        (0, VALID), (DAY_MS, VALID), (DAY_MS + 1, "expired"), (10**15, "expired"),
        (-FUTURE_MS, VALID), (-FUTURE_MS - 1, "expired"), (-NOW_MS, "expired"),
    ],
)  # fmt: skip
def test_a_token_has_its_time(later_ms: int, verdict: str) -> None:
    """A token is good for its age, to the millisecond, and up to a minute before it was made."""
    ours = tokens()
    assert read(ours, mint(ours), now_ms=NOW_MS + later_ms).verdict == verdict


def test_keys_rotate() -> None:
    """The first key signs, all verify, and what a key signed goes when the key goes."""
    before, both, after = tokens(OLD), tokens(NEW, OLD), tokens(NEW)
    assert read(both, mint(before)).verdict == VALID
    assert read(after, mint(both)).verdict == VALID
    assert read(after, mint(before)) == Reading("signature")
    assert read(before, mint(both)) == Reading("signature")
    assert read(tokens(OTHER, OLD), mint(after)) == Reading("signature")


def test_a_namespace_has_its_own_tokens() -> None:
    """The same key signs otherwise for another log, whose items have other handles."""
    assert read(tokens(namespace="shop2"), mint(tokens())) == Reading("signature")


@pytest.mark.parametrize("place", range(106))
def test_no_character_can_be_another(place: int) -> None:
    """Whichever character of a token is changed, it is not valid."""
    ours = tokens()
    token = mint(ours)
    assert len(token) > place
    other = "A" if token[place] != "A" else "B"
    changed = token[:place] + other + token[place + 1 :]
    assert read(ours, changed).verdict in ("malformed", "signature")


@pytest.mark.parametrize(
    "change", ["{}=", "{}A", " {}", "{}\n", "{}é", "{}\ud800", "!{}", "{0}{0}"]
)
def test_a_token_is_written_in_one_way(change: str) -> None:
    """Padding, spaces and what base64 readers like to ignore make it malformed."""
    ours = tokens()
    assert read(ours, change.format(mint(ours))) == Reading("malformed")


@pytest.mark.parametrize(
    "garbage",
    ["", "x", "pHvHBWTPxhlbe5BO", "A" * 66, "A" * 100, "A" * 2_048, "A" * 10**6, "ü" * 66],
)
def test_garbage_is_malformed(garbage: str) -> None:
    """What was never one of ours gets a verdict like everything else."""
    assert read(tokens(), garbage).verdict == "malformed"


@pytest.mark.parametrize("k", [0, 1, 10, 200])
def test_tokens_are_short(k: int) -> None:
    """Ten items take under 256 characters and 200 under 2,048, whatever their handles."""
    ours = tokens()
    handles = [handle_of(10**7 - 1 - index, 2**31 - 1) for index in range(k)]
    draft = ("n" * MAX_DRAFT_NAME, ["b"] * k)
    token = ours.mint(SLATE, "u1", handles, NOW_MS, draft)
    assert len(token) < (256 if k <= 10 else MAX_TOKEN_BYTES)
    for place, handle in enumerate(handles):
        assert read(ours, token, handle=handle).place == place


def test_a_draft_with_a_long_name_is_refused() -> None:
    """What would not fit the bound is an error where it is minted."""
    with pytest.raises(ValueError, match="over 32 bytes"):
        tokens().mint(SLATE, "u1", HANDLES, NOW_MS, ("ü" * 17, DRAFT[1]))


def test_nothing_shows_a_key() -> None:
    """Neither a token nor the object that mints it shows a key."""
    ours = tokens(NEW, OLD)
    for shown in (repr(ours), mint(ours)):
        assert NEW.decode() not in shown
        assert OLD.decode() not in shown


def test_every_flaw_is_explained() -> None:
    """Whoever finds an event in quarantine is told what each verdict means."""
    ours = tokens()
    token = mint(ours)
    found = {
        read(ours, "x").verdict,
        read(tokens(OLD), token).verdict,
        read(ours, token, now_ms=0).verdict,
        read(ours, token, user_id="u2").verdict,
        read(ours, token, handle=None).verdict,
    }
    assert found == set(TOKEN_FLAWS)
