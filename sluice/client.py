"""The clients: one that waits for answers, and one that awaits them."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Self
from urllib.parse import quote

import httpx

from sluice import results
from sluice.feedback import AsyncFeedback, Batching, Feedback
from sluice.results import ItemList, Merge, Slate
from sluice.retries import Attempts, Reply, Retries, content_of

Value = str | float
"""A value of a feature; True and False are values, too."""

URL = "http://127.0.0.1:8000"
# A list is asked for while somebody waits for a page: better none than late.
READING = Retries(first_s=0.05, give_up_s=1.0)


class _Call(NamedTuple):
    """One request."""

    method: Literal["GET", "POST"]
    path: str
    params: Mapping[str, Any] = {}
    body: Mapping[str, Any] | bytes | None = None
    retries: Retries | None = None


def _recommend(
    user_id: str | None,
    k: int,
    exclude: Sequence[str],
    category: Sequence[str],
    explain: bool,
    deadline_ms: int | None,
    min_cursor: str | None,
    history: Sequence[str | Mapping[str, Any]] | None,
    candidates: Sequence[str] | None,
    context: Mapping[str, Value] | None,
) -> _Call:
    asked = {
        "k": k,
        "exclude": list(exclude),
        "category": list(category),
        "explain": explain,
        "deadline_ms": deadline_ms,
        "min_cursor": min_cursor,
        "user_id": user_id,
        "history": None if history is None else list(history),
        "candidates": None if candidates is None else list(candidates),
    }
    given = {name: value for name, value in asked.items() if value not in (None, [], False)}
    if history is None and candidates is None and user_id is not None:
        del given["user_id"]
        if explain:
            given["explain"] = "true"
        given |= {f"context.{name}": _text(value) for name, value in (context or {}).items()}
        return _Call("GET", f"/v1/recommendations/{_segment(user_id)}", given, None, READING)
    for name in ("history", "candidates"):
        if asked[name] is not None:
            given[name] = asked[name]
    if context:
        given["context"] = dict(context)
    return _Call("POST", "/v1/recommendations", {}, given, READING)


def _text(value: Value) -> str:
    """Return a value as a query says what JSON would: 3.0 is 3, as with feedback."""
    if isinstance(value, bool):
        return json.dumps(value)
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def _segment(id_: str) -> str:
    """Return an id as a part of a path; one of dots alone, which means another path, quoted too."""
    quoted = quote(id_, safe="")
    return quoted.replace(".", "%2E") if id_ in (".", "..") else quoted


def _similar(item_id: str, k: int) -> _Call:
    return _Call("GET", f"/v1/items/{_segment(item_id)}/similar", {"k": k}, None, READING)


def _trending(k: int, category: Sequence[str]) -> _Call:
    return _Call("GET", "/v1/trending", {"k": k, "category": list(category)}, None, READING)


def _merge(user_id: str, from_id: str) -> _Call:
    return _Call("POST", f"/v1/users/{_segment(user_id)}/merge", {}, {"from": from_id})


def _feedback(body: bytes, ack: str, retries: Retries | None) -> _Call:
    return _Call("POST", "/v1/feedback", {"ack": ack}, body, retries)


class _Base:
    """What both clients know."""

    def __init__(
        self,
        url: str,
        api_key: str | None,
        timeout_s: float,
        retries: Retries,
        transport: Any,
    ) -> None:
        self._retries = retries
        self._options: dict[str, Any] = {
            "base_url": url,
            "timeout": timeout_s,
            "headers": {} if api_key is None else {"X-API-Key": api_key},
        }
        if transport is not None:
            self._options["transport"] = transport

    @staticmethod
    def _request(http: Any, call: _Call) -> httpx.Request:
        content = {"content": call.body} if isinstance(call.body, bytes) else {"json": call.body}
        headers = {"Content-Type": "application/json"} if call.body is not None else {}
        given = content if call.body is not None else {}
        request: httpx.Request = http.build_request(
            call.method, call.path, params=dict(call.params), headers=headers, **given
        )
        return request


class Client(_Base):
    """A client of one service. Safe to share between threads; closed by `with`, or at exit.

    Parameters
    ----------
    url
        Where the service is.
    api_key
        SLUICE_API_KEY of the service; by default that of this process's environment.
    timeout_s
        Seconds to wait for a connection, and for each part of an answer.
    retries
        How requests are tried again when nobody answered, or not just now (429, 5xx). Lists give up
        after a second, whatever it says.
    batching
        How `feedback.track` sends.

    Examples
    --------
    >>> from sluice import Client
    >>> with Client("http://127.0.0.1:8000") as shop:  # doctest: +SKIP
    ...     slate = shop.recommend("ana", k=5)
    ...     shop.feedback.track("ana", slate.items[0].item_id, "click")

    """

    def __init__(
        self,
        url: str = URL,
        *,
        api_key: str | None = None,
        timeout_s: float = 10.0,
        retries: Retries = Retries(),  # noqa: B008  frozen, hence shared without harm
        batching: Batching = Batching(),  # noqa: B008  the same
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        super().__init__(url, _key(api_key), timeout_s, retries, transport)
        self._pid, self._http_client = os.getpid(), httpx.Client(**self._options)
        self.feedback = Feedback(self._post, batching)

    @property
    def _http(self) -> httpx.Client:
        if self._pid != os.getpid():  # after a fork: the connections are the parent's
            self._pid, self._http_client = os.getpid(), httpx.Client(**self._options)
        return self._http_client

    def recommend(
        self,
        user_id: str | None = None,
        *,
        k: int = 10,
        exclude: Sequence[str] = (),
        category: Sequence[str] = (),
        explain: bool = False,
        deadline_ms: int | None = None,
        min_cursor: str | None = None,
        history: Sequence[str | Mapping[str, Any]] | None = None,
        candidates: Sequence[str] | None = None,
        context: Mapping[str, Value] | None = None,
    ) -> Slate:
        """Return what to show a user, or an anonymous session by its `history`, oldest first.

        Items of `history` are ids, or `{"item_id": ..., "timestamp": ...}`; `context` has values of
        the features that the service declares. Raises ServiceError, Unavailable.
        """
        asked = (k, exclude, category, explain, deadline_ms, min_cursor, history, candidates)
        return results.slate(self._call(_recommend(user_id, *asked, context)))

    def similar(self, item_id: str, *, k: int = 10) -> ItemList:
        """Return what goes with an item."""
        return results.item_list(self._call(_similar(item_id, k)))

    def trending(self, *, k: int = 10, category: Sequence[str] = ()) -> ItemList:
        """Return what is popular now."""
        return results.item_list(self._call(_trending(k, category)))

    def merge(self, user_id: str, from_id: str) -> Merge:
        """Make an anonymous id part of a user, as when somebody logs in."""
        return results.merge(self._call(_merge(user_id, from_id)))

    def close(self) -> None:
        """Send what was tracked, for `close_s` at most, and close the connections."""
        self.feedback.close()
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, call: _Call) -> Any:
        return content_of(self._reply(call))

    def _post(self, body: bytes, ack: str, retries: Retries | None) -> Reply:
        return self._reply(_feedback(body, ack, retries))

    def _reply(self, call: _Call) -> Reply:
        attempts = Attempts(call.retries or self._retries)
        while True:
            reply = self._try(call)
            wait_s = attempts.wait_after(reply)
            if wait_s is None:
                return reply
            time.sleep(wait_s)

    def _try(self, call: _Call) -> Reply:
        try:
            return self._http.send(self._request(self._http, call))
        except httpx.RequestError as error:
            return error


class AsyncClient(_Base):
    """The same for asyncio: parameters and results as for `Client`; closed by `async with`.

    Nothing is sent at exit: what is tracked and neither flushed nor closed is lost.
    """

    def __init__(
        self,
        url: str = URL,
        *,
        api_key: str | None = None,
        timeout_s: float = 10.0,
        retries: Retries = Retries(),  # noqa: B008  frozen, hence shared without harm
        batching: Batching = Batching(),  # noqa: B008  the same
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        super().__init__(url, _key(api_key), timeout_s, retries, transport)
        self._http = httpx.AsyncClient(**self._options)
        self.feedback = AsyncFeedback(self._post, batching)

    async def recommend(
        self,
        user_id: str | None = None,
        *,
        k: int = 10,
        exclude: Sequence[str] = (),
        category: Sequence[str] = (),
        explain: bool = False,
        deadline_ms: int | None = None,
        min_cursor: str | None = None,
        history: Sequence[str | Mapping[str, Any]] | None = None,
        candidates: Sequence[str] | None = None,
        context: Mapping[str, Value] | None = None,
    ) -> Slate:
        """Return what to show; see `Client.recommend`."""
        asked = (k, exclude, category, explain, deadline_ms, min_cursor, history, candidates)
        return results.slate(await self._call(_recommend(user_id, *asked, context)))

    async def similar(self, item_id: str, *, k: int = 10) -> ItemList:
        """Return what goes with an item."""
        return results.item_list(await self._call(_similar(item_id, k)))

    async def trending(self, *, k: int = 10, category: Sequence[str] = ()) -> ItemList:
        """Return what is popular now."""
        return results.item_list(await self._call(_trending(k, category)))

    async def merge(self, user_id: str, from_id: str) -> Merge:
        """Make an anonymous id part of a user, as when somebody logs in."""
        return results.merge(await self._call(_merge(user_id, from_id)))

    async def close(self) -> None:
        """Send what was tracked, for `close_s` at most, and close the connections."""
        await self.feedback.close()
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _call(self, call: _Call) -> Any:
        return content_of(await self._reply(call))

    async def _post(self, body: bytes, ack: str, retries: Retries | None) -> Reply:
        return await self._reply(_feedback(body, ack, retries))

    async def _reply(self, call: _Call) -> Reply:
        attempts = Attempts(call.retries or self._retries)
        while True:
            reply = await self._try(call)
            wait_s = attempts.wait_after(reply)
            if wait_s is None:
                return reply
            await asyncio.sleep(wait_s)

    async def _try(self, call: _Call) -> Reply:
        try:
            return await self._http.send(self._request(self._http, call))
        except httpx.RequestError as error:
            return error


def _key(given: str | None) -> str | None:
    return os.environ.get("SLUICE_API_KEY") if given is None else given
