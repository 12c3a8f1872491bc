"""What can be in the log, and its wire form.

An *event* is what a client sends; an *entry* is what is in the log: one or more records that were
appended together. Nothing here reads a clock: an entry's arrival time, and any id that had to be
generated, are decided before the append and are part of the entry.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal

import msgspec

WIRE_VERSION = 1
MAX_ID_BYTES = 256
MAX_EXCERPT_CHARS = 512
# One more than what is declared may have: what is longer is none of it.
MAX_VALUE_CHARS = 65
# Up to here whole numbers are kept as they are.
MAX_EXACT_INT = 2**53
_PLAIN = str | int | float | bool
# 1970-01-01 and 9999-12-31T23:59:59Z: outside of these a time cannot be written as RFC 3339.
MIN_TIME_MS, MAX_TIME_MS = 0, 253_402_300_799_000
DAY_MS = 86_400_000
VALID = "valid"
"""The verdict on a token whose signature, user, item and age are right."""


Given = dict[str, str | int | float | bool | None]
"""Features as a client, or a feature store, gives them: see `app.features`."""


class Feedback(msgspec.Struct, frozen=True, array_like=True, tag_field="kind", tag="feedback"):
    """One feedback event. `time_ms` is event time (Unix ms), None for "when it arrived".

    Where recommendation ids are signed tokens, whoever logs an event has verified its token:
    `token` is the verdict (VALID, or what is wrong), and `recommendation_id` the slate's id, which
    is no secret. `draft` names the team that drafted the item, where two versions filled the slate
    (see `Draft`). `released` marks what an operator let out of quarantine. `features` are those
    that it was chosen with, by name: the context, and what was then known of the user elsewhere.
    """

    event_id: str
    user_id: str
    item_id: str
    type: str
    value: float | None = None
    time_ms: int | None = None
    source: str | None = None
    recommendation_id: str | None = None
    token: str | None = None
    draft: str | None = None
    released: bool = False
    features: Given | None = None


class Impression(msgspec.Struct, frozen=True, array_like=True, tag_field="kind", tag="impression"):
    """One slate that a known user was shown, logged when its answers have had time to come.

    `scores` are those it was served with, best first; `time_ms` when it was served. `propensities`
    say how likely each item was to stand where it did (none: they were certain), `explored` which
    places (from 0) were exploring. `is_verified` unless a client declared it without a token: then
    nobody compares its clicks with what was expected.
    """

    recommendation_id: str
    user_id: str
    items: list[str]
    scores: list[float]
    time_ms: int
    propensities: list[float] = []
    explored: list[int] = []
    is_verified: bool = True


class Malformed(msgspec.Struct, frozen=True, array_like=True, tag_field="kind", tag="malformed"):
    """An event that could not be read; kept so that the engine can count and show it."""

    reason: str
    message: str
    event_id: str | None = None
    excerpt: str = ""


class ItemUpsert(msgspec.Struct, frozen=True, array_like=True, tag_field="kind", tag="item"):
    """Create or change an item. A field that is None is left as it is, unless `replace`.

    The item is available from one event time until before another (Unix ms), from MIN_TIME_MS and
    until MAX_TIME_MS being no limits. Both are since semantics version 8.
    """

    item_id: str
    categories: list[str] | None = None
    attributes: dict[str, str | int | float | bool | None] | None = None
    hidden: bool | None = None
    time_ms: int | None = None
    replace: bool = False
    available_from: int | None = None
    available_until: int | None = None


class ItemDelete(msgspec.Struct, frozen=True, array_like=True, tag_field="kind", tag="item_delete"):
    """Forget an item: its row, its place in the catalogue, its index."""

    item_id: str


class UserUpsert(msgspec.Struct, frozen=True, array_like=True, tag_field="kind", tag="user"):
    """Create a user, or replace their attributes."""

    user_id: str
    attributes: dict[str, str | int | float | bool | None]


class UserFeatures(
    msgspec.Struct, frozen=True, array_like=True, tag_field="kind", tag="user_features"
):
    """Give a user features as of a time (Unix ms): all that they have, or (not `replace`) more."""

    user_id: str
    features: Given
    time_ms: int
    replace: bool = False


class UserDelete(msgspec.Struct, frozen=True, array_like=True, tag_field="kind", tag="user_delete"):
    """Forget a user: history, had-set, attributes, id. Shared state keeps what it learned."""

    user_id: str


class UserMerge(msgspec.Struct, frozen=True, array_like=True, tag_field="kind", tag="user_merge"):
    """Make one user of two: what is known of `from_id` moves to the user, and it is forgotten.

    What was learned from its events stays learned, and is not learned again.
    """

    user_id: str
    from_id: str


class Rules(msgspec.Struct, frozen=True, array_like=True, tag_field="kind", tag="rules"):
    """The owner's rules about slates, all of them: what was there before is no more.

    `rules` are declarations as `app.rules` reads them.
    """

    rules: list[dict[str, Any]]
    asked_by: str


class Command(msgspec.Struct, frozen=True, array_like=True, tag_field="kind", tag="command"):
    """An operator's act on the gate, or on the challenger.

    `snapshot_id` is for restore alone, `without` (item ids) for requeue, `changes` (settings of
    the learner by name) for start_challenger.
    """

    name: Literal[
        "promote",
        "rollback",
        "freeze",
        "resume",
        "shadow_only",
        "restore",
        "requeue",
        "start_challenger",
        "stop_challenger",
        "adopt",
    ]
    reason: str
    asked_by: str
    force: bool = False
    snapshot_id: str | None = None
    without: list[str] = []
    changes: dict[str, Any] = {}


class Configure(msgspec.Struct, frozen=True, array_like=True, tag_field="kind", tag="configure"):
    """The engine's settings and semantics version, in force from here on."""

    semantics: int
    settings: dict[str, Any]
    reconfigure: bool = False


