"""Trying rules while the state is replaced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from fastapi import Request

from app.api.rules import try_rules
from app.engine import Engine
from app.main import running_service
from app.settings import Settings
from tests.factories import SMALL, mixed

pytestmark = pytest.mark.anyio


async def test_a_slow_body_is_tried_on_the_state_that_there_is_then(tmp_path: Path) -> None:
    """Rules that come while a replica goes over to a snapshot are those of the new state."""
    async with running_service(Settings(data_dir=tmp_path, **SMALL)) as service:
        await service.ingest.submit(mixed(50), arrival_ms=10**13)

        async def receive() -> dict[str, Any]:
            service.ingest.engine = Engine(service.settings.engine())  # as a reload does
            body = {"rules": [{"name": "sold-out", "kind": "hide", "where": {"stock": 0}}]}
            return {"type": "http.request", "body": orjson.dumps(body), "more_body": False}

        old = service.ingest.engine
        scope = {"type": "http", "method": "POST", "headers": [], "path": "/"}
        answer = await try_rules(service, Request(scope, receive), [], 5, 10)
        assert orjson.loads(bytes(answer.body))["slates"] == []
        service.ingest.engine = old
