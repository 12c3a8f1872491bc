"""What handlers share: the running service, keys, decoded path segments, JSON answers."""

from __future__ import annotations

import hmac
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any
from urllib.parse import unquote_to_bytes

import orjson
from fastapi import Depends, Path, Query, Request, Response
from fastapi.routing import APIRoute
from fastapi.security import APIKeyHeader, HTTPBearer
from fastapi.security.http import HTTPAuthorizationCredentials
from pydantic import BeforeValidator, SecretStr
from starlette.exceptions import HTTPException
from starlette.types import Scope

from app.api.arrivals import Arrivals
from app.api.costs import Costs
from app.api.metrics import Metrics
from app.api.past import PastAnswers
from app.api.popular import Popular
from app.api.schemas import CURSOR
from app.api.sessions import Sessions
from app.api.signing import Signing
from app.api.stream import Stream
from app.engine import Engine, Outcome
from app.errors import Conflict, Forbidden, SluiceError, Unauthorized
from app.events import Record, check_id
from app.feature_store import FeatureStore
from app.impressions import Impressions
from app.ingest import Ingest
from app.peers import Peers
from app.rule_watch import RuleWatch
from app.settings import Settings


@dataclass
class Service:
    """Everything a handler may use; made by the lifespan.

    `signing` is None with tokens off, `feature_store` where features are read nowhere.
    """

    settings: Settings
    ingest: Ingest
    metrics: Metrics
    costs: Costs
    past: PastAnswers
    peers: Peers
    stream: Stream
    sessions: Sessions
    impressions: Impressions
    rule_watch: RuleWatch
    signing: Signing | None = None
    feature_store: FeatureStore | None = None
    arrivals: Arrivals = field(default_factory=Arrivals)
    popular: Popular = field(default_factory=Popular)
    # The lists that were asked for in this turn of the event loop, and by whom: see `protocol`.
    asked: list[tuple[Any, Any]] = field(default_factory=list)

    @property
    def engine(self) -> Engine:
        """Return the engine of now: a reload replaces it."""
        return self.ingest.engine

    def note(self, scope: Scope, route: str, status: int, begin: float) -> None:
        """Count and time a request that has been answered, and whether it kept its deadline."""
        now, state = time.perf_counter(), scope["state"]
        self.metrics.note(route, status, now - begin)
        if "deadline" in state:
            self.metrics.note_deadline(is_late=now > state["deadline"])
        if state.get("is_whole"):
            self.arrivals.note_cost(now - begin)

    async def append(self, *records: Record) -> Outcome:
        """Append one entry and wait until it is applied."""
        return await self.ingest.submit(records, arrival_ms=now_ms())

    async def submit(self, *records: Record) -> Outcome:
        """Do so; raise Conflict if it was refused."""
        outcome = await self.append(*records)
        for result in outcome.results:
            if result.status == "refused":
                raise Conflict(str(result.reason))
        return outcome


def now_ms() -> int:
    """Return the present time in Unix milliseconds."""
    return time.time_ns() // 1_000_000


async def get_service(request: Request) -> Service:
    """Return the service that the lifespan made."""
    service: Service = request.state.service
    return service


Running = Annotated[Service, Depends(get_service)]


# -- JSON -------------------------------------------------------------------------------------


class StrictRequest(Request):
    """Parses JSON as JSON: no NaN, no Infinity, no lone surrogates, no numbers past a double."""

    async def json(self) -> Any:
        """Return the parsed body; raise json.JSONDecodeError, which FastAPI answers with 422."""
        return orjson.loads(await self.body())


class StrictRoute(APIRoute):
    """A route whose handlers get a StrictRequest."""

    def get_route_handler(self) -> Any:
        """Wrap the handler of FastAPI."""
        handler = super().get_route_handler()

        async def strict(request: Request) -> Response:
            try:
                return await handler(StrictRequest(request.scope, request.receive))
            except HTTPException as error:
                # FastAPI makes a 400 of whatever ends the reading of a body; ours say more.
                if isinstance(error.__cause__, SluiceError):
                    raise error.__cause__ from None
                raise

        return strict


