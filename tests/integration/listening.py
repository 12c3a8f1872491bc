"""A listener to GET /v1/stream."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from tests.integration.service import Service


class Heard(NamedTuple):
    """One server-sent event."""

    event: str
    id: str | None
    content: Any


@contextmanager
def listening(
    service: Service, headers: dict[str, str] | None = None, **params: Any
) -> Iterator[Iterator[Heard]]:
    """Open a stream, and lend what comes."""
    with service.client.stream("GET", "/v1/stream", params=params, headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield _heard(answer.iter_lines())


def _heard(lines: Iterator[str]) -> Iterator[Heard]:
    fields: dict[str, str] = {}
    for line in lines:
        if line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            fields[name] = value
        elif fields:
            if "data" in fields:
                yield Heard(fields["event"], fields.get("id"), json.loads(fields["data"]))
            fields = {}


def next_of(heard: Iterator[Heard], event: str) -> Heard:
    """Return the next event of a name."""
    return next(each for each in heard if each.event == event)
