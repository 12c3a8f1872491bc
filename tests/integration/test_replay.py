"""`sluice replay`: the same stream through the engine and through a service is the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.factories import SMALL, mixed, sessions
from tests.integration.service import Service, error_of, sluice

StartService = Callable[..., Service]
SAME = ("events", "counts", "versions", "gate", "model_hash", "state_hash")


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 1,200 events of every kind, in the order of time or nearly so."""
    path = tmp_path_factory.mktemp("stream") / "events.ndjson"
    lines = [
        {
            "user_id": e.user_id,
            "item_id": e.item_id,
            "type": e.type,
            "value": e.value,
            "timestamp": (e.time_ms or 0) / 1_000,
        }
        for e in mixed(1_200)
        if e.type != "rating" or e.value is not None
    ]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def replay(stream: Path, *options: object, **settings: object) -> dict[str, Any]:
    """Replay a stream, and return what --json has written."""
    out = stream.with_suffix(".result.json")
    result = sluice("replay", stream, "--json", out, *options, **(SMALL | settings))
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(out.read_bytes())
    return found


@pytest.fixture(scope="module")
def offline(stream: Path) -> dict[str, Any]:
    """The result of the stream through the engine."""
    return replay(stream)


@pytest.mark.parametrize("size", [1, 7, 500])
def test_through_http_it_is_the_same(
    make_service: StartService, stream: Path, offline: dict[str, Any], size: int
) -> None:
    """In batches of any size: the same metrics to the last digit, the same hashes."""
    service = make_service().start()
    online = replay(stream, "--http", service.url, "--batch", size)
    assert {name: online[name] for name in SAME} == {name: offline[name] for name in SAME}
    assert online["versions"]["champion"]["judged"] > 500


def test_a_service_that_is_past_the_start_is_refused(
    make_service: StartService, stream: Path
) -> None:
    """A service that has seen later events would call the stream late: replay says so and stops."""
    service = make_service().start()
    service.learn(sessions(50, start=1_000_000))
    before = service.hashes()
    result = sluice("replay", stream, "--http", service.url)
    assert result.exit_code == 2
    assert "the service has seen events up to" in result.output
    assert service.hashes() == before


def test_nobody_there_is_said(stream: Path) -> None:
    """Without a service at the URL, replay stops with a message and no traceback."""
    result = sluice("replay", stream, "--http", "http://127.0.0.1:9", "--retry-s", 0)
    assert result.exit_code == 2
    assert "http://127.0.0.1:9" in result.output
    assert isinstance(result.exception, SystemExit)


def test_the_key_is_given(make_service: StartService, stream: Path) -> None:
    """With SLUICE_API_KEY set, replay sends it; without, it says what the service says."""
    service = make_service(api_key="a-secret-key").start()
    error_of(service.client.get("/v1/model"), 401)
    without = sluice("replay", stream, "--http", service.url, "--limit", 10)
    assert without.exit_code == 2
    assert "unauthorized" in without.output
    result = replay(stream, "--http", service.url, "--limit", 10, api_key="a-secret-key")
    assert result["events"] == 10