class Json(Response):
    """A JSON response, of bytes that are ready: made in a third of the time."""

    def __init__(
        self, body: bytes, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        self.status_code = status
        self.background = None
        self.body = body
        self.raw_headers = [
            (b"content-length", b"%d" % len(body)),
            (b"content-type", b"application/json"),
        ]
        for name, value in (headers or {}).items():
            self.raw_headers.append((name.lower().encode("latin-1"), value.encode("latin-1")))


def answer(
    content: Any, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a JSON response."""
    return Json(orjson.dumps(content), status, headers)


# -- path segments ----------------------------------------------------------------------------


def decode_segment(raw: str) -> str:
    """Decode one percent-encoded path segment: routes match on the raw path."""
    if "%" not in raw and raw.isascii():  # as nearly all
        return check_id("the id in the path", raw)
    try:
        text = unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        raise ValueError("the path is not valid UTF-8") from None
    return check_id("the id in the path", text)


_ID_SCHEMA = {"minLength": 1, "maxLength": 256, "pattern": "^[^\\x00-\\x1f\\x7f-\\x9f]+$"}
_segment = BeforeValidator(decode_segment)

UserId = Annotated[str, _segment, Path(json_schema_extra=_ID_SCHEMA, examples=["u1"])]
ItemId = Annotated[str, _segment, Path(json_schema_extra=_ID_SCHEMA, examples=["i9"])]
SnapshotId = Annotated[
    str, _segment, Path(json_schema_extra={"pattern": CURSOR}, examples=["1764000000000-0"])
]
RecordId = Annotated[
    str, _segment, Path(json_schema_extra={"pattern": CURSOR}, examples=["1764000000000-200000"])
]
PageSize = Annotated[int, Query(ge=1, le=1_000, description="how many to return")]
_NEXT = "`next` of the page before; none = the first"
PageCursor = Annotated[str | None, Query(pattern=CURSOR, description=_NEXT)]
PageNumber = Annotated[str | None, Query(pattern="^[0-9]{1,15}$", description=_NEXT)]


# -- keys -------------------------------------------------------------------------------------

_header = APIKeyHeader(name="X-API-Key", auto_error=False, description="SLUICE_API_KEY")
_bearer = HTTPBearer(auto_error=False, description="the same key as a bearer token")


async def _given_key(
    request: Request,
    header: Annotated[str | None, Depends(_header)],
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> str | None:
    """Return the key of the headers; without any, the one that the browser's session is for."""
    if header is not None or bearer is not None:
        return header if header is not None else bearer.credentials if bearer else None
    service: Service = request.state.service
    return service.sessions.key_of(request, time.time())


GivenKey = Annotated[str | None, Depends(_given_key)]


def _matches(given: str, key: SecretStr | None) -> bool:
    expected = "" if key is None else key.get_secret_value()
    return hmac.compare_digest(given.encode(), expected.encode()) and key is not None


async def may_use(service: Running, given: GivenKey) -> None:
    """Let reads and feedback through: either key, or none where none is set."""
    settings = service.settings
    if settings.api_key is None and settings.admin_key is None:
        return
    _require_known(settings, given)


def is_plainly_allowed(settings: Settings, headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """Tell whether the headers of a request have a key that `may_use` takes, or need none.

    Of two keys in one header's place it knows the first alone: False says nothing yet.
    """
    if settings.api_key is None and settings.admin_key is None:
        return True
    given = dict(reversed(headers))  # the first of two wins
    key = given.get(b"x-api-key")
    if key is None:
        scheme, _, key = given.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer":
            return False
    text = key.decode("latin-1")
    return bool(text) and (_matches(text, settings.api_key) | _matches(text, settings.admin_key))


async def may_operate(service: Running, given: GivenKey) -> None:
    """Let operators through: the admin key where there is one, else the API key."""
    settings = service.settings
    await may_use(service, given)
    if settings.admin_key is not None and not _matches(given or "", settings.admin_key):
        raise Forbidden("this needs SLUICE_ADMIN_KEY; the key given may only read and post")


def _require_known(settings: Settings, given: str | None) -> None:
    if given is None:
        raise Unauthorized("give a key, as X-API-Key or Authorization: Bearer")
    if not (_matches(given, settings.api_key) | _matches(given, settings.admin_key)):
        raise Unauthorized("the key given is not one of this service")
