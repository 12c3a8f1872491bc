"""Spans, for OpenTelemetry where `SLUICE_TRACES` asks for them; else nothing, at next to no cost.

The library is an extra, `sluice[otel]`: it is imported when it is wanted, and not before. Where
spans go, and how many are kept, is said in its own variables (`OTEL_EXPORTER_OTLP_ENDPOINT`,
`OTEL_TRACES_SAMPLER`). No span has an id of a person or an item in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from app.errors import SettingsError

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

_NOTHING = nullcontext()
_tracer: Tracer | None = None


@contextmanager
def exported(how: str) -> Iterator[None]:
    """Export spans by OTLP meanwhile, if `how` says so; raise SettingsError without the extra."""
    if how == "off":
        yield
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
            OTLPSpanExporter,
        )
        from opentelemetry.sdk.resources import (  # noqa: PLC0415
            SERVICE_NAME,
            OTELResourceDetector,
            Resource,
        )
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError as error:
        raise SettingsError(
            f"SLUICE_TRACES={how} needs OpenTelemetry ({error}): pip install 'sluice[otel]'"
        ) from None
    # What OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say comes before our name.
    resource = Resource.create({SERVICE_NAME: "sluice"}).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    with recorded(provider):
        yield


@contextmanager
def recorded(provider: TracerProvider) -> Iterator[None]:
    """Give spans to a provider meanwhile, and what it holds to its exporter at the end."""
    global _tracer  # noqa: PLW0603  as OpenTelemetry has it: one for the process
    _tracer = provider.get_tracer("sluice")
    try:
        yield
    finally:
        _tracer = None
        provider.shutdown()


def span(
    name: str, parent: Context | None = None, **about: int | str
) -> AbstractContextManager[Any]:
    """Return a span of what is done within; by itself a part of the one around it."""
    if _tracer is None:
        return _NOTHING
    return _tracer.start_as_current_span(name, context=parent, attributes=about)


def here() -> Context | None:
    """Return the present span, as the `parent` of something that another task will do."""
    if _tracer is None:
        return None
    from opentelemetry.context import get_current  # noqa: PLC0415

    return get_current()


class _Request:
    """The span of a request; its route and status are known when it has been answered."""

    def __init__(self, method: str, headers: Sequence[tuple[bytes, bytes]]) -> None:
        self.route = ""
        self.status = 0
        self._method = method
        self._headers = headers
        self._around: AbstractContextManager[Span] | None = None

    def __enter__(self) -> _Request:
        if _tracer is None:
            return self
        from opentelemetry.propagate import extract  # noqa: PLC0415
        from opentelemetry.trace import SpanKind  # noqa: PLC0415

        carrier = {name.decode("latin-1"): value.decode("latin-1") for name, value in self._headers}
        self._around = _tracer.start_as_current_span(
            self._method, context=extract(carrier), kind=SpanKind.SERVER
        )
        self._span = self._around.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._around is None:
            return
        about: dict[str, int | str] = {"http.request.method": self._method}
        about["http.response.status_code"] = self.status
        if self.route:
            about["http.route"] = self.route
        self._span.set_attributes(about)
        self._span.update_name(f"{self._method} {self.route}".strip())
        self._around.__exit__(*error)


_UNTRACED = _Request("", ())


def request(method: str, headers: Sequence[tuple[bytes, bytes]]) -> _Request:
    """Return the span of a request: a part of the caller's, where its headers name one."""
    return _UNTRACED if _tracer is None else _Request(method, headers)