class Upgrade(msgspec.Struct, frozen=True, array_like=True, tag_field="kind", tag="upgrade"):
    """From here on the log is computed by another semantics version, on all replicas at once."""

    semantics: int
    reason: str
    asked_by: str


class Thin(msgspec.Struct, frozen=True, array_like=True, tag_field="kind", tag="thin"):
    """Judge another part of the events that are to be judged, from here on: 1, 1/2, 1/4, ...

    `was` is the part that this is asked instead of: of two replicas that ask at once, one does.
    `replica` is the one that asks.
    """

    part: float
    was: float
    reason: str
    replica: str


Event = Feedback | Malformed
Record = (
    Feedback
    | Impression
    | Malformed
    | ItemUpsert
    | ItemDelete
    | UserUpsert
    | UserFeatures
    | UserDelete
    | UserMerge
    | Rules
    | Command
    | Configure
    | Upgrade
    | Thin
)


class Entry(msgspec.Struct, frozen=True):
    """One log entry. `arrival_ms` is None offline, where nothing "arrives"."""

    records: list[Record]
    arrival_ms: int | None = None
    version: int = WIRE_VERSION


class _Version(msgspec.Struct):
    version: int


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Entry)
_version_decoder = msgspec.json.Decoder(_Version)


def encode(entry: Entry) -> bytes:
    """Return the entry's wire form (JSON)."""
    return _encoder.encode(entry)


def decode(payload: bytes) -> Entry:
    """Read an entry. Raises ValueError for another wire version or a damaged payload."""
    try:
        entry = _decoder.decode(payload)
    except msgspec.ValidationError as error:
        _check_version(_version_decoder.decode(payload).version)
        raise ValueError(f"it is none that this program knows: a later one may ({error})") from None
    _check_version(entry.version)
    return entry


