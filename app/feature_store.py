"""Features in a store of somebody else's: hashes in Redis, or Feast's feature server.

What is read of users is kept for a while, in bounds; nobody waits for longer than was said, and
nothing that the store does is an error: what it does not say in time is not there. What is said of
items is read by a command. Nothing is written.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple, Protocol
from urllib.parse import parse_qs, urlsplit

import httpx
from redis.asyncio import Redis

from app import tasks
from app.errors import SettingsError, StoreUnavailable
from app.events import MAX_EXACT_INT, MAX_VALUE_CHARS, parse_time
from app.features import ALL_READ, FEAST, NOTHING, Feature, Unread, Value, Values, Why, text_of
from app.settings import Settings

logger = logging.getLogger(__name__)

MAX_CACHED = 100_000
"""Users whose features are kept."""
MAX_READS = 64
"""Reads that go on at a time; then nobody begins another one."""
QUIET_S = 1.0
"""Seconds without a try after one that failed: a store that is down holds nobody up."""
BATCH = 500
"""Users asked for at once."""
MORE_S, BATCHES_S = 0.001, 1.0
"""Seconds that feedback waits for its users' features: so much more a user than a list does for
one, and at most."""
# A read is never cut off, as its answer is kept for whoever comes next; but it ends.
_GIVE_UP_S = 2.0
ID = "{user_id}"
"""Where an id stands in the name of a hash."""
TIMESTAMP = "timestamp"
"""The field of a hash that says as of when its features are: Unix seconds, or RFC 3339."""


class Found(NamedTuple):
    """What a store says of one user, as far as it has been declared."""

    features: Values = NOTHING
    unread: Unread = ALL_READ


class _Told(NamedTuple):
    """The values of some features, each with its time (Unix ms), where that is known."""

    values: Mapping[str, Value]
    times: Mapping[str, int]


class _Source(Protocol):
    """Somebody else's store. Raises whatever its client raises."""

    async def fetch(self, ids: Sequence[str], names: Sequence[str]) -> list[_Told]: ...

    async def close(self) -> None: ...


