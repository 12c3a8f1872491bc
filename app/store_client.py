"""A client of one server of the store: how its URL is read, and how commands go to it and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hiredis import pack_command
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio import connection as redis_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from app.errors import SettingsError
from app.store_url import StoreUrl, parse_store_url

Command = tuple[str | bytes | int, ...]


def raise_first(replies: list[Any]) -> list[Any]:
    """Return the replies; raise the first that is a refusal."""
    for reply in replies:
        if isinstance(reply, RedisError):
            raise reply
    return replies


async def exchange(client: Any, commands: Sequence[Command]) -> list[Any]:
    """Return the replies to commands as they are sent; a refusal is a reply, too.

    What every event passes: it takes a third of the time of redis-py's own pipeline, which copies,
    measures and retries. Whoever calls sets the deadline.
    """
    pool = client.connection_pool
    connection = await pool.get_connection()
    try:
        packed: list[bytes] = [pack_command(command) for command in commands]  # type: ignore[arg-type]
        await connection.send_packed_command(b"".join(packed))
        return [await _reply(connection) for _ in commands]
    except BaseException:
        # Replies that nobody has read must not be there for whoever has it next.
        await connection.disconnect(nowait=True)
        raise
    finally:
        await pool.release(connection)


async def _reply(connection: Any) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as error:
        return error


def parse_url(url: str) -> tuple[StoreUrl, dict[str, Any]]:
    """Return a URL's parts, and the options of a connection to one server."""
    try:
        address = parse_store_url(url)
        options: dict[str, Any] = {**redis_url.parse_url(address.server)}
        # No I/O yet: this finds an option in the URL that no connection takes.
        pool: Any = ConnectionPool(**options)
        pool.make_connection()
    except (ValueError, TypeError, RedisError):
        # Without the reason: it may quote a password whose special characters were not escaped.
        raise SettingsError(
            "SLUICE_REDIS_URL is no redis://, rediss:// or unix:// URL, and none of"
            " redis+sentinel://host:port,.../name or redis+cluster://host:port,...;"
            " special characters in a password must be percent-encoded"
        ) from None
    return address, options


def secrets_of(address: StoreUrl, options: dict[str, Any]) -> list[str]:
    """Return the passwords among them, which nobody may be shown."""
    known = {**options, "sentinel_password": address.sentinel_login.get("password")}
    return [value for name, value in known.items() if name.endswith("password") and value]


def connect(options: dict[str, Any], socket_timeout_s: float | None, connect_s: float) -> Any:
    """Return a client of one server: it connects when it is asked something."""
    # Ours beat the URL's. Protocol 2, as replies differ between the two; no retries, as redis-py
    # would send an append again. An idle connection that has broken is replaced by the pool.
    ours = {
        "client_name": "sluice",
        "protocol": 2,
        "decode_responses": False,
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": socket_timeout_s,
        "socket_connect_timeout": connect_s,
    }
    return Redis.from_pool(ConnectionPool(**options | ours))
