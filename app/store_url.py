"""The forms of SLUICE_REDIS_URL: one server, sentinels that know the primary, or a cluster.

It takes a URL apart and connects to nothing. Its errors say nothing of the URL: it may hold a
password.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

Place = tuple[str, int]
"""A host and a port."""

SENTINEL_PORT = 26379
CLUSTER_PORT = 6379
# Options of ours, for the sentinels alone; all others are a connection's.
SENTINEL_OPTIONS = {"sentinel_username": "username", "sentinel_password": "password"}


class StoreUrl(NamedTuple):
    """`server` is a plain URL with all that a connection to any one server needs.

    `guides` are whom to ask where the primary is: none where the URL names it. `master_name` is ""
    for a cluster, whose slots say it; `sentinel_login` is the sentinels' own user and password.
    """

    server: str
    guides: tuple[Place, ...] = ()
    master_name: str = ""
    sentinel_login: Mapping[str, str] = MappingProxyType({})


def parse_store_url(url: str) -> StoreUrl:
    """Take a URL apart; raise ValueError where it is none of ours."""
    scheme, _, rest = url.partition("://")
    protocol, plus, kind = scheme.partition("+")
    if not plus:
        return StoreUrl(url)
    if protocol not in ("redis", "rediss") or kind not in ("sentinel", "cluster"):
        raise ValueError("no scheme of ours")
    split = urlsplit(f"{protocol}://{rest}")
    login, at, hosts = split.netloc.rpartition("@")
    port = SENTINEL_PORT if kind == "sentinel" else CLUSTER_PORT
    guides = tuple(_place(host, port) for host in hosts.split(","))
    options = dict(parse_qsl(split.query, keep_blank_values=True))
    name = unquote(split.path.strip("/"))
    sentinel_login = {}
    if kind == "sentinel":
        if not name or "/" in name:
            raise ValueError("the path is not the name of a primary")
        found = {ours: options.pop(given, "") for given, ours in SENTINEL_OPTIONS.items()}
        sentinel_login = {ours: value for ours, value in found.items() if value}
    elif {name, options.get("db", "0")} - {"", "0"}:
        raise ValueError("a cluster has database 0 alone")
    server = f"{protocol}://{login}{at}{show(guides[0])}/?{urlencode(options)}"
    return StoreUrl(server, guides, name if kind == "sentinel" else "", sentinel_login)


def _place(text: str, default_port: int) -> Place:
    split = urlsplit(f"//{text}")
    if not split.hostname:
        raise ValueError("a host is empty")
    return unquote(split.hostname), split.port or default_port


def show(place: Place) -> str:
    """Return a place as a URL has it."""
    host, port = place
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