def _check_version(version: int) -> None:
    if version != WIRE_VERSION:
        raise ValueError(f"wire version {version}; this program reads version {WIRE_VERSION}")


class _RawFeedback(msgspec.Struct):
    """What a client may send; unknown fields are ignored, so that clients may run ahead of us."""

    user_id: str
    item_id: str
    type: str
    event_id: str | None = None
    value: float | None = None
    timestamp: str | int | float | None = None
    source: str | None = None
    recommendation_id: str | None = None
    context: Any = None


def parse_feedback(
    raw: object,
    *,
    new_id: str,
    max_recommendation_id_bytes: int = MAX_ID_BYTES,
    features: Collection[str] = (),
) -> Event:
    """Read one client event; what cannot be read becomes `Malformed`, never an exception.

    Of its context it keeps what `features` names, as far as these are texts, numbers or booleans.
    `new_id` is used where neither an event_id nor a timestamp is given; without an event_id but
    with a timestamp the id is derived from (user, item, type, timestamp in milliseconds), so that
    a retry is recognised.
    """
    try:
        event = msgspec.convert(raw, _RawFeedback)
        for name in ("user_id", "item_id", "type"):
            check_id(name, getattr(event, name))
        for name in ("event_id", "source"):
            if getattr(event, name) is not None:
                check_id(name, getattr(event, name))
        if event.recommendation_id is not None:
            check_id("recommendation_id", event.recommendation_id, max_recommendation_id_bytes)
        if event.value is not None and not math.isfinite(event.value):
            raise ValueError("value must be finite")
        time_ms = None if event.timestamp is None else parse_time(event.timestamp)
    except (msgspec.ValidationError, ValueError) as error:
        return _malformed("schema", str(error), raw)
    event_id = event.event_id
    if event_id is None:
        event_id = (
            new_id
            if time_ms is None
            else derive_event_id(event.user_id, event.item_id, event.type, time_ms)
        )
    return Feedback(
        event_id,
        event.user_id,
        event.item_id,
        event.type,
        event.value,
        time_ms,
        event.source,
        event.recommendation_id,
        features=_given(event.context, features) if features else None,
    )


def _given(context: Any, features: Collection[str]) -> Given | None:
    if not isinstance(context, dict):
        return None
    plain = {name: context[name] for name in features if isinstance(context.get(name), _PLAIN)}
    texts = {n: v[:MAX_VALUE_CHARS] for n, v in plain.items() if isinstance(v, str)}
    return (plain | texts) or None


def _malformed(reason: str, message: str, raw: object) -> Malformed:
    event_id = raw.get("event_id") if isinstance(raw, dict) else None
    try:
        event_id = check_id("event_id", event_id) if isinstance(event_id, str) else None
    except ValueError:
        event_id = None
    shown = excerpt(raw, MAX_EXCERPT_CHARS)
    return Malformed(reason, message[:MAX_EXCERPT_CHARS], event_id, shown)


def excerpt(raw: object, max_chars: int) -> str:
    """Return the beginning of what a client sent, as Python shows it."""
    try:
        return repr(raw)[:max_chars]
    except RecursionError:
        return f"a {type(raw).__name__} that is nested too deeply to be shown"


def malformed_line(message: str, line: bytes) -> Malformed:
    """Return what stands for an NDJSON line that is no JSON."""
    shown = line[:MAX_EXCERPT_CHARS].decode("utf-8", "replace")
    return Malformed("malformed", message[:MAX_EXCERPT_CHARS], None, shown)


def check_id(name: str, value: str, max_bytes: int = MAX_ID_BYTES) -> str:
    """Return an id; raise ValueError unless it has 1 to `max_bytes`, none a control character."""
    try:
        n_bytes = len(value.encode())
    except UnicodeEncodeError:
        raise ValueError(f"{name} is not valid Unicode") from None
    if not 1 <= n_bytes <= max_bytes:
        raise ValueError(f"{name} must have 1 to {max_bytes} bytes, it has {n_bytes}")
    # What is printable has none; looking at each character takes ten times as long.
    if not value.isprintable() and any(ch < " " or "\x7f" <= ch <= "\x9f" for ch in value):
        raise ValueError(f"{name} has a control character: {value!r}")
    return value


