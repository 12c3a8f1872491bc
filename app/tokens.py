"""Recommendation ids that are signed: which slate, for whom, when, with which items.

Pure: keys and times come in, and nothing is remembered. Items are named by handle (index and
generation, see `learners.ids`), so a token is short, and an item that was evicted since is no
longer the one it names. Anybody can read a token; only who has a key can make one.
"""

from __future__ import annotations

import base64
import hmac
import struct
from collections.abc import Sequence
from typing import NamedTuple

from app.events import VALID, digest

MAX_TOKEN_BYTES = 2_048
SLATE_ID_BYTES = 9
# What names a slate's two teams ("hold:17"): with it and 200 items a token stays in its bound.
MAX_DRAFT_NAME = 32
# By how much the minting clock may be ahead of ours: under NTP two replicas differ by far less.
FUTURE_MS = 60_000

# Half of SHA-256: 128 bits is what an id of an event has, too.
_MAC_BYTES = 16
_LAYOUT = 1
# layout, key, slate, user, time, bytes per item, items, bytes of the draft's name
_HEAD = struct.Struct("<B4s9s8sQBBB")
_NO_USER = bytes(8)
# An index is below 2^24 (`max_items` is at most 10^7), a generation below 2^31.
_INDEX_BITS = 24


class Reading(NamedTuple):
    """What a token says: the verdict is VALID, malformed, signature, expired, user, or item.

    `slate_id` is known where the signature is right; where all is, `place` (from 0) and `draft`
    (`<name>:<team>`, where one of two versions drafted it) are those of the item asked for, and
    `is_drafted` says whether two versions filled the slate, `is_own` whether it was made for the
    user, not for nobody.
    """

    verdict: str
    slate_id: str | None = None
    place: int | None = None
    draft: str | None = None
    is_drafted: bool = False
    is_own: bool = True


