"""Requests to a running service, for commands: with the key of the environment, and patience."""

from __future__ import annotations

import time
from typing import Any

import httpx
import orjson

from app.errors import InvalidRequest
from app.settings import load_settings

RETRY_S = 0.2
TIMEOUT_S = 60.0


def connected(url: str) -> httpx.Client:
    """Return a client of the service at a URL; it has the admin key if there is one."""
    settings = load_settings()
    key = settings.admin_key or settings.api_key
    headers = {"Content-Type": "application/json"}
    if key is not None:
        headers["X-API-Key"] = key.get_secret_value()
    return httpx.Client(base_url=url.rstrip("/"), headers=headers, timeout=TIMEOUT_S)


def ask_once(
    url: str | None, method: str, path: str, *, headers: dict[str, str] | None = None, **given: Any
) -> Any:
    """Return the answer of the service at a URL; without one, where the settings say that it is."""
    settings = load_settings()
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = (url or f"http://{host}:{settings.port}").rstrip("/")
    key = settings.admin_key or settings.api_key
    keys = {} if key is None else {"X-API-Key": key.get_secret_value()}
    try:
        response = httpx.request(
            method, f"{url}{path}", headers=keys | (headers or {}), timeout=TIMEOUT_S, **given
        )
    except (httpx.TransportError, httpx.InvalidURL) as error:
        raise InvalidRequest(f"no answer from {url}: {error}") from None
    if response.is_error:
        raise InvalidRequest(f"the service says: {response.text[:500]}")
    try:
        return orjson.loads(response.content)
    except orjson.JSONDecodeError:
        status = response.status_code
        raise InvalidRequest(f"what answers at {url} is no Sluice (status {status})") from None


def ask(
    client: httpx.Client, method: str, path: str, retry_s: float, body: Any = None
) -> dict[str, Any]:
    """Return the answer; a request without one, or refused for now, is sent again as it was."""
    until = time.monotonic() + retry_s
    while True:
        try:
            response = client.request(method, path, content=body and orjson.dumps(body))
            if response.status_code in (429, 503) and time.monotonic() < until:
                time.sleep(RETRY_S)
                continue
            response.raise_for_status()
            answer: dict[str, Any] = orjson.loads(response.content)
            return answer
        except httpx.HTTPStatusError as error:
            raise InvalidRequest(f"the service says: {error.response.text[:500]}") from None
        except httpx.TransportError as error:
            if time.monotonic() > until:
                raise InvalidRequest(f"no answer from {client.base_url}: {error}") from None
            time.sleep(RETRY_S)