class FeatureStore:
    """Reads what a store says of users, by the names of the features that are declared."""

    def __init__(self, settings: Settings) -> None:
        self.timeout_s = settings.feature_timeout_ms / 1_000
        self.n_reads: Counter[str] = Counter()
        self._features = {n: f for n, f in settings.features.items() if f.of == "user"}
        self._names = tuple(self._features)
        self._source = _source_of(settings.feature_store_url, settings.feature_key)
        self._keep_s = settings.feature_cache_s
        # By user, what was found and until when it is kept; the oldest first.
        self._cached: OrderedDict[str, tuple[float, Found]] = OrderedDict()
        self._reads: set[asyncio.Task[dict[str, Found]]] = set()
        self._quiet_until = 0.0

    async def close(self) -> None:
        """End what is being read, and the connections."""
        await tasks.end(*self._reads)
        await self._source.close()

    # -- reading ------------------------------------------------------------------------------

    def is_known(self, user_id: str) -> bool:
        """Tell whether there is something to be said of a user without asking the store."""
        return self._is_quiet or self._kept(user_id) is not None

    def known(self, user_id: str) -> Found | None:
        """Return what is to be said of a user without asking; None where the store is to be."""
        kept = self._kept(user_id)
        if kept is not None:
            self.n_reads["cached"] += 1
            return kept
        return self._without("unavailable") if self._is_quiet else None

    async def read(self, user_id: str, within_s: float) -> Found:
        """Return what the store says of a user, or why it says nothing."""
        found = self.known(user_id)
        return found or (await self._read([user_id], min(within_s, self.timeout_s)))[user_id]

    async def read_all(self, user_ids: Sequence[str]) -> dict[str, Found]:
        """Return the same of many users, which may take longer (see BATCHES_S)."""
        found = {id_: kept for id_ in user_ids if (kept := self.known(id_)) is not None}
        left = [id_ for id_ in dict.fromkeys(user_ids) if id_ not in found]
        until = time.monotonic() + min(self.timeout_s + MORE_S * len(left), BATCHES_S)
        for start in range(0, len(left), BATCH):
            within_s = max(0.0, until - time.monotonic())
            found |= await self._read(left[start : start + BATCH], within_s)
        return found

    @property
    def _is_quiet(self) -> bool:
        return time.monotonic() < self._quiet_until

    def _kept(self, user_id: str) -> Found | None:
        until, found = self._cached.get(user_id, (0.0, None))
        return found if time.monotonic() < until else None

    def _without(self, why: Why) -> Found:
        self.n_reads[why] += 1
        return Found(unread=dict.fromkeys(self._names, why))

    async def _read(self, user_ids: Sequence[str], within_s: float) -> dict[str, Found]:
        if self._is_quiet or len(self._reads) >= MAX_READS:
            return {id_: self._without("unavailable") for id_ in user_ids}
        task = asyncio.create_task(self._fetch(user_ids))
        self._reads.add(task)
        task.add_done_callback(self._reads.discard)
        done, _ = await asyncio.wait({task}, timeout=within_s)
        found = task.result() if done else {}
        why: Why = "unavailable" if done else "timeout"
        return {id_: found.get(id_) or self._without(why) for id_ in user_ids}

    async def _fetch(self, user_ids: Sequence[str]) -> dict[str, Found]:
        """Ask the store, and keep what it says; nothing, and no error, where it fails."""
        try:
            async with asyncio.timeout(_GIVE_UP_S):
                told = await self._source.fetch(user_ids, self._names)
            found = {id_: self._found(one) for id_, one in zip(user_ids, told, strict=True)}
        except Exception as error:  # whatever a store, or its client, makes of it
            self._quiet_until = time.monotonic() + QUIET_S
            logger.warning("the feature store does not answer: %s: %s", type(error).__name__, error)
            return {}
        self.n_reads["read"] += len(found)
        self._keep(found)
        return found

    def _found(self, told: _Told) -> Found:
        return _fresh(told, {name: f.max_age_s for name, f in self._features.items()})

    def _keep(self, found: Mapping[str, Found]) -> None:
        until = time.monotonic() + self._keep_s
        for user_id, one in found.items() if self._keep_s else ():
            self._cached[user_id] = until, one
            self._cached.move_to_end(user_id)
        for user_id in list(islice(self._cached, max(0, len(self._cached) - MAX_CACHED))):
            del self._cached[user_id]


async def read_items(
    url: str,
    key: str,
    item_ids: Sequence[str],
    features: Mapping[str, Feature],
    max_age_s: float | None = None,
) -> list[dict[str, Value | None]]:
    """Return what a store says of items by the features of items: None where that is nothing.

    Or nothing that is at most `max_age_s` old. `key` names an item's hash, with {item_id} in it;
    Feast needs none. Raises StoreUnavailable.
    """
    source = _source_of(url, key.replace("{item_id}", ID))
    wanted = {name: feature for name, feature in features.items() if feature.of == "item"}
    try:
        told = await source.fetch(item_ids, tuple(wanted))
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        raise StoreUnavailable(f"the feature store does not answer: {what}") from None
    finally:
        await source.close()
    found = [_fresh(one, dict.fromkeys(wanted, max_age_s)).features for one in told]
    return [{name: _fitting(f, one.get(name)) for name, f in wanted.items()} for one in found]


def _fitting(feature: Feature, value: Value | None) -> Value | None:
    """Return a value as an attribute that the feature is made of: hashes have texts alone.

    None for a number that no attribute can be.
    """
    if value is None or feature.values:
        return None if value is None else text_of(value)
    number = _number_of(value) if isinstance(value, str) else value
    return number if not isinstance(number, str) and abs(number) < MAX_EXACT_INT else None


def _fresh(told: _Told, limits_s: Mapping[str, float | None]) -> Found:
    """Return what was told, without what is older than it may be."""
    values = {name: _plain(v) for name, v in told.values.items() if v is not None}
    now_ms, unread = time.time() * 1_000, dict[str, Why]()
    for name in values.keys() & told.times.keys():
        limit_s = limits_s[name]
        if limit_s is not None and now_ms - told.times[name] > limit_s * 1_000:
            unread[name] = "stale"
    return Found({name: v for name, v in values.items() if name not in unread}, unread)


