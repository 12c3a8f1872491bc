"""Every error in one form: {"error": {"code", "message", "details"}}."""

from __future__ import annotations

import logging
from typing import Any, cast

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import Scope

from app.api.service import answer
from app.errors import SluiceError, StoreUnavailable
from app.events import excerpt

logger = logging.getLogger(__name__)

MAX_SHOWN_CHARS = 100
MAX_PATH_CHARS = 1_000
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_CODES = {404: "not_found", 405: "method_not_allowed"}


def add_error_handlers(app: FastAPI) -> None:
    """Answer each kind of error in the one form."""
    app.add_exception_handler(SluiceError, _sluice_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _unexpected_error)


def error_answer(
    status: int,
    code: str,
    message: str,
    details: list[Any] | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """Return an error in the one form."""
    content = {"error": {"code": code, "message": message, "details": details or []}}
    return answer(content, status=status, headers=headers)


def answer_error(error: SluiceError) -> Response:
    """Return the answer to one of our own errors."""
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return error_answer(error.status, error.code, error.message, error.details, headers)


def answer_unknown() -> Response:
    """Return the answer to who is cancelled: their server stops, and has waited long enough."""
    return answer_error(
        StoreUnavailable("the service stops before it knows what became of this; send it again")
    )


async def _sluice_error(request: Request, error: Exception) -> Response:
    return answer_error(cast("SluiceError", error))


async def _validation_error(request: Request, error: Exception) -> Response:
    problems = cast("RequestValidationError", error).errors()
    # Where a body may have one of several forms, the form that it nearly has gives the deepest.
    details = [_explain(p) for p in sorted(problems, key=lambda p: -len(p["loc"]))]
    message = details[0] if details else "the request cannot be read"
    has_body = any(problem["loc"][:1] == ("body",) for problem in problems)
    if has_body and "json" not in request.headers.get("content-type", ""):
        message = "a JSON body needs the header Content-Type: application/json"
    return error_answer(422, "invalid_request", message, details)


def _explain(problem: Any) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    message = str(problem["msg"]).removeprefix("Value error, ")
    given = excerpt(problem.get("input"), MAX_SHOWN_CHARS)
    return f"{where}: {message} (given {given})".encode(errors="replace").decode()


async def _http_error(request: Request, error: Exception) -> Response:
    error = cast("HTTPException", error)
    code = _CODES.get(error.status_code, "http_error")
    message = f"{error.detail}: {_shown(request.scope)}"
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = ", ".join(_allowed(request))
    return error_answer(error.status_code, code, message, headers=headers)


def _allowed(request: Request) -> list[str]:
    # Starlette names the methods of the first route alone that has this path.
    return [
        method
        for method in _METHODS
        if any(
            route.matches({**request.scope, "method": method})[0] is Match.FULL
            for route in request.app.routes
        )
    ]


async def _unexpected_error(request: Request, error: Exception) -> Response:
    return answer_unexpected(request.scope, error)


def answer_unexpected(scope: Scope, error: Exception) -> Response:
    """Return the answer to an error of ours, and log it."""
    logger.error("unexpected error answering %s", _shown(scope), exc_info=error)
    return error_answer(500, "internal", "an error of ours; the log of the service has the trace")


def _shown(scope: Scope) -> str:
    # Not request.url, which cannot be had with every Host header that may come.
    return f"{scope['method']} {scope['path'][:MAX_PATH_CHARS]}"
