"""Sentinels, or the nodes of a cluster: they say where the primary of the store is."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from redis.crc import key_slot
from redis.exceptions import ConnectionError as NotConnected
from redis.exceptions import RedisError

from app import tasks
from app.store_client import connect, raise_first
from app.store_url import Place, StoreUrl, show

# One that takes longer to say where the primary is, is as good as gone.
GUIDE_TIMEOUT_S = 0.5
# What the others still have once most have answered.
GUIDES_LEFT_S = 0.02


class Guides:
    """The sentinels, or the nodes of a cluster: whom we ask where the primary of a key is.

    redis-py has clients for both. They look up the primary whenever a connection is opened, or send
    a command again by themselves; we have to know when the server is another, and never send an
    append twice.
    """

    def __init__(
        self, address: StoreUrl, options: dict[str, Any], key: str, timeout_s: float
    ) -> None:
        self._first = address.guides
        self._guides = address.guides
        self._master_name = address.master_name
        self._slot = key_slot(key.encode())
        self._timeout_s = min(GUIDE_TIMEOUT_S, timeout_s / 4)
        login = {"username": None, "password": None, "db": 0, **address.sentinel_login}
        self._options = options | (login if address.master_name else {})
        self._clients: dict[Place, Any] = {}

    def __str__(self) -> str:
        places = ", ".join(show(place) for place in self._first)
        return f"sentinels {places}" if self._master_name else f"cluster {places}"

    async def primary(self) -> Place:
        """Return the primary by the newest word on it, else by the most."""
        asked = [asyncio.create_task(self._ask_quietly(guide)) for guide in self._guides]
        try:
            # Those that are as good as gone hold up nobody, once most have named one.
            n_named = 0
            for answer in asyncio.as_completed(asked):
                n_named += not isinstance(await answer, str)
                if 2 * n_named > len(asked):
                    break
            answered, _ = await asyncio.wait(asked, timeout=GUIDES_LEFT_S)
        finally:
            await tasks.end(*asked)
        found = [task.result() for task in answered]
        named = [word for word in found if not isinstance(word, str)]
        if not named:
            raise NotConnected(f"nobody names a primary ({found[-1]})")
        newest = max(named)[0]
        return Counter(place for epoch, place in named if epoch == newest).most_common(1)[0][0]

    async def _ask_quietly(self, guide: Place) -> tuple[int, Place] | str:
        """Return the epoch and the primary that one of them names, or why it does not."""
        try:
            async with asyncio.timeout(self._timeout_s):
                if self._master_name:
                    return await self._ask_sentinel(guide)
                return await self._ask_node(guide)
        except TimeoutError:
            return f"{show(guide)}: no answer within {self._timeout_s:g} s"
        except (RedisError, OSError) as error:
            return f"{show(guide)}: {str(error) or type(error).__name__}"

    async def _ask_sentinel(self, guide: Place) -> tuple[int, Place] | str:
        pipe = self._client(guide).pipeline(transaction=False)
        # The address first: the epoch is never older than it, then. During a failover this command
        # alone names the new primary.
        pipe.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._master_name)
        pipe.execute_command("SENTINEL", "MASTER", self._master_name)
        found, state = await pipe.execute(raise_on_error=False)
        if found is None:
            return f"{show(guide)}: no primary named {self._master_name!r}"
        host, port = raise_first([found, state])[0]
        epoch = dict(zip(state[::2], state[1::2], strict=False))[b"config-epoch"]
        return int(epoch), (host.decode(), int(port))

    async def _ask_node(self, guide: Place) -> tuple[int, Place] | str:
        ranges = await self._client(guide).execute_command("CLUSTER", "SLOTS")
        # A node that does not know its own address says so with an empty one.
        nodes = {
            (first, last): [(host.decode() if host else guide[0], port) for host, port, *_ in row]
            for first, last, *row in ranges
        }
        # Those that were there when we started may all be gone one day.
        others = {node for holders in nodes.values() for node in holders}
        self._guides = tuple(dict.fromkeys([*self._first, *sorted(others)]))
        for (first, last), (primary, *_) in nodes.items():
            if first <= self._slot <= last:
                return 0, primary  # they tell no epochs, and hear of news within milliseconds
        return f"{show(guide)}: slot {self._slot} has no primary"

    def _client(self, guide: Place) -> Any:
        if guide not in self._clients:
            options = self._options | {"host": guide[0], "port": guide[1]}
            self._clients[guide] = connect(options, self._timeout_s, self._timeout_s)
        return self._clients[guide]

    async def close(self) -> None:
        """Close the connections."""
        for client in self._clients.values():
            await client.aclose()