def parse_time(value: str | int | float) -> int:
    """Return Unix ms for RFC 3339 text or Unix seconds; raise ValueError if it is neither."""
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(f"timestamp {value[:64]!r} is not RFC 3339") from None
        if moment.tzinfo is None:
            raise ValueError(f"timestamp {value[:64]!r} has no time zone")
        delta = moment - datetime(1970, 1, 1, tzinfo=UTC)
        time_ms = (delta.days * 86_400 + delta.seconds) * 1_000 + delta.microseconds // 1_000
    else:
        if not abs(value) <= MAX_TIME_MS:  # NaN is not, either
            raise ValueError(f"timestamp {value!r} is not a time in Unix seconds")
        time_ms = round(value * 1_000)
    if not MIN_TIME_MS <= time_ms <= MAX_TIME_MS:
        raise ValueError(f"timestamp {value!r} is outside 1970 to 9999")
    return time_ms


def format_time(time_ms: int) -> str:
    """Return RFC 3339 with milliseconds and Z."""
    seconds, milliseconds = divmod(time_ms, 1_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{milliseconds:03d}Z"


def derive_event_id(user_id: str, item_id: str, type_: str, time_ms: int) -> str:
    """Return the id of an event that came without one."""
    return "d-" + digest((user_id, item_id, type_, str(time_ms))).hex()


_LENGTHS = [n.to_bytes(4, "little") for n in range(MAX_ID_BYTES + 1)]
# A copy of one that is there takes a third of the time of a new one.
_HASH = hashlib.blake2b(digest_size=16)


def digest(parts: tuple[str, ...]) -> bytes:
    """Return 128 bits that depend on every part and on where one ends and the next begins."""
    found = _HASH.copy()
    found.update(b"".join(map(_framed, parts)))
    return found.digest()


def are_among(digests: Iterable[bytes], shares: Iterable[float]) -> list[bool]:
    """Tell whether what a digest is of is among a share of all: the same everywhere."""
    return [
        share >= 1.0 or int.from_bytes(digest_[:6], "little") < share * 2.0**48
        for digest_, share in zip(digests, shares)
    ]


def digest_of(part: str, begun: Any = _HASH) -> bytes:
    """Return `digest` of one part; or of what has been `begun`, and of it as the last part."""
    found, encoded = begun.copy(), part.encode()
    n = len(encoded)
    found.update((_LENGTHS[n] if n <= MAX_ID_BYTES else n.to_bytes(4, "little")) + encoded)
    digest_: bytes = found.digest()
    return digest_


# Users come in visits, and caps and shares ask for the same digests.
@lru_cache(maxsize=1_024)
def _hash_of_user(user_id: str) -> tuple[bytes, Any]:
    found = _HASH.copy()
    found.update(_framed("user") + _framed(user_id))
    return found.digest(), found


def user_digest(user_id: str) -> bytes:
    """Return `digest` of a user; one asked for lately costs less."""
    return _hash_of_user(user_id)[0]


def user_digests(user_ids: Iterable[str]) -> list[bytes]:
    """Return `user_digest` of each user."""
    return [whole for whole, _ in map(_hash_of_user, user_ids)]


def pair_digests(pairs: Iterable[tuple[str, str]]) -> list[bytes]:
    """Return `digest` of each user on an item, by their ids."""
    return [digest_of(item_id, _hash_of_user(user_id)[1]) for user_id, item_id in pairs]


def _framed(part: str) -> bytes:
    encoded = part.encode()
    n = len(encoded)
    return (_LENGTHS[n] if n <= MAX_ID_BYTES else n.to_bytes(4, "little")) + encoded
