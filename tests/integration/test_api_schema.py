"""What /openapi.json says is true: requests are made up from it, answers are held against it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import load_all_checks
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from app.main import create_app
from app.settings import Settings
from tests.integration.service import Service, small

KEY = "a-key-for-tests"
# What a JSON schema cannot say: the bytes of an id (also where a token might stand in its place),
# the years of a time, an id that is there twice, what rules may not be.
UNSAID = (
    *("must have 1 to 256 bytes", "it has over 256 bytes"),
    *("is outside 1970 to 9999", "is not RFC 3339"),
    "one is there twice",
    *("learner must be blend", "learner='river:"),
    '"message":"rule',
)

load_all_checks()
schema = schemathesis.openapi.from_dict(create_app(Settings()).openapi()).exclude(
    path="/v1/stream"  # its answer has no end
)


@schemathesis.serializer("application/x-ndjson")
def ndjson(context: Any, value: Any) -> bytes:
    """Return text as it is, and whatever else was made up as JSON."""
    return (value if isinstance(value, str) else json.dumps(value)).encode("utf-8", "replace")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that may be done anything to; it wants a key."""
    service = small(tmp_path_factory.mktemp("schema"), api_key=KEY, store_timeout_s=5).start()
    yield service
    assert "Traceback" not in service.log
    service.close()


@schema.parametrize()
@settings(
    max_examples=15,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
def test_no_answer_breaks_the_schema(case: schemathesis.Case[Any], service: Service) -> None:
    """Whatever is sent, no answer is a 5xx, undeclared, or of another form than was declared.

    What fits the schema is taken, and what does not is refused.
    """
    for part in (case.query, case.body):
        if isinstance(part, dict) and is_long(part.get("deadline_ms")):
            part["deadline_ms"] = 5
    if case.path == "/v1/upgrade" and isinstance(case.body, dict):
        case.body["force"] = False  # to a version that nobody knows, it stops the service
    answer = case.call(base_url=service.url, headers={"X-API-Key": KEY})
    excluded: list[schemathesis.CheckFunction] = []
    if case.path == "/v1/feedback":  # a bad event is quarantined, and the others are taken
        excluded.append(negative_data_rejection)
    if answer.status_code == 422 and any(text in answer.text for text in UNSAID):
        excluded.append(positive_data_acceptance)
    case.validate_response(answer, excluded_checks=excluded)


def is_long(deadline_ms: Any) -> bool:
    """Tell whether a test would wait too long."""
    try:
        return 5 < float(deadline_ms) <= 60_000
    except (TypeError, ValueError):
        return False


def test_the_schema_served_is_the_one_tested(service: Service) -> None:
    """/openapi.json is what the tests above were made from."""
    assert service.get("/openapi.json") == schema.raw_schema