def _plain(value: str | float) -> Value:
    """Return a value as a log, and all that reads it, can hold it: past all bounds as text."""
    if not isinstance(value, str) and abs(value) <= MAX_EXACT_INT:
        return value
    return str(value)[:MAX_VALUE_CHARS].encode(errors="replace").decode()


# -- whose store it is ------------------------------------------------------------------------


def _source_of(url: str, key: str) -> _Source:
    try:
        return _Feast(url) if url.startswith(FEAST) else _Hashes(url, key)
    except (ValueError, httpx.InvalidURL) as error:
        raise SettingsError(f"SLUICE_FEATURE_STORE_URL: {error}") from None


class _Hashes:
    """A Redis hash for each id: name -> number or text, and perhaps `timestamp`."""

    def __init__(self, url: str, key: str) -> None:
        self._key = key
        self._redis: Any = Redis.from_url(
            url,
            socket_timeout=_GIVE_UP_S,
            socket_connect_timeout=_GIVE_UP_S,
            client_name="sluice-features",
        )

    async def fetch(self, ids: Sequence[str], names: Sequence[str]) -> list[_Told]:
        """Read the fields of all of them in one go."""
        pipeline = self._redis.pipeline(transaction=False)
        for id_ in ids:
            pipeline.hmget(self._key.replace(ID, id_), *names, TIMESTAMP)
        found = await pipeline.execute(raise_on_error=False)
        return [_of_hash(names, fields) for fields in found]

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()


def _of_hash(names: Sequence[str], fields: Sequence[bytes | None] | Exception) -> _Told:
    if isinstance(fields, Exception):
        if str(fields).startswith("WRONGTYPE"):  # one user's key is no hash: that is no outage
            return _Told({}, {})
        raise fields
    texts = [None if field is None else field.decode(errors="replace") for field in fields]
    time_ms = _time_of(texts[-1])
    values = dict(zip(names, texts))
    return _Told(values, {} if time_ms is None else dict.fromkeys(names, time_ms))


def _time_of(text: str | None) -> int | None:
    """Return Unix ms of Unix seconds or RFC 3339; None where it is neither."""
    try:
        return None if text is None else parse_time(_number_of(text))
    except ValueError:
        return None


def _number_of(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text


class _Feast:
    """Feast's feature server, which reads the online store: `feast+http://HOST:PORT/SERVICE`.

    SERVICE is a feature service; `?entity=` names its join key, if that is not user_id.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url.removeprefix("feast+"))
        self._service = parts.path.strip("/")
        self._entity = parse_qs(parts.query).get("entity", ["user_id"])[0]
        server = httpx.URL(f"{parts.scheme}://{parts.netloc}")
        # Errors show the URL that was asked; the password is in the settings alone.
        self._http = httpx.AsyncClient(
            base_url=server.copy_with(userinfo=b""),
            auth=(server.username, server.password) if server.userinfo else None,
            timeout=_GIVE_UP_S,
        )

    async def fetch(self, ids: Sequence[str], names: Sequence[str]) -> list[_Told]:
        """Ask for all of them in one go."""
        asked = {"feature_service": self._service, "entities": {self._entity: list(ids)}}
        answer = await self._http.post("/get-online-features", json=asked)
        answer.raise_for_status()
        content = answer.json()
        columns = dict(zip(content["metadata"]["feature_names"], content["results"], strict=True))
        known = {name: columns[name] for name in names if name in columns}
        return [_of_columns(known, row) for row in range(len(ids))]

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()


def _of_columns(columns: Mapping[str, Any], row: int) -> _Told:
    values: dict[str, Value] = {}
    times: dict[str, int] = {}
    for name, column in columns.items():
        value, time_ms = column["values"][row], _time_of(column["event_timestamps"][row])
        if isinstance(value, str | int | float) and column["statuses"][row] == "PRESENT":
            values[name] = value
            times |= {} if time_ms is None else {name: time_ms}
    return _Told(values, times)