class Tokens:
    """Mints with the first of its keys and verifies with all, for one namespace."""

    def __init__(self, keys: Sequence[bytes], namespace: str, max_age_ms: int) -> None:
        self._keys = [(hmac.digest(key, b"key", "sha256")[:4], key) for key in keys]
        name = namespace.encode()
        # Its length goes first, so that no other namespace and content make the same message.
        self._prefix = len(name).to_bytes(4, "little") + name
        self._max_age_ms = max_age_ms

    def mint(
        self,
        slate_id: str,
        user_id: str | None,
        handles: Sequence[int],
        now_ms: int,
        draft: tuple[str, Sequence[str]] | None = None,
    ) -> str:
        """Return the token of a slate (at most 255 items, in order); `draft`: its name and teams.

        `slate_id` is `SLATE_ID_BYTES` in base64url.
        """
        items = [_packed(handle) for handle in handles]
        width = max(1, (max(items, default=0).bit_length() + 7) // 8)
        name, teams = ("", ()) if draft is None else draft
        if len(name.encode()) > MAX_DRAFT_NAME:
            raise ValueError(f"the draft's name {name!r} has over {MAX_DRAFT_NAME} bytes")
        key_id, key = self._keys[0]
        slate = base64.urlsafe_b64decode(slate_id)
        head = (key_id, slate, _user(user_id), now_ms, width, len(items), len(name.encode()))
        parts = [_HEAD.pack(_LAYOUT, *head), *(item.to_bytes(width, "little") for item in items)]
        if name:
            parts += [name.encode(), _bits(teams, "b")]
            parts += [_bits(teams, "both")] if "both" in teams else []
        body = b"".join(parts)
        return _written(body + self._mac(key, body))

    def verify(self, token: str, *, user_id: str, handle: int | None, now_ms: int) -> Reading:
        """Read a token for an event of a user on an item (None: unknown) that came at `now_ms`.

        Total: any text gets a verdict. A slate that was made for nobody answers for anybody.
        """
        reading, [place] = self._read(token, user_id, [handle], now_ms)
        return reading if place is None else reading._replace(place=place)

    def verify_shown(
        self, token: str, *, user_id: str, handles: Sequence[int | None], now_ms: int
    ) -> tuple[Reading, list[int | None]]:
        """Read a token for items of which a client says that it showed them; and their places.

        The verdict is `item` unless all of them are of the slate. `draft` is the last item's.
        """
        return self._read(token, user_id, handles, now_ms)

    def _read(
        self, token: str, user_id: str, handles: Sequence[int | None], now_ms: int
    ) -> tuple[Reading, list[int | None]]:
        nowhere: list[int | None] = [None] * len(handles)
        raw = _raw(token)
        if raw is None:
            return Reading("malformed"), nowhere
        body, mac = raw[:-_MAC_BYTES], raw[-_MAC_BYTES:]
        _, key_id, slate, user, time_ms, width, n_items, n_name = _HEAD.unpack_from(body)
        mine = [key for id_, key in self._keys if id_ == key_id]
        if not any(hmac.compare_digest(self._mac(key, body), mac) for key in mine):
            return Reading("signature"), nowhere
        slate_id = _written(slate)
        if not -FUTURE_MS <= now_ms - time_ms <= self._max_age_ms:
            return Reading("expired", slate_id), nowhere
        if user not in (_NO_USER, _user(user_id)):
            return Reading("user", slate_id), nowhere
        end = _HEAD.size + n_items * width
        items = body[_HEAD.size : end]
        places = [None if h is None else _place(items, width, _packed(h)) for h in handles]
        last = places[-1] if places else None
        if last is None or None in places:
            return Reading("item", slate_id), nowhere
        draft = _draft(body[end:], n_name, n_items, last) if n_name else None
        is_own = user != _NO_USER
        return Reading(VALID, slate_id, None, draft, n_name > 0, is_own), places

    def _mac(self, key: bytes, body: bytes) -> bytes:
        return hmac.digest(key, self._prefix + body, "sha256")[:_MAC_BYTES]


def _packed(handle: int) -> int:
    """Return a handle with its index in 24 bits: in 7 bytes at most, and most often in 3."""
    return (handle >> 32) << _INDEX_BITS | (handle & 0xFFFFFFFF)


def _user(user_id: str | None) -> bytes:
    return _NO_USER if user_id is None else digest((user_id,))[: len(_NO_USER)]


def _bits(teams: Sequence[str], wanted: str) -> bytes:
    bits = sum(1 << place for place, team in enumerate(teams) if team == wanted)
    return bits.to_bytes((len(teams) + 7) // 8, "little")


def _draft(tail: bytes, n_name: int, n_items: int, place: int) -> str | None:
    """Return who drafted a place; None if both wanted it, which tokens of before do not say."""
    name, bits = tail[:n_name].decode(errors="replace"), tail[n_name:]
    is_b, is_shared = (_bit(bits, place + 8 * at) for at in (0, (n_items + 7) // 8))
    return None if is_shared else f"{name}:{'ab'[is_b]}"


def _bit(bits: bytes, at: int) -> bool:
    return at // 8 < len(bits) and bool(bits[at // 8] >> at % 8 & 1)


def _place(items: bytes, width: int, wanted: int) -> int | None:
    if wanted.bit_length() > 8 * width:
        return None
    places = [items[at : at + width] for at in range(0, len(items), width)]
    packed = wanted.to_bytes(width, "little")
    return places.index(packed) if packed in places else None


def _written(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _raw(token: str) -> bytes | None:
    """Return a token's bytes if it is written and laid out as `mint` does, else None."""
    if not 0 < len(token) <= MAX_TOKEN_BYTES:
        return None
    try:
        raw = base64.urlsafe_b64decode(token.encode("ascii") + b"=" * (-len(token) % 4))
    except ValueError:
        return None
    # Python's decoder skips what is no base64, and ignores bits that say nothing.
    if len(raw) < _HEAD.size + _MAC_BYTES or _written(raw) != token:
        return None
    layout, _, _, _, _, width, n_items, n_name = _HEAD.unpack_from(raw)
    n_bits = (n_items + 7) // 8 if n_name else 0
    n_bytes = _HEAD.size + width * n_items + n_name + 2 * n_bits + _MAC_BYTES
    is_ours = layout == _LAYOUT and width > 0 and len(raw) in (n_bytes, n_bytes - n_bits)
    return raw if is_ours else None
